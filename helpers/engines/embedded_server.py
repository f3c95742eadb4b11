"""The embedded engine's server process: the pinned ministack with AWS's behaviour put right.

Started by `helpers.engines.embedded` as a program of its own.
Each correction is one function that wraps one of ministack's, for what the lessons rely on and the
emulator leaves out; each has its test in tests/test_embedded.py. They are written for one release,
so the server refuses to start on another.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

WRITTEN_FOR = "1.5.33"
HEARTBEAT_CHECK_SECONDS = 0.1
INLINE_MAP_LIMIT = 40
DISTRIBUTED_MAP_LIMIT = 10_000
"""Iterations and child executions at once (Step Functions service quotas, 2026-11-24)."""
LOG_WAIT_SECONDS = 5
LOG_PAGE = 10_000
"""Events that one FilterLogEvents returns at most (API reference, 2026-11-24)."""

State = dict[str, Any]
Step = Callable[..., Any]


def limits_from_paths(sfn: Any, execute: Step) -> Step:
    """MaxConcurrencyPath, TimeoutSecondsPath and their like select a number from the state's input."""
    fields = (
        "HeartbeatSeconds",
        "MaxConcurrency",
        "TimeoutSeconds",
        "ToleratedFailureCount",
        "ToleratedFailurePercentage",
    )

    def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        paths = {field: state[f"{field}Path"] for field in fields if f"{field}Path" in state}
        if paths:
            effective = sfn._apply_input_path(state, raw_input, ctx)
            numbers = {f: sfn._resolve_path_or_ctx(path, effective, ctx) for f, path in paths.items()}
            state = {**state, **numbers}
        return execute(state, raw_input, execution, ctx)

    return corrected


def map_limits(execute: Step) -> Step:
    """An inline Map runs 40 iterations at once, a distributed one 10,000; MaxConcurrency 0 means these."""

    def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        processor = state.get("ItemProcessor") or state.get("Iterator") or {}
        distributed = processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
        limit = DISTRIBUTED_MAP_LIMIT if distributed else INLINE_MAP_LIMIT
        wanted = state.get("MaxConcurrency", 0)
        if isinstance(wanted, int):  # in JSONata it may be an expression, which is ministack's to evaluate
            state = {**state, "MaxConcurrency": min(wanted or limit, limit)}
        return execute(state, raw_input, execution, ctx)

    return corrected


def context_of_children(run_states: Step) -> Step:
    """In a child execution `$$.Execution` is the child, not its parent."""

    def corrected(states: Any, start_at: str, data: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        if "mapRunArn" in execution and ctx["Execution"]["Id"] != execution["executionArn"]:
            ctx["Execution"] = {
                "Id": execution["executionArn"],
                "Input": data,
                "Name": execution["name"],
                "RoleArn": ctx["Execution"].get("RoleArn"),
                "StartTime": execution["startDate"],
            }
        return run_states(states, start_at, data, execution, ctx)

    return corrected


class Callbacks:
    """Callback tasks: the heartbeat clock, and a new token for each attempt."""

    def __init__(self, sfn: Any) -> None:
        self.sfn = sfn
        self.running = threading.local()
        self.answering = threading.Lock()
        self.clocks: dict[str, tuple[float, float, tuple[str, str, str]]] = {}
        threading.Thread(target=self._expire, daemon=True, name="heartbeats").start()

    def new_token_for_each_attempt(self, execute: Step) -> Step:
        """A retried task waits for a token of its own; the old one is dead."""

        def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
            self.running.ctx = ctx
            return execute(state, raw_input, execution, ctx)

        return corrected

    def wait(self, wait: Step) -> Step:
        """HeartbeatSeconds without a heartbeat ends the task with States.HeartbeatTimeout."""

        def corrected(resource: str, data: Any, token: str, state: State) -> Any:
            if "HeartbeatSeconds" in state:
                key = (self.sfn.get_account_id(), self.sfn.get_region(), token)
                self._start(token, state["HeartbeatSeconds"], key)
            try:
                return wait(resource, data, token, state)
            finally:
                self.clocks.pop(token, None)
                self.running.ctx["Task"] = {"Token": self.sfn.new_uuid()}

        return corrected

    def first_answer_counts(self, send: Step) -> Step:
        """A token takes one answer: a second is refused even before the waiting state has woken up."""

        def corrected(data: dict[str, Any]) -> Any:
            with self.answering:
                task = self.sfn._task_tokens.get(data.get("taskToken"))
                if task and task["event"].is_set():
                    data = {**data, "taskToken": None}  # to ministack, a token that is gone
                return send(data)

        return corrected

    def heartbeat(self, send: Step) -> Step:
        """SendTaskHeartbeat starts the task's heartbeat clock anew."""

        def corrected(data: dict[str, Any]) -> Any:
            token = data.get("taskToken", "")
            if token in self.clocks:
                _, seconds, key = self.clocks[token]
                self._start(token, seconds, key)
            return send(data)

        return corrected

    def _start(self, token: str, seconds: float, key: tuple[str, str, str]) -> None:
        self.clocks[token] = (time.monotonic() + seconds, seconds, key)

    def _expire(self) -> None:
        while True:
            time.sleep(HEARTBEAT_CHECK_SECONDS)
            for deadline, seconds, key in list(self.clocks.values()):
                with self.answering:
                    task = self.sfn._task_tokens.get_scoped(*key)
                    if task and time.monotonic() >= deadline and not task["event"].is_set():
                        task["error"] = {
                            "Error": "States.HeartbeatTimeout",
                            "Cause": f"No heartbeat within {seconds} seconds",
                        }
                        task["event"].set()


def put_object(sfn: Any, s3: Any, dispatch: Step) -> Step:
    """A state can write to S3: aws-sdk:s3:putObject, whose Body may be any JSON value."""

    def corrected(service: Any, name: str, action: str, data: dict[str, Any]) -> Any:
        if (name, action) != ("s3", "putObject"):
            return dispatch(service, name, action, data)
        body = data["Body"] if isinstance(data["Body"], str) else json.dumps(data["Body"])
        status, headers, _ = s3._put_object(data["Bucket"], data["Key"], body.encode(), {})
        if status >= 300:
            raise sfn._ExecutionError("S3.S3Exception", f"PutObject to {data['Bucket']} answered {status}")
        return {"ETag": headers.get("ETag")}

    return corrected


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
    """Put all corrections in place in ministack's modules."""
    from ministack.core import lambda_runtime
    from ministack.services import cloudwatch_logs, lambda_svc, s3
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    callbacks = Callbacks(sfn)
    whole_logs(lambda_runtime.Worker)
    cloudwatch_logs._filter_log_events = log_pages(cloudwatch_logs._filter_log_events)
    function = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    function["delete"] = workers_end_with_their_function(lambda_svc, function["delete"])
    lambda_svc._execute_function_warm = errors_named_by_class(lambda_svc._execute_function_warm)
    lambda_svc._sqs_esm_concurrency = number_from_template(lambda_svc._sqs_esm_concurrency)
    sfn._dispatch_aws_sdk_rest_xml = put_object(sfn, s3, sfn._dispatch_aws_sdk_rest_xml)
    sfn._execute_task = limits_from_paths(sfn, callbacks.new_token_for_each_attempt(sfn._execute_task))
    sfn._execute_map = limits_from_paths(sfn, map_limits(sfn._execute_map))
    sfn._invoke_with_callback = callbacks.wait(sfn._invoke_with_callback)
    sfn._run_sub_machine = context_of_children(sfn._run_sub_machine)
    sfn._send_task_failure = callbacks.first_answer_counts(sfn._send_task_failure)
    sfn._send_task_success = callbacks.first_answer_counts(sfn._send_task_success)
    sfn._send_task_heartbeat = callbacks.heartbeat(sfn._send_task_heartbeat)


def end_with_parent() -> None:
    """End this process and its Lambda workers when the parent closes our standard input, even by dying."""

    def watch() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        shutil.rmtree(os.environ["LAB_ENGINE_DIR"], ignore_errors=True)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def main() -> None:
    """Serve until killed. ministack reads its settings from the environment."""
    if (found := version("ministack")) != WRITTEN_FOR:
        raise SystemExit(
            f"ministack {found} is installed, but the embedded engine's corrections are written for "
            f"{WRITTEN_FOR}: install ministack=={WRITTEN_FOR}, or bring helpers/engines/embedded_server.py "
            "and its tests up to the new release"
        )
    # Three pipes a Lambda worker and a socket a request soon pass the usual soft limit of 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if "--watch-stdin" in sys.argv:
        end_with_parent()
    from ministack import app

    correct()
    sys.argv = ["ministack"]
    app.main()


if __name__ == "__main__":
    main()
