"""Least privilege: what the operator's policy and the functions' roles allow is needed, and is enough.

On an engine that enforces IAM, with the operator's policy as it lies in infra/, or less of it.
"""

import json
import re
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
    """Where AWS lets a policy name resources, it names the lab's; each exception has its reason."""
    services = load_resource(AdditionalSpecs, "Policies.json")

    def can_be_narrowed(action: str) -> bool:
        service, _, name = action.partition(":")
        return "Resources" in services[service]["Actions"][name.lower()]

    wide = {
        action
        for statement in iam.POLICY["Statement"]
        if "lab-" not in json.dumps([statement["Resource"], statement.get("Condition")])
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
