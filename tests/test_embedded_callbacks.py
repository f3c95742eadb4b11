"""The embedded engine's callback tasks wait, beat, time out and are answered as AWS documents."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from machines import callback, ended, machine, queue, receive_token


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
    arn = machine(engine, callback(url, TimeoutSeconds=100, HeartbeatSeconds=2), "Wait")
    sfn = engine.client("stepfunctions")
    execution = sfn.start_execution(stateMachineArn=arn, input="{}")["executionArn"]
    token = receive_token(engine, url)
    for _ in range(8):
        time.sleep(0.5)
        sfn.send_task_heartbeat(taskToken=token)
    sfn.send_task_success(taskToken=token, output='"alive"')
    give_up = time.monotonic() + 10
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
    with pytest.raises(sfn.exceptions.ClientError):
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
            except sfn.exceptions.ClientError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            taken = [number for number, accepted in enumerate(pool.map(answer, range(8))) if accepted]
        give_up = time.monotonic() + 10
        while (described := sfn.describe_execution(executionArn=execution))["status"] == "RUNNING":
            assert time.monotonic() < give_up
            time.sleep(0.02)
        assert taken == [json.loads(described["output"])["answer"]]
