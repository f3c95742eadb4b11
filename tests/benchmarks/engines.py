"""How much the embedded engine carries: `python -m tests.benchmarks.engines [--localstack URL] [--moto URL]`.

First ITEMS items live, a tenth of them siphoned off to WORKERS workers: the seconds of the whole run, stack,
warming and clean-up included, those of the execution, and what the engine's processes took for it. Then, if
given the endpoints of other emulators, CALLBACKS items through one and the same state machine on each, by
plain boto3 and without functions: a Distributed Map whose children send their token to a queue that THREADS
threads of this process answer. In turn, REPETITIONS times, the best of each. Of an execution whose result is
not its items in order, such as when a callback got lost, the figure is 0.

moto runs state machines after a POST of {"stepfunctions": {"execute_state_machine": true}} to
/moto-api/config. Prints one JSON object, and the same in Markdown on stderr. --quick: a hundredth of the
items, to try it.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import boto3
import psutil
from botocore.config import Config

from helpers import Experiment, checks, connect, metrics
from helpers.engines import local
from helpers.engines.embedded import Server
from helpers.engines.guard import Credentials

ITEMS = 10_000
WORKERS = 100
MAP_CONCURRENCY = 200
CALLBACKS = 500
THREADS = 50
REPETITIONS = 3
SAMPLE_SECONDS = 0.25
ROLE = "arn:aws:iam::000000000000:role/benchmark"


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--localstack", metavar="URL")
    parser.add_argument("--moto", metavar="URL")
    parser.add_argument("--quick", action="store_true")
    given = vars(parser.parse_args())
    share = 100 if given.pop("quick") else 1
    others = {name: url for name, url in given.items() if url}
    report: dict[str, Any] = {"cores": os.cpu_count(), "ministack": version("ministack")}
    with started() as server:
        report[f"{ITEMS // share:,} items live"] = live(server, ITEMS // share)
    if others:
        with started() as server:
            endpoints = {"embedded": server.endpoint_url, **others}
            rates = items_a_second(endpoints, CALLBACKS // share)
        best = {name: max(values) for name, values in rates.items()}
        report["items a second"] = rates
        report["times the others'"] = {name: best["embedded"] / best[name] for name in others if best[name]}
    print(json.dumps(report, indent=1))
    print(table(report), file=sys.stderr)


@contextlib.contextmanager
def started() -> Iterator[Server]:
    """An embedded engine of our own, whatever else is kept or named."""
    server = Server.start()
    try:
        yield server
    finally:
        server.stop()


def live(server: Server, items: int) -> dict[str, float]:
    """One run of the combined workflow; its trace must obey the laws."""
    experiment = Experiment(
        items, siphon_share=0.1, map_concurrency=MAP_CONCURRENCY, worker_concurrency=WORKERS
    )
    began = time.perf_counter()
    with (
        watched(psutil.Process(server.pid)) as used,
        connect("embedded", endpoint=server.endpoint_url) as engine,
    ):
        trace = engine.run(experiment, progress=False)
    seconds = time.perf_counter() - began
    checks.verify(trace)
    makespan = metrics.summary(trace)["makespan"]
    return {"seconds": seconds, "makespan": makespan, "items/s": items / makespan, **used}


@contextlib.contextmanager
def watched(server: psutil.Process) -> Iterator[dict[str, float]]:
    """What the block makes the server use: CPU seconds, its own and its workers', and its own peak memory."""
    used = {"engine CPU s": 0.0, "workers CPU s": 0.0, "engine peak MB": 0.0}
    workers: dict[int, float] = {}
    ended = threading.Event()

    def cpu_seconds(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before = cpu_seconds(server)

    def look() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            used["engine CPU s"] = cpu_seconds(server) - before
            used["engine peak MB"] = max(used["engine peak MB"], server.memory_info().rss / 1e6)
            for child in server.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers[child.pid] = cpu_seconds(child)
            used["workers CPU s"] = sum(workers.values())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join()


def items_a_second(endpoints: dict[str, str], items: int) -> dict[str, list[float]]:
    """Items a second of the same state machine on each engine, one after the other, REPETITIONS times."""
    rates: dict[str, list[float]] = {name: [] for name in endpoints}
    for _ in range(REPETITIONS):
        for name, url in endpoints.items():
            rates[name].append(callbacks(url, items))
    return rates


def callbacks(url: str, items: int) -> float:
    """Items a second of an execution whose children all wait for an answer; 0 if not all came back."""
    config = Config(max_pool_connections=THREADS, read_timeout=900)
    keys = local.credentials_for(url) or Credentials("test", "test")
    clients = boto3.Session(keys.access_key, keys.secret_key, None, local.REGION)
    sfn = clients.client("stepfunctions", endpoint_url=url, config=config)
    sqs = clients.client("sqs", endpoint_url=url, config=config)
    name = f"benchmark-{uuid.uuid4().hex[:8]}"
    queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
    machine = sfn.create_state_machine(name=name, definition=json.dumps(definition(queue)), roleArn=ROLE)
    ended = threading.Event()

    def answer(_: int) -> None:
        while not ended.is_set():
            received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in received.get("Messages", []):
                body = json.loads(message["Body"])
                sfn.send_task_success(taskToken=body["token"], output=json.dumps(body["item"]))
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    with ThreadPoolExecutor(THREADS) as pool:
        answering = [pool.submit(answer, n) for n in range(THREADS)]
        try:
            began = time.perf_counter()
            data = json.dumps({"items": list(range(items))})
            arn = sfn.start_execution(stateMachineArn=machine["stateMachineArn"], input=data)["executionArn"]
            while (execution := sfn.describe_execution(executionArn=arn))["status"] == "RUNNING":
                time.sleep(0.1)
            seconds = time.perf_counter() - began
        finally:
            ended.set()
    for thread in answering:
        thread.result()
    sfn.delete_state_machine(stateMachineArn=machine["stateMachineArn"])
    sqs.delete_queue(QueueUrl=queue)
    whole = json.loads(execution.get("output") or "null") == list(range(items))
    return items / seconds if whole else 0.0


def definition(queue: str) -> dict[str, Any]:
    """A Distributed Map over `$.items` whose children send their token and wait."""
    wait = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {"QueueUrl": queue, "MessageBody": {"token.$": "$$.Task.Token", "item.$": "$"}},
        "TimeoutSeconds": 120,
        "End": True,
    }
    processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}
    items = {
        "Type": "Map",
        "ItemsPath": "$.items",
        "MaxConcurrency": MAP_CONCURRENCY,
        "ItemProcessor": processor | {"StartAt": "Wait", "States": {"Wait": wait}},
        "End": True,
    }
    return {"StartAt": "Items", "States": {"Items": items}}


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["| what | figure |", "|---|---|"]
    for what, found in report.items():
        for name, value in found.items() if isinstance(found, dict) else [("", found)]:
            values = value if isinstance(value, list) else [value]
            figures = ", ".join(f"{v:,.1f}" if isinstance(v, float) else str(v) for v in values)
            lines.append(f"| {what}{name and ': ' + name} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
