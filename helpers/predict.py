"""What an Experiment would do on AWS: numbers with intervals, quotas in use, what binds, timeouts to set."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import cost, sweep, tune
from helpers.errors import TraceError
from helpers.experiment import Experiment, empirical
from helpers.files import write_whole
from helpers.simulation import timeouts, usage
from helpers.simulation.model import simulate
from helpers.simulation.quotas import AWS_US_EAST_1, Quotas
from helpers.trace import LANES, Trace

__all__ = ["Prediction", "fitted", "predict"]

HIT = 0.9
"""The share from which a quota may bind: a trace does not tell all that a quota counts."""
MEASURED = 1_000
"""Measured times that are kept of a lane: enough for every percentile of a prediction, and few to print."""
SHOWN = {
    **{"makespan": "s", "throughput": "items/s", "efficiency": "", "peak_map": "children"},
    **{"peak_workers": "workers", "utilisation": "of the workers"},
    **{f"{of}_{time}": "s" for time in ("waiting", "sojourn") for of in ("p50", "p95", "p99")},
    **dict.fromkeys(("failed", "timed_out", "dead_lettered"), "items"),
}
"""The numbers to print, with their units; counts of items where there are any."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Replications of an experiment, each on other items, in virtual time.

    numbers: of each number of a run (see `tune.NUMBERS`), its median over the replications and the ends of
    its 95 % interval (see `tune.interval`). trace, bill (see `cost.of`), use (see `usage.table`), binding,
    saves, held and cliff are of the first replication.
    binding: the quota without which the run would be shortest, or "none"; saves: by which share of the
    makespan. held: what held the run back most, quota or setting, and its share (see `metrics.saturation`).
    cliff: the quota that is used most of those not reached, or "none".
    timeouts: the clocks to set (see `simulation.timeouts`).
    """

    experiment: Experiment
    quotas: Quotas
    repetitions: int
    numbers: dict[str, tuple[float, float, float]]
    trace: Trace
    bill: pd.DataFrame
    use: pd.DataFrame
    binding: str
    saves: float
    held: tuple[str, float]
    cliff: str
    timeouts: timeouts.Advice

    def sentences(self) -> list[str]:
        """What binds, what comes next, what the run costs."""
        what, share = self.held
        said = [
            f"No quota binds: {what} holds the run back for {share:.0%} of the time"
            if self.binding == "none"
            else f"{self.binding} binds ({', '.join(usage.FIELDS[self.binding])}): without it the run would "
            f"be {self.saves:.0%} shorter"
        ]
        if self.cliff != "none":
            used = float(self.use.set_index("quota")["share"][self.cliff])
            said.append(
                f"Next cliff: {self.cliff}, {used:.1%} used: at {1 / used:.3g} times the load it is reached"
            )
        usd, low, high = self.numbers["usd"]
        services = self.bill.groupby("service")["usd"].sum()
        parts = ", ".join(f"{service} ${part:.3g}" for service, part in services.items())
        said.append(f"Cost: ${usd:.4g} a run (${low:.4g} to ${high:.4g}): {parts}")
        return said

    def __str__(self) -> str:
        shown = [
            (name, *(tune.readable(value, 4) for value in self.numbers[name]), unit)
            for name, unit in SHOWN.items()
            if name in self.numbers and (unit != "items" or self.numbers[name][2] > 0)
        ]
        numbers = pd.DataFrame(shown, columns=["", "median", "low", "high", "unit"])
        use = self.use.assign(
            share=[f"{share:.1%}" for share in self.use["share"]],
            seconds=[tune.readable(seconds) if seconds else "" for seconds in self.use["seconds"]],
            **{name: self.use[name].map(tune.readable) for name in ("peak", "limit")},
        )
        lost = self.timeouts.struck
        return "\n".join(
            (
                f"{self.experiment.items:,} items, {self.repetitions} replications: medians, 95 % intervals",
                numbers.to_string(index=False),
                "",
                use.to_string(index=False),
                "",
                *self.sentences(),
                "",
                *self.timeouts.reasons,
                *([f"with these clocks {lost:,} items would still be lost"] if lost else []),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the trace, as JSON holds it; what is unlimited is null."""
        clocks = {name: getattr(self.timeouts.experiment, name) for name in timeouts.HIGHEST}
        used = self.use.set_index("quota")["share"].to_dict()
        return {
            "experiment": self.experiment.to_dict(),
            "quotas": self.quotas.to_dict(),
            "repetitions": self.repetitions,
            "numbers": {
                name: dict(zip(("median", "low", "high"), three, strict=True))
                for name, three in self.numbers.items()
            },
            "bill": self.bill.to_dict("records"),
            "use": [{k: _finite(v) for k, v in row.items()} for row in self.use.to_dict("records")],
            "binding": {"quota": self.binding, "saves": self.saves},
            "held": dict(zip(("by", "share"), self.held, strict=True)),
            "cliff": {"quota": self.cliff, "share": used.get(self.cliff)},
            "timeouts": clocks | {"reasons": list(self.timeouts.reasons), "struck": self.timeouts.struck},
            "sentences": self.sentences(),
        }

    def save(self, folder: Path) -> Path:
        """Write trace.parquet, prediction.json and timeline.png, of the first replication, into a folder."""
        from helpers import plots

        self.trace.save(folder / "trace.parquet")
        write_whole(folder / "prediction.json", json.dumps(self.to_dict(), indent=1))
        plots.save(folder / "timeline.png", lambda ax: plots.timeline(self.trace, ax))
        return folder


def predict(
    experiment: Experiment,
    quotas: Quotas = AWS_US_EAST_1,
    repetitions: int = 5,
    keep: Collection[str] = (),
) -> Prediction:
    """Simulate the experiment under these quotas, `repetitions` times, with seeds from its own on.

    keep: clocks (of `timeouts.HIGHEST`) that the timeouts to set leave as the experiment has them. Raises
    SweepError for fewer than one repetition.
    """
    replications = [run for _, run in sweep.Sweep((experiment,), repetitions).runs()]
    trace = simulate(replications[0], quotas)

    def read(replication: Experiment) -> dict[str, Any]:
        return sweep.read(trace if replication == replications[0] else simulate(replication, quotas))

    with ThreadPoolExecutor(timeouts.THREADS) as pool:
        rows = list(pool.map(read, replications))
    use = usage.table(trace, quotas)
    binding, saves = _binding(experiment, quotas, use)
    next_ones = use[(use["share"] < HIT) & (use["share"] > 0) & (use["quota"] != binding)]
    return Prediction(
        experiment=experiment,
        quotas=quotas,
        repetitions=repetitions,
        numbers=_numbers(rows),
        trace=trace,
        bill=cost.of(trace),
        use=use,
        binding=binding,
        saves=saves,
        held=(rows[0]["binds"], rows[0]["binding_share"]),
        cliff=str(next_ones.nlargest(1, "share")["quota"].squeeze()) if len(next_ones) else "none",
        timeouts=timeouts.advise(replications, quotas, keep),
    )


def fitted(experiment: Experiment, trace: Trace) -> Experiment:
    """The experiment with the service times and failures of a measured trace, of any engine or observation.

    Each lane that the trace has takes `empirical` times: those of its attempts that ended, between the start
    and the end that the worker itself saw; of more than MEASURED, so many from the shortest to the longest,
    evenly spaced in their order. failure_rate: the share of all attempts that ended which failed. Raises
    TraceError where no attempt ended, and InvalidExperiment where all failed.
    """
    ended = trace.attempts["end"].notna()
    if not ended.any():
        raise TraceError("no attempt ended: nothing tells how long service takes; give a trace with some")
    failed = trace.attempts["outcome"][ended] == "failed"
    measured: dict[str, Any] = {"failure_rate": float(failed.mean())}
    for lane in LANES:
        own = trace.attempts[ended & trace.attempts_of(lane)]
        seconds = np.sort((own["end"] - own["start"]).clip(lower=0).round(6))
        if len(seconds):
            kept = np.linspace(0, len(seconds) - 1, min(len(seconds), MEASURED)).round().astype(int)
            measured[f"{lane}_seconds"] = empirical(seconds[kept].tolist())
    return replace(experiment, **measured)


def _binding(experiment: Experiment, quotas: Quotas, use: pd.DataFrame) -> tuple[str, float]:
    """The quota whose removal alone shortens the makespan the most, and by which share; none below NEAR.

    With the clocks out of the way: with more timeouts a run would look shorter.
    """
    hit = use["quota"][use["share"] >= HIT].tolist()
    # Of two quotas that are the same fields the first is named: neither can be removed alone.
    without = {usage.lifted(quotas, name): name for name in reversed(hit)} | {quotas: "none"}
    free = timeouts.unclocked(experiment)

    def run(allowed: Quotas) -> float:
        return float(simulate(free, allowed).items["returned"].max())

    with ThreadPoolExecutor(timeouts.THREADS) as pool:
        spans = dict(zip(without.values(), pool.map(run, without), strict=True))
    best = min(spans, key=spans.__getitem__)
    saves = 1 - spans[best] / spans["none"]
    return (best, saves) if saves >= tune.NEAR else ("none", 0.0)


def _numbers(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Median and interval of each number that every run has."""
    values = {name: [row[name] for row in rows] for name in tune.NUMBERS}
    return {name: tune.interval(own) for name, own in values.items() if None not in own}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
