"""Task tokens, heartbeats and time-outs."""

import json
import time
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import Site, callback, caught, mapped, outcome, sorted_out

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
API = "https://docs.aws.amazon.com/step-functions/latest/apireference"
TOKEN = f"{GUIDE}/connect-to-resource.html"
ERRORS = f"{GUIDE}/concepts-error-handling.html"
TASK = f"{GUIDE}/state-task.html"
SUCCESS = f"{API}/API_SendTaskSuccess.html"
HEARTBEAT = f"{API}/API_SendTaskHeartbeat.html"
ACTIVITY = f"{GUIDE}/concepts-activities.html"


def waiting(site: Site, data: Any = None, **fields: Any) -> tuple[str, str]:
    """(execution, token) of a callback task that waits; the name that catches its error is its output."""
    url = site.queue()
    errors = ("States.HeartbeatTimeout", "States.TaskFailed", "States.Timeout", "States.ALL")
    execution = site.start(site.machine(sorted_out(callback(url, **fields), *errors)), data)
    return execution, token(site, url)


def token(site: Site, url: str) -> str:
    """The next token that a queue brings."""
    found: str = site.one(url)["token"]
    return found


@probe(TOKEN, {"ok": 1}, lesson=True)
def success_ends_task(site: Site) -> Any:
    """A .waitForTaskToken task pauses until its token comes back with SendTaskSuccess, whose output is its
    result."""
    execution, mine = waiting(site)
    running = site.end(execution, seconds=1)["status"]
    site.answer(mine, {"ok": 1})
    return outcome(site.end(execution)) if running == "RUNNING" else running


@probe(TOKEN, {"Error": "BadItem", "Cause": "rotten"}, lesson=True)
def failure_caught_by_name(site: Site) -> Any:
    """SendTaskFailure fails the task with its error, which Catch and Retry know by name, cause beside it."""
    url = site.queue()
    execution = site.start(site.machine(caught(callback(url), "BadItem")))
    site.sfn.send_task_failure(taskToken=token(site, url), error="BadItem", cause="rotten")
    return outcome(site.end(execution))


@probe(ERRORS, {"caught as": "States.Timeout"}, lesson=True)
def timeout_expires(site: Site) -> Any:
    """A task that runs longer than TimeoutSeconds fails with States.Timeout."""
    execution, _ = waiting(site, TimeoutSeconds=2)
    return outcome(site.end(execution))


@probe(TASK, {"caught as": "States.Timeout"}, lesson=True)
def timeout_seconds_path(site: Site) -> Any:
    """TimeoutSecondsPath reads the time-out from the state's input."""
    execution, _ = waiting(site, {"limit": 2}, TimeoutSeconds=None, TimeoutSecondsPath="$.limit")
    return outcome(site.end(execution))


@probe(ERRORS, {"caught as": "States.Timeout"})
def timeout_is_not_task_failed(site: Site) -> Any:
    """States.TaskFailed matches any error of a task but States.Timeout."""
    states = sorted_out(callback(site.queue(), TimeoutSeconds=1), "States.TaskFailed", "States.Timeout")
    return site.outcome(states)


@probe(ERRORS, {"caught as": "States.HeartbeatTimeout"}, lesson=True)
def heartbeat_expires(site: Site) -> Any:
    """HeartbeatSeconds without a heartbeat ends the task: caught and retried as States.HeartbeatTimeout."""
    return site.outcome(sorted_out(callback(site.queue(), HeartbeatSeconds=2), "States.HeartbeatTimeout"))


@probe(TOKEN, {"caught as": "States.Timeout"}, lesson=True)
def heartbeat_caught_as_timeout(site: Site) -> Any:
    """States.Timeout matches a task that was silent for longer than HeartbeatSeconds, too."""
    return site.outcome(sorted_out(callback(site.queue(), HeartbeatSeconds=2), "States.Timeout"))


@probe(HEARTBEAT, ["RUNNING", {"caught as": "States.HeartbeatTimeout"}], lesson=True)
def heartbeat_extends(site: Site) -> Any:
    """SendTaskHeartbeat starts the heartbeat clock anew: a task lives on as long as they come."""
    execution, mine = waiting(site, HeartbeatSeconds=6)
    for _ in range(5):
        time.sleep(1.5)
        site.sfn.send_task_heartbeat(taskToken=mine)
    return [site.end(execution, seconds=0)["status"], outcome(site.end(execution))]


@probe(HEARTBEAT, {"caught as": "States.Timeout"}, lesson=True)
def heartbeat_does_not_extend_timeout(site: Site) -> Any:
    """TimeoutSeconds is a task's longest duration, however many heartbeats come."""
    execution, mine = waiting(site, TimeoutSeconds=4, HeartbeatSeconds=3)

    def over() -> bool:
        return site.refused(site.sfn.send_task_heartbeat, taskToken=mine) != "accepted"

    site.until(over, seconds=15)
    return outcome(site.end(execution))


@probe(TASK, {"caught as": "States.HeartbeatTimeout"}, lesson=True)
def heartbeat_seconds_path(site: Site) -> Any:
    """HeartbeatSecondsPath reads the longest silence from the state's input."""
    execution, _ = waiting(site, {"limit": 2}, HeartbeatSecondsPath="$.limit")
    return outcome(site.end(execution))


@probe(SUCCESS, "InvalidToken", lesson=True)
def bogus_token_refused(site: Site) -> Any:
    """A token that is none is refused: InvalidToken."""
    return site.answer("bogus")


@probe(SUCCESS, ["accepted", "TaskTimedOut", 1], lesson=True)
def second_answer_refused(site: Site) -> Any:
    """One token, one answer: a second is refused with TaskTimedOut (the task has been closed), and the first
    stands."""
    execution, mine = waiting(site)
    return [site.answer(mine, 1), site.answer(mine, 2), outcome(site.end(execution))]


@probe(SUCCESS, "TaskTimedOut", lesson=True)
def late_answer_refused(site: Site) -> Any:
    """The answer of a task that has timed out is refused: TaskTimedOut."""
    execution, mine = waiting(site, TimeoutSeconds=1)
    site.end(execution)
    return site.answer(mine)


@probe(HEARTBEAT, "TaskTimedOut", lesson=True)
def late_heartbeat_refused(site: Site) -> Any:
    """The heartbeat of a task that has timed out is refused: TaskTimedOut."""
    execution, mine = waiting(site, HeartbeatSeconds=1, TimeoutSeconds=3)
    site.end(execution)
    return site.refused(site.sfn.send_task_heartbeat, taskToken=mine)


@probe(SUCCESS, "TaskTimedOut", lesson=True)
def stopped_token_refused(site: Site) -> Any:
    """Stopping an execution closes its tasks: their tokens are refused with TaskTimedOut."""
    execution, mine = waiting(site)
    site.sfn.stop_execution(executionArn=execution)
    site.end(execution)
    return site.answer(mine)


@probe(TOKEN, ["TaskTimedOut", "accepted", "new"], lesson=True)
def retry_after_timeout_new_token(site: Site) -> Any:
    """A callback task that times out and is retried waits for a new random token; the old one is refused and
    cannot end the new attempt."""
    url = site.queue()
    retry = [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    execution = site.start(site.machine({"Do": callback(url, TimeoutSeconds=10, Retry=retry)}))
    old = token(site, url)
    new = token(site, url)
    refused = site.answer(old, "old")
    return [refused, site.answer(new, "new"), outcome(site.end(execution))]


@probe(TOKEN, {"tokens": 3, "counts": [0, 1, 2], "outcome": "done"}, lesson=True)
def retry_after_failure_new_token(site: Site) -> Any:
    """SendTaskFailure closes a token: each retry waits for its own; $$.State.RetryCount counts them."""
    url = site.queue()
    retry = [{"ErrorEquals": ["Passing"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 1}]
    state = callback(url, Retry=retry)
    state["Parameters"]["MessageBody"]["retries.$"] = "$$.State.RetryCount"
    execution = site.start(site.machine({"Do": state}))
    seen = []
    for _ in range(3):
        body = site.one(url)
        seen.append(body)
        if len(seen) < 3:
            site.sfn.send_task_failure(taskToken=body["token"], error="Passing")
    site.answer(body["token"], "done")
    return {
        "tokens": len({body["token"] for body in seen}),
        "counts": [body["retries"] for body in seen],
        "outcome": outcome(site.end(execution)),
    }


@probe(TOKEN, 5, lesson=True)
def token_for_each_branch(site: Site) -> Any:
    """Each iteration of a Map and each branch of a Parallel waits for a token of its own."""
    url = site.queue()
    branch = {"StartAt": "Do", "States": {"Do": callback(url)}}
    states = {
        "Both": {
            "Type": "Parallel",
            "Branches": [
                branch,
                branch,
                {"StartAt": "Each", "States": {"Each": mapped({"One": callback(url)})}},
            ],
            "End": True,
        }
    }
    site.start(site.machine(states), [1, 2, 3])
    return len({body["token"] for body in site.take(url, 5)})


@probe(SUCCESS, "InvalidOutput")
def output_must_be_json(site: Site) -> Any:
    """SendTaskSuccess with an output that is no JSON is refused: InvalidOutput."""
    _, mine = waiting(site)
    return site.refused(site.sfn.send_task_success, taskToken=mine, output="{not json")


@probe(TOKEN, {"got": {"ok": 1}})
def jsonata(site: Site) -> Any:
    """In JSONata the token is $states.context.Task.Token, and Output shapes the result."""
    url = site.queue()
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Arguments": {"QueueUrl": url, "MessageBody": {"token": "{% $states.context.Task.Token %}"}},
        "Output": {"got": "{% $states.result %}"},
        "TimeoutSeconds": 60,
        "End": True,
    }
    execution = site.start(site.machine({"Do": state}, QueryLanguage="JSONata"))
    site.answer(token(site, url), {"ok": 1})
    return outcome(site.end(execution))


@probe(TOKEN, {"from": "callback"}, needs="lambda")
def function_waits(site: Site) -> Any:
    """lambda:invoke.waitForTaskToken: what the handler returns is ignored; SendTaskSuccess ends the task."""
    log, name = site.queue(), site.function()
    payload = {"do": "return", "log": log, "item.$": "$$.Task.Token"}
    execution = site.start(site.machine({"Do": function_task(name, payload)}))
    facts = site.one(log)
    still = site.end(execution, seconds=1)["status"]
    site.answer(facts["items"][0], {"from": "callback"})
    return outcome(site.end(execution)) if still == "RUNNING" else still


@probe(TOKEN, "FAILED AsTold", needs="lambda")
def function_error_fails_wait(site: Site) -> Any:
    """lambda:invoke.waitForTaskToken: a handler's exception fails the task with its class as the error."""
    payload = {"do": "fail", "item.$": "$$.Task.Token"}
    return outcome(site.end(site.start(site.machine({"Do": function_task(site.function(), payload)}))))


def function_task(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """A task that invokes a function with a token and waits."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": name, "Payload": payload},
        "TimeoutSeconds": 60,
        "End": True,
    }


def activity(site: Site, **fields: Any) -> tuple[str, str]:
    """(execution, activity) of a machine that waits for a worker of an activity."""
    arn = site.sfn.create_activity(name=site.name())["activityArn"]
    site.undo.append(lambda: site.sfn.delete_activity(activityArn=arn))
    state = {"Type": "Task", "Resource": arn, "TimeoutSeconds": 60, "End": True, **fields}
    return site.start(site.machine(sorted_out(state, "States.HeartbeatTimeout")), {"n": 1}), arn


@probe(ACTIVITY, [{"n": 1}, "done"], lesson=True)
def activity_worker(site: Site) -> Any:
    """A worker polls an activity with GetActivityTask and answers with its token."""
    execution, arn = activity(site)
    task = site.sfn.get_activity_task(activityArn=arn)
    site.answer(task["taskToken"], "done")
    return [json.loads(task["input"]), outcome(site.end(execution))]


@probe(ACTIVITY, {"caught as": "States.HeartbeatTimeout"}, lesson=True)
def activity_heartbeat_expires(site: Site) -> Any:
    """A silent activity worker loses its task after HeartbeatSeconds."""
    execution, arn = activity(site, HeartbeatSeconds=2)
    site.sfn.get_activity_task(activityArn=arn)
    return outcome(site.end(execution))
