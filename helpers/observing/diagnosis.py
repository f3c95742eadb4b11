"""What an observed execution comes to: tables by state and by error, and sentences with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from helpers import metrics
from helpers.observing.history import TIMEOUTS
from helpers.trace import LANES, Trace

__all__ = ["by_state", "failures", "peak", "sentences", "slowest"]

SLOWEST = 10
BAD = ("failed", "throttled", "timed_out")
LOST = "no end (worker's log)"
REDELIVERED = "delivered again (worker's log)"
LEAST_SHARE = 0.2
"""Of the run's time: what held it back for less goes unsaid."""
BINDS = {
    "worker limit": "the worker limit ({workers}) binds: more workers, if what is behind them bears it, help",
    "map concurrency": "the map's limit ({map}) binds: with a larger MaxConcurrency items start earlier",
    "dispatch rate": "items had not started though the map had room: AWS starts at most 100 Standard "
    "children a second, and the states before the Map take their time",
    "engine": "messages waited though workers were idle: polling the queue and starting workers take time",
    "batch size": "messages waited behind others of their batch: smaller batches are served earlier",
    "redelivery": "messages that had failed were hidden until their next delivery",
    "task time": "nothing waited: the tasks, and the pauses before their retries, take the time",
}
"""What each resource of `metrics.saturation` comes to."""
ADVICE = {
    "throttled": "raise the concurrency of what refused them, or lower the map's, and retry with backoff",
    "timed_out": "time in the queue counts too: lengthen the timeout, or let fewer wait for each worker",
}


def peak(starts: Any, ends: Any, clock_seconds: float = 0.0) -> int:
    """The most at once; overlaps of no more than clock_seconds do not count."""
    return int(metrics.steps(starts, ends - clock_seconds)[1].max(initial=0))


def by_state(states: pd.DataFrame) -> pd.DataFrame:
    """One row a state: state, attempts, those of each outcome; median and p95 of waiting and service, p95 of
    both together (s).
    """
    rows = []
    outcomes = ["succeeded", *BAD, "aborted", "running"]
    times = [f"{percent}_{name}" for name in ("waiting", "service") for percent in ("p50", "p95")]
    for state, own in states.groupby("state", sort=False):
        counts = own["outcome"].value_counts().reindex(outcomes, fill_value=0).to_dict()
        quantiles = [own[name].quantile(share) for name in ("waiting", "service") for share in (0.5, 0.95)]
        measured = dict(zip(times, quantiles, strict=True))
        measured["p95_total"] = (own["ended"] - own["scheduled"]).quantile(0.95)
        row: dict[str, Any] = {"state": state, "attempts": len(own)}
        rows.append(row | counts | measured)
    return pd.DataFrame(rows, columns=["state", "attempts", *outcomes, *times, "p95_total"])


def failures(children: pd.DataFrame, states: pd.DataFrame, trace: Trace) -> pd.DataFrame:
    """Attempts that went wrong: error, outcome (failed, throttled, timed_out), attempts, items; most first.

    Besides those of the states: errors of children that no task of theirs had, and deliveries that only a
    worker's log tells of.
    """
    bad = states.loc[states["outcome"].isin(BAD) & (states["error"] != ""), ["error", "outcome", "item"]]
    own = children.loc[children["error"] != "", ["error", "item"]]
    own = own[~pd.MultiIndex.from_frame(own).isin(pd.MultiIndex.from_frame(bad[["error", "item"]]))]
    late = own["error"].map(lambda error: bool(TIMEOUTS.fullmatch(error))).astype(bool)
    own = own.assign(outcome=late.map({True: "timed_out", False: "failed"}))
    items = trace.items.set_index("item")
    tries = trace.attempts[trace.attempts["item"].map(items["lane"]) == "limited"]
    tries = tries[tries["outcome"].isin(["failed", "lost"])]
    # An item's last attempt that failed by answering so is a failure of its state.
    answered = tries["item"].map(items["outcome"]) == "failed"
    answered &= tries["attempt"] == tries["item"].map(items["attempts"])
    logged = tries[~answered].assign(outcome="failed")
    logged["error"] = tries["outcome"].map({"lost": LOST, "failed": REDELIVERED})
    every = pd.concat([each[["error", "outcome", "item"]] for each in (bad, own, logged)])
    counted = every.groupby(["error", "outcome"])["item"].agg(attempts="size", items="nunique").reset_index()
    return counted.sort_values(["attempts", "error"], ascending=[False, True], ignore_index=True)


def slowest(children: pd.DataFrame, trace: Trace) -> pd.DataFrame:
    """The longest sojourns: name, item, lane, outcome, attempts, waiting, service, sojourn (s)."""
    items = trace.items.assign(
        name=trace.items["item"].map(children[children["item"] >= 0].set_index("item")["name"]),
        waiting=trace.items["service_start"] - trace.items["enqueued"],
        service=trace.items["service_end"] - trace.items["service_start"],
        sojourn=trace.items["returned"] - trace.items["arrival"],
    )
    columns = ["name", "item", "lane", "outcome", "attempts", "waiting", "service", "sojourn"]
    return items.nlargest(SLOWEST, "sojourn")[columns].reset_index(drop=True)


def sentences(
    status: str,
    error: str,
    seconds: float,
    children: pd.DataFrame,
    trace: Trace,
    states: pd.DataFrame,
    failed: pd.DataFrame,
) -> Iterator[str]:
    """The diagnosis. seconds: how long the execution took, or has run. failed: the table of `failures`."""
    experiment, items = trace.experiment, trace.items
    running = status == "RUNNING"
    counts = ", ".join(f"{n:,} {each}" for each, n in children["status"].value_counts().items())
    at_once = peak(children["arrival"], children["returned"])
    of = f" of the {experiment.map_limit:,} that the map allows" if len(children) > 1 else ""
    yield (
        f"The execution {'has run for' if running else f'{status} after'} {seconds:.1f} s: {counts}; "
        f"at most {at_once:,} at once{of}."
    )
    if error:
        yield f"It ended with {error}."
    for lane in LANES:
        own = items[items["lane"] == lane]
        waiting = (own["service_start"] - own["enqueued"]).median()
        service = (own["service_end"] - own["service_start"]).median()
        if math.isfinite(waiting):
            yield (
                f"The {lane} lane ({len(own):,} items) waited {waiting:.3g} s at the median and was served "
                f"for {service:.3g} s."
            )
    # A sample shows neither how many worked at once nor when the last item started.
    if len(items) > 1 and len(items) + children["returned"].isna().sum() == len(children):
        named = {"workers": f"{experiment.worker_concurrency:,}", "map": f"{experiment.map_limit:,}"}
        for resource, share in sorted(metrics.saturation(trace).items(), key=lambda each: -each[1]):
            if share >= LEAST_SHARE:
                yield f"For {share:.0%} of the time {BINDS.get(resource, resource).format(**named)}."
    if running:
        for state, own in states[states["outcome"] == "running"].groupby("state"):
            oldest = seconds - own["scheduled"].min()
            yield f"Under way in {state}: {len(own):,}, the oldest for {oldest:.1f} s."
    for outcome, advice in ADVICE.items():
        if count := int(failed["attempts"][failed["outcome"] == outcome].sum()):
            yield f"Attempts that were {outcome.replace('_', ' ')}: {count:,}; {advice}."
