"""What a Trace says in numbers: counts over time, exact, and one summary of the run."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from helpers.errors import TraceError
from helpers.experiment import Experiment, Floats
from helpers.trace import ATTEMPT_OUTCOMES, ITEM_TIMES, LANES, OUTCOMES, Trace

__all__ = [
    "backlog",
    "concurrency",
    "count_at",
    "ideal_makespan",
    "queue_depth",
    "saturation",
    "steps",
    "summary",
]

Steps = tuple[Floats, npt.NDArray[np.int64]]
Codes = npt.NDArray[np.int8]

MANY = 200_000
"""Intervals from which compiled code counts them: numba takes a fifth of a second to import."""


def steps(starts: npt.ArrayLike, ends: npt.ArrayLike) -> Steps:
    """How many intervals are open over time: (time, count), where count[i] holds from time[i] to time[i+1].

    starts, ends: seconds, one pair an interval. An end counts before a start at the same moment. A missing
    (NaN) start leaves the interval out, a missing end leaves it open for good, and an end before its start,
    which only clocks that disagree can show, makes it empty.
    """
    starts = np.asarray(starts, np.float64)
    time = np.empty(2 * len(starts))
    start = time[: len(starts)]
    start[:] = starts
    end = np.maximum(start, np.asarray(ends, np.float64))  # missing where either is
    if len(start) < MANY:
        start, end = _sort(start), _sort(end)
        both = np.concatenate([start, end])
        order = np.argsort(both, kind="stable")  # which merges two sorted halves in one pass
        time, count = both[order], np.cumsum(np.where(order < len(start), 1, -1))
        last = np.append(time[1:] != time[:-1], True)[: len(time)]
        return time[last], count[last]
    from helpers.merging import merge

    with ThreadPoolExecutor(1) as pool:
        sorting = pool.submit(_sort, end)
        start, end = _sort(start), sorting.result()
    count = np.empty(len(time), np.int64)
    first = merge(start, end, time, count)
    return time[first:], count[first:]


def _sort(times: Floats) -> Floats:
    """Put the times in ascending order; return those that are not missing."""
    if not (times[1:] >= times[:-1]).all():
        times.sort()
    return times[: np.searchsorted(times, np.nan)]


def count_at(counted: Steps, moments: Floats) -> npt.NDArray[np.int64]:
    """The count of such steps at each of these moments (s), 0 before the first."""
    time, count = counted
    return np.concatenate([[0], count])[np.searchsorted(time, moments, "right")]


def concurrency(trace: Trace, lane: str | None = None) -> Steps:
    """How many were at work at once: (time (s), count), as in `steps`.

    lane None: child executions (arrival to returned), which `map_concurrency` limits. "limited": workers with
    an attempt of the limited lane, which `worker_concurrency` limits. "direct": attempts of the direct lane.
    A lost attempt has no known end: it counts until its item returned or the function's timeout ran out,
    whichever came first. Raises TraceError for another lane.
    """
    if lane is None:
        return steps(trace.items["arrival"], trace.items["returned"])
    attempts = _attempts(trace, lane)
    return steps(attempts.start, attempts.end)


def queue_depth(trace: Trace) -> Steps:
    """Messages in the queue, waiting or in service: (time (s), count). SQS reports visible + in flight.

    A message is there from `enqueued` until its last attempt ended, a dead letter too: its task may wait for
    much longer. Of a batch, SQS counts it until the last of the batch ended. One whose task timed out and
    that no worker has taken off the queue since is there for good.
    """
    messages = _messages(trace, _attempts(trace, "limited"))
    return steps(messages.enqueued, messages.gone)


def backlog(trace: Trace) -> Steps:
    """Messages that wait: (time (s), count). In the queue as in `queue_depth`, and with no worker."""
    attempts = _attempts(trace, "limited")
    return _backlog(_messages(trace, attempts), attempts)


def ideal_makespan(experiment: Experiment) -> float:
    """The fluid bound on the makespan in seconds: no schedule within the limits can be shorter.

    The largest of: planned service of the limited lane / worker_concurrency; planned service of all items /
    children at once (10,000 where map_concurrency is 0); the longest planned item. A failing attempt costs a
    full service time, up to as many attempts as `Experiment.most_attempts` allows.
    Source: the load and longest-job bounds of Graham, "Bounds on Multiprocessing Timing Anomalies", 1969.
    """
    return max(_fluid_bounds(experiment).values())


def saturation(trace: Trace) -> dict[str, float]:
    """What held the run back, each with its share of the makespan; together 1.

    "worker limit": messages waited, and these workers were busy. "engine": messages waited though a worker
    was idle, which is the time that handing one over takes ("batch size" in batches: they waited behind
    others of their batch). "redelivery": the only messages that waited were hidden after a failed attempt.
    "map concurrency": items had arrived and not started, and these children were under way; also workers
    where fewer children than workers may be under way. "dispatch rate": items had arrived and not started
    though there was room.
    "task time": nothing waited. Where messages wait and items have not started, the limit with more planned
    work to get through counts. Raises TraceError for a trace in which no item returned.
    """
    items, experiment = trace.items, trace.experiment
    end = items["returned"].max()
    if not end > 0:
        raise TraceError("no item returned: nothing tells what held the run back; let the run end")
    attempts, arrivals = _attempts(trace, "limited"), experiment.arrivals()
    # All are there at the start, unless they arrive one by one.
    due = np.zeros(len(items)) if arrivals is None else arrivals[items["item"].clip(0, len(arrivals) - 1)]
    never = np.full(len(items), np.nan)
    counted = [
        _backlog(_messages(trace, attempts), attempts),
        _hidden(attempts, experiment),
        steps(attempts.start, attempts.end),
        steps(due, never),
        steps(items["arrival"], never),
        concurrency(trace),
    ]
    moments = np.unique(np.concatenate([[0.0, end], *(time for time, _ in counted)]))
    moments = moments[(moments >= 0) & (moments <= end)]
    seconds = np.diff(moments)
    waiting, hidden, busy, arrived, started, children = (_spread(counts, moments)[:-1] for counts in counted)
    worker_limit = min(experiment.worker_concurrency, experiment.map_limit)
    limit = "worker limit" if experiment.worker_concurrency <= experiment.map_limit else "map concurrency"
    idle = "batch size" if experiment.batch_size > 1 else "engine"
    loads = _loads(_work(experiment), experiment)
    unstarted = started < arrived
    queued = (waiting > hidden) & ~(unstarted & (loads["all"] > loads["limited"]))
    unstarted &= ~queued
    shares = dict.fromkeys(
        ("worker limit", "map concurrency", "dispatch rate", idle, "redelivery", "task time"), 0.0
    )
    for moment, at_once, most, full, empty in (
        (queued, busy, worker_limit, limit, idle),
        (unstarted, children, experiment.map_limit, "map concurrency", "dispatch rate"),
    ):
        used = float((np.minimum(at_once / most, 1.0) * seconds)[moment].sum() / end)
        shares[full] += used
        shares[empty] += float(seconds[moment].sum() / end) - used
    shares["redelivery"] = float(seconds[~queued & ~unstarted & (hidden > 0)].sum() / end)
    shares["task time"] = max(0.0, 1 - sum(shares.values()))
    return shares


def summary(trace: Trace) -> dict[str, Any]:
    """The run in JSON-able numbers. Times in seconds, None where nothing defines the value.

    items, succeeded, failed, timed_out, dead_lettered: counts. makespan: when the last item returned.
    throughput: items per second of the makespan. ideal_makespan: see there. efficiency: ideal_makespan /
    makespan. peak_map: most children at once. peak_workers: most workers of the limited lane at once.
    utilisation: busy time of these workers / (worker_concurrency * time with a message in the queue).
    p50_, p95_, p99_ and mean_ of waiting (service_start - enqueued), service (service_end - service_start)
    and sojourn (returned - arrival), over the items that have them.
    lanes: for each lane with items, the same of that lane, its makespan being from its first arrival to its
    last returned; without the peaks and the utilisation.
    Items that timed out are no part of the ideal makespan: nobody had to finish their work.
    """
    items, attempts = trace.items, _attempts(trace, "limited")
    arrival, enqueued, start, end, returned = (items[name].to_numpy() for name in ITEM_TIMES)
    times = {"waiting": start - enqueued, "service": end - start, "sojourn": returned - arrival}
    outcome, lane = items["outcome"].array.codes, items["lane"].array.codes
    late = items["item"].to_numpy()[outcome == OUTCOMES.index("timed_out")]
    bounds = _fluid_bounds(trace.experiment, late)
    depth = steps(*_messages(trace, attempts)[1:3])
    lanes = {}
    for number, name in enumerate(LANES):
        own = lane == number
        if own.any():
            span = np.fmax.reduce(returned[own]) - np.fmin.reduce(arrival[own])
            own_times = {time: values[own] for time, values in times.items()}
            lanes[name] = _describe(outcome[own], own_times, span, bounds[name])
    return {
        **_describe(outcome, times, items["returned"].max(), max(bounds.values())),
        "peak_map": _peak(concurrency(trace)),
        "peak_workers": _peak(steps(attempts.start, attempts.end)),
        "utilisation": _utilisation(attempts, depth, trace.experiment),
        "lanes": lanes,
    }


def _describe(outcome: Codes, times: dict[str, Floats], makespan: float, ideal: float) -> dict[str, Any]:
    items = len(outcome)
    counts = np.bincount(outcome, minlength=len(OUTCOMES)).tolist()
    described: dict[str, Any] = {
        "items": items,
        **dict(zip(OUTCOMES, counts, strict=True)),
        "makespan": _number(makespan),
        "throughput": _ratio(items, makespan),
        "ideal_makespan": ideal,
        "efficiency": _ratio(ideal, makespan),
    }
    percents = (50, 95, 99)
    for name, values in times.items():
        known = values[~np.isnan(values)]
        # Sorting first is fast, and numpy then has little to do for each percentile.
        found = np.percentile(np.sort(known), percents).tolist() if len(known) else [math.nan] * 3
        for percent, value in zip(percents, found, strict=True):
            described[f"p{percent}_{name}"] = _number(value)
        described[f"mean_{name}"] = _number(known.mean()) if len(known) else None
    return described


def _fluid_bounds(experiment: Experiment, without: npt.ArrayLike = ()) -> dict[str, float]:
    """The bounds of each lane and of all, but for the work of some items."""
    work = _work(experiment, without)
    return {
        name: max(load, float(work[name].max(initial=0.0))) for name, load in _loads(work, experiment).items()
    }


def _loads(work: dict[str, Floats], experiment: Experiment) -> dict[str, float]:
    """Seconds that each lane's planned work, and all of it, takes at the most that may be at once."""
    map_limit = experiment.map_limit
    at_once = {
        "direct": map_limit,
        "limited": min(map_limit, experiment.worker_concurrency),
        "all": map_limit,
    }
    return {name: float(own.sum()) / at_once[name] for name, own in work.items()}


def _work(experiment: Experiment, without: npt.ArrayLike = ()) -> dict[str, Floats]:
    """Planned seconds of service of each item but some, failing attempts included."""
    plan, left_out = experiment.plan(), np.asarray(without, np.int64)
    limited = (plan["lane"] == "limited").to_numpy()
    attempts = np.minimum(plan["failures"].to_numpy() + 1, experiment.most_attempts(limited))
    work = plan["task_seconds"].to_numpy() * attempts
    if len(left_out):
        kept = np.ones(len(plan), np.bool_)
        kept[left_out[(left_out >= 0) & (left_out < len(plan))]] = False
        work, limited = work[kept], limited[kept]
    return {"direct": work[~limited], "limited": work[limited], "all": work}


class _Attempts(NamedTuple):
    """Attempts of a lane: the row of their item, start and end (s), the code of their outcome."""

    row: npt.NDArray[np.int64]
    start: Floats
    end: Floats
    outcome: Codes


class _Messages(NamedTuple):
    """Messages of the limited lane: the row of their item, and when each (s, NaN if never) was sent, when it
    left the queue, and when the last of its attempts ended."""

    row: npt.NDArray[np.int64]
    enqueued: Floats
    gone: Floats
    served: Floats


def _attempts(trace: Trace, lane: str) -> _Attempts:
    """The attempts of a lane that began, each with an end."""
    if lane not in LANES:
        raise TraceError(f"lane={lane!r}: the lanes are {LANES}; give one of them, or None for the map.")
    own = np.flatnonzero(trace.attempts_of(lane) & trace.attempts["start"].notna().to_numpy())
    item, start, end = (trace.attempts[name].to_numpy()[own] for name in ("item", "start", "end"))
    row = trace.rows(item)
    lost = np.flatnonzero(np.isnan(end))
    latest = start[lost] + trace.experiment.function_timeout_seconds
    end[lost] = np.maximum(start[lost], np.fmin(latest, trace.items["returned"].to_numpy()[row[lost]]))
    return _Attempts(row, start, end, trace.attempts["outcome"].array.codes[own])


def _messages(trace: Trace, attempts: _Attempts) -> _Messages:
    items = trace.items
    served = np.full(len(items), np.nan)
    np.fmax.at(served, attempts.row, attempts.end)
    # The message of a task that timed out is deleted by a late worker, or leaves as a dead letter, or stays.
    most = trace.experiment.most_attempts(True)
    stays = (items["outcome"] == "timed_out").to_numpy() & (items["attempts"] < most).to_numpy()
    last = attempts.end == served[attempts.row]
    stays[attempts.row[last & (attempts.outcome == ATTEMPT_OUTCOMES.index("late"))]] = False
    row = np.flatnonzero(items["lane"] == "limited")
    gone = np.where(stays, np.nan, served)
    return _Messages(row, items["enqueued"].to_numpy()[row], gone[row], served[row])


def _backlog(messages: _Messages, attempts: _Attempts) -> Steps:
    enqueued = np.full(messages.row.max(initial=-1) + 1, np.nan)
    enqueued[messages.row] = messages.enqueued
    order, again = _in_turn(attempts)
    start, end = attempts.start[order], attempts.end[order]
    # A message waits until each attempt from the latest end of those before it: deliveries may overlap.
    while (later := again & (end < np.roll(end, 1))).any():
        end = np.where(later, np.roll(end, 1), end)
    since = np.where(again, np.roll(end, 1), enqueued[attempts.row[order]])
    waits = ~(start <= since)
    stays = np.isnan(messages.gone)
    after = np.where(np.isnan(messages.served), messages.enqueued, messages.served)[stays]
    for_good = np.full(len(after), np.nan)
    return steps(np.concatenate([since[waits], after]), np.concatenate([start[waits], for_good]))


def _in_turn(attempts: _Attempts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The order item by item, of one item by start, and there: whether each is not the first of its item."""
    order = np.lexsort((attempts.start, attempts.row))
    row = attempts.row[order]
    return order, row == np.append(-1, row)[:-1]


def _hidden(attempts: _Attempts, experiment: Experiment) -> Steps:
    """Messages that no worker can get because an attempt failed: hidden until their redelivery."""
    order, again = _in_turn(attempts)
    first, second = order[:-1][again[1:]], order[1:][again[1:]]
    end, outcome, following = attempts.end[first], attempts.outcome[first], attempts.start[second]
    due = end + experiment.redelivery_seconds
    failed, lost = (outcome == ATTEMPT_OUTCOMES.index(name) for name in ("failed", "lost"))
    # Nobody shortens the visibility timeout of a lost attempt: it is hidden for all that time.
    until = np.where(failed & (due < following), due, following)
    hidden = (failed | lost) & ~np.isnan(following)
    return steps(end[hidden], until[hidden])


def _spread(counted: Steps, moments: Floats) -> npt.NDArray[np.int64]:
    """The count from each of these ascending moments (s) on; all of its steps are among them or beyond."""
    time, count = counted
    place = np.searchsorted(moments, time)
    return np.repeat(np.append(0, count), np.diff(place, prepend=0, append=len(moments)))


def _utilisation(attempts: _Attempts, depth: Steps, experiment: Experiment) -> float | None:
    time, count = depth
    with_work = float(np.diff(time)[count[:-1] > 0].sum())
    busy = float(np.nansum(attempts.end - attempts.start))
    return _ratio(busy, experiment.worker_concurrency * with_work)


def _peak(counted: Steps) -> int:
    return int(counted[1].max(initial=0))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float | None:
    return _number(part / whole) if math.isfinite(whole) and whole > 0 else None
