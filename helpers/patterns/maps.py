"""What the patterns have in common that are a Map alone: as many of it at once as there may be workers.

Their items take the direct lane, which is the Map's own; in the trace it is the limited one, as for the other
patterns, so that the same laws hold of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from helpers import cost, live, stack
from helpers.engines.base import Engine
from helpers.errors import StackError
from helpers.experiment import Experiment
from helpers.trace import Trace

CHILD_TRANSITIONS = 3
"""The start of the child, Process and Answered."""


def direct(experiment: Experiment) -> Experiment:
    """The same work in the direct lane: a Map's own concurrency is the limit."""
    return replace(
        experiment,
        siphon_share=0.0,
        map_concurrency=experiment.worker_concurrency,
        direct_seconds=experiment.limited_seconds,
    )


def limited(trace: Trace, experiment: Experiment) -> Trace:
    """The trace of such work as one of the limited lane.

    An attempt that went well and is not the one whose answer counts was done again: it is late.
    """
    counts = trace.items.set_index("item")["service_end"].reindex(trace.attempts["item"]).to_numpy()
    again = (trace.attempts["outcome"] == "succeeded") & (abs(trace.attempts["end"] - counts) > 1e-6)
    outcome = trace.attempts["outcome"].mask(again, "late")
    return replace(
        trace,
        experiment=experiment,
        items=trace.items.assign(lane="limited"),
        attempts=trace.attempts.assign(outcome=outcome),
    )


def run(
    engine: Engine, experiment: Experiment, workflow: str, machine: str, values: Mapping[str, stack.Value]
) -> Trace:
    """Deploy the workflow with these parameters beside the experiment's, run it, destroy it."""
    work = direct(experiment)
    with stack.deploy(engine, workflow, {**stack.parameters(work, workflow), **values}) as deployed:
        try:
            return limited(live.run(deployed, work, machine, progress=False), experiment)
        except StackError as error:
            if error.trace:
                error.trace = limited(error.trace, experiment)
            raise


def usage(experiment: Experiment, states: int, batch: int = 1) -> dict[str, float]:
    """What a Distributed Map uses if no attempt fails: `states` of its own, and a child for each batch."""
    children = math.ceil(experiment.items / batch)
    saves = live.fits_input(live.items_text(experiment))  # a state more, that writes the items to S3
    return (
        {
            "transition": states + saves + CHILD_TRANSITIONS * children,
        }
        | files()
        | invocations(experiment, children)
    )


def files() -> dict[str, float]:
    """What a Map's items and results use in S3: each file is written once and read once."""
    return dict.fromkeys(("s3_put", "s3_get"), 1 + cost.RESULT_FILES)


def attempts(plan: pd.DataFrame, most: int) -> pd.Series[int]:
    """How often each item of a plan (`Experiment.plan`) is tried, so often at most."""
    return (plan["failures"] + 1).clip(upper=most)


def invocations(experiment: Experiment, calls: int) -> dict[str, float]:
    """What so many invocations use that do all items together, each billed by the millisecond."""
    seconds = float(experiment.plan()["task_seconds"].sum())
    return {"lambda_request": calls, "lambda_gb_second_arm64": seconds * cost.MEMORY_GB}
