"""Calls to a live engine that only read: page by page, errors in the lab's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.engines.base import Engine
from helpers.errors import ObserveError

__all__ = ["PAGE", "Reader", "check"]

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


class Reader:
    """Reads from an engine. notes: what was not to be had, in sentences."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.notes: list[str] = []

    def call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer of one call, e.g. of "sqs", "get_queue_attributes". Raises ObserveError."""
        client = self.engine.client(service)
        action = client.meta.method_to_api_mapping[operation]
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
