"""The embedded engine's states and what they call do what AWS documents."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from machines import ROLE, callback, distributed, ended, machine, queue, receive_token, start, until
from test_embedded_functions import function

from helpers.engines import embedded


def test_a_state_can_write_to_s3(engine):
    """aws-sdk:s3:putObject stores a JSON Body, as an ItemReader reads it."""
    s3 = engine.client("s3")
    s3.create_bucket(Bucket="test-put-object")
    put = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:s3:putObject",
        "Parameters": {"Bucket": "test-put-object", "Key": "items.json", "Body.$": "$.items"},
        "End": True,
    }
    described = ended(engine, machine(engine, {"Put": put}, "Put"), {"items": [{"a": 1}]})
    stored = json.load(s3.get_object(Bucket="test-put-object", Key="items.json")["Body"])
    assert described["status"] == "SUCCEEDED"
    assert stored == [{"a": 1}]


def refusal(call, **arguments) -> str:
    """The error code with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    return refused.value.response["Error"]["Code"]


KIB_256 = 262_144


def text(size: int) -> str:
    """A JSON text of so many bytes, a character of two among them."""
    return json.dumps("é" + "x" * (size - 4), ensure_ascii=False)


def test_payloads_are_limited(engine):
    """StartExecution takes 256 KiB of input, SendTaskSuccess of output, as UTF-8, and no byte more."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = machine(engine, callback(url), "Wait")
    start = {"stateMachineArn": arn, "name": f"n{uuid.uuid4().hex}"}
    assert refusal(sfn.start_execution, input=text(KIB_256 + 1), **start) == "ValidationException"
    execution = sfn.start_execution(input=text(KIB_256), **start)["executionArn"]
    answer = {"taskToken": receive_token(engine, url)}
    assert refusal(sfn.send_task_success, output=text(KIB_256 + 1), **answer) == "ValidationException"
    for field, limit in {"error": 256, "cause": 32_768}.items():
        assert refusal(sfn.send_task_failure, **{field: "é" * (limit + 1)}, **answer) == "ValidationException"
        assert refusal(sfn.stop_execution, executionArn=execution, **{field: "x" * (limit + 1)})
    sfn.send_task_success(output=text(KIB_256), **answer)


def test_what_is_no_json_is_refused(engine):
    """Input and output are JSON: else InvalidExecutionInput and InvalidOutput, and the task waits on."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = machine(engine, callback(url), "Wait")
    assert refusal(sfn.start_execution, stateMachineArn=arn, input="{no") == "InvalidExecutionInput"
    execution = start(engine, arn, {})
    token = receive_token(engine, url)
    assert refusal(sfn.send_task_success, taskToken=token, output="{no") == "InvalidOutput"
    sfn.send_task_success(taskToken=token, output="1")
    assert json.loads(until(engine, execution)["output"]) == {"answer": 1}


PASS = {"Type": "Pass", "End": True}
ASK = {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "End": True}


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ({"Do": {"Type": "Pass"}}, "STANDARD"),
        ({"Do": {"Type": "Pass", "Next": "Nowhere"}}, "STANDARD"),
        ({"Other": PASS}, "STANDARD"),
        ({"Do": ASK}, "EXPRESS"),
        ({"Do": ASK | {"TimeoutSeconds": 5, "HeartbeatSeconds": 5}}, "STANDARD"),
        (
            {"Do": PASS | {"Type": "Parallel", "Branches": [{"StartAt": "It", "States": {"It": ASK}}]}},
            "EXPRESS",
        ),
        (
            {
                "Do": PASS
                | {
                    "Type": "Map",
                    "ItemProcessor": {
                        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"},
                        "StartAt": "It",
                        "States": {"It": ASK},
                    },
                }
            },
            "STANDARD",
        ),
    ],
)
def test_a_definition_that_breaks_a_rule_is_refused(engine, states, kind):
    """A state without a way on, and a callback in an Express workflow, however deep, is InvalidDefinition."""
    sfn = engine.client("stepfunctions")
    definition = json.dumps({"StartAt": "Do", "States": states})
    name = f"test-{uuid.uuid4().hex[:8]}"
    refused = refusal(sfn.create_state_machine, name=name, definition=definition, roleArn=ROLE, type=kind)
    assert refused == "InvalidDefinition"
    if kind == "STANDARD":
        arn = machine(engine, {"Do": PASS}, "Do")
        update = {"stateMachineArn": arn, "definition": definition}
        assert refusal(sfn.update_state_machine, **update) == "InvalidDefinition"


def test_an_execution_times_out(engine):
    """TimeoutSeconds of a state machine ends what runs: TIMED_OUT without an error, its tokens are dead."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    definition = {"TimeoutSeconds": 2, "StartAt": "Wait", "States": callback(url)}
    arn = sfn.create_state_machine(
        name=f"test-{uuid.uuid4().hex[:8]}", definition=json.dumps(definition), roleArn=ROLE
    )["stateMachineArn"]
    described = ended(engine, arn, {})
    assert (described["status"], described.get("error")) == ("TIMED_OUT", None)
    token = receive_token(engine, url)
    assert refusal(sfn.send_task_success, taskToken=token, output="{}") == "TaskTimedOut"
    last = sfn.get_execution_history(executionArn=described["executionArn"], reverseOrder=True)["events"][0]
    assert last["executionTimedOutEventDetails"] == {"error": "States.Timeout"}


def test_starting_again_starts_nothing(engine):
    """StartExecution with the name and input of an execution that runs gives that one; with others, it is
    refused."""
    sfn = engine.client("stepfunctions")
    named = {"stateMachineArn": machine(engine, callback(queue(engine)), "Wait"), "name": "one"}
    first, again = (sfn.start_execution(input="{}", **named) for _ in range(2))
    assert [first[key] for key in ("executionArn", "startDate")] == [
        again[key] for key in ("executionArn", "startDate")
    ]
    assert refusal(sfn.start_execution, input="1", **named) == "ExecutionAlreadyExists"


def too_long(described: dict) -> bool:
    """Whether an execution failed since a state's output was too long; else it succeeded."""
    if described["status"] == "SUCCEEDED":
        return False
    assert (described["status"], described["error"]) == ("FAILED", "States.DataLimitExceeded")
    return True


def test_a_state_hands_on_256_kib(engine):
    """A state whose output is a byte longer, as UTF-8, fails its execution: States.DataLimitExceeded."""
    arn = machine(engine, {"Do": PASS | {"Parameters": {"é.$": "$"}}}, "Do")
    frame = len('{"é":""}'.encode())
    assert not too_long(ended(engine, arn, "x" * (KIB_256 - frame)))
    assert too_long(ended(engine, arn, "x" * (KIB_256 - frame + 1)))


@pytest.mark.parametrize("mode", ["INLINE", "DISTRIBUTED"])
def test_the_results_of_a_map_are_256_kib_together(engine, mode):
    """A Map whose results together are longer fails the execution, whatever its Catch says."""
    states = distributed({"Do": PASS | {"Result": "x" * 998}}, "Do")
    states["Map"]["ItemProcessor"]["ProcessorConfig"]["Mode"] = mode
    states["Map"]["Catch"] = [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]
    arn = machine(engine, states | {"Caught": PASS}, "Map")
    assert not too_long(ended(engine, arn, {"items": [0] * 261}))
    assert too_long(ended(engine, arn, {"items": [0] * 262}))


def test_a_task_returns_256_kib(engine):
    """A task whose result is longer fails with States.DataLimitExceeded, to be caught."""
    name = function(engine, "def handler(event, context):\n    return 'x' * event\n")
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": name, "Payload.$": "$"},
        "ResultPath": None,
        "Catch": [{"ErrorEquals": ["States.DataLimitExceeded"], "Next": "Caught"}],
        "End": True,
    }
    arn = machine(engine, {"Call": task, "Caught": PASS | {"Result": "caught"}}, "Call")
    for size, output in ((KIB_256 - 100, KIB_256 - 100), (KIB_256 + 1, "caught")):
        assert output == json.loads(ended(engine, arn, size)["output"])


def test_a_retry_waits_longer_each_time_but_not_too_long(engine):
    """A retry waits IntervalSeconds, then BackoffRate times as long, but MaxDelaySeconds at most; with full
    jitter, any time up to that."""
    url = queue(engine)
    retry = {"ErrorEquals": ["Bad"], "IntervalSeconds": 1, "BackoffRate": 100, "MaxDelaySeconds": 2}
    sfn = engine.client("stepfunctions")

    def waits(jitter: str) -> list[float]:
        states = callback(url, Retry=[retry | {"JitterStrategy": jitter}], Catch=[])
        execution = start(engine, machine(engine, states, "Wait"), {})
        for _ in range(4):
            sfn.send_task_failure(taskToken=receive_token(engine, url), error="Bad")
        until(engine, execution)
        found = sfn.get_execution_history(executionArn=execution)["events"]
        scheduled, failed = (
            [event["timestamp"].timestamp() for event in found if event["type"] == kind]
            for kind in ("TaskScheduled", "TaskFailed")
        )
        return [after - before for before, after in zip(failed, scheduled[1:], strict=False)]

    least = (1, 2, 2)
    plain, jittered = waits("NONE"), waits("FULL")
    assert all(wait >= bound - 0.002 for wait, bound in zip(plain, least, strict=True))
    assert max(plain) < 60  # where ministack stops
    assert any(wait < bound for wait, bound in zip(jittered, least, strict=True))


AT_ONCE = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import states
from ministack.services import dynamodb
states.correct()
sys.setswitchinterval(1e-5)  # so that threads get into each other's way
column, key = {"AttributeName": "key"}, {"key": {"S": "one"}}
dynamodb._create_table({
    "TableName": "table", "BillingMode": "PAY_PER_REQUEST",
    "KeySchema": [column | {"KeyType": "HASH"}], "AttributeDefinitions": [column | {"AttributeType": "S"}],
})
while dynamodb._put_item({"TableName": "table", "Item": key})[0] != 200:
    time.sleep(0.05)
taken = []
def take(number):
    taken.append(dynamodb._update_item({
        "TableName": "table", "Key": key, "UpdateExpression": "ADD holders :me",
        "ConditionExpression": "attribute_not_exists(holders) OR size(holders) < :ten",
        "ExpressionAttributeValues": {":me": {"SS": [str(number)]}, ":ten": {"N": "10"}},
    })[0])
threads = [threading.Thread(target=take, args=(number,)) for number in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(taken.count(200))
"""


def test_a_condition_holds_until_its_update_is_done():
    """Of updates from many threads at once just so many take place as their condition allows."""
    folder = str(Path(embedded.__file__).with_name("embedded_server"))
    command = [sys.executable, "-c", AT_ONCE, folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.split()[-1:] == ["10"], ran.stderr


HALF_ENDED = """
import sys, threading
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
import states
execution = {"status": "SUCCEEDED", "output": None, "stopDate": None}
threading.Timer(0.2, execution.update, kwargs={"output": "1", "stopDate": "now"}).start()
sfn = SimpleNamespace(_executions={"arn": execution})
describe = states.ends_as_a_whole(sfn, lambda data: sfn._executions.get(data["executionArn"], {}).copy())
print([describe({"executionArn": arn}).get("output") for arn in ("arn", "none")])
"""


def test_an_execution_that_has_ended_has_its_output():
    """Whoever is told that an execution has succeeded is told its output and its time, too."""
    folder = str(Path(embedded.__file__).with_name("embedded_server"))
    command = [sys.executable, "-c", HALF_ENDED, folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "['1', None]\n", ran.stderr
