"""Lambda functions, their event source mappings and their logs."""

import contextlib
import contextvars
import errno
import fcntl
import json
import os
import queue
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

LOG_WAIT_SECONDS = 5
END_WAIT_SECONDS = 2
"""How long a worker that answers no more may take until its process has ended."""
EXITED = "RequestId: {} Error: Runtime exited with error"
"""How Lambda begins the message of an environment that ended by itself; `{}` is the request's id."""
DIED = "Worker process died", "[Errno 32] Broken pipe"
INIT_FAILED = "Worker init failed"
"""How ministack calls the end of a worker in the middle, and an exception at the import of a handler."""
LOG_PAGE = 10_000
"""Events that one FilterLogEvents returns at most (API reference, 2026-11-24)."""
THROTTLE_RETRY_SECONDS = 1.0
"""Until a throttled batch is tried again. AWS documents no such time; the simulator assumes the same."""

PIPE_BATCHES = 1_000
"""That a pipe processes at once (EventBridge guide, eb-pipes-sqs, 2026-11-26)."""

Step = Callable[..., Any]


def polls_up_to_its_maximum(concurrency: Step) -> Step:
    """A mapping takes up to MaximumConcurrency batches at once, whatever its function has reserved.

    A CloudFormation parameter gives MaximumConcurrency as text.
    """

    def corrected(mapping: dict[str, Any], function: Any, config: Any, queue: Any) -> Any:
        scaling = mapping.get("ScalingConfig") or {}
        if isinstance(scaling.get("MaximumConcurrency"), str):
            scaling["MaximumConcurrency"] = int(scaling["MaximumConcurrency"])
        return concurrency(mapping, {}, {}, queue)

    return corrected


class RefusedMappings:
    """A mapping that Lambda refuses is not made, and fails the stack that it is in."""

    def __init__(self, lambda_svc: Any, sqs: Any) -> None:
        self.lambda_svc, self.sqs = lambda_svc, sqs

    def reason(self, data: dict[str, Any]) -> str | None:
        """Why a mapping with these properties is refused; a template gives numbers as text."""
        if (queue := self.sqs._queue_by_arn(data.get("EventSourceArn", ""))) is None:
            return None
        window = int(data.get("MaximumBatchingWindowInSeconds") or 0)
        if int(data.get("BatchSize") or 10) > 10 and not window:
            return "A BatchSize above 10 needs MaximumBatchingWindowInSeconds of at least 1"
        _, config, _ = self.lambda_svc._get_func_record_for_ref(data.get("FunctionName", ""))
        visible = int(queue["attributes"]["VisibilityTimeout"])
        if config and visible < config["Timeout"]:
            return (
                f"Queue visibility timeout: {visible} seconds is less than "
                f"Function timeout: {config['Timeout']} seconds"
            )
        return None

    def by_call(self, create: Step) -> Step:
        """CreateEventSourceMapping."""

        def corrected(data: dict[str, Any]) -> Any:
            if reason := self.reason(data):
                return self.lambda_svc.error_response_json("InvalidParameterValueException", reason, 400)
            return create(data)

        return corrected

    def by_template(self, create: Step) -> Step:
        """AWS::Lambda::EventSourceMapping."""

        def corrected(logical_id: str, properties: dict[str, Any], *stack: str) -> Any:
            if reason := self.reason(properties):
                raise ValueError(reason)
            scaling = {name: int(value) for name, value in properties.get("ScalingConfig", {}).items()}
            arn = properties["EventSourceArn"]
            if refused := self.lambda_svc._validate_scaling_config({"ScalingConfig": scaling}, arn):
                raise ValueError(json.loads(refused[2])["message"])
            return create(logical_id, properties, *stack)

        return corrected


class ThrottledBatches:
    """A mapping's batch whose invocation is throttled is tried again until its visibility timeout ends."""

    def __init__(self) -> None:
        self.until = contextvars.ContextVar("until", default=0.0)
        """When the running batch is visible again (epoch s); 0 for an invocation of another kind."""

    def of_mapping(self, run: Step) -> Step:
        """The messages come back by themselves; what has been received of their receives stays used."""

        def corrected(mapping: Any, function: Any, event: Any, batch: Any, *queue: str) -> Any:
            self.until.set(min(message["visible_at"] for message in batch))
            return run(mapping, function, event, batch, *queue)

        return corrected

    def wait(self, acquire: Step) -> Step:
        """Each second another try for a place among the concurrent invocations."""

        def corrected(function: Any, config: Any) -> Any:
            taken = acquire(function, config)
            while taken[0] is None and (left := self.until.get() - time.time()) > 0:
                time.sleep(min(left, THROTTLE_RETRY_SECONDS))
                if left > THROTTLE_RETRY_SECONDS:
                    taken = acquire(function, config)
            return taken

        return corrected


class PartialAnswers:
    """A batch's answer that names no message of it, or none at all, fails the whole batch."""

    def __init__(self) -> None:
        self.batch: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar(
            "batch", default=frozenset()
        )
        """The messages of the running batch, where its function may report failures."""

    def of_mapping(self, run: Step) -> Step:
        """Know the batch whose answer comes next."""

        def corrected(mapping: Any, function: Any, event: Any, batch: Any, *queue: str) -> Any:
            reports = "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", [])
            self.batch.set(frozenset(message["id"] for message in batch) if reports else frozenset())
            return run(mapping, function, event, batch, *queue)

        return corrected

    def whole(self, execute: Step) -> Step:
        """In place of an answer that Lambda cannot read: all messages of the batch."""

        def corrected(function: dict[str, Any], event: Any, request_id: str) -> Any:
            answer = execute(function, event, request_id)
            batch, body = self.batch.get(), answer.get("body")
            if batch and not answer.get("error") and isinstance(body, dict):
                named = body.get("batchItemFailures") or []
                if not all(isinstance(one, dict) and one.get("itemIdentifier") in batch for one in named):
                    named = [{"itemIdentifier": one} for one in batch]
                answer["body"] = {"batchItemFailures": named}
            return answer

        return corrected


class BatchingWindow:
    """A mapping gathers messages until it has BatchSize or MaximumBatchingWindowInSeconds are over."""

    def __init__(self, wake: threading.Event) -> None:
        self.wake = wake
        self.mapping: dict[str, Any] = {}
        self.gathered: dict[str, tuple[list[dict[str, Any]], float]] = {}
        """What each mapping holds, by its UUID, and when it got the first of it (epoch s)."""

    def of_mapping(self, concurrency: Step) -> Step:
        """The poller asks for a mapping's concurrency right before it receives for that mapping."""

        def corrected(mapping: dict[str, Any], *rest: Any) -> Any:
            self.mapping = mapping
            return concurrency(mapping, *rest)

        return corrected

    def gather(self, receive: Step) -> Step:
        """Messages for the poller: a whole batch, or none while it is being gathered."""

        def corrected(queue_url: str, size: Any) -> Any:
            size, now = int(size), time.time()
            name, window = self.mapping["UUID"], int(self.mapping["MaximumBatchingWindowInSeconds"])
            held, since = self.gathered.pop(name, ([], now))
            batch = [message for message in held if message["visible_at"] > now]
            while len(batch) < size and (messages := receive(queue_url, size - len(batch))):
                batch += messages
            if batch and len(batch) < size and now < since + window:
                if not held:
                    timer = threading.Timer(window, self.wake.set)
                    timer.daemon = True
                    timer.start()
                self.gathered[name] = batch, since
                return []
            return batch

        return corrected


class PipesFromQueues:
    """A pipe from a queue to a function is polled as a mapping is, and its function is given an array.

    Of a FIFO queue there is a batch under way of each group, as the queue gives out no more.
    """

    def __init__(self, lambda_svc: Any, pipes: Any) -> None:
        self.lambda_svc, self.pipes = lambda_svc, pipes

    def keep_parameters(self, create: Step) -> Step:
        """A pipe by call (name, body) or by template (logical id, properties, stack) knows its batch size."""

        def corrected(name: str, given: dict[str, Any], *stack: str) -> Any:
            made = create(name, given, *stack)
            if pipe := self.pipes._pipes.get(made[0] if stack else name):
                pipe["SourceParameters"] = given.get("SourceParameters", {}).get("SqsQueueParameters", {})
                self.lambda_svc._ensure_poller()
            return made

        return corrected

    def among_mappings(self, every: Step) -> Step:
        """The poller finds pipes among its mappings."""

        def corrected() -> Iterator[Any]:
            yield from every()
            for account, region, pipe in self.pipes._iter_all_pipes():
                _, is_function, name = pipe["Target"].partition(":function:")
                if is_function and ":sqs:" in pipe["Source"] and pipe["CurrentState"] == "RUNNING":
                    parameters = {"BatchSize": 10, "MaximumBatchingWindowInSeconds": 0}
                    parameters |= {key: int(value) for key, value in pipe["SourceParameters"].items()}
                    yield (
                        account,
                        region,
                        parameters
                        | {
                            "UUID": pipe["Arn"],
                            "EventSourceArn": pipe["Source"],
                            "FunctionName": name,
                            "FunctionResponseTypes": ["ReportBatchItemFailures"],
                        },
                    )

        return corrected

    def concurrency(self, limit: Step) -> Step:
        """A pipe processes up to 1,000 batches at once, whatever the queue."""

        def corrected(mapping: dict[str, Any], *rest: Any) -> Any:
            return PIPE_BATCHES if ":pipe/" in mapping["UUID"] else limit(mapping, *rest)

        return corrected

    def array(self, run: Step) -> Step:
        """What a pipe hands over is the messages alone."""

        def corrected(mapping: dict[str, Any], function: Any, event: Any, *rest: Any) -> Any:
            records = event["Records"] if ":pipe/" in mapping["UUID"] else event
            return run(mapping, function, records, *rest)

        return corrected


def whole_logs(worker: Any) -> None:
    """An invocation's log is all that its handler printed, without a fixed wait for it.

    ministack waits 50 ms for a first line and 5 ms for a next one, and loses what comes later, an end without
    a line break, and what was printed before a timeout. The reader here says when it has nothing left:
    `idle` is set only while it waits for the pipe to fill.
    """

    def read(self: Any) -> None:
        chunks, self.stderr_idle = self._stderr_queue, threading.Event()
        # A descriptor of its own: when the process is given up, its number becomes that of another pipe, of a
        # new worker's input or a client's call, say, and what is read from it there is lost.
        with contextlib.suppress(OSError, ValueError), os.fdopen(os.dup(self._proc.stderr.fileno())) as pipe:
            self.stderr_pipe = pipe.fileno()
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            while True:
                self.stderr_idle.set()
                poll.poll()
                self.stderr_idle.clear()
                if not (text := os.read(self.stderr_pipe, 65536)):
                    break
                chunks.put(text)
        self.stderr_idle.set()

    def unread(self: Any) -> bool:
        if not self._stderr_thread.is_alive():
            return False
        if self.stderr_idle is None or not self.stderr_idle.is_set():
            return True
        with contextlib.suppress(OSError):
            return any(fcntl.ioctl(self.stderr_pipe, termios.FIONREAD, bytes(4)))
        return False

    def drain(self: Any) -> str:
        give_up = time.monotonic() + LOG_WAIT_SECONDS
        while unread(self) and time.monotonic() < give_up:
            time.sleep(0.0005)
        chunks = []
        with contextlib.suppress(queue.Empty):
            while True:
                chunks.append(self._stderr_queue.get_nowait())
        return b"".join(chunks).decode(errors="replace").removesuffix("\n")

    worker.stderr_idle = None
    worker._read_stderr = read
    worker._drain_stderr = worker._drain_stderr_bounded = drain


REMEDIES = {
    errno.EMFILE: "raise the limit of open files (`ulimit -n`), or use fewer workers",
    errno.ENFILE: "close other programs, or use fewer workers",
    errno.EAGAIN: "raise the limit of processes (`ulimit -u`), or use fewer workers",
    errno.ENOMEM: "free memory, or use fewer workers",
    errno.ENOSPC: "make room in the folder of temporary files (TMPDIR)",
    errno.EDQUOT: "make room in the folder of temporary files (TMPDIR)",
}
"""What to do about an error of the system at the start of a worker, by its number."""


class NotStarted(RuntimeError):
    """Raised when a worker process has not started, or has ended before it was ready.

    Attributes:
        log: All that the function's code has printed.
    """

    log = ""


def how_it_ended(process: Any) -> str:
    """Return how a worker process has ended, in Lambda's words, and what may be the reason.

    Args:
        process: The process as `subprocess.Popen` knows it.
    """
    try:
        status = process.wait(timeout=END_WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its answers"
    if status == -signal.SIGKILL:
        return "signal: killed, as the system does when it is out of memory; use fewer workers"
    return f"signal: {signal.strsignal(-status)}" if status < 0 else f"exit status {status}"


def why_not_started(error: Exception, process: Any) -> str:
    """Return why a worker process did not start, with the remedy for what the system refused.

    Args:
        error: What ministack's start of a worker has raised.
        process: The process, or None where there is none.
    """
    if isinstance(error, EOFError) or "start new thread" in str(error):
        number = errno.EAGAIN  # neither names it: the forkserver, or Python's threads, got no more from fork
    else:
        number = getattr(error, "errno", None) or 0
    if number in REMEDIES:
        return f"a worker could not be started ({os.strerror(number)}); {REMEDIES[number]}"
    if process is None or str(error).startswith(INIT_FAILED):
        return str(error)
    return how_it_ended(process)


def ends_with_a_reason(worker: Any) -> None:
    """A worker that does not start, or dies, fails its own invocation only, with the reason and its log.

    ministack ends all workers of a function when one does not start, and loses what that one printed.
    """
    spawn, invoke = worker._spawn, worker.invoke

    def start(self: Any) -> None:
        self._proc = None
        try:
            spawn(self)
        except Exception as error:
            process, self._proc = self._proc, None
            failed = NotStarted(why_not_started(error, process))
            if process is not None:
                process.kill()
                process.wait()
                failed.log = self._drain_stderr()
            raise failed from error
        self.process = self._proc

    def call(self: Any, event: Any, request_id: str, **named: Any) -> Any:
        exited = f"{EXITED.format(request_id)}: "
        try:
            answer = invoke(self, event, request_id, **named)
        except NotStarted as failed:
            reason, told = str(failed), {"status": "error", "log": failed.log, "cold_start": True}
            if reason.startswith(INIT_FAILED):
                return told | {"error": reason, "trace": f"RuntimeError: {reason}"}
            return told | {"error": exited + reason}
        # An error of the handler's own has a trace, whatever its text.
        if answer["status"] == "error" and answer["error"] in DIED and "trace" not in answer:
            answer["error"] = exited + how_it_ended(self.process)
        return answer

    worker._spawn, worker.invoke = start, call


def errors_named_by_class(execute: Step) -> Step:
    """A handler's exception is an error named after its class, for states to catch by name."""

    def corrected(function: dict[str, Any], event: Any, request_id: str) -> Any:
        answer = execute(function, event, request_id)
        body = answer.get("body")
        if answer.get("error") and body["errorMessage"].startswith(EXITED.format(request_id)):
            body["errorType"] = "Runtime.ExitError"
        elif answer.get("error") and body["errorType"] == "Runtime.HandlerError":
            # The log ends with the traceback, and that with "module.Class: message", or with "Class" alone.
            head = answer["log"].rstrip("\n").removesuffix(f": {body['errorMessage']}")
            name = head.rpartition("\n")[2].rpartition(".")[2]
            if name.isidentifier():
                body["errorType"] = name
        return answer

    return corrected


def throttles_by_name(failed: Any, call: Step) -> Step:
    """A throttled invocation fails its task with Lambda.TooManyRequestsException, for a Retry to name."""

    def corrected(reference: str, event: Any) -> Any:
        try:
            return call(reference, event)
        except failed as error:
            if error.error == "Lambda.Unknown" and "TooManyRequestsException" in error.cause:
                raise failed("Lambda.TooManyRequestsException", error.cause) from None
            raise

    return corrected


def reserved_by_template(lambda_svc: Any, provision: Step) -> Step:
    """A function that CloudFormation makes or updates has its ReservedConcurrentExecutions."""

    def corrected(*given: Any) -> Any:
        answer = provision(*given)
        # create is given (id, properties, stack), update (id, old properties, new properties, stack, id).
        properties = [value for value in given if isinstance(value, dict)][-1]
        reserved = properties.get("ReservedConcurrentExecutions")
        lambda_svc._functions[answer[0]]["concurrency"] = None if reserved is None else int(reserved)
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


class ReplacedWorkers:
    """End a function's idle workers at once when its code or configuration is replaced, busy ones later.

    On AWS an invocation that has begun ends as it began; ministack kills its worker in the middle of it.

    Args:
        lambda_runtime: ministack's module of worker processes.
    """

    def __init__(self, lambda_runtime: Any) -> None:
        self.runtime = lambda_runtime
        self.busy: list[Any] = []
        """Workers that were replaced during the invocation that they are still at."""

    def invalidate(self, invalidate: Step) -> Step:
        """End the workers of one version, busy ones after their invocation; of a deleted function all."""

        def corrected(name: str, qualifier: str | None = None, **scope: Any) -> None:
            ended = []
            with self.runtime._lock:
                if qualifier is None:
                    ended = [worker for worker in self.busy if worker.func_name == name]
                    self.busy = [worker for worker in self.busy if worker.func_name != name]
                for key, workers in self.runtime._workers.items():
                    if key.split(":")[-2:] == [name, qualifier]:
                        self.busy += [worker for worker in workers if worker.in_use]
                        workers[:] = [worker for worker in workers if not worker.in_use]
            invalidate(name, qualifier=qualifier, **scope)
            self.runtime.kill_workers(ended)

        return corrected

    def release(self, release: Step) -> Step:
        """Give a worker back to its pool, or end it if it was replaced during its invocation."""

        def corrected(worker: Any) -> None:
            release(worker)
            with self.runtime._lock:
                replaced = worker in self.busy
                if replaced:
                    self.busy.remove(worker)
            if replaced:
                self.runtime.kill_workers([worker])

        return corrected


def deleted_functions_do_not_run(lambda_svc: Any, execute: Step) -> Step:
    """What still invokes a function that has been deleted, such as a retry, starts no worker for it."""

    def corrected(function: dict[str, Any], event: Any, request_id: str) -> Any:
        name = (function.get("config") or function)["FunctionName"]
        if name not in lambda_svc._functions:
            return {"error": True, "body": {"errorType": "ResourceNotFoundException", "errorMessage": name}}
        return execute(function, event, request_id)

    return corrected


def deleted_functions_log_nothing(lambda_svc: Any, log: Step) -> Step:
    """What ends after its function was deleted does not make that function's log group anew.

    On AWS it cannot: the roles of the lab's functions may not create log groups.
    """

    def corrected(function: dict[str, Any], *given: Any, **named: Any) -> None:
        if (function.get("config") or function)["FunctionName"] in lambda_svc._functions:
            log(function, *given, **named)

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
    from ministack.services import cloudwatch_logs, lambda_svc, pipes, sqs
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    provided, worker = lambda_runtime.ProvidedWorker, lambda_runtime.Worker
    # A runtime of its own speaks HTTP, and its log is read elsewhere: it keeps ministack's methods.
    provided._drain_stderr, provided._drain_stderr_bounded = (
        worker._drain_stderr,
        worker._drain_stderr_bounded,
    )
    whole_logs(worker)
    ends_with_a_reason(worker)
    cloudwatch_logs._filter_log_events = log_pages(cloudwatch_logs._filter_log_events)
    replaced = ReplacedWorkers(lambda_runtime)
    lambda_svc.invalidate_worker = replaced.invalidate(lambda_runtime.invalidate_worker)
    lambda_svc.release_worker = replaced.release(lambda_runtime.release_worker)
    function = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    function["create"] = reserved_by_template(lambda_svc, function["create"])
    function["update"] = reserved_by_template(lambda_svc, function["update"])
    function["delete"] = workers_end_with_their_function(lambda_svc, function["delete"])
    partial = PartialAnswers()
    lambda_svc._execute_function_warm = deleted_functions_do_not_run(
        lambda_svc, partial.whole(errors_named_by_class(lambda_svc._execute_function_warm))
    )
    lambda_svc._emit_lambda_logs = deleted_functions_log_nothing(lambda_svc, lambda_svc._emit_lambda_logs)
    sfn._call_lambda = throttles_by_name(sfn._ExecutionError, sfn._call_lambda)

    mapping = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
    refused = RefusedMappings(lambda_svc, sqs)
    mapping["create"] = refused.by_template(mapping["create"])
    lambda_svc._create_esm = refused.by_call(lambda_svc._create_esm)
    throttled = ThrottledBatches()
    lambda_svc._run_sqs_batch = throttled.of_mapping(partial.of_mapping(lambda_svc._run_sqs_batch))
    lambda_svc._acquire_execution_slot = throttled.wait(lambda_svc._acquire_execution_slot)
    wake = lambda_svc._esm_wake
    lambda_svc._esm_wake = (
        SimpleNamespace(  # with a mapping it looks each second, and so it should with a pipe
            wait=lambda seconds: wake.wait(min(seconds, 1)), set=wake.set, clear=wake.clear
        )
    )
    piped = PipesFromQueues(lambda_svc, pipes)
    lambda_svc._sqs_esm_concurrency = piped.concurrency(lambda_svc._sqs_esm_concurrency)
    window = BatchingWindow(lambda_svc._esm_wake)
    lambda_svc._sqs_esm_concurrency = window.of_mapping(
        polls_up_to_its_maximum(lambda_svc._sqs_esm_concurrency)
    )
    pipes._create_pipe = piped.keep_parameters(pipes._create_pipe)
    pipe = provisioners._RESOURCE_HANDLERS["AWS::Pipes::Pipe"]
    pipe["create"] = piped.keep_parameters(pipe["create"])
    lambda_svc._iter_all_esms = piped.among_mappings(lambda_svc._iter_all_esms)
    lambda_svc._run_sqs_batch = piped.array(lambda_svc._run_sqs_batch)
    sqs._receive_messages_for_esm = window.gather(sqs._receive_messages_for_esm)
    lambda_svc._ESM_BACKOFF_SECONDS = 0.0  # one failed batch would hold back all others of its mapping
