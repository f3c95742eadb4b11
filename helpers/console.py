"""Print to a terminal: every character that leaves the lab for one passes here.

`walled` stands around the whole command line, so that no command can forget it. Functions that print in
notebooks and programs as well use `say` and `Bar`.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

from helpers.formatting import plain

__all__ = ["Bar", "say", "walled"]


def say(text: object, err: bool = False) -> None:
    """Print one line, on standard error if `err`; a line end within the text is shown as its escape."""
    print(plain(str(text)), file=sys.stderr if err else sys.stdout)


class Wall(io.TextIOBase):
    """A text stream that passes lines of plain text to another one, and shows all else as escapes.

    It has no `buffer`, by which a writer could get around it.

    Attributes:
        behind: The stream that it passes them to.
    """

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind."""
        return self.behind.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The error handler of the stream behind."""
        return self.behind.errors

    def write(self, text: str) -> int:
        """Write the text, of whose controls only line ends pass."""
        self.behind.write(plain(text, keep="\n"))
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self.behind.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream behind is a terminal."""
        return self.behind.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream behind."""
        return self.behind.fileno()


@contextlib.contextmanager
def walled() -> Iterator[None]:
    """Put a Wall before standard output and standard error until the end of the block."""
    out, err = (stream if isinstance(stream, Wall) else Wall(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


class Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar on standard error: it moves the cursor, and the texts in it are plain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        behind = sys.stderr.behind if isinstance(sys.stderr, Wall) else sys.stderr
        super().__init__(*args, **{"file": behind, **kwargs})

    def __str__(self) -> str:
        return plain(super().__str__())
