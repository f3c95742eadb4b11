"""The command line: `./lab COMMAND`, or `lab COMMAND` once installed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import psutil
import typer
from botocore.exceptions import BotoCoreError, ClientError
from typer import rich_utils
from typer.core import TyperGroup

from helpers import budget, notebooks, tune
from helpers import observe as observing
from helpers import sweep as sweeps
from helpers.commands import comparing, drawing, publishing, simulating, stacks
from helpers.commands.given import Assignments, assigned, value_lists
from helpers.commands.keeping import doctor, engine_app
from helpers.commands.places import Place, placed
from helpers.console import walled
from helpers.errors import LabError
from helpers.experiment import Experiment
from helpers.files import RUNS, write_whole
from helpers.formatting import plain, to_csv, to_text
from helpers.observing import reader
from helpers.resources import lacking
from helpers.values import loaded

ROOT = Path(__file__).parents[1]
JUPYTER = Path(__file__).with_name("jupyter")
"""JupyterLab's program, kernel and settings: no announcements, for which it would ask jupyter.org."""
JUPYTER_ENDS_SECONDS = 30
"""How long JupyterLab may take to end its kernels and itself; what is left then is killed."""
REPORT = "05_benchmark_concurrency"
"""The notebook that also reports on a finished sweep."""

rich_utils.COLOR_SYSTEM = None  # the wall lets no colours through, its own as little as those of a name


class Walled(TyperGroup):
    """The lab's commands, which print plain text whatever they read, in usage errors as well."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the arguments name."""
        with walled():
            return super().main(*args, **kwargs)


app = typer.Typer(
    cls=Walled,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn and measure how concurrent work flows through SQS, Distributed Map and task tokens.",
)
app.add_typer(engine_app, name="engine")


@app.command()
@placed
def run(
    place: Place,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Notebooks, e.g. 04 or 02_distributed_map.",
            autocompletion=lambda: [path.stem for path in notebooks.discover()],
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to put the results; default runs/<time>.")] = None,
    scale: Annotated[str | None, typer.Option(help="quick, or full for the headline numbers.")] = None,
    exercises: Annotated[
        bool,
        typer.Option(
            "--exercises", help="Tell what each exercise's check said; exit 1 if a solution is wrong."
        ),
    ] = False,
    param: Assignments = None,
) -> None:
    """Execute the walkthrough's notebooks, in order; exit 1 if one fails.

    Writes the executed notebooks, index.html with every figure, results.json, and what it would cost on AWS.

    Example: ./lab run 04 --scale full
    """
    paths = notebooks.resolve(names or [])
    parameters = assigned(param) | {"engine": place.name} | ({} if scale is None else {"scale": scale})
    folder = out or RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    if place.paid:
        declared = [notebooks.usd_of(path, parameters.get("scale", "quick")) for path in paths]
        place.announce(f"{len(paths)} notebooks", sum(declared))
    notebooks.accept(paths, parameters)
    with place.shared(folder, new_ledger=True) as connected:
        typer.echo(f"engine {place.name} at {connected.endpoint_url}")
        results = notebooks.run(paths, folder, parameters, progress=True)
    for result in results:
        typer.echo(f"{'ok    ' if result.ok else 'FAILED'} {result.seconds:6.1f} s  {result.name}")
        if not result.ok:
            typer.echo(f"       {plain(result.failure)}", err=True)
    usd = sum(result.usd for result in results)
    typer.echo(f"{'cost' if place.paid else 'would cost'} at most {budget.dollars(usd)} on AWS, as estimated")
    passed = all(result.ok for result in results)
    if exercises:
        for line in notebooks.table_of_exercises(results):
            typer.echo(line)
        passed &= all(result.solved for result in results)
    typer.echo(f"see {folder / 'index.html'}")
    if not passed:
        raise typer.Exit(1)


def _settings(given: bytes | dict[str, str]) -> tuple[Experiment, ...]:
    """The settings that a file's text, or assignments of comma-separated values, describe."""
    values = loaded(given) if isinstance(given, bytes) else value_lists(given)
    if isinstance(values, list) and all(isinstance(one, dict) and "items" in one for one in values):
        return tuple(Experiment.from_dict(one) for one in values)
    if not isinstance(values, dict) or not values.get("items"):
        raise LabError("grid: must give items, for example items=100; in a list, for each experiment")
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return sweeps.grid(Experiment(lists["items"][0]), lists)


@app.command()
@placed
def sweep(
    place: Place,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=V1,V2,... of Experiment; may be given often.")
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON in place of --set: FIELD: [V1, V2], or a list of experiments."),
    ] = None,
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
    settings = _settings(grid.read_bytes() if grid else assigned(values))
    whole = sweeps.Sweep(settings, repetitions)
    folder = out or RUNS / f"sweep-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    missing = [experiment for _, experiment in sweeps.missing(whole, folder)]
    planned = f"{len(settings)} settings x {repetitions}, {len(missing)} runs to do and one to warm up"
    place.announce(planned, sum(map(budget.of_run, [*missing, *sweeps.widest(missing)])))
    with place.shared(folder) as connected:
        typer.echo(f"on {place.name}, kept in {folder}", err=True)
        sweeps.run(connected, whole, folder, resume=resume)
    rows = sweeps.table(folder)
    write_whole(folder / "table.csv", to_csv(rows))
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
    parameters = {"engine": place.name, "sweep_folder": str(folder.resolve()), "limits": under}
    [notebook] = notebooks.resolve([REPORT])
    result = notebooks.report(notebook, folder, parameters | {"objective": objective}, progress=False)
    typer.echo(f"see {folder / 'report.html'}")
    if not result.ok:
        broken.append(f"report.ipynb, {result.failure}")
    for sentence in broken:
        typer.echo(plain(sentence), err=True)
    if broken:
        raise typer.Exit(1)


@app.command()
@placed
def observe(
    place: Place,
    arn: Annotated[str, typer.Argument(help="An execution's ARN, whoever started it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
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
    with place.free().running() as connected:
        seen = observing.execution(connected, arn, sample)
    folder = seen.save(out or RUNS / f"observe-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    if as_json:
        typer.echo(json.dumps(seen.to_dict()))
        return
    typer.echo("\n".join(seen.diagnosis))
    for table in (seen.by_state().dropna(axis="columns", how="all"), seen.failures):
        if len(table):
            typer.echo(f"\n{to_text(table)}")
    typer.echo("".join(f"\nnote: {note}" for note in seen.notes))
    typer.echo(f"see {folder}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole test suite, notebooks included; more arguments go to pytest.

    Example: ./lab test -k combined
    """
    raise typer.Exit(
        subprocess.run([sys.executable, "-P", "-m", "pytest", *context.args], cwd=ROOT).returncode
    )


@app.command("open")
@placed
def open_lab(
    place: Place,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="For JupyterLab, after --: such as another folder, --no-browser or --port 8899."),
    ] = None,
) -> None:
    """Open the notebooks in JupyterLab on 127.0.0.1, with the engine running until it closes.

    What is still deployed then is destroyed. It asks no other machine for news, updates or extensions.

    Example: ./lab open -- --no-browser --port 8899
    """
    command = [sys.executable, "-P", str(JUPYTER / "server.py"), "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={notebooks.NOTEBOOKS}", "--LabApp.extension_manager=readonly"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    paths = [str(JUPYTER), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    # Its kernel looks into the folder of a notebook last: a module there hides none of a package or the lab.
    kernels = [str(JUPYTER / "share"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    environment = {
        "JUPYTER_CONFIG_PATH": os.pathsep.join(paths),
        "JUPYTER_PATH": os.pathsep.join(kernels),
    }
    with place.shared(RUNS / f"open-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}") as connected:
        typer.echo(f"engine {place.name} at {connected.endpoint_url}")
        with subprocess.Popen([*command, *(arguments or [])], env=os.environ | environment) as server:
            if sys.stdin.isatty():  # then Ctrl-C is JupyterLab's, too, which asks whether it is meant
                signal.signal(signal.SIGINT, lambda *_: None)
            try:
                raise typer.Exit(server.wait())
            finally:
                _end(server)


def _end(jupyter: subprocess.Popen[bytes]) -> None:
    """Terminate JupyterLab and wait for its end; kill it and its kernels when it does not end in time."""
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):  # it has ended
        started = psutil.Process(jupyter.pid).children(recursive=True)
    jupyter.terminate()
    try:
        jupyter.wait(JUPYTER_ENDS_SECONDS)
    except subprocess.TimeoutExpired:
        typer.echo(f"JupyterLab has not ended within {JUPYTER_ENDS_SECONDS} s; it is killed with its kernels")
        jupyter.kill()
        jupyter.wait()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


app.command("predict")(simulating.predict_run)
app.command("tune")(simulating.tune_settings)
app.command()(simulating.calibrate)
app.command()(comparing.compare)
app.command()(publishing.site)
app.command("graph")(drawing.draw)
app.command()(stacks.deploy)
app.command()(stacks.destroy)
app.command()(doctor)


def main() -> None:
    """Run the command; an error of the lab, an engine or a file is shown as a sentence and ends with 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    with walled():
        try:
            app(prog_name="lab")
        except (LabError, ClientError, BotoCoreError) as error:
            _refuse(str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            if reason := lacking(error):
                _refuse(f"the machine: {reason}, and run it again")
            if not isinstance(error, OSError) or error.filename is None:  # no file that somebody named
                _fail()
            _refuse(f"{error.filename}: cannot be used ({error.strerror}); choose another path")
        except Exception:
            _fail()


def _refuse(told: str) -> NoReturn:
    """End with 2 and one line on standard error, though what somebody named may have several."""
    typer.echo(f"error: {plain(told)}", err=True)
    sys.exit(2)


def _fail() -> NoReturn:
    """End with 1 and the traceback, as Python would, but within the wall."""
    sys.excepthook(*sys.exc_info())
    sys.exit(1)


if __name__ == "__main__":
    main()
