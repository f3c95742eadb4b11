"""What has ended on the embedded engine leaves nothing behind in it."""

import io
import json
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from helpers import live, stack
from helpers.drills import until
from helpers.engines import embedded
from helpers.experiment import Experiment

PATIENCE_SECONDS = 120
"""Less than the 75 s for which hypercorn keeps a connection."""
ROLE = "arn:aws:iam::000000000000:role/any"
FEW = Experiment(4, siphon_share=0.0, direct_seconds=0.01)
WAITS = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}}


def told(engine, arn: str) -> str:
    """The status that is told of an execution or a Map Run, or the error that it does not exist."""
    client = engine.client("stepfunctions")
    try:
        if ":mapRun:" in arn:
            return client.describe_map_run(mapRunArn=arn)["status"]
        client.get_execution_history(executionArn=arn)
        return client.describe_execution(executionArn=arn)["status"]
    except ClientError as error:
        return error.response["Error"]["Code"]


def run(deployed) -> list[str]:
    """A run of the stack: the ARNs of its execution, Map Run and children."""
    live.run(deployed, FEW, progress=False)
    client = deployed.engine.client("stepfunctions")
    machine = deployed.outputs["StateMachineArn"]
    [execution] = client.list_executions(stateMachineArn=machine)["executions"]
    [map_run] = client.list_map_runs(executionArn=execution["executionArn"])["mapRuns"]
    children = client.list_executions(mapRunArn=map_run["mapRunArn"])["executions"]
    assert len(children) == FEW.items
    return [execution["executionArn"], map_run["mapRunArn"], *(child["executionArn"] for child in children)]


@pytest.mark.parametrize("by", ["CloudFormation", "DeleteStateMachine"])
def test_executions_go_with_their_state_machine(engine, by):
    """What ended of it is told of no more, children and Map Runs included; another machine's are."""
    values = stack.parameters(FEW)
    with stack.deploy(engine, "combined", values) as other, stack.deploy(engine, "combined", values) as gone:
        stays, goes = run(other), run(gone)
        assert {"SUCCEEDED"} == {told(engine, arn) for arn in stays + goes}
        if by == "CloudFormation":
            gone.destroy()
        else:
            client = engine.client("stepfunctions")
            client.delete_state_machine(stateMachineArn=gone.outputs["StateMachineArn"])
        assert {"ExecutionDoesNotExist", "ResourceNotFound"} == {told(engine, arn) for arn in goes}
        assert {"SUCCEEDED"} == {told(engine, arn) for arn in stays}


def test_an_execution_that_runs_outlives_its_deleted_stack(engine):
    """It is told of as long as it runs: only what has ended goes."""
    cloudformation, client = engine.client("cloudformation"), engine.client("stepfunctions")
    properties = {"DefinitionString": json.dumps(WAITS), "RoleArn": ROLE}
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    body = {"Resources": {"Machine": machine}, "Outputs": {"Arn": {"Value": {"Ref": "Machine"}}}}
    cloudformation.create_stack(StackName="outlived", TemplateBody=json.dumps(body))
    waiter = {"WaiterConfig": {"Delay": 0.1, "MaxAttempts": 100}, "StackName": "outlived"}
    cloudformation.get_waiter("stack_create_complete").wait(**waiter)
    [described] = cloudformation.describe_stacks(StackName="outlived")["Stacks"]
    arn = client.start_execution(stateMachineArn=described["Outputs"][0]["OutputValue"])["executionArn"]
    # ministack looks for the state machine a moment after it has answered.
    until(lambda: len(client.get_execution_history(executionArn=arn)["events"]) > 1, "the state's beginning")
    cloudformation.delete_stack(StackName="outlived")
    cloudformation.get_waiter("stack_delete_complete").wait(**waiter)
    assert told(engine, arn) == "RUNNING"
    client.stop_execution(executionArn=arn)
    assert told(engine, arn) == "ABORTED"


OUTLIVES = """
import pathlib, time
def handler(event, context):
    pathlib.Path(event["note"]).touch()
    time.sleep(event["seconds"])
"""


def test_an_invocation_that_outlives_its_function_makes_no_log_group(engine, tmp_path):
    """Its end is logged no more: a group that was deleted stays deleted."""
    functions, logs = engine.client("lambda"), engine.client("logs")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as file:
        file.writestr("index.py", OUTLIVES)
    functions.create_function(
        FunctionName="outlived",
        Runtime="python3.12",
        Handler="index.handler",
        Role=ROLE,
        Timeout=30,
        Code={"ZipFile": code.getvalue()},
    )
    group = {"logGroupName": "/aws/lambda/outlived"}
    first, second = ({"note": str(tmp_path / str(n)), "seconds": 2 * n} for n in (0, 1))
    functions.invoke(FunctionName="outlived", Payload=json.dumps(first))
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(functions.invoke, FunctionName="outlived", Payload=json.dumps(second))
        until(Path(second["note"]).exists, "the second invocation runs")
        logs.delete_log_group(**group)
        functions.delete_function(FunctionName="outlived")
        answer.result()
    assert logs.describe_log_groups(logGroupNamePrefix=group["logGroupName"])["logGroups"] == []


@pytest.mark.parametrize("waits", [0, 1])
def test_a_connection_ends_with_its_client(engine, waits):
    """Also in the middle of a long poll: a killed worker's connections do not add up."""
    at = urlsplit(engine.endpoint_url)
    queue = engine.client("sqs").create_queue(QueueName="left")["QueueUrl"]
    server = psutil.Process(engine._own.pid)
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": waits})
    sent = {"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
    request = AWSRequest("POST", f"{engine.endpoint_url}/", headers=sent, data=body)
    keys = engine.credentials
    SigV4Auth(Credentials(keys.access_key, keys.secret_key), "sqs", "us-east-1").add_auth(request)
    headers = {"Host": at.netloc, "Content-Length": str(len(body)), **dict(request.headers)}
    head = "POST / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head += "\r\n"
    with socket.create_connection((at.hostname, at.port)) as client:
        ours = client.getsockname()[1]
        client.sendall(f"{head}{body}".encode())
        answer = b""
        while not waits and not answer.endswith(b"{}"):  # closed before, it would be reset
            answer += client.recv(1000)

    def open_still() -> bool:
        return any(c.raddr and c.raddr.port == ours for c in server.net_connections("inet"))

    give_up = time.monotonic() + PATIENCE_SECONDS
    while open_still():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    engine.client("sqs").delete_queue(QueueUrl=queue)


def test_a_clock_that_is_called_off_holds_nothing():
    """What waits for a timeout that will not come is let go when its task has ended, not minutes later."""
    program = """
import gc, sys, time, weakref
sys.path.insert(0, sys.argv[1])
import clocks
class Held: pass
gone = []
for _ in range(1_000):
    held = Held()
    gone.append(weakref.ref(held))
    clocks.after(600, print, held)()
del held
give_up = time.monotonic() + 30
while any(one() for one in gone) and time.monotonic() < give_up:
    time.sleep(0.01)
print(sum(one() is not None for one in gone))
"""
    folder = str(Path(embedded.__file__).with_name("embedded_server"))
    ran = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["0"], ran.stderr


def test_a_deleted_table_is_found_by_its_tags_no_more(engine):
    """What carries the lab's tag after the stack is gone would be an orphan."""
    stack.deploy(engine, "semaphore").destroy()
    assert [arn for arn in stack.orphans(engine) if ":dynamodb:" in arn] == []
