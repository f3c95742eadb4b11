"""Files that are there whole or not at all."""

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import FileError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says of a full disk, a used-up quota and a file that may not grow."""
RUNS = Path(__file__).parents[1] / "runs"
"""Where results go that are given no folder."""


def for_sockets() -> str:
    """A folder for temporary folders with sockets, whose paths are at most some 100 characters long."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 40 else "/tmp"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write the file in one step: a reader sees the old one or the new one, and never half of it.

    Makes its folder. Raises FileError, and leaves the old one, where there is no room or no right.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content if isinstance(content, bytes) else content.encode())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file or folder of the lab's own, follow no link and truncate nothing; return its descriptor.

    Args:
        path: The file, or with O_DIRECTORY among the flags the folder.
        flags: Flags of `os.open`.
        mode: The permissions of a file that is made, less the umask.

    Raises:
        OSError: The system refuses it, or it is a link, a device, a pipe, or a file with a second name.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    found = os.fstat(descriptor)
    own = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink <= 1)
    if not own:
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return descriptor


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of this file during the block, and yield whether it is held.

    The system drops the lock when this process ends, however it does. The file is made where it is missing,
    never written, and removed at the end of the block; no link is followed.

    Args:
        path: The file; its folder is made.
        wait: Whether to wait for another process that holds the lock; without, False is yielded.

    Raises:
        FileError: The file cannot be made or opened.
    """
    with contextlib.ExitStack() as opened:
        held = False
        while not held:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = open_own(path, os.O_RDWR | os.O_CREAT, 0o600)
            opened.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                break
            with contextlib.suppress(FileNotFoundError):  # its last holder has removed this file
                held = os.path.samestat(os.fstat(descriptor), os.stat(path))
        if held:
            opened.callback(_remove, path)
        yield held


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses in the block is a FileError of this file."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> FileError:
    """The error that says why a file could not be written."""
    if error.errno == errno.ELOOP or path.is_symlink():
        return FileError(
            f"{path}: is a link, which the lab does not follow; remove it, or choose another folder"
        )
    return FileError(
        f"{path}: could not be written ({error.strerror or error}); make room there, or choose another "
        "folder, and run it again"
    )
