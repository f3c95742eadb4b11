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
import sys
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
from helpers.engines.base import Engine
from helpers.errors import StackError
from helpers.experiment import DISTRIBUTED_MAP_LIMIT, Experiment

INFRA = Path(__file__).parents[1] / "infra"
TAGS = {"project": "concurrency-lab"}
"""Of every stack of the lab, and of everything in it."""
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
        _check_bounds(name, value, known[name])
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


def _check_bounds(name: str, value: Value, spec: Mapping[str, Any]) -> None:
    if spec["Type"] == "Number":
        if isinstance(value, bool) or not isinstance(value, int):
            raise StackError(f"{name}={value!r}: must be a whole number; {spec['Description']}")
        low, high = spec.get("MinValue", value), spec.get("MaxValue", value)
        if not low <= value <= high:
            raise StackError(f"{name}={value}: must be from {low} to {high}; {spec['Description']}")
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

        values: the template's parameters that differ from its defaults, as for `deploy`. What they do not
        change stays, queued messages included. Raises StackError for a value that `check` refuses, before
        anything is changed, and for an update that fails, after destroying the stack.
        """
        full = check(self.workflow, values)
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


def run_id() -> str:
    """The tag `run` of what this process deploys: the time of its beginning (UTC), and a random part."""
    return os.environ.get(RUN) or _OWN_RUN


def deploy(engine: Engine, workflow: str, values: Mapping[str, Value] | None = None) -> Stack:
    """Deploy a workflow under a name of its own and return it; use it as a context manager.

    values: the template's parameters that differ from its defaults. Raises StackError for a value that
    `check` refuses, before anything is created, and for a deployment that fails, after removing it.
    On an engine whose ResultWriter loses results, Maps have none.
    """
    full = check(workflow, values or {})
    body = template(workflow, results_in_s3=engine.shows("distributed_map.result_writer_succeeded"))
    name = f"lab-{workflow.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
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


def destroy(engine: Engine, name: str) -> None:
    """Stop the stack's executions, empty its buckets, delete it and wait until it is gone.

    A stack that does not exist counts as destroyed, as does what is no more of one that does. Tries again
    where CloudFormation fails. Raises StackError when something is left, or the engine does not answer. An
    interruption goes on, and says first what may be left.
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
        print(f"stack {name}: may not be destroyed yet; {again}", file=sys.stderr)
        raise


def _delete(engine: Engine, name: str) -> None:
    """Destroy the stack in one try."""
    cloudformation = engine.client("cloudformation")
    try:
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
        print(error, file=sys.stderr)
        return False
    return True


def deployed(engine: Engine, run: str | None = None) -> list[str]:
    """The names of the lab's stacks on this engine, in whatever state, those that others deployed included.

    run: only those with this tag `run`.
    """
    wanted = TAGS if run is None else TAGS | {"run": run}
    pages = engine.client("cloudformation").get_paginator("describe_stacks").paginate()
    return sorted(
        stack["StackName"]
        for page in pages
        for stack in page["Stacks"]
        if wanted.items() <= {tag["Key"]: tag["Value"] for tag in stack.get("Tags", [])}.items()
        and stack["StackStatus"] != "DELETE_COMPLETE"
    )


def orphans(engine: Engine) -> list[str]:
    """The ARNs of what carries the lab's tag and is in no stack of the lab's.

    What CloudFormation was made to keep, or lost. Resources that do not say which stack they are of count
    only where none of the lab's is left. AWS may still list for a while what is gone. Raises StackError where
    the engine does not tell.
    """
    stacks = deployed(engine)
    filters = [{"Key": key, "Values": [value]} for key, value in TAGS.items()]
    pages = engine.client("resourcegroupstaggingapi").get_paginator("get_resources")
    found = []
    try:
        tagged = [
            one for page in pages.paginate(TagFilters=filters) for one in page["ResourceTagMappingList"]
        ]
    except (ClientError, BotoCoreError) as error:
        raise StackError(
            f"what is in no stack: could not be looked for ({error}); search for the tag project="
            f"{TAGS['project']} in the console's Tag Editor"
        ) from error
    for resource in tagged:
        tags = {tag["Key"]: tag["Value"] for tag in resource["Tags"]}
        of = tags.get("aws:cloudformation:stack-name")
        if ":cloudformation:" not in resource["ResourceARN"] and (of not in stacks if of else not stacks):
            found.append(resource["ResourceARN"])
    return sorted(found)


def remove(engine: Engine, arn: str) -> None:
    """Delete one of the lab's resources by its ARN; one that does not exist counts as deleted.

    Raises StackError for a kind that the lab's templates do not make, or when the engine refuses.
    """
    _, _, service, _, _, rest = arn.split(":", 5)
    kind, _, name = rest.partition(":")
    try:
        match service, kind:
            case "logs", "log-group":
                engine.client("logs").delete_log_group(logGroupName=name.removesuffix(":*"))
            case "lambda", "function":
                engine.client("lambda").delete_function(FunctionName=name)
            case "lambda", "event-source-mapping":
                engine.client("lambda").delete_event_source_mapping(UUID=name)
            case "dynamodb", table:
                engine.client("dynamodb").delete_table(TableName=table.removeprefix("table/"))
            case "events", rule:
                _delete_rule(engine, rule.removeprefix("rule/"))
            case "pipes", pipe:
                engine.client("pipes").delete_pipe(Name=pipe.removeprefix("pipe/"))
            case "states", "activity":
                engine.client("stepfunctions").delete_activity(activityArn=arn)
            case "states", "stateMachine":
                engine.client("stepfunctions").delete_state_machine(stateMachineArn=arn)
            case "sqs", queue:
                sqs = engine.client("sqs")
                sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"])
            case "s3", bucket:
                _empty(engine, bucket)
                engine.client("s3").delete_bucket(Bucket=bucket)
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
