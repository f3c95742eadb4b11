"""What a Trace says in numbers: counts over time, exact, and one summary of the run."""

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.errors import TraceError
from helpers.experiment import Experiment
from helpers.trace import LANES, OUTCOMES, Trace

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

Floats = npt.NDArray[np.float64]
Steps = tuple[Floats, npt.NDArray[np.int64]]

MANY = 200_000
"""Intervals from which compiled code counts them: numba takes a fifth of a second to import."""


def steps(starts: npt.ArrayLike, ends: npt.ArrayLike) -> Steps:
    """How many intervals are open over time: (time, count), where count[i] holds from time[i] to time[i+1].

    starts, ends: seconds, one pair an interval. An end counts before a start at the same moment. A missing
    (NaN) start leaves the interval out, a missing end leaves it open for good, and an end before its start,
    which only clocks that disagree can show, makes it empty.
    """
    start = np.asarray(starts, np.float64)
    end = np.maximum(start, np.asarray(ends, np.float64))  # missing where either is
    if len(start) < MANY:
        start, end = _sorted(start), _sorted(end)
        both = np.concatenate([start, end])
        order = np.argsort(both, kind="stable")  # which merges two sorted halves in one pass
        time, count = both[order], np.cumsum(np.where(order < len(start), 1, -1))
        last = np.append(time[1:] != time[:-1], True)[: len(time)]
        return time[last], count[last]
    from helpers.merging import merge

    with ThreadPoolExecutor(1) as pool:
        ends_sorted = pool.submit(_sorted, end)
        start, end = _sorted(start), ends_sorted.result()
    time, count = np.empty(len(start) + len(end)), np.empty(len(start) + len(end), np.int64)
    size = merge(start, end, time, count)
    return time[:size], count[:size]


def _sorted(times: Floats) -> Floats:
    """In ascending order, without those that are missing; what is in order already is not copied."""
    ascending = times if (times[1:] >= times[:-1]).all() else np.sort(times)
    return ascending[: np.searchsorted(ascending, np.nan)]


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
    return steps(attempts["start"], attempts["end"])


def queue_depth(trace: Trace) -> Steps:
    """Messages in the queue, waiting or in service: (time (s), count). SQS reports visible + in flight.

    A message is there from `enqueued` until its last attempt ended, a dead letter too: its task may wait for
    much longer. Of a batch, SQS counts it until the last of the batch ended. One whose task timed out and
    that no worker has taken off the queue since is there for good.
    """
    messages = _messages(trace)
    return steps(messages["enqueued"], messages["gone"])


def backlog(trace: Trace) -> Steps:
    """Messages that wait: (time (s), count). In the queue as in `queue_depth`, and with no worker."""
    messages = _messages(trace)
    leaves = messages.assign(start=messages["gone"], end=messages["gone"])
    visits = pd.concat([_attempts(trace, "limited"), leaves])[["item", "start", "end"]]
    visits = visits.sort_values(["item", "start"], kind="stable")
    # A message waits until each visit from the latest end of those before it: deliveries may overlap.
    waits_from = visits.groupby("item")["end"].cummax().groupby(visits["item"]).shift()
    waits_from = waits_from.fillna(visits["item"].map(messages.set_index("item")["enqueued"]))
    waits = ~(visits["start"] <= waits_from)
    return steps(waits_from[waits], visits["start"][waits])


def ideal_makespan(experiment: Experiment) -> float:
    """The fluid bound on the makespan in seconds: no schedule within the limits can be shorter.

    The largest of: planned service of the limited lane / worker_concurrency; planned service of all items /
    children at once (10,000 where map_concurrency is 0); the longest planned item. A failing attempt costs a
    full service time, up to max_receive_count attempts of a limited item and five of a direct one.
    Source: the load and longest-job bounds of Graham, "Bounds on Multiprocessing Timing Anomalies", 1969.
    """
    return max(_fluid_bounds(experiment, timed_out=[]).values())


def saturation(trace: Trace) -> dict[str, float]:
    """What held the run back, each with its share of the makespan; together 1.

    "worker limit": messages waited, and these workers were busy. "engine": messages waited though a worker
    was idle, which is the time that handing one over takes ("batch size" in batches: they waited behind
    others of their batch). "redelivery": the only messages that waited were hidden after a failed attempt.
    "map concurrency": items had not started, and these children were under way; also workers where fewer
    children than workers may be under way. "dispatch rate": items had not started though there was room.
    "task time": nothing waited. Where messages wait and items have not started, the limit with more planned
    work to get through counts. Raises TraceError for a trace in which no item returned.
    """
    items, experiment = trace.items, trace.experiment
    end = items["returned"].max()
    if not end > 0:
        raise TraceError("no item returned: nothing tells what held the run back; let the run end")
    starts = steps(items["arrival"], np.full(len(items), np.nan))
    counted = [backlog(trace), _hidden(trace), concurrency(trace, "limited"), starts, concurrency(trace)]
    moments = np.unique(np.concatenate([[0.0, end], *(time for time, _ in counted)]))
    moments = moments[(moments >= 0) & (moments <= end)]
    seconds = np.diff(moments)
    waiting, hidden, busy, started, children = (count_at(counts, moments[:-1]) for counts in counted)
    worker_limit = min(experiment.worker_concurrency, experiment.map_limit)
    limit = "worker limit" if experiment.worker_concurrency <= experiment.map_limit else "map concurrency"
    idle = "batch size" if experiment.batch_size > 1 else "engine"
    loads = _loads(_work(experiment.plan(), experiment), experiment)
    unstarted = started < len(items)
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
    items = trace.items
    bounds = _fluid_bounds(trace.experiment, items["item"][items["outcome"] == "timed_out"])
    lanes = {}
    for lane in LANES:
        own = items[items["lane"] == lane]
        if len(own):
            lanes[lane] = _describe(own, own["returned"].max() - own["arrival"].min(), bounds[lane])
    return {
        **_describe(items, items["returned"].max(), max(bounds.values())),
        "peak_map": _peak(concurrency(trace)),
        "peak_workers": _peak(concurrency(trace, "limited")),
        "utilisation": _utilisation(trace),
        "lanes": lanes,
    }


def _describe(items: pd.DataFrame, makespan: float, ideal: float) -> dict[str, Any]:
    outcomes = items["outcome"].value_counts()
    times = {
        "waiting": items["service_start"] - items["enqueued"],
        "service": items["service_end"] - items["service_start"],
        "sojourn": items["returned"] - items["arrival"],
    }
    described: dict[str, Any] = {
        "items": len(items),
        **{outcome: int(outcomes.get(outcome, 0)) for outcome in OUTCOMES},
        "makespan": _number(makespan),
        "throughput": _ratio(len(items), makespan),
        "ideal_makespan": ideal,
        "efficiency": _ratio(ideal, makespan),
    }
    for name, values in times.items():
        for percent in (50, 95, 99):
            described[f"p{percent}_{name}"] = _number(float(values.quantile(percent / 100)))
        described[f"mean_{name}"] = _number(values.mean())
    return described


def _fluid_bounds(experiment: Experiment, timed_out: Iterable[int]) -> dict[str, float]:
    plan = experiment.plan()
    plan = plan[~plan["item"].isin(list(timed_out))]
    work = _work(plan, experiment)
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


def _work(plan: pd.DataFrame, experiment: Experiment) -> dict[str, Floats]:
    """Planned seconds of service of each item, failing attempts included."""
    limited = (plan["lane"] == "limited").to_numpy()
    attempts = np.minimum(plan["failures"] + 1, experiment.most_attempts(limited))
    work: Floats = (plan["task_seconds"] * attempts).to_numpy()
    return {"direct": work[~limited], "limited": work[limited], "all": work}


def _attempts(trace: Trace, lane: str) -> pd.DataFrame:
    """The attempts of a lane, each with an end."""
    if lane not in LANES:
        raise TraceError(f"lane={lane!r}: the lanes are {LANES}; give one of them, or None for the map.")
    items = trace.items[trace.items["lane"] == lane].set_index("item")
    attempts = trace.attempts[trace.attempts["item"].isin(items.index)]
    latest = attempts["start"] + trace.experiment.function_timeout_seconds
    returned = attempts["item"].map(items["returned"])
    lost = np.maximum(attempts["start"], np.fmin(latest, returned))
    return attempts.assign(end=attempts["end"].where(attempts["end"].notna(), lost))


def _messages(trace: Trace) -> pd.DataFrame:
    """item, enqueued and gone (s, NaN if never) of each message of the limited lane."""
    items = trace.items[trace.items["lane"] == "limited"].set_index("item")
    attempts = _attempts(trace, "limited").sort_values("end", kind="stable")
    last = attempts.groupby("item")[["end", "outcome"]].last().reindex(items.index)
    # The message of a task that timed out is deleted by a late worker, or leaves as a dead letter, or stays.
    stays = (items["outcome"] == "timed_out") & (items["attempts"] < trace.experiment.max_receive_count)
    gone = last["end"].mask(stays & (last["outcome"] != "late"))
    return items[["enqueued"]].assign(gone=gone).reset_index()


def _hidden(trace: Trace) -> Steps:
    """Messages that no worker can get because an attempt failed: hidden until their redelivery."""
    attempts = _attempts(trace, "limited").sort_values(["item", "start"], kind="stable")
    again = attempts.groupby("item")["start"].shift(-1)
    due = attempts["end"] + trace.experiment.redelivery_seconds
    # Nobody shortens the visibility timeout of a lost attempt: it is hidden for all that time.
    until = again.mask((attempts["outcome"] == "failed") & (due < again), due)
    failed = again.notna() & attempts["outcome"].isin(["failed", "lost"])
    return steps(attempts["end"][failed], until[failed])


def _utilisation(trace: Trace) -> float | None:
    attempts = _attempts(trace, "limited")
    time, count = queue_depth(trace)
    with_work = float(np.diff(time)[count[:-1] > 0].sum())
    busy = float((attempts["end"] - attempts["start"]).sum())
    return _ratio(busy, trace.experiment.worker_concurrency * with_work)


def _peak(counted: Steps) -> int:
    return int(counted[1].max(initial=0))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if math.isfinite(whole) and whole > 0 else None
