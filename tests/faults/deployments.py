"""Faults of deploying and destroying."""

from __future__ import annotations

from unittest.mock import patch

from helpers import stack
from helpers.errors import StackError
from tests.faults.runner import RUN, obeyed
from tests.faults.trial import SMALL, Damage, Place, afterwards, damage, everything, failed, fault


@fault("a template whose last resource, a queue, has a visibility timeout that SQS refuses")
def half_deployed(place: Place) -> Damage:
    """The error names the resource and the reason; what had been made is gone; another deployment works."""
    before = everything(place.engine)
    broken = stack.template("combined")
    broken["Resources"]["Last"] = {
        "Type": "AWS::SQS::Queue",
        "Properties": {"VisibilityTimeout": 999_999},
        "DependsOn": sorted(broken["Resources"]),
    }
    with patch.object(stack, "template", lambda *_, **__: broken):
        try:
            stack.deploy(place.engine, "combined")
        except StackError as error:
            told = str(error)
    assert "combined: could not be deployed (Last: " in told, told
    assert "VisibilityTimeout" in told
    assert "what was made of it has been removed" in told
    left = everything(place.engine) - before
    return Damage(len(broken["Resources"]), left=tuple(left)) + afterwards(place.engine)


@fault("CloudFormation says DELETE_FAILED when a stack's state machine and bucket are gone already")
def destroy_failed_half_way(place: Place) -> Damage:
    """It is tried again, over what is gone already; nothing is left."""
    engine = place.engine
    deployed = stack.deploy(engine, "combined")
    there = engine.client("cloudformation").list_stack_resources(StackName=deployed.name)
    events = engine.client("cloudformation").meta.events
    calls: list[str] = []

    def fail_half_way(**_: object) -> object:
        calls.append("delete")
        if len(calls) > 1:
            return None
        arn = deployed.outputs["StateMachineArn"]
        engine.client("stepfunctions").delete_state_machine(stateMachineArn=arn)
        engine.client("s3").delete_bucket(Bucket=deployed.outputs["Bucket"])
        return Answered(), {}

    def say_so(parsed: dict[str, list[dict[str, str]]], **_: object) -> None:
        if calls == ["delete"]:
            parsed["Stacks"][0]["StackStatus"] = "DELETE_FAILED"

    events.register("before-call.cloudformation.DeleteStack", fail_half_way)
    events.register("after-call.cloudformation.DescribeStacks", say_so)
    try:
        deployed.destroy()
    finally:
        events.unregister("before-call.cloudformation.DeleteStack", fail_half_way)
        events.unregister("after-call.cloudformation.DescribeStacks", say_so)
    assert calls == ["delete", "delete"]
    return Damage(len(there["StackResourceSummaries"])) + afterwards(engine)


class Answered:
    """The HTTP response of a call that went well."""

    status_code = 200


REFUSED = """
from botocore.exceptions import ClientError

def refuse(**_):
    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not now"}}, "DeleteStack")

engine.client("cloudformation").meta.events.register("before-call.cloudformation.DeleteStack", refuse)
"""


@fault("CloudFormation refuses to delete a run's stack when the run has ended well")
def refused_destroy(place: Place) -> Damage:
    """The run's trace is on disk, the stack is named, and the command that is told removes it."""
    told = failed(place.start(REFUSED + RUN.format(SMALL)))
    assert "could not be destroyed" in told
    assert obeyed(place, told) == 1
    (kept,) = place.kept()
    return damage(kept) + afterwards(place.engine)
