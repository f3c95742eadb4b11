"""One process of the worker fleet: threads that poll a queue or an activity and run the worker's handler.

Started by `helpers.fleet.Fleet`, which describes the workers in one line of JSON on standard input and reads
the handler's records, a line of JSON each, from standard output. It ends when standard input does. Both are
moved to descriptors of their own before the handler is loaded: what it prints goes to standard error, with
what its child processes print, and its standard input is empty.
"""

import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any, TextIO

import boto3
from botocore.config import Config

LONG_POLL_SECONDS = 20
"""SQS's longest WaitTimeSeconds, 2026-11-24."""
PAUSE_SECONDS = 1
"""Between a turn that failed and the next: what is wrong may last."""
POLL_TIMEOUT_SECONDS = 90
"""How long an answer may take: GetActivityTask holds its own for a minute."""
PATIENT = Config(
    read_timeout=POLL_TIMEOUT_SECONDS,
    retries={"mode": "standard", "max_attempts": 10},
    max_pool_connections=100,
)


def record(message: dict[str, Any], queue_arn: str) -> dict[str, Any]:
    """A received message as the event source mapping would hand it to the function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "eventSourceARN": queue_arn,
    }


def work(turn: Callable[[Any], None], number: int, tell: Callable[[dict[str, Any]], None]) -> None:
    """One worker's life: turns, whatever becomes of each.

    After one that failed it goes on as Lambda does: a message that was not deleted comes again after its
    visibility timeout. One that ended in the middle is replaced by another, as a service does for containers.
    """
    context = SimpleNamespace(log_stream_name=f"fleet-{number}", tell=tell)
    while True:
        try:
            turn(context)
        except (Exception, SystemExit) as error:
            tell({"turn_failed": context.log_stream_name, "error": repr(error)})
            time.sleep(PAUSE_SECONDS)


def of_queue(handler: Any, settings: dict[str, Any]) -> Callable[[Any], None]:
    """A turn at a queue: receive messages, handle them, delete what succeeded."""
    sqs, queue = boto3.client("sqs", config=PATIENT), settings["queue_url"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    queue_arn = attributes["Attributes"]["QueueArn"]

    def turn(context: Any) -> None:
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

    return turn


def of_activity(handler: Any, settings: dict[str, Any]) -> Callable[[Any], None]:
    """A turn at an activity: fetch a task and handle it as a message; what should come again, fails it.

    The state tries a failed task again, as the queue would deliver the message again.
    """
    step_functions = boto3.client("stepfunctions", config=PATIENT)

    def turn(context: Any) -> None:
        fetched = step_functions.get_activity_task(
            activityArn=settings["activity_arn"], workerName=context.log_stream_name
        )
        if token := fetched.get("taskToken"):
            task = json.loads(fetched["input"])
            enqueued = datetime.fromisoformat(task.pop("enqueued")).timestamp()
            attributes = {"ApproximateReceiveCount": task.pop("attempt"), "SentTimestamp": enqueued * 1000}
            body = json.dumps(task | {"token": token})
            message = {"MessageId": token, "ReceiptHandle": "", "Body": body, "Attributes": attributes}
            if handler({"Records": [record(message, "")]}, context)["batchItemFailures"]:
                step_functions.send_task_failure(taskToken=token, error="Transient")

    return turn


def without_forks(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the handler such that a process forked in it ends with the call, however that ends.

    It would go on as another worker, which nobody counts and nobody ends.

    Args:
        handler: The worker's handler, called with an event and a context.
    """
    worker = os.getpid()

    def called(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            if os.getpid() != worker:
                os._exit(0)

    return called


class WholeLines:
    """A text stream for threads: passes on whole lines only, so that they cannot interleave."""

    def __init__(self, output: Any) -> None:
        self._output, self._writing = output, threading.Lock()
        self._pending = threading.local()

    def write(self, text: str) -> int:
        """Keep the text until its line is whole."""
        *whole, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        if whole:
            with self._writing:  # a text stream is not safe for several threads
                self._output.write("\n".join(whole) + "\n")
                self._output.flush()
        return len(text)

    def flush(self) -> None:
        """Whole lines are flushed as they are written."""


def own_channels() -> tuple[TextIO, TextIO]:
    """Take standard input and output away from the handler; return them, for what `Fleet` asks and reads.

    Children inherit neither, and one that the handler forks without a program of its own loses both.
    """
    control, records = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: [os.dup2(nothing, end, False) for end in (control, records)])
    return os.fdopen(control), os.fdopen(records, "w")


def main() -> None:
    """Run the workers that standard input describes until standard input ends."""
    control, output = own_channels()
    records = WholeLines(output)

    def tell(record: dict[str, Any]) -> None:
        records.write(json.dumps(record) + "\n")

    sys.stdout = WholeLines(sys.stdout)
    settings = json.loads(control.readline())
    spec = importlib.util.spec_from_file_location("worker", settings["handler"])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    turns = of_activity if "activity_arn" in settings else of_queue
    turn = turns(without_forks(module.handler), settings)
    records.write("ready\n")  # first: a queue that holds messages already has the workers tell at once
    for number in range(settings["first"], settings["first"] + settings["workers"]):
        threading.Thread(target=work, args=(turn, number, tell), daemon=True).start()
    control.read()
    os._exit(0)


if __name__ == "__main__":
    main()
