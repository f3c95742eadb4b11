"""A queue whose mapping limits the workers, and task tokens that bring their answers back to a Map."""

from __future__ import annotations

from dataclasses import fields

from helpers import cost, live, stack
from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace

SERVICES = {
    (price.service, price.unit, price.usd): field.name
    for field in fields(cost.Prices)
    for price in [getattr(cost.US_EAST_1, field.name)]
}
"""The name of each price by what a bill says of it."""


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `combined`, run the experiment on it, destroy it."""
    with stack.deploy(engine, "combined", stack.parameters(experiment)) as deployed:
        return live.run(deployed, experiment, progress=False)


def usage(experiment: Experiment) -> dict[str, float]:
    """All that `cost.estimate` bills, by the name of its price."""
    used: dict[str, float] = {}
    bill = cost.estimate(experiment)
    for service, unit, usd, quantity in bill[["service", "unit", "usd_per_unit", "quantity"]].itertuples(
        index=False
    ):
        name = SERVICES[service, unit, usd]
        used[name] = used.get(name, 0.0) + quantity
    return used


PATTERN = Pattern(
    "callback",
    "SQS, Lambda and task tokens",
    "combined",
    run,
    usage,
    ("mapping.maximum_concurrency_5", "callbacks.success_ends_task"),
    simulated=lambda experiment: experiment,
)
