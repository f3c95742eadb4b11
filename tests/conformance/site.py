"""Where a probe works: resources of its own, made in a line and all deleted at the end."""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from helpers.engines import local
from helpers.engines.guard import Credentials

PREFIX = "conformance-"
SERVICES = (
    *("sqs", "stepfunctions", "lambda", "s3", "cloudformation", "logs", "iam", "sts"),
    *("dynamodb", "events", "pipes"),
)
TAGS = {"project": "concurrency-lab"}
QUIET_SECONDS = 1.5
"""How long nothing more may come before a count is taken as the peak."""
WAIT_SECONDS = 60
"""How long an event is waited for; nothing is judged by how soon it came."""

# Told by its event, or by the messages of its batch, what to do; reports to a queue, may wait at another.
HANDLER = """
import json
import os
import time
import uuid

ENVIRONMENT = uuid.uuid4().hex
calls = 0


class AsTold(Exception):
    pass


def sqs():
    import boto3
    return boto3.client("sqs")


def handler(event, context):
    global calls
    calls += 1
    records = event if isinstance(event, list) else event.get("Records", [])
    orders = [json.loads(record["body"]) for record in records] or [event]
    first = orders[0]
    facts = {
        "environment": ENVIRONMENT,
        "call": calls,
        "name": os.environ.get("AWS_LAMBDA_FUNCTION_NAME"),
        "region": os.environ.get("AWS_REGION"),
        "items": [order.get("item") for order in orders],
        "records": [dict(record, body=None) for record in records],
        "seconds_left": context.get_remaining_time_in_millis() / 1000,
    }
    print("first line")
    print("last line")
    if "log" in first:
        sqs().send_message(QueueUrl=first["log"], MessageBody=json.dumps(facts))
    if first["do"] == "wait":
        found = []
        while not found:
            found = sqs().receive_message(QueueUrl=first["gate"], WaitTimeSeconds=5).get("Messages", [])
        sqs().delete_message(QueueUrl=first["gate"], ReceiptHandle=found[0]["ReceiptHandle"])
    if first["do"] == "fail":
        raise AsTold("no")
    time.sleep(first.get("seconds", 0))
    if first["do"] == "report":
        bad = [r["messageId"] for r, order in zip(records, orders) if order.get("bad")]
        return {"batchItemFailures": [{"itemIdentifier": first.get("identifier", i)} for i in bad]}
    return facts
"""


class Absent(Exception):
    """The API or the feature is not there."""


def clients(endpoint_url: str | None) -> dict[str, Any]:
    """Clients by service: of an engine of the lab's, of another endpoint with dummy keys, or of AWS."""
    settings: dict[str, Any] = {
        "config": Config(retries={"mode": "standard", "total_max_attempts": 3}, max_pool_connections=100)
    }
    if endpoint_url:
        keys = local.credentials_for(endpoint_url) or Credentials("test", "test")
        settings |= {
            "endpoint_url": endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
        }
        settings["config"] = settings["config"].merge(Config(s3={"addressing_style": "path"}))
    session = boto3.Session()
    made = {service: session.client(service, **settings) for service in SERVICES}
    once = settings["config"].merge(Config(retries={"total_max_attempts": 1}, read_timeout=90))
    return made | {"lambda": session.client("lambda", **settings | {"config": once})}


class Site:
    """The resources of one probe; `clear` deletes them, the last made first."""

    def __init__(self, shared: dict[str, Any], role_arn: str = "") -> None:
        self.clients = shared
        self.role_arn = role_arn
        self.undo: list[Callable[[], Any]] = []
        self.sqs, self.sfn, self.functions, self.s3, self.cfn, self.logs = (
            shared[s] for s in ("sqs", "stepfunctions", "lambda", "s3", "cloudformation", "logs")
        )
        self.on_aws = self.sqs.meta.endpoint_url.endswith("amazonaws.com")
        self.poll_seconds = 1.0 if self.on_aws else 0.1

    def clear(self) -> None:
        """Delete all that was made here."""
        while self.undo:
            with contextlib.suppress(Exception):  # what is gone already, or never came
                self.undo.pop()()

    @staticmethod
    def name() -> str:
        """A name that nobody else has."""
        return PREFIX + uuid.uuid4().hex[:12]

    # -- waiting -------------------------------------------------------------------------------------------

    def until(self, look: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
        """Look until there is something to see, or the time is over; what was seen last."""
        give_up = time.monotonic() + seconds
        while not (seen := look()) and time.monotonic() < give_up:
            time.sleep(self.poll_seconds)
        return seen

    def refused(self, call: Callable[..., Any], **arguments: Any) -> str:
        """The error code with which a call is refused, or "accepted"."""
        try:
            call(**arguments)
        except ClientError as error:
            code: str = error.response["Error"]["Code"] or "an error without a code"
            return code.removeprefix("AWS.SimpleQueueService.")
        except Exception as error:
            return type(error).__name__
        return "accepted"

    # -- queues --------------------------------------------------------------------------------------------

    def queue(self, fifo: bool = False, **attributes: Any) -> str:
        """The URL of a new queue."""
        if fifo:
            attributes |= {"FifoQueue": "true"}
        url: str = self.sqs.create_queue(
            QueueName=self.name() + (".fifo" if fifo else ""),
            Attributes={key: str(value) for key, value in attributes.items()},
            tags=TAGS,
        )["QueueUrl"]
        self.undo.append(lambda: self.sqs.delete_queue(QueueUrl=url))
        return url

    def queue_arn(self, url: str) -> str:
        """The ARN of a queue."""
        return self.attribute(url, "QueueArn")

    def attribute(self, url: str, name: str) -> str:
        """An attribute of a queue."""
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
        return found["Attributes"][name]

    def with_dead_letters(self, receives: int, **attributes: Any) -> tuple[str, str]:
        """A queue, and the queue where its messages go after so many receives."""
        dead = self.queue()
        policy = json.dumps({"deadLetterTargetArn": self.queue_arn(dead), "maxReceiveCount": receives})
        return self.queue(RedrivePolicy=policy, **attributes), dead

    def send(self, url: str, bodies: list[Any]) -> None:
        """Send messages; a body that is no text is sent as JSON."""
        for start in range(0, len(bodies), 10):
            texts = [b if isinstance(b, str) else json.dumps(b) for b in bodies[start : start + 10]]
            self.sqs.send_message_batch(
                QueueUrl=url, Entries=[{"Id": str(i), "MessageBody": text} for i, text in enumerate(texts)]
            )

    def receive(self, url: str, wait: int = 0, most: int = 1) -> list[dict[str, Any]]:
        """Messages of one receive call, with their attributes."""
        found = self.sqs.receive_message(
            QueueUrl=url, WaitTimeSeconds=wait, MaxNumberOfMessages=most, AttributeNames=["All"]
        )
        return found.get("Messages", [])

    def take(
        self, url: str, count: int, seconds: float = WAIT_SECONDS, quiet: float = QUIET_SECONDS
    ) -> list[Any]:
        """The JSON bodies of messages, deleted, until the time is over, or `count` are there and no more
        have come for `quiet` seconds."""
        bodies: list[Any] = []
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            found = self.receive(url, wait=1, most=10)
            for message in found:
                bodies.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if found and len(bodies) >= count:
                give_up = time.monotonic() + quiet
        return bodies

    def one(self, url: str) -> Any:
        """The JSON body of the next message; raises TimeoutError when none comes."""
        if not (found := self.take(url, 1, quiet=0)):
            raise TimeoutError(f"no message came within {WAIT_SECONDS} s")
        return found[0]

    # -- functions -----------------------------------------------------------------------------------------

    def role(self) -> str:
        """The ARN of a role that functions and state machines of probes may take on."""
        iam, name = self.clients["iam"], self.name()
        services = [f"{service}.amazonaws.com" for service in ("lambda", "states", "events", "pipes")]
        trust = {"Effect": "Allow", "Principal": {"Service": services}, "Action": "sts:AssumeRole"}
        allowed = [
            {"Effect": "Allow", "Action": actions, "Resource": resource.format(PREFIX)}
            for actions, resource in (
                (["sqs:*"], "arn:aws:sqs:*:*:{}*"),
                (["states:*"], "arn:aws:states:*:*:*:{}*"),
                (["dynamodb:*"], "arn:aws:dynamodb:*:*:table/{}*"),
                (["lambda:InvokeFunction"], "arn:aws:lambda:*:*:function:{}*"),
                (["s3:*"], "arn:aws:s3:::{}*"),
                (["logs:*"], "arn:aws:logs:*:*:log-group:/aws/lambda/{}*"),
            )
        ]
        version = "2012-10-17"
        arn: str = iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": version, "Statement": [trust]}),
            Tags=[{"Key": key, "Value": value} for key, value in TAGS.items()],
        )["Role"]["Arn"]
        self.undo.append(lambda: iam.delete_role(RoleName=name))
        policy = json.dumps({"Version": version, "Statement": allowed})
        iam.put_role_policy(RoleName=name, PolicyName="probes", PolicyDocument=policy)
        self.undo.append(lambda: iam.delete_role_policy(RoleName=name, PolicyName="probes"))
        if self.on_aws:
            time.sleep(15)  # until other services know of it
        return arn

    def function(self, reserved: int | None = None, **settings: Any) -> str:
        """The name of a new function that does as it is told; see HANDLER."""
        name, archive = self.name(), io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            entry = zipfile.ZipInfo("index.py", (2026, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            file.writestr(entry, HANDLER)
        self.undo.append(lambda: self.logs.delete_log_group(logGroupName=f"/aws/lambda/{name}"))
        self.functions.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=self.role_arn,
            Handler="index.handler",
            Code={"ZipFile": archive.getvalue()},
            Tags=TAGS,
            **{"Timeout": 60, **settings},
        )
        self.undo.append(lambda: self.functions.delete_function(FunctionName=name))
        self.until(
            lambda: self.functions.get_function(FunctionName=name)["Configuration"].get("State") != "Pending"
        )
        if reserved is not None:
            self.functions.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
        return name

    def call(self, function: str, **order: Any) -> Any:
        """What a function answers."""
        return json.load(self.functions.invoke(FunctionName=function, Payload=json.dumps(order))["Payload"])

    def mapping(self, url: str, function: str, **settings: Any) -> str:
        """The UUID of a new event source mapping, once it is enabled."""
        made = self.functions.create_event_source_mapping(
            EventSourceArn=self.queue_arn(url), FunctionName=function, **{"BatchSize": 1, **settings}
        )
        uuid_: str = made["UUID"]

        def delete() -> None:
            self.functions.delete_event_source_mapping(UUID=uuid_)
            # A function or queue under a mapping that still polls comes to no harm, but leaves noise.
            self.until(
                lambda: self.refused(self.functions.get_event_source_mapping, UUID=uuid_) != "accepted"
            )

        self.undo.append(delete)
        self.until(lambda: self.mapping_state(uuid_) in ("Enabled", "Disabled"))
        return uuid_

    def mapping_state(self, uuid_: str) -> str:
        """The state of a mapping."""
        return self.functions.get_event_source_mapping(UUID=uuid_)["State"]

    # -- tables --------------------------------------------------------------------------------------------

    def table(self) -> str:
        """The name of a new table whose items are found by `key`, a text."""
        dynamodb, name = self.clients["dynamodb"], self.name()
        dynamodb.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
            Tags=[{"Key": key, "Value": value} for key, value in TAGS.items()],
        )
        self.undo.append(lambda: dynamodb.delete_table(TableName=name))
        dynamodb.get_waiter("table_exists").wait(TableName=name)
        return name

    # -- state machines ------------------------------------------------------------------------------------

    def machine(self, states: dict[str, Any], kind: str = "STANDARD", **fields: Any) -> str:
        """The ARN of a new state machine that starts at its first state."""
        definition = {"StartAt": next(iter(states)), "States": states, **fields}
        arn: str = self.sfn.create_state_machine(
            name=self.name(),
            definition=json.dumps(definition),
            roleArn=self.role_arn,
            type=kind,
            tags=[{"key": key, "value": value} for key, value in TAGS.items()],
        )["stateMachineArn"]

        def delete() -> None:
            with contextlib.suppress(ClientError):  # an Express machine lists none
                running = self.sfn.list_executions(stateMachineArn=arn, statusFilter="RUNNING")
                for execution in running["executions"]:
                    self.sfn.stop_execution(executionArn=execution["executionArn"])
            self.sfn.delete_state_machine(stateMachineArn=arn)

        self.undo.append(delete)
        return arn

    def update(self, machine: str, states: dict[str, Any]) -> None:
        """Give a state machine other states."""
        definition = json.dumps({"StartAt": next(iter(states)), "States": states})
        self.sfn.update_state_machine(stateMachineArn=machine, definition=definition)

    def start(self, machine: str, data: Any = None) -> str:
        """The ARN of a new execution."""
        text = json.dumps({} if data is None else data)
        return self.sfn.start_execution(stateMachineArn=machine, input=text)["executionArn"]

    def end(self, execution: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The description of an execution once it has ended (or the time is over), its output parsed."""

        def ended() -> dict[str, Any]:
            found: dict[str, Any] = self.sfn.describe_execution(executionArn=execution)
            return found if found["status"] != "RUNNING" else {}

        found = self.until(ended, seconds) or {"status": "RUNNING"}
        if "output" in found:
            found["output"] = json.loads(found["output"])
        return found

    def outcome(self, states: dict[str, Any], data: Any = None, **fields: Any) -> Any:
        """The output of a new execution of a new state machine, or "STATUS error" when it did not succeed."""
        return outcome(self.end(self.start(self.machine(states, **fields), data)))

    def events(self, execution: str, **options: Any) -> list[dict[str, Any]]:
        """The history of an execution."""
        pages = self.sfn.get_paginator("get_execution_history").paginate(executionArn=execution, **options)
        return [event for page in pages for event in page["events"]]

    def answer(self, token: str, output: Any = None) -> str:
        """SendTaskSuccess: the error code, or "accepted"."""
        return self.refused(self.sfn.send_task_success, taskToken=token, output=json.dumps(output))

    def map_run(self, execution: str) -> str:
        """The ARN of an execution's Map Run, waited for."""

        def first() -> str:
            found = self.sfn.list_map_runs(executionArn=execution)["mapRuns"]
            return found[0]["mapRunArn"] if found else ""

        if not (arn := self.until(first)):
            raise Absent("ListMapRuns lists no Map Run")
        return str(arn)

    def children(self, map_run: str) -> list[dict[str, Any]]:
        """The child executions of a Map Run."""
        pages = self.sfn.get_paginator("list_executions").paginate(mapRunArn=map_run)
        return [child for page in pages for child in page["executions"]]

    # -- buckets -------------------------------------------------------------------------------------------

    def bucket(self, **objects: str) -> str:
        """The name of a new bucket with these objects in it; `_` in a key stands for a dot."""
        name = self.name()
        self.s3.create_bucket(Bucket=name)

        def delete() -> None:
            for found in self.s3.list_objects_v2(Bucket=name).get("Contents", []):
                self.s3.delete_object(Bucket=name, Key=found["Key"])
            self.s3.delete_bucket(Bucket=name)

        self.undo.append(delete)
        for key, body in objects.items():
            self.s3.put_object(Bucket=name, Key=key.replace("_", "."), Body=body.encode())
        return name


def outcome(ended: dict[str, Any]) -> Any:
    """The output of an execution that succeeded, else "STATUS error"."""
    if ended["status"] == "SUCCEEDED":
        return ended["output"]
    return " ".join([ended["status"], ended.get("error", "")]).strip()


# -- states -----------------------------------------------------------------------------------------------


def callback(url: str, **fields: Any) -> dict[str, Any]:
    """A task that sends its token and input to a queue and waits; a field given as None is left out."""
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {"QueueUrl": url, "MessageBody": {"token.$": "$$.Task.Token", "input.$": "$"}},
        "TimeoutSeconds": 300,
        "End": True,
        **fields,
    }
    return {key: value for key, value in state.items() if value is not None}


def caught(state: dict[str, Any], *errors: str) -> dict[str, Any]:
    """States: this one, whose error ends up as the output when it has one of these names."""
    catch = [{"ErrorEquals": list(errors or ["States.ALL"]), "Next": "Caught"}]
    return {"First": {**state, "Catch": catch}, "Caught": {"Type": "Pass", "End": True}}


def sorted_out(state: dict[str, Any], *errors: str) -> dict[str, Any]:
    """States: this one, whose output says which of these names, the first that matches, caught its error."""
    catch = [{"ErrorEquals": [error], "Next": error} for error in errors]
    ends = {error: {"Type": "Pass", "Result": {"caught as": error}, "End": True} for error in errors}
    return {"First": {**state, "Catch": catch}, **ends}


def mapped(
    states: dict[str, Any], mode: str = "INLINE", kind: str = "STANDARD", **fields: Any
) -> dict[str, Any]:
    """A Map state over its input, or over what `fields` say."""
    config = {"Mode": mode} | ({"ExecutionType": kind} if mode == "DISTRIBUTED" else {})
    processor = {"ProcessorConfig": config, "StartAt": next(iter(states)), "States": states}
    return {"Type": "Map", "ItemProcessor": processor, "End": True, **fields}


def distributed(states: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Map state in Distributed mode."""
    return mapped(states, mode="DISTRIBUTED", **fields)


PASS: dict[str, Any] = {"Do": {"Type": "Pass", "End": True}}
FAIL: dict[str, Any] = {"Do": {"Type": "Fail", "Error": "Unwell", "Cause": "as told"}}
