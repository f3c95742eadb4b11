"""The embedded engine's maps do what AWS documents."""

import json
import time

import pytest
from botocore.exceptions import ClientError
from machines import callback, distributed, ended, machine, queue, receive_token, start, until


def test_max_concurrency_from_a_path(engine):
    """MaxConcurrencyPath limits the children at once: waits of 0.5 s at 2 of 6 make three rounds."""
    waiting = {"Nap": {"Type": "Wait", "Seconds": 1, "End": True}}
    states = distributed(waiting, "Nap", MaxConcurrencyPath="$.limit")
    described = ended(engine, machine(engine, states, "Map"), {"items": list(range(6)), "limit": 2})
    took = (described["stopDate"] - described["startDate"]).total_seconds()
    assert described["status"] == "SUCCEEDED"
    assert took >= 3


@pytest.mark.parametrize(("mode", "limit"), [("INLINE", 40), ("DISTRIBUTED", 90)])
def test_no_limit_means_aws_own_limit(engine, mode, limit):
    """Without MaxConcurrency an inline Map runs 40 at once, a distributed one all of these 90."""
    url = queue(engine)
    states = distributed(callback(url, TimeoutSeconds=4), "Wait")
    states["Map"]["ItemProcessor"]["ProcessorConfig"]["Mode"] = mode
    sfn = engine.client("stepfunctions")
    sfn.start_execution(
        stateMachineArn=machine(engine, states, "Map"), input=json.dumps({"items": list(range(90))})
    )
    time.sleep(2)
    depth = engine.client("sqs").get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
    )
    assert int(depth["Attributes"]["ApproximateNumberOfMessages"]) == limit


@pytest.mark.parametrize(("tolerated", "status"), [(50, "SUCCEEDED"), (20, "FAILED")])
def test_tolerance_from_a_path(engine, tolerated, status):
    """ToleratedFailurePercentagePath decides whether one failed child of three fails the Map."""
    choice = {"Variable": "$", "NumericEquals": 1, "Next": "Bad"}
    states = distributed(
        {
            "Choose": {"Type": "Choice", "Choices": [choice], "Default": "Good"},
            "Good": {"Type": "Succeed"},
            "Bad": {"Type": "Fail", "Error": "Bad"},
        },
        "Choose",
        MaxConcurrency=1,
        ToleratedFailurePercentagePath="$.tolerated",
    )
    described = ended(engine, machine(engine, states, "Map"), {"items": [0, 1, 2], "tolerated": tolerated})
    assert described["status"] == status


def test_the_context_object_of_a_child_is_its_own(engine):
    """`$$.Execution` in a child names the child, each with a start time of its own."""
    tell = {"Type": "Pass", "Parameters": {"name.$": "$$.Execution.Name"}, "End": True}
    described = ended(
        engine,
        machine(engine, distributed({"Tell": tell}, "Tell", MaxConcurrency=1), "Map"),
        {"items": [0, 1, 2]},
    )
    names = {child["name"] for child in json.loads(described["output"])}
    assert len(names) == 3
    assert described["name"] not in names


@pytest.mark.parametrize("kind", ["Parallel", "Map"])
def test_the_first_branch_that_fails_fails_its_state(engine, kind):
    """One branch or iteration that fails, fails its state at once, and the others are stopped."""
    url = queue(engine)
    branch = {"StartAt": "Wait", "States": callback(url, Catch=[])}
    both = {"Branches": [branch, branch]} if kind == "Parallel" else {"ItemProcessor": branch}
    sfn = engine.client("stepfunctions")
    arn = start(engine, machine(engine, {"Both": {"Type": kind, "End": True} | both}, "Both"), [0, 1])
    bad, other = receive_token(engine, url), receive_token(engine, url)
    sfn.send_task_failure(taskToken=bad, error="Bad")
    described = until(engine, arn)
    assert (described["status"], described["error"]) == ("FAILED", "Bad")
    with pytest.raises(ClientError):
        sfn.send_task_success(taskToken=other, output="{}")


def test_a_stopped_execution_enters_no_state(engine):
    """StopExecution ends a wait and kills the tokens of its branches; no state is entered after it."""
    url = queue(engine)
    tell = callback(url, Catch=[]) | {"Nap": {"Type": "Wait", "Seconds": 1, "Next": "Wait"}}
    branches = [{"StartAt": start, "States": tell} for start in ("Wait", "Nap")]
    both = {
        "Type": "Parallel",
        "Branches": branches,
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Both"}],
    }
    sfn = engine.client("stepfunctions")
    arn = start(engine, machine(engine, {"Both": both | {"End": True}}, "Both"), {})
    token = receive_token(engine, url)
    sfn.stop_execution(executionArn=arn)
    with pytest.raises(ClientError):
        sfn.send_task_success(taskToken=token, output="{}")
    # Another execution's nap begins later and ends later.
    start(engine, machine(engine, tell, "Nap"), {})
    receive_token(engine, url)
    assert not engine.client("sqs").receive_message(QueueUrl=url).get("Messages")
    assert sfn.describe_execution(executionArn=arn)["status"] == "ABORTED"
