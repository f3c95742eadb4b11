"""An inline Map: its MaxConcurrency is the limit, up to 40, and one execution holds it all."""

from __future__ import annotations

from helpers import live
from helpers.engines.base import Engine
from helpers.errors import InvalidExperiment
from helpers.experiment import Experiment
from helpers.patterns import maps
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

STATES = 4
"""Limits, ConcurrencyInInput, UseGivenConcurrency and MapItems."""
ITEM_STATES = 3
"""Arrived, Process and Answered."""
AT_ONCE = 40
"""Iterations at once, at most: Step Functions guide, state-map-inline, 2026-11-24."""
EVENTS = 25_000
"""Of one execution's history, at most: Step Functions service quotas, 2026-11-24."""
ITEM_EVENTS = 11
"""Of an iteration without retries: its start and end, two for each Pass, five for Process."""


def check(experiment: Experiment) -> None:
    """Raise InvalidExperiment for more items than one execution holds, in its history or its input."""
    most = EVENTS // ITEM_EVENTS
    if experiment.items > most:
        raise InvalidExperiment(
            f"items={experiment.items:,}: an inline Map has one history of {EVENTS:,} events, {ITEM_EVENTS} "
            f"of them for each item; give at most {most:,}, or leave inline_map out"
        )
    if not live.fits_input(live.items_text(maps.direct(experiment))):
        raise InvalidExperiment(
            f"items={experiment.items:,}: an inline Map's items come in the execution's input, which holds "
            "256 KiB; give fewer, or leave inline_map out"
        )


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `distributed_map`, run its inline machine, destroy it. Raises as `check` does."""
    check(experiment)
    return maps.run(engine, experiment, "distributed_map", "InlineArn", {})


def usage(experiment: Experiment) -> dict[str, float]:
    """State transitions and invocations, if no attempt fails."""
    transitions = {"transition": STATES + ITEM_STATES * experiment.items}
    return transitions | maps.invocations(experiment, experiment.items)


PATTERN = Pattern(
    "inline_map",
    "Inline Map",
    "distributed_map",
    run,
    usage,
    ("inline_map.max_concurrency_path",),
    "InlineArn",
)
