"""Simulate an Experiment: the combined workflow in virtual time, under AWS's quotas.

What happens, in the order of a child's life. All times are seconds since the execution started.

- **Map.** Items start in order, at most `map_concurrency` children at once and `children_per_second`; in an
  open system none before it arrives.
- **Direct lane.** A function is called after `invoke_seconds`. It needs a place in the account's concurrency
  and an environment, a new one of which starts cold. What is refused or fails is tried again as the
  workflow's Retry says: four times, after 1, 2, 4 and 8 s at most, with full jitter.
- **Limited lane.** The message is in the queue after `send_seconds`. The consumer takes a batch as soon as it
  may have one more under way: a fleet has `worker_concurrency` workers; a mapping grows from `mapping_start`
  by `mapping_per_minute` up to its limit. Where Lambda refuses the mapping's invocation it is tried again
  after `throttle_retry_seconds`, until the visibility timeout returns the messages. A batch's messages are
  served one after the other. What fails comes back after `redelivery_seconds` (a partial batch failure: the
  rest of the batch does not), what its function had no time for after the visibility timeout; after
  `max_receive_count` deliveries it is a dead letter.
- **Callback.** An answer needs a token of the SendTaskSuccess bucket; a throttled one is tried again up to
  nine times, after 1, 2, 4, up to 20 s at most, with full jitter. The task's clocks run from the child's
  start: the timeout for good, the heartbeat until the next beat. A worker beats three times in a period for
  every message of its batch; a throttled beat is lost. A task that ran out of time is sent again with a new
  token up to `task_attempts` times, after 1, 2, 4, up to 30 s at most. An answer with an older token, or to a
  task that has ended, is late.
- **Transitions.** Three as a child starts, one for each new token and one as it ends; where the bucket is
  empty they wait their turn.

Draws depend on seed, item and attempt alone. So settings share them, and no order of events can change them.
"""

import math
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import InvalidExperiment
from helpers.experiment import DIRECT_ATTEMPTS, Experiment, Floats, mean_seconds
from helpers.simulation.quotas import AWS_US_EAST_1, Quotas
from helpers.trace import ATTEMPT_OUTCOMES, ITEM_TIMES, LANES, OUTCOMES, Trace

__all__ = ["simulate"]

Records = np.ndarray[Any, np.dtype[np.void]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

STARTED = "1970-01-01T00:00:00+00:00"
"""When every simulated execution starts: its time is virtual."""
ENDLESS = 2**62


def _record(**fields: str) -> np.dtype[Any]:
    """A structured type, from the names of its fields of each kind."""
    return np.dtype([(name, kind) for kind, names in fields.items() for name in names.split()], align=True)


SETTINGS = _record(
    u8="seed",
    i8="items map_limit batch_size max_receive task_attempts",
    f8="top window function_timeout visibility redelivery timeout heartbeat first_deadline start_gap "
    "send_seconds invoke_seconds receive_seconds answer_seconds return_seconds account_concurrency "
    "cold_start_seconds cold_start_share mapping_start mapping_per_minute "
    "throttle_retry_seconds in_flight_limit",
    b1="fleet ramp_stepped throttles_receive clocks open",
)
STATE = _record(
    f8="ready first capacity",
    i8="children started expiry functions in_flight busy waiting first_waiting heap rows slots messages",
    b1="full",
)
ENDS = _record(f8="front", i8="head length")
BUCKETS = _record(f8="level last burst rate", i8="idle")
"""Tokens of an API, or environments of a function: new ones that may start, and those that are idle."""
EVENTS = _record(f8="time", i8="key")
ITEMS = _record(
    f8="service",
    i4="failures item latest count received deliveries",
    i1="tries outcome",
    b1="open dead returning",
)
"""Of an item, and after these of each further message: its item, received, dead and returning alone.

latest: of a direct item the row of its last attempt, of a limited one its last message. tries: retries of a
direct item, messages of a limited one.
"""
CLOCKS = _record(f8="asked beaten")
ATTEMPTS = _record(f8="start end", i4="item number", i2="worker", i1="outcome")
SLOTS = _record(f8="began kill_at", i8="length position row tries generation free", b1="killed active")
MESSAGES = _record(i4="message number", b1="failing")


def simulate(experiment: Experiment, quotas: Quotas = AWS_US_EAST_1) -> Trace:
    """The trace of the experiment as it would run under these quotas; the same at every call.

    Raises InvalidExperiment for an open system in which more arrives than the quotas and limits let through.
    """
    from helpers.simulation import kernel

    _check_stable(experiment, quotas)
    limited, items, times, attempts = run(experiment, quotas)
    count, ended = items["count"].astype(np.int64), items["outcome"].copy()
    del items  # of ten million each table is a large part of the memory
    numbers, ends = np.empty((2, len(attempts)), np.int64), np.empty((2, len(attempts)))
    worker, outcome = np.empty(len(attempts), np.int16), np.empty(len(attempts), np.int8)
    kernel.columns(attempts, numbers, ends, worker, outcome)
    del attempts
    tries = pd.DataFrame(
        {
            "item": numbers[0],
            "attempt": numbers[1],
            "worker": _words(worker, _workers(experiment.worker_concurrency)),
            "start": ends[0],
            "end": ends[1],
            "outcome": _words(outcome, ATTEMPT_OUTCOMES),
        },
        copy=False,
    )
    table = pd.DataFrame(
        {
            "item": np.arange(experiment.items),
            "lane": _words(limited.view(np.int8), LANES),
            **dict(zip(ITEM_TIMES, times, strict=True)),
            "attempts": count,
            "outcome": _words(ended, OUTCOMES),
        },
        copy=False,
    )
    return Trace(
        experiment=experiment,
        engine="simulated",
        items=table,
        attempts=tries,
        samples=_no_samples(),
        started=STARTED,
        versions=_versions(),
        clock_seconds=0.0,
    )


@lru_cache(maxsize=16)
def _dtype(words: tuple[str, ...]) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(pd.Index(words, dtype="str"))


def _words(codes: np.ndarray[Any, Any], words: tuple[str, ...]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, dtype=_dtype(words), validate=False)


@lru_cache(maxsize=16)
def _workers(count: int) -> tuple[str, ...]:
    return ("direct", *(f"worker-{slot}" for slot in range(count)))


@cache
def _no_samples() -> pd.DataFrame:
    whole = np.empty(0, np.int64)
    return pd.DataFrame({"time": np.empty(0), "visible": whole, "in_flight": whole})


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("concurrency-lab", "numba")}


def run(experiment: Experiment, quotas: Quotas) -> tuple[Flags, Records, Floats, Records]:
    """Which items are limited, records of all ITEMS, a row of times for each of ITEM_TIMES, and ATTEMPTS.

    Where a table needs more room than was guessed, all is run again with twice as much.
    """
    # Every start of the lab imports this module, and numba takes a fifth of a second.
    from helpers.simulation import kernel

    settings, due = _settings(experiment, quotas), experiment.arrivals()
    at_once = min(experiment.items, experiment.map_limit) + 2 * experiment.worker_concurrency
    room = more_rows = 1
    while True:
        limited, items, rows = _planned(experiment, room * 64 if experiment.task_attempts > 1 else 0)
        line = 1 << (room * at_once - 1).bit_length()
        slots = np.zeros(experiment.worker_concurrency, SLOTS)
        slots["free"] = np.arange(len(slots))[::-1]
        batch = min(experiment.batch_size, int(limited.sum()) * experiment.task_attempts)
        world = kernel.World(
            settings=settings,
            state=_state(experiment, quotas),
            buckets=_buckets(experiment, quotas),
            heap=np.zeros(4 * line, EVENTS),
            lines=np.zeros((kernel.KINDS, line), EVENTS),
            ends=np.array([(math.inf, 0, 0)] * kernel.KINDS, ENDS),
            queue=np.zeros(line, EVENTS),
            due=np.zeros(0) if due is None else due,
            limited=limited,
            items=items,
            times=np.empty((len(ITEM_TIMES), experiment.items)),
            clocks=np.zeros(len(items) if settings["clocks"][0] else 0, CLOCKS),
            attempts=np.zeros(more_rows * rows, ATTEMPTS),
            slots=slots,
            batches=np.zeros((len(slots), max(1, batch)), MESSAGES),
        )
        if kernel.loop(world):
            return limited, items[: experiment.items], world.times, world.attempts[: world.state["rows"][0]]
        if world.state["rows"][0] == len(world.attempts):
            more_rows *= 2
        else:
            room *= 2


def _planned(experiment: Experiment, again: int) -> tuple[Flags, Records, int]:
    """Which items are limited, the records of them and of `again` further messages, and how many attempts."""
    plan = experiment.plan()
    limited = (plan["lane"] == "limited").to_numpy()
    items = np.zeros(experiment.items + again, ITEMS)
    items["service"][: experiment.items] = plan["task_seconds"]
    if not experiment.failure_rate:
        return limited, items, experiment.items + 64
    attempts = np.minimum(plan["failures"] + 1, experiment.most_attempts(limited))
    items["failures"][: experiment.items] = plan["failures"]
    return limited, items, int(attempts.sum()) + 64


def _check_stable(experiment: Experiment, quotas: Quotas) -> None:
    """Refuse an open system whose work grows without end."""
    rate, share, failing = experiment.arrivals_per_second, experiment.siphon_share, experiment.failure_rate
    if rate is None:
        return

    def tries(most: int) -> float:
        return (1 - failing**most) / (1 - failing)

    direct = rate * (1 - share) * mean_seconds(experiment.direct_seconds) * tries(DIRECT_ATTEMPTS)
    received = mean_seconds(experiment.limited_seconds) + quotas.receive_seconds / experiment.batch_size
    limited = rate * share * (received * tries(experiment.max_receive_count) + quotas.answer_seconds)
    conditions = [
        ("children start a second", rate, quotas.children_per_second, "children_per_second"),
        ("children are under way", direct + limited, experiment.map_limit, "map_concurrency"),
        ("workers are busy", limited, experiment.worker_concurrency, "worker_concurrency"),
        ("answers come a second", rate * share, quotas.task_per_second, "task_per_second"),
        (
            "state transitions come a second",
            4 * rate,
            quotas.transitions_per_second,
            "transitions_per_second",
        ),
    ]
    if experiment.consumer == "lambda":
        conditions.append(("batches are under way", limited, quotas.mapping_limit, "mapping_limit"))
        conditions.append(
            ("functions run", direct + limited, quotas.account_concurrency, "account_concurrency")
        )
    for what, load, most, name in conditions:
        if load >= most:
            raise InvalidExperiment(
                f"arrivals_per_second={rate:g}: {load:.4g} {what} on average, so {load:.4g} < {name}="
                f"{most:g} fails and what waits grows without end; let less arrive, or raise {name}."
            )


def _settings(experiment: Experiment, quotas: Quotas) -> Records:
    settings = np.zeros(1, SETTINGS)
    for name in SETTINGS.names or ():
        if hasattr(quotas, name):
            settings[name] = getattr(quotas, name)
    heartbeat = experiment.heartbeat_seconds or 0
    timeout = experiment.task_timeout_seconds
    for name, value in {
        "seed": experiment.seed,
        "items": experiment.items,
        "map_limit": experiment.map_limit,
        "top": _top(experiment, quotas),
        "fleet": experiment.consumer == "fleet",
        "batch_size": experiment.batch_size,
        "window": experiment.batch_window_seconds,
        "function_timeout": experiment.function_timeout_seconds,
        "visibility": experiment.visibility_timeout_seconds,
        "redelivery": experiment.redelivery_seconds,
        "max_receive": experiment.max_receive_count,
        "timeout": timeout,
        "heartbeat": heartbeat,
        "first_deadline": min(timeout, heartbeat) if heartbeat else timeout,
        "task_attempts": experiment.task_attempts,
        "clocks": heartbeat > 0 or experiment.task_attempts > 1,
        "open": experiment.arrivals_per_second is not None,
        "start_gap": 1.0 / quotas.children_per_second,
    }.items():
        settings[name] = value
    return settings


def _top(experiment: Experiment, quotas: Quotas) -> float:
    """Batches that the consumer may have under way at most."""
    limit = quotas.mapping_limit if experiment.consumer == "lambda" else math.inf
    return min(experiment.worker_concurrency, limit)


def _state(experiment: Experiment, quotas: Quotas) -> Records:
    state = np.zeros(1, STATE)
    top = _top(experiment, quotas)
    state["ready"] = quotas.map_start_seconds
    state["first"] = math.nan
    state["capacity"] = min(top, quotas.mapping_start) if experiment.consumer == "lambda" else top
    state["slots"] = experiment.worker_concurrency
    state["messages"] = experiment.items
    return state


def _buckets(experiment: Experiment, quotas: Quotas) -> Records:
    """In the kernel's order, all full."""
    idle = 0 if experiment.cold_start else ENDLESS
    transitions = quotas.transitions_burst, quotas.transitions_per_second
    tasks = quotas.task_burst, quotas.task_per_second
    environments = quotas.environments_burst, quotas.environments_per_second
    pairs = (transitions, tasks, tasks, environments, environments)
    return np.array([(burst, 0.0, burst, rate, idle) for burst, rate in pairs], BUCKETS)
