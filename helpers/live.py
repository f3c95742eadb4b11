"""Run an Experiment on a deployed workflow and measure it.

Who timed what: Step Functions the arrival and the return of each child execution, SQS the moment
that a message was enqueued, the workers their own attempts (in the answers and in their logs).
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError, ResponseStreamingError

from helpers import budget
from helpers.console import Bar, say
from helpers.engines.base import CALL_ATTEMPTS, Engine, Run
from helpers.errors import InvalidExperiment, LabError, StackError
from helpers.experiment import Experiment
from helpers.files import RUNS
from helpers.fleet import Fleet
from helpers.recorder import Recorder
from helpers.stack import INPUT_LIMIT_BYTES, Stack, claimed, deploy, parameters
from helpers.trace import ATTEMPT_OUTCOMES, ITEM_TIMES, Trace

if TYPE_CHECKING:
    from helpers.live_figure import LiveFigure, Progress

SAMPLE_SECONDS = 0.25
"""Between two looks at the queue's depth."""
WARM_SECONDS = 0.3
"""How long a warming call holds its worker, so that the next call finds another; twice as long each try."""
WARM_TRIES = 5
WARM_DIRECT = 50
"""Environments of the direct lane's function that are warmed; the lane's tasks are short."""
WARM_LASTS_SECONDS = 300
"""How long warmed environments count as warm; how long AWS keeps idle ones is nowhere promised."""
FUNCTIONS = {"direct": "ProcessFunction", "limited": "WorkerFunction"}
"""The outputs that name each lane's function."""
ITEM_COUNTS = ("pending", "running", "succeeded", "failed", "timedOut", "aborted")
"""What a Map Run counts its items by (DescribeMapRun)."""
EMPTIES_SECONDS = 5
"""How long the last message may take from its worker's answer until it is deleted."""
COUNTED_SECONDS = 60
"""How long SQS may take on AWS to count messages exactly (API reference, GetQueueAttributes, 2026-11-30)."""
BAR_AFTER_SECONDS = 2
SEND_BATCH = 10
"""Messages that one SendMessageBatch takes at most (SQS quotas, 2026-11-24)."""
SENDERS = 8
EMPTY_SECONDS = 0.5
"""How long a queue must report itself empty: its counts are approximate."""
TIMEOUTS = ("States.Timeout", "States.HeartbeatTimeout")
RECORDS: dict[str, dict[str, tuple[type, ...]]] = {
    "attempt_started": {"start": (int, float)},
    "attempt_ended": {"end": (int, float), "outcome": (str,)},
}
"""The records of an attempt in a worker's log, and what each has beside item, attempt and worker."""
NAMES: dict[str, tuple[type, ...]] = {"item": (int,), "attempt": (int,), "worker": (str,)}
"""The fields that name an attempt, each with its types; times are epoch seconds."""
Attempts = dict[tuple[int, int, str], dict[str, Any]]
"""Attempts by item, number and worker, each with its times in epoch seconds."""
_SPOILT: ContextVar[Mapping[int, Mapping[str, Any]] | None] = ContextVar("_SPOILT", default=None)


def run(
    stack: Stack, experiment: Experiment, machine: str = "StateMachineArn", progress: Progress = True
) -> Trace:
    """Run the experiment on a deployed `combined`, `distributed_map` or `activity` stack; return the trace.

    The stack's parameters must fit the experiment (see `stack.parameters`). machine: the output that names
    the state machine. Warms the workers first unless the experiment asks for cold starts. Raises StackError
    when the execution does not succeed. When that happens, or the run is interrupted, it stops the execution
    and saves what was measured so far under runs/, naming the file, before the error goes on. Raises
    InvalidExperiment for what only the simulated engine runs, StackError while another run uses the stack
    (see `stack.claimed`), and BudgetError for what the engine's budget does not allow, before anything is
    done.
    """
    _check(experiment)
    stack.engine.check_room(experiment, _warm_in(stack))
    with claimed(stack):
        stack.engine.spend(_described(experiment), budget.of_run(experiment))
        return _run(stack, experiment, machine, progress)


def _run(
    stack: Stack, experiment: Experiment, machine: str = "StateMachineArn", progress: Progress = True
) -> Trace:
    """The run, which was paid for."""
    if experiment.siphon_share and not {"ActivityArn", "QueueUrl"} & stack.outputs.keys():
        raise StackError(
            f"siphon_share={experiment.siphon_share}: {stack.workflow} has no limited lane; "
            "use 0, or deploy `combined`"
        )
    name = f"run-{uuid.uuid4().hex[:12]}"
    counts: list[dict[str, Any]] = []
    measured = counts if stack.engine.paced else []
    with consumers(stack, experiment, progress is True) as fleet:
        since = time.time()
        arn = stack.start(_input(stack, name, experiment), machine, name, paid=True)
        with sampled_queue(stack) as samples, _followed(progress, experiment, samples, counts) as figure:
            try:
                execution = wait(
                    *(stack, arn, experiment.items, progress is True, counts, fleet),
                    figure.look if figure else None,
                )
                if execution["status"] != "SUCCEEDED":
                    raise StackError(
                        f"execution {name}: ended as {execution['status']} "
                        f"({execution.get('error')}: {execution.get('cause')}); "
                        "see its history, and the functions' logs"
                    )
                trace = _trace(stack, experiment, execution, samples, fleet)
                if figure:
                    figure.end(trace)
            except BaseException as error:
                kept = salvage(
                    lambda: _trace(stack, experiment, _stopped(stack, arn), samples, fleet, patience=0),
                    lambda: _own_trace(stack, experiment, since, samples, fleet, measured),
                )
                if isinstance(error, StackError):
                    error.trace = kept
                raise
    return _with_metrics(stack, trace, measured)


@contextlib.contextmanager
def bench(engine: Engine) -> Iterator[Run]:
    """What `Engine.bench` is on an engine with stacks: runs on `combined`, on one stack while that is as new.

    A run that asks for cold starts has a stack of its own, and one that fails or is interrupted leaves none.
    Raises StackError for a run that is asked for while another one goes on.
    """
    in_use = threading.Lock()
    with contextlib.ExitStack() as deployed:
        stack: Stack | None = None
        last: Trace | None = None

        def run_alone(experiment: Experiment, progress: Progress = True) -> Trace:
            if not in_use.acquire(blocking=False):
                raise StackError(
                    "this bench: is in use by another run; wait for its end, or open another bench"
                )
            try:
                return run_next(experiment, progress)
            finally:
                in_use.release()

        def run_next(experiment: Experiment, progress: Progress) -> Trace:
            nonlocal stack, last
            _check(experiment)
            engine.check_room(experiment, _warm_in(stack))
            engine.spend(_described(experiment), budget.of_run(experiment))
            values = parameters(experiment)
            try:
                if stack and last and (experiment.cold_start or not _as_new(stack, last)):
                    stack = None
                    deployed.close()
                if stack:
                    stack = stack.update(values)
                else:
                    stack = deployed.enter_context(deploy(engine, "combined", values))
                with claimed(stack):
                    last = _run(stack, experiment, progress=progress)
            except BaseException as error:
                stack = None
                deployed.__exit__(type(error), error, error.__traceback__)
                raise
            return last

        yield run_alone


def _described(experiment: Experiment) -> str:
    """The experiment as a budget's lines name it."""
    return f"{experiment.items:,} items with {experiment.worker_concurrency} workers"


def _check(experiment: Experiment) -> None:
    """Refuse what the lab's workflows do not do."""
    for name, does, value in (
        ("task_attempts", "sends a message once and leaves redelivery to the queue", 1),
        ("arrivals_per_second", "has all items at the start", None),
    ):
        if getattr(experiment, name) != value:
            raise InvalidExperiment(
                f"{name}={getattr(experiment, name)}: a deployed workflow {does}; use {name}={value}, "
                "or the simulated engine"
            )


def _warm_in(stack: Stack | None) -> int:
    """Return how many Lambda environments of the stack are warm."""
    return sum(warmed for warmed, _ in list(stack.warmed.values())) if stack else 0  # others may warm


def _as_new(stack: Stack, last: Trace) -> bool:
    """Whether a run now would be what it is on a new stack, after this last one.

    It is not when that left messages or work behind, started environments beyond those that were warmed, or
    had a fleet: its workers end in the middle of a long poll, which may yet take a message and lose it.
    """
    if last.experiment.consumer == "fleet" or set(last.items["outcome"]) != {"succeeded"}:
        return False
    attempts = last.attempts.join(last.items.set_index("item")["lane"], on="item")
    used = attempts.groupby("lane")["worker"].nunique().to_dict()
    if any(used.get(lane, 0) > stack.warmed.get(name, (0, 0.0))[0] for lane, name in FUNCTIONS.items()):
        return False
    give_up = time.monotonic() + EMPTIES_SECONDS
    while depth(stack):
        if time.monotonic() > give_up:
            return False
        time.sleep(stack.engine.poll_seconds)
    return not depth(stack, "DeadLetterQueueUrl")


def depth(stack: Stack, queue: str = "QueueUrl") -> int:
    """How many messages the queue (the output that names it) holds, in flight and delayed ones included."""
    names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
    told = stack.engine.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs[queue], AttributeNames=names
    )
    return sum(int(told["Attributes"][name]) for name in names)


def burst(stack: Stack, experiment: Experiment, progress: Progress = True) -> Trace:
    """Send all items to a deployed `sqs_limited` stack's queue at once; return the trace when it is empty.

    Nobody waits for these items: one arrives when its message is sent, and returns when its last attempt
    ends. Raises StackError unless all items take the limited lane. When interrupted, it saves what was
    measured so far, as `run` does. Raises InvalidExperiment, StackError and BudgetError as `run` does, and
    StackError for a queue that holds messages already.
    """
    _check(experiment)
    stack.engine.check_room(experiment, _warm_in(stack))
    if experiment.siphon_share != 1:
        raise StackError(
            f"siphon_share={experiment.siphon_share}: a burst has the limited lane only; use siphon_share=1"
        )
    with claimed(stack):
        _refuse_leftovers(stack)
        stack.engine.spend(_described(experiment), budget.of_burst(experiment))
        trace = _burst(stack, experiment, progress)
    return _with_metrics(stack, trace, [])


def _refuse_leftovers(stack: Stack) -> None:
    """Raise StackError for a queue that is not empty: another burst goes on, or has left messages."""
    give_up = time.monotonic() + (COUNTED_SECONDS if stack.engine.paced else EMPTIES_SECONDS)
    while left := depth(stack):
        if time.monotonic() > give_up:
            raise StackError(
                f"stack {stack.name}: its queue holds {left} messages already; wait until they are done, "
                "purge the queue, or deploy another stack"
            )
        time.sleep(stack.engine.poll_seconds)


def _burst(stack: Stack, experiment: Experiment, progress: Progress) -> Trace:
    """Do the burst, which was paid for."""
    with (
        consumers(stack, experiment, progress is True) as fleet,
        sampled_queue(stack) as samples,
        _followed(progress, experiment, samples, None) as figure,
    ):
        since = time.time()
        try:
            send(stack, payloads(experiment))
            _drain(stack, experiment.items, progress is True, fleet, figure.look if figure else None)
            trace = _burst_trace(stack, experiment, since, samples, fleet)
            if figure:
                figure.end(trace)
        except BaseException as error:
            kept = salvage(
                lambda: _burst_trace(stack, experiment, since, samples, fleet, patience=0),
                lambda: _own_trace(stack, experiment, since, samples, fleet, []),
            )
            if isinstance(error, StackError):
                error.trace = kept
            raise
    return trace


def _followed(
    progress: Progress,
    experiment: Experiment,
    samples: Iterable[dict[str, float]],
    counts: list[dict[str, Any]] | None,
) -> contextlib.AbstractContextManager[LiveFigure | None]:
    """The figure that follows the run, if one shall."""
    if not isinstance(progress, bool):
        return progress.following(experiment, samples, counts)
    return contextlib.nullcontext()


@contextlib.contextmanager
def consumers(stack: Stack, experiment: Experiment, progress: bool) -> Iterator[Fleet | None]:
    """The fleet, where the experiment has one, and warm functions, unless it asks for cold starts."""
    with contextlib.ExitStack() as resources:
        fleet: Fleet | None = None
        if experiment.consumer == "fleet":
            fleet = Fleet(stack, experiment.worker_concurrency, experiment.batch_size)
            resources.enter_context(fleet)
        _warm_all(stack, experiment, progress)
        yield fleet


def send(
    stack: Stack,
    items: list[dict[str, Any]],
    fields: Callable[[dict[str, Any]], dict[str, str]] | None = None,
) -> None:
    """Send these items to the stack's queue at once, a message each.

    fields: what a message has beside its body, such as its group. Raises StackError for one that is refused.
    """
    sqs, url = stack.engine.client("sqs"), stack.outputs["QueueUrl"]

    def send(first: int) -> None:
        entries = [
            {"Id": str(n), "MessageBody": json.dumps({"item": item})} | (fields(item) if fields else {})
            for n, item in enumerate(items[first : first + SEND_BATCH])
        ]
        if failed := sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed"):
            raise StackError(f"{len(failed)} messages were not sent ({failed[0]['Message']}); run it again")

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(0, len(items), SEND_BATCH)))


def _drain(
    stack: Stack,
    items: int,
    progress: bool,
    fleet: Fleet | None = None,
    look: Callable[[], None] | None = None,
) -> None:
    """Wait until the queue has been empty for a while, showing how many items have left it.

    look: called after each look at it.
    Raises StackError when the fleet that empties it is not whole any more.
    """
    empty_since = None
    with Bar(total=items, desc="items", delay=BAR_AFTER_SECONDS, leave=False, disable=not progress) as bar:
        while empty_since is None or time.monotonic() - empty_since < EMPTY_SECONDS:
            left = depth(stack)
            bar.update(max(0, items - left) - bar.n)
            if fleet:
                fleet.check()
            if look:
                look()
            empty_since = None if left else empty_since or time.monotonic()
            time.sleep(stack.engine.poll_seconds)


@contextlib.contextmanager
def spoilt(items: Mapping[int, Mapping[str, Any]]) -> Iterator[None]:
    """Break these items, by number, in what this thread runs in the block.

    They are sent with these fields, too: {"failures": 9} for one whose first nine attempts fail,
    {"deaths": 1} for one whose first attempt ends with its worker, {"bad": True} for one that can never
    succeed and says so. A run that fails of it is not kept under runs/: its error has the trace.
    """
    before = _SPOILT.set(items)
    try:
        yield
    finally:
        _SPOILT.reset(before)


def payloads(experiment: Experiment) -> list[dict[str, Any]]:
    """The Map's items: item, lane, task_seconds, failures (passing ones before the first success).

    More where they are `spoilt`.
    """
    spoils = _SPOILT.get() or {}
    return [
        {"item": item, "lane": lane, "task_seconds": round(seconds, 6), "failures": failures}
        | dict(spoils.get(item, {}))
        for item, lane, seconds, failures in experiment.plan()[
            ["item", "lane", "task_seconds", "failures"]
        ].itertuples(index=False)
    ]


def items_text(experiment: Experiment) -> str:
    """The Map's items as the JSON text that is put into the execution's input or into S3."""
    return json.dumps(payloads(experiment), separators=(",", ":"))


def fits_input(text: str) -> bool:
    """Whether items of this text go into the execution's input, with room for what else the state holds."""
    return len(text) < 0.9 * INPUT_LIMIT_BYTES


def _input(stack: Stack, name: str, experiment: Experiment) -> dict[str, Any]:
    """The execution's input: the items where they fit into it, else nothing: they are put into S3."""
    data = {"max_concurrency": experiment.map_concurrency} if stack.workflow == "distributed_map" else {}
    text = items_text(experiment)
    if fits_input(text):
        return data | {"items": json.loads(text)}
    stack.engine.client("s3").put_object(
        Bucket=stack.outputs["Bucket"], Key=f"items/{name}.json", Body=text.encode()
    )
    return data


def to_warm(experiment: Experiment) -> dict[str, int]:
    """How many environments of each function (the output that names it) are warmed before the experiment."""
    workers = experiment.worker_concurrency if experiment.consumer == "lambda" else 0
    at_once = {"direct": min(experiment.map_limit, WARM_DIRECT), "limited": workers}
    items = {} if experiment.cold_start else experiment.plan()["lane"].value_counts().to_dict()
    return {function: min(items.get(lane, 0), at_once[lane]) for lane, function in FUNCTIONS.items()}


def _warm_all(stack: Stack, experiment: Experiment, progress: bool) -> None:
    """Warm what the experiment needs, unless it was warmed a short while ago."""
    for function, needed in to_warm(experiment).items():
        warmed, when = stack.warmed.get(function, (0, 0.0))
        if needed > (warmed if time.monotonic() - when < WARM_LASTS_SECONDS else 0):
            _warm(stack, function, needed, progress)


def warm(stack: Stack, function: str, workers: int, progress: bool = True) -> int:
    """Call a function (the output that names it) until `workers` environments are warm; return how many are.

    An engine that cannot hold that many at once ends with fewer. A call that fails, as one whose worker dies,
    is tried again with the next round. Raises StackError with its reason when it fails in the last round,
    too, and BudgetError where the engine's budget does not allow it.
    """
    stack.engine.spend(f"warming {workers} environments", budget.of_warming(workers))
    return _warm(stack, function, workers, progress)


def _warm(stack: Stack, function: str, workers: int, progress: bool) -> int:
    client = stack.engine.client("lambda")

    failures: list[str] = []

    def call(hold_seconds: float) -> str:
        payload = json.dumps({"warm_seconds": hold_seconds})
        try:
            answer = json.load(
                client.invoke(FunctionName=stack.outputs[function], Payload=payload)["Payload"]
            )
        except ResponseStreamingError:
            return ""  # cut off in the answer, which boto3 does not try again: the next round does
        if "worker" not in answer:
            failures.append(answer.get("errorMessage") or str(answer))
            return ""
        return str(answer["worker"])

    # A call that is held for longer than its function may run is killed.
    longest = int(stack.parameters["FunctionTimeout"]) / 2
    warmed: set[str] = set()
    with ThreadPoolExecutor(workers) as pool:
        for attempt in range(WARM_TRIES):
            failures.clear()
            held = min(WARM_SECONDS * 2**attempt, longest)
            calls = pool.map(call, [held] * workers)
            warmed = set(_bar(calls, workers, f"warming {function}", progress)) - {""}
            if len(warmed) == workers:
                break
    if failures:
        raise StackError(
            f"{function}: {len(failures)} of {workers} calls to warm it failed, in the last of {WARM_TRIES} "
            f"rounds, too ({failures[0]}); see the function's logs"
        )
    stack.warmed[function] = len(warmed), time.monotonic()
    return len(warmed)


def _bar(things: Iterable[str], total: int, what: str, progress: bool) -> Iterable[str]:
    bar: Iterable[str] = Bar(
        things, total=total, desc=what, delay=BAR_AFTER_SECONDS, leave=False, disable=not progress
    )
    return bar


@contextlib.contextmanager
def sampled_queue(stack: Stack) -> Iterator[Recorder[dict[str, float]]]:
    """Sample the queue's depth, as SQS reports it, until the block ends. Times are epoch seconds.

    Yields:
        The samples, to which a thread appends until the block ends.
    """
    samples: Recorder[dict[str, float]] = Recorder()
    if "QueueUrl" not in stack.outputs:
        yield samples
        return
    ended = threading.Event()
    sqs = stack.engine.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def sample() -> None:
        while not ended.is_set():
            with contextlib.suppress(ClientError, BotoCoreError):  # a missed sample is not worth a run
                asked = time.time()
                told = sqs.get_queue_attributes(QueueUrl=stack.outputs["QueueUrl"], AttributeNames=names)
                visible, in_flight = (int(told["Attributes"][name]) for name in names)
                at = (asked + time.time()) / 2
                samples.append({"time": at, "visible": visible, "in_flight": in_flight})
            ended.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def wait(
    stack: Stack,
    arn: str,
    items: int | None = None,
    progress: bool = True,
    counts: list[dict[str, Any]] | None = None,
    fleet: Fleet | None = None,
    look: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Wait until the execution has ended and return its description (DescribeExecution).

    items: how many its Map has, for the progress shown. counts: where AWS's quotas hold, or with a look, gets
    what its Map Runs count meanwhile (itemCounts of DescribeMapRun), each with its time (epoch s). fleet:
    what works for it; raises StackError when that is not whole any more. look: called after each look at it.
    """
    step_functions = stack.engine.client("stepfunctions")
    looked = 0.0
    kept = counts if stack.engine.paced or look else None
    map_runs: list[str] = []
    with Bar(total=items, desc="items", delay=BAR_AFTER_SECONDS, leave=False, disable=not progress) as bar:
        while True:
            execution: dict[str, Any] = step_functions.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            if fleet:
                fleet.check()
            if (progress or kept is not None) and time.monotonic() - looked >= 1:
                looked = time.monotonic()
                map_runs = map_runs or _map_runs(stack, arn)
                for run_arn in map_runs:
                    told = step_functions.describe_map_run(mapRunArn=run_arn)["itemCounts"]
                    bar.update(told["succeeded"] + told["failed"] - bar.n)
                    if kept is not None:
                        kept.append(told | {"time": time.time()})
            if look:
                look()
            time.sleep(stack.engine.poll_seconds)


def _with_metrics(stack: Stack, trace: Trace, counts: list[dict[str, Any]]) -> Trace:
    """The trace with what the engine itself measured, and what its Map Runs counted."""
    began = datetime.fromisoformat(trace.started).timestamp()
    theirs = stack.engine.metrics(stack.outputs, began, began + float(trace.items["returned"].max()))
    return _measured(trace, _counted(counts) + theirs)


def _counted(counts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of Trace.metrics, with times in epoch seconds, from what Map Runs counted."""
    return [
        {"time": sample["time"], "metric": f"itemCounts.{name}", "value": sample[name], "unit": "Count"}
        | {"resource": "MapRun"}
        for sample in counts
        for name in ITEM_COUNTS
    ]


def _measured(trace: Trace, rows: list[dict[str, Any]]) -> Trace:
    """The trace with these metrics, whose times are epoch seconds."""
    if not rows:
        return trace
    table = pd.DataFrame(rows)
    began = datetime.fromisoformat(trace.started).timestamp()
    return replace(trace, metrics=table.assign(time=table["time"] - began))


def _map_runs(stack: Stack, arn: str) -> list[str]:
    found = stack.engine.client("stepfunctions").list_map_runs(executionArn=arn)["mapRuns"]
    return [run["mapRunArn"] for run in found]


def results(stack: Stack, execution: dict[str, Any]) -> list[dict[str, Any]]:
    """The Map's results in item order, from wherever they are.

    They come in the execution's output, or in the files of its ResultWriter; for an execution that did
    not succeed, from the children that did. Children that failed and were tolerated have no result. One
    that was given a batch has a result for each of its items.
    """
    if execution["status"] != "SUCCEEDED":
        return sorted(_singly(_children(stack, execution["executionArn"])), key=lambda result: result["item"])
    found = json.loads(execution["output"])["results"]
    if isinstance(found, list):
        return list(_singly(result for result in found if result is not None))
    files = _read(stack, found["ResultWriterDetails"]["Key"])["ResultFiles"]["SUCCEEDED"]
    # The files are in no order; the items in them carry their own.
    written = (json.loads(child["Output"]) for file in files for child in _read(stack, file["Key"]))
    return sorted(_singly(written), key=lambda result: result["item"])


def _singly(outputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each item's result from what children returned, which is one, or a batch's."""
    for output in outputs:
        if "answers" in output:
            same = {name: output[name] for name in ("lane", "arrival", "returned")}
            yield from (same | {"item": answer["item"], "answer": answer} for answer in output["answers"])
        else:
            yield output


def _read(stack: Stack, key: str) -> Any:
    """The JSON in an object of the stack's bucket."""
    s3 = stack.engine.client("s3")
    tried = 0
    while True:
        try:
            return json.load(s3.get_object(Bucket=stack.outputs["Bucket"], Key=key)["Body"])
        except ResponseStreamingError:  # cut within the body, where boto3 does not try again
            tried += 1
            if tried == CALL_ATTEMPTS:
                raise


def _children(stack: Stack, arn: str) -> Iterator[dict[str, Any]]:
    step_functions = stack.engine.client("stepfunctions")
    for run_arn in _map_runs(stack, arn):
        pages = step_functions.get_paginator("list_executions").paginate(
            mapRunArn=run_arn, statusFilter="SUCCEEDED"
        )
        for page in pages:
            for child in Bar(page["executions"], "children", delay=BAR_AFTER_SECONDS, leave=False):
                described = step_functions.describe_execution(executionArn=child["executionArn"])
                yield json.loads(described["output"])


def _stopped(stack: Stack, arn: str) -> dict[str, Any]:
    """The description of an execution that runs no more (DescribeExecution)."""
    step_functions = stack.engine.client("stepfunctions")
    execution: dict[str, Any] = step_functions.describe_execution(executionArn=arn)
    if execution["status"] == "RUNNING":
        step_functions.stop_execution(executionArn=arn, cause="the run was interrupted")
        execution = step_functions.describe_execution(executionArn=arn)
    return execution


def salvage(*ways: Callable[[], Trace]) -> Trace | None:
    """Save what a run that failed has measured under runs/, say where, and return it.

    ways: those to come by it, the best first; the first that works counts. What fails here is told, and does
    not hide why the run failed. What was `spoilt` on purpose is not saved.
    """
    for measured in ways:
        try:
            trace = measured()
            if _SPOILT.get() is None:
                _keep(trace)
            return trace
        except (LabError, ClientError, BotoCoreError) as error:
            say(f"not all that was measured could be kept: {error}", err=True)
    return None


def _keep(trace: Trace) -> None:
    kept = trace.save(RUNS / f"interrupted-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.parquet")
    told = f"{len(trace.items)} of {trace.experiment.items} items were back"
    say(f"interrupted: {told}, {len(trace.attempts)} attempts are known; kept in {kept}")


def _own_trace(
    stack: Stack,
    experiment: Experiment,
    since: float,
    samples: Iterable[dict[str, float]],
    fleet: Fleet | None,
    counts: list[dict[str, Any]],
) -> Trace:
    """What this process itself saw since then (epoch s): its fleet's attempts, queue and Map Run counts."""
    attempts = list(parse_log(fleet.lines if fleet else []).values())
    return _measured(_as_trace(stack, experiment, since, [], attempts, samples), _counted(counts))


def _burst_trace(
    stack: Stack,
    experiment: Experiment,
    since: float,
    samples: Iterable[dict[str, float]],
    fleet: Fleet | None,
    patience: float | None = None,
) -> Trace:
    """The trace of a burst sent at `since` (epoch seconds); items whose last attempt goes on are left out."""
    dead: set[int] = set()

    def complete(attempts: Attempts) -> bool:
        ended = {a["item"] for a in attempts.values() if a["outcome"] == "succeeded"}
        if len(ended) < experiment.items:
            dead.update(_dead_letters(stack))
        return len(ended | dead) == experiment.items

    attempts = _once(attempts_since(stack, since, complete, fleet, patience).values())
    first = {a["item"]: a for a in reversed(attempts) if a["outcome"] == "succeeded"}
    last = _last(attempts)
    rows = [
        {
            "item": item,
            "lane": "limited",
            "arrival": counts["enqueued"],
            "enqueued": counts["enqueued"],
            "service_start": counts["start"],
            "service_end": counts["end"],
            "returned": counts["end"],
            "attempts": last[item]["attempt"],
            "outcome": "succeeded" if item in first else "dead_lettered",
        }
        for item, counts in sorted((last | first).items())
        if item in dead or item in first
    ]
    began = min((row["enqueued"] for row in rows), default=since)
    return _as_trace(stack, experiment, began, rows, attempts, samples)


def _trace(
    stack: Stack,
    experiment: Experiment,
    execution: dict[str, Any],
    samples: Iterable[dict[str, float]],
    fleet: Fleet | None,
    patience: float | None = None,
) -> Trace:
    back = results(stack, execution)
    began = execution["startDate"].timestamp()
    return traced(stack, experiment, back, began, samples, fleet, patience)


def traced(
    stack: Stack,
    experiment: Experiment,
    back: list[dict[str, Any]],
    began: float,
    samples: Iterable[dict[str, float]],
    fleet: Fleet | None = None,
    patience: float | None = None,
) -> Trace:
    """The trace of what came back: a result each, in item order, as the workflows' last states give it.

    back: item, lane, arrival and returned (ISO 8601), and answer (item, attempt, worker, service_start,
    service_end and, in the limited lane, enqueued, in epoch s) or error (its Error). began: epoch s. The
    other attempts are read from the workers' logs, for patience (s) at most; the engine's where it is None.
    """
    answered = {attempt_key(result["answer"]): result["answer"] for result in back if "answer" in result}

    def complete(attempts: Attempts) -> bool:
        return all(key in attempts and attempts[key]["outcome"] != "lost" for key in answered)

    attempts = attempts_since(stack, began, complete, fleet, patience)
    for key, answer in answered.items():
        # The answer tells as much as the log, and more where its worker never heard that it was taken.
        times = {"start": answer["service_start"], "end": answer["service_end"]}
        attempts[key] = {**answer, **times, "outcome": "succeeded"}
    failed = any("error" in result for result in back)
    dead = _dead_letters(stack) if failed and "DeadLetterQueueUrl" in stack.outputs else set()
    last = _last(attempts.values())
    rows = [_item(result, last.get(result["item"], {}), dead) for result in back]
    return _as_trace(stack, experiment, began, rows, list(attempts.values()), samples)


def _as_trace(
    stack: Stack,
    experiment: Experiment,
    began: float,
    rows: list[dict[str, Any]],
    attempts: list[dict[str, Any]],
    samples: Iterable[dict[str, float]],
) -> Trace:
    """The trace from rows whose times are epoch seconds."""
    items = pd.DataFrame(rows, columns=["item", "lane", *ITEM_TIMES, "attempts", "outcome"])
    columns = ["item", "attempt", "worker", "start", "end", "outcome"]
    tries = pd.DataFrame(attempts + _missed(attempts), columns=columns)
    sampled = pd.DataFrame(list(samples), columns=["time", "visible", "in_flight"])
    for table, times in ((items, ITEM_TIMES), (tries, ["start", "end"]), (sampled, ["time"])):
        table[times] = table[times].astype(float) - began
    return Trace(
        experiment=experiment,
        engine=stack.engine.name,
        items=items,
        attempts=tries.sort_values(["start", "item"], ignore_index=True),
        samples=sampled,
        started=datetime.fromtimestamp(began, UTC).isoformat(),
        versions=stack.engine.versions(),
        clock_seconds=stack.engine.clock_seconds,
    )


def _missed(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts before an item's last one that no worker tells of: they were lost on their way to it."""
    numbers: dict[int, set[int]] = {}
    for attempt in attempts:
        numbers.setdefault(attempt["item"], set()).add(attempt["attempt"])
    nan = float("nan")
    return [
        {"item": item, "attempt": number, "worker": "", "start": nan, "end": nan, "outcome": "lost"}
        for item, known in numbers.items()
        for number in sorted(set(range(1, max(known))) - known)
    ]


def _once(attempts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attempts of which nobody waits for an answer: the first success of an item counts, later ones are late.

    A standard queue may deliver a message twice, and a call that had no answer may have sent it twice. The
    attempts of a second message, whose numbers are those of the first, are left out, and that is told.
    """
    known: dict[tuple[int, int], dict[str, Any]] = {}
    done: set[int] = set()
    doubled = 0
    for attempt in sorted(attempts, key=lambda attempt: float(attempt["start"])):
        item, succeeded = attempt["item"], attempt["outcome"] == "succeeded"
        if (item, attempt["attempt"]) in known:
            doubled += 1
            continue
        late = {"outcome": "late"} if succeeded and item in done else {}
        known[item, attempt["attempt"]] = attempt | late
        done |= {item} if succeeded else set()
    if doubled:
        say(f"{doubled} attempts were of messages sent twice; they are not in the trace", err=True)
    return list(known.values())


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _item(result: dict[str, Any], last: dict[str, Any], dead: set[int]) -> dict[str, Any]:
    """One row of Trace.items from a result and the item's last attempt; times are epoch seconds."""
    arrival = _epoch(result["arrival"])
    answer = result.get("answer", {})
    if "answer" in result:
        outcome = "succeeded"
    elif result["error"]["Error"] not in TIMEOUTS:
        outcome = "failed"
    else:
        outcome = "dead_lettered" if result["item"] in dead else "timed_out"
    nan = float("nan")
    enqueued = answer.get("enqueued", last.get("enqueued", nan))
    return {
        "item": result["item"],
        "lane": result["lane"],
        "arrival": arrival,
        "enqueued": arrival if result["lane"] == "direct" else enqueued,
        "service_start": answer.get("service_start", last.get("start", nan)),
        "service_end": answer.get("service_end", last.get("end", nan)),
        "returned": _epoch(result["returned"]),
        "attempts": max(answer.get("attempt", 0), last.get("attempt", 0)),
        "outcome": outcome,
    }


def _last(attempts: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Each item's last attempt."""
    return {attempt["item"]: attempt for attempt in sorted(attempts, key=lambda a: (a["item"], a["start"]))}


def attempts_since(
    stack: Stack,
    since: float,
    complete: Callable[[Attempts], bool],
    fleet: Fleet | None,
    patience: float | None = None,
) -> Attempts:
    """Every attempt since then (epoch s), from the workers' logs.

    Reads them until complete or for patience (s; the engine's). Earlier runs on the stack logged there too.
    """
    since -= stack.engine.clock_seconds
    groups = [stack.outputs[name] for name in ("ProcessLogGroup", "WorkerLogGroup") if name in stack.outputs]
    give_up = time.monotonic() + (stack.engine.log_seconds if patience is None else patience)
    while True:
        lines = [line for group in groups for line in log_lines(stack, group, since)]
        parsed = parse_log([*lines, *(fleet.lines if fleet else [])])
        attempts = {key: attempt for key, attempt in parsed.items() if attempt["start"] >= since}
        if complete(attempts) or time.monotonic() > give_up:
            return attempts
        time.sleep(stack.engine.poll_seconds)


def attempt_key(attempt: dict[str, Any]) -> tuple[int, int, str]:
    """What names an attempt: item, number and worker."""
    return attempt["item"], attempt["attempt"], attempt["worker"]


def parse_log(lines: Iterable[str]) -> Attempts:
    """Attempts by item, number and worker; one that started and never ended is `lost`.

    What the workers' code prints lies in the same log: whatever is no record of theirs is passed over.
    """
    said: dict[str, Attempts] = {what: {} for what in RECORDS}
    for line in lines:
        if found := _record(line):
            what, attempt = found
            said[what][attempt_key(attempt)] = attempt
    attempts: Attempts = {}
    for key, started in said["attempt_started"].items():
        ended = said["attempt_ended"].get(key, {})
        # An end before the start, or without one, is that of an earlier run's attempt.
        counts = ended.get("end", 0.0) >= started["start"]
        attempts[key] = {"end": float("nan"), "outcome": "lost"} | started | (ended if counts else {})
    return attempts


def _record(line: str) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the content of the record that a log's line ends with, or None.

    Text that was printed without a line break stands before it.
    """
    for what, fields in RECORDS.items():
        if (begin := line.find(f'{{"{what}": ')) < 0:
            continue
        with contextlib.suppress(ValueError, LookupError, TypeError, OverflowError, RecursionError):
            record = json.loads(line[begin:])
            attempt = record[what]
            whole = all(type(attempt[name]) in types for name, types in (NAMES | fields).items())
            whole = whole and all(abs(attempt[name]) < 2**63 for name in ("item", "attempt"))
            whole = whole and attempt.get("outcome", "lost") in ATTEMPT_OUTCOMES
            times = [attempt[name] for name in ("enqueued", "start", "end") if name in attempt]
            if whole and len(record) == 1 and all(math.isfinite(time) for time in times):
                return what, attempt
    return None


def log_lines(stack: Stack, group: str, since: float) -> Iterator[str]:
    """What has been logged in a log group (its name) since then (epoch s), line by line."""
    pages = stack.engine.client("logs").get_paginator("filter_log_events")
    pages = pages.paginate(logGroupName=group, startTime=int(since * 1000))
    for page in pages:
        for event in page["events"]:
            yield event["message"].rstrip("\n")


def _dead_letters(stack: Stack) -> set[int]:
    """The items whose messages lie in the dead-letter queue; they stay there, for others to read."""
    sqs, url = stack.engine.client("sqs"), stack.outputs["DeadLetterQueueUrl"]
    read = []
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=60, WaitTimeSeconds=1
    ).get("Messages"):
        read.append(messages)
    for messages in read:
        entries = [
            {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
            for n, message in enumerate(messages)
        ]
        sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
    return {json.loads(message["Body"])["item"]["item"] for messages in read for message in messages}
