"""Many experiments on one engine: a grid of settings, repeated, each run on disk as it ends.

A sweep has a folder: `plan.json` says what is to run, `traces/` holds a file for each run that ended, its
trace or its error. So a sweep that was killed at any moment goes on where it was: what is in `traces/` is
done, everything else is not. The results are read back from there, by `table`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from helpers import checks, cost, metrics
from helpers.console import Bar, say
from helpers.engines.base import Engine
from helpers.errors import BudgetError, FileError, LabError, SweepError
from helpers.experiment import Experiment
from helpers.files import locked, open_own, write_whole, writing
from helpers.formatting import plain
from helpers.resources import causes
from helpers.trace import Trace

__all__ = ["Sweep", "as_table", "grid", "read", "run", "run_name", "table"]

OVERHEAD_SECONDS = 2.0
"""Assumed for a run beyond its ideal makespan, where the time left is shown."""
FILE = re.compile(r"s[0-9]{3,}-r[0-9]{2,}\.(parquet|json)")
"""The name of a run's file, see `run_name`."""


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
                yield run_name(number, repetition), replace(setting, seed=setting.seed + repetition)

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

    Before the first run there is one more, of the setting with the most workers, which warms the engine up
    and is not part of the results. A run that the lab refuses or that fails is recorded with its error, and
    the sweep goes on.

    resume: go on with the sweep in this folder. A run whose file is damaged is done again; the file goes to
    the folder `damaged`, as standard error tells. Raises SweepError when the folder holds a sweep and
    `resume` is not given, when it holds another one, when another process works on it, or when the engine
    stops answering, its budget does not allow the next run, or there is no room for its trace. Raises
    FileError when `.lock` or `traces` in the folder is a link.
    """
    folder = Path(folder)
    plan = folder / "plan.json"
    wanted = json.dumps(sweep.to_dict(), indent=1)
    traces = folder / "traces"
    with writing(traces):
        traces.mkdir(parents=True, exist_ok=True)
        os.close(open_own(traces, os.O_RDONLY | os.O_DIRECTORY))
    with _locked(folder), engine.bench() as run_next:
        if plan.exists():
            if not resume:
                raise SweepError(f"{folder}: holds a sweep already; resume it, or choose another folder")
            if plan.read_bytes() != wanted.encode():
                raise SweepError(
                    f"{folder}: holds another sweep (see {plan}); resume with its settings, "
                    "or choose another folder"
                )
        else:
            write_whole(plan, wanted)
        for path in _files(traces):
            _set_aside(path)
        to_do = missing(sweep, folder)
        for experiment in widest([experiment for _, experiment in to_do]):
            with contextlib.suppress(LabError, BotoCoreError, ClientError):
                # If it fails, its setting's own run will say what is wrong.
                run_next(experiment, progress=False).save(folder / "warm-up.parquet")
        for name, experiment in _shown(to_do, progress):
            try:
                run_next(experiment, progress=False).save(traces / f"{name}.parquet")
            except (LabError, BotoCoreError, ClientError) as error:
                if not _of_the_setting(error):
                    raise SweepError(
                        f"{folder}: stopped at run {name} ({error}); resume the sweep"
                    ) from error
                told = {
                    "experiment": experiment.to_dict(),
                    "error": plain(f"{type(error).__name__}: {error}"),
                }
                write_whole(traces / f"{name}.json", json.dumps(told, indent=1))


def _of_the_setting(error: Exception) -> bool:
    """Whether it is the setting that failed, and not the engine, the budget or the disk."""
    others = BudgetError | FileError | BotoCoreError
    reasons = [reason for reason in (error, error.__cause__) if isinstance(reason, others)]
    return not reasons or isinstance(reasons[0], WaiterError)


def missing(sweep: Sweep, folder: str | Path) -> list[tuple[str, Experiment]]:
    """Name and experiment of each run of the sweep that has no readable file in this folder."""
    done = {path.stem for path in _files(Path(folder) / "traces") if not _damage(path)}
    return [(name, experiment) for name, experiment in sweep.runs() if name not in done]


def widest(experiments: Sequence[Experiment]) -> list[Experiment]:
    """What warms an engine up for these experiments: the one that asks most of it, if there is any."""
    return [max(experiments, key=_width)] if experiments else []


def table(folder: str | Path) -> pd.DataFrame:
    """The results of a sweep so far, one row a run that ended, in the order of the sweep.

    Columns: `run` (its name), `setting` (its number), `repetition`, the fields of Experiment, the numbers of
    `metrics.summary` (without its lanes), `usd` (what the run would cost on AWS, see `cost.of`), `binds` and
    `binding_share` (what held it back most, and for which share of the makespan, see `metrics.saturation`),
    `law` (that the trace broke) and `error` (why there is no trace), both missing where all is well. Raises
    SweepError for a folder without a sweep, and for a damaged file, which it names.
    """
    folder = Path(folder)
    if not (folder / "plan.json").exists():
        raise SweepError(f"{folder}: holds no sweep; run one there first")
    rows = []
    for path in sorted(_files(folder / "traces"), key=lambda p: (p.stem.split("-")[1], p.stem)):
        setting, repetition = (int(part[1:]) for part in path.stem.split("-"))
        told = _told(path)
        about = {"run": path.stem, "setting": setting, "repetition": repetition}
        rows.append(about | (read(told) if isinstance(told, Trace) else told))
    return as_table(rows)


def _files(traces: Path) -> list[Path]:
    """The files of runs that ended: a trace, or the error in place of one."""
    return [path for path in traces.glob("*") if FILE.fullmatch(path.name)]


def _told(path: Path) -> Trace | dict[str, Any]:
    """Read a run's trace or, where it failed, its settings and error. Raises SweepError if damaged."""
    try:
        if path.suffix == ".parquet":
            return Trace.load(path)
        told = json.loads(path.read_bytes())
        error = plain(str(told["error"]))
        return Experiment.from_dict(told["experiment"]).to_dict() | {"law": None, "error": error}
    except (OSError, ValueError, LookupError, TypeError, RecursionError, LabError) as error:
        if any(_is_passing(cause) for cause in causes(error)):
            raise FileError(
                f"{path}: cannot be read now ({error}); look after the file, and resume the sweep"
            ) from error
        raise SweepError(
            f"{path}: damaged ({error}); resume the sweep, which sets it aside and runs it again"
        ) from error


def _is_passing(cause: BaseException) -> bool:
    """Return whether a file may be read once this cause has gone; pyarrow's OSErrors have no errno."""
    if isinstance(cause, OSError):
        return bool(cause.errno) and not isinstance(cause, IsADirectoryError | FileNotFoundError)
    return isinstance(cause, MemoryError)


def _damage(path: Path) -> str:
    """Return why a run's file cannot be read, or "" where it can be."""
    try:
        _told(path)
    except SweepError as error:
        return str(error.__cause__)
    return ""


def _set_aside(path: Path) -> None:
    """Move a run's file, if it is damaged, out of the way under a name that is free, and say so."""
    if reason := _damage(path):
        aside = path.parents[1] / "damaged"
        with writing(aside):
            aside.mkdir(exist_ok=True)
            os.close(open_own(aside, os.O_RDONLY | os.O_DIRECTORY))
            free = next(to for n in itertools.count(1) if not (to := aside / f"{n}-{path.name}").exists())
            path.rename(free)
        say(f"{path}: damaged ({reason}); set aside as {free}, and run again", err=True)


def run_name(setting: int, repetition: int) -> str:
    """What a run is called, by the numbers of its setting and repetition."""
    return f"s{setting:03d}-r{repetition:02d}"


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as `read` makes them as a table, whose optional settings are numbers or none at all."""
    optional = {"heartbeat_seconds": "Int64", "arrivals_per_second": "Float64"}
    return pd.DataFrame(rows).astype(optional if rows else {})


def read(trace: Trace) -> dict[str, Any]:
    """The row of a run in `table`, without the columns that say where in the sweep it was."""
    numbers = {name: value for name, value in metrics.summary(trace).items() if name != "lanes"}
    shares = metrics.saturation(trace)
    binds = max(shares, key=shares.__getitem__)
    return {
        **trace.experiment.to_dict(),
        **numbers,
        "usd": cost.total(cost.of(trace)),
        "binds": binds,
        "binding_share": shares[binds],
        "law": _broken(trace),
        "error": None,
    }


def _width(experiment: Experiment) -> tuple[bool, int, int]:
    """Orders experiments by how much they ask of a warm-up."""
    return experiment.consumer == "lambda", experiment.worker_concurrency, experiment.map_limit


def _shown(runs: list[tuple[str, Experiment]], progress: bool) -> Iterator[tuple[str, Experiment]]:
    """The runs, and on a bar how much time is left: long ones count for more than short ones."""
    seconds = [metrics.ideal_makespan(experiment) + OVERHEAD_SECONDS for _, experiment in runs]
    with Bar(
        total=sum(seconds),
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left",
        smoothing=0,
        disable=not progress,
    ) as bar:
        for number, (run, taken) in enumerate(zip(runs, seconds, strict=True), 1):
            bar.set_description_str(f"run {number} of {len(runs)}")
            yield run
            bar.update(taken)


def _broken(trace: Trace) -> str | None:
    try:
        checks.verify(trace)
    except checks.LawBroken as broken:
        return str(broken)
    return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder; the system frees it when this process ends, however it does."""
    with locked(folder / ".lock") as held:
        if not held:
            raise SweepError(f"{folder}: another sweep runs there; wait for it, or choose another")
        yield
