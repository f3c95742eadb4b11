"""Records that one thread appends while others read them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Recorder"]

T = TypeVar("T")


class Recorder(Generic[T]):
    """An append-only sequence for several threads.

    Iterating goes over a snapshot: a loop, a list or a DataFrame of a recorder holds the records of one
    moment, however many are appended meanwhile. It is no `Sequence` on purpose: pandas reads a sequence in
    several passes, and anything else in one.
    """

    def __init__(self) -> None:
        self._records: list[T] = []
        self._lock = threading.Lock()

    def append(self, record: T) -> None:
        """Append a record.

        Args:
            record: What to append. Nobody must change it afterwards.
        """
        with self._lock:
            self._records.append(record)

    def snapshot(self) -> list[T]:
        """Return a list of the records so far, which is the caller's own."""
        with self._lock:
            return self._records.copy()

    def __iter__(self) -> Iterator[T]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        with self._lock:
            return len(self._records)
