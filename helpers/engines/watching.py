"""Notice that an engine on this machine no longer answers while calls wait for it.

A call may rightly wait for minutes, e.g. for a Lambda function, so that no timeout of a call tells a long
task from an engine that hangs. Its health check does: a busy engine answers it, if late.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import psutil

from helpers.engines import answering
from helpers.errors import EngineError

PROBE_SECONDS = 2.5
"""How long a health check may take, and how long to wait between two that were answered."""
STOPPED_PROBES = 2
"""Unanswered health checks until an engine whose process is stopped, as by SIGSTOP, counts as hung."""
IDLE_PROBES = 4
"""The same for a process that uses no processor time meanwhile: what has work to do gets some in 10 s."""
UNKNOWN_PROBES = 12
"""The same for an engine whose process is not known, such as one in Docker: 30 s."""
BUSY_PROBES = 48
"""The same for a process that uses processor time: 2 minutes."""


class Watch:
    """Ask an engine for its health while calls wait, and end the calls when it no longer answers.

    Attributes:
        silent: Why calls are of no use now, as a sentence; None while the engine answers.
    """

    def __init__(self, name: str, endpoint_url: str, health: str, programs: tuple[str, ...]) -> None:
        """Prepare to watch the engine.

        Args:
            name: The engine's name, for the sentence.
            endpoint_url: The URL at which it answers.
            health: The path of its health check.
            programs: What its processes are known by: a text among their arguments.
        """
        self.silent: str | None = None
        self._name, self._url, self._health, self._programs = name, endpoint_url, health, programs
        self._waiting: set[int] = set()  # threads; an interrupted call leaves its own until that calls again
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def attach(self, client: Any) -> None:
        """Watch the engine during the calls of a boto3 client."""
        client.meta.events.register("before-call", self._begin)
        client.meta.events.register("after-call", self._end)
        client.meta.events.register("after-call-error", self._end)

    def _begin(self, **_: Any) -> None:
        with self._lock:
            self._waiting.add(threading.get_ident())
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
                thread.start()  # where the system refuses it, the next call tries again
                self._thread = thread

    def _end(self, **_: Any) -> None:
        with self._lock:
            self._waiting.discard(threading.get_ident())

    def _watch(self) -> None:
        """Ask again and again, until no call waits any more and the engine answers."""
        unanswered = idle = 0
        process = self._process()
        used = _processor_seconds(process)
        while True:
            time.sleep(PROBE_SECONDS if not unanswered else 0)
            with self._lock:
                if not self._waiting and self.silent is None:
                    self._thread = None
                    return
            try:
                answering.ask(self._url + self._health, PROBE_SECONDS)
            except answering.NotInTime:
                unanswered += 1
                before, used = used, _processor_seconds(process)
                idle = idle + 1 if used == before else 0
                self.silent = self.silent or self._verdict(process, unanswered, idle)
                if self.silent and self._waiting:
                    self._cut()
                continue
            except EngineError:
                time.sleep(PROBE_SECONDS)  # refused, or not asked for lack of a socket: the calls find out
            unanswered = idle = 0
            self.silent = None

    def _verdict(self, process: psutil.Process | None, unanswered: int, idle: int) -> str | None:
        """Return why the engine counts as hung after so many health checks, or None."""
        told = f"{self._url}: the {self._name} engine no longer answers"
        again = "stop it, start it, and run it again"
        if process is None:
            return f"{told}; {again}" if unanswered >= UNKNOWN_PROBES else None
        stopped = _status(process) == psutil.STATUS_STOPPED
        if stopped and unanswered >= STOPPED_PROBES:
            return f"{told}, as its process is stopped; `kill -CONT {process.pid}` continues it, or {again}"
        if idle >= IDLE_PROBES or unanswered >= BUSY_PROBES:
            return f"{told} (pid {process.pid}); {again}"
        return None

    def _process(self) -> psutil.Process | None:
        """Return the engine's process, where it is one of the lab's own servers and may be seen."""
        port = urlsplit(self._url).port
        with contextlib.suppress(psutil.Error, OSError):
            for found in psutil.net_connections("tcp"):
                if found.pid and found.status == psutil.CONN_LISTEN and found.laddr[1:] == (port,):
                    process = psutil.Process(found.pid)
                    if set(self._programs) & set(process.cmdline()):
                        return process
        return None

    def _cut(self) -> None:
        """End this process's connections to the engine, so that the calls that wait fail."""
        parts = urlsplit(self._url)
        with contextlib.suppress(OSError, psutil.Error):
            hosts = {found[4][0] for found in socket.getaddrinfo(parts.hostname, parts.port)}
            for found in psutil.Process().net_connections("tcp"):
                if found.raddr and found.raddr[0] in hosts and found.raddr[1] == parts.port:
                    # The number may be that of another connection by now: of the copy it is certain.
                    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(found.fd)) as copied:
                        if copied.getpeername()[:2] == tuple(found.raddr):
                            copied.shutdown(socket.SHUT_RDWR)


def _processor_seconds(process: psutil.Process | None) -> float | None:
    with contextlib.suppress(psutil.Error, OSError):
        return sum(process.cpu_times()[:2]) if process else None
    return None


def _status(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return str(process.status())
    return None
