"""A Distributed Map whose ItemBatcher gives a child many items: one after another, so the limit is kept."""

from __future__ import annotations

from helpers.engines.base import Engine
from helpers.experiment import Experiment, mean_seconds
from helpers.patterns import maps
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

STATES = 3
"""Limits, ItemsInInput and MapItems."""
ROUNDS = 4
"""Batches for each that works at once: fewer, and the last ones leave many without work."""
MOST = 100
"""Items of a batch, at most."""


def batch(experiment: Experiment) -> int:
    """Items of a batch: so many that each at once has ROUNDS batches, and half of the timeout is enough."""
    fills = experiment.items // (ROUNDS * experiment.worker_concurrency)
    seconds = max(mean_seconds(experiment.limited_seconds), 1e-9)
    lasts = int(experiment.function_timeout_seconds / 2 / seconds)
    return max(1, min(fills, lasts, MOST))


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `batches` with that size of a batch, run it, destroy it; failed batches are tolerated."""
    values = {"MaxItemsPerBatch": batch(experiment), "ToleratedFailurePercentage": 100}
    return maps.run(engine, experiment, "batches", "StateMachineArn", values)


def usage(experiment: Experiment) -> dict[str, float]:
    """State transitions, invocations and files in S3, if no attempt fails."""
    return maps.usage(maps.direct(experiment), STATES, batch(experiment))


PATTERN = Pattern(
    "batches",
    "Distributed Map, batched",
    "batches",
    run,
    usage,
    ("distributed_map.item_batcher", "distributed_map.batch_size_path"),
    batch=batch,
)
