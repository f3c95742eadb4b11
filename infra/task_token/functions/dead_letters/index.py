"""The dead letters: tells the state that still waits for one that nobody will do its task.

Runs as the Lambda function behind an event source mapping on the dead-letter queue. Each letter is logged as
one JSON line, with its item and without its token, so that it can be sent anew once the fault is repaired.
"""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# An answer that is throttled away would leave the state to its timeout: back off, do not give up.
PATIENT = Config(retries={"mode": "standard", "max_attempts": 10})
ALREADY_ANSWERED = {"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"}

step_functions = boto3.client("stepfunctions", config=PATIENT)


def handler(event, context):
    """Return the letters that must come again, as ReportBatchItemFailures expects them."""
    again = [record for record in event["Records"] if not tell(record)]
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in again]}


def tell(record):
    """Fail the task that waits for this letter; True when the letter may be deleted."""
    received = int(record["attributes"]["ApproximateReceiveCount"])
    try:
        message = json.loads(record["body"])
        token, item = message["token"], message["item"]
        if not isinstance(token, str):
            raise TypeError("its token is no text")  # which botocore would refuse, and print
        cause = f"item {item['item']}: its message was received {received} times and never done"
        outcome = "told" if failed(token, cause) else "already_answered"
    except Exception as error:  # no task, throttled, cut off: the queue keeps the letter
        print(json.dumps({"redelivery": record["messageId"], "error": repr(error)}), flush=True)
        return False
    letter = {"item": item, "received": received, "outcome": outcome}
    print(json.dumps({"dead_letter": letter}), flush=True)
    return True


def failed(token, cause):
    """End the task as DeadLettered; False when it has ended already, which is no reason to try again."""
    try:
        step_functions.send_task_failure(taskToken=token, error="DeadLettered", cause=cause)
    except ClientError as error:
        if error.response["Error"]["Code"] in ALREADY_ANSWERED:
            return False
        raise
    return True
