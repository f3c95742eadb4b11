"""`lab predict`, `lab tune` and `lab calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from helpers import budget, tune
from helpers import sweep as sweeps
from helpers.commands.given import assigned, value_lists
from helpers.commands.places import Place, placed
from helpers.errors import LabError
from helpers.experiment import Experiment
from helpers.files import RUNS, write_whole
from helpers.predict import Prediction, fitted
from helpers.predict import predict as predicting
from helpers.search import Found, search
from helpers.simulation import calibration
from helpers.simulation.quotas import PRESETS, Quotas, sources
from helpers.trace import Trace
from helpers.values import loaded

Items = Annotated[int, typer.Option("--items", help="Items of the map.")]
QuotasName = Annotated[
    str, typer.Option("--quotas", help=f"One of {', '.join(PRESETS)}, or a file that calibrate wrote.")
]
Figures = Annotated[
    list[str] | None,
    typer.Option("--quota", help="FIELD=VALUE of Quotas, inf for no limit; may be given often."),
]
ServiceTimes = Annotated[
    Path | None,
    typer.Option(help="A trace, measured or observed, whose service times and failures to take."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _quotas(name: str, figures: list[str] | None) -> Quotas:
    """The quotas of this name or in this file, with these figures in place of their own."""
    if name in PRESETS:
        allowed = PRESETS[name]
    elif Path(name).is_file():
        try:
            allowed = Quotas.from_dict(json.loads(Path(name).read_text()))
        except ValueError as error:
            raise LabError(f"quotas {name!r}: not readable as JSON ({error}); calibrate again") from error
    else:
        raise LabError(
            f"quotas {name!r}: neither known nor a file; choose one of {', '.join(PRESETS)}, or calibrate"
        )
    values: dict[str, Any] = {}
    for key, text in assigned(figures).items():
        if key not in sources():
            raise LabError(f"quota {key!r}: not known; the quotas are {', '.join(sources())}")
        values[key] = loaded(text, key)
    return replace(allowed, **values)


def _measured(items: int, values: list[str] | None, trace: Path | None) -> tuple[Experiment, dict[str, Any]]:
    """An experiment of so many items, with the times of a trace if there is one, and the values to set."""
    lists = value_lists(assigned(values))
    if "items" in lists:
        raise LabError("items: are given by --items; leave them out of --set")
    experiment = Experiment(items)
    return fitted(experiment, Trace.load(trace)) if trace else experiment, lists


def predict_run(
    items: Items,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of Experiment; may be given often.")
    ] = None,
    quotas: QuotasName = "us-east-1",
    quota: Figures = None,
    service_times: ServiceTimes = None,
    repetitions: Annotated[int, typer.Option(help="Simulated runs, each on other items.")] = 5,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Where to save the predicted trace and timeline.")] = None,
) -> None:
    """Predict a run on AWS by simulation: times and cost with intervals, quotas, what binds, timeouts.

    What --set gives goes before what --service-times measured.

    Example: ./lab predict --items 1000000 --set worker_concurrency=200 --quota children_per_second=1000
    """
    base, lists = _measured(items, values, service_times)
    for key, listed in lists.items():
        if len(listed) != 1:
            raise LabError(
                f"{key}={listed!r}: a prediction takes one value; choose among several by `lab tune`"
            )
    [experiment] = sweeps.grid(base, lists)
    predicted = predicting(experiment, _quotas(quotas, quota), repetitions)
    _show(predicted, as_json, out)


def tune_settings(
    items: Items,
    objective: Annotated[str, typer.Option(help=f"What to make small: {', '.join(tune.OBJECTIVES)}.")],
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=V1,V2,... of Experiment to choose from; may be given often."),
    ] = None,
    under: Annotated[
        str, typer.Option(help="Limits to keep, e.g. 'usd<2 and p95_sojourn<30 and peak_workers<=100'.")
    ] = "",
    quotas: QuotasName = "us-east-1",
    quota: Figures = None,
    service_times: ServiceTimes = None,
    repetitions: Annotated[int, typer.Option(help="Simulated runs of the setting that is chosen.")] = 3,
    as_json: Json = False,
    out: Annotated[
        Path | None, typer.Option(help="Where to save the runs, the trace and its timeline.")
    ] = None,
) -> None:
    """Find the best settings under limits by simulation, with timeouts, as CloudFormation parameters.

    Chooses worker_concurrency, map_concurrency and batch_size, unless --set gives them, and among the values
    that --set lists. A budget is a limit of usd, a deadline one of makespan; peak_workers is how many
    workers load what lies behind them.

    Example: ./lab tune --items 10000 --objective usd --under 'makespan<600 and peak_workers<=100'
    """
    base, lists = _measured(items, values, service_times)
    found = search(base, lists, objective, under, _quotas(quotas, quota), repetitions)
    _show(found, as_json, out)


def _show(result: Prediction | Found, as_json: bool, out: Path | None) -> None:
    if out:
        out.mkdir(parents=True, exist_ok=True)
        result.save(out)
    typer.echo(json.dumps(result.to_dict()) if as_json else str(result))
    if out and not as_json:
        typer.echo(f"\nsee {out}")


@placed
def calibrate(
    place: Place,
    out: Annotated[
        Path | None, typer.Option(help="File for the quotas; default runs/quotas-<time>.json.")
    ] = None,
) -> None:
    """Measure an engine's own quotas on this machine, so that simulations predict what it would measure.

    Runs a few short experiments, prints the figures and saves all quotas as JSON (see Quotas.from_dict).

    Example: ./lab calibrate
    """
    runs = [calibration.EXPERIMENTS[-1], *calibration.REPETITIONS * calibration.EXPERIMENTS]
    place.announce(f"{len(runs)} runs", sum(map(budget.of_run, runs)))
    with place.connect() as connected:
        measured = calibration.calibrate(calibration.measure(connected))
    figures = measured.to_dict()
    file = out or RUNS / f"quotas-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(figures, indent=1))
    for name, value in figures.items():
        typer.echo(f"{name} = {'unlimited' if value is None else round(value, 6)}")
    typer.echo(f"see {file}")
