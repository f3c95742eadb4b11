"""`lab engine start`, `stop`, `status` and `env`, and `lab doctor`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import botocore.session
import typer
from botocore.exceptions import BotoCoreError

from helpers.engines import connect, embedded, local, localstack
from helpers.errors import EngineError, LabError
from helpers.notebooks import NOTEBOOKS

engine_app = typer.Typer(no_args_is_help=True, help="Keep a local engine running, e.g. for JupyterLab.")

SERVERS: dict[str, type[local.Server]] = {
    server.engine: server for server in (embedded.Server, localstack.Server)
}
PACKAGES = "boto3", "jupyterlab", "localstack-client", "matplotlib", "ministack", "papermill", "pygraphviz"
"""Some that would be missed at once; pygraphviz brings Graphviz along."""
MADE_ANEW = "remove the .venv folder and run `./lab` again"
KERNEL, KERNEL_SECONDS = "python3", 60
"""The kernel that notebooks name, and how long it may take to answer."""
BROWSERS = "chromium", "chromium-browser", "google-chrome"
"""What Chromium is called on PATH."""
Name = Annotated[str, typer.Argument(help=f"One of {', '.join(SERVERS)}.")]
Docker = Annotated[bool, typer.Option("--docker", help="localstack: in Docker, by infra/compose.yaml.")]


def _server(name: str, docker: bool = False) -> type[local.Server]:
    if name not in SERVERS:
        raise EngineError(f"engine {name!r}: not one that the lab starts; choose one of {', '.join(SERVERS)}")
    if docker and name != localstack.Server.engine:
        raise EngineError(f"--docker: the {name} engine needs no Docker; leave it out")
    return SERVERS[name]


@engine_app.command()
def start(
    name: Name = "embedded",
    port: Annotated[
        int,
        typer.Option(help="A port of 127.0.0.1; default: a free one, in Docker 4566.", min=0, max=65535),
    ] = 0,
    docker: Docker = False,
    any_credentials: Annotated[
        bool,
        typer.Option(
            "--any-credentials",
            help="Serve calls signed with any key, for tools that bring dummy keys of their own.",
        ),
    ] = False,
) -> None:
    """Start an engine that keeps running, and print how boto3 and the AWS CLI get its credentials.

    localstack is installed first where it is missing, from the package registry into .lab/. With
    --any-credentials every user and program of this machine can use the engine, and run code in it as you;
    pages in a browser stay refused.

    Example: ./lab engine start localstack
    """
    server = _server(name, docker)
    if docker and any_credentials:
        raise EngineError("--any-credentials: LocalStack in Docker asks for no credentials; leave it out")
    if docker:
        localstack.compose("up", "--detach", "--wait", port=port)
        url = f"http://localhost:{port}" if port else localstack.DEFAULT_URL
        typer.echo(f"localstack engine at {url}, in Docker")
        if port:
            typer.echo(f"for the lab to find it: export AWS_ENDPOINT_URL={url}")
        return
    kept = server.keep(port, any_credentials)
    typer.echo(f"{name} engine at {kept.endpoint_url} (pid {kept.pid}); the notebooks find it by themselves")
    if any_credentials:
        typer.echo(
            "WARNING: it serves calls with any credentials: every user and program of this machine can use "
            "it, and run code in it as you; pages in a browser stay refused"
        )
    typer.echo(f'for boto3 and the AWS CLI: eval "$(./lab engine env{_argument(name)})"')


def _argument(name: str) -> str:
    """The engine's name as an argument, where it is not the default."""
    return "" if name == embedded.Server.engine else f" {name}"


@engine_app.command()
def env(name: Name = "embedded") -> None:
    """Print the address and the credentials of a kept engine as a line for the shell.

    After `eval "$(./lab engine env)"`, boto3 and the AWS CLI call the engine, in this shell and what it
    starts. The line holds the engine's secret: evaluate it, and do not store it.

    Example: ./lab engine env
    """
    kept = _server(name).kept()
    if not kept:
        raise EngineError(
            f"no {name} engine is running; start one with `./lab engine start{_argument(name)}`"
        )
    variables = _variables(kept)
    typer.echo("export " + " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items()))


def _variables(kept: local.Server) -> dict[str, str]:
    """Return the environment in which boto3 and the AWS CLI call a kept engine."""
    region = {"AWS_DEFAULT_REGION": local.REGION, "AWS_REGION": local.REGION}
    return {"AWS_ENDPOINT_URL": kept.endpoint_url} | kept.credentials.variables() | region


@engine_app.command()
def stop(name: Name = "embedded", docker: Docker = False) -> None:
    """Stop the engine that is kept running.

    Example: ./lab engine stop localstack
    """
    server = _server(name, docker)
    if docker:
        localstack.compose("down", "--volumes")
        typer.echo("stopped")
        return
    names = [*_variables(kept)] if (kept := server.kept()) else []
    kept = server.unkeep()
    typer.echo(f"stopped pid {kept.pid}" if kept else f"no {name} engine was running")
    if kept and os.environ.get("AWS_ENDPOINT_URL") == kept.endpoint_url:
        typer.echo(f"this shell still names it: unset {' '.join(names)}")


@engine_app.command()
def status() -> None:
    """Say which engines are kept running, and whether they answer; exit 1 if none is, 2 if one does not.

    Example: ./lab engine status
    """
    there = [kept for server in SERVERS.values() if (kept := server.kept())]
    for kept in there:
        if not kept.healthy(kept.endpoint_url):
            raise EngineError(f"{kept.endpoint_url}: the kept {kept.engine} engine {kept.silence()}")
        calls = "any credentials" if kept.any_credentials else "its own credentials only"
        typer.echo(f"{kept.engine} engine at {kept.endpoint_url} (pid {kept.pid}), {calls}")
    if not there:
        typer.echo("no engine is running; start one with `./lab engine start`")
        raise typer.Exit(1)


def doctor() -> None:
    """Say what is installed and reachable and what is missing, with the remedy; exit 1 if something is.

    What is optional, such as Docker, LocalStack, a browser and an AWS account, is told and is no failure.

    Example: ./lab doctor
    """
    missing = False
    typer.echo(f"ok       Python {sys.version.split()[0]}")
    for package in PACKAGES:
        try:
            typer.echo(f"ok       {package} {version(package)}")
        except PackageNotFoundError:
            missing = True
            typer.echo(f"MISSING  {package}; {MADE_ANEW}")
    for what, tried in (("embedded engine", _engine), ("JupyterLab's kernel", _kernel)):
        try:
            typer.echo(f"ok       {what} {tried()}")
        except LabError as error:
            missing = True
            typer.echo(f"MISSING  {what}: {error}")
    for what, found, remedy in _optional():
        typer.echo(f"ok       {what}: {found}" if found else f"optional {what}: {remedy}")
    if missing:
        raise typer.Exit(1)


def _engine() -> str:
    with connect("embedded") as engine:
        engine.client("sqs").list_queues()
        return f"answers at {engine.endpoint_url}"


def _kernel() -> str:
    """Start the kernel that notebooks are run in, as JupyterLab does, and let it calculate."""
    from jupyter_client.manager import start_new_kernel  # half a second, which only this command needs

    try:
        manager, client = start_new_kernel(
            kernel_name=KERNEL,
            stderr=subprocess.DEVNULL,
            cwd=str(NOTEBOOKS),  # not in the caller's folder, whose modules it would import
            env=os.environ | {"PYTHONSAFEPATH": "1"},
        )
    except Exception as error:  # a kernel that is not there, cannot be started, or dies: all have their own
        raise EngineError(
            f"does not start ({error}); remove the .venv folder and run `./lab` again"
        ) from error
    try:
        answer = client.execute_interactive("import helpers", silent=True, timeout=KERNEL_SECONDS)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if answer["content"]["status"] != "ok":
        told = answer["content"]["evalue"]
        raise EngineError(f"has not the lab ({told}); {MADE_ANEW}")
    return "starts and has the lab"


def _optional() -> list[tuple[str, str | None, str]]:
    """What one can do without: its name, where it was found, and the remedy where it was not."""
    running = None
    try:
        with connect("localstack") as engine:
            running = f"{engine.versions()['localstack']} answers at {engine.endpoint_url}"
    except EngineError:
        if localstack.installed(localstack.Server.home):
            running = f"{localstack.RELEASE} is installed; `./lab engine start localstack` starts it"
    try:
        credentials = botocore.session.Session(profile=os.environ.get("AWS_PROFILE")).get_credentials()
    except BotoCoreError:  # such as a profile that is not there
        credentials = None
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    node = shutil.which("node") and shutil.which("npm")
    return [
        ("Docker", shutil.which("docker"), "not found; nothing here needs it but LocalStack with --docker"),
        ("LocalStack", running, "not installed; `./lab engine start localstack` installs and starts it"),
        ("Chromium", browser, "not found; `apt-get install chromium` brings it, and only tests need it"),
        ("Node.js with npm", node, "not found; https://nodejs.org has it, and only tests need it"),
        (
            "AWS credentials",
            credentials and f"found by {credentials.method}",
            "not found; `aws configure` stores some, and nothing here needs them but `--engine aws`",
        ),
    ]
