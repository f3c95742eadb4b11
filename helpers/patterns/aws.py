"""What AWS's quotas would make of a large run by each pattern: simulated where modelled, else counted.

Nothing of this is measured. The quotas are those of us-east-1, each with its source and date.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from helpers import metrics
from helpers.experiment import Experiment
from helpers.patterns import batches, inline_map
from helpers.patterns.pattern import Pattern
from helpers.predict import predict
from helpers.simulation import AWS_US_EAST_1, simulate

SCALE = Experiment(10_000, siphon_share=1.0, worker_concurrency=1_000, limited_seconds=1.0)
"""10,000 items of one second, a thousand at once."""
IDEAL_SECONDS = metrics.ideal_makespan(SCALE)

CHILDREN = AWS_US_EAST_1.children_per_second, "100 Standard children a second"
EXPRESS = 1_000.0, "1,000 Express children a second"
"""Step Functions service quotas, child execution dispatch rate, 2026-11-24. Callbacks and activities need
Standard ones (Step Functions guide, concepts-standard-vs-express)."""
STARTS, STARTS_BURST = (300.0, "300 StartExecution a second"), 1_300
"""Step Functions service quotas, StartExecution of Standard workflows, 2026-11-24."""
RECEIVES = 300.0, "300 receives a second of a FIFO queue"
"""Without high throughput, one message a call: SQS guide, quotas-messages, 2026-11-26."""
COUNTER_WRITES = 2
"""Write units of each transaction that the one item takes in which the counter is."""
WRITES = 1_000.0, "1,000 writes a second of one DynamoDB item"
"""Write units of a partition, and so of an item: DynamoDB guide, warm-throughput-scenarios, 2026-11-26."""

MAY_BE_EXPRESS = {"distributed_map", "batches"}

Prediction = tuple[float, str]
"""Seconds (NaN where it cannot be run), and what binds."""


def predicted(pattern: Pattern) -> dict[str, Any]:
    """aws_seconds: the makespan of SCALE on AWS, None where it cannot be run. aws_binds: what holds it back.

    aws_express_seconds: the same with Express children, None where the pattern cannot have them.
    """
    seconds, binds = _OF[pattern.name](pattern)
    children = math.ceil(SCALE.items / pattern.batch(SCALE))
    return {
        "aws_seconds": None if math.isnan(seconds) else seconds,
        "aws_binds": binds,
        "aws_express_seconds": counted((children, EXPRESS))[0] if pattern.name in MAY_BE_EXPRESS else None,
    }


def counted(*calls: tuple[float, tuple[float, str]]) -> Prediction:
    """The longest of the work itself and of so many calls at such a rate a second."""
    ways = [(IDEAL_SECONDS, "the limit itself")]
    ways += [(number / rate, what) for number, (rate, what) in calls]
    return max(ways)


def _simulated(pattern: Pattern) -> Prediction:
    assert pattern.simulated
    made = predict(pattern.simulated(SCALE), AWS_US_EAST_1, 1)
    binds = {"child dispatch rate": CHILDREN[1]}.get(made.binding, made.binding)
    return made.numbers["makespan"][0], binds


def _inline(pattern: Pattern) -> Prediction:
    most = inline_map.EVENTS // inline_map.ITEM_EVENTS
    return math.nan, f"25,000 events: {most:,} items in one execution, {inline_map.AT_ONCE} at once"


def _batches(pattern: Pattern) -> Prediction:
    return counted((math.ceil(SCALE.items / batches.batch(SCALE)), CHILDREN))


def _activity(pattern: Pattern) -> Prediction:
    return counted((SCALE.items, CHILDREN))


def _semaphore(pattern: Pattern) -> Prediction:
    starts = max(0.0, SCALE.items - STARTS_BURST)
    return counted((pattern.usage(SCALE)["dynamodb_write"], WRITES), (starts, STARTS))


def _counter(pattern: Pattern) -> Prediction:
    alone = replace(
        AWS_US_EAST_1,
        children_per_second=math.inf,
        transitions_burst=math.inf,
        transitions_per_second=math.inf,
        task_burst=math.inf,
        task_per_second=math.inf,
    )
    ramp = float(simulate(SCALE, alone).items["returned"].max())
    return max((ramp, "the mapping's ramp"), counted((COUNTER_WRITES * SCALE.items, WRITES)))


def _pipes(pattern: Pattern) -> Prediction:
    return counted((SCALE.items, RECEIVES), (COUNTER_WRITES * SCALE.items, WRITES))


_OF: dict[str, Callable[[Pattern], Prediction]] = {
    "inline_map": _inline,
    "distributed_map": _simulated,
    "batches": _batches,
    "callback": _simulated,
    "activity": _activity,
    "semaphore": _semaphore,
    "counter": _counter,
    "pipes": _pipes,
}
