"""How fast a run of a million attempts is read: `python -m tests.benchmarks.reading`.

The exact concurrency curve, percentiles, and the Pareto frontier, each by the lab, by staircase and by plain
pandas as far as they offer it, in turn in one run; all answers must agree. Also the curve of ten million
attempts, without staircase. Prints one JSON object: the best seconds of each, and how many times as long the
others take.
"""

import json
import os
import time
from importlib.metadata import version

import numpy as np
import pandas as pd
import staircase

from helpers import Experiment, Trace, metrics, tune

ATTEMPTS = 1_000_000
MANY = 10_000_000
REPETITIONS = 5


def made_times(items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrivals, starts and ends (s) of 100 items a second, each waiting and served for random times."""
    random = np.random.default_rng(1)
    arrival = np.sort(random.uniform(0, items / 100, items))
    start = arrival + random.exponential(30, items)
    return arrival, start, start + random.lognormal(-1, 0.5, items)


def made_trace() -> Trace:
    """A million items of the limited lane with such times."""
    arrival, start, end = made_times(ATTEMPTS)
    numbers = np.arange(ATTEMPTS)
    items = pd.DataFrame(
        {
            "item": numbers,
            "lane": "limited",
            "arrival": arrival,
            "enqueued": arrival,
            "service_start": start,
            "service_end": end,
            "returned": end,
            "attempts": 1,
            "outcome": "succeeded",
        }
    )
    attempts = pd.DataFrame(
        {"item": numbers, "attempt": 1, "worker": "w", "start": start, "end": end, "outcome": "succeeded"}
    )
    return Trace(
        experiment=Experiment(ATTEMPTS, siphon_share=1, worker_concurrency=1000),
        engine="made",
        items=items,
        attempts=attempts,
        samples=pd.DataFrame(columns=["time", "visible", "in_flight"]),
        started="2026-11-24T00:00:00+00:00",
        versions={},
        clock_seconds=0.0,
    )


def by_staircase(attempts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The curve as staircase makes it from a table of intervals."""
    values = staircase.Stairs(frame=attempts, start="start", end="end").step_values
    return values.index.to_numpy(float), values.to_numpy(float)


def by_pandas(attempts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The curve as a running sum over all starts and ends."""
    changes = pd.concat([pd.Series(1, attempts["start"]), pd.Series(-1, attempts["end"])])
    count = changes.groupby(level=0).sum().cumsum()
    return count.index.to_numpy(), count.to_numpy()


TIMES = {
    "waiting": ("enqueued", "service_start"),
    "service": ("service_start", "service_end"),
    "sojourn": ("arrival", "returned"),
}


def numbers_by_pandas(trace: Trace) -> list[float]:
    """Percentiles of the three times, and both peaks, which need a curve each."""
    items = trace.items
    found = [
        value
        for start, end in TIMES.values()
        for value in (items[end] - items[start]).quantile([0.5, 0.95, 0.99]).tolist()
    ]
    children = items[["arrival", "returned"]].set_axis(["start", "end"], axis=1)
    return [*found, by_pandas(children)[1].max(), by_pandas(trace.attempts)[1].max()]


def numbers_by_lab(trace: Trace) -> list[float]:
    """The same from the summary, which computes much else."""
    summary = metrics.summary(trace)
    names = [f"p{percent}_{name}" for name in TIMES for percent in (50, 95, 99)]
    return [summary[name] for name in [*names, "peak_map", "peak_workers"]]


def frontier_by_pandas(points: pd.DataFrame) -> "pd.Series[bool]":
    """Of two columns: in order of the first, a point is on it if no earlier one is as low in the second."""
    ordered = points.sort_values(["makespan", "usd"])
    lowest = ordered["usd"].cummin().shift(fill_value=np.inf)
    return (ordered["usd"] < lowest).reindex(points.index)


def main() -> None:
    """Time every reader REPETITIONS times in turn, and hold their answers together."""
    trace = made_trace()
    attempts = trace.attempts
    many = pd.DataFrame(dict(zip(("start", "end"), made_times(MANY)[1:], strict=True)), copy=False)
    random = np.random.default_rng(2)
    points = pd.DataFrame(random.lognormal(size=(ATTEMPTS, 2)), columns=["makespan", "usd"])
    readers = {
        "concurrency curve": {
            "lab": lambda: metrics.concurrency(trace, "limited"),
            "staircase": lambda: by_staircase(attempts),
            "pandas": lambda: by_pandas(attempts),
        },
        "concurrency curve of many": {
            "lab": lambda: metrics.steps(many["start"], many["end"]),
            "pandas": lambda: by_pandas(many),
        },
        "percentiles and peaks": {
            "lab": lambda: numbers_by_lab(trace),
            "pandas": lambda: numbers_by_pandas(trace),
        },
        "Pareto frontier": {
            "lab": lambda: tune.pareto(points, "makespan", "usd"),
            "pandas": lambda: frontier_by_pandas(points),
        },
    }
    seconds: dict[str, dict[str, float]] = {}
    answers: dict[str, dict[str, object]] = {}
    for _ in range(REPETITIONS):
        for what, by in readers.items():
            for who, read in by.items():
                began = time.perf_counter()
                answers.setdefault(what, {})[who] = read()
                took = time.perf_counter() - began
                best = seconds.setdefault(what, {})
                best[who] = min(took, best.get(who, took))
    for what, by in answers.items():
        for who, answer in by.items():
            for ours, theirs in zip(np.atleast_2d(by["lab"]), np.atleast_2d(answer), strict=True):
                np.testing.assert_array_equal(ours, theirs, f"{what}: {who}")
    ratios = {what: {who: took / by["lab"] for who, took in by.items()} for what, by in seconds.items()}
    report = {
        "attempts": ATTEMPTS,
        "many": MANY,
        "seconds": seconds,
        "times the lab's": ratios,
        "cores": os.cpu_count(),
    }
    report["versions"] = {name: version(name) for name in ("numpy", "pandas", "staircase")}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
