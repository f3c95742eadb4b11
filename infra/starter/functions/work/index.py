"""A limited worker: takes one message at a time, does its work, answers with its task token."""

import contextlib
import json
import threading
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# SendTask* has quotas of its own: back off, do not give up.
step_functions = boto3.client(
    "stepfunctions", config=Config(retries={"mode": "standard", "max_attempts": 10})
)
ALREADY_ANSWERED = {"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"}


class CannotSucceed(Exception):
    """Raise it for an item that no other try can mend: its state is told, and the message is deleted."""


def work(item):
    """Your work goes here. Any other exception brings the message back after its visibility timeout.

    item: one element of the execution's `items`. Returns its result, which can be written as JSON.
    It may be called twice for one item: a queue delivers at least once.
    """
    time.sleep(item["seconds"])
    return {"item": item["item"]}


def handler(event, context):
    """Return the messages that must come again, as ReportBatchItemFailures expects them."""
    again = [record["messageId"] for record in event["Records"] if not done(record)]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in again]}


def done(record):
    """Do one message's work and answer for it; True when the message may be deleted."""
    try:
        message = json.loads(record["body"])
        try:
            with heartbeats(message["token"], message["heartbeat_seconds"]):
                result = work(message["item"])
        except CannotSucceed as error:
            answer(step_functions.send_task_failure, message, error="CannotSucceed", cause=str(error))
        else:
            answer(step_functions.send_task_success, message, output=json.dumps(result))
    except Exception as error:
        print(json.dumps({"again": record["messageId"], "error": repr(error)}))
        return False
    return True


def answer(call, message, **what):
    """Answer the waiting state; one that has ended already has no use for another try."""
    try:
        call(taskToken=message["token"], **what)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ALREADY_ANSWERED:
            raise


@contextlib.contextmanager
def heartbeats(token, period_seconds):
    """While the block runs, tell the waiting state three times a period that somebody is at work."""
    ended = threading.Event()

    def beat():
        while not ended.wait(period_seconds / 3):
            with contextlib.suppress(ClientError, BotoCoreError):  # the next may get through
                step_functions.send_task_heartbeat(taskToken=token)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
