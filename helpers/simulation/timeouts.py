"""Timeouts from predicted tails: run with the clocks out of the way, see how long all takes, add a margin.

Each rule takes the longest time of any replication:

- FunctionTimeout: above MARGIN times the longest invocation, which is a whole batch in the limited lane.
- VisibilityTimeout: six times that, and the batching window (Lambda developer guide, services-sqs-configure).
  Where messages come back whose invocation Lambda still refuses, doubled until none is lost thereby.
- HeartbeatSeconds: above the longest silence of a task in a run up to MARGIN times as slow. The clock starts
  with the task, while its message waits in the queue. Workers beat BEATS_A_PERIOD times in it, so that of an
  attempt shorter than a third of it nothing is heard but its answer. And so long that the beats of MARGIN
  times as many messages at work fit the rate of SendTaskHeartbeat.
- TimeoutSeconds: above MARGIN times the longest sojourn, and above the heartbeat.
- maxReceiveCount: AWS's FEWEST_RECEIVES at least; as many as any message took; and so many that no more than
  LOSSES of the runs lose a good message, one whose attempts fail by chance.
"""

import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.experiment import BEATS_A_PERIOD, Experiment, Floats
from helpers.metrics import steps
from helpers.simulation.model import simulate
from helpers.simulation.quotas import Quotas
from helpers.simulation.usage import ROUNDING, visits
from helpers.stack import VISIBILITY_FACTOR
from helpers.trace import Trace

__all__ = ["HIGHEST", "MARGIN", "THREADS", "Advice", "Tails", "advise", "struck", "tails", "unclocked"]

MARGIN = 2.0
"""A run at half the predicted speed keeps its clocks: the prediction has not been held against an account."""
FEWEST_RECEIVES = 5
"""What AWS advises at least (Lambda developer guide, services-sqs-configure)."""
LOSSES = 0.01
"""Runs that may lose a good message to the dead-letter queue: one in a hundred is looked into by hand."""
HIGHEST: dict[str, Any] = {
    "function_timeout_seconds": 900,
    "visibility_timeout_seconds": 43_200,
    "heartbeat_seconds": None,
    "task_timeout_seconds": 31_536_000,
    "max_receive_count": 1_000,
}
"""The settings that give up on something, each at the highest that AWS allows."""
THREADS = 2
"""Simulations at once: the event loop runs without Python's lock, the reading of its trace does not."""


@dataclass(frozen=True, eq=False)
class Tails:
    """What of one run decides on its clocks. Times in s.

    function, sojourn: the longest. messages: of the limited lane. deliveries: of any of them, at most.
    at_work: messages in the hands of workers at once, at most. arrival, returned: of each message's item.
    item, began, until: the visits of messages to workers, by item and time; item is a place in `arrival`,
    for the others see `usage.Visits`.
    """

    function: float
    sojourn: float
    messages: int
    deliveries: int
    at_work: int
    arrival: Floats
    returned: Floats
    item: npt.NDArray[np.int64]
    began: Floats
    until: Floats

    def silence(self, heartbeat: float, slower: float = 1.0) -> float:
        """At most how long (s) nothing is heard of a task, in this run or one up to `slower` times as slow.

        A visit of more than a period's third, of which something is heard, is so in the slower run as well:
        for the first time when a third is over, and then until less than a third before its end.
        """
        third = heartbeat / BEATS_A_PERIOD
        beaten = self.until - self.began > third + ROUNDING
        item = self.item[beaten]
        heard = self.arrival.copy()
        heard[item] = self.until[beaten]  # of an item's visits, the last stays
        again = np.append(False, item[1:] == item[:-1])
        since = np.where(again, np.roll(self.until[beaten], 1), self.arrival[item])
        gaps = slower * (self.began[beaten] - since) + third * (1 + again)
        last = slower * (self.returned - heard) + third * (heard > self.arrival)
        whole = slower * (self.returned - self.arrival).max(initial=0.0)
        return float(min(whole, max(gaps.max(initial=0.0), last.max(initial=0.0))))


def tails(trace: Trace, quotas: Quotas) -> Tails:
    """The tails of a run that no clock struck."""
    items = trace.items
    limited = items[items["lane"] == "limited"]
    direct = trace.attempts[trace.attempts_of("direct")]
    seen = visits(trace, quotas)
    order = np.lexsort((seen.start, seen.item))
    calls = (direct["end"] - direct["start"]).to_numpy()
    # Where nothing tells batches apart, a message is taken to be heard of from its own service on.
    began = seen.began if quotas.receive_seconds else seen.start
    return Tails(
        function=float(max(calls.max(initial=0.0), (seen.released - seen.began).max(initial=0.0))),
        sojourn=float((items["returned"] - items["arrival"]).max()),
        messages=len(limited),
        deliveries=int(limited["attempts"].to_numpy().max(initial=0)),
        at_work=int(steps(seen.began, seen.until)[1].max(initial=0)),
        arrival=limited["arrival"].to_numpy(),
        returned=limited["returned"].to_numpy(),
        item=np.searchsorted(limited["item"].to_numpy(), seen.item[order]),
        began=began[order],
        until=seen.until[order],
    )


def unclocked(experiment: Experiment, keep: Collection[str] = ()) -> Experiment:
    """The experiment with its clocks out of the way: those of HIGHEST so high, except for `keep`."""
    highest = {name: value for name, value in HIGHEST.items() if name not in keep}
    if "visibility_timeout_seconds" in keep and "function_timeout_seconds" not in keep:
        highest["function_timeout_seconds"] = min(900, experiment.visibility_timeout_seconds)
    return replace(experiment, **highest)


def struck(trace: Trace) -> int:
    """Items that a clock took: timed out, served for nothing, or a dead letter that would have succeeded."""
    items = trace.items
    taken = set(items["item"][items["outcome"] == "timed_out"])
    taken |= set(trace.attempts["item"][trace.attempts["outcome"] == "late"])
    dead = items["item"][items["outcome"] == "dead_lettered"].to_numpy()
    if len(dead):
        failures = trace.experiment.plan()["failures"].to_numpy()[dead]
        taken |= set(dead[failures < trace.experiment.max_receive_count])
    return len(taken)


@dataclass(frozen=True)
class Advice:
    """experiment: with the clocks to set. reasons: one a clock. struck: items, see there, of all its runs."""

    experiment: Experiment
    reasons: tuple[str, ...]
    struck: int


def advise(replications: Sequence[Experiment], quotas: Quotas, keep: Collection[str] = ()) -> Advice:
    """Clocks for an experiment, from these replications of it, which are then simulated again with them.

    keep: fields of HIGHEST that are not to be changed.
    """

    def told(replication: Experiment) -> Tails:
        return tails(simulate(unclocked(replication, keep), quotas), quotas)

    def lost(replication: Experiment) -> int:
        return struck(simulate(replication, quotas))

    with ThreadPoolExecutor(THREADS) as pool:
        rules = _rules(replications[0], list(pool.map(told, replications)), quotas, keep)
        clocks = {name: value for name, (value, _) in rules.items()}

        def struck_with(hidden: int) -> int:
            """Items that are lost with this visibility timeout."""
            tried = clocks | {"visibility_timeout_seconds": hidden}
            return sum(pool.map(lost, [replace(each, **tried) for each in replications]))

        hidden, most = clocks["visibility_timeout_seconds"], HIGHEST["visibility_timeout_seconds"]
        found = struck_with(hidden)
        while found and hidden < most and "visibility_timeout_seconds" not in keep:
            hidden = min(2 * hidden, most)
            if not struck_with(hidden):
                why = (
                    "so long Lambda refuses invocations: lower worker_concurrency to what the account allows"
                )
                rules["visibility_timeout_seconds"], found = (hidden, why), 0
    clocks = {name: value for name, (value, _) in rules.items()}
    reasons = tuple(f"{name}={value}: {why}" for name, (value, why) in rules.items() if name not in keep)
    return Advice(replace(replications[0], **clocks), reasons, found)


def _rules(
    experiment: Experiment, runs: Sequence[Tails], quotas: Quotas, keep: Collection[str]
) -> dict[str, tuple[Any, str]]:
    """The value of each field of HIGHEST by its rule, and why."""
    rules: dict[str, tuple[Any, str]] = {}

    def settle(name: str, value: int | None, why: str) -> Any:
        """What the rule says, or what is kept."""
        value = getattr(experiment, name) if name in keep else value
        rules[name] = value, why
        return value

    longest = max(run.function for run in runs)
    most = HIGHEST["function_timeout_seconds"]
    if "visibility_timeout_seconds" in keep:
        most = max(1, min(most, experiment.visibility_timeout_seconds))
    why = f"{MARGIN:g} times the longest invocation, {longest:.3g} s"
    if most <= MARGIN * longest:
        why = f"the most that is allowed, with an invocation of {longest:.3g} s: make batches smaller"
    function = settle("function_timeout_seconds", min(_above(MARGIN * longest), most), why)
    settle(
        "visibility_timeout_seconds",
        max(function, VISIBILITY_FACTOR * function + experiment.batch_window_seconds),
        f"AWS's {VISIBILITY_FACTOR} times the function's timeout, and the batching window",
    )

    messages, at_work = max(run.messages for run in runs), max(run.at_work for run in runs)
    sojourn = max(run.sojourn for run in runs)
    heartbeat = max(1, math.ceil(BEATS_A_PERIOD * MARGIN * at_work / quotas.task_per_second))
    while (silent := max(run.silence(heartbeat, MARGIN) for run in runs)) >= heartbeat:
        heartbeat = _above(silent)
    timeout = settle(
        "task_timeout_seconds",
        min(max(heartbeat + 1, _above(MARGIN * sojourn)), HIGHEST["task_timeout_seconds"]),
        f"{MARGIN:g} times the longest sojourn, {sojourn:.3g} s",
    )
    settle(
        "heartbeat_seconds",
        min(heartbeat, timeout - 1) if messages else None,
        f"up to {MARGIN:g} times as slow, nothing is heard of a task for {silent:.3g} s, its wait in "
        f"the queue included; and {at_work:,} messages at work beat {BEATS_A_PERIOD} times in it",
    )

    rate = experiment.failure_rate
    receives = math.ceil(math.log(LOSSES / messages) / math.log(rate)) if rate and messages else 1
    deliveries = max(run.deliveries for run in runs)
    settle(
        "max_receive_count",
        min(max(FEWEST_RECEIVES, deliveries, receives), HIGHEST["max_receive_count"]),
        f"AWS advises {FEWEST_RECEIVES} at least; fewer than 1 run in {1 / LOSSES:g} loses a good one of "
        f"{messages:,} messages, where {rate:.2%} of the attempts fail",
    )
    return rules


def _above(seconds: float) -> int:
    return math.floor(seconds) + 1
