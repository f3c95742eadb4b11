"""Experiments to try, and an exact, valid Trace of one, from the smallest schedule that has every part."""

import heapq
import itertools
from collections import deque

import numpy as np
import pandas as pd
from hypothesis import settings
from hypothesis import strategies as st

from helpers.experiment import Experiment, empirical, exponential, lognormal
from helpers.trace import Trace

# A slow machine is no failing law.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

_seconds = st.floats(0.001, 5.0)
_times = st.one_of(
    st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    st.builds(lognormal, mean=_seconds, sigma=st.floats(0.0, 2.0)),
    st.builds(exponential, mean=_seconds),
    st.builds(empirical, values=st.lists(_seconds, min_size=1, max_size=4)),
)
experiments = st.builds(
    Experiment,
    items=st.integers(1, 60),
    map_concurrency=st.sampled_from([0, 1, 3, 20]),
    siphon_share=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)),
    worker_concurrency=st.sampled_from([2, 3, 10, 100]),
    consumer=st.sampled_from(["lambda", "fleet"]),
    direct_seconds=_times,
    limited_seconds=_times,
    failure_rate=st.sampled_from([0.0, 0.3, 0.8]),
    batch_size=st.integers(1, 10),
    max_receive_count=st.integers(1, 5),
    redelivery_seconds=st.sampled_from([0, 1, 5]),
    task_timeout_seconds=st.sampled_from([2, 5, 600]),
    heartbeat_seconds=st.sampled_from([None, 1]),
    cold_start=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)


def make_trace(experiment: Experiment, samples: int = 40) -> Trace:
    """Children are admitted in item order, messages served first come, first served; all else takes no time.

    A failing attempt comes back after `redelivery_seconds`; `max_receive_count` of them make a dead letter,
    five a failed direct item. A task that waits for longer than `task_timeout_seconds` times out, while its
    message is still served.
    """
    plan = experiment.plan()
    limited, seconds = (plan["lane"] == "limited").tolist(), plan["task_seconds"].tolist()
    failures = plan["failures"].tolist()
    n = experiment.items
    arrival, service_start, service_end, returned = (np.full(n, np.nan) for _ in range(4))
    outcome, count = [""] * n, [0] * n
    attempts: list[tuple[int, int, str, float, float, str]] = []
    events: list[tuple[float, int, str, int]] = []
    order = itertools.count()
    waiting: deque[int] = deque()
    idle = list(range(experiment.worker_concurrency))
    serving: dict[int, tuple[int, float]] = {}
    admitted = 0

    def later(time: float, kind: str, item: int) -> None:
        heapq.heappush(events, (time, next(order), kind, item))

    def close(time: float, item: int, how: str) -> None:
        returned[item], outcome[item] = time, how
        later(time, "admit", -1)

    for _ in range(min(n, experiment.map_limit)):
        later(0.0, "admit", -1)
    while events:
        now, _, kind, item = heapq.heappop(events)
        if kind == "admit" and admitted < n:
            item, admitted = admitted, admitted + 1
            arrival[item] = now
            later(now, "visible" if limited[item] else "start", item)
            if limited[item]:
                later(now + experiment.task_timeout_seconds, "timeout", item)
        elif kind == "visible":
            waiting.append(item)
        elif kind == "start":
            later(now + seconds[item], "end", item)
            serving[item] = (-1, now)
        elif kind == "end":
            worker, start = serving.pop(item)
            if limited[item]:
                heapq.heappush(idle, worker)
            count[item] += 1
            name = f"worker-{worker}" if limited[item] else "direct"
            open_still = outcome[item] == ""
            if open_still:
                service_start[item], service_end[item] = start, now
            if failures[item] < count[item]:
                how = "succeeded" if open_still else "late"
                if open_still:
                    close(now, item, "succeeded")
            else:
                how = "failed"
                if count[item] < experiment.most_attempts(limited[item]):
                    later(now + experiment.redelivery_seconds, "visible" if limited[item] else "start", item)
                elif open_still:
                    close(now, item, "dead_lettered" if limited[item] else "failed")
            attempts.append((item, count[item], name, start, now, how))
        elif kind == "timeout" and outcome[item] == "":
            close(now, item, "timed_out")
        while waiting and idle:
            item, worker = waiting.popleft(), heapq.heappop(idle)
            serving[item] = (worker, now)
            later(now + seconds[item], "end", item)
    items = pd.DataFrame(
        {
            "item": range(n),
            "lane": plan["lane"],
            "arrival": arrival,
            "enqueued": arrival,
            "service_start": service_start,
            "service_end": service_end,
            "returned": returned,
            "attempts": count,
            "outcome": outcome,
        }
    )
    columns = ["item", "attempt", "worker", "start", "end", "outcome"]
    table = pd.DataFrame(attempts, columns=columns)
    return Trace(
        experiment=experiment,
        engine="simulated",
        items=items,
        attempts=table,
        samples=_sampled(items, table, samples),
        started="2026-11-24T12:00:00+00:00",
        versions={"synthetic": "1"},
        clock_seconds=0.0,
    )


def _sampled(items: pd.DataFrame, attempts: pd.DataFrame, samples: int) -> pd.DataFrame:
    """The queue as an onlooker would count it, message by message, at evenly spaced moments of the run."""
    limited = items[items["lane"] == "limited"].set_index("item")
    own = attempts[attempts["item"].isin(limited.index)]
    last = own.groupby("item")["end"].max().reindex(limited.index)
    rows = []
    for time in np.linspace(0.0, items["returned"].max(), samples):
        here = (limited["enqueued"] <= time) & ~(last <= time)
        served = own[(own["start"] <= time) & (own["end"] > time)]
        rows.append((time, int(here.sum()) - len(served), len(served)))
    return pd.DataFrame(rows, columns=["time", "visible", "in_flight"])
