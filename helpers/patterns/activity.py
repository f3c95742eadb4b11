"""Workers fetch tasks from an activity, Step Functions' own queue: the limit is how many workers there are.

A worker that dies falls silent, and its task is given to another after HeartbeatSeconds. No clock counts how
long a task waits for a worker.
"""

from __future__ import annotations

from dataclasses import replace

from helpers import live, stack
from helpers.engines.base import Engine
from helpers.experiment import DIRECT_ATTEMPTS, Experiment
from helpers.patterns.maps import attempts, files
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

PARENT_TRANSITIONS = 4
"""Limits, ItemsInInput, SaveItems and MapItems."""
CHILD_TRANSITIONS = 3
"""The start of the child, Work, and Answered or Unanswered."""


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `activity`, let a fleet of worker_concurrency workers do the items, destroy it.

    The trace's experiment says what was done: a fleet, which fetches one task at a time, and five attempts at
    most. Raises as `live.run` does.
    """
    experiment = replace(
        experiment, siphon_share=1, consumer="fleet", batch_size=1, max_receive_count=DIRECT_ATTEMPTS
    )
    with stack.deploy(engine, "activity", stack.parameters(experiment, "activity")) as deployed:
        return live.run(deployed, experiment, progress=False)


def usage(experiment: Experiment) -> dict[str, float]:
    """State transitions, planned retries included, and files in S3. The workers' machines are not in it."""
    tries = attempts(experiment.plan(), DIRECT_ATTEMPTS)
    return {
        "transition": PARENT_TRANSITIONS + (CHILD_TRANSITIONS - 1) * experiment.items + int(tries.sum()),
    } | files()


PATTERN = Pattern(
    "activity",
    "Activity and its workers",
    "activity",
    run,
    usage,
    needs=("callbacks.activity_worker", "callbacks.activity_heartbeat_expires", "cloudformation.activity"),
)
