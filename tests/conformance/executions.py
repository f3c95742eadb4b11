"""State machines, their executions and their tasks."""

import json
import re
import time
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import FAIL, PASS, Site, callback, caught, outcome

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
API = "https://docs.aws.amazon.com/step-functions/latest/apireference"
ERRORS = f"{GUIDE}/concepts-error-handling.html"
LAMBDA = f"{GUIDE}/connect-lambda.html"


@probe(f"{GUIDE}/statemachine-structure.html", "TIMED_OUT", lesson=True)
def timeout_of_execution(site: Site) -> Any:
    """An execution that runs longer than its state machine's TimeoutSeconds ends as TIMED_OUT."""
    return site.outcome({"Do": callback(site.queue())}, TimeoutSeconds=2).split()[0]


@probe(f"{API}/API_StopExecution.html", ["ABORTED", "Ours", "because"])
def stop(site: Site) -> Any:
    """StopExecution ends an execution as ABORTED, with the error and cause it is given."""
    execution = site.start(site.machine({"Do": callback(site.queue())}))
    site.sfn.stop_execution(executionArn=execution, error="Ours", cause="because")
    ended = site.end(execution)
    return [ended["status"], ended.get("error"), ended.get("cause")]


@probe(f"{GUIDE}/connect-to-resource.html", ["SUCCEEDED", 1], lesson=True)
def request_response_does_not_wait(site: Site) -> Any:
    """sqs:sendMessage alone is over when the service has answered: the execution ends before the work."""
    url = site.queue()
    send = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": url, "MessageBody.$": "$"},
        "End": True,
    }
    status = site.end(site.start(site.machine({"Send": send}), {"n": 1}))["status"]
    return [status, len(site.take(url, 1, quiet=0))]


@probe(f"{GUIDE}/connect-to-resource.html", "InvalidDefinition", lesson=True)
def express_refuses_callback(site: Site) -> Any:
    """.waitForTaskToken is for Standard workflows only: an Express one with it is refused."""
    return site.refused(site.machine, states={"Do": callback(site.queue())}, kind="EXPRESS")


@probe(f"{API}/API_CreateStateMachine.html", "InvalidDefinition")
def dangling_state_refused(site: Site) -> Any:
    """A definition that breaks the Amazon States Language (a state without Next or End) is refused."""
    return site.refused(site.machine, states={"Do": {"Type": "Pass"}})


@probe(f"{GUIDE}/state-task.html", "InvalidDefinition")
def heartbeat_over_timeout_refused(site: Site) -> Any:
    """HeartbeatSeconds must be less than TimeoutSeconds."""
    states = {"Do": callback(site.queue(), TimeoutSeconds=5, HeartbeatSeconds=5)}
    return site.refused(site.machine, states=states)


@probe(f"{API}/API_StartExecution.html", [True, "ExecutionAlreadyExists"], lesson=True)
def start_is_idempotent(site: Site) -> Any:
    """StartExecution with the name and input of a running execution returns it; with other input it is
    refused."""
    machine = site.machine({"Do": callback(site.queue())})
    start = site.sfn.start_execution
    one, same = (start(stateMachineArn=machine, name="n", input="1")["executionArn"] for _ in range(2))
    return [one == same, site.refused(start, stateMachineArn=machine, name="n", input="2")]


@probe(f"{GUIDE}/input-output-contextobject.html", [True, True], lesson=True)
def context_object(site: Site) -> Any:
    """$$ has the times at which the execution started and the state was entered (ISO 8601, milliseconds)."""
    fields = {"start.$": "$$.Execution.StartTime", "entered.$": "$$.State.EnteredTime"}
    states = {"Do": {"Type": "Pass", "Parameters": fields, "End": True}}
    seen = site.outcome(states)
    times = [seen["start"], seen["entered"]]
    return [times == sorted(times), all(re.search(r"T.*\.\d{3}Z$", time) for time in times)]


@probe(f"{GUIDE}/intrinsic-functions.html", {"n": 7, "text": "items/7", "sum": 8}, lesson=True)
def intrinsic_functions(site: Site) -> Any:
    """States.StringToJson, States.Format and States.MathAdd compute in a state's Parameters."""
    fields = {
        "n.$": "States.StringToJson($.n)",
        "text.$": "States.Format('items/{}', $.n)",
        "sum.$": "States.MathAdd(States.StringToJson($.n), 1)",
    }
    return site.outcome({"Do": {"Type": "Pass", "Parameters": fields, "End": True}}, {"n": "7"})


@probe(f"{GUIDE}/supported-services-awssdk.html", {"n": 1}, lesson=True)
def sdk_puts_object(site: Site) -> Any:
    """aws-sdk:s3:putObject writes an object; its Body may be any JSON value."""
    fields = {"Bucket": (bucket := site.bucket()), "Key": "out.json", "Body.$": "$"}
    put = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:s3:putObject",
        "Parameters": fields,
        "End": True,
    }
    site.outcome({"Do": put}, {"n": 1})
    return json.load(site.s3.get_object(Bucket=bucket, Key="out.json")["Body"])


@probe(f"{API}/API_StartExecution.html", "ExecutionAlreadyExists")
def name_of_ended_execution_taken(site: Site) -> Any:
    """The name of an execution that has ended cannot be used again for 90 days."""
    machine = site.machine(PASS)
    execution = site.sfn.start_execution(stateMachineArn=machine, name="n", input="1")["executionArn"]
    site.end(execution)
    return site.refused(site.sfn.start_execution, stateMachineArn=machine, name="n", input="1")


@probe(f"{GUIDE}/redrive-executions.html", ["FAILED", "SUCCEEDED", 1])
def redrive(site: Site) -> Any:
    """RedriveExecution runs a failed execution on from the state that failed."""
    url = site.queue()
    execution = site.start(site.machine({"Ask": callback(url)}))
    body = site.one(url)
    site.sfn.send_task_failure(taskToken=body["token"], error="Passing")
    first = site.end(execution)["status"]
    site.sfn.redrive_execution(executionArn=execution)
    body = site.one(url)
    site.answer(body["token"])
    ended = site.end(execution)
    return [first, ended["status"], ended.get("redriveCount")]


@probe(f"{API}/API_UpdateStateMachine.html", ["old", "new"], lesson=True)
def running_execution_keeps_definition(site: Site) -> Any:
    """An execution under way keeps the definition that it started with; later ones have the new one."""
    url = site.queue()

    def states(word: str) -> dict[str, Any]:
        ask = callback(url, ResultPath=None, Next="Say", End=None)
        return {"Ask": ask, "Say": {"Type": "Pass", "Result": word, "End": True}}

    machine = site.machine(states("old"))
    old = site.start(machine)
    body = site.one(url)
    site.update(machine, states("new"))
    site.answer(body["token"])
    if site.on_aws:
        time.sleep(15)  # "a few seconds" may pass until executions use the new definition
    new = site.start(machine)
    body = site.one(url)
    site.answer(body["token"])
    return [outcome(site.end(old)), outcome(site.end(new))]


@probe(ERRORS, True, lesson=True)
def retry_backs_off(site: Site) -> Any:
    """Retry waits IntervalSeconds, then BackoffRate times as long for each further attempt."""
    url = site.queue()
    retry = [{"ErrorEquals": ["Passing"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 2}]
    site.start(site.machine({"Do": callback(url, Retry=retry)}))
    gaps, failed = [], 0.0
    for _ in range(3):
        body = site.one(url)
        gaps.append(time.monotonic() - failed)
        failed = time.monotonic()
        site.sfn.send_task_failure(taskToken=body["token"], error="Passing")
    return gaps[1] > 0.9 and gaps[2] > 1.9


@probe(ERRORS, True)
def retry_delay_capped(site: Site) -> Any:
    """MaxDelaySeconds caps the wait between two attempts."""
    url = site.queue()
    rule = {"ErrorEquals": ["Passing"], "IntervalSeconds": 2, "BackoffRate": 30, "MaxDelaySeconds": 3}
    site.start(site.machine({"Do": callback(url, Retry=[rule | {"MaxAttempts": 2}])}))
    for _ in range(2):
        body = site.one(url)
        site.sfn.send_task_failure(taskToken=body["token"], error="Passing")
    return len(site.take(url, 1, seconds=30, quiet=0)) == 1


@probe(ERRORS, {"kept": 1, "error": {"Error": "Unwell", "Cause": "as told"}}, lesson=True)
def catch_keeps_input(site: Site) -> Any:
    """Catch with ResultPath adds the error to the state's input."""
    states = caught({"Type": "Parallel", "Branches": [{"StartAt": "Do", "States": FAIL}], "End": True})
    states["First"]["Catch"][0]["ResultPath"] = "$.error"
    return site.outcome(states, {"kept": 1})


def invoke(function: str, **payload: Any) -> dict[str, Any]:
    """A task that invokes a function."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload": payload},
        "TimeoutSeconds": 60,
        "End": True,
    }


@probe(LAMBDA, [200, True], needs="lambda", lesson=True)
def invoke_returns_payload(site: Site) -> Any:
    """lambda:invoke returns the handler's answer as Payload, with StatusCode and more."""
    seen = site.outcome({"Do": invoke(name := site.function(), do="return")})
    return [seen["StatusCode"], seen["Payload"]["name"] == name]


@probe(ERRORS, "AsTold", needs="lambda", lesson=True)
def handler_error_named_by_class(site: Site) -> Any:
    """A handler's exception fails the task with the exception's class as the error."""
    seen = site.outcome(caught(invoke(site.function(), do="fail"), "AsTold"))
    return seen["Error"] if isinstance(seen, dict) else seen


@probe(ERRORS, "Lambda.TooManyRequestsException", needs="lambda", lesson=True)
def throttle_error_name(site: Site) -> Any:
    """A throttled invocation fails the task with Lambda.TooManyRequestsException, to be retried by name."""
    function = site.function(reserved=0)
    seen = site.outcome(caught(invoke(function, do="return"), "Lambda.TooManyRequestsException"))
    return seen["Error"] if isinstance(seen, dict) else seen
