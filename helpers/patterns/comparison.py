"""The same work by several patterns on one engine: measured, predicted, broken on purpose, in one table."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from helpers import budget, checks, cost, live, metrics
from helpers.console import Bar
from helpers.engines.base import Engine
from helpers.errors import InvalidExperiment, LabError, StackError
from helpers.experiment import Experiment
from helpers.patterns import aws, inline_map, size
from helpers.patterns.pattern import Pattern
from helpers.simulation import AWS_US_EAST_1, EMBEDDED, Quotas, simulate
from helpers.trace import Trace

QUOTAS: dict[str, Quotas] = {"embedded": EMBEDDED, "aws": AWS_US_EAST_1}
"""What the simulator knows of an engine; elsewhere the bound predicts."""
PROBE_ROUNDS = 4
"""Tasks of each worker in the small run that tells a pattern's overhead."""
FAULTS: dict[str, dict[str, Any]] = {"dies": {"deaths": 1}, "poison": {"failures": 99}}
"""What is done to one item: the worker dies with it in its hands, once; or every attempt at it fails."""
STRUCK = 10
"""The item that a fault strikes: in the middle of its batch, where there are batches."""
BROKEN = Experiment(
    24,
    siphon_share=1.0,
    worker_concurrency=2,
    limited_seconds=0.2,
    function_timeout_seconds=5,
    visibility_timeout_seconds=5,
    redelivery_seconds=0,
    max_receive_count=3,
    task_timeout_seconds=60,
    heartbeat_seconds=10,
)
"""The run that faults strike: short clocks, and batches of three."""
TRIALS_AT_ONCE = 6
PER = 1_000
"""Items that costs are told for."""
DONE = ["succeeded", "late"]
"""Outcomes of an attempt that did its work to the end."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found.

    table: one row a pattern: pattern (its name), title; medians over the repetitions of makespan (s; and
    makespan_low, makespan_high, the least and the greatest), throughput (items/s), p95_result (s, from the
    run's start to an item's return) and efficiency (ideal makespan / makespan); peak, the most tasks at once
    in any run; law, the first that a run broke, or None; predicted (s), predicted_by ("simulator" or
    "bound") and ratio (predicted / measured); usd (per 1,000 items, AWS, planned); template, definition,
    functions and lines (of code); FAULT_lost, FAULT_twice, FAULT_stuck and FAULT_seconds of each of FAULTS,
    where they were tried; aws_seconds and aws_binds, for `aws.SCALE` in us-east-1.
    runs: one row a run: pattern, repetition and its numbers. left_out: pattern and why, of those not run.
    traces: by pattern, the last run's.
    """

    experiment: Experiment
    engine: str
    repetitions: int
    table: pd.DataFrame
    runs: pd.DataFrame
    left_out: dict[str, str]
    traces: dict[str, Trace]

    @property
    def ideal(self) -> float:
        """The makespan (s) that no pattern can go below."""
        return metrics.ideal_makespan(self.experiment)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it; what is not there is null."""
        return {
            "experiment": self.experiment.to_dict(),
            "engine": self.engine,
            "repetitions": self.repetitions,
            "ideal_makespan": self.ideal,
            "patterns": json.loads(self.table.to_json(orient="records", double_precision=6)),
            "runs": json.loads(self.runs.to_json(orient="records", double_precision=6)),
            "left_out": self.left_out,
            "aws": {"items": aws.SCALE.items, "worker_concurrency": aws.SCALE.worker_concurrency},
            "sources": sources(),
        }


def check(experiment: Experiment, patterns: Sequence[Pattern], repetitions: int) -> None:
    """Refuse what the patterns could not be compared by, before anything is created. Raises LabError."""
    if repetitions < 1:
        raise LabError(f"repetitions={repetitions}: must be at least 1; give how often each pattern is run")
    if experiment.siphon_share != 1:
        raise InvalidExperiment(
            f"siphon_share={experiment.siphon_share:g}: patterns are compared by work that is all limited; "
            "use siphon_share=1"
        )
    if experiment.failure_rate:
        raise InvalidExperiment(
            f"failure_rate={experiment.failure_rate:g}: faults are tried apart, one at a time; use "
            "failure_rate=0"
        )
    if inline_map.PATTERN in patterns:
        inline_map.check(experiment)


def usd(experiment: Experiment, patterns: Sequence[Pattern], repetitions: int, faults: bool = True) -> float:
    """What `compare` would cost on AWS at most (US dollars): each run as one of `combined`."""
    one = budget.of_run(_probe(experiment)) + repetitions * budget.of_run(experiment)
    return len(patterns) * (one + (len(FAULTS) * 2 * budget.of_run(BROKEN) if faults else 0))


def compare(
    engine: Engine,
    patterns: Sequence[Pattern],
    experiment: Experiment,
    repetitions: int = 3,
    faults: bool = True,
    progress: bool = True,
) -> Comparison:
    """Run the experiment by each pattern so often, the patterns in turn, and tell what each did.

    Each is predicted before, from a small run where the simulator does not model it. faults: afterwards,
    break it in the ways of FAULTS. Patterns that need a behaviour that the engine does not show are left out.
    Raises LabError as `check` does and where all are left out, and what a run raises that was not broken on
    purpose.
    """
    check(experiment, patterns, repetitions)
    left_out = {
        pattern.name: f"{engine.name} does not show {', '.join(lacking)}"
        for pattern in patterns
        if (lacking := [behaviour for behaviour in pattern.needs if not engine.shows(behaviour)])
    }
    able = [pattern for pattern in patterns if pattern.name not in left_out]
    if not able:
        raise LabError(
            f"engine {engine.name}: shows what none of these patterns can do without; choose an engine that "
            "does, as docs/engines.md lists them"
        )
    engine.check_room(replace(experiment, siphon_share=1))
    turns = [(pattern, number) for number in range(-1, repetitions) for pattern in able]
    predicted: dict[str, dict[str, Any]] = {}
    traces: dict[str, Trace] = {}
    rows = []
    for pattern, number in Bar(turns, "patterns", leave=False, disable=not progress):
        if number < 0:
            predicted[pattern.name] = _predicted(pattern, experiment, engine)
        else:
            traces[pattern.name] = trace = pattern.run(engine, experiment)
            rows.append({"pattern": pattern.name, "repetition": number} | _read(trace))
    runs = pd.DataFrame(rows, columns=["pattern", "repetition", *_NUMBERS, "law"])
    broken = trials(engine, able, progress) if faults else {}
    table = [
        _of_runs(runs[runs["pattern"] == pattern.name], pattern)
        | predicted[pattern.name]
        | {"usd": usd_of_work(pattern, experiment)}
        | _lines(pattern)
        | broken.get(pattern.name, {})
        | aws.predicted(pattern)
        for pattern in able
    ]
    whole = pd.DataFrame(table)
    whole["ratio"] = whole["predicted"] / whole["makespan"]
    return Comparison(experiment, engine.name, repetitions, whole, runs, left_out, traces)


def usd_of_work(pattern: Pattern, experiment: Experiment) -> float:
    """What 1,000 such items cost by this pattern on AWS (US dollars), in one run, if no attempt fails."""
    return budget.of_usage(pattern.usage(replace(experiment, items=PER)))


def sources() -> dict[str, str]:
    """Where each price was read, by its name in `cost.Prices`."""
    prices = vars(cost.US_EAST_1)
    return {name: f"{price.source} ({price.date})" for name, price in prices.items()}


_NUMBERS = ("makespan", "throughput", "p95_result", "efficiency", "peak")


def _read(trace: Trace) -> dict[str, Any]:
    """The numbers of a run, and the first law that it breaks."""
    returned = trace.items["returned"].to_numpy()
    makespan = float(returned.max())
    broken = None
    try:
        checks.verify(trace)
    except checks.LawBroken as error:
        broken = str(error)
    return {
        "makespan": makespan,
        "throughput": len(returned) / makespan,
        "p95_result": float(np.percentile(returned, 95)),
        "efficiency": metrics.ideal_makespan(trace.experiment) / makespan,
        "peak": int(metrics.concurrency(trace, "limited")[1].max()),
        "law": broken,
    }


def _of_runs(runs: pd.DataFrame, pattern: Pattern) -> dict[str, Any]:
    medians = {name: float(runs[name].median()) for name in _NUMBERS if name != "peak"}
    laws = runs["law"].dropna()
    return {
        "pattern": pattern.name,
        "title": pattern.title,
        **medians,
        "makespan_low": runs["makespan"].min(),
        "makespan_high": runs["makespan"].max(),
        "peak": runs["peak"].max(),
        "law": laws.iloc[0] if len(laws) else None,
    }


def _lines(pattern: Pattern) -> dict[str, int]:
    counted = size.lines(pattern)
    return counted | {"lines": sum(counted.values())}


# Predictions


def _probe(experiment: Experiment) -> Experiment:
    """The same work on a few other items."""
    few = min(experiment.items, PROBE_ROUNDS * experiment.worker_concurrency)
    return replace(experiment, items=few, seed=(experiment.seed + 1) % 2**64)


def _predicted(pattern: Pattern, experiment: Experiment, engine: Engine) -> dict[str, Any]:
    """The makespan before it is measured: by simulation where that can be, else from a small run."""
    quotas = QUOTAS.get(engine.name)
    if pattern.makespan:
        return {"predicted": pattern.makespan(experiment), "predicted_by": "simulator"}
    if pattern.simulated and quotas:
        simulated = simulate(pattern.simulated(experiment), quotas)
        return {"predicted": float(simulated.items["returned"].max()), "predicted_by": "simulator"}
    small = pattern.run(engine, _probe(experiment))
    return {"predicted": bound(pattern, experiment, *overhead(small)), "predicted_by": "bound"}


def overhead(trace: Trace) -> tuple[float, float]:
    """What a run adds to its work (s): once, before the first task and after the last; and between two tasks.

    The latter is how long a place stands empty on average from one task in it to the next.
    """
    items, places = trace.items, trace.experiment.worker_concurrency
    first, last = items["service_start"].min(), items["service_end"].max()
    work = float((items["service_end"] - items["service_start"]).sum())
    once = first + items["returned"].max() - last
    empty = places * float(last - first) - work
    return float(once), max(0.0, empty / max(1, len(items) - places))


def bound(pattern: Pattern, experiment: Experiment, once: float, between: float) -> float:
    """The makespan (s) of a queue whose places are never empty, but for such overheads."""
    places = experiment.worker_concurrency
    calls = math.ceil(experiment.items / pattern.batch(experiment))
    work = float(experiment.plan()["task_seconds"].sum()) + max(0, calls - places) * between
    return once + max(work / places, metrics.ideal_makespan(experiment))


# Faults


def trials(engine: Engine, patterns: Sequence[Pattern], progress: bool = True) -> dict[str, dict[str, Any]]:
    """Break each pattern in each of the ways of FAULTS, a few at once; what was left, by pattern."""
    tried = [(pattern, fault) for pattern in patterns for fault in FAULTS]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "VisibilityTimeout")  # short clocks, on purpose
        with ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
            results = pool.map(lambda one: _trial(engine, *one), tried)
            ends = list(Bar(results, "faults", len(tried), leave=False, disable=not progress))
    left: dict[str, dict[str, Any]] = {pattern.name: {} for pattern in patterns}
    for (pattern, fault), end in zip(tried, ends, strict=True):
        left[pattern.name] |= {f"{fault}_{what}": number for what, number in end.items()}
    return left


def _trial(engine: Engine, pattern: Pattern, fault: str) -> dict[str, float]:
    with live.spoilt({STRUCK: FAULTS[fault]}):
        try:
            trace = pattern.run(engine, BROKEN)
        except StackError as error:
            if error.trace is None:
                raise
            trace = error.trace
    return left_by(trace, may_fail={STRUCK} if fault == "poison" else set())


def left_by(trace: Trace, may_fail: set[int]) -> dict[str, float]:
    """What a fault has left of a run: counts of items, and how long the run took (seconds).

    stuck: nobody was told what became of them until a clock ran out, or nobody ever. lost: others without a
    result, but for those that `may_fail`, which can have none. twice: their work was done to the end more
    than once.
    """
    outcomes = trace.items.set_index("item")["outcome"].astype(str)
    stuck = {int(item) for item in outcomes[outcomes.isin(["timed_out", "dead_lettered"])].index}
    good = {int(item) for item in outcomes[outcomes == "succeeded"].index}
    lost = set(range(trace.experiment.items)) - good - stuck - may_fail
    done = trace.attempts[trace.attempts["outcome"].isin(DONE)].groupby("item").size()
    ends = [*trace.items["returned"].dropna(), *trace.attempts["end"].dropna()]
    return {
        "lost": len(lost),
        "twice": int((done > 1).sum()),
        "stuck": len(stuck),
        "seconds": float(max(ends, default=0.0)),
    }
