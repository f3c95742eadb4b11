"""What `lab destroy` and `stack.remove` take: the lab's own, by tag and name, and nothing else."""

import io
import json
import signal
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator

import pytest
from machines import ROLE

from helpers import cli, stack
from helpers.engines import Engine
from helpers.errors import StackError
from tests.faults.trial import everything

REGION = "us-east-1:000000000000"
TAGGED = [{"Key": key, "Value": value} for key, value in stack.TAGS.items()]
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "*"}}
)
NOTHING = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}


made: list[str] = []
"""The ARNs of what the test made."""


def noted(arn: str) -> str:
    made.append(arn)
    return arn


def bucket(engine: Engine, name: str, tags: dict[str, str]) -> str:
    s3 = engine.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": listed(tags)})
    s3.put_object(Bucket=name, Key="kept", Body=b"x")
    return noted(f"arn:aws:s3:::{name}")


def queue(engine: Engine, name: str, tags: dict[str, str]) -> str:
    engine.client("sqs").create_queue(QueueName=name, tags=tags)
    return noted(f"arn:aws:sqs:{REGION}:{name}")


def function(engine: Engine, name: str, tags: dict[str, str]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("index.py", "def handler(event, context):\n    pass\n")
    made = engine.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=ROLE,
        Handler="index.handler",
        Code={"ZipFile": packed.getvalue()},
        Tags=tags,
    )
    return noted(made["FunctionArn"])


def mapping(engine: Engine, name: str, tags: dict[str, str]) -> str:
    """An event source mapping, whose name is its function's; neither function nor queue has the tag."""
    function(engine, name, {})
    made = engine.client("lambda").create_event_source_mapping(
        FunctionName=name, EventSourceArn=queue(engine, name, {}), Enabled=False, Tags=tags
    )
    return noted(f"arn:aws:lambda:{REGION}:event-source-mapping:{made['UUID']}")


def log_group(engine: Engine, name: str, tags: dict[str, str]) -> str:
    engine.client("logs").create_log_group(logGroupName=name, tags=tags)
    return noted(f"arn:aws:logs:{REGION}:log-group:{name}")


def machine(engine: Engine, name: str, tags: dict[str, str]) -> str:
    made = engine.client("stepfunctions").create_state_machine(
        name=name,
        definition=json.dumps(NOTHING),
        roleArn=ROLE,
        tags=[{"key": key, "value": value} for key, value in tags.items()],
    )
    return noted(made["stateMachineArn"])


def activity(engine: Engine, name: str, tags: dict[str, str]) -> str:
    made = engine.client("stepfunctions").create_activity(
        name=name, tags=[{"key": key, "value": value} for key, value in tags.items()]
    )
    return noted(made["activityArn"])


def table(engine: Engine, name: str, tags: dict[str, str]) -> str:
    key = {"AttributeName": "key"}
    made = engine.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[key | {"KeyType": "HASH"}],
        AttributeDefinitions=[key | {"AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        Tags=listed(tags),
    )
    return noted(made["TableDescription"]["TableArn"])


def rule(engine: Engine, name: str, tags: dict[str, str]) -> str:
    """A rule with a target, which EventBridge does not delete before that."""
    events = engine.client("events")
    made = events.put_rule(Name=name, EventPattern='{"source": ["aws.states"]}', Tags=listed(tags))
    target = f"arn:aws:states:{REGION}:stateMachine:any"
    events.put_targets(Rule=name, Targets=[{"Id": "one", "Arn": target, "RoleArn": ROLE}])
    return noted(made["RuleArn"])


def pipe(engine: Engine, name: str, tags: dict[str, str]) -> str:
    source, target = f"arn:aws:sqs:{REGION}:any", f"arn:aws:lambda:{REGION}:function:any"
    made = engine.client("pipes").create_pipe(
        Name=name, Source=source, Target=target, RoleArn=ROLE, Tags=tags
    )
    return noted(made["Arn"])


def role(engine: Engine, name: str, tags: dict[str, str]) -> str:
    """A role with a policy, which IAM does not delete before that."""
    iam = engine.client("iam")
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}", Tags=listed(tags))
    iam.put_role_policy(RoleName=name, PolicyName="some", PolicyDocument=POLICY)
    return noted(made["Role"]["Arn"])


def listed(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


KINDS = [activity, bucket, function, log_group, machine, mapping, pipe, queue, role, rule, table]
"""Makes a resource of a kind under a name, with these tags, and returns its ARN."""
of_every_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
Make = Callable[[Engine, str, dict[str, str]], str]


@pytest.fixture
def name() -> str:
    """A new name, as it is after a prefix."""
    return f"left-{uuid.uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what the test made, whatever the lab left of it."""
    before = everything(engine)
    yield
    monkeypatch.undo()
    while made:
        stack._delete_resource(engine, made.pop())
    assert everything(engine) == before


class Terminal(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


def destroy_all(engine: Engine, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `lab destroy --all` on this engine, in this process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)
    monkeypatch.setattr(sys, "argv", ["lab", "destroy", "--all", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return int(ended.value.code or 0)


@of_every_kind
def test_only_what_has_the_tag_and_a_name_of_the_labs_is_taken(engine, monkeypatch, capfd, name, make):
    """Of two resources with the tag, that with a name of the lab's is removed, the other named and left."""
    ours, other = (
        make(engine, f"{stack.PREFIX}{name}", stack.TAGS),
        make(engine, f"payroll-{name}", stack.TAGS),
    )
    untagged = make(engine, f"{stack.PREFIX}untagged-{name}", {"project": "another"})
    assert stack.orphans(engine) == [ours]
    assert destroy_all(engine, monkeypatch, "--yes") == 0
    told = capfd.readouterr().out
    assert told.index(f"found: {ours}\n") < told.index(f"removed {ours}\n")
    if make is not role:  # roles are looked for by name alone, so that those of others are not even seen
        assert f"left: {other} because the name 'payroll-{name}' does not begin with {stack.PREFIX}\n" in told
    assert untagged not in told
    assert stack.orphans(engine) == []
    for arn in (other, untagged):
        with pytest.raises(StackError, match="is left, because"):
            stack.remove(engine, arn)
        assert still_there(engine, arn)
    assert not still_there(engine, ours)


def still_there(engine: Engine, arn: str) -> bool:
    """Whether a resource is there."""
    last = arn.split(":")[-1]
    return any(last.endswith(one.rpartition("/")[2]) for one in everything(engine))


@of_every_kind
def test_the_stack_of_a_resource_counts_before_its_name(engine, name, make):
    """What CloudFormation made for a stack of the lab's is the lab's; what it made for another is not."""
    of = {stack.STACK_TAG: f"{stack.PREFIX}gone-{name}"}
    mine = make(engine, f"{stack.PREFIX}{name}" if make is role else f"odd-{name}", stack.TAGS | of)
    other = make(engine, f"{stack.PREFIX}o-{name}", stack.TAGS | {stack.STACK_TAG: "payroll"})
    assert stack.orphans(engine) == [mine]
    with pytest.raises(StackError, match="is left, because it is of the stack 'payroll'"):
        stack.remove(engine, other)
    stack.remove(engine, mine)
    assert (still_there(engine, mine), still_there(engine, other)) == (False, True)
    with pytest.raises(StackError, match="nothing with the tag project=concurrency-lab is there"):
        stack.remove(engine, mine)


@pytest.mark.parametrize("asked", ["", "n\n"])
def test_nothing_is_taken_without_a_yes(engine, monkeypatch, capfd, name, asked):
    """Where nobody can be asked, or the answer is no, what was found is listed, and all of it stays."""
    arn = bucket(engine, f"{stack.PREFIX}{name}", stack.TAGS)
    with stack.deploy(engine, "sqs_limited") as deployed:
        monkeypatch.setattr(sys, "stdin", Terminal(asked) if asked else io.StringIO("y\n"))
        assert destroy_all(engine, monkeypatch) == 2
        told = capfd.readouterr()
        assert f"found: stack {deployed.name}, with everything in it\nfound: {arn}\n" in told.out
        assert "is not confirmed, and nothing was removed" in told.err
        assert ("give --yes" in told.err) == (not asked)
        assert stack.deployed(engine) == [deployed.name]
        assert stack.orphans(engine) == [arn]


def test_a_yes_takes_what_was_listed(engine, monkeypatch, name):
    """Asked at a terminal and answered with yes, it takes stacks and orphans."""
    arn, deployed = queue(engine, f"{stack.PREFIX}{name}", stack.TAGS), stack.deploy(engine, "sqs_limited")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert destroy_all(engine, monkeypatch) == 0
    assert deployed.name not in stack.deployed(engine)
    assert not still_there(engine, arn)


def test_what_comes_in_meanwhile_is_not_taken(engine, monkeypatch, name):
    """Consent is for what was listed: what appears between the answer and the end stays for the next time."""
    deployed, late = stack.deploy(engine, "sqs_limited"), []
    destroy = stack.destroy

    def meanwhile(engine: Engine, stack_name: str) -> None:
        destroy(engine, stack_name)
        late.append(queue(engine, f"{stack.PREFIX}{name}", stack.TAGS))

    listed_too = queue(engine, f"{stack.PREFIX}listed-{name}", stack.TAGS)
    monkeypatch.setattr(stack, "destroy", meanwhile)
    assert destroy_all(engine, monkeypatch, "--yes") == 0
    assert deployed.name not in stack.deployed(engine)
    assert stack.orphans(engine) == late
    assert not still_there(engine, listed_too)


def test_a_resource_of_a_stack_that_is_there_is_no_orphan(engine, name):
    """`remove` takes nothing out of a stack that is there, whether it tells its stack or is only named so."""
    with stack.deploy(engine, "sqs_limited") as deployed:
        arn = f"arn:aws:sqs:{REGION}:{deployed.outputs['QueueUrl'].rpartition('/')[2]}"
        assert stack.orphans(engine) == []
        with pytest.raises(StackError, match=f"it is in stack {deployed.name}; destroy that"):
            stack.remove(engine, arn)
        assert still_there(engine, arn)


def test_a_stack_that_only_has_the_tag_is_left(engine, monkeypatch, capfd, name):
    """Neither command nor Python destroys a stack of another name, or one without the tag."""
    cloudformation = engine.client("cloudformation")
    body = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": f"q-{name}"}}}}
    for stack_name, tags in ((f"payroll-{name}", TAGGED), (f"{stack.PREFIX}{name}", [])):
        cloudformation.create_stack(StackName=stack_name, TemplateBody=json.dumps(body), Tags=tags)
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=stack_name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
        )
        body["Resources"]["Queue"]["Properties"]["QueueName"] = f"r-{name}"
    assert stack.deployed(engine) == []
    assert destroy_all(engine, monkeypatch, "--yes") == 0
    assert f"/payroll-{name}/" in capfd.readouterr().out
    for stack_name, why in ((f"payroll-{name}", "does not begin"), (f"{stack.PREFIX}{name}", "no tag")):
        with pytest.raises(StackError, match=f"is left, because .*{why}"):
            stack.destroy(engine, stack_name)
        [described] = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
        assert described["StackStatus"] == "CREATE_COMPLETE"
        cloudformation.delete_stack(StackName=stack_name)
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=stack_name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
        )


def test_a_name_is_the_whole_name(engine, name):
    """A log group that ends in a name of the lab's is somebody else's."""
    arn = log_group(engine, f"/payroll/{stack.PREFIX}{name}", stack.TAGS)
    with pytest.raises(StackError, match="does not begin with"):
        stack.remove(engine, arn)
    assert f"/payroll/{stack.PREFIX}{name}" in everything(engine)


def test_a_kind_that_no_template_makes_is_left_for_hands(engine, name):
    """A topic of the lab's name and tag is named, and its removal is refused."""
    sns = engine.client("sns")
    arn = sns.create_topic(Name=f"{stack.PREFIX}{name}", Tags=TAGGED)["TopicArn"]
    with pytest.raises(StackError, match="delete it by hand"):
        stack.remove(engine, arn)
    assert arn in [topic["TopicArn"] for topic in sns.list_topics()["Topics"]]
    sns.delete_topic(TopicArn=arn)
