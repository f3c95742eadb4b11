"""What makes large maps and many workers light and quick, and changes no behaviour.

Workers are forked from a process that has boto3 loaded, a queue is read from its front only, and the
iterations of a Map share the execution's input.
"""

import contextlib
import copy
import functools
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
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import IO, Any

RECEIVE_LIMIT = 10
"""Messages that one ReceiveMessage takes at most (SQS quotas, 2026-11-24)."""
INIT_SECONDS = 10
"""What a new environment may take before its function starts (Lambda developer guide, 2026-11-24)."""
EXPIRY_CHECK_SECONDS = 1.0
"""Between two looks for messages older than their queue retains, which is a minute at least."""

Step = Callable[..., Any]


class ForkedWorker:
    """A Lambda worker as ministack knows it from subprocess.Popen, forked from a process with boto3 loaded.

    Importing it takes most of a new worker's time and memory.
    """

    context = multiprocessing.get_context("forkserver")

    def __init__(self, script: str, directory: str, environment: dict[str, str]) -> None:
        (reads, stdin), (stdout, writes), (stderr, complains) = os.pipe(), os.pipe(), os.pipe()
        self.stdin: IO[str] = os.fdopen(stdin, "w", buffering=1)
        self.stdout: IO[str] = os.fdopen(stdout)
        self.stderr: IO[str] = os.fdopen(stderr)
        theirs = [
            Connection(reads, writable=False),
            Connection(writes, readable=False),
            Connection(complains, readable=False),
        ]
        self.process = self.context.Process(target=run_worker, args=(script, directory, environment, theirs))
        self.process.start()
        for end in theirs:
            end.close()
        self.terminate, self.kill = self.process.terminate, self.process.kill

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return how."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0.0)
        return self.process.exitcode


def run_worker(script: str, directory: str, environment: dict[str, str], streams: list[Connection]) -> None:
    """What a new Python does with this script, in the process that was forked for it.

    Without the server it ends at once: its task would go on, and answer nobody for minutes.
    """
    threading.Thread(target=end_with_server, daemon=True).start()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv, sys.path[0] = [script], os.path.dirname(script)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    runpy.run_path(script, run_name="__main__")


def end_with_server() -> None:
    """Wait until the server has ended, then end this process."""
    server = multiprocessing.parent_process()
    assert server
    server.join()
    os._exit(1)


def forked(popen: Any) -> Step:
    """Python workers are forked; whatever else is started, is started as ever."""
    ForkedWorker.context.set_forkserver_preload(["boto3"])

    def corrected(command: list[str], **options: Any) -> Any:
        if command[0] != sys.executable:
            return popen(command, **options)
        return ForkedWorker(command[1], options["cwd"], options["env"])

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
        **vars(subprocess) | {"Popen": forked(lambda_runtime.subprocess.Popen)}
    )
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
