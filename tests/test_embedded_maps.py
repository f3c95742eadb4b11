"""The embedded engine's maps do what AWS documents."""

import json
import time
import uuid
from collections.abc import Callable
from datetime import datetime

import psutil
import pytest
from botocore.exceptions import ClientError
from machines import (
    PATIENCE_SECONDS,
    callback,
    distributed,
    ended,
    machine,
    queue,
    receive,
    receive_token,
    start,
    until,
)
from test_embedded_functions import count, function


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
    states = distributed(callback(url, TimeoutSeconds=600), "Wait")
    states["Map"]["ItemProcessor"]["ProcessorConfig"]["Mode"] = mode
    sfn = engine.client("stepfunctions")
    arn = sfn.start_execution(
        stateMachineArn=machine(engine, states, "Map"), input=json.dumps({"items": list(range(90))})
    )["executionArn"]
    until_so(lambda: count(engine, url) >= limit)
    time.sleep(1)  # time enough for others
    assert count(engine, url) == limit
    sfn.stop_execution(executionArn=arn)


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
    """`$$.Execution` and `$$.StateMachine` in a child are the child's, each with a start of its own."""
    names = ("Execution.Id", "Execution.Input", "Execution.Name", "Execution.StartTime", "StateMachine.Id")
    tell = {"Type": "Pass", "Parameters": {f"{name}.$": f"$$.{name}" for name in names}, "End": True}
    described = ended(engine, machine(engine, distributed({"Tell": tell}, "Tell"), "Map"), {"items": [7, 8]})
    told = json.loads(described["output"])
    run = map_run(engine, described["executionArn"])["mapRunArn"]
    found = {child["executionArn"]: child for child in children(engine, run)}
    for item, one in zip([7, 8], told, strict=True):
        child = found[one["Execution.Id"]]
        assert one == {
            "Execution.Id": child["executionArn"],
            "Execution.Input": item,
            "Execution.Name": child["name"],
            "Execution.StartTime": one["Execution.StartTime"],
            "StateMachine.Id": child["stateMachineArn"],
        }
        assert datetime.fromisoformat(one["Execution.StartTime"]) == child["startDate"]


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


def test_a_map_that_has_failed_starts_no_other_iteration(engine):
    """Once an iteration of an inline Map has failed, those that wait for their turn enter no state."""
    url = queue(engine)
    processor = {"StartAt": "Wait", "States": callback(url, Catch=[])}
    states = {"Map": {"Type": "Map", "MaxConcurrency": 1, "ItemProcessor": processor, "End": True}}
    arn = start(engine, machine(engine, states, "Map"), [0, 1, 2])
    engine.client("stepfunctions").send_task_failure(taskToken=receive_token(engine, url), error="Bad")
    assert until(engine, arn)["status"] == "FAILED"
    assert no_more(engine, url)


SLOW = """
import json, os, time, boto3
def handler(event, context):
    sqs = boto3.client("sqs")
    for seconds in event["seconds"]:
        sqs.send_message(QueueUrl=event["url"], MessageBody=json.dumps({"token": "started"}))
        time.sleep(seconds)
    raise ValueError
"""


def calling(engine, url: str, *seconds: float) -> dict:
    """A task of a function that sends a message, waits so many seconds, sends another ..., and fails."""
    name = function(engine, SLOW, Timeout=900)
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": name, "Payload": {"url": url, "seconds": seconds}},
        "End": True,
    }


@pytest.mark.parametrize("kind", ["Parallel", "Map", "DISTRIBUTED"])
def test_a_state_that_fails_does_not_wait_for_functions(engine, kind):
    """A state fails at once though a function that it called still runs; what called that is aborted."""
    url, called = queue(engine), queue(engine)
    route = {"Variable": "$", "NumericEquals": 1, "Next": "Call"}
    states = callback(url, Catch=[]) | {"Call": calling(engine, called, 60)}
    states["Route"] = {"Type": "Choice", "Choices": [route], "Default": "Wait"}
    if kind == "Parallel":
        branches = [{"StartAt": first, "States": states} for first in ("Wait", "Call")]
        both = {"Both": {"Type": "Parallel", "Branches": branches, "End": True}}
    else:
        both = {"Both": distributed(states, "Route", ItemsPath="$")["Map"]}
        both["Both"]["ItemProcessor"]["ProcessorConfig"]["Mode"] = "INLINE" if kind == "Map" else kind
    arn = start(engine, machine(engine, both, "Both"), [0, 1])
    receive(engine, called)
    engine.client("stepfunctions").send_task_failure(taskToken=receive_token(engine, url), error="Bad")
    assert until(engine, arn)["status"] == "FAILED"
    if kind == "DISTRIBUTED":
        statuses = {child["status"] for child in children(engine, map_run(engine, arn)["mapRunArn"])}
        assert statuses == {"ABORTED", "FAILED"}


def test_what_ends_after_its_execution_was_stopped_counts_for_nothing(engine):
    """An execution that was stopped stays ABORTED, whatever a function that it had called answers."""
    url = queue(engine)
    arn = start(engine, machine(engine, {"Call": calling(engine, url, 1, 0)}, "Call"), {})
    receive(engine, url)
    sfn = engine.client("stepfunctions")
    sfn.stop_execution(executionArn=arn)
    receive(engine, url)
    time.sleep(0.3)  # until the function's error would have come
    assert sfn.describe_execution(executionArn=arn)["status"] == "ABORTED"


def test_a_stopped_execution_leaves_no_thread(own_engine):
    """StopExecution ends the waits of all children at once, however long they would wait."""
    engine = own_engine
    url = queue(engine)
    states = callback(url, Catch=[]) | {"Nap": {"Type": "Wait", "Seconds": 3600, "End": True}}
    states["Route"] = {
        "Type": "Choice",
        "Choices": [{"Variable": "$", "NumericEquals": 1, "Next": "Nap"}],
        "Default": "Wait",
    }
    server = psutil.Process(engine._own.pid)
    before = server.num_threads()
    items = [0, 1] * 30
    arn = start(engine, machine(engine, distributed(states, "Route"), "Map"), {"items": items})
    for _ in range(30):
        receive_token(engine, url)
    until_so(lambda: map_run(engine, arn)["itemCounts"].get("running") == 60)
    assert server.num_threads() > before + 40
    engine.client("stepfunctions").stop_execution(executionArn=arn)
    until_so(lambda: server.num_threads() < before + 20)


def test_a_branch_has_a_context_object_of_its_own(engine):
    """A task that is tried again in one branch is not named after the state of another."""
    url = queue(engine)
    body = {"token.$": "$$.Task.Token", "name.$": "$$.State.Name"}
    retry = [{"ErrorEquals": ["Again"], "IntervalSeconds": 1}]
    fields = {"Parameters": {"QueueUrl": url, "MessageBody": body}, "Retry": retry, "Next": "Done"}
    branches = []
    for name in ("One", "Two"):
        states = callback(url, **fields)
        branches.append({"StartAt": name, "States": {name: states["Wait"], "Done": states["Done"]}})
    both = {"Type": "Parallel", "Branches": branches, "End": True}
    start(engine, machine(engine, {"Both": both}, "Both"), {})
    for _ in range(2):
        names = []
        for _ in range(2):
            body = receive(engine, url)
            names.append(body["name"])
            engine.client("stepfunctions").send_task_failure(taskToken=body["token"], error="Again")
        assert sorted(names) == ["One", "Two"]


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


def waiting(url: str, **fields) -> dict:
    """A Distributed Map over `$.items` whose children wait for an answer, and fail if that is a failure."""
    return distributed(callback(url, Catch=[]), "Wait", **fields)


def map_run(engine, execution: str) -> dict:
    """The description of the only Map Run of an execution, with the counts that are not zero."""
    sfn = engine.client("stepfunctions")
    until_so(lambda: bool(sfn.list_map_runs(executionArn=execution)["mapRuns"]))
    (run,) = sfn.list_map_runs(executionArn=execution)["mapRuns"]
    described = sfn.describe_map_run(mapRunArn=run["mapRunArn"])
    for counts in ("itemCounts", "executionCounts"):
        described[counts] = {name: n for name, n in described[counts].items() if n}
    return described


def children(engine, run: str) -> list[dict]:
    """The children of a Map Run, described."""
    sfn = engine.client("stepfunctions")
    found = sfn.list_executions(mapRunArn=run)["executions"]
    return [sfn.describe_execution(executionArn=child["executionArn"]) for child in found]


def until_so(what: Callable[[], bool]) -> None:
    """Wait until it is so."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def no_more(engine, url: str) -> bool:
    """Whether the queue holds no message, and gets none within a second."""
    return "Messages" not in engine.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1)


def refused(engine, token: str) -> bool:
    """Whether a token is dead."""
    sfn = engine.client("stepfunctions")
    try:
        sfn.send_task_success(taskToken=token, output="{}")
    except ClientError:
        return True
    return False


@pytest.mark.parametrize(
    ("tolerated", "failures"),
    [
        ({}, 1),
        ({"ToleratedFailureCount": 1}, 2),
        ({"ToleratedFailurePercentage": 20}, 2),  # of all 6 items, those included that wait
        ({"ToleratedFailureCount": 2, "ToleratedFailurePercentage": 10}, 1),
    ],
)
def test_a_map_run_fails_as_soon_as_its_threshold_is_passed(engine, tolerated, failures):
    """Past the tolerance no child starts, those that run are aborted, and the state fails at once."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    states = waiting(url, MaxConcurrency=3, **tolerated)
    arn = start(engine, machine(engine, states, "Map"), {"items": [0] * 6})
    tokens = [receive_token(engine, url) for _ in range(3)]
    for _ in range(failures - 1):
        sfn.send_task_failure(taskToken=tokens.pop(), error="Bad")
        tokens.append(receive_token(engine, url))
    sfn.send_task_failure(taskToken=tokens.pop(), error="Bad")
    described = until(engine, arn)
    assert (described["status"], described["error"]) == ("FAILED", "States.ExceedToleratedFailureThreshold")
    run = map_run(engine, arn)
    counts = {"failed": failures, "aborted": 2, "pending": 4 - failures, "total": 6}
    assert run["status"] == "FAILED"
    assert run["itemCounts"] == run["executionCounts"] == counts | {"resultsWritten": 2 + failures}
    statuses = sorted(child["status"] for child in children(engine, run["mapRunArn"]))
    assert statuses == ["ABORTED"] * 2 + ["FAILED"] * failures
    assert all(refused(engine, token) for token in tokens)
    assert no_more(engine, url)


def test_stopping_the_parent_stops_the_map_run(engine):
    """StopExecution aborts the Map Run and the children that run, starts no other, and kills their tokens."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    again = [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 3}]
    states = waiting(url, MaxConcurrency=2, Retry=again)
    arn = start(engine, machine(engine, states, "Map"), {"items": [0] * 5})
    tokens = [receive_token(engine, url) for _ in range(2)]
    sfn.stop_execution(executionArn=arn)
    run = map_run(engine, arn)
    assert run["status"] == "ABORTED"
    assert run["itemCounts"] == {"aborted": 2, "pending": 3, "total": 5, "resultsWritten": 2}
    assert [child["status"] for child in children(engine, run["mapRunArn"])] == ["ABORTED"] * 2
    assert all(refused(engine, token) for token in tokens)
    assert no_more(engine, url)
    assert sfn.describe_execution(executionArn=arn)["status"] == "ABORTED"


def test_a_child_can_be_stopped_alone(engine):
    """StopExecution of a child aborts that child; it is no failure, and the others go on."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = start(engine, machine(engine, waiting(url, MaxConcurrency=1), "Map"), {"items": [0, 1]})
    first = receive_token(engine, url)
    (child,) = children(engine, map_run(engine, arn)["mapRunArn"])
    sfn.stop_execution(executionArn=child["executionArn"])
    sfn.send_task_success(taskToken=receive_token(engine, url), output="1")
    assert until(engine, arn)["status"] == "SUCCEEDED"
    run = map_run(engine, arn)
    assert run["itemCounts"] == {"aborted": 1, "succeeded": 1, "total": 2, "resultsWritten": 2}
    assert refused(engine, first)


def test_the_concurrency_of_a_map_run_can_be_updated(engine):
    """UpdateMapRun raises the children at once, or lowers them: no child starts until there is room."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = start(engine, machine(engine, waiting(url, MaxConcurrency=1), "Map"), {"items": [0] * 5})
    tokens = [receive_token(engine, url)]
    run = map_run(engine, arn)["mapRunArn"]
    sfn.update_map_run(mapRunArn=run, maxConcurrency=3)
    tokens += [receive_token(engine, url) for _ in range(2)]
    assert map_run(engine, arn)["itemCounts"] == {"running": 3, "pending": 2, "total": 5}
    sfn.update_map_run(mapRunArn=run, maxConcurrency=1)
    for _ in range(2):
        sfn.send_task_success(taskToken=tokens.pop(), output="1")
    assert no_more(engine, url)
    for _ in range(2):
        sfn.send_task_success(taskToken=tokens.pop(), output="1")
        tokens.append(receive_token(engine, url))
    sfn.send_task_success(taskToken=tokens.pop(), output="1")
    assert until(engine, arn)["status"] == "SUCCEEDED"


def test_the_tolerance_of_a_map_run_can_be_updated(engine):
    """UpdateMapRun sets the failures that a Map Run tolerates, and fails one that has more already."""
    url = queue(engine)
    sfn = engine.client("stepfunctions")
    arn = start(engine, machine(engine, waiting(url), "Map"), {"items": [0] * 4})
    tokens = [receive_token(engine, url) for _ in range(4)]
    run = map_run(engine, arn)["mapRunArn"]
    sfn.update_map_run(mapRunArn=run, toleratedFailurePercentage=50)
    for _ in range(2):
        sfn.send_task_failure(taskToken=tokens.pop(), error="Bad")
    until_so(lambda: map_run(engine, arn)["itemCounts"].get("failed") == 2)
    assert sfn.describe_execution(executionArn=arn)["status"] == "RUNNING"
    sfn.update_map_run(mapRunArn=run, toleratedFailureCount=1)
    assert until(engine, arn)["error"] == "States.ExceedToleratedFailureThreshold"


ECHO = {"Echo": {"Type": "Pass", "End": True}}


@pytest.mark.parametrize(
    "batcher", [{"MaxItemsPerBatch": 3}, {"MaxItemsPerBatchPath": "$.most"}, {"MaxInputBytesPerBatch": 49}]
)
def test_items_are_batched(engine, batcher):
    """ItemBatcher gives a child many items, as selected, with its BatchInput; counts are of items."""
    batch_input = {"BatchInput": {"whose.$": "$.whose"}}
    states = distributed(
        ECHO,
        "Echo",
        ItemSelector={"n.$": "$$.Map.Item.Value"},
        ItemBatcher=batch_input | batcher,
    )
    data = {"items": list(range(7)), "most": 3, "whose": "x"}
    arn = start(engine, machine(engine, states, "Map"), data)
    # 49 bytes hold {"BatchInput":{"whose":"x"},"Items":[{"n":0}]} but not two items more.
    n = 1 if "MaxInputBytesPerBatch" in batcher else 3
    batches = [[{"n": item} for item in range(first, min(first + n, 7))] for first in range(0, 7, n)]
    expected = [{"BatchInput": {"whose": "x"}, "Items": batch} for batch in batches]
    assert json.loads(until(engine, arn)["output"]) == expected
    run = map_run(engine, arn)
    assert run["itemCounts"]["succeeded"] == 7
    assert run["executionCounts"]["succeeded"] == len(batches)


@pytest.fixture(scope="module")
def bucket(engine):
    name = f"test-{uuid.uuid4().hex[:8]}"
    engine.client("s3").create_bucket(Bucket=name)
    return name


def judging(**fields) -> dict:
    """A Distributed Map over `$.items` whose children return an item that is not negative, twice."""
    bad = {"Variable": "$", "NumericLessThan": 0, "Next": "Bad"}
    states = {
        "Judge": {"Type": "Choice", "Choices": [bad], "Default": "Good"},
        "Good": {"Type": "Pass", "Parameters": {"both.$": "States.Array($, $)"}, "Next": "Both"},
        "Both": {"Type": "Pass", "InputPath": "$.both", "End": True},
        "Bad": {"Type": "Fail", "Error": "Negative", "Cause": "below zero"},
    }
    return distributed(states, "Judge", **fields)


def writer(bucket: str, **config) -> dict:
    """A ResultWriter that writes below out/ and the execution's name."""
    place = {"Bucket": bucket, "Prefix.$": "States.Format('out/{}', $$.Execution.Name)"}
    put = {"Resource": "arn:aws:states:::s3:putObject", "Parameters": place}
    return put | ({"WriterConfig": config} if config else {})


def written(engine, bucket: str, key: str) -> str:
    return engine.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()


def test_a_result_writer_writes_a_manifest_and_a_file_for_each_outcome(engine, bucket):
    """The state returns where its results lie: the children by outcome, behind a manifest."""
    states = judging(Label="All", ToleratedFailureCount=1, ResultWriter=writer(bucket))
    described = ended(engine, machine(engine, states, "Map"), {"items": [3, -1, 4]})
    run = map_run(engine, described["executionArn"])["mapRunArn"]
    folder = f"out/{described['name']}/{run.rpartition(':')[2]}"
    details = {"Bucket": bucket, "Key": f"{folder}/manifest.json"}
    assert json.loads(described["output"]) == {"MapRunArn": run, "ResultWriterDetails": details}
    texts = {
        outcome: written(engine, bucket, f"{folder}/{outcome}_0.json") for outcome in ("FAILED", "SUCCEEDED")
    }
    files = {
        outcome: [{"Key": f"{folder}/{outcome}_0.json", "Size": len(text)}] for outcome, text in texts.items()
    }
    manifest = {"DestinationBucket": bucket, "MapRunArn": run, "ResultFiles": {**files, "PENDING": []}}
    assert json.loads(written(engine, bucket, details["Key"])) == manifest
    (failed,) = json.loads(texts["FAILED"])
    assert {name: failed[name] for name in ("Status", "Error", "Cause", "Input", "RedriveStatus")} == {
        "Status": "FAILED",
        "Error": "Negative",
        "Cause": "below zero",
        "Input": "-1",
        "RedriveStatus": "REDRIVABLE_BY_MAP_RUN",
    }
    first, second = json.loads(texts["SUCCEEDED"])
    child = engine.client("stepfunctions").describe_execution(executionArn=first["ExecutionArn"])
    assert first == {
        "ExecutionArn": child["executionArn"],
        "Input": "3",
        "InputDetails": {"Included": True},
        "Name": child["name"],
        "Output": "[3, 3]",
        "OutputDetails": {"Included": True},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
        "StartDate": first["StartDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": "SUCCEEDED",
        "StopDate": first["StopDate"],
    }
    assert second["Input"] == "4"


def test_what_a_failed_map_run_did_not_start_is_written_as_pending(engine, bucket):
    """A Map Run that fails writes its manifest too: who failed, and the inputs that never started."""
    states = judging(MaxConcurrency=1, ResultWriter=writer(bucket))
    described = ended(engine, machine(engine, states, "Map"), {"items": [3, -1, 4]})
    assert described["error"] == "States.ExceedToleratedFailureThreshold"
    run = map_run(engine, described["executionArn"])["mapRunArn"]
    folder = f"out/{described['name']}/{run.rpartition(':')[2]}"
    pending = [{"Input": "4", "InputDetails": {"Included": True}, "Status": "PENDING"}]
    assert json.loads(written(engine, bucket, f"{folder}/PENDING_0.json")) == pending
    files = json.loads(written(engine, bucket, f"{folder}/manifest.json"))["ResultFiles"]
    assert {outcome: len(listed) for outcome, listed in files.items()} == {
        "FAILED": 1,
        "PENDING": 1,
        "SUCCEEDED": 1,
    }


@pytest.mark.parametrize(
    ("transformation", "lines"), [("COMPACT", [[3, 3], [4, 4]]), ("FLATTEN", [3, 3, 4, 4])]
)
def test_results_are_written_as_transformed(engine, bucket, transformation, lines):
    """WriterConfig writes outputs alone, arrays flattened if so asked, as JSON Lines if so asked."""
    config = {"Transformation": transformation, "OutputType": "JSONL"}
    described = ended(
        engine, machine(engine, judging(ResultWriter=writer(bucket, **config)), "Map"), {"items": [3, 4]}
    )
    key = json.loads(described["output"])["ResultWriterDetails"]["Key"]
    (file,) = json.loads(written(engine, bucket, key))["ResultFiles"]["SUCCEEDED"]
    assert [json.loads(line) for line in written(engine, bucket, file["Key"]).splitlines()] == lines


def test_a_bucket_that_is_not_there_fails_the_result_writer(engine):
    """Results that cannot be written fail the state with States.ResultWriterFailed."""
    states = judging(ResultWriter=writer("there-is-no-such-bucket"))
    described = ended(engine, machine(engine, states, "Map"), {"items": [3]})
    assert described["error"] == "States.ResultWriterFailed"
    assert map_run(engine, described["executionArn"])["status"] == "FAILED"


def test_a_failed_child_that_is_tolerated_is_told_among_the_results(engine):
    """Without a ResultWriter results come in the order of the items: of a failed child all that is known."""
    states = judging(ToleratedFailureCount=1, ResultWriter={"WriterConfig": {"Transformation": "FLATTEN"}})
    described = ended(engine, machine(engine, states, "Map"), {"items": [3, -1, 4]})
    *first, failed, third, fourth = json.loads(described["output"])
    assert [*first, failed["Error"], third, fourth] == [3, 3, "Negative", 4, 4]


def test_a_map_in_jsonata(engine):
    """Items, MaxConcurrency, ItemSelector and ItemBatcher may be JSONata."""
    url = queue(engine)
    batch = {"MaxItemsPerBatch": "{% $states.input.most %}", "BatchInput": "{% $states.input.whose %}"}
    map_state = {
        "Type": "Map",
        "QueryLanguage": "JSONata",
        "Items": "{% $states.input.items %}",
        "MaxConcurrency": "{% $states.input.most %}",
        "ItemSelector": {"n": "{% $states.context.Map.Item.Value + 1 %}"},
        "ItemBatcher": batch,
        "ItemProcessor": waiting(url)["Map"]["ItemProcessor"],
        "Output": "{% $count($states.result) %}",
        "End": True,
    }
    data = {"items": list(range(6)), "most": 2, "whose": "x"}
    arn = start(engine, machine(engine, {"Map": map_state}, "Map"), data)
    tokens = [receive_token(engine, url) for _ in range(2)]
    run = map_run(engine, arn)
    assert (run["maxConcurrency"], run["executionCounts"]) == (2, {"running": 2, "pending": 1, "total": 3})
    inputs = [json.loads(child["input"]) for child in children(engine, run["mapRunArn"])]
    inputs.sort(key=lambda batch: batch["Items"][0]["n"])
    assert inputs == [{"BatchInput": "x", "Items": [{"n": n}, {"n": n + 1}]} for n in (1, 3)]
    sfn = engine.client("stepfunctions")
    for token in tokens:
        sfn.send_task_success(taskToken=token, output="1")
    sfn.send_task_success(taskToken=receive_token(engine, url), output="1")
    assert json.loads(until(engine, arn)["output"]) == 3


@pytest.mark.parametrize("kind", ["STANDARD", "EXPRESS"])
def test_children_are_named_after_their_map(engine, kind):
    """The ARNs of a Map Run and its children bear the Label; an Express child has an id besides its name."""
    states = distributed(ECHO, "Echo", Label="All")
    states["Map"]["ItemProcessor"]["ProcessorConfig"]["ExecutionType"] = kind
    described = ended(engine, machine(engine, states, "Map"), {"items": [7]})
    assert json.loads(described["output"]) == [7]
    prefix, _, name = described["stateMachineArn"].rpartition(":stateMachine:")
    run = map_run(engine, described["executionArn"])["mapRunArn"]
    (child,) = children(engine, run)
    assert run.rpartition(":")[0] == f"{prefix}:mapRun:{name}/All"
    assert child["stateMachineArn"] == f"{prefix}:stateMachine:{name}/All"
    resource = {"STANDARD": "execution", "EXPRESS": "express"}[kind]
    assert child["executionArn"] == f"{prefix}:{resource}:{name}/All:{child['name']}"
    assert child["name"].count(":") == (kind == "EXPRESS")


def test_the_concurrency_of_an_inline_map_may_be_jsonata(engine):
    """MaxConcurrency as a JSONata expression limits the iterations of an inline Map."""
    url = queue(engine)
    map_state = {
        "Type": "Map",
        "QueryLanguage": "JSONata",
        "MaxConcurrency": "{% $states.input[0] %}",
        "ItemProcessor": {"StartAt": "Wait", "States": callback(url)},
        "End": True,
    }
    start(engine, machine(engine, {"Map": map_state}, "Map"), [2, 2, 2])
    for _ in range(2):
        receive_token(engine, url)
    assert no_more(engine, url)
