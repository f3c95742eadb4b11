"""Many experiments on one engine: a grid of settings, repeated, each run on disk as it ends.

A sweep has a folder: `plan.json` says what is to run, `traces/` holds a file for each run that ended, its
trace or its error. So a sweep that was killed at any moment goes on where it was: what is in `traces/` is
done, everything else is not. The results are read back from there, by `table`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from botocore.exceptions import BotoCoreError
from tqdm import tqdm

from helpers import checks, metrics
from helpers.engines.base import Engine
from helpers.errors import LabError, SweepError
from helpers.experiment import Experiment
from helpers.files import write_whole
from helpers.trace import Trace

__all__ = ["Sweep", "check", "grid", "interval", "medians", "pareto", "run", "table"]

RESAMPLES = 2_000
CONFIDENCE = 0.95
MEASURES = ("makespan", "throughput", "efficiency", "p50_sojourn", "p95_sojourn", "p99_sojourn")
"""The numbers of a run that `medians` puts side by side; times in seconds, throughput in items per second."""
BASE_FIELDS = [field.name for field in fields(Experiment) if field.name != "seed"]
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
COMPARISON = re.compile(r"(\w+)\s*(<=|>=|==|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True)
class Sweep:
    """What a sweep runs: every one of `settings`, `repetitions` times.

    Repetition r of every setting has the seed of its setting plus r, so that settings are compared on the
    same items, lanes, times and failures (common random numbers). Raises SweepError for no settings, for one
    that is there twice, or for fewer than one repetition.
    """

    settings: tuple[Experiment, ...]
    repetitions: int = 3

    def __post_init__(self) -> None:
        if not self.settings:
            raise SweepError("settings=(): a sweep needs at least one; give a grid with values")
        if len(set(self.settings)) < len(self.settings):
            twice = next(s for s in self.settings if self.settings.count(s) > 1)
            raise SweepError(f"{twice}: is in the sweep twice; use repetitions to repeat a setting")
        if (
            isinstance(self.repetitions, bool)
            or not isinstance(self.repetitions, int)
            or self.repetitions < 1
        ):
            raise SweepError(f"repetitions={self.repetitions!r}: must be a whole number of at least 1")

    def runs(self) -> Iterator[tuple[str, Experiment]]:
        """Name and experiment of each run, in the order in which they run.

        All settings once, then all again: a machine that slows down slows all of them.
        """
        for repetition in range(self.repetitions):
            for number, setting in enumerate(self.settings):
                repeated = setting.to_dict() | {"seed": setting.seed + repetition}
                yield f"s{number:03d}-r{repetition:02d}", Experiment.from_dict(repeated)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"settings": [s.to_dict() for s in self.settings], "repetitions": self.repetitions}


def grid(base: Experiment, values: Mapping[str, Sequence[Any]]) -> tuple[Experiment, ...]:
    """Every combination of these values of Experiment's fields, the last one changing fastest.

    Raises SweepError for a field that Experiment has not, or one without values, and InvalidExperiment for
    a combination that breaks a rule: all before anything runs.
    """
    given = base.to_dict()
    for name, choices in values.items():
        if name not in given:
            raise SweepError(f"{name!r}: no field of Experiment; choose from {', '.join(given)}")
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise SweepError(f"{name}={choices!r}: must be a list with at least one value")
    combinations = itertools.product(*values.values())
    return tuple(
        Experiment.from_dict(given | dict(zip(values, chosen, strict=True))) for chosen in combinations
    )


def run(
    engine: Engine, sweep: Sweep, folder: str | Path, resume: bool = False, progress: bool = True
) -> None:
    """Run what of the sweep has not run yet; read the results with `table(folder)`.

    Before the first run there is one more, which warms the engine up and is not part of the results. A run
    that the lab refuses or that fails is recorded with its error, and the sweep goes on.

    resume: go on with the sweep in this folder. Raises SweepError when the folder holds a sweep and `resume`
    is not given, when it holds another one, when another process works on it, or when the engine stops
    answering.
    """
    folder = Path(folder)
    plan = folder / "plan.json"
    wanted = json.dumps(sweep.to_dict(), indent=1)
    traces = folder / "traces"
    traces.mkdir(parents=True, exist_ok=True)
    with _locked(folder), engine.bench() as run_next:
        if plan.exists():
            if not resume:
                raise SweepError(f"{folder}: holds a sweep already; resume it, or choose another folder")
            if plan.read_text() != wanted:
                raise SweepError(
                    f"{folder}: holds another sweep (see {plan}); resume with its settings, "
                    "or choose another folder"
                )
        else:
            write_whole(plan, wanted)
        missing = [(name, experiment) for name, experiment in sweep.runs() if not _is_done(traces, name)]
        if missing:
            with contextlib.suppress(LabError, BotoCoreError):  # its setting's own run will say what is wrong
                run_next(missing[0][1], progress=False).save(folder / "warm-up.parquet")
        for name, experiment in tqdm(missing, desc="runs", unit="run", disable=not progress):
            try:
                run_next(experiment, progress=False).save(traces / f"{name}.parquet")
            except LabError as error:
                told = {"experiment": experiment.to_dict(), "error": f"{type(error).__name__}: {error}"}
                write_whole(traces / f"{name}.json", json.dumps(told, indent=1))
            except BotoCoreError as error:  # says nothing about the setting
                raise SweepError(
                    f"{folder}: the engine stopped answering in run {name} ({error}); resume the sweep"
                ) from error


def table(folder: str | Path) -> pd.DataFrame:
    """The results of a sweep so far, one row a run that ended, in the order of the sweep.

    Columns: `run` (its name), `setting` (its number), `repetition`, the fields of Experiment, the numbers of
    `metrics.summary` (without its lanes), `law` (that the trace broke) and `error` (why there is no trace),
    both missing where all is well. Raises SweepError for a folder without a sweep, and TraceError for a
    damaged trace.
    """
    folder = Path(folder)
    if not (folder / "plan.json").exists():
        raise SweepError(f"{folder}: holds no sweep; run one there first")
    rows = []
    for path in sorted((folder / "traces").glob("s*-r*.*"), key=lambda p: (p.stem.split("-")[1], p.stem)):
        setting, repetition = (int(part[1:]) for part in path.stem.split("-"))
        about = {"run": path.stem, "setting": setting, "repetition": repetition}
        if path.suffix == ".json":
            told = json.loads(path.read_text())
            rows.append(about | told["experiment"] | {"law": None, "error": told["error"]})
        else:
            trace = Trace.load(path)
            numbers = {k: v for k, v in metrics.summary(trace).items() if k != "lanes"}
            rows.append(about | trace.experiment.to_dict() | numbers | {"law": _broken(trace), "error": None})
    return pd.DataFrame(rows)


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, from the rows of `table`: what varies between settings, then its results.

    Of each number in MEASURES: its median over the repetitions and, in `<name>_low` and `<name>_high`, its
    95 % confidence interval (see `interval`). `peak_map` and `peak_workers` are the highest of any
    repetition. `frontier`: whether no other setting is as good in both makespan and p95 of sojourn.
    `failed`: how many repetitions have no trace or break a law. Numbers of a setting without any trace are
    missing.
    """
    varied = [name for name in BASE_FIELDS if name in rows and rows[name].map(repr).nunique() > 1]
    found = []
    for setting, runs in rows.groupby("setting"):
        good = runs[runs["error"].isna()]
        row: dict[str, Any] = {"setting": setting} | {name: runs[name].iloc[0] for name in varied}
        for name in MEASURES:
            three = interval(good[name].tolist()) if len(good) else (np.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), three, strict=True))
        for name in ("peak_map", "peak_workers"):
            row[name] = good[name].max() if len(good) else np.nan
        row["runs"], row["failed"] = len(runs), int((runs["error"].notna() | runs["law"].notna()).sum())
        found.append(row)
    summary = pd.DataFrame(found)
    return summary.assign(frontier=pareto(summary, "makespan", "p95_sojourn"))


def check(rows: pd.DataFrame, limits: str = "") -> list[str]:
    """What is wrong with the runs, a sentence each: no trace, a broken law, a broken limit. Empty if nothing.

    rows: of `table`. limits: comparisons joined by "and", such as "p95_sojourn<30 and peak_workers<=100"; a
    name is a column of `table`. Raises SweepError for what is no comparison, and for an unknown name.
    """
    bounds = []
    for part in limits.split(" and ") if limits else []:
        if not (match := COMPARISON.fullmatch(part.strip())):
            raise SweepError(f"{part.strip()!r}: no comparison; write for example p95_sojourn<30")
        name, sign, bound = match.groups()
        if name not in rows or not pd.api.types.is_numeric_dtype(rows[name]):
            numbers = rows.select_dtypes("number").columns
            raise SweepError(f"{name!r}: no number of a run; choose from {', '.join(numbers)}")
        bounds.append((name, sign, float(bound)))
    told = []
    for row in rows.to_dict("records"):
        wrong = [row[name] for name in ("error", "law") if pd.notna(row[name])]
        if wrong:
            told.append(f"{row['run']}: {wrong[0]}")
            continue
        told += [
            f"{row['run']}: {name}={row[name]:g}, but must be {sign}{bound:g}"
            for name, sign, bound in bounds
            if not SIGNS[sign](row[name], bound)
        ]
    return told


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of the values, and the ends of its 95 % confidence interval by the percentile bootstrap.

    Of a single value all three are that value: it tells nothing about its spread. Source: Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Raises SweepError for no values.
    """
    data = np.asarray(values, np.float64)
    if data.size == 0:
        raise SweepError("values=[]: a median needs at least one; leave out settings that never succeeded")
    drawn = np.random.default_rng(seed).choice(data, (RESAMPLES, data.size))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.median(data)), float(low), float(high)


def pareto(rows: pd.DataFrame, *columns: str) -> pd.Series[bool]:
    """Which rows are on the Pareto frontier: no other is at least as low in every column and lower in one.

    A row with a missing value is never on it.
    """
    costs = rows[list(columns)].to_numpy(np.float64)
    known = ~np.isnan(costs).any(axis=1)
    on = known.copy()
    others = costs[known]
    for number in np.flatnonzero(known):
        on[number] = not ((others <= costs[number]).all(axis=1) & (others < costs[number]).any(axis=1)).any()
    return pd.Series(on, index=rows.index)


def _broken(trace: Trace) -> str | None:
    try:
        checks.verify(trace)
    except checks.LawBroken as broken:
        return str(broken)
    return None


def _is_done(traces: Path, name: str) -> bool:
    return any((traces / f"{name}{suffix}").exists() for suffix in (".parquet", ".json"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder; the system frees it when this process ends, however it does."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(f"{folder}: another sweep runs there; wait for it, or choose another") from error
        yield
