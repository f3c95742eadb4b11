"""The embedded engine: a ministack server on this machine, started and ended by the lab.

`connect("embedded")` looks for one in this order: the endpoint in AWS_ENDPOINT_URL (as `./lab run`
and `./lab open` set it) or LOCALSTACK_HOST, the engine kept by `./lab engine start`, else it starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from localstack_client.config import get_service_endpoint
from localstack_client.session import Session

from helpers.engines.base import CLIENT_CONFIG, Engine
from helpers.errors import EngineError
from helpers.files import write_whole

HOST = "127.0.0.1"
REGION = "us-east-1"
WORKER_THREADS = 2048
"""Requests that the server handles at once; each running worker and each long poll holds one."""
START_SECONDS = 60
KEPT = Path(__file__).parents[2] / ".lab" / "engine.json"
"""Where `./lab engine start` notes the engine that it keeps running."""
DUMMY = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}
"""The only credentials that the server, its workers and our clients ever see."""
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "LOCALSTACK_HOST")
"""Where a user may name an endpoint, the first before the second; localstack-client reads both."""
PROGRAM = str(Path(__file__).with_name("embedded_server"))


def without_credentials() -> dict[str, str]:
    """This process's environment with the user's AWS settings replaced by dummy ones."""
    return {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | DUMMY


def healthy(endpoint_url: str) -> bool:
    """Whether a ministack answers at this endpoint."""
    try:
        with urllib.request.urlopen(f"{endpoint_url}/_ministack/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


@dataclass(frozen=True)
class Server:
    """A ministack process: its pid (also its process group), port and folder."""

    pid: int
    port: int
    directory: str

    @property
    def endpoint_url(self) -> str:
        """The URL at which it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process runs and is ours: a pid may have gone to another program since."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and PROGRAM in process.cmdline()
        except psutil.Error:
            return False

    @classmethod
    def start(cls, port: int = 0, keep: bool = False) -> Server:
        """Start one on a loopback port (0: a free one) and wait until it is healthy.

        Unless `keep`, it ends with this process, however that ends. Raises EngineError when the port is in
        use or the server does not come up.
        """
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise EngineError(
                    f"port {port}: cannot be used ({error.strerror}); choose another, or leave the port out "
                    "and a free one is taken"
                ) from error
            port = probe.getsockname()[1]
        directory = tempfile.mkdtemp(prefix="concurrency-lab-")
        log = Path(directory) / "engine.log"
        # Not as a module: it needs none of the lab, whose imports would cost each start a second.
        command = [sys.executable, "-P", PROGRAM] + ([] if keep else ["--watch-stdin"])
        environment = without_credentials() | {
            "BIND_HOST": HOST,  # its default is every interface
            "GATEWAY_PORT": str(port),
            "LAB_ENGINE_DIR": directory,
            "LAMBDA_ACCOUNT_CONCURRENCY": "1000",  # AWS's default; its own follows this machine's memory
            "LAMBDA_WARM_TTL_SECONDS": "3600",
            "LOG_LEVEL": "WARNING",
            "MINISTACK_WORKER_THREADS": str(WORKER_THREADS),
            "PERSIST_STATE": "0",
            "TMPDIR": directory,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,  # its own group, so that its workers end with it and Ctrl-C is ours
            )
        server = cls(process.pid, port, directory)
        _processes[process.pid] = process
        try:
            server._wait_until_healthy(process, log)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], log: Path) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not healthy(self.endpoint_url):
            if process.poll() is not None or time.monotonic() > give_up:
                told = log.read_text(errors="replace").strip()[-2000:]
                raise EngineError(
                    f"the embedded engine did not come up on {self.endpoint_url}; run `./lab doctor`, "
                    f"or read what it said:\n{told}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it with its workers and remove its folder; SIGTERM would hang while callbacks wait."""
        # Until a child of ours that died is waited for, its number still names the group of its workers.
        if self.alive or self.pid in _processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        if process := _processes.pop(self.pid, None):
            process.wait()
            if process.stdin:
                process.stdin.close()
        give_up = time.monotonic() + 10
        while self.alive and time.monotonic() < give_up:
            time.sleep(0.01)
        shutil.rmtree(self.directory, ignore_errors=True)


_processes: dict[int, subprocess.Popen[bytes]] = {}


def kept() -> Server | None:
    """The engine that `./lab engine start` keeps, or None; a note whose process is gone is removed."""
    try:
        server = Server(**json.loads(KEPT.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EngineError(f"{KEPT}: not a note of a kept engine ({error}); remove the file") from error
    if not server.alive:
        KEPT.unlink(missing_ok=True)
        server.stop()
        return None
    return server


def keep(port: int = 0) -> Server:
    """Start an engine that outlives this process; raises EngineError when one is kept already."""
    if server := kept():
        raise EngineError(
            f"pid {server.pid}: an engine is kept already, at {server.endpoint_url}; use it, "
            "or `./lab engine stop` first"
        )
    server = Server.start(port, keep=True)
    KEPT.parent.mkdir(exist_ok=True)
    write_whole(KEPT, json.dumps(vars(server)))
    return server


def unkeep() -> Server | None:
    """Stop the kept engine and return what it was, or None when there was none."""
    if server := kept():
        server.stop()
        KEPT.unlink(missing_ok=True)
    return server


class Embedded(Engine):
    """An engine on this machine; see the module's text for which server it uses."""

    name = "embedded"
    clock_seconds = 0.002  # one clock, but each service rounds to its own milliseconds
    poll_seconds = 0.1
    log_seconds = 5.0
    settle_seconds = 0.0
    paced = False

    def __init__(self) -> None:
        super().__init__()
        self._own: Server | None = None
        if named := next((name for name in ENDPOINT_VARIABLES if os.environ.get(name)), None):
            self.endpoint_url = get_service_endpoint("sqs")
            if not healthy(self.endpoint_url):
                raise EngineError(
                    f"{named}={os.environ[named]}: no embedded engine answers at {self.endpoint_url}; "
                    "unset the variable and one is started, or start one with `./lab engine start`"
                )
        elif server := kept():
            self.endpoint_url = server.endpoint_url
            if not healthy(self.endpoint_url):
                raise EngineError(
                    f"{self.endpoint_url}: the kept engine (pid {server.pid}) does not answer; "
                    "`./lab engine stop` it and start it again"
                )
        else:
            self._own = Server.start()
            self.endpoint_url = self._own.endpoint_url
            atexit.register(self.close)
        host = self.endpoint_url.partition("://")[2]
        self._session = Session(
            aws_access_key_id=DUMMY["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=DUMMY["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=None,
            region_name=REGION,
            localstack_host=host,
        )

    def _new_client(self, service: str) -> Any:
        return self._session.client(service, config=CLIENT_CONFIG)

    def fleet_environment(self) -> dict[str, str]:
        """The environment in which a fleet process finds this engine with plain boto3."""
        return without_credentials() | {"AWS_ENDPOINT_URL": self.endpoint_url}

    def shared(self) -> dict[str, str]:
        """The environment variables by which `connect` finds this same engine in another process."""
        return {"AWS_ENDPOINT_URL": self.endpoint_url}

    def versions(self) -> dict[str, str]:
        """The versions of what a measurement depends on, ministack's included."""
        return super().versions() | {"ministack": version("ministack")}

    def close(self) -> None:
        """Stop the server if this object started it."""
        if self._own:
            atexit.unregister(self.close)
            self._own.stop()
            self._own = None
