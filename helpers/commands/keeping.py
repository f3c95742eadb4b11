"""`lab engine start`, `stop` and `status`, and `lab doctor`."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from helpers.engines import connect, embedded
from helpers.errors import EngineError, LabError

engine_app = typer.Typer(no_args_is_help=True, help="Keep one embedded engine running, e.g. for JupyterLab.")


@engine_app.command()
def start(
    port: Annotated[
        int, typer.Option(help="A port of 127.0.0.1; default: a free one.", min=0, max=65535)
    ] = 0,
) -> None:
    """Start an embedded engine that keeps running.

    Example: ./lab engine start --port 4566
    """
    server = embedded.Server.keep(port)
    typer.echo(
        f"embedded engine at {server.endpoint_url} (pid {server.pid}); the notebooks find it by themselves"
    )


@engine_app.command()
def stop() -> None:
    """Stop the engine that is kept running.

    Example: ./lab engine stop
    """
    server = embedded.Server.unkeep()
    typer.echo(f"stopped pid {server.pid}" if server else "no engine was running")


@engine_app.command()
def status() -> None:
    """Say whether an engine is kept running, and whether it answers; exit 1 if not.

    Example: ./lab engine status
    """
    server = embedded.Server.kept()
    if server is None:
        typer.echo("no engine is running; start one with `./lab engine start`")
        raise typer.Exit(1)
    if not embedded.Server.healthy(server.endpoint_url):
        raise EngineError(
            f"pid {server.pid}: does not answer at {server.endpoint_url}; "
            "`./lab engine stop` it and start it again"
        )
    typer.echo(f"embedded engine at {server.endpoint_url} (pid {server.pid})")


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
