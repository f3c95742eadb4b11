"""The command line: `./lab COMMAND`, or `lab COMMAND` once installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from helpers import notebooks, stack, tune
from helpers import observe as observing
from helpers import sweep as sweeps
from helpers.engines import ENGINES, Engine, connect, embedded
from helpers.errors import EngineError, LabError
from helpers.experiment import Experiment
from helpers.files import write_whole
from helpers.observing import reader
from helpers.predict import Prediction, fitted
from helpers.predict import predict as predicting
from helpers.search import Found, search
from helpers.simulation import calibration
from helpers.simulation.quotas import PRESETS, Quotas, sources
from helpers.trace import Trace

ROOT = Path(__file__).parents[1]
REPORT = "05_benchmark_concurrency"
"""The notebook that also reports on a finished sweep."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn and measure how concurrent work flows through SQS, Distributed Map and task tokens.",
)
engine_app = typer.Typer(no_args_is_help=True, help="Keep one embedded engine running, e.g. for JupyterLab.")
app.add_typer(engine_app, name="engine")

EngineName = Annotated[str, typer.Option("--engine", help=f"Where to run: {', '.join(sorted(ENGINES))}.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="KEY=VALUE; may be given more than once.")
]


def _assigned(pairs: list[str] | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LabError(f"parameter {pair!r}: must be KEY=VALUE; for example -p scale=full")
        if key in values:
            raise LabError(f"{key}: is given twice, as {values[key]!r} and as {value!r}; give it once")
        values[key] = value
    return values


@contextmanager
def _shared(name: str) -> Iterator[Engine]:
    """An engine that the processes started in the block find as AWS_ENDPOINT_URL."""
    with connect(name) as engine:
        before = os.environ.get("AWS_ENDPOINT_URL")
        os.environ["AWS_ENDPOINT_URL"] = engine.endpoint_url
        try:
            yield engine
        finally:
            if before is None:
                del os.environ["AWS_ENDPOINT_URL"]
            else:
                os.environ["AWS_ENDPOINT_URL"] = before


@app.command()
def run(
    names: Annotated[
        list[str] | None, typer.Argument(help="Notebooks, e.g. 04 or 02_distributed_map.")
    ] = None,
    engine: EngineName = "embedded",
    out: Annotated[Path | None, typer.Option(help="Where to put the results; default runs/<time>.")] = None,
    scale: Annotated[str | None, typer.Option(help="quick, or full for the headline numbers.")] = None,
    param: Assignments = None,
) -> None:
    """Execute the walkthrough's notebooks, in order; exit 1 if one fails.

    Writes the executed notebooks, index.html with every figure, and results.json.

    Example: ./lab run 04 --scale full
    """
    paths = notebooks.resolve(names or [])
    parameters = _assigned(param) | {"engine": engine} | ({} if scale is None else {"scale": scale})
    folder = out or ROOT / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with _shared(engine) as connected:
        typer.echo(f"engine {engine} at {connected.endpoint_url}")
        results = notebooks.run(paths, folder, parameters, progress=True)
    for result in results:
        typer.echo(f"{'ok    ' if result.ok else 'FAILED'} {result.seconds:6.1f} s  {result.name}")
        if not result.ok:
            typer.echo(f"       cell {result.cell}: {result.error}", err=True)
    typer.echo(f"see {folder / 'index.html'}")
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _loaded(text: str) -> Any:
    """What a YAML text holds."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LabError(f"grid: not readable ({error}); write FIELD: [V1, V2]") from error


def _lists(given: dict[str, str]) -> dict[str, Any]:
    """What assignments of comma-separated values give."""
    return {key: _loaded(f"[{text}]") for key, text in given.items()}


def _settings(given: str | dict[str, str]) -> tuple[Experiment, ...]:
    """The settings that a file's text, or assignments of comma-separated values, describe."""
    values = _loaded(given) if isinstance(given, str) else _lists(given)
    if isinstance(values, list) and all(isinstance(one, dict) and "items" in one for one in values):
        return tuple(Experiment.from_dict(one) for one in values)
    if not isinstance(values, dict) or not values.get("items"):
        raise LabError("grid: must give items, for example items=100; in a list, for each experiment")
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return sweeps.grid(Experiment(lists["items"][0]), lists)


@app.command()
def sweep(
    values: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=V1,V2,... of Experiment; may be given often.")
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON in place of --set: FIELD: [V1, V2], or a list of experiments."),
    ] = None,
    engine: EngineName = "embedded",
    repetitions: Annotated[int, typer.Option(help="Runs of each setting, each on the same items.")] = 3,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default runs/sweep-<time>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in --out.")] = False,
    check: Annotated[
        str, typer.Option(help="Limits on every run, e.g. 'p95_sojourn<30 and peak_workers<=100'.")
    ] = "",
    under: Annotated[str, typer.Option(help="Limits on the recommendation, as in --check.")] = "",
    objective: Annotated[
        str, typer.Option(help=f"What the recommendation makes small: {', '.join(tune.OBJECTIVES)}.")
    ] = "makespan",
) -> None:
    """Run every combination of settings, several times, and recommend one; exit 1 if --check is broken.

    A run that fails or breaks a law breaks --check, too. Each run's trace is saved as it ends. Writes
    table.csv (a row a run), report.html with its figures, and recommendation.json. Prints the medians of each
    setting, and where it is on a Pareto frontier of makespan against cost (usd) or p95 of sojourn time (p95).

    Example: ./lab sweep --set items=100 --set worker_concurrency=5,10,20 --set map_concurrency=20,40
    """
    if bool(values) == bool(grid):
        raise LabError("settings: give them by --set or by --grid; for example --set worker_concurrency=5,10")
    if grid and not grid.is_file():
        raise LabError(f"grid {grid}: is no file; give a YAML or JSON file of FIELD: [V1, V2]")
    if resume and out is None:
        raise LabError("--resume: which sweep? give its folder by --out")
    for limits in (check, under):
        tune.bounds(limits)
    tune.check_objective(objective)
    settings = _settings(grid.read_text() if grid else _assigned(values))
    whole = sweeps.Sweep(settings, repetitions)
    folder = out or ROOT / "runs" / f"sweep-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    with connect(engine) as connected:
        typer.echo(f"{len(settings)} settings x {repetitions} on {engine}, kept in {folder}", err=True)
        sweeps.run(connected, whole, folder, resume=resume)
    rows = sweeps.table(folder)
    rows.to_csv(folder / "table.csv", index=False)
    typer.echo(tune.text(tune.medians(rows)))
    broken = tune.check(rows, check)
    recommended = folder / "recommendation.json"
    recommended.unlink(missing_ok=True)
    try:
        best = tune.recommend(rows, objective, under)
        write_whole(recommended, json.dumps(best.to_dict(), indent=1))
        typer.echo(f"\n{best}")
    except LabError as error:
        broken.append(str(error))
    parameters = {"engine": engine, "sweep_folder": str(folder.resolve()), "limits": under}
    [notebook] = notebooks.resolve([REPORT])
    result = notebooks.report(notebook, folder, parameters | {"objective": objective}, progress=False)
    typer.echo(f"see {folder / 'report.html'}")
    if not result.ok:
        broken.append(f"report.ipynb, cell {result.cell}: {result.error}")
    for sentence in broken:
        typer.echo(sentence, err=True)
    if broken:
        raise typer.Exit(1)


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
    for key, text in _assigned(figures).items():
        if key not in sources():
            raise LabError(f"quota {key!r}: not known; the quotas are {', '.join(sources())}")
        values[key] = value = _loaded(text)
        if isinstance(value, str):  # such as inf and 1e6, which are no numbers in YAML
            with suppress(ValueError):
                values[key] = float(value)
    return replace(allowed, **values)


def _measured(items: int, values: list[str] | None, trace: Path | None) -> tuple[Experiment, dict[str, Any]]:
    """An experiment of so many items, with the times of a trace if there is one, and the values to set."""
    lists = _lists(_assigned(values))
    if "items" in lists:
        raise LabError("items: are given by --items; leave them out of --set")
    experiment = Experiment(items)
    return fitted(experiment, Trace.load(trace)) if trace else experiment, lists


@app.command("predict")
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


@app.command("tune")
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


@app.command()
def calibrate(
    engine: EngineName = "embedded",
    out: Annotated[
        Path | None, typer.Option(help="File for the quotas; default runs/quotas-<time>.json.")
    ] = None,
) -> None:
    """Measure an engine's own quotas on this machine, so that simulations predict what it would measure.

    Runs a few short experiments, prints the figures and saves all quotas as JSON (see Quotas.from_dict).

    Example: ./lab calibrate
    """
    with connect(engine) as connected:
        measured = calibration.calibrate(calibration.measure(connected))
    figures = measured.to_dict()
    file = out or ROOT / "runs" / f"quotas-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(figures, indent=1))
    for name, value in figures.items():
        typer.echo(f"{name} = {'unlimited' if value is None else round(value, 6)}")
    typer.echo(f"see {file}")


@app.command()
def observe(
    arn: Annotated[str, typer.Argument(help="An execution's ARN, whoever started it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    engine: EngineName = "embedded",
    sample: Annotated[int | None, typer.Option(help="Read at most so many children, evenly spread.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to put the results; default runs/observe-<time>.")
    ] = None,
) -> None:
    """Say where an execution's time went and what failed, also while it runs; only reads.

    Writes the trace, three figures and observation.json.

    Example: ./lab observe arn:aws:states:us-east-1:000000000000:execution:MACHINE:NAME
    """
    reader.check(arn)
    with _running(engine) as connected:
        seen = observing.execution(connected, arn, sample)
    folder = seen.save(out or ROOT / "runs" / f"observe-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    if as_json:
        typer.echo(json.dumps(seen.to_dict()))
        return
    typer.echo("\n".join(seen.diagnosis))
    for table in (seen.by_state().dropna(axis="columns", how="all"), seen.failures):
        if len(table):
            typer.echo("\n" + table.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    typer.echo("".join(f"\nnote: {note}" for note in seen.notes))
    typer.echo(f"see {folder}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole test suite, notebooks included; more arguments go to pytest.

    Example: ./lab test -k combined
    """
    raise typer.Exit(subprocess.run([sys.executable, "-m", "pytest", *context.args], cwd=ROOT).returncode)


@app.command("open")
def open_lab(engine: EngineName = "embedded") -> None:
    """Open the notebooks in JupyterLab on 127.0.0.1, with the engine running until it closes.

    Example: ./lab open
    """
    command = ["-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={notebooks.NOTEBOOKS}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with _shared(engine) as connected:
        typer.echo(f"engine {engine} at {connected.endpoint_url}")
        raise typer.Exit(subprocess.run([sys.executable, *command]).returncode)


@app.command()
def deploy(
    workflow: Annotated[str, typer.Argument(help="A folder of infra/.")] = "combined",
    engine: EngineName = "embedded",
    param: Assignments = None,
) -> None:
    """Deploy a workflow on an engine that is already running, and print its outputs.

    Example: ./lab deploy combined -p MaximumConcurrency=20
    """
    values: dict[str, stack.Value] = {
        key: int(value) if value.isdigit() else value for key, value in _assigned(param).items()
    }
    stack.check(workflow, values)
    with _running(engine) as connected:
        deployed = stack.deploy(connected, workflow, values)
    typer.echo(deployed.name)
    for key, value in deployed.outputs.items():
        typer.echo(f"  {key}: {value}")


@app.command()
def destroy(
    names: Annotated[list[str] | None, typer.Argument(help="Stacks; default: all of the lab's.")] = None,
    engine: EngineName = "embedded",
) -> None:
    """Destroy the lab's stacks on a running engine, with everything in them.

    Example: ./lab destroy
    """
    with _running(engine) as connected:
        there = stack.deployed(connected)
        for name in names or there:
            if name not in there:
                raise LabError(
                    f"stack {name!r}: not one of the lab's here, which are {', '.join(there) or 'none'}"
                )
            stack.destroy(connected, name)
            typer.echo(f"destroyed {name}")
    if not (names or there):
        typer.echo("nothing is deployed")


@contextmanager
def _running(name: str) -> Iterator[Engine]:
    """An engine that lives on after the command: what is deployed on one's own would vanish with it."""
    named = any(os.environ.get(variable) for variable in embedded.ENDPOINT_VARIABLES)
    if name == embedded.Embedded.name and not named and not embedded.kept():
        raise EngineError("no embedded engine is running; start one with `./lab engine start`")
    with connect(name) as engine:
        yield engine


@engine_app.command()
def start(
    port: Annotated[
        int, typer.Option(help="A port of 127.0.0.1; default: a free one.", min=0, max=65535)
    ] = 0,
) -> None:
    """Start an embedded engine that keeps running.

    Example: ./lab engine start --port 4566
    """
    server = embedded.keep(port)
    typer.echo(
        f"embedded engine at {server.endpoint_url} (pid {server.pid}); the notebooks find it by themselves"
    )


@engine_app.command()
def stop() -> None:
    """Stop the engine that is kept running.

    Example: ./lab engine stop
    """
    server = embedded.unkeep()
    typer.echo(f"stopped pid {server.pid}" if server else "no engine was running")


@engine_app.command()
def status() -> None:
    """Say whether an engine is kept running, and whether it answers; exit 1 if not.

    Example: ./lab engine status
    """
    server = embedded.kept()
    if server is None:
        typer.echo("no engine is running; start one with `./lab engine start`")
        raise typer.Exit(1)
    if not embedded.healthy(server.endpoint_url):
        raise EngineError(
            f"pid {server.pid}: does not answer at {server.endpoint_url}; "
            "`./lab engine stop` it and start it again"
        )
    typer.echo(f"embedded engine at {server.endpoint_url} (pid {server.pid})")


@app.command()
def doctor() -> None:
    """Say what is installed and reachable and what is missing, with the remedy; exit 1 if something is.

    Example: ./lab doctor
    """
    missing = False
    typer.echo(f"ok       Python {sys.version.split()[0]}")
    for package in ("boto3", "jupyterlab", "localstack-client", "matplotlib", "ministack", "papermill"):
        try:
            typer.echo(f"ok       {package} {version(package)}")
        except PackageNotFoundError:
            missing = True
            typer.echo(f"MISSING  {package}; remove the .venv folder and run `./lab` again")
    try:
        with connect("embedded") as engine:
            engine.client("sqs").list_queues()
            typer.echo(f"ok       embedded engine answers at {engine.endpoint_url}")
    except LabError as error:
        missing = True
        typer.echo(f"MISSING  embedded engine: {error}")
    if missing:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; an error of the lab's own is shown as its sentence and ends with 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        app(prog_name="lab")
    except LabError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
