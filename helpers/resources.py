"""Errors of a machine that has run out of something: the reason, and what to do about it, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

from helpers.errors import LabError

NO_THREAD = "can't start new thread"
"""What Python says when the system refuses it a thread."""


def lacking(error: BaseException | str) -> str | None:
    """Return which resource ran out, and the remedy; None for an error with another reason.

    Args:
        error: An exception, whose causes are searched as well, or the text that a program wrote before it
            ended.
    """
    if isinstance(error, str):
        number = next((number for number in _REMEDIES if os.strerror(number) in error), None)
        if number is None and (NO_THREAD in error or "MemoryError" in error):
            number = errno.EAGAIN if NO_THREAD in error else errno.ENOMEM
        return None if number is None else _told(number)
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _REMEDIES:
            return _told(cause.errno, cause.filename)
        if isinstance(cause, MemoryError):
            return _told(errno.ENOMEM)
        if isinstance(cause, RuntimeError) and NO_THREAD in str(cause):
            return _told(errno.EAGAIN)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and what caused it, the outermost first, botocore's and urllib3's included."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        hidden = getattr(cause, "kwargs", {}).get("error")  # where botocore keeps what it caught
        told = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        cause = hidden if isinstance(hidden, BaseException) else told


@contextlib.contextmanager
def acquiring(what: str, kind: type[LabError]) -> Iterator[None]:
    """Raise `kind` with the reason and the remedy when the block fails for lack of a resource.

    Args:
        what: What is started in the block, the subject of the sentence, e.g. "the embedded engine".
        kind: The class of the error.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if (reason := lacking(error)) is None:
            raise
        raise kind(f"{what}: could not be started, as {reason}") from error


def _told(number: int, file: str | None = None) -> str:
    files, folder = resource.getrlimit(resource.RLIMIT_NOFILE)[0], file or os.environ.get("TMPDIR") or "/tmp"
    return _REMEDIES[number].format(files=files, folder=folder)


_ROOM = "the disk of {folder} is full; make room there, or choose another folder (TMPDIR for temporary files)"
_REMEDIES = {
    errno.EMFILE: (
        "this process may open no more than {files} files and sockets; raise the limit with `ulimit -n`, "
        "or use fewer workers"
    ),
    errno.ENFILE: "the system may open no more files; close other programs, or use fewer workers",
    errno.EAGAIN: (
        "the system allows no more processes or threads; raise the limit with `ulimit -u` (in a container, "
        "its limit of pids), or use fewer workers"
    ),
    errno.ENOMEM: (
        "the memory or the address space (`ulimit -v`) is used up; close other programs, or use fewer workers"
    ),
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM.replace("is full", "has no more room for this user"),
    errno.EROFS: "{folder} is read-only; choose another folder (TMPDIR for temporary files)",
}
"""The sentence for each error number of a resource that ran out."""
