"""What makes large maps and many workers light and quick, and changes no behaviour.

Workers are forked from a process that has boto3 loaded, a queue is read from its front only, and the
iterations of a Map share the execution's input.
"""

import contextlib
import copy
import functools
import io
import marshal
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.reduction import DupFd
from types import SimpleNamespace
from typing import IO, Any, Self

RECEIVE_LIMIT = 10
"""Messages that one ReceiveMessage takes at most (SQS quotas, 2026-11-24)."""
INIT_SECONDS = 10
"""What a new environment may take before its function starts (Lambda developer guide, 2026-11-24)."""
EXPIRY_CHECK_SECONDS = 1.0
"""Between two looks for messages older than their queue retains, which is a minute at least."""

Step = Callable[..., Any]


class Log:
    """The server's end of a worker's log, which `functions.whole_logs` reads by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.file = os.fdopen(descriptor, "rb", 0)
        self.fileno, self.close = self.file.fileno, self.file.close

    def read(self, _: int) -> str:
        """Return nothing: ministack would wait here until every process that holds the log has ended."""
        return ""


class Channels:
    """Three pipes of one Lambda worker process: requests, answers, and a log of all that its code prints.

    ministack writes requests to a worker's standard input and takes a line of its standard output for an
    answer, but the function's code and its child processes use these two as well. So requests and answers
    have descriptors of their own, and standard output and error are one pipe, which keeps their order.

    Attributes:
        requests: The worker's descriptor to read from; `answers` and `log` are those that it writes to.
        stdin: The server's end of `requests`; `stdout` and `stderr` are those of `answers` and `log`.
    """

    def __init__(self) -> None:
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe()
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        self.requests, requests, answers, self.answers, log, self.log = opened
        self.stdin: IO[str] = os.fdopen(requests, "w", buffering=1)
        self.stdout: IO[str] = os.fdopen(answers)
        self.stderr = Log(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close the worker's ends, which it now has itself; all ends where it did not start."""
        for descriptor in (self.requests, self.answers, self.log):
            os.close(descriptor)
        if error:
            for stream in (self.stdin, self.stdout, self.stderr):
                stream.close()


class ForkedWorker:
    """A Lambda worker as ministack knows it from subprocess.Popen, forked from a process with boto3 loaded.

    Importing it takes most of a new worker's time and memory.
    """

    context = multiprocessing.get_context("forkserver")

    def __init__(self, script: str, directory: str, environment: dict[str, str]) -> None:
        with Channels() as channels:
            self.stdin, self.stdout, self.stderr = channels.stdin, channels.stdout, channels.stderr
            ends = [DupFd(end) for end in (channels.requests, channels.answers, channels.log)]
            arguments = (script, directory, environment, ends)
            self.process = self.context.Process(target=run_worker, args=arguments)
            self.process.start()
        self.terminate, self.kill = self.process.terminate, self.process.kill

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal's number; None while the worker runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return how."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0.0)
        return self.process.exitcode


def run_worker(script: str, directory: str, environment: dict[str, str], ends: list[Any]) -> None:
    """Run ministack's worker script in this forked process as a new Python would.

    Without the server it ends at once: its task would go on, and answer nobody for minutes.

    Args:
        script: The path of the script.
        directory: The folder of the function's code.
        environment: All environment variables of the function.
        ends: The worker's descriptors of its `Channels`: requests, answers, log.
    """
    threading.Thread(target=end_with_server, daemon=True).start()
    requests, answers, log = (end.detach() for end in ends)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, stream in enumerate((nothing, log, log)):
        os.dup2(stream, number)
    os.close(log)
    for descriptor in os.listdir("/dev/fd"):  # what multiprocessing has received is inheritable
        with contextlib.suppress(OSError):
            os.set_inheritable(int(descriptor), int(descriptor) <= 2)
    # A process that the handler forks without a program of its own could answer in the worker's place.
    os.register_at_fork(after_in_child=lambda: [os.dup2(nothing, end, False) for end in (requests, answers)])
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv, sys.path[0] = [script], os.path.dirname(script)
    streams = {"stdin": os.fdopen(0, closefd=False), "stdout": unbuffered(1), "stderr": unbuffered(2)}
    vars(sys).update(streams | {f"__{name}__": stream for name, stream in streams.items()})
    # The answers stay open to the end: then the server has the exit status of a worker that answers no more.
    channels = {"_requests": os.fdopen(requests), "_answers": Answers(answers)}
    runpy.run_path(script, init_globals=channels, run_name="__main__")


class Answers(io.TextIOWrapper):
    """The stream of a worker's answers, at which a process forked from it ends when it returns to answer.

    Native code forks without Python's hooks, and what it forks keeps the worker's descriptors.

    Args:
        descriptor: The worker's end of the pipe, which is left open.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(os.fdopen(descriptor, "wb", closefd=False))
        self.worker = os.getpid()

    def write(self, text: str) -> int:
        """Write the text, or end this process if it is not the worker."""
        if os.getpid() != self.worker:
            os._exit(0)
        return super().write(text)


def unbuffered(descriptor: int) -> io.TextIOWrapper:
    """Return a text stream that writes at once, so that a child process's output comes in its place."""
    raw = os.fdopen(descriptor, "wb", 0, closefd=False)
    return io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)


def end_with_server() -> None:
    """Wait until the server has ended, then end this process."""
    server = multiprocessing.parent_process()
    assert server
    server.join()
    os._exit(1)


def on_channels(script: str, replaced: dict[str, str]) -> str:
    """Return ministack's worker script with its protocol moved from standard input and output to `Channels`.

    Args:
        script: The script's text.
        replaced: Each part that uses standard input or output, and the text in its place.

    Raises:
        ValueError: The script lacks one of these parts.
    """
    for part, text in replaced.items():
        if part not in script:
            raise ValueError(f"ministack's worker script has no {part!r}; bring the correction up to date")
        script = script.replace(part, text)
    return script


PYTHON_CHANNELS = {
    "_real_stdout = sys.stdout\n    sys.stdout = sys.stderr": "_real_stdout = _answers",
    "sys.stdin.readline()": "_requests.readline()",
}
NODE_CHANNELS = {
    "const _realStdoutWrite = process.stdout.write.bind(process.stdout);": (
        # Child processes inherit the descriptors that Node.js was started with, and none that it opens.
        "const [_requests, _answers] = process.argv.splice(2, 2).map((given, index) => {\n"
        '  const own = fs.openSync("/dev/fd/" + given, "rw"[index]);\n'
        "  fs.closeSync(Number(given));\n"
        "  return own;\n"
        "});\n"
        # A handler that throws after its callback would answer twice.
        "let _answered = true;\n"
        "const _realStdoutWrite = (text) => {\n"
        "  if (!_answered) _realWriteSync(_answers, text);\n"
        "  _answered = true;\n"
        "};"
    ),
    "lineNum++;": "lineNum++;\n  _answered = false;",
    "input: process.stdin": 'input: new (require("net").Socket)({ fd: _requests, writable: false })',
}


def started(popen: Any) -> Step:
    """Start ministack's workers on `Channels`: Python is forked, Node.js gets two more descriptors."""
    ForkedWorker.context.set_forkserver_preload(["boto3"])

    def corrected(command: list[str], **options: Any) -> Any:
        if command[0] == sys.executable:
            return ForkedWorker(command[1], options["cwd"], options["env"])
        if command[0] != "node":
            return popen(command, **options)
        with Channels() as channels:
            protocol = (channels.requests, channels.answers)
            process = popen(
                [*command, *map(str, protocol)],
                cwd=options["cwd"],
                env=options["env"],
                stdin=subprocess.DEVNULL,
                stdout=channels.log,
                stderr=channels.log,
                pass_fds=protocol,
            )
            process.stdin, process.stdout, process.stderr = channels.stdin, channels.stdout, channels.stderr
        return process

    return corrected


def first_visible(queue: dict[str, Any], most: int | None = None) -> list[dict[str, Any]]:
    """The messages that would be received next, in the order in which they were sent."""
    now = time.time()
    return list(islice((m for m in queue["messages"] if m.get("visible_at", now) <= now), most))


@contextlib.contextmanager
def part_of(queue: dict[str, Any], messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A queue of these messages only. What is removed from it, is removed from the whole one, in place.

    ministack makes a queue anew to remove a message, which takes long in a long one and loses what another
    thread adds in that moment.
    """
    part = {**queue, "messages": messages}
    yield part
    for message in messages:
        if message not in part["messages"]:
            queue["messages"].remove(message)


def receive_from_the_front(collect: Step) -> Step:
    """A receive looks no further into a standard queue than to what it takes."""

    def corrected(queue: dict[str, Any], most: int, visibility_timeout: int) -> Any:
        if queue["is_fifo"]:
            return collect(queue, most, visibility_timeout)
        with part_of(queue, first_visible(queue, most)) as part:
            return collect(part, most, visibility_timeout)

    return corrected


def sweep_what_is_next(sweep: Step) -> Step:
    """A message goes to the dead-letter queue when it would be received once too often, not before."""

    def corrected(queue: dict[str, Any]) -> None:
        moved = True
        while moved:
            with part_of(queue, first_visible(queue, None if queue["is_fifo"] else RECEIVE_LIMIT)) as part:
                before = len(part["messages"])
                sweep(part)
                moved = len(part["messages"]) < before

    return corrected


def expire_now_and_then(expire: Step) -> Step:
    """Old messages are looked for once a second."""

    def corrected(queue: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - queue.get("expired", 0.0) >= EXPIRY_CHECK_SECONDS:
            queue["expired"] = now
            expire(queue)

    return corrected


@contextlib.contextmanager
def received(sqs: Any, url: str, handles: set[str | None]) -> Iterator[str]:
    """The URL of a queue that has only the messages with these receipt handles; see `part_of`."""
    queue = sqs._get_q(url)
    # In a copy, as another thread may remove some meanwhile.
    messages = [m for m in list(queue["messages"]) if m.get("receipt_handle") in handles]
    aside = f"{queue['url']}/{sqs.new_uuid()}"
    with part_of(queue, messages) as part:
        sqs._queues[aside] = part
        try:
            yield aside
        finally:
            del sqs._queues[aside]


def delete_in_place(sqs: Any, delete: Step) -> Step:
    """DeleteMessage and DeleteMessageBatch touch only the messages that they name."""

    def corrected(data: dict[str, Any], url: str) -> Any:
        handles = {entry.get("ReceiptHandle") for entry in data.get("Entries", [data])}
        with received(sqs, data.get("QueueUrl", url), handles - {None}) as aside:
            return delete({**data, "QueueUrl": aside}, aside)

    return corrected


def delete_done_in_place(sqs: Any, delete: Step) -> Step:
    """So does a mapping that deletes what its function has done."""

    def corrected(url: str, handles: set[str | None]) -> None:
        with received(sqs, url, handles) as aside:
            delete(aside, handles)

    return corrected


def copied(value: Any) -> Any:
    """A deep copy, which of plain JSON data takes a tenth of the time."""
    try:
        return marshal.loads(marshal.dumps(value))
    except ValueError:  # not plain
        return copy.deepcopy(value)


class Context(dict[str, Any]):
    """A context object whose copies share what it tells of the execution, the whole input included."""

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        own = {key: value for key, value in self.items() if key != "Execution"}
        return {**copied(own), "Execution": self["Execution"]}


def shared_input(run: Step) -> Step:
    """The iterations of a Map share the execution's input, of which each had a copy."""

    def corrected(state: Any, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        return run(state, raw_input, execution, Context(ctx))

    return corrected


def unwatched(sfn: Any, lambda_svc: Any, invoke: Step) -> Step:
    """A task needs no thread to watch its TimeoutSeconds when its function's own timeout ends it before."""

    def corrected(resource: str, data: Any, timeout: float) -> Any:
        if "states:::lambda:invoke" in resource:
            _, config, _ = lambda_svc._get_func_record_for_ref(data.get("FunctionName", ""))
            if config and config["Timeout"] + INIT_SECONDS < timeout:
                return sfn._invoke_resource(resource, data)
        return invoke(resource, data, timeout)

    return corrected


def closed_with_their_client(server: Any) -> None:
    """A connection whose client has gone is closed; hypercorn first waits 75 s for another request of his."""
    read = server._read_data

    async def read_to_the_end(self: Any) -> None:
        await read(self)
        await self.idle_task.stop()

    server._read_data = read_to_the_end


def correct() -> None:
    """Put these corrections in place in ministack."""
    from hypercorn.asyncio import tcp_server
    from ministack.core import lambda_runtime
    from ministack.services import lambda_svc, sqs
    from ministack.services import stepfunctions as sfn

    closed_with_their_client(tcp_server.TCPServer)
    lambda_runtime.subprocess = SimpleNamespace(
        **vars(subprocess) | {"Popen": started(lambda_runtime.subprocess.Popen)}
    )
    lambda_runtime._PYTHON_WORKER_SCRIPT = on_channels(lambda_runtime._PYTHON_WORKER_SCRIPT, PYTHON_CHANNELS)
    lambda_runtime._NODEJS_WORKER_SCRIPT = on_channels(lambda_runtime._NODEJS_WORKER_SCRIPT, NODE_CHANNELS)
    lambda_svc._ESM_IDLE_WAKE_GAP_SECONDS = 0.0  # a mapping waits for what wakes it, and then for nothing
    sqs._collect_msgs = receive_from_the_front(sqs._collect_msgs)
    sqs._dlq_sweep = sweep_what_is_next(sqs._dlq_sweep)
    sqs._expire_retained = expire_now_and_then(sqs._expire_retained)
    for action in ("DeleteMessage", "DeleteMessageBatch"):
        sqs._HANDLERS[action] = delete_in_place(sqs, sqs._HANDLERS[action])
    sqs._delete_messages_for_esm = delete_done_in_place(sqs, sqs._delete_messages_for_esm)
    sfn._run_map_items = shared_input(sfn._run_map_items)
    sfn._invoke_resource_with_timeout = unwatched(sfn, lambda_svc, sfn._invoke_resource_with_timeout)
    sfn._parse_jsonpath_tokens = functools.lru_cache(maxsize=10_000)(sfn._parse_jsonpath_tokens)
    sfn.copy = SimpleNamespace(deepcopy=copied)
