"""Calls within AWS's quotas: a token bucket for each action that has one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["QUOTAS", "Bucket", "Pacer"]

QUOTAS: Mapping[str, tuple[int, float]] = {
    "DescribeExecution": (300, 15),
    "DescribeMapRun": (200, 1),
    "FilterLogEvents": (5, 5),
    "GetExecutionHistory": (400, 20),
    "ListExecutions": (200, 5),
    "ListMapRuns": (100, 1),
}
"""Calls at once, and calls a second from then on, of one account in one region.

Step Functions service quotas, us-east-1; FilterLogEvents: CloudWatch Logs service quotas, the slowest
regions (us-east-1: 25), where no burst is told; 2026-11-24.
"""


class Bucket:
    """A token bucket: `size` calls at once, `per_second` from then on; threads may share it.

    clock and sleep: of another time than this machine's, in seconds.
    """

    def __init__(
        self,
        size: int,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._size, self._rate, self._clock, self._sleep = size, per_second, clock, sleep
        self._level, self._at, self._lock = float(size), clock(), threading.Lock()

    def take(self) -> None:
        """Wait until a call is allowed."""
        with self._lock:
            now = self._clock()
            self._level = min(self._size, self._level + (now - self._at) * self._rate) - 1
            self._at = now
            wait = -self._level / self._rate
        if wait > 0:
            self._sleep(wait)


class Pacer:
    """Lets the calls of all clients that it paces wait until their quota allows them."""

    def __init__(self) -> None:
        self._buckets = {action: Bucket(*quota) for action, quota in QUOTAS.items()}

    def pace(self, client: Any) -> None:
        """Pace this boto3 client from now on, its paginators and waiters included."""
        client.meta.events.register("before-call", self._take)

    def _take(self, model: Any, **_: Any) -> None:
        if bucket := self._buckets.get(model.name):
            bucket.take()
