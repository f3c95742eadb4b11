"""A Distributed Map alone: its MaxConcurrency is the limit, and each item has an execution of its own."""

from __future__ import annotations

from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.patterns import maps
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

STATES = 5
"""Limits, ConcurrencyInInput, UseGivenConcurrency, ItemsInInput and MapItems."""


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `distributed_map`, run its distributed machine, destroy it.

    All failed items are tolerated: an item that fails costs that item alone.
    """
    tolerant = {"ToleratedFailurePercentage": 100}
    return maps.run(engine, experiment, "distributed_map", "DistributedArn", tolerant)


def usage(experiment: Experiment) -> dict[str, float]:
    """State transitions, invocations and files in S3, if no attempt fails."""
    return maps.usage(maps.direct(experiment), STATES)


PATTERN = Pattern(
    "distributed_map",
    "Distributed Map",
    "distributed_map",
    run,
    usage,
    ("distributed_map.max_concurrency_path",),
    "DistributedArn",
    simulated=maps.direct,
)
