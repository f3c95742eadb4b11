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

# The queue's own counts are approximate, and a sample takes a moment: the mean over the samples may differ
# from the traced mean by this share plus this many messages.
SAMPLED_SHARE = 0.15
SAMPLED_MESSAGES = 2.0
FEWEST_SAMPLES = 20  # fewer say little about a mean

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
    the two sides are counted in different ways. And where the queue was sampled at least 20 times while it
    was in use, on average further apart than its clocks disagree, the mean depth that it reported, visible
    and in flight, agrees with the trace's to 15 % and 2 messages: two measurements. A batch is deleted as a
    whole: until then the queue also counts those of it that are done, on average less than half of them.
    """
    time, count = metrics.concurrency(trace)
    present = float((np.diff(time) * count[:-1]).sum())
    items = trace.items
    sojourns = float(np.maximum(items["returned"] - items["arrival"], 0.0).sum())
    if not math.isclose(present, sojourns, rel_tol=1e-9, abs_tol=1e-9):
        what = f"children were present for {present} s in all, but their sojourn times sum to {sojourns} s"
        raise LawBroken("little", None, None, what)

    if len(trace.samples) < FEWEST_SAMPLES:
        return
    time, count = metrics.queue_depth(trace)
    if not len(time):
        return
    samples = trace.samples[trace.samples["time"].between(time[0], time[-1])]
    if len(samples) >= FEWEST_SAMPLES and time[-1] - time[0] > len(samples) * trace.clock_seconds:
        moments = samples["time"].to_numpy()
        traced = metrics.count_at((time, count), moments)
        sampled = (samples["visible"] + samples["in_flight"]).to_numpy()
        busy = metrics.count_at(metrics.concurrency(trace, "limited"), moments)
        done = (trace.experiment.batch_size - 1) / 2 * busy.mean()
        off = max(traced.mean() - sampled.mean(), sampled.mean() - traced.mean() - done)
        if off > SAMPLED_SHARE * traced.mean() + SAMPLED_MESSAGES:
            worst = float(samples["time"].iloc[int(np.argmax(abs(sampled - traced)))])
            what = (
                f"the queue reported {sampled.mean():.2f} messages on average, the trace {traced.mean():.2f}"
            )
            raise LawBroken("little", None, worst, f"{what}; they are furthest apart here")


def _moment(time: float) -> float | None:
    return float(time) if math.isfinite(time) else None


LAWS: Mapping[str, Callable[[Trace], None]] = MappingProxyType(
    {law.__name__: law for law in (conservation, limits, order, attempts, little)}
)
"""Name and check of each law, in the order in which `verify` takes them: later ones rely on earlier ones."""
