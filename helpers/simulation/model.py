"""Simulate an Experiment: the combined workflow in virtual time, under AWS's quotas.

What happens, in the order of a child's life. All times are seconds since the execution started.

- **Map.** Items start in order, at most `map_concurrency` children at once and `children_per_second`.
- **Direct lane.** A function is called after `invoke_seconds`. It needs a place in the account's concurrency
  and an environment, a new one of which starts cold. What is refused or fails is tried again as the
  workflow's Retry says: four times, after 1, 2, 4 and 8 s at most, with full jitter.
- **Limited lane.** The message is in the queue after `send_seconds`. The consumer takes a batch as soon as it
  may have one more under way: a fleet has `worker_concurrency` workers; a mapping grows from `mapping_start`
  by `mapping_per_minute` up to its limit. A batch's messages are served one after the other. What fails comes
  back after `redelivery_seconds`, what its function had no time for after the visibility timeout; after
  `max_receive_count` deliveries it is a dead letter.
- **Callback.** An answer needs a token of the SendTaskSuccess bucket; a throttled one is tried again up to
  nine times, after 1, 2, 4, up to 20 s at most, with full jitter. The task's clocks run from the child's
  start: the timeout for good, the heartbeat until the next beat. A worker beats three times in a period for
  every message of its batch; a throttled beat is lost. An answer to a task that has ended is late.
- **Transitions.** Three as a child starts and one as it ends; where the bucket is empty they wait their turn.

Draws depend on seed, item and attempt alone. So settings share them, and no order of events can change them.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from helpers.experiment import Experiment
from helpers.simulation.quotas import AWS_US_EAST_1, Quotas
from helpers.trace import ATTEMPT_OUTCOMES, ITEM_TIMES, LANES, OUTCOMES, Trace

__all__ = ["simulate"]

Records = np.ndarray[Any, np.dtype[np.void]]

STARTED = "1970-01-01T00:00:00+00:00"
"""When every simulated execution starts: its time is virtual."""


def _record(**fields: str) -> np.dtype[Any]:
    """A structured type from names of one kind each: compiled code is slow to pass as many arrays on."""
    return np.dtype([(name, kind) for kind, names in fields.items() for name in names.split()], align=True)


SETTINGS = _record(
    u8="seed",
    i8="items map_limit workers batch_size max_receive",
    f8="window function_timeout visibility redelivery timeout heartbeat send_seconds invoke_seconds "
    "receive_seconds answer_seconds return_seconds children_per_second account_concurrency "
    "environments_per_second cold_start_seconds cold_start_share mapping_start mapping_per_minute "
    "mapping_limit in_flight_limit",
    b1="fleet ramp_stepped",
)
ITEMS = _record(
    f8="service arrival enqueued service_start service_end returned visible_at beaten",
    i8="failures row queue",
    i4="count received retries",
    i1="outcome",
    b1="limited open dead returning",
)
ATTEMPTS = _record(f8="start end", i8="item", i4="worker", i1="outcome")
SLOTS = _record(f8="began kill_at", i8="length position row tries generation free", b1="killed active")
MESSAGES = _record(i8="item", i4="number", b1="failing")
EVENTS = _record(f8="time", i8="key")


def simulate(experiment: Experiment, quotas: Quotas = AWS_US_EAST_1) -> Trace:
    """The trace of the experiment as it would run under these quotas; the same at every call."""
    items, attempts = run(experiment, quotas)
    table = pd.DataFrame(
        {
            "item": np.arange(experiment.items),
            "lane": _words(items["limited"], LANES),
            **{name: items[name] for name in ITEM_TIMES},
            "attempts": items["count"],
            "outcome": _words(items["outcome"], OUTCOMES),
        }
    )
    workers = ["direct", *(f"worker-{slot}" for slot in range(experiment.worker_concurrency))]
    tries = pd.DataFrame(
        {
            "item": attempts["item"],
            "attempt": pd.Series(attempts["item"]).groupby(attempts["item"]).cumcount() + 1,
            "worker": _words(attempts["worker"] + 1, workers),
            "start": attempts["start"],
            "end": attempts["end"],
            "outcome": _words(attempts["outcome"], ATTEMPT_OUTCOMES),
        }
    )
    return Trace(
        experiment=experiment,
        engine="simulated",
        items=table,
        attempts=tries,
        samples=pd.DataFrame(columns=["time", "visible", "in_flight"]),
        started=STARTED,
        versions={name: version(name) for name in ("concurrency-lab", "numba")},
        clock_seconds=0.0,
    )


def _words(numbers: np.ndarray[Any, Any], words: Sequence[str]) -> "pd.Series[str]":
    """The word of each number, as text: a million by way of categories in a fraction of the time."""
    return pd.Series(pd.Categorical.from_codes(numbers.astype(np.int64), pd.Index(words))).astype("str")


def run(experiment: Experiment, quotas: Quotas) -> tuple[Records, Records]:
    """The records of all items (ITEMS) and attempts (ATTEMPTS), as the kernel leaves them.

    Where the heap or the attempts need more room than was guessed, all is run again with twice as much.
    """
    # Every start of the lab imports this module, and numba takes a fifth of a second.
    from helpers.simulation import kernel

    plan = experiment.plan()
    limited = (plan["lane"] == "limited").to_numpy()
    failures = plan["failures"].to_numpy()
    rows = int(np.minimum(failures + 1, experiment.most_attempts(limited)).sum()) + 64
    at_once = min(experiment.items, experiment.map_limit)
    heap = 4 * (at_once + experiment.worker_concurrency) + experiment.batch_size + 64
    settings = _settings(experiment, quotas)
    while True:
        items = np.zeros(experiment.items, ITEMS)
        for name in ITEM_TIMES:
            items[name] = math.nan
        items["limited"], items["failures"], items["service"] = limited, failures, plan["task_seconds"]
        attempts = np.zeros(rows, ATTEMPTS)
        slots = np.zeros(experiment.worker_concurrency, SLOTS)
        slots["free"] = np.arange(len(slots))[::-1]
        batch = max(1, min(experiment.batch_size, int(limited.sum())))
        messages = np.zeros((len(slots), batch), MESSAGES)
        counts = np.zeros(kernel.EXPIRY + 1, np.int64)
        counts[[kernel.IDLE_DIRECT, kernel.IDLE_WORKER]] = 0 if experiment.cold_start else kernel.ENDLESS
        counts[kernel.SLOTS] = len(slots)
        levels = np.array([quotas.map_start_seconds, math.nan, math.inf, *_buckets(quotas)])
        events = np.zeros(heap, EVENTS)
        if kernel.loop(events, counts, levels, settings, items, attempts, slots, messages):
            return items, attempts[: counts[kernel.ROWS]]
        rows, heap = 2 * rows, 2 * heap


def _settings(experiment: Experiment, quotas: Quotas) -> np.void:
    settings = np.zeros(1, SETTINGS)
    for name in SETTINGS.names or ():
        if hasattr(quotas, name):
            settings[name] = getattr(quotas, name)
    for name, value in {
        "seed": experiment.seed,
        "items": experiment.items,
        "map_limit": experiment.map_limit,
        "workers": experiment.worker_concurrency,
        "fleet": experiment.consumer == "fleet",
        "batch_size": experiment.batch_size,
        "window": experiment.batch_window_seconds,
        "function_timeout": experiment.function_timeout_seconds,
        "visibility": experiment.visibility_timeout_seconds,
        "redelivery": experiment.redelivery_seconds,
        "max_receive": experiment.max_receive_count,
        "timeout": experiment.task_timeout_seconds,
        "heartbeat": experiment.heartbeat_seconds or 0,
    }.items():
        settings[name] = value
    record: np.void = settings[0]
    return record


def _buckets(quotas: Quotas) -> list[float]:
    """Level, time of the last look, burst and rate of each bucket, in the kernel's order."""
    transitions = quotas.transitions_burst, quotas.transitions_per_second
    tasks = quotas.task_burst, quotas.task_per_second
    environments = quotas.environments_burst, quotas.environments_per_second
    pairs = (transitions, tasks, tasks, environments, environments)
    return [value for burst, rate in pairs for value in (burst, 0.0, burst, rate)]
