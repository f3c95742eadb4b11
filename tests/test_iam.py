"""Least privilege: what the operator's policy and the functions' roles allow is needed, and is enough.

On an engine that enforces IAM, with the operator's policy as it lies in infra/, or less of it.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from cfnlint.api import lint
from cfnlint.data import AdditionalSpecs
from cfnlint.helpers import load_resource
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from test_infra import of_type

from helpers import Experiment, checks, drills, live, notebooks, stack
from helpers.drills import logged, until
from helpers.engines import Engine, connect
from helpers.engines.embedded import EnforcingServer
from helpers.errors import StackError
from tests import iam
from tests.faults.trial import everything

POLICY_LIMIT = 6_144
"""Characters of a managed policy, white space not counted (IAM quotas, 2026-11-24)."""
NOT_NARROWED = {
    "cloudformation:DescribeStacks": "is also asked for all stacks, to find the lab's by their tag",
    "cloudwatch:GetMetricData": "reads metrics of AWS's services, which are in no dataset",
    "lambda:ListTags": "of an event source mapping, which has a random name",
    "lambda:TagResource": "the same",
}
"""Actions that AWS would narrow to a resource and the policy does not, and why."""
LOCAL_ONLY = {"sqs:ListQueues"}
"""What the lab asks only of an engine on this machine: `./lab doctor`."""
SECONDS = {"TimeoutSeconds": 60, "HeartbeatSeconds": 4, "RedeliverySeconds": 0}
"""A silence of four seconds ends a task; a failed message comes back at once."""
ITEM = {"item": 0, "lane": "limited", "task_seconds": 0, "failures": 0}
OF_FUNCTIONS = {
    ("Worker", "sqs:ChangeMessageVisibility"): {"failures": 1},
    ("Worker", "sqs:GetQueueUrl"): {"failures": 1},
    ("Worker", "states:SendTaskFailure"): {"bad": True},
    ("Worker", "states:SendTaskHeartbeat"): {"task_seconds": 8},
    ("Worker", "states:SendTaskSuccess"): {},
    ("Summarise", "s3:GetObject"): {},
}
"""The calls of functions that the engine holds to their roles, and an item that needs each."""


# The policy as it is written


def test_the_policy_is_one_that_iam_takes():
    """Its actions exist and go with their resources, and it fits into one managed policy."""
    resource = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": iam.POLICY}}
    found = lint(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Operator": resource}}))
    assert [f"{match.rule.id} {match.message}" for match in found] == []
    assert len(json.dumps(iam.POLICY, separators=(",", ":"))) <= POLICY_LIMIT


def test_the_operator_may_do_exactly_what_is_called():
    """The policy allows what the lab's code calls, and what CloudFormation does for it, and nothing else."""
    for_it = {action for kind in iam.ON_BEHALF for action in iam.on_behalf(kind)}
    assert iam.called() - LOCAL_ONLY | for_it == iam.allowed()


def test_cloudformation_does_only_what_its_schemas_say():
    """What it does for the operator is of the templates' resource types, and in the schema of each."""
    templates = [stack.template(name) for name in stack.workflows()]
    kinds = {resource["Type"] for template in templates for resource in template["Resources"].values()}
    assert kinds == iam.ON_BEHALF.keys()
    for kind in kinds:
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
        known = {p for handler in schema["handlers"].values() for p in handler.get("permissions", ())}
        assert iam.on_behalf(kind) - known == set(), kind


def test_the_operator_is_kept_to_what_is_the_labs():
    """Where AWS lets a policy name resources, it names the lab's; each exception has its reason.

    The lab's are what begins with the prefix of every stack.
    """
    services = load_resource(AdditionalSpecs, "Policies.json")

    def can_be_narrowed(action: str) -> bool:
        service, _, name = action.partition(":")
        return "Resources" in services[service]["Actions"][name.lower()]

    wide = {
        action
        for statement in iam.POLICY["Statement"]
        if stack.PREFIX not in json.dumps([statement["Resource"], statement.get("Condition")])
        for action in iam.listed(statement["Action"])
    }
    assert set(NOT_NARROWED) == {action for action in wide if can_be_narrowed(action)}


def test_every_call_of_a_function_is_tried_below():
    """The tests of roles leave out no action, but those that the engine takes itself, unchecked."""
    engine_does = {"logs:CreateLogStream", "logs:PutLogEvents"}
    engine_does |= {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}
    allowed = {
        (role.removesuffix("Role"), action)
        for role, resource in of_type("combined", "AWS::IAM::Role").items()
        if role != "StateMachineRole"
        for policy in resource["Properties"]["Policies"]
        for action in iam.allowed(policy["PolicyDocument"]) - engine_does
    }
    assert allowed == OF_FUNCTIONS.keys()


# An engine that enforces


@pytest.fixture(scope="module")
def server() -> Iterator[EnforcingServer]:
    """A server that enforces IAM, for this module."""
    started = EnforcingServer.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def operator(server: EnforcingServer) -> Iterator[Engine]:
    """The engine as the operator has it."""
    with connect("embedded", endpoint=server.endpoint_url) as engine:
        yield engine


@pytest.fixture(scope="module")
def root(server: EnforcingServer) -> SimpleNamespace:
    """The engine as the account's root has it: clients that may do everything."""
    return SimpleNamespace(client=partial(iam.root, server))


@pytest.fixture(scope="module")
def combined(operator: Engine) -> Iterator[stack.Stack]:
    """The combined workflow, deployed by the operator."""
    with stack.deploy(operator, "combined", SECONDS) as deployed:
        live.warm(deployed, "WorkerFunction", 1, progress=False)
        yield deployed


@pytest.fixture(scope="module")
def known(operator: Engine, root: SimpleNamespace, combined: stack.Stack) -> Iterator[dict[str, str]]:
    """What must exist to be asked about: a mapping, which takes nothing, and a token that is waited for."""
    root.client("iam").create_role(
        RoleName="concurrency-lab-probe", AssumeRolePolicyDocument="{}", PermissionsBoundary=iam.BOUNDARY
    )
    *_, account, name = combined.outputs["DeadLetterQueueUrl"].split("/")
    mapping = root.client("lambda").create_event_source_mapping(
        FunctionName=combined.outputs["WorkerFunction"],
        EventSourceArn=f"arn:aws:sqs:us-east-1:{account}:{name}",
        Enabled=False,
    )
    with stack.deploy(operator, "task_token", {"Consumer": "fleet"}) as by_hand:
        by_hand.start({"item": ITEM})
        (message,) = operator.client("sqs").receive_message(
            QueueUrl=by_hand.outputs["QueueUrl"], WaitTimeSeconds=20
        )["Messages"]
        yield {"UUID": mapping["UUID"], "taskToken": json.loads(message["Body"])["token"]}


def refused(said: object) -> str | None:
    """The action that an error says is not allowed."""
    found = re.search(r"AccessDenied.* is not authorized to perform: (\S+)", str(said))
    return found[1] if found else None


def answer(call: Callable[[], object]) -> str | None:
    """The action that this call is refused for, or None: whatever else may be wrong with it."""
    try:
        call()
    except ClientError as error:
        return refused(error)
    return None


# What is to be deleted is needed by others before.
@pytest.mark.parametrize("action", sorted(iam.allowed() - iam.UNCHECKED, key=lambda a: ("Delete" in a, a)))
def test_an_operator_without_an_action_is_refused(server, operator, combined, known, action):
    """An action of the policy is what its request needs: lacking it, a refusal that names it, else none."""
    client = operator.client(iam.NAMESPACES[action.partition(":")[0]])
    if action.endswith("Object"):  # of a bucket that does not exist, this is said first
        known = known | {"Bucket": combined.outputs["Bucket"]}
    call = iam.request(client, action, known)
    with iam.lacking(server, action):
        assert action == answer(call)
    assert answer(call) is None


# The way to an administrator's rights

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)
EVERYTHING = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)
ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"
OURS, OLD, ADMINS = "concurrency-lab-climbs", "concurrency-lab-unbounded", "administrators"
"""A role of the operator's own with the boundary, one of the lab's name without it, and somebody else's."""
ADMINS_ARN = f"arn:aws:iam::{iam.ACCOUNT}:role/{ADMINS}"
NAMESAKE = f"arn:aws:iam::{iam.ACCOUNT}:policy/x/concurrency-lab-boundary"
CLIMBS = """
import boto3
from botocore.exceptions import ClientError

def handler(event, context):
    try:
        boto3.client(event["service"]).__getattribute__(event["method"])(**event["arguments"])
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "done"
"""


def zipped(code: str) -> bytes:
    """A function's code as Lambda takes it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("index.py", code)
    return packed.getvalue()


@pytest.fixture(scope="module")
def roles(root: SimpleNamespace, operator: Engine) -> None:
    """The three roles, and a function, a queue and a pipe of the operator's own."""
    made, trust = root.client("iam"), {"AssumeRolePolicyDocument": TRUST}
    operator.client("iam").create_role(RoleName=OURS, PermissionsBoundary=iam.BOUNDARY, **trust)
    for name in (OLD, ADMINS):
        made.create_role(RoleName=name, **trust)
    made.put_role_policy(RoleName=ADMINS, PolicyName="all", PolicyDocument=EVERYTHING)
    made.create_policy(PolicyName="concurrency-lab-boundary", Path="/x/", PolicyDocument=EVERYTHING)
    operator.client("lambda").create_function(
        FunctionName=OURS,
        Runtime="python3.13",
        Role=f"arn:aws:iam::{iam.ACCOUNT}:role/{OURS}",
        Handler="index.handler",
        Code={"ZipFile": zipped(CLIMBS)},
        Timeout=30,
    )


def climb(service: str, method: str, **arguments: object) -> object:
    """A step of the way, as a parameter."""
    return pytest.param(service, method, arguments, id=method)


NEW = {"RoleName": f"{OURS}-2", "AssumeRolePolicyDocument": TRUST}
PASSES = {"lambda": "Role", "pipes": "RoleArn", "stepfunctions": "roleArn", "cloudformation": "RoleARN"}
STEPS = [
    climb("iam", "create_role", **NEW),
    climb("iam", "create_role", PermissionsBoundary=ADMINISTRATOR, **NEW),
    climb("iam", "create_role", PermissionsBoundary=NAMESAKE, **NEW),
    climb("iam", "create_role", PermissionsBoundary=iam.BOUNDARY, **NEW | {"RoleName": "others"}),
    climb("iam", "put_role_policy", RoleName=OLD, PolicyName="all", PolicyDocument=EVERYTHING),
    climb("iam", "put_role_policy", RoleName=ADMINS, PolicyName="all", PolicyDocument=EVERYTHING),
    climb("iam", "attach_role_policy", RoleName=OURS, PolicyArn=ADMINISTRATOR),
    climb("iam", "attach_role_policy", RoleName=OLD, PolicyArn=ADMINISTRATOR),
    climb("iam", "update_assume_role_policy", RoleName=ADMINS, PolicyDocument=TRUST),
    climb("iam", "update_assume_role_policy", RoleName=OURS, PolicyDocument=TRUST),
    climb("iam", "put_role_permissions_boundary", RoleName=OURS, PermissionsBoundary=ADMINISTRATOR),
    climb("iam", "put_role_permissions_boundary", RoleName=OURS, PermissionsBoundary=NAMESAKE),
    climb("iam", "delete_role_permissions_boundary", RoleName=OURS),
    climb("iam", "create_policy_version", PolicyArn=iam.BOUNDARY, PolicyDocument=EVERYTHING),
    climb("iam", "set_default_policy_version", PolicyArn=iam.BOUNDARY, VersionId="v1"),
    climb("iam", "delete_policy_version", PolicyArn=iam.BOUNDARY, VersionId="v1"),
    climb("iam", "delete_policy", PolicyArn=iam.BOUNDARY),
    climb("iam", "create_policy", PolicyName="concurrency-lab-mine", PolicyDocument=EVERYTHING),
    climb("iam", "create_user", UserName="concurrency-lab-me"),
    climb("iam", "put_user_policy", UserName=iam.OPERATOR, PolicyName="all", PolicyDocument=EVERYTHING),
    climb("sts", "assume_role", RoleArn=ADMINS_ARN, RoleSessionName="me"),
]
"""Each is refused by name of the action itself."""
HANDED = [
    climb(
        "lambda",
        "create_function",
        FunctionName=f"{OURS}-2",
        Runtime="python3.13",
        Role=ADMINS_ARN,
        Handler="index.handler",
        Code={"ZipFile": b"x"},
    ),
    climb("lambda", "update_function_configuration", FunctionName=OURS, Role=ADMINS_ARN),
    climb("stepfunctions", "create_state_machine", name=OURS, definition="{}", roleArn=ADMINS_ARN),
    climb(
        "stepfunctions",
        "update_state_machine",
        stateMachineArn=iam.EXAMPLES["stateMachineArn"],
        roleArn=ADMINS_ARN,
    ),
    climb("pipes", "create_pipe", Name=OURS, Source="arn:a", Target="arn:b", RoleArn=ADMINS_ARN),
    climb("pipes", "update_pipe", Name=OURS, RoleArn=ADMINS_ARN),
    climb(
        "events",
        "put_targets",
        Rule=OURS,
        Targets=[{"Id": "1", "Arn": iam.EXAMPLES["stateMachineArn"], "RoleArn": ADMINS_ARN}],
    ),
    climb("cloudformation", "create_stack", StackName=OURS, TemplateBody="{}", RoleARN=ADMINS_ARN),
]
"""A foreign role is handed to a service: refused as iam:PassRole."""


def iam_action(client: object, method: str) -> str:
    """The action of a client's method."""
    return f"{client.meta.service_model.signing_name}:{client.meta.method_to_api_mapping[method]}"


@pytest.mark.parametrize(("service", "method", "arguments"), STEPS)
def test_a_step_towards_an_administrators_rights_is_refused(operator, roles, service, method, arguments):
    """No role beyond the boundary is made or given rights, and the boundary stays as it is."""
    client = operator.client(service)
    assert iam_action(client, method) == answer(lambda: getattr(client, method)(**arguments))


@pytest.mark.parametrize(("service", "method", "arguments"), HANDED)
def test_a_foreign_role_is_handed_to_no_service(operator, roles, service, method, arguments):
    """Whatever runs under a role of the operator's choice runs under one of the lab's, which is bounded."""
    client = operator.client(service)
    assert answer(lambda: getattr(client, method)(**arguments)) == "iam:PassRole"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("create_role", NEW),
        ("put_role_policy", {"RoleName": OLD, "PolicyName": "all", "PolicyDocument": EVERYTHING}),
        ("attach_role_policy", {"RoleName": OLD, "PolicyArn": ADMINISTRATOR}),
        ("put_role_permissions_boundary", {"RoleName": OURS, "PermissionsBoundary": ADMINISTRATOR}),
        ("delete_role_permissions_boundary", {"RoleName": OURS}),
        ("create_policy_version", {"PolicyArn": iam.BOUNDARY, "PolicyDocument": EVERYTHING}),
        ("set_default_policy_version", {"PolicyArn": iam.BOUNDARY, "VersionId": "v1"}),
        ("delete_policy_version", {"PolicyArn": iam.BOUNDARY, "VersionId": "v1"}),
        ("delete_policy", {"PolicyArn": iam.BOUNDARY}),
    ],
)
def test_the_boundary_holds_whatever_else_the_operator_may(operator, root, roles, method, arguments):
    """What another policy of the operator's allows on the lab's roles, the lab's own denies."""
    other = {"UserName": iam.OPERATOR, "PolicyName": "other"}
    root.client("iam").put_user_policy(**other, PolicyDocument=EVERYTHING)
    try:
        client = operator.client("iam")
        assert iam_action(client, method) == answer(lambda: getattr(client, method)(**arguments))
    finally:
        root.client("iam").delete_user_policy(**other)


def test_the_way_that_is_allowed_leads_nowhere(operator, root, roles):
    """A role of the operator's with all rights has those of the boundary; without, it would have all."""
    operator.client("iam").put_role_policy(RoleName=OURS, PolicyName="all", PolicyDocument=EVERYTHING)
    queue = operator.client("sqs").create_queue(QueueName=OURS)["QueueUrl"]

    def done(service: str, method: str, **arguments: object) -> str:
        event = {"service": service, "method": method, "arguments": arguments}
        invoked = operator.client("lambda").invoke(FunctionName=OURS, Payload=json.dumps(event))
        return json.loads(invoked["Payload"].read())

    assert done("sqs", "send_message", QueueUrl=queue, MessageBody="x") == "done"
    assert done("iam", "create_user", UserName="climbed") == "AccessDenied"
    assert done("iam", "delete_role_permissions_boundary", RoleName=OURS) == "AccessDenied"
    assert done("lambda", "list_functions") == "AccessDeniedException"
    root.client("iam").delete_role_permissions_boundary(RoleName=OURS)
    try:
        assert done("iam", "create_user", UserName="climbed") == "done"
    finally:
        bound = {"RoleName": OURS, "PermissionsBoundary": iam.BOUNDARY}
        root.client("iam").put_role_permissions_boundary(**bound)
        operator.client("sqs").delete_queue(QueueUrl=queue)


def test_every_role_of_a_stack_is_bounded(operator, root):
    """Where the account has the boundary, a deployment gives it to each role, and an update keeps it."""
    with stack.deploy(operator, "task_token", {"Consumer": "fleet"}) as deployed:
        deployed = deployed.update({"Consumer": "fleet", "VisibilityTimeout": 240})
        found = [
            root.client("iam").get_role(RoleName=role["RoleName"])["Role"]
            for role in root.client("iam").list_roles()["Roles"]
            if role["RoleName"].startswith(deployed.name)
        ]
    assert len(found) == len(of_type("task_token", "AWS::IAM::Role"))
    bounds = [role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn") for role in found]
    assert bounds == [iam.BOUNDARY] * len(found)


# Runs


def experiment(consumer: str = "lambda") -> Experiment:
    """Four items, two of them through the queue."""
    return Experiment(4, worker_concurrency=2, consumer=consumer, direct_seconds=0, limited_seconds=0)


@pytest.mark.parametrize("consumer", ["lambda", "fleet"])
def test_a_run_needs_no_more(operator, consumer):
    """With the policy as it is a run does all that it should; a fleet works with the operator's rights."""
    trace = operator.run(experiment(consumer), progress=False)
    checks.verify(trace)
    assert set(trace.items["outcome"]) == {"succeeded"}


@pytest.mark.parametrize(
    "action",
    [
        "cloudformation:CreateStack",
        "lambda:InvokeFunction",
        "logs:FilterLogEvents",
        "states:StartExecution",
    ],
)
def test_a_run_that_is_refused_leaves_nothing(server, operator, root, tmp_path, monkeypatch, action):
    """A run ends with an error that names the action, and what was deployed for it is gone."""
    monkeypatch.setattr(live, "RUNS", tmp_path)
    before = everything(root)
    with iam.lacking(server, action), pytest.raises((ClientError, StackError)) as raised:
        operator.run(experiment(), progress=False)
    assert action == refused(raised.value)
    assert before == everything(root)


@pytest.mark.parametrize(
    "action",
    [
        "cloudformation:DeleteStack",
        "cloudformation:DescribeStacks",
        "cloudformation:ListStackResources",
        "s3:DeleteObject",
        "s3:ListBucket",
        "states:ListExecutions",
    ],
)
def test_a_stack_that_may_not_be_destroyed_is_named(server, operator, combined, action):
    """Who lacks a right to clean up is told which, what is left, and the remedy."""
    key = {"Bucket": combined.outputs["Bucket"], "Key": "items/left.json"}
    operator.client("s3").put_object(**key, Body=b"[]")
    with iam.lacking(server, action), pytest.raises(StackError, match=combined.name) as raised:
        stack.destroy(operator, combined.name)
    assert action == refused(raised.value)
    assert f"./lab destroy {combined.name}" in str(raised.value)
    assert combined.name in stack.deployed(operator)


def outcome(deployed: stack.Stack, item: dict) -> str:
    """How an execution with this one item ends: its cause, or the item's error, or `answered`."""
    execution = live.wait(deployed, deployed.start({"items": [item]}), progress=False)
    if execution["status"] != "SUCCEEDED":
        return execution["cause"]
    (result,) = live.results(deployed, execution)
    return result["error"]["Error"] if "error" in result else "answered"


@pytest.mark.parametrize(("function", "action"), OF_FUNCTIONS)
def test_a_function_without_an_action_fails_its_workflow(server, operator, combined, function, action):
    """An answer that a role forbids does not come, and the task times out; a summary fails its execution."""
    item = ITEM | OF_FUNCTIONS[function, action]
    configuration = operator.client("lambda").get_function_configuration(
        FunctionName=combined.outputs[f"{function}Function"]
    )
    with iam.role_lacking(server, configuration["Role"].rpartition("/")[2], action):
        ended = outcome(combined, item)
    assert (refused(ended) == action) if function == "Summarise" else (ended == "States.HeartbeatTimeout")
    assert ("BadItem" if "bad" in item else "answered") == outcome(combined, item)


def test_a_function_that_may_not_tell_of_dead_letters_leaves_them(server, operator):
    """A dead letter that its function's role forbids to tell of stays in its queue; else its task ends."""
    values = SECONDS | {"HeartbeatSeconds": 50, "MaxReceiveCount": 1, "DeadLetterConsumer": "lambda"}
    sfn, role = operator.client("stepfunctions"), operator.client("lambda").get_function_configuration
    with stack.deploy(operator, "task_token", values) as deployed:
        name = role(FunctionName=deployed.outputs["DeadLettersFunction"])["Role"].rpartition("/")[2]
        with iam.role_lacking(server, name, "states:SendTaskFailure"):
            arn = deployed.start({"item": ITEM | {"failures": 1}})
            refusal = until(lambda: logged(deployed, "DeadLettersLogGroup"), "a letter taken in vain")
            assert sfn.describe_execution(executionArn=arn)["status"] == "RUNNING"
            assert live.depth(deployed, "DeadLetterQueueUrl") == 1
        assert refused(refusal[0]["error"]) == "states:SendTaskFailure"
        told = deployed.start({"item": ITEM | {"failures": 1}})
        assert drills.outcome(deployed, told)["outcome"] == "dead_lettered"


def test_what_cloudformation_does_is_not_checked_here(server, operator):
    """The engine's CloudFormation needs no right of the operator's to make, change and remove; AWS's does."""
    for_it = {action for kind in iam.ON_BEHALF for action in iam.on_behalf(kind)}
    with (
        iam.lacking(server, *(for_it - iam.called())),
        stack.deploy(operator, "sqs_limited", {"MaximumConcurrency": 2}) as deployed,
    ):
        deployed.update({"MaximumConcurrency": 3})


def test_what_a_state_machine_does_is_not_checked_here(server, combined):
    """The engine's states need no right of their role's; what AWS wants is read from the files instead."""
    machine = combined.engine.client("stepfunctions").describe_state_machine(
        stateMachineArn=combined.outputs["StateMachineArn"]
    )
    with iam.role_lacking(server, machine["roleArn"].rpartition("/")[2], "sqs:SendMessage"):
        assert outcome(combined, ITEM) == "answered"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_walkthrough_needs_no_more(operator, root, tmp_path, monkeypatch):
    """Notebooks run as the operator, with the policy as it is; what they deployed is gone."""
    for name, value in operator.shared().items():
        monkeypatch.setenv(name, value)
    before = everything(root)
    chosen = [path for path in notebooks.discover() if path.stem[:2] in ("03", "04")]
    results = notebooks.run(chosen, tmp_path, {"engine": "embedded", "scale": "quick"}, progress=False)
    assert [(result.name, result.cell, result.error) for result in results if not result.ok] == []
    assert before == everything(root)
