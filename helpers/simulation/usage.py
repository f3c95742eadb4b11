"""How much of each quota a run uses, computed from its trace: exactly, as far as a trace tells."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.experiment import BEATS_A_PERIOD, Experiment, Floats
from helpers.metrics import Steps, steps
from helpers.simulation.quotas import Quotas
from helpers.trace import Trace

__all__ = ["FIELDS", "ROUNDING", "Use", "Visits", "bucket", "deficits", "lifted", "table", "visits"]

FIELDS = {
    "child dispatch rate": ("children_per_second",),
    "account concurrency": ("account_concurrency",),
    "new environments": ("environments_burst", "environments_per_second"),
    "mapping ramp": ("mapping_start", "mapping_per_minute"),
    "mapping limit": ("mapping_limit",),
    "messages in flight": ("in_flight_limit",),
    "SendTaskSuccess": ("task_burst", "task_per_second"),
    "SendTaskHeartbeat": ("task_burst", "task_per_second"),
    "StateTransition": ("transitions_burst", "transitions_per_second"),
}
"""AWS's quotas, and the fields of Quotas that each is."""
ROUNDING = 1e-6
"""Moments (s) that are no further apart than this are one."""

Times = npt.ArrayLike


class Use(NamedTuple):
    """The closest that a run came to a quota: how many there were, of how many allowed.

    seconds: in how long a stretch of time; 0 where all were at once.
    """

    peak: float
    limit: float
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """1 / share is how many times as much of everything, at the same times, reaches the quota."""
        return self.peak / self.limit


def table(trace: Trace, quotas: Quotas) -> pd.DataFrame:
    """One row a quota that the run could reach, in the order of FIELDS: quota, peak, limit, seconds, share.

    Of what is counted at once, peak is the most at once. Of a bucket, the calls in the `seconds` in which
    they were closest to what the bucket allows, its burst and what it gains meanwhile. Of the dispatch rate,
    the children that started in the busiest second. share: peak / limit.

    What a trace does not tell is not counted: invocations that Lambda refuses, tokens that are sent anew,
    answers that are late or given up. Nor does it tell which invocations started an environment: in a run
    that starts cold each is taken to, which changes little, as the first ones do.
    """
    found = dict(_uses(trace, quotas))
    rows = [(name, *found[name], found[name].share) for name in FIELDS if name in found]
    return pd.DataFrame(rows, columns=["quota", "peak", "limit", "seconds", "share"])


def lifted(quotas: Quotas, name: str) -> Quotas:
    """The same quotas without this one of FIELDS."""
    if name == "mapping ramp":
        return replace(quotas, mapping_start=quotas.mapping_limit)
    fields: dict[str, Any] = dict.fromkeys(FIELDS[name], math.inf)
    return replace(quotas, **fields)


def deficits(times: Times, per_second: float, counts: Times = 1.0) -> Floats:
    """How many tokens of a bucket are missing after the calls at each of these ascending times (s).

    A bucket that starts full, gains `per_second` while tokens are missing, and gives `counts` tokens at each
    time, however few are left: Lindley's recursion D[i] = max(D[i-1] - per_second * (t[i] - t[i-1]), 0) +
    counts[i], in closed form (Lindley, "The theory of queues with a single server", 1952).
    """
    time = np.asarray(times, np.float64)
    given = np.cumsum(np.broadcast_to(np.asarray(counts, np.float64), time.shape))
    gained = per_second * time
    before = np.concatenate([[0.0], given[:-1]])[: len(time)]
    return np.asarray(given - gained - np.minimum.accumulate(before - gained))


def bucket(times: Times, burst: float, per_second: float, counts: Times = 1.0) -> Use:
    """The calls in the stretch of time in which they were the largest share of what the bucket allows in it.

    times: of calls that each take one token, or `counts` of them, in any order. The share is the largest of
    calls / (burst + per_second * seconds) over all stretches, found by Dinkelbach's iteration ("On nonlinear
    fractional programming", 1967): of a bucket that gains as much less, and has its largest deficit.
    """
    time = np.asarray(times, np.float64)
    count = np.broadcast_to(np.asarray(counts, np.float64), time.shape)
    order = np.argsort(time, kind="stable")
    time, count = time[order], count[order]
    if not len(time) or math.isinf(burst) or math.isinf(per_second):
        # What is endless has room for all; what fills at once, for as many as come at the same moment.
        moments, place = np.unique(time, return_inverse=True)
        together = np.bincount(place, count, len(moments))
        return Use(float(together.max(initial=0.0)), burst)
    given = np.cumsum(count)
    before = given - count
    best = Use(float(count.max()), burst)
    while True:
        rate = per_second * best.share
        last = int(np.argmax(deficits(time, rate, count)))
        first = int(np.argmin((before - rate * time)[: last + 1]))
        seconds = float(time[last] - time[first])
        found = Use(float(given[last] - before[first]), burst + per_second * seconds, seconds)
        if found.share <= best.share * (1 + 1e-12):
            return best
        best = found


@dataclass(frozen=True, eq=False)
class Visits:
    """Messages in the hands of workers: one row an attempt of the limited lane, by worker and time. All in s.

    item: of the experiment. began: when the first of its batch was served. start, end: of the attempt; a lost
    one ends with its function. until: when it was answered, or failed. released: when the worker let go of
    the batch. batch: its number. failed, lost: whether the attempt was.
    """

    item: npt.NDArray[np.int64]
    batch: npt.NDArray[np.int64]
    began: Floats
    start: Floats
    end: Floats
    until: Floats
    released: Floats
    failed: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """The row of the first message of each batch."""
        return np.flatnonzero(np.diff(self.batch, prepend=-1))


def visits(trace: Trace, quotas: Quotas) -> Visits:
    """The visits of a trace's messages to the workers.

    A worker goes on within a batch at once, and takes the next one only after `receive_seconds`. Where that
    is 0, batches that follow each other are taken as full ones.
    """
    experiment = trace.experiment
    tries = trace.attempts[trace.attempts_of("limited")]
    worker = pd.factorize(tries["worker"])[0]
    order = np.lexsort((tries["attempt"], tries["start"], worker))
    tries, worker = tries.iloc[order], worker[order]
    item, outcome = tries["item"].to_numpy(), tries["outcome"].to_numpy(str)
    start, end = tries["start"].to_numpy(), tries["end"].to_numpy()
    lost = np.isnan(end)
    returned = trace.items["returned"].to_numpy()[trace.rows(item)]
    # A task that was answered returned thereby, unless its last transition had to wait.
    free = np.where(outcome == "succeeded", returned, end)
    free[outcome == "late"] += quotas.answer_seconds
    until = np.where(outcome == "succeeded", returned - quotas.answer_seconds, end)

    new = np.ones(len(start), bool)
    new[1:] = (worker[1:] != worker[:-1]) | ~(start[1:] <= free[:-1] + ROUNDING)  # not after a lost one
    stretch = np.flatnonzero(new)
    inside = np.arange(len(start)) - np.repeat(stretch, np.diff(stretch, append=len(start)))
    new = inside % experiment.batch_size == 0
    heads = np.flatnonzero(new)
    batch = np.cumsum(new) - 1
    began = start[heads][batch]
    killed = began + experiment.function_timeout_seconds
    end, until, free = (np.where(lost, killed, times) for times in (end, until, free))
    released = (np.maximum.reduceat(free, heads) if len(heads) else free)[batch]
    return Visits(item, batch, began, start, end, until, released, outcome == "failed", lost)


def _uses(trace: Trace, quotas: Quotas) -> Iterator[tuple[str, Use]]:
    experiment, items = trace.experiment, trace.items
    arrival = np.sort(items["arrival"].to_numpy())
    yield "child dispatch rate", _rate(arrival, quotas.children_per_second)

    on_lambda = experiment.consumer == "lambda"
    calls = trace.attempts[trace.attempts_of("direct")]
    seen = visits(trace, quotas)
    heads = seen.first
    taken = seen.began - quotas.receive_seconds
    functions = [(calls["start"].to_numpy(), calls["end"].to_numpy())]
    if on_lambda:
        functions.append((taken[heads], seen.released[heads]))
    starts, ends = (np.concatenate(each) for each in zip(*functions, strict=True))
    yield "account concurrency", _at_once(starts, ends, quotas.account_concurrency)
    if experiment.cold_start:
        started = [_environments(start - quotas.cold_start_seconds, end) for start, end in functions]
        limits = quotas.environments_burst, quotas.environments_per_second
        yield (
            "new environments",
            max(
                (bucket(time, *limits, count) for time, count in started),
                key=lambda use: use.share,
            ),
        )

    if len(heads):
        yield from _of_queue(trace, quotas, seen, taken)
    closed = items["returned"].to_numpy().copy()
    succeeded = (items["outcome"] == "succeeded").to_numpy()
    at_end = succeeded & (items["lane"] == "direct").to_numpy()
    closed[at_end] = items["service_end"].to_numpy()[at_end]
    closed[succeeded & ~at_end] -= quotas.answer_seconds
    times = np.concatenate([arrival, closed])
    counts = np.repeat([3.0, 1.0], [len(arrival), len(closed)])  # as a child starts, and as it ends
    yield "StateTransition", bucket(times, quotas.transitions_burst, quotas.transitions_per_second, counts)


def _of_queue(trace: Trace, quotas: Quotas, seen: Visits, taken: Floats) -> Iterator[tuple[str, Use]]:
    """What the limited lane uses."""
    experiment, heads = trace.experiment, seen.first
    if experiment.consumer == "lambda":
        time, count = _open(taken[heads], seen.released[heads])
        first = trace.items["enqueued"][trace.items["lane"] == "limited"].min()
        most = min(experiment.worker_concurrency, quotas.mapping_limit)
        if quotas.mapping_start < most:
            allowed = _capacity(quotas, time - first)
            at = int(np.argmax(count / allowed))
            yield "mapping ramp", Use(float(count[at]), float(allowed[at]))
        yield "mapping limit", Use(float(count.max()), quotas.mapping_limit)

    gone = np.where(seen.failed, seen.end + experiment.redelivery_seconds, seen.released)
    killed = np.isin(seen.batch, seen.batch[seen.lost]) & ~seen.failed
    gone[killed] = (taken + experiment.visibility_timeout_seconds)[killed]
    yield "messages in flight", _at_once(taken, gone, quotas.in_flight_limit)

    answered = seen.until[~(seen.failed | seen.lost)]
    yield "SendTaskSuccess", bucket(answered, quotas.task_burst, quotas.task_per_second)
    if experiment.heartbeat_seconds:
        beats = _beats(trace, seen, experiment)
        yield "SendTaskHeartbeat", bucket(beats, quotas.task_burst, quotas.task_per_second)


def _rate(times: Floats, per_second: float) -> Use:
    """Starts in the busiest second; or in all the time that they took, where that is less."""
    seconds = min(1.0, float(times[-1] - times[0])) if len(times) else 0.0
    within = np.searchsorted(times, times + seconds * (1 + ROUNDING), "right") - np.arange(len(times)) - 1
    allowed = per_second * seconds if seconds else math.inf
    return Use(float(within.max(initial=0)), allowed, seconds)


def _at_once(starts: Floats, ends: Floats, limit: float) -> Use:
    return Use(float(_open(starts, ends)[1].max(initial=0)), limit)


def _open(starts: Floats, ends: Floats) -> Steps:
    """`steps`, where what ends and what starts thereby do not overlap by a rounding."""
    return steps(starts, ends - ROUNDING)


def _environments(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """When new environments of a function start, and how many: whenever more are at work than ever before."""
    time, count = _open(starts, ends)
    more = np.diff(np.maximum.accumulate(count), prepend=0)
    return time[more > 0], more[more > 0].astype(np.float64)


def _capacity(quotas: Quotas, seconds: Floats) -> Floats:
    """Batches that the mapping may have under way so long after its first message."""
    minutes = np.maximum(seconds, 0.0) / 60
    grown = (
        np.floor(minutes + ROUNDING) * quotas.mapping_per_minute
        if quotas.ramp_stepped
        else np.floor(minutes * quotas.mapping_per_minute + ROUNDING)
    )
    return np.asarray(quotas.mapping_start + grown)


def _beats(trace: Trace, seen: Visits, experiment: Experiment) -> Floats:
    """When each heartbeat is sent: from the batch's begin on, until its task has ended."""
    period = (experiment.heartbeat_seconds or math.inf) / BEATS_A_PERIOD
    returned = trace.items["returned"].to_numpy()[trace.rows(seen.item)]
    until = np.minimum(seen.until, returned)
    count = np.maximum(np.ceil((until - seen.began - ROUNDING) / period) - 1, 0).astype(np.int64)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.asarray(np.repeat(seen.began, count) + period * (number + 1))
