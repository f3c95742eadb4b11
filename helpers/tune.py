"""Which setting to take: what many runs say about settings, measured or predicted alike.

`rows` is a table with one row a run, as `sweep.table` makes it; `summary` one with a row a setting, as
`medians` makes it from rows.
"""

import math
import operator
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers import stack
from helpers.errors import SweepError
from helpers.experiment import DISTRIBUTED_MAP_LIMIT, Experiment
from helpers.formatting import to_text

__all__ = [
    "OBJECTIVES",
    "Recommendation",
    "bounds",
    "check",
    "check_objective",
    "curve",
    "interval",
    "knee",
    "medians",
    "pareto",
    "readable",
    "recommend",
    "text",
    "varied",
]

RESAMPLES = 2_000
CONFIDENCE = 0.95
MEASURES = (
    "makespan",
    "throughput",
    "efficiency",
    "ideal_makespan",
    "p50_sojourn",
    "p95_sojourn",
    "p99_sojourn",
    "usd",
)
"""The numbers of a run that `medians` puts side by side; times in seconds, throughput in items per second."""
OBJECTIVES = ("makespan", "p95_sojourn", "usd")
"""What a recommendation may make small."""
CONCURRENCY = ("worker_concurrency", "map_concurrency")
WORK = ("items", "siphon_share", "direct_seconds", "limited_seconds", "failure_rate")
"""The fields of Experiment that say how much there is to do, not how it is done."""
NEAR = 0.05
"""Assumed: nobody pays for more concurrency to gain less than this share of the objective."""
KNEE_DEPTH = 0.1
"""How far below the straight line a knee lies at least, as a share: less is noise."""
NUMBERS = (
    *("items", "succeeded", "failed", "timed_out", "dead_lettered"),
    *("makespan", "ideal_makespan", "throughput", "efficiency", "utilisation", "peak_map", "peak_workers"),
    *(f"{of}_{time}" for time in ("waiting", "service", "sojourn") for of in ("p50", "p95", "p99", "mean")),
    *("usd", "binding_share"),
)
"""The numbers of a run that a limit may name, see `sweep.table`."""
Bound = tuple[str, str, float]
FIELDS = [field.name for field in fields(Experiment) if field.name != "seed"]
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
COMPARISON = re.compile(r"(\w+)\s*(<=|>=|==|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, in the order of their numbers: what varies between settings, then its results.

    Of each number in MEASURES: its median over the repetitions and, in `<name>_low` and `<name>_high`, its
    95 % confidence interval (see `interval`). `peak_map` and `peak_workers` are the highest of any
    repetition, `binds` is what held most of them back (see `metrics.saturation`). `frontier_usd` and
    `frontier_p95_sojourn`: whether no other setting is as good in both makespan and that, to three digits:
    the rest is noise. `runs` and `failed`: how many repetitions there are, and how many of them have no trace
    or break a law. Numbers of a setting without any trace are missing.
    """
    varies = varied(rows)
    found = []
    for setting, runs in rows.groupby("setting"):
        good = runs[runs["error"].isna()]
        row: dict[str, Any] = {"setting": setting} | {name: runs[name].iloc[0] for name in varies}
        for name in MEASURES:
            three = interval(good[name].tolist()) if len(good) else (np.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), three, strict=True))
        for name in ("peak_map", "peak_workers"):
            row[name] = good[name].max() if len(good) else np.nan
        row["binds"] = good["binds"].mode().iloc[0] if len(good) else None
        row["runs"], row["failed"] = len(runs), len(runs) - len(_sound(runs))
        found.append(row)
    summary = pd.DataFrame(found)
    told = summary[list(OBJECTIVES)].map(lambda value: float(f"{value:.3g}"))
    return summary.assign(
        frontier_usd=pareto(told, "makespan", "usd"),
        frontier_p95_sojourn=pareto(told, "makespan", "p95_sojourn"),
    )


def varied(rows: pd.DataFrame) -> list[str]:
    """The fields of Experiment that differ between these rows."""
    return [name for name in FIELDS if name in rows and rows[name].map(repr).nunique() > 1]


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


def pareto(rows: pd.DataFrame, *columns: str) -> "pd.Series[bool]":
    """Which rows are on the Pareto frontier: no other is at least as low in every column and lower in one.

    A row with a missing value is never on it.
    """
    costs = rows[list(columns)].to_numpy(np.float64)
    left = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # From the lowest sum on, each first one left is on the frontier: who beats it would have a lower sum.
    left = left[np.argsort(costs[left].sum(axis=1), kind="stable")]
    on = np.zeros(len(costs), bool)
    while left.size:
        best = costs[left[0]]
        equal = (costs[left] == best).all(axis=1)
        on[left[equal]] = True
        left = left[(costs[left] < best).any(axis=1)]
    return pd.Series(on, index=rows.index, dtype="bool")


def knee(x: Sequence[float], y: Sequence[float]) -> int | None:
    """The place of the knee of a curve: from there on y falls less than it did, in proportion to x.

    The point farthest below the straight line from the first point to the last, both axes logarithmic, where
    a line is what y = work / x looks like: so perfect scaling has no knee, whatever its range. None where
    there is none, a tenth below the line at least. x ascends; both are positive. Source: Satopää et al.,
    "Finding a 'Kneedle' in a Haystack", 2011, without its smoothing.
    """
    if len(x) < 3:
        return None
    across, up = np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64))
    line = up[0] + (up[-1] - up[0]) * (across - across[0]) / (across[-1] - across[0])
    place = int(np.argmax(line - up))
    return place if line[place] - up[place] > np.log1p(KNEE_DEPTH) else None


def curve(summary: pd.DataFrame, field: str, setting: int) -> pd.DataFrame:
    """The settings that differ from this one in this field only, with numbers, in the field's order.

    A `map_concurrency` of 0 stands as the 10,000 that it means.
    """
    others = [name for name in varied(summary) if name != field]
    # Compared as text: a distribution of times is a dict in its column.
    texts = summary[others].map(repr)
    own = texts[summary["setting"] == setting].iloc[0]
    alike = summary[(texts == own).all(axis=1) & summary["makespan"].notna()]
    if field == "map_concurrency":
        alike = alike.assign(map_concurrency=alike[field].replace(0, DISTRIBUTED_MAP_LIMIT))
    return alike.sort_values(field, ignore_index=True)


def text(summary: pd.DataFrame) -> str:
    """The summary to read: of makespan its interval too, and on which frontiers a setting is."""
    shown = summary.assign(
        makespan=[
            "" if pd.isna(middle) else f"{middle:.4g} ({low:.4g}-{high:.4g})"
            for middle, low, high in zip(
                summary["makespan"], summary["makespan_low"], summary["makespan_high"], strict=True
            )
        ],
        frontier=[
            " ".join(name for name, on in (("usd", usd), ("p95", p95)) if on)
            for usd, p95 in zip(summary["frontier_usd"], summary["frontier_p95_sojourn"], strict=True)
        ],
    )
    hidden = [name for name in map(str, summary) if name.endswith(("_low", "_high")) or "frontier_" in name]
    return to_text(shown.drop(columns=hidden))


def readable(number: float, digits: int = 3) -> str:
    """A number to read: so many digits, but all that stand before the point."""
    return f"{number:,.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}"


def check(rows: pd.DataFrame, limits: str = "") -> list[str]:
    """What is wrong with the runs, a sentence each: no trace, a broken law, a broken limit. Empty if nothing.

    limits: as `bounds` reads them. A number that a run does not have, such as the waiting time without a
    limited lane, keeps no limit.
    """
    limited = bounds(limits)
    told = []
    for row in rows.to_dict("records"):
        wrong = [row[name] for name in ("error", "law") if pd.notna(row[name])]
        if wrong:
            told.append(f"{row['run']}: {wrong[0]}")
            continue
        told += [
            f"{row['run']}: {name}={_number(row, name):g}, but must be {sign}{bound:g}"
            for name, sign, bound in _broken(row, limited)
        ]
    return told


@dataclass(frozen=True)
class Recommendation:
    """The setting to take: its number, one sentence that names it, and why.

    parameters: those of the `combined` workflow's CloudFormation template.
    """

    setting: int
    experiment: Experiment
    sentence: str
    reasons: tuple[str, ...]
    parameters: dict[str, stack.Value]

    def __str__(self) -> str:
        parameters = " ".join(f"{name}={value}" for name, value in self.parameters.items())
        reasons = "".join(f"  - {reason}\n" for reason in self.reasons)
        return f"{self.sentence}\n{reasons}--parameter-overrides {parameters}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return vars(self) | {"experiment": self.experiment.to_dict(), "reasons": list(self.reasons)}


def recommend(rows: pd.DataFrame, objective: str = "makespan", limits: str = "") -> Recommendation:
    """The setting with the lowest objective of those whose every run keeps the laws and these limits.

    Settings less than 5 % above the lowest, at the median on the same items, count as equal. Of these the
    cheapest (of the cheapest the fastest) and then the one with the least concurrency is taken: it loads what
    lies behind the workers least. limits: as in `check`. Raises SweepError for an objective not in
    OBJECTIVES, and when no setting is left, naming how many each limit leaves.
    """
    check_objective(objective)
    limited = bounds(limits)
    summary = medians(rows)
    allowed = summary[(summary["failed"] == 0) & _keep(rows, summary, limited)]
    if allowed.empty:
        raise SweepError(_why_none(rows, summary, limited))
    equal = [int(setting) for setting in allowed["setting"]]
    for number in (objective, "usd" if objective != "usd" else "makespan"):
        equal = _near(rows, equal, number)
    candidates = {setting: _experiment(rows, setting) for setting in equal}
    setting = min(candidates, key=lambda n: (candidates[n].worker_concurrency, candidates[n].map_limit))
    return _recommendation(rows, summary, setting, candidates[setting], objective, limited)


def check_objective(objective: str) -> None:
    """Raise SweepError for an objective that is not in OBJECTIVES."""
    if objective not in OBJECTIVES:
        raise SweepError(f"objective={objective!r}: must be one of {', '.join(OBJECTIVES)}; choose one")


def bounds(limits: str) -> list[Bound]:
    """The comparisons in a text such as "p95_sojourn<30 and peak_workers<=100": name, sign and number.

    Raises SweepError for what is no comparison, and for a name that is not in NUMBERS.
    """
    found = []
    for part in limits.split(" and ") if limits else []:
        if not (match := COMPARISON.fullmatch(part.strip())):
            raise SweepError(f"{part.strip()!r}: no comparison; write for example p95_sojourn<30")
        name, sign, number = match.groups()
        if name not in NUMBERS:
            raise SweepError(f"{name!r}: no number of a run; choose from {', '.join(NUMBERS)}")
        found.append((name, sign, float(number)))
    return found


def _number(row: Mapping[Hashable, Any], name: str) -> float:
    """A number of a run; NaN, which keeps no limit, where it has none."""
    value = row.get(name)
    return math.nan if value is None else float(value)


def _broken(row: Mapping[Hashable, Any], limits: Sequence[Bound]) -> list[Bound]:
    """Those of the limits that a run does not keep."""
    return [(name, sign, bound) for name, sign, bound in limits if not SIGNS[sign](_number(row, name), bound)]


def _sound(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs that have a trace, which keeps the laws."""
    return rows[rows["error"].isna() & rows["law"].isna()]


def _keep(rows: pd.DataFrame, summary: pd.DataFrame, bounds: Sequence[Bound]) -> npt.NDArray[np.bool_]:
    """For each setting of the summary, whether all of its runs keep the bounds."""
    kept = [not _broken(row, bounds) for row in rows.to_dict("records")]
    good = pd.Series(kept, index=rows.index).groupby(rows["setting"]).all()
    return summary["setting"].map(good).to_numpy(bool)


def _why_none(rows: pd.DataFrame, summary: pd.DataFrame, bounds: Sequence[Bound]) -> str:
    sound = summary["failed"] == 0
    if not sound.any():
        return (
            f"all {len(summary)} settings have runs that failed or break a law; see their errors in the table"
        )
    left = [
        f"{name}{sign}{bound:g} ({int((sound & _keep(rows, summary, [(name, sign, bound)])).sum())} of "
        f"{len(summary)} settings; seen: {_sound(rows)[name].min():.4g} to {_sound(rows)[name].max():.4g})"
        for name, sign, bound in bounds
    ]
    return f"no setting keeps {' and '.join(left)} in every run; relax a limit, or sweep other values"


def _near(rows: pd.DataFrame, settings: list[int], number: str) -> list[int]:
    """Those of the settings that are as good as the one with the lowest median."""
    values = rows.pivot(index="repetition", columns="setting", values=number)
    middle = dict(values.median())
    best = min(settings, key=lambda setting: middle[setting])
    return [setting for setting in settings if _ratio(values, setting, best) <= 1 + NEAR]


def _ratio(values: pd.DataFrame, setting: int, to: int) -> float:
    """One setting's number over another's, at the median of the repetitions.

    Both ran on the same items in each, so that their ratio varies less than either of them.
    """
    return float(np.nanmedian((values[setting] / values[to]).to_numpy(np.float64)))


def _experiment(rows: pd.DataFrame, setting: int) -> Experiment:
    """The setting as it was given: with the seed of its first repetition."""
    own = rows[rows["setting"] == setting].sort_values("repetition").iloc[0]
    return Experiment.from_dict({name: _plain(own[name]) for name in [*FIELDS, "seed"]})


def _plain(value: Any) -> Any:
    """As it was before it was put into a column: numpy's numbers are Python's, and a missing one is None."""
    if isinstance(value, np.generic):
        return value.item()
    return None if value is pd.NA else value


def _recommendation(
    rows: pd.DataFrame,
    summary: pd.DataFrame,
    setting: int,
    experiment: Experiment,
    objective: str,
    bounds: Sequence[Bound],
) -> Recommendation:
    chosen = summary[summary["setting"] == setting].iloc[0]
    runs = rows[rows["setting"] == setting]
    names = varied(summary) or list(CONCURRENCY)
    take = ", ".join(f"{name}={_plain(runs[name].iloc[0])}" for name in names)
    sentence = (
        f"Take {take}: {experiment.items:,} items in {readable(chosen['makespan'])} s, p95 of sojourn time "
        f"{readable(chosen['p95_sojourn'])} s, ${readable(chosen['usd'])} a run."
    )
    spread = f"{readable(chosen[f'{objective}_low'])} to {readable(chosen[f'{objective}_high'])}"
    spread = f"{spread}: 95 % interval of {len(runs)} runs" if len(runs) > 1 else "one run: spread unknown"
    reasons = [
        f"{objective} {readable(chosen[objective])} ({spread}): no setting allowed is 5 % lower on the same "
        "items",
        f"cost: ${1000 * chosen['usd'] / experiment.items:.3g} for 1,000 items",
        f"{chosen['binds']} binds for {runs['binding_share'].median():.0%} of the time; efficiency "
        f"{chosen['efficiency']:.2f}: {readable(chosen['makespan'])} s against "
        f"{readable(chosen['ideal_makespan'])} s ideal",
    ]
    for field in CONCURRENCY:
        reasons += _neighbours(rows, summary, field, setting)
    reasons += [
        f"{name}{sign}{bound:g} holds in every run: {runs[name].min():.4g} to {runs[name].max():.4g}"
        for name, sign, bound in bounds
    ]
    if work := [name for name in names if name in WORK]:
        reasons.append(f"the settings differ in {', '.join(work)}: less work may be all that makes it better")
    return Recommendation(setting, experiment, sentence, tuple(reasons), stack.parameters(experiment))


def _neighbours(rows: pd.DataFrame, summary: pd.DataFrame, field: str, setting: int) -> list[str]:
    """What the next lower and the next higher value of this field would give."""
    if field not in summary:
        return []
    along = curve(summary, field, setting)
    place = int(np.flatnonzero(along["setting"] == setting)[0])
    others = along.iloc[[other for other in (place - 1, place + 1) if 0 <= other < len(along)]]
    values = rows.pivot(index="repetition", columns="setting", values="makespan")
    told = [
        f"{value} takes {_ratio(values, other, setting):.2f} times as long"
        for other, value in zip(others["setting"], others[field], strict=True)
    ]
    found = knee(along[field].tolist(), along["makespan"].tolist())
    if found is not None:
        told.append(f"the knee is at {along[field].iloc[found]}")
    return [f"{field}: {', '.join(told)}"] if told else []
