"""The best setting under given limits, found by simulation: a coarse look at all, then nearer to the best."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import stack, sweep, tune
from helpers.console import Bar
from helpers.errors import SweepError
from helpers.experiment import Experiment
from helpers.files import write_whole
from helpers.formatting import to_csv
from helpers.predict import Prediction, predict
from helpers.simulation import timeouts
from helpers.simulation.model import simulate
from helpers.simulation.quotas import AWS_US_EAST_1, Quotas

__all__ = ["LADDERS", "Found", "ladders", "search"]

LADDERS: dict[str, tuple[int, ...]] = {
    "worker_concurrency": (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000),
    "map_concurrency": (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
    "batch_size": (1, 2, 5, 10),
}
"""What may be chosen of each field that is searched."""
COARSE = 3
"""Values of a field in the coarse look: both ends and what is between them."""
PEAKS = {"worker_concurrency": "peak_workers", "map_concurrency": "peak_map"}
"""The number of a run that a field limits."""

Place = tuple[int, ...]
"""A setting, as the place of each of its values on its ladder."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    recommendation: the setting to take, with the clocks that its tails ask for. prediction: what it would do,
    from runs that no clock ends. rows: every run of the search, in the columns of `sweep.table`.
    """

    recommendation: tune.Recommendation
    prediction: Prediction
    rows: pd.DataFrame

    def __str__(self) -> str:
        return f"{self.recommendation}\n\n{self.prediction}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; of the runs only how many settings they tried."""
        tried = int(self.rows["setting"].nunique())
        return self.recommendation.to_dict() | {"tried": tried, "prediction": self.prediction.to_dict()}

    def save(self, folder: Path) -> Path:
        """Write recommendation.json, table.csv (a row a run) and what the prediction saves into a folder."""
        self.prediction.save(folder)
        write_whole(folder / "table.csv", to_csv(self.rows))
        write_whole(folder / "recommendation.json", json.dumps(self.to_dict(), indent=1))
        return folder


def search(
    base: Experiment,
    values: Mapping[str, Sequence[Any]],
    objective: str,
    limits: str = "",
    quotas: Quotas = AWS_US_EAST_1,
    repetitions: int = 3,
    progress: bool = True,
) -> Found:
    """The best setting that keeps the limits, as `tune.recommend` chooses it from simulated runs.

    values: what to choose from, by field of Experiment; of the fields in LADDERS that it lacks, `ladders`.
    Clocks that it lacks are out of the way while searching, and come with the answer. Where `limits` do not
    say how many items may time out, none may.

    COARSE values of each field are tried with each other, on the same items. Then, from the best so far on,
    the values half-way to the next ones that were tried, until all beside the best were. No run is scaled
    down: ramps and bursts last as long in a short run as in a long one, so that it would rank settings
    otherwise. The best setting is repeated; if it breaks a limit then, the search goes on.

    Raises SweepError, before anything runs, for an unknown field or objective and for limits that contradict
    each other, and at the end where no setting keeps them, with what was seen. InvalidExperiment where values
    do not go together.
    """
    tune.check_objective(objective)
    sweep.Sweep((base,), repetitions)
    if "timed_out" not in {name for name, _, _ in tune.bounds(limits)}:
        limits = f"{limits} and timed_out==0" if limits else "timed_out==0"
    _agree(limits)
    steps = ladders(base, values, limits)
    keep = set(values) & set(timeouts.HIGHEST)
    runs = _Runs(
        [timeouts.unclocked(each, keep) for each in sweep.grid(base, steps)], steps, quotas, progress
    )

    runs.add((place, 0) for place in itertools.product(*(_spread(len(ladder)) for ladder in steps.values())))
    while runs.go_on(objective, limits, repetitions):
        pass
    best = tune.recommend(runs.table, objective, limits)
    prediction = predict(best.experiment, quotas, repetitions, keep)
    setting = prediction.timeouts.experiment
    return Found(
        replace(best, experiment=setting, parameters=stack.parameters(setting)),
        replace(prediction, experiment=setting),
        runs.table,
    )


def ladders(
    base: Experiment, values: Mapping[str, Sequence[Any]], limits: str = ""
) -> dict[str, Sequence[Any]]:
    """These values, and of the fields in LADDERS that they lack those that are worth trying.

    No more at once than there are items. And just what `limits` allow at most.
    """
    found = dict(values)
    bounds = tune.bounds(limits)
    for field, ladder in LADDERS.items():
        if field not in values:
            most = next((step for step in ladder if step >= base.items), ladder[-1])
            allowed = {
                math.ceil(bound) - 1 if sign == "<" else math.floor(bound)
                for name, sign, bound in bounds
                if name == PEAKS.get(field) and sign in ("<", "<=")
            }
            found[field] = sorted({step for step in {*ladder, *allowed} if ladder[0] <= step <= most})
    return found


class _Runs:
    """What has been simulated of a grid of settings, the last of whose fields changes fastest."""

    def __init__(
        self, grid: Sequence[Experiment], steps: Mapping[str, Sequence[Any]], quotas: Quotas, progress: bool
    ) -> None:
        self.grid, self.quotas, self.progress = grid, quotas, progress
        self.shape = tuple(map(len, steps.values()))
        self.places: list[Place] = list(itertools.product(*map(range, self.shape)))
        self.numbers = {place: number for number, place in enumerate(self.places)}
        self.rows: dict[tuple[Place, int], dict[str, Any]] = {}

    @property
    def table(self) -> pd.DataFrame:
        return sweep.as_table(list(self.rows.values()))

    def add(self, wanted: Iterable[tuple[Place, int]]) -> int:
        """Run each of these settings and repetitions that was not run; return how many that are."""
        new = [one for one in wanted if one not in self.rows]
        with ThreadPoolExecutor(timeouts.THREADS) as pool:
            ran = pool.map(lambda one: self._run(*one), new)
            shown = Bar(ran, "simulating", len(new), leave=False, delay=1, disable=not self.progress)
            self.rows |= dict(zip(new, shown, strict=True))
        return len(new)

    def _run(self, place: Place, repetition: int) -> dict[str, Any]:
        number = self.numbers[place]
        setting = self.grid[number]
        trace = simulate(replace(setting, seed=setting.seed + repetition), self.quotas)
        name = sweep.run_name(number, repetition)
        about = {"run": name, "setting": number, "repetition": repetition}
        return about | sweep.read(trace)

    def best(self, objective: str, limits: str) -> Place:
        """The best setting so far; or where none keeps the limits, the one that is nearest to that."""
        with contextlib.suppress(SweepError):
            return self.places[tune.recommend(self.table, objective, limits).setting]
        rows = self.table
        beyond = sum(_beyond(rows[name], sign, bound) for name, sign, bound in tune.bounds(limits))
        nearest = rows.assign(beyond=beyond).sort_values(["beyond", objective]).iloc[0]
        return self.places[int(nearest["setting"])]

    def go_on(self, objective: str, limits: str, repetitions: int) -> int:
        """Run what may be better than the best so far; or else the best again; return how many ran."""
        best = self.best(objective, limits)
        return self.add((place, 0) for place in self.nearer(best)) or self.add(
            (best, repetition) for repetition in range(repetitions)
        )

    def nearer(self, best: Place) -> list[Place]:
        """Settings to try next: on each ladder, half-way from the best to the next ones that were tried.

        Once those beside it on each ladder were tried, the ones that are beside it on several at once.
        """
        tried = {place for place, _ in self.rows}
        found = []
        for axis, size in enumerate(self.shape):
            own = best[axis]
            line = {at for at in range(size) if (*best[:axis], at, *best[axis + 1 :]) in tried}
            below = max((at for at in line if at < own), default=-1)
            above = min((at for at in line if at > own), default=size)
            middles = {(below + own) // 2, (own + above) // 2} - {below, own, above}
            found += [(*best[:axis], at, *best[axis + 1 :]) for at in sorted(middles)]
        beside = itertools.product(
            *(range(max(at - 1, 0), min(at + 2, size)) for at, size in zip(best, self.shape, strict=True))
        )
        return found or list(beside)


def _spread(size: int) -> list[int]:
    """The places of the coarse look on a ladder of this size."""
    return sorted(set(np.linspace(0, size - 1, min(size, COARSE)).round().astype(int).tolist()))


def _beyond(values: "pd.Series[Any]", sign: str, bound: float) -> "pd.Series[Any]":
    """By how much of the bound each value breaks it."""
    numbers = pd.to_numeric(values)
    beyond = (numbers - bound).abs().fillna(math.inf) / (abs(bound) or 1.0)
    return beyond.mask(tune.SIGNS[sign](numbers, bound), 0.0)


def _agree(limits: str) -> None:
    """Raise SweepError for limits that no number can keep together."""
    bounds = tune.bounds(limits)
    for name in {name for name, _, _ in bounds}:
        own = [(sign, bound) for of, sign, bound in bounds if of == name]
        low = max(((bound, sign == ">") for sign, bound in own if sign in (">", ">=", "==")), default=None)
        high = min(((bound, sign != "<") for sign, bound in own if sign in ("<", "<=", "==")), default=None)
        if low and high and (low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1]))):
            told = " and ".join(f"{name}{sign}{bound:g}" for sign, bound in own)
            raise SweepError(f"{told}: contradict each other; relax one")
