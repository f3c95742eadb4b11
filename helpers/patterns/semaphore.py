"""A set of holders in a table: an execution for each item takes a place, works, and gives the place back.

The executions know nothing of each other. One that finds all places held tries again after a while; who
comes next is left to chance. A place whose execution failed, timed out or was stopped is given back by
another state machine, which a rule of EventBridge starts.
"""

from __future__ import annotations

import json
import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

from helpers import budget, live, stack
from helpers.engines.base import Engine
from helpers.experiment import DIRECT_ATTEMPTS, Experiment
from helpers.patterns.maps import invocations
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

CALLERS = 8
"""Threads that start executions, and read their ends."""
STATES = 3
"""Acquire, Work and Release."""
RETRY_SECONDS, RETRY_BACKOFF, RETRY_MOST_SECONDS = 1.0, 1.5, 8.0
"""Between two tries for a place at most, as the Retry of Acquire has it; with full jitter half on average."""
HOLDER_BYTES = 20
"""What an execution's name takes in the set."""
WRITE_BYTES = 1024
"""What one write request unit writes."""


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `semaphore`, start an execution for each item, wait for all, destroy it.

    The trace's experiment says what was done: five attempts at most. Raises BudgetError where the engine's
    budget does not allow it.
    """
    engine.spend(PATTERN.title, budget.of_usage(usage(experiment)))
    experiment = replace(experiment, siphon_share=1, max_receive_count=DIRECT_ATTEMPTS)
    values = stack.parameters(experiment, "semaphore")
    values["MaximumConcurrency"] = experiment.worker_concurrency  # which may be 1, other than a mapping's
    with stack.deploy(engine, "semaphore", values) as deployed:
        if not experiment.cold_start:
            live.warm(deployed, "ProcessFunction", experiment.worker_concurrency, progress=False)
        return work(deployed, experiment)


def work(deployed: stack.Stack, experiment: Experiment) -> Trace:
    """Start the items on a deployed `semaphore` stack and return the trace when all executions have ended."""
    run = uuid.uuid4().hex[:8]
    with ThreadPoolExecutor(CALLERS) as pool:

        def start(item: dict[str, Any]) -> str:
            return deployed.start({"item": item}, name=f"{run}-{item['item']}", paid=True)

        arns = list(pool.map(start, live.payloads(experiment)))
        ends = list(pool.map(lambda arn: live.wait(deployed, arn, progress=False), arns))
    began = min(end["startDate"] for end in ends).timestamp()
    back = [_result(item, end) for item, end in enumerate(ends)]
    return live.traced(deployed, experiment, back, began, [])


def _result(item: int, end: dict[str, Any]) -> dict[str, Any]:
    """What became of an item, from the description of its execution."""
    arrival, returned = end["startDate"], end["stopDate"]
    result = {"item": item, "lane": "limited"}
    result |= {"arrival": arrival.isoformat(), "returned": returned.isoformat()}
    if end["status"] != "SUCCEEDED":
        return result | {"error": {"Error": end.get("error", end["status"])}}
    output = json.loads(end["output"])
    if "error" in output:
        return result | {"error": output["error"]}
    return result | {"answer": output["task"]["answer"] | {"enqueued": arrival.timestamp()}}


def holders(deployed: stack.Stack) -> set[str]:
    """The names of the executions that hold a place now."""
    found = deployed.engine.client("dynamodb").get_item(
        TableName=deployed.outputs["TableName"], Key={"semaphore": {"S": "work"}}, ConsistentRead=True
    )
    return set(found.get("Item", {}).get("holders", {"SS": []})["SS"])


def tries(seconds: float) -> int:
    """How often one tries on average who has to wait so long for a place, the first time included."""
    waited = 0.0
    for number in count(1):
        waited += min(RETRY_SECONDS * RETRY_BACKOFF ** min(number - 1, 50), RETRY_MOST_SECONDS) / 2
        if waited > seconds:
            return number + (seconds > 0)
    raise AssertionError


def usage(experiment: Experiment) -> dict[str, float]:
    """Transitions, writes and invocations, the tries of those who wait included, for a place in order.

    An item waits as long as those before it take, `worker_concurrency` at once: an assumption, as are the
    means of their service times.
    """
    plan, places = experiment.plan(), experiment.worker_concurrency
    attempts = (plan["failures"] + 1).clip(upper=DIRECT_ATTEMPTS)
    mean = float((plan["task_seconds"] * attempts).mean())
    acquired = sum(
        tries(wave * mean) * min(places, experiment.items - wave * places)
        for wave in range(math.ceil(experiment.items / places))
    )
    writes = math.ceil(places * HOLDER_BYTES / WRITE_BYTES)
    retried = int((attempts - 1).sum())
    return {
        "transition": (STATES - 1) * experiment.items + retried + acquired,
        "dynamodb_write": writes * (acquired + experiment.items),
    } | invocations(experiment, int(attempts.sum()))


PATTERN = Pattern(
    "semaphore",
    "Semaphore in DynamoDB",
    "semaphore",
    run,
    usage,
    needs=("dynamodb.set_of_holders", "eventbridge.execution_status_starts_machine"),
)
