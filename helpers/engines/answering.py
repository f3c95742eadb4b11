"""Ask a URL whether a server answers there, and learn soon why none does, whatever is behind it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from helpers.errors import EngineError, shown
from helpers.resources import lacking

SECONDS = 5.0
"""How long a server may take for its whole answer."""
MOST_BYTES = 1_000_000
"""How much of an answer is read; a health check is far smaller."""


class NotInTime(EngineError):
    """Something accepts connections, and does not answer in time."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: its status and the beginning of its body."""

    status: int
    body: bytes


def ask(url: str, seconds: float = SECONDS, headers: Mapping[str, str] | None = None) -> Answer:
    """Return what is answered to a GET of this http URL.

    No proxy is asked, and no redirect followed.

    Args:
        url: The URL.
        seconds: How long the whole answer may take.
        headers: The request's headers, such as a signature.

    Raises:
        NotInTime: What listens there does not answer in time.
        EngineError: Nothing speaks HTTP there; the message is the reason, to stand in brackets.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EngineError(f"not a URL: {error}") from error
    if parts.scheme != "http" or not host:
        raise EngineError("not a URL of the form http://HOST:PORT")
    try:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    except http.client.InvalidURL as error:
        raise EngineError(f"not a URL: {error}") from error
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has ended already
            sock.shutdown(socket.SHUT_RDWR)

    began = time.monotonic()
    timer: threading.Timer | None = None
    try:
        connection.connect()
        sock = connection.sock  # which http.client forgets once an answer without a length has begun
        timer = threading.Timer(max(0.0, began + seconds - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        connection.request("GET", parts.path or "/", headers=dict(headers or {}))
        answered = connection.getresponse()
        body = answered.read(MOST_BYTES)
        if late.is_set():
            raise TimeoutError
        return Answer(answered.status, body)
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise NotInTime(f"what listens there does not answer within {seconds:g} s") from error
        raise EngineError(_why(error)) from error
    finally:
        if timer:
            timer.cancel()
        connection.close()


def why_not(url: str) -> str:
    """Return why the server of an engine is not to be found at this URL, in words to stand in brackets."""
    try:
        status = ask(url).status
    except EngineError as error:
        return str(error)
    return f"another server answers, with status {status}"


def _why(error: Exception) -> str:
    if reason := lacking(error):
        return f"not asked, as {reason}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, socket.gaierror):
        return f"the name is not known: {error.strerror}"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "what listens there closes the connection without an answer"
    if isinstance(error, http.client.InvalidURL):
        return f"not a URL: {error}"
    if isinstance(error, http.client.HTTPException):
        said = getattr(error, "line", None) or str(error)
        return f"what listens there speaks no HTTP; it says {shown(said.strip()[:80])}"
    return f"it cannot be reached: {getattr(error, 'strerror', None) or error}"
