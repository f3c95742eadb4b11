"""One process of the worker fleet: threads that long-poll the queue and run the worker's handler.

Started by `helpers.fleet.Fleet`, which describes the workers in one line of JSON on standard input; what
the handler prints goes to standard output, line by line. It ends when standard input does.
"""

import importlib.util
import json
import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config

LONG_POLL_SECONDS = 20
"""SQS's longest WaitTimeSeconds, 2026-11-24."""
PAUSE_SECONDS = 1
"""Between a turn that failed and the next: what is wrong may last."""
PATIENT = Config(retries={"mode": "standard", "max_attempts": 10}, max_pool_connections=100)


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
    """One worker's life: turns, whatever becomes of each.

    After one that failed it goes on as Lambda does: a message that was not deleted comes again after its
    visibility timeout.
    """
    context = SimpleNamespace(log_stream_name=f"fleet-{number}")
    while True:
        try:
            turn(handler, sqs, settings, queue_arn, context)
        except Exception as error:
            print(json.dumps({"turn_failed": context.log_stream_name, "error": repr(error)}))
            time.sleep(PAUSE_SECONDS)


def turn(handler: Any, sqs: Any, settings: dict[str, Any], queue_arn: str, context: Any) -> None:
    """Receive messages, handle them, delete what succeeded."""
    queue = settings["queue_url"]
    received = sqs.receive_message(
        QueueUrl=queue,
        MaxNumberOfMessages=settings["batch_size"],
        WaitTimeSeconds=LONG_POLL_SECONDS,
        MessageSystemAttributeNames=["All"],
    )
    messages = received.get("Messages", [])
    if not messages:
        return
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
    settings = json.loads(sys.stdin.readline())
    spec = importlib.util.spec_from_file_location("worker", settings["handler"])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sqs = boto3.client("sqs", config=PATIENT)
    attributes = sqs.get_queue_attributes(QueueUrl=settings["queue_url"], AttributeNames=["QueueArn"])
    queue_arn = attributes["Attributes"]["QueueArn"]
    sys.stdout = WholeLines(sys.stdout)
    print("ready")  # first: a queue that holds messages already has the workers print at once
    for number in range(settings["first"], settings["first"] + settings["workers"]):
        arguments = (module.handler, sqs, settings, queue_arn, number)
        threading.Thread(target=work, args=arguments, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
