"""Deploy and destroy the workflows in infra/, through CloudFormation only.

A workflow is a folder with a `template.yaml` that names its functions' code and its state machine's
definition by local path, as `aws cloudformation package` reads them. Here both are put into the
template itself, so that a deployment needs no bucket of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from helpers import budget
from helpers.console import say
from helpers.engines.base import Engine
from helpers.errors import StackError
from helpers.experiment import DISTRIBUTED_MAP_LIMIT, Experiment
from helpers.files import locked

INFRA = Path(__file__).parents[1] / "infra"
TAGS = {"project": "concurrency-lab"}
"""Of every stack of the lab, and of everything in it."""
PREFIX = "concurrency-lab-"
"""The beginning of every stack's name, and so of the names of everything in it.

The policies in infra/ go by it, and nothing with another name is ever destroyed or removed.
"""
STACK_TAG = "aws:cloudformation:stack-name"
"""The tag by which CloudFormation names a resource's stack; on AWS nobody else can set it."""
BOUNDARY = "LAB_PERMISSIONS_BOUNDARY"
"""The environment variable with the ARN of the policy that bounds the roles of what is deployed."""
BOUNDARY_POLICY = "concurrency-lab-boundary"
"""The policy that bounds them where the variable is not set and the account has one of this name."""
NAME_LIMIT = 80
"""Characters in the name of a state machine or an activity (Step Functions quotas, 2026-11-24)."""
COMPARED = 50
"""Characters of a stack's name that a resource's name holds for certain: emulators cut it to fit 63."""
RUN = "LAB_RUN"
"""The environment variable that names the run whose processes deploy; its value is a tag of each stack."""
_OWN_RUN = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
INPUT_LIMIT_BYTES = 262_144
"""Input of an execution: 256 KiB of UTF-8 (Step Functions service quotas, 2026-11-24)."""
STACK_SECONDS = 900
VISIBILITY_FACTOR = 6
"""Visibility timeout over function timeout as AWS advises it (Lambda guide, services-sqs-configure)."""

FUNCTION_PARAMETERS = ("FunctionTimeout", "RedeliverySeconds")
"""Those that configure functions: Lambda then starts new environments and gives up the old ones."""

GONE = re.compile(r"NotFound|NonExistent|NoSuch|DoesNotExist")
"""What is in the code of an error that says that something does not exist."""

Value = str | int


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML with CloudFormation's short tags; in C where that is installed, as every deployment reads it."""


def _short_tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_tag)


def workflows() -> list[str]:
    """The names of the workflows in infra/."""
    return sorted(path.parent.name for path in INFRA.glob("*/template.yaml"))


def written(workflow: str) -> dict[str, Any]:
    """The workflow's template as it is written, with local paths; raises StackError for an unknown name."""
    if workflow not in workflows():
        raise StackError(f"workflow {workflow!r}: not known; choose one of {', '.join(workflows())}")
    loaded: dict[str, Any] = yaml.load((INFRA / workflow / "template.yaml").read_text(), _Loader)
    return loaded


def template(workflow: str, results_in_s3: bool = True) -> dict[str, Any]:
    """The workflow's template with code and definitions put in; raises StackError for an unknown name.

    results_in_s3: whether its Maps write their results to S3, as they do; without, these come in the
    execution's output, which holds 256 KiB.
    """
    loaded, folder = written(workflow), INFRA / workflow
    for resource in loaded["Resources"].values():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function":
            properties["Code"] = {"ZipFile": (folder / properties["Code"] / "index.py").read_text()}
        if resource["Type"] == "AWS::StepFunctions::StateMachine":
            definition = json.loads((folder / properties.pop("DefinitionS3Location")).read_text())
            if not results_in_s3:
                for state in definition["States"].values():
                    state.pop("ResultWriter", None)
            properties["DefinitionString"] = json.dumps(definition, separators=(",", ":"))
            # LocalStack takes strings only here, and a reference to a Number is none there unless joined.
            for name, value in properties.get("DefinitionSubstitutions", {}).items():
                if loaded["Parameters"].get(value.get("Ref"), {}).get("Type") == "Number":
                    properties["DefinitionSubstitutions"][name] = {"Fn::Join": ["", [value]]}
    return loaded


def parameters(experiment: Experiment, workflow: str = "combined") -> dict[str, Value]:
    """The workflow's parameters for an experiment; those that it does not have are left out."""
    heartbeat = experiment.heartbeat_seconds
    values: dict[str, Value] = {
        "Consumer": experiment.consumer,
        # 0 and 10,000 mean the same on AWS, and only there.
        "MaxConcurrency": experiment.map_concurrency or DISTRIBUTED_MAP_LIMIT,
        # A fleet has no mapping; its own number of workers is the limit, which may be 1.
        "MaximumConcurrency": max(2, experiment.worker_concurrency),
        "BatchSize": experiment.batch_size,
        "MaximumBatchingWindowInSeconds": experiment.batch_window_seconds,
        "TimeoutSeconds": experiment.task_timeout_seconds,
        # AWS wants a heartbeat below the timeout: without one of its own, it ends just before.
        "HeartbeatSeconds": experiment.task_timeout_seconds - 1 if heartbeat is None else heartbeat,
        "FunctionTimeout": experiment.function_timeout_seconds,
        "VisibilityTimeout": experiment.visibility_timeout_seconds,
        "RedeliverySeconds": experiment.redelivery_seconds,
        "MaxReceiveCount": experiment.max_receive_count,
    }
    known = template(workflow)["Parameters"]
    return {name: value for name, value in values.items() if name in known}


def check(workflow: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters of the workflow, defaults filled in.

    Raises StackError for an unknown parameter, a value outside the template's bounds, or values that AWS
    would refuse together; warns where AWS advises otherwise.
    """
    known: dict[str, dict[str, Any]] = template(workflow).get("Parameters", {})
    for name in values:
        if name not in known:
            raise StackError(f"parameter {name!r}: {workflow} has none of that name, but {', '.join(known)}")
    full = {name: values.get(name, spec["Default"]) for name, spec in known.items()}
    for name, value in full.items():
        _check_bounds(name, value, known)
    both: dict[str, Any] = full
    if {"HeartbeatSeconds", "TimeoutSeconds"} <= both.keys() and (
        both["HeartbeatSeconds"] >= both["TimeoutSeconds"]
    ):
        raise StackError(
            f"HeartbeatSeconds={both['HeartbeatSeconds']}: must be less than TimeoutSeconds="
            f"{both['TimeoutSeconds']}; shorten the heartbeat or lengthen the timeout"
        )
    if both.get("BatchSize", 1) > 10 and both["MaximumBatchingWindowInSeconds"] < 1:
        raise StackError(
            f"BatchSize={both['BatchSize']}: above 10 the mapping needs a batching window of at least 1 s; "
            "set MaximumBatchingWindowInSeconds"
        )
    if {"VisibilityTimeout", "FunctionTimeout"} <= both.keys():
        visibility, function = both["VisibilityTimeout"], both["FunctionTimeout"]
        if visibility < function:
            raise StackError(
                f"VisibilityTimeout={visibility}: must be at least FunctionTimeout={function}, or Lambda "
                f"refuses the mapping; AWS advises {VISIBILITY_FACTOR * function}"
            )
        if visibility < VISIBILITY_FACTOR * function:
            warnings.warn(
                f"VisibilityTimeout={visibility} is less than {VISIBILITY_FACTOR} times FunctionTimeout="
                f"{function}, which AWS advises: a throttled batch may be delivered twice",
                stacklevel=3,
            )
    return full


def _check_bounds(name: str, value: Value, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise StackError for a value that the parameter of this name does not take.

    known: the template's parameters.
    """
    spec = known[name]
    if spec["Type"] == "Number":
        if isinstance(value, bool) or not isinstance(value, int):
            raise StackError(f"{name}={value!r}: must be a whole number; {spec['Description']}")
        low, high = spec.get("MinValue", value), spec.get("MaxValue", value)
        if not low <= value <= high:
            raise StackError(f"{name}={value}: must be from {low} to {high}; {spec['Description']}")
    if "AllowedPattern" in spec and not re.fullmatch(spec["AllowedPattern"], str(value)):
        raise StackError(f"{name}={value!r}: must match {spec['AllowedPattern']}; {spec['Description']}")
    if "AllowedValues" in spec and value not in spec["AllowedValues"]:
        allowed = ", ".join(map(str, spec["AllowedValues"]))
        raise StackError(f"{name}={value!r}: must be one of {allowed}; {spec['Description']}")


@dataclass(frozen=True)
class Stack:
    """A deployed workflow. As a context manager it is destroyed at the end.

    name: the CloudFormation stack's. outputs: the template's outputs. parameters: all of them.
    warmed: of each function (the output that names it), how many of its environments were warmed, and when
    (seconds of the monotonic clock).
    """

    engine: Engine
    workflow: str
    name: str
    parameters: dict[str, Value]
    outputs: dict[str, str]
    warmed: dict[str, tuple[int, float]] = field(default_factory=dict)

    def start(
        self, data: Any, machine: str = "StateMachineArn", name: str | None = None, paid: bool = False
    ) -> str:
        """Start an execution with this JSON-able input and return its ARN.

        machine: the output that names the state machine. paid: the engine's budget allowed it already. Raises
        StackError for an input over 256 KiB, and BudgetError where the budget does not allow it.
        """
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        if (size := len(text.encode())) > INPUT_LIMIT_BYTES:
            raise StackError(
                f"input of {size:,} bytes: Step Functions takes at most {INPUT_LIMIT_BYTES:,} (256 KiB); "
                "put the items into S3 and let an ItemReader read them"
            )
        if not paid:
            usd = budget.of_execution(self.workflow, data)
            self.engine.spend(f"execution of {self.workflow}", usd, quietly=True)
        arn, name = self.outputs[machine], name or f"run-{uuid.uuid4().hex[:12]}"
        step_functions = self.engine.client("stepfunctions")
        try:
            started = step_functions.start_execution(stateMachineArn=arn, input=text, name=name)
        except step_functions.exceptions.ExecutionAlreadyExists:
            # Perhaps this very one: started by a call whose answer was lost, and over before the next try.
            started = {"executionArn": f"{arn.replace(':stateMachine:', ':execution:')}:{name}"}
            if step_functions.describe_execution(**started)["input"] != text:
                raise
        return str(started["executionArn"])

    def update(self, values: Mapping[str, Value]) -> Stack:
        """Give the stack other parameters in place, and return it as it is then.

        What they do not change stays: queued messages, and the boundary of the stack's roles.

        Args:
            values: The template's parameters that differ from its defaults, as for `deploy`.

        Raises:
            StackError: A value that `check` refuses, before anything is changed; or an update that fails,
                after destroying the stack.
        """
        kept = {name: self.parameters[name] for name in {"PermissionsBoundary"} & self.parameters.keys()}
        full = check(self.workflow, kept | dict(values))
        if full == self.parameters:
            return self  # CloudFormation calls an update without changes an error
        with _removed_on_failure(self.engine, self.workflow, self.name, "updated"):
            with _done_already("No updates are to be performed"):
                self.engine.client("cloudformation").update_stack(
                    StackName=self.name,
                    UsePreviousTemplate=True,
                    Parameters=_listed(full),
                    Capabilities=["CAPABILITY_IAM"],
                    ClientRequestToken=f"update-{uuid.uuid4().hex}",
                )
            _wait(self.engine, "stack_update_complete", self.name)
            time.sleep(self.engine.settle_seconds)
            outputs = _outputs(self.engine, self.name)
        restarted = any(full.get(name) != self.parameters.get(name) for name in FUNCTION_PARAMETERS)
        return replace(self, parameters=full, outputs=outputs, warmed={} if restarted else dict(self.warmed))

    def destroy(self) -> None:
        """Stop what runs in it and delete it; see `destroy`."""
        destroy(self.engine, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            _give_up(self.engine, self.name)
        else:
            self.destroy()


@contextlib.contextmanager
def claimed(stack: Stack) -> Iterator[None]:
    """Claim the stack for one run: two at once would count each other's attempts as their own.

    Threads and processes of this user on this machine exclude each other by a lock on a file, which ends with
    its process. A run by others is noticed by its execution, once Step Functions lists it:
    two that begin within the same seconds on two machines are not.

    Args:
        stack: The stack to run on.

    Raises:
        StackError: Another run has claimed the stack, or an execution runs in it.
        FileError: The lock's file could not be made.
    """
    instead = "wait for its end, or deploy another stack"
    with locked(_lock(stack.engine, stack.name)) as held:
        if not held:
            raise StackError(f"stack {stack.name}: another run is using it; {instead}")
        if running := _running(stack):
            raise StackError(f"stack {stack.name}: the execution {running} runs in it; {instead}")
        yield


def _lock(engine: Engine, name: str) -> Path:
    """Return the path of the lock of the stack with this name, which is removed with it at the latest."""
    return engine.lock_folder() / f"concurrency-lab-{os.getuid()}-{name}.lock"


def _running(stack: Stack) -> str | None:
    """Return the ARN of an execution that runs in the stack, None where none does."""
    step_functions = stack.engine.client("stepfunctions")
    for machine in (arn for arn in stack.outputs.values() if ":stateMachine:" in arn):
        listed = step_functions.list_executions(stateMachineArn=machine, statusFilter="RUNNING")
        for arn in (execution["executionArn"] for execution in listed["executions"]):
            # The list may lag behind: it names one for a while that has ended.
            if step_functions.describe_execution(executionArn=arn)["status"] == "RUNNING":
                return str(arn)
    return None


def run_id() -> str:
    """The tag `run` of what this process deploys: the time of its beginning (UTC), and a random part."""
    return os.environ.get(RUN) or _OWN_RUN


def deploy(engine: Engine, workflow: str, values: Mapping[str, Value] | None = None) -> Stack:
    """Deploy a workflow under a name of its own and return it; use it as a context manager.

    On an engine whose ResultWriter loses results, Maps have none.

    Args:
        engine: Where to deploy it.
        workflow: A folder of infra/.
        values: The template's parameters that differ from its defaults. Without a PermissionsBoundary
            among them, the roles get the one that `permissions_boundary` finds.

    Raises:
        StackError: A value that `check` refuses, or a name over AWS's limit, before anything is created;
            or a deployment that fails, after removing it.
    """
    full = check(workflow, values or {})
    body = template(workflow, results_in_s3=engine.shows("distributed_map.result_writer_succeeded"))
    name = f"{PREFIX}{workflow.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
    check_names(workflow, name, body)
    if "PermissionsBoundary" in full and "PermissionsBoundary" not in (values or {}):
        full["PermissionsBoundary"] = permissions_boundary(engine)
        _check_bounds("PermissionsBoundary", full["PermissionsBoundary"], body["Parameters"])
    with _removed_on_failure(engine, workflow, name, "deployed"):
        with _done_already("AlreadyExists"):
            engine.client("cloudformation").create_stack(
                StackName=name,
                TemplateBody=json.dumps(body, separators=(",", ":")),
                Parameters=_listed(full),
                Capabilities=["CAPABILITY_IAM"],
                Tags=[{"Key": k, "Value": v} for k, v in (TAGS | {"run": run_id()}).items()],
                ClientRequestToken=name,
            )
        _wait(engine, "stack_create_complete", name)
        return Stack(engine, workflow, name, full, _outputs(engine, name))


def check_names(workflow: str, name: str, body: Mapping[str, Any]) -> None:
    """Raise StackError where Step Functions would refuse a name that begins with this stack's name."""
    for resource in body["Resources"].values():
        for key in ("Name", "StateMachineName"):
            value = resource.get("Properties", {}).get(key)
            if isinstance(value, dict) and resource["Type"].startswith("AWS::StepFunctions::"):
                full = value.get("Fn::Sub", "${AWS::StackName}").replace("${AWS::StackName}", name)
                if len(full) > NAME_LIMIT:
                    raise StackError(
                        f"workflow {workflow!r}: its {resource['Type']} would be called {full!r}, which has "
                        f"{len(full)} characters, and AWS takes {NAME_LIMIT}; give its folder a shorter name"
                    )


def permissions_boundary(engine: Engine) -> str:
    """Return the ARN of the policy that bounds the roles of what is deployed here, or "" for none.

    It is the one in LAB_PERMISSIONS_BOUNDARY, else the account's policy `concurrency-lab-boundary`, which an
    administrator makes of infra/boundary.policy.json.

    Raises:
        StackError: The account does not answer. A refusal to look counts as none: who needs a boundary to
            make roles is refused by AWS itself without one.
    """
    if named := os.environ.get(BOUNDARY):
        return named
    try:
        _, partition, _, _, account, _ = engine.client("sts").get_caller_identity()["Arn"].split(":", 5)
        arn = f"arn:{partition}:iam::{account}:policy/{BOUNDARY_POLICY}"
        engine.client("iam").get_policy(PolicyArn=arn)
    except (ClientError, BotoCoreError) as error:
        if _says_gone(error) or (isinstance(error, ClientError) and "AccessDenied" in str(error)):
            return ""
        raise StackError(f"policy {BOUNDARY_POLICY}: could not be looked for ({error}); try again") from error
    return arn


def destroy(engine: Engine, name: str) -> None:
    """Stop the stack's executions, empty its buckets, delete it and wait until it is gone.

    A stack that does not exist counts as destroyed, as does what is no more of one that does. Tries again
    where CloudFormation fails. An interruption goes on, and says first what may be left.

    Raises:
        StackError: The stack is not the lab's by tag and name, and nothing was touched; or something is
            left, or the engine does not answer.
    """
    again = f"run `./lab destroy {name} {engine.flags()}` again, or delete it in the CloudFormation console"
    try:
        try:
            _delete(engine, name)
        except WaiterError as error:
            if "DELETE_FAILED" not in str(error):
                raise
            _delete(engine, name)  # what was stopped may have written into a bucket that was empty already
    except (ClientError, BotoCoreError) as error:
        reason = _why_failed(engine, name) or error
        raise StackError(f"stack {name}: could not be destroyed ({reason}); {again}") from error
    except BaseException:
        say(f"stack {name}: may not be destroyed yet; {again}", err=True)
        raise
    with contextlib.suppress(OSError):  # there is none, or it is another user's
        _lock(engine, name).unlink()  # a run that was killed has left it


def _delete(engine: Engine, name: str) -> None:
    """Destroy the stack in one try."""
    cloudformation = engine.client("cloudformation")
    try:
        (described,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        if reason := _why_foreign(name, _told(described.get("Tags", []))):
            raise StackError(f"stack {name}: is left, because {reason}; delete it by hand if it may go")
        _wait_out_update(engine, name)
        resources = [
            resource
            for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
            for resource in page["StackResourceSummaries"]
        ]
    except ClientError as error:
        if "does not exist" in str(error):
            return
        raise
    for resource in resources:
        if "PhysicalResourceId" not in resource:  # it could not be made
            continue
        try:
            if resource["ResourceType"] == "AWS::StepFunctions::StateMachine":
                _stop_executions(engine, resource["PhysicalResourceId"])
            if resource["ResourceType"] == "AWS::S3::Bucket":
                _empty(engine, resource["PhysicalResourceId"])
        except ClientError as error:
            if not _says_gone(error):  # by hand, or by an earlier try
                raise
    cloudformation.delete_stack(StackName=name)
    _wait(engine, "stack_delete_complete", name)


def _says_gone(error: Exception) -> bool:
    """Whether this is a refusal since something does not exist."""
    return isinstance(error, ClientError) and bool(GONE.search(error.response["Error"].get("Code", "")))


def _give_up(engine: Engine, name: str) -> bool:
    """Destroy a stack because of an error, which is what is raised: a second one is printed only."""
    try:
        destroy(engine, name)
    except StackError as error:
        say(error, err=True)
        return False
    return True


def deployed(engine: Engine, run: str | None = None) -> list[str]:
    """Return the names of the lab's stacks on this engine, in any state, including those of other people.

    A stack is the lab's if it has the tag project=concurrency-lab and a name that begins with
    `concurrency-lab-`.

    Args:
        engine: Where to look.
        run: Only stacks with this tag `run`.
    """
    return sorted(
        stack["StackName"]
        for stack in _tagged_stacks(engine)
        if stack["StackName"].startswith(PREFIX) and (run is None or _told(stack["Tags"]).get("run") == run)
    )


def _tagged_stacks(engine: Engine) -> list[dict[str, Any]]:
    """Return the stacks that have the lab's tag, and are not deleted yet."""
    pages = engine.client("cloudformation").get_paginator("describe_stacks").paginate()
    return [
        stack
        for page in pages
        for stack in page["Stacks"]
        if TAGS.items() <= _told(stack.get("Tags", [])).items() and stack["StackStatus"] != "DELETE_COMPLETE"
    ]


def _told(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return tags as most services list them as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def _why_foreign(name: str, tags: Mapping[str, str]) -> str | None:
    """Return why a stack or resource is not the lab's, or None if it is.

    Args:
        name: Its name. The name of its stack, which CloudFormation puts into a tag, counts in its place.
        tags: Its tags.
    """
    if not TAGS.items() <= tags.items():
        return f"it has no tag project={TAGS['project']}"
    if STACK_TAG in tags:
        return None if tags[STACK_TAG].startswith(PREFIX) else f"it is of the stack {tags[STACK_TAG]!r}"
    return None if name.startswith(PREFIX) else f"the name {name!r} does not begin with {PREFIX}"


@dataclass(frozen=True)
class Tagged:
    """A resource that has the lab's tag.

    Attributes:
        arn: Its ARN.
        foreign: Why it is not the lab's to remove, or None if it is.
        stack: The stack of the lab's that it is in, or None if that stack is gone.
    """

    arn: str
    foreign: str | None
    stack: str | None


def tagged(engine: Engine) -> list[Tagged]:
    """Return the stacks and resources that have the lab's tag, and say which of them are the lab's.

    A resource is the lab's if the tag `aws:cloudformation:stack-name` names a stack of the lab's, existing or
    not. Where it has no such tag, its name must begin with `concurrency-lab-`, as all names do that
    CloudFormation or a template makes up in such a stack; an event source mapping counts by the name of its
    function. Roles, which AWS does not find by tag, are looked for by name. AWS may still list for a while
    what is gone.

    Raises:
        StackError: The engine does not tell.
    """
    filters = [{"Key": key, "Values": [value]} for key, value in TAGS.items()]
    pages = engine.client("resourcegroupstaggingapi").get_paginator("get_resources")
    try:
        stacks = _tagged_stacks(engine)
        ours = [stack["StackName"] for stack in stacks if stack["StackName"].startswith(PREFIX)]
        found = {
            one["ResourceARN"]: _told(one["Tags"])
            for page in pages.paginate(TagFilters=filters)
            for one in page["ResourceTagMappingList"]
            if ":cloudformation:" not in one["ResourceARN"]
        }
        found |= _tagged_roles(engine)
        judged = [_judged(engine, arn, tags, ours) for arn, tags in found.items()]
        judged += [
            Tagged(stack["StackId"], _why_foreign(stack["StackName"], TAGS), None)
            for stack in stacks
            if stack["StackName"] not in ours
        ]
    except (ClientError, BotoCoreError) as error:
        raise StackError(
            f"what is in no stack: could not be looked for ({error}); search for the tag project="
            f"{TAGS['project']} in the console's Tag Editor"
        ) from error
    return sorted(judged, key=lambda one: one.arn)


def _tagged_roles(engine: Engine) -> dict[str, dict[str, str]]:
    """Return the tags of the roles with a name and a tag of the lab's, by ARN."""
    iam = engine.client("iam")
    roles = [
        role
        for page in iam.get_paginator("list_roles").paginate()
        for role in page["Roles"]
        if role["RoleName"].startswith(PREFIX)
    ]
    told = {role["Arn"]: _told(iam.list_role_tags(RoleName=role["RoleName"])["Tags"]) for role in roles}
    return {arn: tags for arn, tags in told.items() if TAGS.items() <= tags.items()}


def _judged(engine: Engine, arn: str, tags: Mapping[str, str], stacks: list[str]) -> Tagged:
    """Return whose a resource is.

    Args:
        engine: Where it is.
        arn: Its ARN.
        tags: Its tags.
        stacks: The names of the lab's stacks.
    """
    _, kind, name = _parts(arn)
    if kind == "event-source-mapping" and STACK_TAG not in tags:
        name = _function_of(engine, name)
    inside = [
        stack
        for stack in stacks
        if (
            tags[STACK_TAG] == stack
            if STACK_TAG in tags
            else name.lower().startswith(stack.lower()[:COMPARED])
        )
    ]
    return Tagged(arn, _why_foreign(name, tags), inside[0] if inside else None)


def _parts(arn: str) -> tuple[str, str, str]:
    """Return the service, the kind and the whole name of the resource with this ARN.

    A queue and a bucket, whose ARNs tell no kind, have the kind "".
    """
    _, _, service, _, _, rest = arn.split(":", 5)
    kind, separator, name = re.fullmatch("([^:/]*)([:/]?)(.*)", rest).groups()  # type: ignore[union-attr]
    return (service, kind, name.removesuffix(":*")) if separator else (service, "", rest)


def _function_of(engine: Engine, mapping: str) -> str:
    """Return the name of an event source mapping's function.

    A mapping that is gone, or of a function that one may not look at, has the name "".
    """
    try:
        described = engine.client("lambda").get_event_source_mapping(UUID=mapping)
    except ClientError as error:
        if not (_says_gone(error) or "AccessDenied" in str(error)):
            raise
        return ""
    return str(described["FunctionArn"].split(":")[6])


def orphans(engine: Engine) -> list[str]:
    """Return the ARNs of the lab's resources, by tag and name, that are in no existing stack.

    CloudFormation was made to keep them, or lost them. See `tagged` for how a resource is known.

    Raises:
        StackError: The engine does not tell.
    """
    return [one.arn for one in tagged(engine) if not one.foreign and not one.stack]


def remove(engine: Engine, arn: str) -> None:
    """Delete a resource of the lab's that is in no stack, by its ARN.

    Raises:
        StackError: The resource is not the lab's by tag and name, or is gone, or is in an existing stack, or
            is of a kind that no template makes, and nothing was touched; or the engine refuses.
    """
    found = {one.arn.removesuffix(":*"): one for one in tagged(engine)}.get(arn.removesuffix(":*"))
    if not found:
        raise StackError(f"{arn}: is left, because nothing with the tag project={TAGS['project']} is there")
    if found.foreign:
        raise StackError(f"{arn}: is left, because {found.foreign}; delete it by hand if it may go")
    if found.stack:
        raise StackError(f"{arn}: is left, because it is in stack {found.stack}; destroy that")
    _delete_resource(engine, arn)


def _delete_resource(engine: Engine, arn: str) -> None:
    """Delete a resource, whosever it is; one that does not exist counts as deleted."""
    service, kind, name = _parts(arn)
    try:
        match service, kind:
            case "logs", "log-group":
                engine.client("logs").delete_log_group(logGroupName=name)
            case "lambda", "function":
                engine.client("lambda").delete_function(FunctionName=name)
            case "lambda", "event-source-mapping":
                engine.client("lambda").delete_event_source_mapping(UUID=name)
            case "dynamodb", "table":
                engine.client("dynamodb").delete_table(TableName=name)
            case "events", "rule":
                _delete_rule(engine, name)
            case "pipes", "pipe":
                engine.client("pipes").delete_pipe(Name=name)
            case "states", "activity":
                engine.client("stepfunctions").delete_activity(activityArn=arn)
            case "states", "stateMachine":
                engine.client("stepfunctions").delete_state_machine(stateMachineArn=arn)
            case "sqs", "":
                sqs = engine.client("sqs")
                sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"])
            case "iam", "role":
                _delete_role(engine, name.rpartition("/")[2])
            case "s3", "":
                _empty(engine, name)
                engine.client("s3").delete_bucket(Bucket=name)
            case _:
                raise StackError(f"{arn}: is of no kind that the lab's templates make; delete it by hand")
    except (ClientError, BotoCoreError) as error:
        if not _says_gone(error):
            raise StackError(f"{arn}: could not be deleted ({error}); delete it by hand") from error


def _delete_rule(engine: Engine, rule: str) -> None:
    """Delete a rule, which EventBridge refuses while it has targets."""
    events = engine.client("events")
    targets = events.list_targets_by_rule(Rule=rule)["Targets"]
    if targets:
        events.remove_targets(Rule=rule, Ids=[target["Id"] for target in targets])
    events.delete_rule(Name=rule)


def _delete_role(engine: Engine, role: str) -> None:
    """Delete a role, which IAM refuses while it has policies."""
    iam = engine.client("iam")
    for page in iam.get_paginator("list_role_policies").paginate(RoleName=role):
        for policy in page["PolicyNames"]:
            iam.delete_role_policy(RoleName=role, PolicyName=policy)
    iam.delete_role(RoleName=role)


def _listed(values: Mapping[str, Value]) -> list[dict[str, str]]:
    """The parameters as CloudFormation takes them."""
    return [{"ParameterKey": name, "ParameterValue": str(value)} for name, value in values.items()]


def _outputs(engine: Engine, name: str) -> dict[str, str]:
    (described,) = engine.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}


@contextlib.contextmanager
def _done_already(refusal: str) -> Iterator[None]:
    """Pass over a refusal that says that an earlier try of the same call, whose answer was lost, did it.

    By the ClientRequestToken AWS knows the call again; engines that do not look at it refuse.
    """
    try:
        yield
    except ClientError as error:
        if refusal not in str(error):
            raise


@contextlib.contextmanager
def _removed_on_failure(engine: Engine, workflow: str, name: str, done: str) -> Iterator[None]:
    """Destroy the stack when the block fails or is interrupted; a failure on the engine is a StackError."""
    try:
        yield
    except BaseException as error:
        failed = isinstance(error, ClientError | BotoCoreError)
        reason = (_why_failed(engine, name) if failed else None) or str(error)
        removed = _give_up(engine, name)
        if failed:
            raise StackError(
                f"{workflow}: could not be {done} ({reason}); "
                + ("what was made of it has been removed" if removed else f"stack {name} may be left")
            ) from error
        raise


def _wait_out_update(engine: Engine, name: str) -> None:
    """Wait until no update is under way: CloudFormation refuses to delete a stack in the middle of one."""
    give_up = time.monotonic() + STACK_SECONDS
    while time.monotonic() < give_up:
        (described,) = engine.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        status = described["StackStatus"]
        if not (status.startswith("UPDATE_") and status.endswith("_IN_PROGRESS")):
            return
        time.sleep(engine.poll_seconds)


def _wait(engine: Engine, waiter: str, name: str) -> None:
    engine.client("cloudformation").get_waiter(waiter).wait(
        StackName=name,
        WaiterConfig={
            "Delay": engine.poll_seconds,
            "MaxAttempts": int(STACK_SECONDS / engine.poll_seconds),
        },
    )


def _why_failed(engine: Engine, name: str) -> str | None:
    try:
        events = engine.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
    except (ClientError, BotoCoreError):
        return None
    reasons = [
        f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
        for event in reversed(events)
        if event["ResourceStatus"].endswith("_FAILED") and event.get("ResourceStatusReason")
    ]
    return reasons[0] if reasons else None


def _stop_executions(engine: Engine, machine: str) -> None:
    step_functions = engine.client("stepfunctions")
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=machine, statusFilter="RUNNING"
    )
    for page in pages:
        for execution in page["executions"]:
            step_functions.stop_execution(executionArn=execution["executionArn"], cause="stack destroyed")


def _empty(engine: Engine, bucket: str) -> None:
    s3 = engine.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
        if keys:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
