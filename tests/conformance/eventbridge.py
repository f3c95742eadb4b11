"""EventBridge: a rule that hears of executions, and pipes from a queue."""

import json
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import TAGS, Site

STATUS = "https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html"
PIPE = "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-sqs.html"
WAIT = {"Do": {"Type": "Wait", "Seconds": 3600, "End": True}}


@probe(STATUS, ["ABORTED", True], lesson=True)
def execution_status_starts_machine(site: Site) -> Any:
    """An execution that ends otherwise than well is an event, for which a rule can start a state machine."""
    events, rule, told = site.clients["events"], site.name(), site.queue()
    send = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": told, "MessageBody.$": "$.detail"},
        "End": True,
    }
    watched, watcher = site.machine(WAIT), site.machine({"Do": send})
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"status": ["FAILED", "TIMED_OUT", "ABORTED"], "stateMachineArn": [watched]},
    }
    events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
    site.undo.append(lambda: events.delete_rule(Name=rule))
    events.put_targets(Rule=rule, Targets=[{"Id": "one", "Arn": watcher, "RoleArn": site.role_arn}])
    site.undo.append(lambda: events.remove_targets(Rule=rule, Ids=["one"]))
    execution = site.start(watched)
    site.sfn.stop_execution(executionArn=execution)
    detail = site.one(told)
    return [detail["status"], detail["name"] == execution.rpartition(":")[2]]


def pipe(site: Site, source: str, function: str) -> None:
    """A pipe from a queue to a function, a message at a time, once it runs."""
    pipes, name = site.clients["pipes"], site.name()
    target = site.functions.get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    pipes.create_pipe(
        Name=name,
        Source=site.queue_arn(source),
        Target=target,
        RoleArn=site.role_arn,
        SourceParameters={"SqsQueueParameters": {"BatchSize": 1}},
        TargetParameters={"LambdaFunctionParameters": {"InvocationType": "REQUEST_RESPONSE"}},
        Tags=TAGS,
    )
    site.undo.append(lambda: pipes.delete_pipe(Name=name))
    site.until(lambda: pipes.describe_pipe(Name=name)["CurrentState"] == "RUNNING", seconds=300)


@probe(PIPE, [[["one"]], 0], needs="lambda", seconds=400, lesson=True)
def pipe_from_queue_to_function(site: Site) -> Any:
    """A pipe polls its queue and invokes its function with an array of messages, which it deletes when that
    succeeds."""
    source, log = site.queue(VisibilityTimeout=360), site.queue()
    pipe(site, source, site.function())
    site.send(source, [{"do": "return", "log": log, "item": "one"}])
    items = [facts["items"] for facts in site.take(log, 1)]
    left = "ApproximateNumberOfMessagesNotVisible"
    site.until(lambda: site.attribute(source, left) == "0", seconds=30)
    return [items, int(site.attribute(source, left))]


@probe(PIPE, [["one", "other"], ["two"]], needs="lambda", seconds=400, lesson=True)
def pipe_takes_one_of_a_group(site: Site) -> Any:
    """From a FIFO queue a pipe takes one batch of a message group at a time, and those of other groups."""
    source, log = site.queue(fifo=True, VisibilityTimeout=360), site.queue()
    gates = {"a": site.queue(), "b": site.queue()}
    pipe(site, source, site.function())
    for group, item in (("a", "one"), ("a", "two"), ("b", "other")):
        body = json.dumps({"do": "wait", "gate": gates[group], "log": log, "item": item})
        group_and_name = {"MessageGroupId": group, "MessageDeduplicationId": item}
        site.sqs.send_message(QueueUrl=source, MessageBody=body, **group_and_name)
    begun = sorted(facts["items"][0] for facts in site.take(log, 2))
    site.send(gates["a"], ["go"])
    then = [facts["items"][0] for facts in site.take(log, 1)]
    for url in gates.values():
        site.send(url, ["go"])
    return [begun, then]
