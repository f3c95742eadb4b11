"""What the engines on this machine have in common: servers that the lab starts, and their credentials.

A local engine answers at the first of these: the endpoint that it is given; the one in AWS_ENDPOINT_URL
(as `./lab run` and `./lab open` set it) or LOCALSTACK_HOST; that of the server kept by
`./lab engine start`; what the engine itself falls back on.

A server that the lab starts serves only callers with its credentials (see `helpers.engines.guard`). They lie
in its folder, and their access key names its port: `credentials_for` finds those of an endpoint. Any other
endpoint is called with dummy credentials.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, EndpointConnectionError
from localstack_client.config import get_service_endpoint
from localstack_client.session import Session

from helpers.engines import answering
from helpers.engines.base import CLIENT_CONFIG, Engine
from helpers.engines.guard import HOSTS, HOW, Credentials
from helpers.engines.guard import REGION as REGION
from helpers.engines.watching import Watch
from helpers.errors import EngineError, FileError, shown
from helpers.files import for_sockets, locked, write_whole
from helpers.resources import acquiring, causes, lacking

HOST = "127.0.0.1"
FOLDER = "concurrency-lab-"
"""What the name of a server's folder begins with, which only its user may read (mode 0700)."""
KEPT = Path(__file__).parents[2] / ".lab"
"""The folder in which `./lab engine start` notes the servers that it keeps running, one file an engine."""
DUMMY = {
    "AWS_ACCESS_KEY_ID": "lab",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}
"""The credentials for an endpoint that the lab did not start, such as an emulator of the user's own."""
CREDENTIALS = "credentials.json"
"""The file in a server's folder that holds its credentials, which only its user may read (mode 0600)."""
HANDED_ON = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "TERM"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
}
HANDED_ON_PREFIXES = ("LAB_", "LC_", "PYTHON")
"""The environment variables that a local server, its workers and a fleet inherit."""
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "LOCALSTACK_HOST")
"""Where a user may name an endpoint, the first before the second; localstack-client reads both."""
GONE_SECONDS = 2.0
"""How long an engine must refuse every connection until it counts as gone."""
TIED = str(Path(__file__).with_name("tied.py"))


def without_credentials() -> dict[str, str]:
    """What of this process's environment is known to be no secret, with dummy credentials.

    So no key, token or password is handed on, whatever its variable is called; nor is a proxy's address, as
    nothing that the lab starts has to call another machine.
    """
    return {k: v for k, v in os.environ.items() if k in HANDED_ON or k.startswith(HANDED_ON_PREFIXES)} | DUMMY


def named_endpoint() -> str | None:
    """The environment variable that names an endpoint, if one does."""
    return next((name for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)


def store(directory: Path, port: int, name: str = CREDENTIALS) -> Credentials:
    """Make credentials for the engine at this port, and write them into its folder with mode 0600."""
    made = Credentials.generate(port)
    handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(vars(made), file)
    return made


def stored(directory: Path, name: str = CREDENTIALS) -> Credentials:
    """Read the credentials in a server's folder.

    Raises:
        EngineError: There are none, they are damaged, or another user has written them.
    """
    path = directory / name
    try:
        # O_NONBLOCK: another user may have put a pipe there, whose opening would wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
                raise ValueError("it is no file of this user's")
            return Credentials(**json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"{path}: holds no credentials of an engine ({error}); stop the engine and start it again"
        ) from error


def credentials_for(endpoint_url: str) -> Credentials | None:
    """Find the credentials of the engine at this endpoint, or return None for one that is not the lab's.

    They are in the folder of a server of this user's, or else in the environment, as `./lab engine env` and
    the lab's own processes set it. The access key names the port, so that no other endpoint is called with
    them; where a fault proxy stands before the engine, the environment names the proxy's endpoint beside it.
    """
    try:
        parts = urlsplit(endpoint_url)
        port = parts.port or 80
    except ValueError:
        return None
    if parts.hostname not in [host.strip("[]") for host in HOSTS]:
        return None
    found = [(changed, one) for changed, one, _ in _servers(port)]
    # A server that was killed may have left its folder: the newest is that of the one that listens.
    if found:
        return max(found, key=lambda one: one[0])[1]
    keys = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if keys[0] and keys[1] and (given := Credentials(keys[0], keys[1])).port:
        named = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
        if given.port == port or (named.scheme, named.netloc) == (parts.scheme, parts.netloc):
            return given
    return None


def _servers(port: int) -> list[tuple[float, Credentials, Path]]:
    """Return age (epoch s), credentials and folder of each server of this user's that was given the port."""
    # Another process may have been told of another folder for temporary files.
    places = {Path(for_sockets()), Path("/tmp")}
    folders = [*_noted_folders(), *(folder for place in places for folder in place.glob(f"{FOLDER}*"))]
    found = []
    for folder in folders:
        with contextlib.suppress(EngineError, OSError):
            if (one := stored(folder)).port == port:
                found.append(((folder / CREDENTIALS).stat().st_mtime, one, folder))
    return found


def _noted_folders() -> list[Path]:
    """The folders of the kept servers."""
    folders = []
    for note in KEPT.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            folders.append(Path(json.loads(note.read_text())["directory"]))
    return folders


def answer(url: str, credentials: Credentials | None = None) -> bytes | None:
    """Return what is answered with status 200 at this URL, or None.

    credentials: those to sign with; without them, those that `credentials_for` finds.
    """
    keys = credentials or credentials_for(url)
    try:
        answered = answering.ask(url, headers=keys.sign("GET", url) if keys else None)
    except EngineError:
        return None
    return answered.body if answered.status == 200 else None


def is_guarded(endpoint_url: str) -> bool:
    """Return whether an engine of the lab's answers at this endpoint, and refuses a call without its key."""
    try:
        answered = answering.ask(endpoint_url)
    except EngineError:
        return False
    return answered.status == 403 and HOW.encode() in answered.body.replace(b'\\"', b'"')


@dataclass(frozen=True)
class Server:
    """A server process: its pid (also its process group), port and folder. One subclass an engine.

    any_credentials: whether it serves AWS calls however they are signed.
    """

    engine: ClassVar[str]
    """The name of the engine that it is."""
    program: ClassVar[str]
    """The path of what it runs, by which its process is known."""
    start_seconds: ClassVar[int]
    """How long it may take until it is healthy."""

    pid: int
    port: int
    directory: str
    any_credentials: bool = False

    @classmethod
    def command(cls) -> list[str]:
        """The Python that runs the program, with its options; raises EngineError when it is not to be had."""
        # Not as a module: it needs none of the lab, whose imports would cost each start a second.
        return [sys.executable, "-P"]

    @classmethod
    def environment(cls, port: int, directory: str) -> dict[str, str]:
        """What the program is told by its environment, beside what all are told."""
        raise NotImplementedError

    @classmethod
    def healthy(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether a server of this kind answers at this endpoint, called with these credentials."""
        raise NotImplementedError

    @property
    def endpoint_url(self) -> str:
        """The URL at which it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def credentials(self) -> Credentials:
        """The credentials that it serves; raises EngineError where its folder has none."""
        return stored(Path(self.directory))

    @property
    def alive(self) -> bool:
        """Whether the process runs and is ours: a pid may have gone to another program since."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and self.program in process.cmdline()
        except psutil.Error:
            return False

    def silence(self) -> str:
        """Return that it does not answer, and the remedy, to follow its name."""
        stopped = ""
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                stopped = f", as its process is stopped; continue it with `kill -CONT {self.pid}`, or"
        told = f"(pid {self.pid}) does not answer{stopped or ';'}"
        return f"{told} `./lab engine stop {self.engine}` and start it again"

    @classmethod
    def start(cls, port: int = 0, keep: bool = False, any_credentials: bool = False) -> Self:
        """Start one on a loopback port (0: a free one) and wait until it is healthy.

        Unless `keep`, it ends with this process, however that ends. It serves only calls that are signed with
        its credentials, unless `any_credentials`. Raises EngineError when the port is in use or the server
        does not come up.
        """
        with acquiring(f"the {cls.engine} engine", EngineError):
            return cls._start(port, keep, any_credentials)

    @classmethod
    def _start(cls, port: int, keep: bool, any_credentials: bool) -> Self:
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise EngineError(
                    f"port {port}: cannot be used ({error.strerror}); choose another, or leave the port out "
                    "and a free one is taken"
                ) from error
            port = probe.getsockname()[1]
        command = cls.command() + ([] if keep else [TIED]) + [cls.program]
        directory = tempfile.mkdtemp(prefix=FOLDER, dir=for_sockets())
        log = Path(directory) / "engine.log"
        told = {"LAB_ENGINE_DIR": directory, "TMPDIR": directory}
        try:
            told |= store(Path(directory), port).variables()
            told |= {"LAB_ANY_CREDENTIALS": str(int(any_credentials))} | cls.environment(port, directory)
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=without_credentials() | told,
                    cwd=directory,
                    start_new_session=True,  # its own group: its workers end with it, and Ctrl-C is ours
                )
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        server = cls(process.pid, port, directory, any_credentials)
        _processes[process.pid] = process
        try:
            server._wait_until_healthy(process, log)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], log: Path) -> None:
        give_up = time.monotonic() + self.start_seconds
        # Not those of the environment: `./lab engine env` may have set those of an earlier one at this port.
        credentials = self.credentials
        while not self.healthy(self.endpoint_url, credentials):
            if process.poll() is not None or time.monotonic() > give_up:
                told = log.read_text(errors="replace").strip()[-2000:]
                failed = f"the {self.engine} engine did not come up on {self.endpoint_url}"
                if process.poll() is not None and (reason := lacking(told)):
                    raise EngineError(f"{failed}, as {reason}")
                raise EngineError(f"{failed}; run `./lab doctor`, or read what it said:\n{told}")
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

    @classmethod
    def note(cls) -> Path:
        """Where the server that is kept is noted."""
        return KEPT / f"{cls.engine}.json"

    @classmethod
    def kept(cls) -> Self | None:
        """The server that `./lab engine start` keeps, or None; a note whose process is gone is removed."""
        server = cls._noted()
        if server and not server.alive:
            # Unless another process starts one just now: its note is not for this one to remove.
            with contextlib.suppress(FileError), locked(cls._lock()) as held:
                if held and (server := cls._noted()) and not server.alive:
                    server._forget()
            return None
        return server

    @classmethod
    def _noted(cls) -> Self | None:
        """The server that is noted, alive or not."""
        try:
            server = cls(**json.loads(cls.note().read_text()))
            server._check()
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise EngineError(
                f"{cls.note()}: not a note of a kept engine ({error}); remove the file"
            ) from error
        return server

    @classmethod
    def _lock(cls) -> Path:
        """Return the path of the lock of those who start or stop the kept server."""
        return KEPT / f"{cls.engine}.lock"

    def _forget(self) -> None:
        """Stop it and remove its note."""
        self.stop()
        self.note().unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise ValueError for what `start` never made: what a note names is killed and removed."""
        numbers = all(type(number) is int and number > 0 for number in (self.pid, self.port))
        folder = Path(self.directory)
        if (
            not numbers
            or not folder.is_absolute()
            or not folder.name.startswith(FOLDER)
            or ".." in folder.parts
            or type(self.any_credentials) is not bool
        ):
            raise ValueError("it names no process and folder of an engine")

    @classmethod
    def keep(cls, port: int = 0, any_credentials: bool = False) -> Self:
        """Start one that outlives this process; one at a time, if several processes do so.

        Raises EngineError when one is kept already, and FileError, with nothing left running, when it cannot
        be noted.
        """
        with locked(cls._lock(), wait=True):
            if server := cls._noted():
                if server.alive:
                    raise EngineError(
                        f"pid {server.pid}: the {cls.engine} engine is kept already, at "
                        f"{server.endpoint_url}; use it, or `./lab engine stop {cls.engine}` first"
                    )
                server._forget()
            server = cls.start(port, keep=True, any_credentials=any_credentials)
            try:
                write_whole(cls.note(), json.dumps(vars(server)))
            except BaseException:
                server.stop()
                raise
            return server

    @classmethod
    def unkeep(cls) -> Self | None:
        """Stop the kept server and return what it was, or None when there was none.

        Waits for one that is being started.
        """
        if not cls.note().exists() and not cls._lock().exists():
            return None
        with locked(cls._lock(), wait=True):
            if server := cls._noted():
                alive = server.alive
                server._forget()
                return server if alive else None
            return None


_processes: dict[int, subprocess.Popen[bytes]] = {}


class EngineGone(EngineError, BotoCoreError):  # type: ignore[misc]
    """An engine on this machine has ended, hangs, or cannot be called; to botocore, a failed connection."""

    fmt = "{told}"

    def __init__(self, told: str) -> None:
        BotoCoreError.__init__(self, told=told)


class Local(Engine):
    """An engine on this machine; see the module's text for where it answers.

    endpoint: the URL of one that runs already. credentials: those to call it with; without them, those that
    `credentials_for` finds. Raises EngineError when none answers there.
    """

    server: ClassVar[type[Server] | None] = None
    """The servers that the lab starts for it, if it does."""
    remedy: ClassVar[str]
    """What to do when nothing answers where a user said."""
    health: ClassVar[str]
    """The path of its health check, which it answers when it is busy, too."""
    clock_seconds = 0.002  # one clock, but each service rounds to its own milliseconds
    poll_seconds = 0.1
    log_seconds = 5.0
    settle_seconds = 0.0
    paced = False

    def __init__(self, endpoint: str | None = None, credentials: Credentials | None = None) -> None:
        super().__init__()
        self.endpoint_url = self._find(endpoint, credentials)
        self.credentials = credentials or credentials_for(self.endpoint_url)
        """The credentials of an engine of the lab's; None for another, which gets dummy ones."""
        self._refused_since: float | None = None
        self._refusing = threading.Lock()
        keys = DUMMY | (self.credentials.variables() if self.credentials else {})
        programs = (self.server.program,) if self.server else ()
        self._watch = Watch(self.name, self.endpoint_url, self.health, programs)
        self._session = Session(
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=None,
            region_name=REGION,
            localstack_host=self.endpoint_url.partition("://")[2],
        )

    @classmethod
    def answers_at(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether such an engine answers at this endpoint, called with these credentials."""
        assert cls.server
        return cls.server.healthy(endpoint_url, credentials)

    def _find(self, endpoint: str | None, credentials: Credentials | None) -> str:
        variable = "endpoint" if endpoint else named_endpoint()
        if variable:
            said = f"{variable}={shown(endpoint or os.environ[variable])}"
            url = (endpoint or get_service_endpoint("sqs")).rstrip("/")
            if not url.startswith("http://"):
                raise EngineError(f"{said}: must be http://HOST:PORT; local engines are called without TLS")
            if not self.answers_at(url, credentials):
                if not credentials_for(url) and is_guarded(url):
                    raise EngineError(f"{said}: an engine of the lab's refuses calls without its key; {HOW}")
                raise EngineError(
                    f"{said}: no {self.name} engine answers there ({answering.why_not(url)}); {self.remedy}"
                )
            return url
        if self.server and (server := self.server.kept()):
            if not self.answers_at(server.endpoint_url):
                raise EngineError(f"{server.endpoint_url}: the kept {self.name} engine {server.silence()}")
            return server.endpoint_url
        return self._fall_back()

    def _fall_back(self) -> str:
        """The endpoint of this engine when none is named and none is kept."""
        raise NotImplementedError

    def _new_client(self, service: str) -> Any:
        client = self._session.client(service, config=CLIENT_CONFIG.merge(Config(proxies={})))
        client.meta.events.register_first("before-call", self._hangs)
        client.meta.events.register_first("needs-retry", self._is_there)
        self._watch.attach(client)
        return client

    def _hangs(self, caught_exception: Exception | None = None, **_: Any) -> None:
        """Raise EngineGone while the engine is known not to answer."""
        if self._watch.silent:
            raise EngineGone(self._watch.silent) from caught_exception

    def _is_there(self, caught_exception: Exception | None = None, **_: Any) -> None:
        """Before a call is tried again: raise EngineGone if there is no use, as nothing listens any more.

        A port of this machine refuses connections only then; the clients' patience is for busy engines.
        """
        if caught_exception:
            self._hangs(caught_exception)
        with self._refusing:  # all threads' clients share it
            if not isinstance(caught_exception, EndpointConnectionError):
                self._refused_since = None
                return
            since = self._refused_since = self._refused_since or time.monotonic()
        if time.monotonic() - since >= GONE_SECONDS:
            raise EngineGone(self._why_unreachable(caught_exception)) from caught_exception

    def _why_unreachable(self, error: EndpointConnectionError) -> str:
        """Return why connections to the engine fail: it has ended, or this process cannot open one."""
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes(error)):
            return (
                f"{self.endpoint_url}: the {self.name} engine has ended, nothing listens there any more; "
                "start it, and run it again"
            )
        system = next((cause.strerror for cause in causes(error) if isinstance(cause, OSError)), None)
        return f"{self.endpoint_url}: cannot be called, as {lacking(error) or system or error}"

    def fleet_environment(self) -> dict[str, str]:
        """The environment in which a fleet process finds this engine with plain boto3."""
        return without_credentials() | self.shared()

    def lock_folder(self) -> Path:
        """Return the server's folder, which goes with it, where it is one of the lab's."""
        found = _servers(urlsplit(self.endpoint_url).port or 80)
        return max(found, key=lambda one: one[0])[2] if found else super().lock_folder()

    def shared(self) -> dict[str, str]:
        """The environment variables by which `connect` finds this same engine in another process."""
        keys = self.credentials.variables() if self.credentials else {}
        return {"AWS_ENDPOINT_URL": self.endpoint_url} | keys
