"""The worker: takes messages from the queue, does each task and counts it once, however often it comes.

Each attempt is logged as two JSON lines, at its start and at its end, so that an attempt that was killed in
the middle is still on record.
"""

import contextlib
import json
import os
import random
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

TABLE = os.environ["TABLE"]
REDELIVERY_SECONDS = int(os.environ.get("REDELIVERY_SECONDS", "1"))
CONFLICT_SECONDS = 0.1
"""The longest wait before a transaction that met another one is tried again; twice as long each time."""
CONFLICTS = 8
PATIENT = Config(retries={"mode": "standard", "max_attempts": 10})
# What a record that is no task makes of its readers; RecursionError: JSON that is nested too deep.
NOT_A_TASK = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

dynamodb = boto3.client("dynamodb", config=PATIENT)
sqs = boto3.client("sqs", config=PATIENT)


class Failed(Exception):
    """This attempt failed: let the queue deliver the message again, until it gives it up."""


def do(item, attempt):
    """The task itself; replace it with real work. Sleeps `task_seconds`, fails as the item says.

    The first `deaths` attempts never come back: their worker ends with the task in its hands.
    """
    time.sleep(item["task_seconds"])
    if attempt <= item.get("deaths", 0):
        raise SystemExit(f"item {item['item']} ends its worker")
    if item.get("bad") or attempt <= item.get("failures", 0):
        raise Failed(f"item {item['item']} fails")


def handler(event, context):
    """Return the messages that must come again, as ReportBatchItemFailures expects them.

    A mapping hands over its messages under `Records`, a pipe the messages alone.
    """
    if "warm_seconds" in event:
        time.sleep(event["warm_seconds"])
        print(json.dumps({"warm": context.log_stream_name}))
        return {"worker": context.log_stream_name}
    records = event if isinstance(event, list) else event["Records"]
    again = [record for record in records if not finish(record, context.log_stream_name)]
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in again]}


def finish(record, worker):
    """Do one message's task and count it; True when the message may be deleted."""
    try:
        item = json.loads(record["body"])["item"]
        about = {
            "item": item["item"],
            "attempt": int(record["attributes"]["ApproximateReceiveCount"]),
            "worker": worker,
            "enqueued": int(record["attributes"]["SentTimestamp"]) / 1000,
        }
    except NOT_A_TASK as error:
        print(json.dumps({"not_a_task": record["messageId"], "error": repr(error)}), flush=True)
        return False  # nobody to tell: after maxReceiveCount it lies in the dead-letter queue
    start = time.time()
    print(json.dumps({"attempt_started": about | {"start": start}}), flush=True)
    done = True
    try:
        do(item, about["attempt"])
        end = time.time()
        outcome = "succeeded" if count(about | {"service_start": start, "service_end": end}) else "late"
    except Exception as error:
        end, outcome, done = time.time(), "failed", False
        print(json.dumps({"redelivery": about | {"error": repr(error)}}), flush=True)
        hide(record)
    print(json.dumps({"attempt_ended": about | {"end": end, "outcome": outcome}}), flush=True)
    return done


def count(result):
    """Keep an item's result and add one to the counter, both or neither; False where it has been counted."""
    row = {"key": {"S": f"item-{result['item']}"}, "result": {"S": json.dumps(result)}}
    once = {"ConditionExpression": "attribute_not_exists(#key)", "ExpressionAttributeNames": {"#key": "key"}}
    add = {"UpdateExpression": "ADD done :one", "ExpressionAttributeValues": {":one": {"N": "1"}}}
    both = [
        {"Put": {"TableName": TABLE, "Item": row, **once}},
        {"Update": {"TableName": TABLE, "Key": {"key": {"S": "counter"}}, **add}},
    ]
    for conflict in range(CONFLICTS):
        try:
            dynamodb.transact_write_items(TransactItems=both)
            return True
        except ClientError as error:
            reasons = {reason["Code"] for reason in error.response.get("CancellationReasons", [])}
            if "ConditionalCheckFailed" in reasons:
                return False
            if "TransactionConflict" not in reasons or conflict == CONFLICTS - 1:
                raise
            time.sleep(random.uniform(0, CONFLICT_SECONDS * 2**conflict))


def hide(record):
    """Bring a failed message back after REDELIVERY_SECONDS, not after the whole visibility timeout."""
    with contextlib.suppress(ClientError, BotoCoreError, *NOT_A_TASK):  # then its timeout brings it back
        *_, account, name = record["eventSourceARN"].split(":")
        url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=REDELIVERY_SECONDS
        )
