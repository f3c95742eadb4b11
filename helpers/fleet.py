"""A fleet of long-polling workers on this machine, running the same handler as the Lambda worker.

It plays the part that containers or servers play on AWS: each worker takes messages itself, so the
number of workers is the limit. `Fleet` starts it as processes (`python -m helpers.fleet`); they end
with the process that started them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from helpers.engines.base import CLIENT_CONFIG
from helpers.errors import StackError
from helpers.stack import INFRA, Stack

HANDLER = INFRA / "sqs_limited" / "functions" / "worker" / "index.py"
WORKERS_PER_PROCESS = 25
"""Threads that one interpreter can drive without getting in each other's way."""
LONG_POLL_SECONDS = 20
"""SQS's longest WaitTimeSeconds, 2026-11-24."""
RECEIVE_LIMIT = 10
"""Messages that one ReceiveMessage returns at most, 2026-11-24."""


class Fleet:
    """`workers` long-polling workers on the stack's queue; a context manager, running once entered.

    lines: what the handlers have printed so far, one JSON text an element.
    """

    def __init__(self, stack: Stack, workers: int, batch_size: int) -> None:
        if batch_size > RECEIVE_LIMIT:
            raise StackError(
                f"batch_size={batch_size}: a fleet's worker receives at most {RECEIVE_LIMIT} messages at "
                "once; use a smaller batch, or consumer='lambda'"
            )
        self.lines: list[str] = []
        self._environment = stack.engine.fleet_environment() | {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "REDELIVERY_SECONDS": str(stack.parameters["RedeliverySeconds"]),
        }
        self._settings = [
            {
                "queue_url": stack.outputs["QueueUrl"],
                "first": first,
                "workers": min(WORKERS_PER_PROCESS, workers - first),
                "batch_size": batch_size,
            }
            for first in range(0, workers, WORKERS_PER_PROCESS)
        ]
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            for settings in self._settings:
                process = subprocess.Popen(
                    [sys.executable, "-m", "helpers.fleet"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=self._environment,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the process that runs the experiment
                )
                self._processes.append(process)
                assert process.stdin
                process.stdin.write(json.dumps(settings) + "\n")
                process.stdin.flush()
            for process in self._processes:
                assert process.stdout
                if process.stdout.readline() != "ready\n":
                    raise StackError("a worker process of the fleet did not start; see the error above")
                self._readers.append(threading.Thread(target=self._read, args=(process.stdout,), daemon=True))
                self._readers[-1].start()
        except BaseException:
            self.close()
            raise
        return self

    def _read(self, output: Any) -> None:
        self.lines.extend(line.rstrip("\n") for line in iter(output.readline, ""))

    def close(self) -> None:
        """End the workers at once; a message in their hands comes back after the visibility timeout."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._processes:
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            process.stdout.close()
        self._processes = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def record(message: dict[str, Any], queue_arn: str) -> dict[str, Any]:
    """A received message as the event source mapping would hand it to the function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "eventSourceARN": queue_arn,
    }


def work(handler: Any, sqs: Any, settings: dict[str, Any], queue_arn: str, number: int) -> None:
    """One worker's life: receive, handle, delete what succeeded."""
    context = SimpleNamespace(log_stream_name=f"fleet-{number}")
    queue = settings["queue_url"]
    while True:
        received = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=settings["batch_size"],
            WaitTimeSeconds=LONG_POLL_SECONDS,
            MessageSystemAttributeNames=["All"],
        )
        messages = received.get("Messages", [])
        if not messages:
            continue
        again = handler({"Records": [record(m, queue_arn) for m in messages]}, context)
        kept = {failure["itemIdentifier"] for failure in again["batchItemFailures"]}
        done = [m for m in messages if m["MessageId"] not in kept]
        if done:
            entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(done)]
            sqs.delete_message_batch(QueueUrl=queue, Entries=entries)


class WholeLines:
    """Standard output for threads: passes on whole lines only, so that they cannot interleave."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._pending = threading.local()

    def write(self, text: str) -> int:
        """Keep the text until its line is whole."""
        *whole, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        if whole:
            self._output.write("\n".join(whole) + "\n")
            self._output.flush()
        return len(text)

    def flush(self) -> None:
        """Whole lines are flushed as they are written."""


def main() -> None:
    """Run the workers that standard input describes until standard input ends."""
    import boto3

    settings = json.loads(sys.stdin.readline())
    spec = importlib.util.spec_from_file_location("worker", HANDLER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sqs = boto3.client("sqs", config=CLIENT_CONFIG)
    attributes = sqs.get_queue_attributes(QueueUrl=settings["queue_url"], AttributeNames=["QueueArn"])
    queue_arn = attributes["Attributes"]["QueueArn"]
    sys.stdout = WholeLines(sys.stdout)
    for number in range(settings["first"], settings["first"] + settings["workers"]):
        arguments = (module.handler, sqs, settings, queue_arn, number)
        threading.Thread(target=work, args=arguments, daemon=True).start()
    print("ready")
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
