"""Faults of the process that runs an experiment."""

from __future__ import annotations

import signal

from helpers import checks
from tests.faults.trial import PATIENCE_SECONDS, Damage, Place, damage, fault, until

RUN = """
    few = Experiment(200, siphon_share=0.5, worker_concurrency=4, direct_seconds=0.02, limited_seconds=0.2)
    engine.run(few, progress=False)
"""


def items_are_back(place: Place, at_least: int = 5) -> bool:
    """Whether a Map Run of a running execution counts that many items as succeeded."""
    sfn = place.engine.client("stepfunctions")
    for machine in sfn.list_state_machines()["stateMachines"]:
        arn = machine["stateMachineArn"]
        for execution in sfn.list_executions(stateMachineArn=arn, statusFilter="RUNNING")["executions"]:
            for run in sfn.list_map_runs(executionArn=execution["executionArn"])["mapRuns"]:
                counts = sfn.describe_map_run(mapRunArn=run["mapRunArn"])["itemCounts"]
                if counts["succeeded"] >= at_least:
                    return True
    return False


@fault("SIGINT to the process while items are coming back")
def interrupted_run(place: Place) -> Damage:
    """The items that were back are on disk with their attempts; the next run obeys all laws."""
    process = place.start(RUN)
    until(lambda: items_are_back(place), "items come back")
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode != 0
    assert "interrupted: " in told
    (kept,) = place.kept()
    assert 0 < len(kept.items) < kept.experiment.items
    again = place.engine.run(kept.experiment, progress=False)
    checks.verify(again)
    return damage(kept, set(kept.items["item"])) + damage(again)
