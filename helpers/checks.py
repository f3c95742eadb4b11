"""The laws that hold on every trace, measured or simulated."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from helpers import metrics
from helpers.experiment import DIRECT_ATTEMPTS
from helpers.trace import ATTEMPT_OUTCOMES, ITEM_TIMES, OUTCOMES, Trace

__all__ = ["LAWS", "LawBroken", "attempts", "conservation", "limits", "little", "order", "verify"]

FEWEST_SAMPLES = 20  # fewer say little about a mean
APPROXIMATE = {"aws": 0.15}
"""The share by which SQS's own counts may be off, by engine; "approximate", says its API reference of AWS's.

Assumed: no figure is documented. The emulators count exactly.
"""

# Times that an outcome explains the lack of: a task can end unserved, or before its message was sent.
_MAY_LACK = {
    "succeeded": (),
    "failed": ("enqueued", "service_start", "service_end"),
    "timed_out": ("enqueued", "service_start", "service_end"),
    "dead_lettered": ("service_start", "service_end"),
}


class LawBroken(AssertionError):
    """A trace breaks a law. `law`: its name. `item` and `moment` (s): where, None for the run as a whole."""

    def __init__(self, law: str, item: int | None, moment: float | None, what: str) -> None:
        self.law, self.item, self.moment = law, item, moment
        where = "the run" if item is None else f"item {item}"
        when = "" if moment is None else f" at {moment:.6f} s"
        super().__init__(f"law {law!r} broken by {where}{when}: {what}")


def verify(trace: Trace) -> None:
    """Hold the trace against every law of LAWS, in order. Raises LawBroken for the first that is broken."""
    for law in LAWS.values():
        law(trace)


def conservation(trace: Trace) -> None:
    """Every item has exactly one outcome: none is there twice, none is missing, none is new."""
    item = trace.items["item"].to_numpy()
    n = trace.experiment.items
    new = (item < 0) | (item >= n)
    if new.any():
        raise LawBroken(
            "conservation", int(item[new][0]), None, f"the experiment has items 0 to {n - 1} only"
        )
    outcomes = np.bincount(item, minlength=n)
    if (outcomes != 1).any():
        wrong = int(np.argmax(outcomes != 1))
        moment = None
        if outcomes[wrong]:
            moment = float(trace.items["returned"][item == wrong].iloc[-1])
        raise LawBroken("conservation", wrong, moment, f"it has {outcomes[wrong]} outcomes instead of one")


def limits(trace: Trace) -> None:
    """Workers at once never exceed worker_concurrency, children at once never exceed what the map allows.

    Overlaps no longer than trace.clock_seconds do not count: they may be two clocks that disagree. Nor do
    lost attempts, whose end nobody saw.
    """
    items, tries = trace.items, trace.attempts
    seen = trace.attempts_of("limited") & tries["end"].notna().to_numpy()
    children = (items[name].to_numpy() for name in ("item", "arrival", "returned"))
    workers = (tries[name].to_numpy()[seen] for name in ("item", "start", "end"))
    for name, limit, (item, start, end) in (
        ("map_concurrency", trace.experiment.map_limit, children),
        ("worker_concurrency", trace.experiment.worker_concurrency, workers),
    ):
        time, count = metrics.steps(start, end - trace.clock_seconds)
        if (count > limit).any():
            first = int(np.argmax(count > limit))
            what = f"it makes {count[first]} at once, but {name} allows {limit}"
            raise LawBroken("limits", int(item[start == time[first]][-1]), float(time[first]), what)


def order(trace: Trace) -> None:
    """arrival <= enqueued <= service_start <= service_end <= returned, and results come back in item order.

    To within trace.clock_seconds. A time may be missing only where the outcome explains it. The attempt of a
    task that timed out may end after the task has returned.
    """
    item, outcome = trace.items["item"].to_numpy(), trace.items["outcome"].array.codes
    times = {column: trace.items[column].to_numpy() for column in ITEM_TIMES}
    for name, may_lack in _MAY_LACK.items():
        own = np.flatnonzero(outcome == OUTCOMES.index(name))
        for column in ITEM_TIMES:
            missing = own[np.isnan(times[column][own])]
            if len(missing) and column not in may_lack:
                at = int(missing[0])
                last = np.fmax.reduce([time[at] for time in times.values()])
                raise LawBroken("order", int(item[at]), _moment(last), f"it is {name} without {column}")
    latest = times["arrival"]
    for column in ITEM_TIMES[1:]:
        time = times[column]
        early = time < latest - trace.clock_seconds
        if column == "returned":
            early &= outcome != OUTCOMES.index("timed_out")
        if early.any():
            at = int(np.argmax(early))
            what = f"{column} is {latest[at] - time[at]:.6f} s before the time that it follows"
            raise LawBroken("order", int(item[at]), float(time[at]), what)
        latest = np.fmax(latest, time)
    misplaced = item != np.arange(len(item))
    if misplaced.any():
        at = int(np.argmax(misplaced))
        what = f"its result came back in place {at}"
        raise LawBroken("order", int(item[at]), float(times["returned"][at]), what)


def attempts(trace: Trace) -> None:
    """Attempts are numbered from 1, and an item counts as many as there are.

    There are never more of an item than `Experiment.most_attempts` allows: a limited one its queue, a direct
    one its Retry.

    A succeeded item has exactly one succeeded attempt, the one whose times it has; any other item has none.
    Every attempt has a start, and an end after it, unless it was lost: in the middle, or before it began.
    """
    items, tries, clock = trace.items, trace.attempts, trace.clock_seconds
    order = np.lexsort((tries["attempt"], tries["item"]))
    item, attempt, start, end = (
        tries[name].to_numpy()[order] for name in ("item", "attempt", "start", "end")
    )
    how = tries["outcome"].array.codes[order]
    row = trace.rows(item)

    def refuse(bad: npt.NDArray[np.bool_], what: str) -> None:
        if bad.any():
            at = int(np.argmax(bad))
            raise LawBroken("attempts", int(item[at]), _moment(start[at]), f"attempt {attempt[at]} {what}")

    refuse(row < 0, "belongs to no item of the experiment")
    lost = how == ATTEMPT_OUTCOMES.index("lost")
    refuse(np.isnan(start) & ~lost, "has no start")
    refuse(np.isnan(end) != lost, "must lack its end just if it was lost")
    refuse(end < start - clock, "ends before it starts")
    limited = (items["lane"] == "limited").to_numpy()[row]
    beyond = attempt > trace.experiment.most_attempts(limited)
    refuse(limited & beyond, f"is beyond the {trace.experiment.most_attempts(True)} that its queue allows")
    refuse(beyond, f"is beyond the {DIRECT_ATTEMPTS} of its Retry")
    place = np.arange(len(item))
    first = np.maximum.accumulate(np.where(item != np.append(-1, item)[:-1], place, 0))
    refuse(attempt != place - first + 1, "is not the next number of its item")
    succeeded, done = how == ATTEMPT_OUTCOMES.index("succeeded"), (items["outcome"] == "succeeded").to_numpy()
    refuse(succeeded & ~done[row], "succeeded, but its item did not")
    off = np.maximum(
        abs(start - items["service_start"].to_numpy()[row]), abs(end - items["service_end"].to_numpy()[row])
    )
    refuse(succeeded & (off > clock), f"succeeded, but not at the service times of its item, to {clock} s")

    counted, answers = (np.bincount(rows, minlength=len(items)) for rows in (row, row[succeeded]))
    for bad, found, wanted in (
        (items["attempts"].to_numpy() != counted, counted, "attempts, not as many as it counts"),
        (done & (answers != 1), answers, "succeeded attempts instead of one"),
    ):
        if bad.any():
            at = int(np.argmax(bad))
            moment = _moment(items["returned"].iloc[at])
            raise LawBroken("attempts", int(items["item"].iloc[at]), moment, f"it has {found[at]} {wanted}")


def little(trace: Trace) -> None:
    """Little's law on the run, L = lambda W: children at once on average = items per second * mean sojourn.

    Exact, to rounding, as the run starts and ends empty (Little, "A Proof for the Queuing Formula", 1961):
    the two sides are counted in different ways.

    And where the queue was sampled at least 20 times while it was in use, the mean depth that it reported,
    visible and in flight, agrees with the trace's: two measurements. How far they may differ follows from
    when the samples were taken. A sample is asked for once the one before has been answered, and its time t_i
    is the middle of its own call, which may be long on a busy machine. So it saw the queue at some moment
    between t_(i-1) and t_(i+1), where the traced depth N lies between its minimum a_i and its maximum b_i,
    and with the weights w_i = (t_(i+1) - t_(i-1)) / 2, its share of the time,

        sum(w_i a_i) <= sum(w_i reported_i) <= sum(w_i b_i)

    The integral of N lies between the same two sums, which are Darboux's over overlapping intervals: the
    closer the samples and the smaller the jumps of N between them, the closer the bounds. b_i looks back to
    t_(i-2), as a message is deleted some calls after its attempt ended, each about as long as a sample. All
    intervals are wider by `clock_seconds`. A batch is deleted as a whole: until then the queue also counts
    those of it that are done, on average less than half of them. A dead letter's last failure is hidden
    for `redelivery_seconds` before it leaves the queue. AWS's own counts are approximate.
    """
    time, count = metrics.concurrency(trace)
    present = float((np.diff(time) * count[:-1]).sum())
    items = trace.items
    sojourns = float(np.maximum(items["returned"] - items["arrival"], 0.0).sum())
    if not math.isclose(present, sojourns, rel_tol=1e-9, abs_tol=1e-9):
        what = f"children were present for {present} s in all, but their sojourn times sum to {sojourns} s"
        raise LawBroken("little", None, None, what)

    depth = metrics.queue_depth(trace)
    if not len(depth[0]):
        return
    moments = trace.samples["time"].to_numpy()
    in_use = (moments >= depth[0][0]) & (moments <= depth[0][-1])
    if in_use.sum() < FEWEST_SAMPLES:
        return
    at = np.flatnonzero(in_use[1:-1]) + 1  # which have a sample before them and one after
    clock, weights = trace.clock_seconds, moments[at + 1] - moments[at - 1]
    if not weights.any():  # all at one moment
        return
    low, _ = _extremes(depth, moments[at - 1] - clock, moments[at + 1] + clock)
    intervals = moments[np.maximum(at - 2, 0)] - clock, moments[at + 1] + clock
    busy = metrics.count_at(metrics.concurrency(trace, "limited"), moments[at])
    done = (trace.experiment.batch_size - 1) / 2 * busy
    high = _extremes(depth, *intervals)[1] + _extremes(_dying(trace), *intervals)[1] + done
    reported = (trace.samples["visible"] + trace.samples["in_flight"]).to_numpy()[at]
    least, mean, most = (float(np.average(counts, weights=weights)) for counts in (low, reported, high))
    share = APPROXIMATE.get(trace.engine, 0.0)
    if not least * (1 - share) <= mean <= most * (1 + share):
        worst = float(moments[at[np.argmax(np.maximum(low - reported, reported - high))]])
        what = (
            f"the queue reported {mean:.2f} messages on average, and by the trace it held {least:.2f} to "
            f"{most:.2f} when it was asked"
        )
        raise LawBroken("little", None, worst, f"{what}; they are furthest apart here")


def _dying(trace: Trace) -> metrics.Steps:
    """Count the dead letters whose last attempt has failed and that are hidden in the queue still."""
    dead = trace.items["item"][trace.items["outcome"] == "dead_lettered"]
    ends = trace.attempts[trace.attempts["item"].isin(dead)].groupby("item")["end"].max()
    return metrics.steps(ends, ends + trace.experiment.redelivery_seconds)


def _extremes(
    counted: metrics.Steps, starts: npt.NDArray[np.float64], ends: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The least and the greatest count of such steps within each of these closed intervals (s)."""
    time, count = counted
    count = np.concatenate([[0], count, [0]])
    places = np.column_stack(
        [np.searchsorted(time, starts, "left"), np.searchsorted(time, ends, "right") + 1]
    )
    least, greatest = (extreme.reduceat(count, places.ravel())[::2] for extreme in (np.minimum, np.maximum))
    return least, greatest


def _moment(time: float) -> float | None:
    return float(time) if math.isfinite(time) else None


LAWS: Mapping[str, Callable[[Trace], None]] = MappingProxyType(
    {law.__name__: law for law in (conservation, limits, order, attempts, little)}
)
"""Name and check of each law, in the order in which `verify` takes them: later ones rely on earlier ones."""
