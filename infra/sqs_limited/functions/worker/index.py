"""The worker: takes messages from the queue, does each task, answers with its task token.

Runs as the Lambda function behind the event source mapping and, unchanged, in the worker fleet.
A message without a token is work that nobody waits for: it is done and not answered.

Each attempt is logged as two JSON lines, at its start and at its end, so that an attempt that
was killed in the middle is still on record. In the fleet these records have a channel of their own,
`context.tell`; Lambda has only the log, which they share with whatever `do` prints.
"""

import contextlib
import json
import os
import threading
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REDELIVERY_SECONDS = int(os.environ.get("REDELIVERY_SECONDS", "1"))
# SendTask* has a bucket of 3,000 and a refill of 500/s (or 1,500 and 300): back off, do not give up.
PATIENT = Config(retries={"mode": "standard", "max_attempts": 10})
ALREADY_ANSWERED = {"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"}
# What a record that is no task makes of its readers; RecursionError: JSON that is nested too deep.
NOT_A_TASK = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

step_functions = boto3.client("stepfunctions", config=PATIENT)
sqs = boto3.client("sqs", config=PATIENT)


class BadItem(Exception):
    """This item can never succeed: tell the waiting state, do not try again."""


class Transient(Exception):
    """This attempt failed; another may succeed: let the queue deliver the message again."""


def do(item, attempt):
    """The task itself; replace it with real work. Sleeps `task_seconds`, fails as the item says.

    The first `deaths` attempts never come back: their worker ends with the task in its hands.
    """
    time.sleep(item["task_seconds"])
    if attempt <= item.get("deaths", 0):
        raise SystemExit(f"item {item['item']} ends its worker")
    if item.get("bad"):
        raise BadItem(f"item {item['item']} is marked as bad")
    if attempt <= item.get("failures", 0):
        raise Transient(f"item {item['item']} fails its first {item['failures']} attempts")


def handler(event, context):
    """Return the messages that must come again, as ReportBatchItemFailures expects them."""
    tell = getattr(context, "tell", log)
    if "Records" not in event:
        with contextlib.suppress(ClientError):  # the call only opens the connection that answers take
            step_functions.send_task_heartbeat(taskToken="warm")
        time.sleep(event["warm_seconds"])
        tell({"warm": context.log_stream_name})
        return {"worker": context.log_stream_name}
    records = event["Records"]
    with heartbeats(records) as waiting:
        worker = context.log_stream_name
        again = [record for record in records if not finish(record, worker, waiting, tell)]
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in again]}


def log(record):
    """Print a record as a line of JSON."""
    print(json.dumps(record), flush=True)


def finish(record, worker, waiting, tell):
    """Do one message's task and answer; True when the message may be deleted."""
    try:
        message = json.loads(record["body"])
        token, item = message.get("token"), message["item"]
        if not isinstance(token, str | None):
            raise TypeError("its token is no text")  # which botocore would refuse, and print
        about = {
            "item": item["item"],
            "attempt": int(record["attributes"]["ApproximateReceiveCount"]),
            "worker": worker,
        }
        enqueued = int(record["attributes"]["SentTimestamp"]) / 1000
    except NOT_A_TASK as error:
        tell({"not_a_task": record["messageId"], "error": repr(error)})
        return False  # nobody to tell: after maxReceiveCount it lies in the dead-letter queue
    start = time.time()
    tell({"attempt_started": about | {"enqueued": enqueued, "start": start}})
    done = True
    try:
        try:
            do(item, about["attempt"])
        except BadItem as error:
            end, outcome = time.time(), "failed"
            call, answer = step_functions.send_task_failure, {"error": "BadItem", "cause": str(error)}
        else:
            end, outcome = time.time(), "succeeded"
            times = about | {"enqueued": enqueued, "service_start": start, "service_end": end}
            call, answer = step_functions.send_task_success, {"output": json.dumps(times)}
        if token is not None and not accepted(call, token, answer):
            outcome = "late"
    except Exception as error:
        end, outcome, done = time.time(), "failed", False
        tell({"redelivery": about | {"error": repr(error)}})
        hide(record)
    finally:
        waiting.pop(token, None)
    tell({"attempt_ended": about | {"end": end, "outcome": outcome}})
    return done


def accepted(call, token, answer):
    """Answer the waiting state; False when its task has ended already, which is no reason to try again."""
    try:
        call(taskToken=token, **answer)
    except ClientError as error:
        if error.response["Error"]["Code"] in ALREADY_ANSWERED:
            return False
        raise
    return True


def hide(record):
    """Bring a failed message back after REDELIVERY_SECONDS, not after the whole visibility timeout."""
    with contextlib.suppress(ClientError, BotoCoreError, *NOT_A_TASK):  # then its timeout brings it back
        *_, account, name = record["eventSourceARN"].split(":")
        url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=REDELIVERY_SECONDS
        )


@contextlib.contextmanager
def heartbeats(records):
    """Send SendTaskHeartbeat three times in each heartbeat period for every message of the batch.

    Those at the end of the batch too: their clocks run while the first are served. Yields the tokens that
    wait, each with its period in seconds; one that is taken out gets no more heartbeats.
    """
    waiting = {}
    for record in records:
        with contextlib.suppress(*NOT_A_TASK):  # `finish` says so
            message = json.loads(record["body"])
            token, every = message.get("token"), message.get("heartbeat_seconds")
            if token and every and 0 < every <= threading.TIMEOUT_MAX:
                waiting[token] = every
    if not waiting:
        yield waiting
        return
    ended = threading.Event()

    def beat(every):
        while waiting and not ended.wait(every):
            for token in list(waiting):
                try:
                    step_functions.send_task_heartbeat(taskToken=token)
                except ClientError as error:
                    if error.response["Error"]["Code"] in ALREADY_ANSWERED:
                        waiting.pop(token, None)
                except BotoCoreError:
                    continue  # cut off: the next heartbeat may get through

    threading.Thread(target=beat, args=(min(waiting.values()) / 3,), daemon=True).start()
    try:
        yield waiting
    finally:
        ended.set()
