"""Lambda functions, their event source mappings and their logs."""

import contextlib
import fcntl
import json
import os
import select
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

LOG_WAIT_SECONDS = 5
LOG_PAGE = 10_000
"""Events that one FilterLogEvents returns at most (API reference, 2026-11-24)."""

Step = Callable[..., Any]


def number_from_template(concurrency: Step) -> Step:
    """MaximumConcurrency is a number, though a CloudFormation parameter gives it as text."""

    def corrected(mapping: dict[str, Any], *rest: Any) -> Any:
        scaling = mapping.get("ScalingConfig") or {}
        if isinstance(scaling.get("MaximumConcurrency"), str):
            scaling["MaximumConcurrency"] = int(scaling["MaximumConcurrency"])
        return concurrency(mapping, *rest)

    return corrected


def whole_logs(worker: Any) -> None:
    """An invocation's log is all that its handler printed, without a fixed wait for it.

    ministack waits 50 ms for a first line and 5 ms for a next one, and loses what comes later. The reader
    here says when it has nothing left: `idle` is set only while it waits for the pipe to fill.
    """

    def read(self: Any) -> None:
        pipe, lines = self._proc.stderr.fileno(), self._stderr_queue
        self.stderr_pipe, self.stderr_idle = pipe, threading.Event()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        rest = b""
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed with its process
            while True:
                self.stderr_idle.set()
                poll.poll()
                self.stderr_idle.clear()
                if not (text := os.read(pipe, 65536)):
                    break
                *whole, rest = (rest + text).split(b"\n")
                for line in whole:
                    lines.put(line.decode(errors="replace"))
        self.stderr_idle.set()

    def unread(self: Any) -> bool:
        if not self._stderr_thread.is_alive():
            return False
        if not self.stderr_idle.is_set():
            return True
        with contextlib.suppress(OSError):
            return any(fcntl.ioctl(self.stderr_pipe, termios.FIONREAD, bytes(4)))
        return False

    def drain(self: Any) -> Any:
        give_up = time.monotonic() + LOG_WAIT_SECONDS
        while unread(self) and time.monotonic() < give_up:
            time.sleep(0.0005)
        return self._drain_stderr()

    worker._read_stderr = read
    worker._drain_stderr_bounded = drain


def errors_named_by_class(execute: Step) -> Step:
    """A handler's exception is an error named after its class, for states to catch by name."""

    def corrected(function: dict[str, Any], event: Any, request_id: str) -> Any:
        answer = execute(function, event, request_id)
        body = answer.get("body")
        if answer.get("error") and body["errorType"] == "Runtime.HandlerError":
            # The log ends with the traceback, and that with "module.Class: message", or with "Class" alone.
            head = answer["log"].rstrip("\n").removesuffix(f": {body['errorMessage']}")
            name = head.rpartition("\n")[2].rpartition(".")[2]
            if name.isidentifier():
                body["errorType"] = name
        return answer

    return corrected


def workers_end_with_their_function(lambda_svc: Any, delete: Step) -> Step:
    """A function that CloudFormation deletes takes its worker processes with it."""

    def corrected(name: str, properties: dict[str, Any]) -> Any:
        answer = delete(name, properties)
        lambda_svc.invalidate_worker(
            name, account=lambda_svc.get_account_id(), region=lambda_svc.get_region()
        )
        return answer

    return corrected


def log_pages(find: Step) -> Step:
    """FilterLogEvents goes on after its first 10,000 events, with a nextToken."""

    def corrected(data: dict[str, Any]) -> Any:
        if "nextToken" in data:
            data = {**data, "startTime": int(data["nextToken"])}
        status, headers, body = find(data)
        page = json.loads(body)
        events = page.get("events", [])
        if len(events) == min(data.get("limit", LOG_PAGE), LOG_PAGE):
            last = events[-1]["timestamp"]
            # The next page begins with the last millisecond, which may have been cut.
            whole = [event for event in events if event["timestamp"] < last]
            if whole:
                body = json.dumps({**page, "events": whole, "nextToken": str(last)}).encode()
        return status, headers, body

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.core import lambda_runtime
    from ministack.services import cloudwatch_logs, lambda_svc
    from ministack.services.cloudformation import provisioners

    whole_logs(lambda_runtime.Worker)
    cloudwatch_logs._filter_log_events = log_pages(cloudwatch_logs._filter_log_events)
    function = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    function["delete"] = workers_end_with_their_function(lambda_svc, function["delete"])
    lambda_svc._execute_function_warm = errors_named_by_class(lambda_svc._execute_function_warm)
    lambda_svc._sqs_esm_concurrency = number_from_template(lambda_svc._sqs_esm_concurrency)
