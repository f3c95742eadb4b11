"""Deploying a workflow: refused before anything is created, or deployed whole, or removed whole."""

import json
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from helpers import stack
from helpers.errors import StackError
from helpers.experiment import Experiment
from tests.faults.trial import everything


class Untouched:
    """An engine that must not be asked for anything."""

    def client(self, service: str):
        raise AssertionError(f"{service} was called")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"MaximumConcurrency": 1}, "MaximumConcurrency=1"),
        ({"MaximumConcurrency": 1001}, "MaximumConcurrency=1001"),
        ({"MaxConcurrency": 10_001}, "MaxConcurrency=10001"),
        ({"BatchSize": 11}, "BatchSize=11"),
        ({"TimeoutSeconds": 30, "HeartbeatSeconds": 30}, "HeartbeatSeconds=30"),
        ({"VisibilityTimeout": 29, "FunctionTimeout": 30}, "VisibilityTimeout=29"),
        ({"MaxReceiveCount": 0}, "MaxReceiveCount=0"),
        ({"MaximumConcurrency": "many"}, "'many'"),
        ({"Consumer": "nobody"}, "'nobody'"),
        ({"Nonsense": 1}, "'Nonsense'"),
    ],
)
def test_what_aws_would_refuse_is_refused_before_anything_is_created(values, told):
    """A value out of bounds, or values that do not go together, never reach the engine."""
    with pytest.raises(StackError, match=told):
        stack.deploy(Untouched(), "combined", values)


def test_an_unknown_workflow_is_refused():
    """An unknown workflow is named together with those there are."""
    with pytest.raises(StackError, match=r"'nope'.*combined"):
        stack.deploy(Untouched(), "nope")


def test_what_aws_only_advises_is_a_warning():
    """A visibility timeout below six times the function's is allowed, and said."""
    with pytest.warns(UserWarning, match="VisibilityTimeout=60"):
        stack.check("combined", {"VisibilityTimeout": 60, "FunctionTimeout": 30})


def test_every_experiment_that_is_valid_gives_parameters_that_are_valid():
    """What Experiment accepts, the template accepts: at the lowest and the highest settings."""
    low = Experiment(
        1,
        worker_concurrency=2,
        function_timeout_seconds=1,
        visibility_timeout_seconds=6,
        task_timeout_seconds=2,
    )
    high = Experiment(
        1,
        map_concurrency=10_000,
        worker_concurrency=1000,
        batch_size=10_000,
        batch_window_seconds=300,
        function_timeout_seconds=900,
        visibility_timeout_seconds=43_200,
        max_receive_count=1000,
        task_timeout_seconds=31_536_000,
        heartbeat_seconds=31_535_999,
    )
    for experiment in (low, high):
        values = stack.parameters(experiment)
        assert values == {k: v for k, v in stack.check("combined", values).items() if k in values}


def test_no_limit_is_written_as_the_number_that_it_means():
    """map_concurrency 0 is AWS's 10,000, not an emulator's idea of it."""
    assert stack.parameters(Experiment(1, map_concurrency=0))["MaxConcurrency"] == 10_000


def test_two_deployments_do_not_collide_and_destroy_leaves_nothing(engine):
    """Two stacks of one workflow live side by side; destroyed, they leave no resource behind."""
    before = everything(engine)
    with stack.deploy(engine, "combined") as one, stack.deploy(engine, "combined") as other:
        assert {one.name, other.name} <= set(stack.deployed(engine))
        assert not set(one.outputs.values()) & set(other.outputs.values())
        engine.client("s3").put_object(Bucket=one.outputs["Bucket"], Key="left/behind", Body=b"x")
    assert everything(engine) == before


def test_destroy_stops_what_runs(engine):
    """An execution that still waits for its token is stopped with its stack."""
    deployed = stack.deploy(engine, "combined", {"Consumer": "fleet"})
    item = {"item": 0, "lane": "limited", "task_seconds": 0, "failures": 0}
    execution = deployed.start({"items": [item]})
    deployed.destroy()
    sfn = engine.client("stepfunctions")
    try:
        status = sfn.describe_execution(executionArn=execution)["status"]
    except ClientError as error:
        status = error.response["Error"]["Code"]
    assert status in ("ABORTED", "ExecutionDoesNotExist")


def test_destroying_twice_is_no_error(engine):
    """What is gone counts as destroyed, so that a destroy can always be tried again."""
    deployed = stack.deploy(engine, "combined")
    deployed.destroy()
    deployed.destroy()
    assert deployed.name not in stack.deployed(engine)


def test_an_update_changes_what_it_says_and_nothing_else(engine):
    """The new parameters are in force; the stack, its queue and the message in it are the old ones."""
    with stack.deploy(engine, "combined", {"Consumer": "fleet"}) as old:
        sqs, url = engine.client("sqs"), old.outputs["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="x")
        new = old.update(
            {"Consumer": "fleet", "VisibilityTimeout": 240, "MaxReceiveCount": 7, "MaxConcurrency": 8}
        )
        assert (old.name, old.outputs) == (new.name, new.outputs)
        assert new.parameters == old.parameters | {
            "VisibilityTimeout": 240,
            "MaxReceiveCount": 7,
            "MaxConcurrency": 8,
        }
        names = ["VisibilityTimeout", "RedrivePolicy", "ApproximateNumberOfMessages"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        assert attributes["VisibilityTimeout"] == "240"
        assert int(json.loads(attributes["RedrivePolicy"])["maxReceiveCount"]) == 7
        assert attributes["ApproximateNumberOfMessages"] == "1"
        definition = engine.client("stepfunctions").describe_state_machine(
            stateMachineArn=new.outputs["StateMachineArn"]
        )["definition"]
        assert "StringToJson('8')" in definition


def test_an_update_switches_the_consumer(engine):
    """With another consumer the event source mapping goes, and comes back."""

    def mappings():
        found = engine.client("lambda").list_event_source_mappings(
            FunctionName=deployed.outputs["WorkerFunction"]
        )
        return [m["ScalingConfig"]["MaximumConcurrency"] for m in found["EventSourceMappings"]]

    with stack.deploy(engine, "combined", {"MaximumConcurrency": 4}) as deployed:
        assert mappings() == [4]
        deployed = deployed.update({"Consumer": "fleet"})
        assert mappings() == []
        deployed.update({"MaximumConcurrency": 5})
        assert mappings() == [5]


def test_an_update_that_changes_nothing_or_is_refused_calls_nobody():
    """Equal parameters are in force already; a value out of bounds never reaches the engine."""
    deployed = stack.Stack(Untouched(), "combined", "none", stack.check("combined", {}), {})
    assert deployed.update({"MaxConcurrency": 1000}) is deployed
    with pytest.raises(StackError, match="MaximumConcurrency=1"):
        deployed.update({"MaximumConcurrency": 1})


def test_an_update_that_fails_says_why_and_leaves_no_stack(engine, monkeypatch):
    """When CloudFormation rolls an update back, the error gives its reason and the stack is gone."""
    before = everything(engine)
    unbounded = stack.template("combined")
    del unbounded["Parameters"]["VisibilityTimeout"]["MaxValue"]
    monkeypatch.setattr(stack, "template", lambda workflow, **_: unbounded)
    deployed = stack.deploy(engine, "combined")
    with pytest.raises(
        StackError, match=r"could not be updated \(Queue: .*VisibilityTimeout.*has been removed"
    ):
        deployed.update({"VisibilityTimeout": 999_999})
    assert everything(engine) == before


def test_an_interrupted_update_leaves_no_stack(engine, monkeypatch):
    """Ctrl-C while a stack is updated takes it down."""
    before = everything(engine)
    wait = stack._wait

    def interrupted(engine, waiter, name):
        if "update" in waiter:
            raise KeyboardInterrupt
        wait(engine, waiter, name)

    monkeypatch.setattr(stack, "_wait", interrupted)
    deployed = stack.deploy(engine, "combined")
    with pytest.raises(KeyboardInterrupt):
        deployed.update({"MaxConcurrency": 8})
    assert everything(engine) == before


def test_no_stack_is_deleted_in_the_middle_of_an_update(engine, monkeypatch):
    """CloudFormation would refuse it: a destroy waits for the update's end."""
    said = []
    statuses = iter(["UPDATE_IN_PROGRESS", *["UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"] * 2, "UPDATE_COMPLETE"])

    class Updating:
        """CloudFormation while it updates a stack without resources."""

        def describe_stacks(self, **_):
            said.append(next(statuses))
            tags = [{"Key": key, "Value": value} for key, value in stack.TAGS.items()]
            return {"Stacks": [{"StackStatus": said[-1], "Tags": tags}]}

        def get_paginator(self, _):
            return self

        def paginate(self, **_):
            return []

        def delete_stack(self, **_):
            said.append("deleted")

    monkeypatch.setattr(engine, "client", lambda service: Updating())
    monkeypatch.setattr(stack, "_wait", lambda *_: None)
    stack.destroy(engine, f"{stack.PREFIX}updating")
    assert said[-2:] == ["UPDATE_COMPLETE", "deleted"]


def test_an_input_over_256_kib_is_refused(engine):
    """Step Functions takes 262,144 bytes of UTF-8; one more is refused before the call."""
    empty = len(json.dumps({"x": ""}, separators=(",", ":")))
    with stack.deploy(engine, "combined") as deployed:
        before = engine.client("stepfunctions").list_executions(
            stateMachineArn=deployed.outputs["StateMachineArn"]
        )["executions"]
        with pytest.raises(StackError, match=r"262,145 bytes.*256 KiB"):
            deployed.start({"x": "a" * (stack.INPUT_LIMIT_BYTES - empty + 1)})
        after = engine.client("stepfunctions").list_executions(
            stateMachineArn=deployed.outputs["StateMachineArn"]
        )["executions"]
    assert before == after


def test_a_name_over_awss_limit_is_refused_before_anything_is_created():
    """A folder's name must leave room in names of state machines: 80 characters, all in all."""
    body = stack.template("distributed_map")
    fits = 80 - len("-Distributed")
    stack.check_names("long", "x" * fits, body)
    with pytest.raises(
        StackError, match=r"'long'.*81 characters, and AWS takes 80; give its folder a shorter"
    ):
        stack.check_names("long", "x" * (fits + 1), body)


def answering(*, error: str | None = None) -> SimpleNamespace:
    """An engine whose IAM says that there is a boundary, or refuses to say."""
    sts, iam = (boto3.client(name, region_name="us-east-1") for name in ("sts", "iam"))
    identity = {"Arn": "arn:aws-cn:sts::111122223333:assumed-role/me/me", "Account": "111122223333"}
    stubs = {"sts": Stubber(sts), "iam": Stubber(iam)}
    stubs["sts"].add_response("get_caller_identity", identity)
    if error:
        stubs["iam"].add_client_error("get_policy", error, "no", 403)
    else:
        stubs["iam"].add_response("get_policy", {"Policy": {}})
    for stub in stubs.values():
        stub.activate()
    return SimpleNamespace(client={"sts": sts, "iam": iam}.__getitem__)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (None, "arn:aws-cn:iam::111122223333:policy/concurrency-lab-boundary"),
        ("NoSuchEntity", ""),
        ("AccessDenied", ""),
    ],
)
def test_the_boundary_is_the_accounts_policy_of_that_name(error, found):
    """Roles are bounded by it where the account has it, in any partition; nobody has to name it."""
    assert stack.permissions_boundary(answering(error=error)) == found


def test_a_boundary_that_cannot_be_looked_for_ends_a_deployment():
    """An account that does not answer is not taken for one without a boundary."""
    with pytest.raises(
        StackError, match=r"policy concurrency-lab-boundary: could not be looked for.*Throttling"
    ):
        stack.permissions_boundary(answering(error="Throttling"))


def test_a_boundary_that_is_named_bounds_every_role(engine, monkeypatch):
    """It comes before the account's own; what is no ARN is refused, and nothing is made."""
    arn, before = "arn:aws:iam::111122223333:policy/ours/all", everything(engine)
    monkeypatch.setenv(stack.BOUNDARY, arn)
    with stack.deploy(engine, "task_token", {"Consumer": "fleet"}) as deployed:
        assert deployed.parameters["PermissionsBoundary"] == arn
        iam = engine.client("iam")
        names = {role["RoleName"] for role in iam.list_roles()["Roles"]}
        roles = [iam.get_role(RoleName=name)["Role"] for name in names if name.startswith(deployed.name)]
        assert {arn} == {role["PermissionsBoundary"]["PermissionsBoundaryArn"] for role in roles}
        again = deployed.update({"Consumer": "fleet", "VisibilityTimeout": 240})
        assert again.parameters["PermissionsBoundary"] == arn
    monkeypatch.setenv(stack.BOUNDARY, "ours")
    with pytest.raises(StackError, match="PermissionsBoundary='ours': must match"):
        stack.deploy(engine, "task_token")
    assert everything(engine) == before
