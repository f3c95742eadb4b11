"""LocalStack: one that runs somewhere, or the open release on this machine, without Docker or with it.

`connect("localstack")` uses the one that is named or kept (see `helpers.engines.local`), else one that
answers at localhost:4566. `./lab engine start localstack` keeps one without Docker: it installs LocalStack
into a Python environment of its own, from infra/localstack-requirements.txt, and starts it in host mode by
localstack_server/. With --docker, Docker runs infra/compose.yaml.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from helpers.console import say
from helpers.engines import local, machine
from helpers.engines.guard import Credentials
from helpers.errors import EngineError
from helpers.files import locked, write_whole

INFRA = Path(__file__).parents[2] / "infra"
REQUIREMENTS = INFRA / "localstack-requirements.txt"
COMPOSE = INFRA / "compose.yaml"
RELEASE = "4.9.2"
PYTHONS = ((3, 11), (3, 12), (3, 13))
"""The versions of Python on which that release was seen to run."""
DEFAULT_URL = "http://localhost:4566"
"""Where LocalStack answers unless told otherwise."""
FIRST_LICENSED = 2026
"""Releases are numbered by year since the one that needs an account, 2026.3."""


def release(endpoint_url: str, credentials: Credentials | None = None) -> str | None:
    """The release of the LocalStack that answers at this endpoint, or None; a ministack is none."""
    told = local.answer(f"{endpoint_url}/_localstack/health", credentials)
    if told is None or local.answer(f"{endpoint_url}/_ministack/health", credentials) is not None:
        return None
    try:
        return str(json.loads(told)["version"])
    except (ValueError, LookupError, TypeError):
        return None


class Server(local.Server):
    """A LocalStack in host mode, in a Python environment of its own."""

    engine = "localstack"
    program = str(Path(__file__).with_name("localstack_server"))
    start_seconds = 120
    home: ClassVar[Path] = Path(__file__).parents[2] / ".lab" / f"localstack-{RELEASE}"
    """The Python environment."""

    @classmethod
    def command(cls) -> list[str]:
        """The environment's Python; installs it first where it is missing."""
        return [str(install(cls.home)), "-P"]

    @classmethod
    def environment(cls, port: int, directory: str) -> dict[str, str]:
        """LocalStack's settings."""
        return {
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",  # no DNS server: names need none, see SQS_ENDPOINT_STRATEGY
            "FILESYSTEM_ROOT": directory,
            "GATEWAY_LISTEN": f"{local.HOST}:{port}",
            "HOME": directory,  # caches go there
            "IN_MEMORY_CLIENT": "1",  # its calls to itself are not signed with the engine's key
            # A mapping takes the next message at once; its own pauses are 1 s, and up to 10 s when idle.
            "LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_EMPTY_POLL_SEC": "1",
            "LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC": "0.05",
            "LOCALSTACK_HOST": f"{local.HOST}:{port}",
            "LS_LOG": "warning",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "SQS_ENDPOINT_STRATEGY": "path",
        }

    @classmethod
    def healthy(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether a LocalStack answers at this endpoint, called with these credentials."""
        return release(endpoint_url, credentials) is not None


def installed(home: Path) -> bool:
    """Whether the environment is there, whole, and of the requirements as they are now."""
    try:
        return (home / "lab-stamp").read_text() == REQUIREMENTS.read_text()
    except FileNotFoundError:
        return False


def install(home: Path) -> Path:
    """Install LocalStack there unless it is installed; return the environment's Python.

    Raises EngineError on a Python that it does not run on, and when the installation fails.
    """
    python = home / "bin" / "python"
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise EngineError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]}: LocalStack {RELEASE} runs on {known}; set "
            "LAB_PYTHON to one of them, or run it in Docker with `./lab engine start localstack --docker`"
        )
    home.parent.mkdir(exist_ok=True)
    with locked(home.with_name(f"{home.name}.lock"), wait=True):
        if installed(home):
            return python
        say(
            f"lab: installing LocalStack {RELEASE} into {home}; this takes some minutes, once",
            err=True,
        )
        shutil.rmtree(home, ignore_errors=True)
        if uv := shutil.which("uv"):
            steps = [
                [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    str(python),
                    "--requirement",
                    str(REQUIREMENTS),
                ],
            ]
        else:
            pip = [str(python), "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            steps = [
                [sys.executable, "-P", "-m", "venv", str(home)],
                [*pip, "--requirement", str(REQUIREMENTS)],
            ]
        for step in steps:
            done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                shutil.rmtree(home, ignore_errors=True)
                raise EngineError(
                    f"LocalStack {RELEASE}: could not be installed; look after the package registry and the "
                    f"disk, and start it again. `{' '.join(step)}` said:\n{done.stdout.strip()[-2000:]}"
                )
        write_whole(home / "lab-stamp", REQUIREMENTS.read_text())
    return python


def compose(*arguments: str, port: int = 0) -> None:
    """Run `docker compose` on infra/compose.yaml; port: where LocalStack answers on 127.0.0.1 (0: 4566).

    Raises EngineError when there is no Docker, when the image needs a token that is not set, and with what
    Docker said when it fails.
    """
    if shutil.which("docker") is None:
        raise EngineError(
            "docker: not found; install Docker (https://docs.docker.com/get-started/get-docker/), or leave "
            "--docker out to run LocalStack without it"
        )
    version = os.environ.get("LOCALSTACK_VERSION", RELEASE)
    year = re.match(r"\d+", version)
    if (year is None or int(year[0]) >= FIRST_LICENSED) and not os.environ.get("LOCALSTACK_AUTH_TOKEN"):
        raise EngineError(
            f"LOCALSTACK_VERSION={version}: images since 2026.3 need an account; set LOCALSTACK_AUTH_TOKEN, "
            f"or leave LOCALSTACK_VERSION out for {RELEASE}, which needs none"
        )
    done = subprocess.run(
        ["docker", "compose", "--file", str(COMPOSE), *arguments],
        env=os.environ | ({"LOCALSTACK_PORT": str(port)} if port else {}),
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise EngineError(
            f"docker compose {' '.join(arguments)}: failed; look whether Docker runs (`docker info`), or "
            f"leave --docker out to run LocalStack without it. It said:\n{done.stderr.strip()[-2000:]}"
        )


class LocalStack(local.Local):
    """LocalStack; see the module's text for which one it uses. It is never started by `connect`."""

    name = "localstack"
    server = Server
    environment = machine.LOCALSTACK_ENVIRONMENT
    health = "/_localstack/health"
    remedy = "start it there, or one of the lab's own with `./lab engine start localstack`"

    def _fall_back(self) -> str:
        if Server.healthy(DEFAULT_URL):
            return DEFAULT_URL
        raise EngineError(
            f"localstack: none is named, kept or found at {DEFAULT_URL}; `./lab engine start localstack` "
            "starts one without Docker, and `docker compose -f infra/compose.yaml up` one with it"
        )

    def versions(self) -> dict[str, str]:
        """The versions of what a measurement depends on, LocalStack's included."""
        return super().versions() | {"localstack": str(release(self.endpoint_url, self.credentials))}
