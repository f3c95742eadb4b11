"""The embedded engine's callback tasks wait, beat, time out and are answered as AWS documents."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from botocore.exceptions import ClientError, WaiterError
from machines import PATIENCE_SECONDS, callback, ended, machine, queue, receive_token, start, until
from test_embedded_functions import function


def test_timeout_from_a_path(engine):
    """TimeoutSecondsPath ends a waiting task as TimeoutSeconds would."""
    url = queue(engine)
    arn = machine(engine, callback(url, TimeoutSecondsPath="$.limit"), "Wait")
    output = json.loads(ended(engine, arn, {"limit": 1})["output"])
    assert output["error"]["Error"] == "States.Timeout"


def test_heartbeat_ends_a_silent_task(engine):
    """HeartbeatSeconds without a heartbeat ends the task, long before its timeout."""
    url = queue(engine)
    arn = machine(engine, callback(url, TimeoutSeconds=100, HeartbeatSecondsPath="$.limit"), "Wait")
    output = json.loads(ended(engine, arn, {"limit": 1})["output"])
    assert output["error"]["Error"] == "States.HeartbeatTimeout"


def test_heartbeats_keep_a_task_alive(engine):
    """SendTaskHeartbeat starts the clock anew: a task lives past several heartbeat periods."""
    url = queue(engine)
    arn = machine(engine, callback(url, TimeoutSeconds=100, HeartbeatSeconds=5), "Wait")
    sfn = engine.client("stepfunctions")
    execution = sfn.start_execution(stateMachineArn=arn, input="{}")["executionArn"]
    token = receive_token(engine, url)
    began = time.monotonic()
    while time.monotonic() - began < 11:
        time.sleep(0.5)
        sfn.send_task_heartbeat(taskToken=token)
    sfn.send_task_success(taskToken=token, output='"alive"')
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (described := sfn.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert json.loads(described["output"])["answer"] == "alive"


def test_each_attempt_waits_for_a_token_of_its_own(engine):
    """A retried callback sends a new token, and the old one cannot answer for it."""
    url = queue(engine)
    retry = [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    arn = machine(engine, callback(url, TimeoutSeconds=1, Retry=retry), "Wait")
    sfn = engine.client("stepfunctions")
    sfn.start_execution(stateMachineArn=arn, input="{}")
    first, second = receive_token(engine, url), receive_token(engine, url)
    assert first != second
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_success(taskToken=first, output="{}")


def test_a_token_takes_one_answer(engine):
    """Of answers sent at the same time exactly one is taken, and it is the one that the state returns."""
    url = queue(engine)
    arn = machine(engine, callback(url, TimeoutSeconds=100), "Wait")
    sfn = engine.client("stepfunctions")
    for _ in range(10):
        execution = sfn.start_execution(stateMachineArn=arn, input="{}")["executionArn"]
        token = receive_token(engine, url)

        def answer(number: int, token: str = token) -> bool:
            try:
                sfn.send_task_success(taskToken=token, output=json.dumps(number))
            except sfn.exceptions.TaskTimedOut:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            taken = [number for number, accepted in enumerate(pool.map(answer, range(8))) if accepted]
        give_up = time.monotonic() + PATIENCE_SECONDS
        while (described := sfn.describe_execution(executionArn=execution))["status"] == "RUNNING":
            assert time.monotonic() < give_up
            time.sleep(0.02)
        assert taken == [json.loads(described["output"])["answer"]]


def answers(engine, token: str) -> set[str]:
    """The error codes with which the three SendTask* refuse a token."""
    sfn = engine.client("stepfunctions")
    codes = set()
    for call, answer in (
        (sfn.send_task_success, {"output": "{}"}),
        (sfn.send_task_failure, {}),
        (sfn.send_task_heartbeat, {}),
    ):
        with pytest.raises(ClientError) as refused:
            call(taskToken=token, **answer)
        codes.add(refused.value.response["Error"]["Code"])
    return codes


@pytest.mark.parametrize("field", ["TimeoutSeconds", "HeartbeatSeconds"])
def test_a_late_answer_is_refused(engine, field):
    """The token of a task that timed out, by either clock, is refused with TaskTimedOut."""
    url = queue(engine)
    ended(engine, machine(engine, callback(url, **{"TimeoutSeconds": 100, field: 1}), "Wait"), {})
    assert {"TaskTimedOut"} == answers(engine, receive_token(engine, url))


def test_the_token_of_a_stopped_execution_is_refused(own_engine):
    """StopExecution ends the wait: its token is refused with TaskTimedOut, and no thread waits any more."""
    engine = own_engine
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = machine(engine, callback(url, HeartbeatSeconds=100), "Wait")
    runs = [start(engine, arn, {}) for _ in range(20)]
    tokens = [receive_token(engine, url) for _ in runs]
    server = psutil.Process(engine._own.pid)
    before = server.num_threads()
    for run in runs:
        sfn.stop_execution(executionArn=run)
    assert {"TaskTimedOut"} == set.union(*(answers(engine, token) for token in tokens))
    give_up = time.monotonic() + PATIENCE_SECONDS
    while server.num_threads() > before - len(runs):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_what_never_was_a_token_is_refused(engine):
    """A text that is no token is refused with InvalidToken."""
    assert {"InvalidToken"} == answers(engine, "no token")


def test_a_lost_heartbeat_is_a_timeout(engine):
    """Catch takes a lost heartbeat as States.Timeout, too, and not as States.TaskFailed."""
    catch = [{"ErrorEquals": ["States.TaskFailed"], "Next": "Done"}]
    catch += [{"ErrorEquals": ["States.Timeout"], "ResultPath": "$.error", "Next": "Done"}]
    states = callback(queue(engine), TimeoutSeconds=100, HeartbeatSeconds=1, Catch=catch)
    assert "error" in json.loads(ended(engine, machine(engine, states, "Wait"), {})["output"])


def test_the_error_of_a_function_with_a_token_fails_the_task(engine):
    """A function that is called with a task token and raises, fails the task with its error."""
    name = function(engine, "def handler(event, context):\n    raise KeyError(event)\n")
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": name, "Payload": {"token.$": "$$.Task.Token"}},
        "End": True,
    }
    described = ended(engine, machine(engine, {"Call": task}, "Call"), {})
    assert (described["status"], described["error"]) == ("FAILED", "KeyError")


def activity(engine, **fields) -> tuple[str, dict]:
    """An activity, and the states that give it a task and pass its error on as output."""
    arn = engine.client("stepfunctions").create_activity(name=f"test-{uuid.uuid4().hex[:8]}")["activityArn"]
    states = callback("", Resource=arn, **fields)
    del states["Wait"]["Parameters"]
    return arn, states


@pytest.mark.parametrize(
    ("field", "error"),
    [("TimeoutSeconds", "States.Timeout"), ("HeartbeatSeconds", "States.HeartbeatTimeout")],
)
def test_the_clocks_of_an_activity_start_when_a_worker_fetches_it(engine, field, error):
    """An activity's task times out by either clock, from when a worker has it; then its token is dead."""
    arn, states = activity(engine, **{field: 1})
    sfn = engine.client("stepfunctions")
    execution = start(engine, machine(engine, states, "Wait"), {})
    time.sleep(1.5)
    assert sfn.describe_execution(executionArn=execution)["status"] == "RUNNING"
    token = sfn.get_activity_task(activityArn=arn)["taskToken"]
    assert error == json.loads(until(engine, execution)["output"])["error"]["Error"]
    assert {"TaskTimedOut"} == answers(engine, token)


def test_a_poll_that_waits_gets_the_task_that_comes(engine):
    """GetActivityTask holds on while there is no task, and returns the next one."""
    arn, states = activity(engine)
    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(engine.client("stepfunctions").get_activity_task, activityArn=arn)
        time.sleep(1)
        assert not polled.done()
        start(engine, machine(engine, states, "Wait"), {"n": 1})
        assert json.loads(polled.result()["input"]) == {"n": 1}


def test_an_activity_whose_name_is_taken_fails_its_stack(engine):
    """CloudFormation makes an activity under its name, which nobody else may have."""
    cloudformation, name = engine.client("cloudformation"), f"test-{uuid.uuid4().hex[:8]}"
    engine.client("stepfunctions").create_activity(name=name)
    resource = {"Type": "AWS::StepFunctions::Activity", "Properties": {"Name": name}}
    cloudformation.create_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": {"Activity": resource}})
    )
    with pytest.raises(WaiterError, match="ROLLBACK"):
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    cloudformation.delete_stack(StackName=name)


def test_an_activity_is_answered(engine):
    """A worker of an activity gets its input, beats and answers with its token."""
    arn, states = activity(engine, HeartbeatSeconds=60)
    sfn = engine.client("stepfunctions")
    execution = start(engine, machine(engine, states, "Wait"), {"n": 1})
    task = sfn.get_activity_task(activityArn=arn)
    for _ in range(2):
        sfn.send_task_heartbeat(taskToken=task["taskToken"])
    sfn.send_task_success(taskToken=task["taskToken"], output='"done"')
    assert json.loads(task["input"]) == {"n": 1}
    assert json.loads(until(engine, execution)["output"]) == {"n": 1, "answer": "done"}
