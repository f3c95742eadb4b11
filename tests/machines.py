"""State machines that several test files start, and how they wait for them."""

import json
import time
import uuid

ROLE = "arn:aws:iam::000000000000:role/test"
PATIENCE_SECONDS = 120
"""How long something that must happen may take: only what is broken takes so long."""


def machine(engine, states: dict, start: str) -> str:
    """Create a state machine and return its ARN."""
    definition = json.dumps({"StartAt": start, "States": states})
    made = engine.client("stepfunctions").create_state_machine(
        name=f"test-{uuid.uuid4().hex[:8]}", definition=definition, roleArn=ROLE
    )
    return made["stateMachineArn"]


def start(engine, arn: str, data) -> str:
    """Start an execution of a state machine and return its ARN."""
    started = engine.client("stepfunctions").start_execution(stateMachineArn=arn, input=json.dumps(data))
    return started["executionArn"]


def until(engine, arn: str, seconds: float = PATIENCE_SECONDS) -> dict:
    """The description of an execution once it has ended."""
    sfn = engine.client("stepfunctions")
    give_up = time.monotonic() + seconds
    while (described := sfn.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < give_up, f"still running after {seconds} s"
        time.sleep(0.05)
    return described


def ended(engine, arn: str, data) -> dict:
    """Start an execution and return its description once it has ended."""
    return until(engine, start(engine, arn, data))


def callback(queue_url: str, **fields) -> dict:
    """One callback task that passes its error on as output."""
    caught = {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Done"}
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {"QueueUrl": queue_url, "MessageBody": {"token.$": "$$.Task.Token"}},
        "Catch": [caught],
        "ResultPath": "$.answer",
        "Next": "Done",
    }
    return {"Wait": task | fields, "Done": {"Type": "Succeed"}}


def queue(engine) -> str:
    return engine.client("sqs").create_queue(QueueName=f"test-{uuid.uuid4().hex[:8]}")["QueueUrl"]


def receive(engine, url: str) -> dict:
    """The body of the next message, which is taken off the queue."""
    sqs = engine.client("sqs")
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10).get("Messages")):
        assert time.monotonic() < give_up
    (message,) = found
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return json.loads(message["Body"])


def receive_token(engine, url: str) -> str:
    """The token in the next message, which is taken off the queue."""
    return receive(engine, url)["token"]


def distributed(states: dict, start: str, **fields) -> dict:
    """A Distributed Map over `$.items` with these child states."""
    processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}
    map_state = {
        "Type": "Map",
        "ItemsPath": "$.items",
        "ItemProcessor": processor | {"StartAt": start, "States": states},
        "End": True,
    }
    return {"Map": map_state | fields}
