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
from heapq import heappop, heappush
from typing import Any

import numpy as np

from helpers import budget, live, stack
from helpers.engines.base import Engine
from helpers.experiment import DIRECT_ATTEMPTS, Experiment
from helpers.patterns.maps import attempts, invocations
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

CALLERS = 8
"""Threads that start executions, and read their ends."""
STATES = 3
"""Acquire, Work and Release."""
RETRY_SECONDS, RETRY_BACKOFF, RETRY_MOST_SECONDS = 1.0, 1.5, 8.0
"""Between two tries for a place at most, as the Retry of Acquire has it, with full jitter."""
DRAWS = 9
"""Simulated runs of which the median predicts: who comes next is left to chance."""
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
    """Start the items on a deployed `semaphore` stack and return the trace when all executions have ended.

    Raises StackError while another run uses the stack.
    """
    run = uuid.uuid4().hex[:8]
    with stack.claimed(deployed), ThreadPoolExecutor(CALLERS) as pool:

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


def simulated(experiment: Experiment, draw: int = 0) -> tuple[float, int]:
    """A run in which nothing but tasks and waiting takes time: its makespan (s), and its tries for a place.

    draw: number of the run; who comes next is drawn anew in each. A failed attempt is tried again at once.
    """
    random = np.random.default_rng([experiment.seed, draw])
    plan, free = experiment.plan(), experiment.worker_concurrency
    work = (plan["task_seconds"] * attempts(plan, DIRECT_ATTEMPTS)).to_list()
    # When, whether it is a try rather than an end, whose, and after how many tries.
    coming = [(0.0, True, item, 0) for item in range(experiment.items)]
    tries, now = 0, 0.0
    while coming:
        now, asks, item, refused = heappop(coming)
        tries += asks
        if not asks:
            free += 1
        elif free:
            free -= 1
            heappush(coming, (now + work[item], False, item, 0))
        else:
            most = min(RETRY_SECONDS * RETRY_BACKOFF ** min(refused, 50), RETRY_MOST_SECONDS)
            heappush(coming, (now + random.uniform(0, most), True, item, refused + 1))
    return now, tries


def makespan(experiment: Experiment) -> float:
    """The median makespan (s) of so many simulated runs."""
    return float(np.median([simulated(experiment, draw)[0] for draw in range(DRAWS)]))


def usage(experiment: Experiment) -> dict[str, float]:
    """Transitions, writes and invocations of a simulated run, the tries of those who wait included."""
    worked = attempts(experiment.plan(), DIRECT_ATTEMPTS)
    _, tries = simulated(experiment)
    writes = math.ceil(experiment.worker_concurrency * HOLDER_BYTES / WRITE_BYTES)
    retried = int((worked - 1).sum())
    return {
        "transition": (STATES - 1) * experiment.items + retried + tries,
        "dynamodb_write": writes * (tries + experiment.items),
    } | invocations(experiment, int(worked.sum()))


PATTERN = Pattern(
    "semaphore",
    "Semaphore in DynamoDB",
    "semaphore",
    run,
    usage,
    needs=("dynamodb.set_of_holders", "eventbridge.execution_status_starts_machine"),
    makespan=makespan,
)
