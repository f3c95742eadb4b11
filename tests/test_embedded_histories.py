"""The embedded engine's execution histories are those that AWS documents, its children's too."""

import json
import time
import uuid

from machines import (
    PATIENCE_SECONDS,
    callback,
    distributed,
    ended,
    machine,
    queue,
    receive_token,
    start,
    until,
)
from test_embedded_functions import function

PASS = {"Type": "Pass", "End": True}
FAIL = {"Type": "Fail", "Error": "Bad", "Cause": "told"}


def events(engine, arn: str) -> list[dict]:
    """The events of an execution, which are counted from 1."""
    pages = engine.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn)
    found = [event for page in pages for event in page["events"]]
    assert list(range(1, len(found) + 1)) == [event["id"] for event in found]
    return found


def told(event: dict) -> dict:
    """The details of an event."""
    return next((value for name, value in event.items() if name.endswith("EventDetails")), {})


def chain(history: list[dict]) -> list[tuple[int, str]]:
    """Of each event, the id of the one before it, and its type."""
    return [(event["previousEventId"], event["type"]) for event in history]


def children(engine, arn: str) -> list[str]:
    """The children of the only Map Run of an execution, by their input."""
    sfn = engine.client("stepfunctions")
    (run,) = sfn.list_map_runs(executionArn=arn)["mapRuns"]
    found = [one["executionArn"] for one in sfn.list_executions(mapRunArn=run["mapRunArn"])["executions"]]
    return sorted(found, key=lambda child: sfn.describe_execution(executionArn=child)["input"])


def test_a_callback_task_tells_its_story(engine):
    """It is scheduled with arguments and clocks, started, submitted once its message is sent, and succeeds:
    each event names the one before, and times never go back."""
    url = queue(engine)
    arn = machine(engine, callback(url, TimeoutSeconds=60, HeartbeatSeconds=30), "Wait")
    before = time.time()
    execution = start(engine, arn, {"n": "é"})
    token = receive_token(engine, url)
    engine.client("stepfunctions").send_task_success(taskToken=token, output='{"ok": 1}')
    described = until(engine, execution)
    history = events(engine, execution)
    assert chain(history) == [
        (0, "ExecutionStarted"),
        (0, "TaskStateEntered"),
        (2, "TaskScheduled"),
        (3, "TaskStarted"),
        (4, "TaskSubmitted"),
        (5, "TaskSucceeded"),
        (6, "TaskStateExited"),
        (7, "SucceedStateEntered"),
        (8, "SucceedStateExited"),
        (9, "ExecutionSucceeded"),
    ]
    calls = {"resourceType": "sqs", "resource": "sendMessage.waitForTaskToken"}
    scheduled = told(history[2])
    assert {"QueueUrl": url, "MessageBody": {"token": token}} == json.loads(scheduled.pop("parameters"))
    clocks = {"timeoutInSeconds": 60, "heartbeatInSeconds": 30}
    assert calls | clocks | {"region": "us-east-1"} == scheduled
    assert calls == told(history[3]) == told(history[4])
    assert calls | {"output": '{"ok": 1}'} == told(history[5])
    times = [event["timestamp"] for event in history]
    assert times == sorted(times)
    assert (described["startDate"], described["stopDate"]) == (times[0], times[-1])
    assert before - 0.001 <= times[0].timestamp() <= times[-1].timestamp() <= time.time()


def test_a_task_that_is_answered_with_an_error_failed(engine):
    """TaskFailed tells the error and the cause; they are the execution's."""
    url = queue(engine)
    execution = start(engine, machine(engine, callback(url, Catch=[]), "Wait"), {})
    error = {"error": "Bad", "cause": "told"}
    engine.client("stepfunctions").send_task_failure(taskToken=receive_token(engine, url), **error)
    until(engine, execution)
    failed, last = events(engine, execution)[-2:]
    calls = {"resourceType": "sqs", "resource": "sendMessage.waitForTaskToken"}
    assert [("TaskFailed", calls | error), ("ExecutionFailed", error)] == [
        (event["type"], told(event)) for event in (failed, last)
    ]


def test_a_task_without_an_answer_in_time_timed_out(engine):
    """TaskTimedOut tells the error; a heartbeat leaves no event."""
    url = queue(engine)
    execution = start(engine, machine(engine, callback(url, TimeoutSeconds=1, Catch=[]), "Wait"), {})
    engine.client("stepfunctions").send_task_heartbeat(taskToken=receive_token(engine, url))
    until(engine, execution)
    history = events(engine, execution)
    assert [event["type"] for event in history][4:] == ["TaskSubmitted", "TaskTimedOut", "ExecutionFailed"]
    assert told(history[5])["error"] == "States.Timeout"


def test_a_function_and_an_activity_have_events_of_their_own(engine):
    """What a Task calls by its ARN names the events; an activity starts when a worker fetches the task."""
    sfn, aws = engine.client("stepfunctions"), engine.client("lambda")
    name = function(engine, "def handler(event, context):\n    return 1\n")
    calls = aws.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    activity = sfn.create_activity(name=f"test-{uuid.uuid4().hex[:8]}")["activityArn"]
    task = {"Type": "Task", "TimeoutSeconds": 60}
    states = {
        "Call": task | {"Resource": calls, "Next": "Do"},
        "Do": task | {"Resource": activity, "End": True},
    }
    execution = start(engine, machine(engine, states, "Call"), {"n": 1})
    token = sfn.get_activity_task(activityArn=activity, workerName="ann")["taskToken"]
    sfn.send_task_success(taskToken=token, output="2")
    until(engine, execution)
    assert [(event["type"], told(event)) for event in events(engine, execution)[2:-1]] == [
        ("LambdaFunctionScheduled", {"resource": calls, "input": '{"n":1}', "timeoutInSeconds": 60}),
        ("LambdaFunctionStarted", {}),
        ("LambdaFunctionSucceeded", {"output": "1"}),
        ("TaskStateExited", {"name": "Call", "output": "1"}),
        ("TaskStateEntered", {"name": "Do", "input": "1"}),
        ("ActivityScheduled", {"resource": activity, "input": "1", "timeoutInSeconds": 60}),
        ("ActivityStarted", {"workerName": "ann"}),
        ("ActivitySucceeded", {"output": "2"}),
        ("TaskStateExited", {"name": "Do", "output": "2"}),
    ]


def each(states: dict, first: str, **fields) -> dict:
    """An inline Map over its input."""
    processor = {"StartAt": first, "States": states}
    return {"Each": {"Type": "Map", "ItemProcessor": processor, "End": True} | fields}


def test_the_iterations_of_an_inline_map_are_told_apart(engine):
    """MapStateStarted tells how many there are; each has a name, an index and a line of events of its own."""
    states = {"Do": {"Type": "Pass", "Next": "Done"}, "Done": {"Type": "Succeed"}}
    described = ended(engine, machine(engine, each(states, "Do"), "Each"), ["a", "b"])
    history = events(engine, described["executionArn"])
    outer = [event for event in history if event["type"].startswith("Map")]
    assert [event["type"] for event in (*outer[:2], *outer[-2:])] == [
        *("MapStateEntered", "MapStateStarted", "MapStateSucceeded", "MapStateExited")
    ]
    assert told(outer[1]) == {"length": 2}
    started = [event for event in history if event["type"] == "MapIterationStarted"]
    assert sorted(told(event)["index"] for event in started) == [0, 1]
    for first in started:
        assert outer[1]["id"] == first["previousEventId"]
        line = [first]
        while line[-1]["type"] != "MapIterationSucceeded":
            (after,) = [event for event in history if event["previousEventId"] == line[-1]["id"]]
            line.append(after)
        assert [event["type"] for event in line[1:-1]] == [
            *("PassStateEntered", "PassStateExited", "SucceedStateEntered", "SucceedStateExited")
        ]
        assert told(first) == told(line[-1])
        assert {"name": "Each", "index": told(first)["index"]} == told(first)
        assert json.dumps("ab"[told(first)["index"]]) == told(line[1])["input"] == told(line[4])["output"]


def test_an_iteration_that_fails_and_one_that_is_stopped(engine):
    """One failed iteration leaves MapIterationFailed, what ran beside it MapIterationAborted, and the Map
    MapStateFailed though its error is caught."""
    choose = {"Type": "Choice", "Choices": [{"Variable": "$", "NumericEquals": 0, "Next": "Nap"}]}
    states = {
        "Choose": choose | {"Default": "Soon"},
        "Soon": {"Type": "Wait", "Seconds": 1, "Next": "Bad"},
        "Bad": FAIL,
        "Nap": {"Type": "Wait", "Seconds": 100, "End": True},
    }
    catch = [{"ErrorEquals": ["Bad"], "Next": "Caught"}]
    arn = machine(engine, each(states, "Choose", Catch=catch) | {"Caught": PASS}, "Each")
    execution = start(engine, arn, [0, 1])
    until(engine, execution)
    history = events(engine, execution)
    of = {event["type"]: event for event in history}
    assert [told(of[f"MapIteration{how}"]) for how in ("Failed", "Aborted")] == [
        {"name": "Each", "index": 1},
        {"name": "Each", "index": 0},
    ]
    assert told(of["FailStateEntered"]) == {"name": "Bad", "input": "1"}
    assert of["MapIterationFailed"]["id"] < of["MapStateFailed"]["id"] < of["MapStateExited"]["id"]
    assert of["WaitStateAborted"]["id"] + 1 == of["MapIterationAborted"]["id"]


def busy(last: str) -> dict:
    """An inline Map whose iterations go through sixty states each, the last through that which is named."""
    choose = {"Type": "Choice", "Choices": [{"Variable": "$", "NumericEquals": 39, "Next": last}]}
    states = {f"Do{n}": {"Type": "Pass", "Next": f"Do{n + 1}"} for n in range(60)}
    states |= {"Choose": choose | {"Default": "Do0"}, "Do60": PASS, "Bad": FAIL}
    catch = [{"ErrorEquals": ["Bad"], "Next": "Caught"}]
    return each(states, "Choose", Catch=catch) | {"Caught": {"Type": "Wait", "Seconds": 1, "End": True}}


def test_what_is_aborted_tells_no_more(engine):
    """Iterations that are under way when another fails end there: no event of theirs follows their end."""
    arn = machine(engine, busy("Bad"), "Each")
    for _ in range(5):
        execution = start(engine, arn, list(range(40)))
        until(engine, execution)
        line, over = {}, set()
        for event in events(engine, execution):
            line[event["id"]] = line.get(event["previousEventId"])
            if event["type"] == "MapIterationStarted":
                line[event["id"]] = event["id"]
            if event["type"].startswith(("PassState", "MapIteration")):
                assert line[event["id"]] not in over
            if event["type"] in ("MapIterationFailed", "MapIterationAborted", "MapIterationSucceeded"):
                over.add(line[event["id"]])


def test_the_branches_of_a_parallel_are_told_apart(engine):
    """ParallelStateStarted comes before both branches, ParallelStateSucceeded after them."""
    branches = [{"StartAt": name, "States": {name: PASS}} for name in ("One", "Two")]
    both = {"Both": {"Type": "Parallel", "Branches": branches, "End": True}}
    history = events(engine, ended(engine, machine(engine, both, "Both"), {})["executionArn"])
    of = {event["type"]: event["id"] for event in history}
    entered = [event for event in history if event["type"] == "PassStateEntered"]
    exited = [event for event in history if event["type"] == "PassStateExited"]
    assert {of["ParallelStateStarted"]} == {event["previousEventId"] for event in entered}
    assert {"One", "Two"} == {told(event)["name"] for event in entered}
    for out in exited:
        (into,) = [event for event in entered if event["id"] == out["previousEventId"]]
        assert told(into)["name"] == told(out)["name"]
    assert of["ParallelStateSucceeded"] > max(event["id"] for event in exited)


def test_a_child_has_a_history_of_its_own(engine):
    """The parent's tells of the Map Run, not of the children; a child's goes from its start to its end."""
    choose = {"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericEquals": 1, "Next": "Bad"}]}
    states = {"Choose": choose | {"Default": "Do"}, "Do": PASS, "Bad": FAIL}
    fields = {"MaxConcurrency": 1, "ToleratedFailurePercentage": 100}
    arn = machine(engine, distributed(states, "Choose", **fields), "Map")
    described = ended(engine, arn, {"items": [{"n": 0}, {"n": 1}]})
    sfn = engine.client("stepfunctions")
    history = events(engine, described["executionArn"])
    assert chain(history)[2:-1] == [
        (2, "MapStateStarted"),
        (3, "MapRunStarted"),
        (4, "MapRunSucceeded"),
        (5, "MapStateSucceeded"),
        (6, "MapStateExited"),
    ]
    (run,) = sfn.list_map_runs(executionArn=described["executionArn"])["mapRuns"]
    assert {"mapRunArn": run["mapRunArn"]} == told(history[3])
    good, bad = children(engine, described["executionArn"])
    assert chain(events(engine, good)) == [
        (0, "ExecutionStarted"),
        (0, "ChoiceStateEntered"),
        (2, "ChoiceStateExited"),
        (3, "PassStateEntered"),
        (4, "PassStateExited"),
        (5, "ExecutionSucceeded"),
    ]
    child = sfn.describe_execution(executionArn=good)
    first, *_, last = events(engine, good)
    assert {"n": 0} == json.loads(told(first)["input"]) == json.loads(told(last)["output"])
    assert child["startDate"] <= first["timestamp"] <= last["timestamp"] <= child["stopDate"]
    *_, entered, failed = events(engine, bad)
    assert [entered["type"], failed["type"]] == ["FailStateEntered", "ExecutionFailed"]
    assert told(failed) == {"error": "Bad", "cause": "told"}


def test_a_map_run_that_fails(engine):
    """MapRunFailed tells why, then the Map has failed, and the execution."""
    arn = machine(engine, distributed({"Bad": FAIL}, "Bad"), "Map")
    history = events(engine, ended(engine, arn, {"items": [1]})["executionArn"])
    assert [event["type"] for event in history[-3:]] == ["MapRunFailed", "MapStateFailed", "ExecutionFailed"]
    assert told(history[-3])["error"] == "States.ExceedToleratedFailureThreshold"


def test_the_end_is_the_last_event(engine):
    """Nothing is noted after an execution has ended, however much of it was under way."""
    sfn = engine.client("stepfunctions")
    states = busy("Nap")
    # Those that come so far wait: however late it is stopped, the execution has not ended by itself.
    nap = {"Nap": {"Type": "Wait", "Seconds": 3600, "End": True}}
    inner = states["Each"]["ItemProcessor"]["States"]
    inner |= nap | {"Do60": {"Type": "Pass", "Next": "Nap"}}
    arn = machine(engine, states, "Each")
    for _ in range(5):
        execution = start(engine, arn, list(range(40)))
        while len(sfn.get_execution_history(executionArn=execution, maxResults=1000)["events"]) < 200:
            assert sfn.describe_execution(executionArn=execution)["status"] == "RUNNING"
        sfn.stop_execution(executionArn=execution)
        time.sleep(0.2)
        found = events(engine, execution)
        assert chain(found)[-1:] == [(0, "ExecutionAborted")]
        assert sum(event["type"] == "ExecutionAborted" for event in found) == 1


def test_a_child_that_is_stopped(engine):
    """The history of a child ends when its Map Run is stopped."""
    url = queue(engine)
    arn = machine(engine, distributed(callback(url), "Wait"), "Map")
    execution = start(engine, arn, {"items": [1]})
    receive_token(engine, url)
    engine.client("stepfunctions").stop_execution(executionArn=execution)
    (child,) = children(engine, execution)
    until(engine, child)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while events(engine, child)[-1]["type"] != "ExecutionAborted":
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_history_that_is_full_fails_the_execution(engine):
    """The 25,000th event is the end of an execution that goes on and on: States.Runtime."""
    again = {"Type": "Choice", "Choices": [{"Variable": "$", "IsPresent": True, "Next": "Again"}]}
    described = ended(engine, machine(engine, {"Again": again}, "Again"), 1)
    cause = "The execution reached the maximum number of history events (25000)."
    assert ("FAILED", "States.Runtime", cause) == tuple(
        described[key] for key in ("status", "error", "cause")
    )
    sfn = engine.client("stepfunctions")
    last, before = sfn.get_execution_history(
        executionArn=described["executionArn"], reverseOrder=True, maxResults=2
    )["events"]
    assert [(event["id"], event["type"]) for event in (last, before)] == [
        (25_000, "ExecutionFailed"),
        (24_999, "ChoiceStateExited"),
    ]
