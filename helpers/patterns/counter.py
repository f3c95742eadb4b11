"""A queue alone, and a table that counts: no state machine waits, the count says when all is done.

The event source mapping keeps the limit. What nobody counts, as it fails each time, lies in the dead-letter
queue at the end.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from helpers import budget, live, stack
from helpers.engines.base import Engine
from helpers.errors import StackError
from helpers.experiment import Experiment
from helpers.metrics import ideal_makespan
from helpers.patterns.maps import attempts, invocations
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

PATIENCE_SECONDS = 300
"""How long nothing more may be counted, beyond two visibility timeouts, until the run is given up."""
TRANSACTION_WRITES = 4
"""Write request units of a transaction of two small items: two for each."""
RESULTS_A_READ = 16
"""Results of some 250 bytes in the 4 KB that a read request unit reads, as it is now."""
MAPPING_POLLERS, LONG_POLL_SECONDS = 5, 20
"""Of an event source mapping at rest, as in `cost`."""


def counted(deployed: stack.Stack) -> int:
    """How many items are done, by the table's counter; as it is now, not as it was a moment ago."""
    found = deployed.engine.client("dynamodb").get_item(
        TableName=deployed.outputs["TableName"], Key={"key": {"S": "counter"}}, ConsistentRead=True
    )
    return int(found.get("Item", {}).get("done", {"N": "0"})["N"])


def results(deployed: stack.Stack) -> list[dict[str, Any]]:
    """What the table keeps of each item that is done, in item order: item, attempt, worker and its times."""
    pages = deployed.engine.client("dynamodb").get_paginator("scan")
    rows = [
        row
        for page in pages.paginate(TableName=deployed.outputs["TableName"], ConsistentRead=True)
        for row in page["Items"]
    ]
    kept = [json.loads(row["result"]["S"]) for row in rows if "result" in row]
    return sorted(kept, key=lambda result: int(result["item"]))


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `counter`, send the items, wait until they are counted or dead letters, destroy it.

    The trace's experiment is one of Lambda's workers. Raises StackError when nothing more is counted, and
    BudgetError where the engine's budget does not allow it.
    """
    experiment = replace(experiment, siphon_share=1, consumer="lambda")
    spend(engine, PATTERN.title, experiment, usage(experiment))
    with stack.deploy(engine, "counter", stack.parameters(experiment, "counter")) as deployed:
        return count(deployed, experiment)


def spend(engine: Engine, what: str, experiment: Experiment, used: dict[str, float]) -> None:
    """Note that this much is about to be used, beside warming the workers."""
    warming = sum(map(budget.of_warming, live.to_warm(experiment).values()))
    engine.spend(what, budget.of_usage(used) + warming)


def count(
    deployed: stack.Stack,
    experiment: Experiment,
    fields: Callable[[dict[str, Any]], dict[str, str]] | None = None,
) -> Trace:
    """Send the items to a deployed `counter` or `pipes` stack and return the trace when they are counted.

    fields: what an item's message has beside its body.
    """
    with live.consumers(deployed, experiment, False), live.sampled_queue(deployed) as samples:
        began = time.time()
        live.send(deployed, live.payloads(experiment), fields)
        _wait(deployed, experiment)
        done = {result["item"]: _answered(result) for result in results(deployed)}
        dead = {"lane": "limited", "error": {"Error": "States.Timeout"}} | _span(began, time.time())
        back = [done.get(item, dead | {"item": item}) for item in range(experiment.items)]
        began = min([began, *(result["answer"]["enqueued"] for result in done.values())])
        return live.traced(deployed, experiment, back, began, samples)


def _wait(deployed: stack.Stack, experiment: Experiment) -> None:
    """Wait until each item is counted, or lies in the dead-letter queue."""
    patience = PATIENCE_SECONDS + 2 * experiment.visibility_timeout_seconds
    over, since = -1, time.monotonic()
    while over < experiment.items:
        now = counted(deployed) + live.depth(deployed, "DeadLetterQueueUrl")
        if now > over:
            over, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            raise StackError(
                f"{over} of {experiment.items} items are done or dead letters, and no more in {patience} s; "
                "look at the worker's log"
            )
        time.sleep(deployed.engine.poll_seconds)


def _answered(result: dict[str, Any]) -> dict[str, Any]:
    """A result as a workflow's last state would give it; it is back when its attempt ends."""
    span = _span(result["enqueued"], result["service_end"])
    return {"item": result["item"], "lane": "limited", "answer": result} | span


def _span(arrival: float, returned: float) -> dict[str, str]:
    """Both times (epoch s) in ISO 8601."""
    times = {"arrival": arrival, "returned": returned}
    return {name: datetime.fromtimestamp(when, UTC).isoformat() for name, when in times.items()}


def usage(experiment: Experiment) -> dict[str, float]:
    """Messages, invocations, writes and the reading of the results, planned failures included.

    Looks at the count are not in it, as looks at a queue's depth are not elsewhere.
    """
    tries = attempts(experiment.plan(), experiment.max_receive_count)
    deliveries, failed = int(tries.sum()), int((tries - 1).sum())
    empty = MAPPING_POLLERS * math.ceil(ideal_makespan(experiment) / LONG_POLL_SECONDS)
    calls = math.ceil(deliveries / experiment.batch_size)
    return {
        "sqs_request": experiment.items + 2 * calls + 2 * failed + empty,
        "dynamodb_write": TRANSACTION_WRITES * experiment.items,
        "dynamodb_read": math.ceil(experiment.items / RESULTS_A_READ),
    } | invocations(experiment, calls)


PATTERN = Pattern(
    "counter",
    "SQS, Lambda and a counter",
    "counter",
    run,
    usage,
    needs=("mapping.maximum_concurrency_5", "dynamodb.transaction_counts_once"),
)
