"""Run an Experiment on a deployed combined workflow and measure it.

Who timed what: Step Functions the arrival and the return of each child execution, SQS the moment
that a message was enqueued, the workers their own attempts (in the answers and in their logs).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from helpers.errors import StackError
from helpers.experiment import DISTRIBUTED_MAP_LIMIT, Experiment
from helpers.fleet import Fleet
from helpers.stack import INPUT_LIMIT_BYTES, Stack
from helpers.trace import Trace

SAMPLE_SECONDS = 0.25
"""Between two looks at the queue's depth."""
WARM_SECONDS = 1
"""How long a warming call holds its worker, so that the next call finds another."""
WARM_TRIES = 5
WARM_DIRECT = 50
"""Environments of the direct lane's function that are warmed; the lane's tasks are short."""
LOG_PATIENCE_SECONDS = 60
"""CloudWatch Logs delivers within seconds; after this an attempt without a log counts as unlogged."""
BAR_AFTER_SECONDS = 2
TIMEOUTS = ("States.Timeout", "States.HeartbeatTimeout")
RUNS = Path(__file__).parents[1] / "runs"


def run(stack: Stack, experiment: Experiment, progress: bool = True) -> Trace:
    """Run the experiment on a deployed `combined` stack whose parameters fit it; return the trace.

    Warms the workers first unless the experiment asks for cold starts. Raises StackError when the
    execution does not succeed. When interrupted (or when the execution fails), it stops the execution
    and saves what was measured so far under runs/, naming the file, before the error goes on.
    """
    name = f"run-{uuid.uuid4().hex[:12]}"
    items = payloads(experiment)
    with contextlib.ExitStack() as resources:
        fleet: Fleet | None = None
        if experiment.consumer == "fleet":
            fleet = Fleet(stack, experiment.worker_concurrency, experiment.batch_size)
            resources.enter_context(fleet)
        if not experiment.cold_start:
            _warm_all(stack, experiment, progress)
        arn = stack.start(_input(stack, name, items), name=name)
        with _sampled_queue(stack) as samples:
            try:
                execution = _follow(stack, arn, experiment.items, progress)
                if execution["status"] != "SUCCEEDED":
                    raise StackError(
                        f"execution {name}: ended as {execution['status']} "
                        f"({execution.get('error')}: {execution.get('cause')}); "
                        "see its history, and the functions' logs"
                    )
            except BaseException:
                _keep_what_was_measured(stack, experiment, arn, samples, fleet)
                raise
        return _trace(stack, experiment, execution, samples, fleet)


def payloads(experiment: Experiment) -> list[dict[str, Any]]:
    """The Map's items: item, lane, task_seconds, failures (passing ones before the first success)."""
    return [
        {"item": item, "lane": lane, "task_seconds": round(seconds, 6), "failures": failures}
        for item, lane, seconds, failures in experiment.plan()[
            ["item", "lane", "task_seconds", "failures"]
        ].itertuples(index=False)
    ]


def _input(stack: Stack, name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """The items themselves where they fit into an execution's input, else nothing: they are put into S3."""
    text = json.dumps(items, separators=(",", ":"))
    if len(text) < 0.9 * INPUT_LIMIT_BYTES:  # room for what else the state holds
        return {"items": items}
    stack.engine.client("s3").put_object(
        Bucket=stack.outputs["Bucket"], Key=f"items/{name}.json", Body=text.encode()
    )
    return {}


def _warm_all(stack: Stack, experiment: Experiment, progress: bool) -> None:
    plan = experiment.plan()
    direct = int((plan["lane"] == "direct").sum())
    limited = len(plan) - direct
    at_once = experiment.map_concurrency or DISTRIBUTED_MAP_LIMIT
    warm(stack, "ProcessFunction", min(direct, at_once, WARM_DIRECT), progress)
    if experiment.consumer == "lambda":
        warm(stack, "WorkerFunction", min(limited, experiment.worker_concurrency), progress)


def warm(stack: Stack, function: str, workers: int, progress: bool = True) -> int:
    """Call a function (the output that names it) until `workers` environments are warm; return how many are.

    An engine that cannot hold that many at once ends with fewer.
    """
    if workers == 0:
        return 0
    client = stack.engine.client("lambda")

    def call(_: int) -> str:
        answer = client.invoke(
            FunctionName=stack.outputs[function], Payload=json.dumps({"warm_seconds": WARM_SECONDS})
        )
        return str(json.load(answer["Payload"])["worker"])

    warmed: set[str] = set()
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(WARM_TRIES):
            calls = pool.map(call, range(workers))
            warmed = set(_bar(calls, workers, f"warming {function}", progress))
            if len(warmed) == workers:
                break
    return len(warmed)


def _bar(things: Iterable[str], total: int, what: str, progress: bool) -> Iterable[str]:
    bar: Iterable[str] = tqdm(
        things, total=total, desc=what, delay=BAR_AFTER_SECONDS, leave=False, disable=not progress
    )
    return bar


@contextlib.contextmanager
def _sampled_queue(stack: Stack) -> Iterator[list[dict[str, float]]]:
    """Sample the queue's depth, as SQS reports it, until the block ends. Times are epoch seconds."""
    samples: list[dict[str, float]] = []
    ended = threading.Event()
    sqs = stack.engine.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def sample() -> None:
        while not ended.is_set():
            with contextlib.suppress(ClientError, BotoCoreError):  # a missed sample is not worth a run
                asked = time.time()
                depth = sqs.get_queue_attributes(QueueUrl=stack.outputs["QueueUrl"], AttributeNames=names)
                visible, in_flight = (int(depth["Attributes"][name]) for name in names)
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


def _follow(stack: Stack, arn: str, items: int, progress: bool) -> dict[str, Any]:
    """Wait until the execution has ended, showing how many items are back; return its description."""
    step_functions = stack.engine.client("stepfunctions")
    looked = 0.0
    with tqdm(total=items, desc="items", delay=BAR_AFTER_SECONDS, leave=False, disable=not progress) as bar:
        while True:
            execution: dict[str, Any] = step_functions.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            if progress and time.monotonic() - looked >= 1:  # DescribeMapRun: 1/s
                looked = time.monotonic()
                for run_arn in _map_runs(stack, arn):
                    counts = step_functions.describe_map_run(mapRunArn=run_arn)["itemCounts"]
                    bar.update(counts["succeeded"] + counts["failed"] - bar.n)
            time.sleep(stack.engine.poll_seconds)


def _map_runs(stack: Stack, arn: str) -> list[str]:
    found = stack.engine.client("stepfunctions").list_map_runs(executionArn=arn)["mapRuns"]
    return [run["mapRunArn"] for run in found]


def results(stack: Stack, execution: dict[str, Any]) -> list[dict[str, Any]]:
    """The Map's results in item order, from wherever they are.

    They come in the execution's output, or in the files of its ResultWriter; for an execution that did
    not succeed, from the children that did.
    """
    if execution["status"] != "SUCCEEDED":
        return sorted(_children(stack, execution["executionArn"]), key=lambda result: result["item"])
    found = json.loads(execution["output"])["results"]
    if isinstance(found, list):
        return found
    s3 = stack.engine.client("s3")

    def read(key: str) -> Any:
        return json.load(s3.get_object(Bucket=stack.outputs["Bucket"], Key=key)["Body"])

    files = read(found["ResultWriterDetails"]["Key"])["ResultFiles"]["SUCCEEDED"]
    # The files are in no order; the items in them carry their own.
    written = [json.loads(child["Output"]) for file in files for child in read(file["Key"])]
    return sorted(written, key=lambda result: result["item"])


def _children(stack: Stack, arn: str) -> Iterator[dict[str, Any]]:
    step_functions = stack.engine.client("stepfunctions")
    for run_arn in _map_runs(stack, arn):
        pages = step_functions.get_paginator("list_executions").paginate(
            mapRunArn=run_arn, statusFilter="SUCCEEDED"
        )
        for page in pages:
            for child in page["executions"]:
                described = step_functions.describe_execution(executionArn=child["executionArn"])
                yield json.loads(described["output"])


def _keep_what_was_measured(
    stack: Stack,
    experiment: Experiment,
    arn: str,
    samples: list[dict[str, float]],
    fleet: Fleet | None,
) -> None:
    step_functions = stack.engine.client("stepfunctions")
    step_functions.stop_execution(executionArn=arn, cause="the run was interrupted")
    execution = step_functions.describe_execution(executionArn=arn)
    trace = _trace(stack, experiment, execution, samples, fleet, patience=0)
    kept = trace.save(RUNS / f"interrupted-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{arn[-6:]}.parquet")
    print(f"interrupted: {len(trace.items)} of {experiment.items} items were back; kept in {kept}")


def _trace(
    stack: Stack,
    experiment: Experiment,
    execution: dict[str, Any],
    samples: list[dict[str, float]],
    fleet: Fleet | None,
    patience: float = LOG_PATIENCE_SECONDS,
) -> Trace:
    began = execution["startDate"].timestamp()
    back = results(stack, execution)
    answers = [result["answer"] for result in back if "answer" in result]
    attempts = _attempts(stack, answers, fleet, patience)
    dead = _dead_letters(stack) if any("error" in result for result in back) else set()
    last = {attempt["item"]: attempt for attempt in sorted(attempts, key=lambda a: (a["item"], a["start"]))}
    items = pd.DataFrame(
        [_item(result, last.get(result["item"], {}), dead) for result in back], columns=_ITEM_COLUMNS
    )
    attempt_columns = ["item", "attempt", "worker", "start", "end", "outcome"]
    attempts_table = pd.DataFrame(attempts, columns=attempt_columns)
    samples_table = pd.DataFrame(samples, columns=["time", "visible", "in_flight"])
    for table, times in ((items, _ITEM_TIMES), (attempts_table, ["start", "end"]), (samples_table, ["time"])):
        table[times] = table[times].astype(float) - began
    return Trace(
        experiment=experiment,
        engine=stack.engine.name,
        items=items,
        attempts=attempts_table.sort_values(["start", "item"], ignore_index=True),
        samples=samples_table,
        started=execution["startDate"].astimezone(UTC).isoformat(),
        versions=stack.engine.versions(),
        clock_seconds=stack.engine.clock_seconds,
    )


_ITEM_TIMES = ["arrival", "enqueued", "service_start", "service_end", "returned"]
_ITEM_COLUMNS = ["item", "lane", *_ITEM_TIMES, "attempts", "outcome"]


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


def _attempts(
    stack: Stack, answers: list[dict[str, Any]], fleet: Fleet | None, patience: float
) -> list[dict[str, Any]]:
    """Every attempt, from the workers' logs; waits until the attempts behind the answers are logged."""
    answered = {_key(answer): answer for answer in answers}
    groups = [stack.outputs["ProcessLogGroup"]]
    if fleet is None:
        groups.append(stack.outputs["WorkerLogGroup"])
    give_up = time.monotonic() + patience
    while True:
        lines = [line for group in groups for line in _log_lines(stack, group)]
        found = _parse(lines + (fleet.lines if fleet else []))
        ended = {key for key, attempt in found.items() if attempt["outcome"] != "lost"}
        if answered.keys() <= ended or time.monotonic() > give_up:
            break
        time.sleep(stack.engine.poll_seconds)
    for key, answer in answered.items():
        if key not in ended:  # not logged in time; the answer itself tells as much
            times = {"start": answer["service_start"], "end": answer["service_end"]}
            found[key] = {**answer, **times, "outcome": "succeeded"}
    return list(found.values())


def _key(attempt: dict[str, Any]) -> tuple[int, int, str]:
    return attempt["item"], attempt["attempt"], attempt["worker"]


def _parse(lines: Iterable[str]) -> dict[tuple[int, int, str], dict[str, Any]]:
    """Attempts by item, number and worker; one that started and never ended is `lost`."""
    attempts: dict[tuple[int, int, str], dict[str, Any]] = {}
    for line in lines:
        if line.startswith('{"attempt_'):
            (attempt,) = json.loads(line).values()
            known = attempts.setdefault(_key(attempt), {"end": float("nan"), "outcome": "lost"})
            known.update(attempt)
    return attempts


def _log_lines(stack: Stack, group: str) -> Iterator[str]:
    pages = stack.engine.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    for page in pages:
        for event in page["events"]:
            yield event["message"].rstrip("\n")


def _dead_letters(stack: Stack) -> set[int]:
    """The items whose messages lie in the dead-letter queue; they stay there."""
    sqs = stack.engine.client("sqs")
    items: set[int] = set()
    while messages := sqs.receive_message(
        QueueUrl=stack.outputs["DeadLetterQueueUrl"],
        MaxNumberOfMessages=10,
        VisibilityTimeout=60,
        WaitTimeSeconds=1,
    ).get("Messages"):
        items |= {json.loads(message["Body"])["item"]["item"] for message in messages}
    return items
