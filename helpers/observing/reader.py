"""Calls to a live engine that only read: within AWS's quotas, page by page, errors in the lab's words."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.engines.base import Engine
from helpers.errors import ObserveError

__all__ = ["PAGE", "QUOTAS", "Bucket", "Reader", "check"]

QUOTAS: Mapping[str, tuple[int, float]] = {
    "DescribeExecution": (300, 15),
    "DescribeMapRun": (200, 1),
    "GetExecutionHistory": (400, 20),
    "ListExecutions": (200, 5),
    "ListMapRuns": (100, 1),
}
"""Calls at once, and calls a second from then on: Step Functions service quotas, us-east-1, 2026-11-24."""
PAGE = 1000
"""What one ListExecutions or GetExecutionHistory returns at most (API reference, 2026-11-24)."""
DENIED = re.compile(r"AccessDenied|Unauthorized|NotAuthorized")
WANTED = "give that of a Standard execution, arn:aws:states:REGION:ACCOUNT:execution:STATE_MACHINE:NAME"
INSTEAD = {
    "stateMachine": "is a state machine; give one of its executions, which `aws stepfunctions "
    "list-executions --state-machine-arn {arn}` lists",
    "mapRun": "is a Map Run; give the execution that it belongs to, the executionArn in `aws stepfunctions "
    "describe-map-run --map-run-arn {arn}`",
    "express": "is an Express execution, whose history is in CloudWatch Logs alone; give a Standard one, "
    "such as that which started it",
}
"""What other ARNs of Step Functions are, and what to give in their place."""
_ARN = re.compile(r"arn:aws[\w-]*:(?P<service>[\w-]+):[\w-]*:\d*:(?P<kind>[\w-]+)(?P<name>.*)")


def check(arn: str) -> None:
    """Refuse what is no ARN of a Standard execution, before any call. Raises ObserveError."""
    found = _ARN.fullmatch(arn) if isinstance(arn, str) else None
    if not found:
        raise ObserveError(f"{arn!r}: is no ARN; {WANTED}")
    if found["service"] != "states":
        raise ObserveError(f"{arn}: is an ARN of the service {found['service']!r}; {WANTED}")
    if (kind := found["kind"]) != "execution":
        instead = INSTEAD.get(kind, f"is of the kind {kind!r}; {WANTED}")
        raise ObserveError(f"{arn}: {instead.format(arn=arn)}")
    if not re.fullmatch(r":[^:]+:[^:]+", found["name"]):
        raise ObserveError(f"{arn}: does not name a state machine and an execution of it; {WANTED}")


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


class Reader:
    """Reads from an engine. paced: AWS's quotas hold there. notes: what was not to be had, in sentences."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.paced = engine.paced
        self.notes: list[str] = []
        self._buckets = {action: Bucket(*quota) for action, quota in QUOTAS.items()} if self.paced else {}

    def call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer of one call, e.g. of "sqs", "get_queue_attributes". Raises ObserveError."""
        client = self.engine.client(service)
        action = client.meta.method_to_api_mapping[operation]
        if action in self._buckets:
            self._buckets[action].take()
        try:
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
            return answer
        except (ClientError, BotoCoreError) as error:
            asked = next(iter(arguments.values()))
            raise ObserveError(f"{asked}: {self._why(client, service, action, error)}") from error

    def _why(self, client: Any, service: str, action: str, error: Exception) -> str:
        code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
        if DENIED.search(code):
            prefix = "states" if service == "stepfunctions" else service
            return f"the credentials in use do not allow {prefix}:{action}; allow it, or use others"
        if code == "ExecutionDoesNotExist":
            return (
                f"does not exist on the engine {self.engine.name!r}, {client.meta.region_name}; check engine "
                "and region, account and name (AWS keeps an execution for 90 days after it ended)"
            )
        return f"{action} failed ({error}); put that right and observe it again"

    def optional(self, service: str, operation: str, **arguments: Any) -> dict[str, Any] | None:
        """The answer of a call that one can do without; None and a note where it fails."""
        try:
            return self.call(service, operation, **arguments)
        except ObserveError as error:
            self.notes.append(f"Left out: {error}.")
            return None

    def pages(self, service: str, operation: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """All that is listed under `key`, page by page. Raises ObserveError."""
        while True:
            page = self.call(service, operation, **arguments)
            yield from page.get(key, [])
            if not page.get("nextToken"):
                return
            arguments["nextToken"] = page["nextToken"]
