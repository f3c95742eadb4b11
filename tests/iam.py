"""The operator's policy, what of it is called by whom, and the walkthrough under it.

`python -m tests.iam` runs the notebooks 00 to 05 at scale quick on an engine that enforces IAM.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import nbformat
from botocore.model import Shape

from helpers import notebooks
from helpers.engines import local
from helpers.engines.embedded import OPERATOR_POLICY, EnforcingServer
from helpers.stack import INFRA

Document = dict[str, Any]
POLICY: Document = json.loads(OPERATOR_POLICY.read_text())
OPERATOR = "lab-operator"
NAMESPACES = {
    "cloudformation": "cloudformation",
    "cloudwatch": "cloudwatch",
    "dynamodb": "dynamodb",
    "events": "events",
    "iam": "iam",
    "lambda": "lambda",
    "logs": "logs",
    "pipes": "pipes",
    "s3": "s3",
    "sqs": "sqs",
    "states": "stepfunctions",
    "sts": "sts",
    "tag": "resourcegroupstaggingapi",
}
"""The boto3 client of each service, by its prefix in IAM."""
OPERATIONS = {
    "lambda:InvokeFunction": "Invoke",
    "s3:ListBucket": "ListObjectsV2",
    "s3:PutBucketPublicAccessBlock": "PutPublicAccessBlock",
    "s3:PutEncryptionConfiguration": "PutBucketEncryption",
    "s3:PutLifecycleConfiguration": "PutBucketLifecycleConfiguration",
}
"""The operation that an action allows, where the two differ in name (Service Authorization Reference)."""
BATCHES = {
    "s3:DeleteObjects": "s3:DeleteObject",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:SendMessageBatch": "sqs:SendMessage",
}
"""The action that a batch takes (the same)."""
UNCHECKED = {"iam:PassRole", "sqs:StartMessageMoveTask", "sts:GetCallerIdentity"}
"""Actions that are not tried one by one: the first is no call of its own, the engine has no such call as the
second, and AWS refuses the third to nobody."""
NAMESAKES = {"get_template", "query"}
"""Methods of jinja's and of pandas' that the lab calls, and that are named as some of AWS's clients are."""
SHARED = {"get_policy": "iam:GetPolicy"}
"""Methods that clients of several services have, and the operation that the lab calls."""
ON_BEHALF = {
    "AWS::DynamoDB::Table": {
        "CreateTable",
        "DeleteTable",
        "DescribeTable",
        "ListTagsOfResource",
        "TagResource",
    },
    "AWS::Events::Rule": {
        "DeleteRule",
        "DescribeRule",
        "ListTagsForResource",
        "ListTargetsByRule",
        "PutRule",
        "PutTargets",
        "RemoveTargets",
        "TagResource",
        "iam:PassRole",
    },
    "AWS::IAM::Policy": {"DeleteRolePolicy", "GetRolePolicy", "PutRolePolicy"},
    "AWS::IAM::Role": {
        "CreateRole",
        "DeleteRole",
        "DeleteRolePolicy",
        "GetRole",
        "GetRolePolicy",
        "ListAttachedRolePolicies",
        "ListRolePolicies",
        "PutRolePolicy",
        "TagRole",
    },
    "AWS::Lambda::EventSourceMapping": {
        "CreateEventSourceMapping",
        "DeleteEventSourceMapping",
        "GetEventSourceMapping",
        "ListTags",
        "TagResource",
        "UpdateEventSourceMapping",
    },
    "AWS::Lambda::Function": {
        "CreateFunction",
        "DeleteFunction",
        "DeleteFunctionConcurrency",
        "GetFunction",
        "PutFunctionConcurrency",
        "TagResource",
        "UpdateFunctionConfiguration",
        "iam:PassRole",
    },
    "AWS::Logs::LogGroup": {
        "CreateLogGroup",
        "DeleteLogGroup",
        "DescribeLogGroups",
        "ListTagsForResource",
        "PutRetentionPolicy",
        "TagResource",
    },
    "AWS::Pipes::Pipe": {
        "CreatePipe",
        "DeletePipe",
        "DescribePipe",
        "TagResource",
        "UpdatePipe",
        "iam:PassRole",
    },
    "AWS::S3::Bucket": {
        "CreateBucket",
        "DeleteBucket",
        "ListBucket",
        "PutBucketPublicAccessBlock",
        "PutBucketTagging",
        "PutEncryptionConfiguration",
        "PutLifecycleConfiguration",
    },
    "AWS::S3::BucketPolicy": {"DeleteBucketPolicy", "GetBucketPolicy", "PutBucketPolicy"},
    "AWS::SQS::Queue": {
        "CreateQueue",
        "DeleteQueue",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ListQueueTags",
        "SetQueueAttributes",
        "TagQueue",
    },
    "AWS::SQS::QueuePolicy": {"SetQueueAttributes"},
    "AWS::StepFunctions::Activity": {
        "CreateActivity",
        "DeleteActivity",
        "DescribeActivity",
        "ListTagsForResource",
        "TagResource",
    },
    "AWS::StepFunctions::StateMachine": {
        "CreateStateMachine",
        "DeleteStateMachine",
        "DescribeStateMachine",
        "ListTagsForResource",
        "TagResource",
        "UpdateStateMachine",
        "iam:PassRole",
    },
}
"""What CloudFormation does with the operator's rights to make, change and remove what the templates hold.

Of the permissions that the resource types' schemas list, those for the properties that the templates use.
"""


ACCOUNT = "000000000000"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/concurrency-lab-boundary"
EXAMPLES = {
    "PermissionsBoundary": BOUNDARY,
    "PolicyArn": BOUNDARY,
    **dict.fromkeys(("Role", "RoleArn", "roleArn"), f"arn:aws:iam::{ACCOUNT}:role/concurrency-lab-probe"),
    "activityArn": f"arn:aws:states:{local.REGION}:{ACCOUNT}:activity:concurrency-lab-none",
    "QueueUrl": f"http://localhost/{ACCOUNT}/concurrency-lab-probe",
    "executionArn": f"arn:aws:states:{local.REGION}:{ACCOUNT}:execution:concurrency-lab-probe:run",
    "mapRunArn": f"arn:aws:states:{local.REGION}:{ACCOUNT}:mapRun:concurrency-lab-probe/Items:run",
    "stateMachineArn": f"arn:aws:states:{local.REGION}:{ACCOUNT}:stateMachine:concurrency-lab-probe",
}
"""Members of requests that name a resource by more than its name."""
TAGGED = {
    "dynamodb": f"arn:aws:dynamodb:{local.REGION}:{ACCOUNT}:table/concurrency-lab-probe",
    "events": f"arn:aws:events:{local.REGION}:{ACCOUNT}:rule/concurrency-lab-probe",
    "lambda": f"arn:aws:lambda:{local.REGION}:{ACCOUNT}:event-source-mapping:concurrency-lab-probe",
    "logs": f"arn:aws:logs:{local.REGION}:{ACCOUNT}:log-group:concurrency-lab-probe",
    "pipes": f"arn:aws:pipes:{local.REGION}:{ACCOUNT}:pipe/concurrency-lab-probe",
    "states": EXAMPLES["stateMachineArn"],
}
"""What is tagged, by the service's prefix."""
NAMING = {"PermissionsBoundary", "S", "key", "logGroupName", "stateMachineArn", "value"}
"""Members that are sent without being required: they name the resource or bound it, or make a tag whole.
"""


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(policy: Document = POLICY) -> set[str]:
    """The actions that a policy allows."""
    return {
        action
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
    }


def without(policy: Document, *actions: str) -> Document:
    """A policy that allows all but some actions; a statement without any is left out."""
    statements = [
        {**statement, "Action": [kept for kept in listed(statement["Action"]) if kept not in actions]}
        if statement["Effect"] == "Allow"
        else statement
        for statement in policy["Statement"]
    ]
    return {**policy, "Statement": [statement for statement in statements if statement["Action"]]}


def on_behalf(kind: str) -> set[str]:
    """What CloudFormation does for resources of this type, as IAM's actions."""
    _, service, _ = kind.split("::")
    prefix = {"StepFunctions": "states"}.get(service, service.lower())
    return {action if ":" in action else f"{prefix}:{action}" for action in ON_BEHALF[kind]}


def called() -> set[str]:
    """The actions that the lab's own code calls: helpers, notebooks, and the worker, which a fleet runs."""
    helpers = (INFRA.parent / "helpers").rglob("*.py")
    code = [path.read_text() for path in helpers if "_server" not in str(path)]
    code.append((INFRA / "sqs_limited" / "functions" / "worker" / "index.py").read_text())
    for path in notebooks.discover():
        cells = nbformat.read(path, as_version=4).cells
        code += ["\n".join(re.findall(r"(?m)^[^%!].*$", c.source)) for c in cells if c.cell_type == "code"]
    methods: dict[str, str] = {}
    for prefix, name in NAMESPACES.items():
        for method, operation in boto3.client(name, "us-east-1").meta.method_to_api_mapping.items():
            methods[method] = f"{prefix}:{operation}"
    methods |= SHARED
    # A method is called on a client, or named to make a paginator.
    words = {
        node.attr if isinstance(node, ast.Attribute) else node.value
        for text in code
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    actions = {f"{action.partition(':')[0]}:{operation}": action for action, operation in OPERATIONS.items()}
    found = {methods[word] for word in words & methods.keys() - NAMESAKES}
    return {actions.get(operation, BATCHES.get(operation, operation)) for operation in found}


def root(server: EnforcingServer, service: str) -> Any:
    """A client of the account's root, who may do everything."""
    keys = server.root.access_key, server.root.secret_key
    return boto3.Session(*keys, region_name=local.REGION).client(service, endpoint_url=server.endpoint_url)


@contextlib.contextmanager
def lacking(server: EnforcingServer, *actions: str) -> Iterator[None]:
    """The operator lacks these actions for a while."""

    def permit(policy: Document) -> None:
        name = {"UserName": OPERATOR, "PolicyName": OPERATOR}
        root(server, "iam").put_user_policy(**name, PolicyDocument=json.dumps(policy))

    permit(without(POLICY, *actions))
    try:
        yield
    finally:
        permit(POLICY)


@contextlib.contextmanager
def role_lacking(server: EnforcingServer, role: str, action: str) -> Iterator[None]:
    """A role lacks an action of its own policy for a while."""
    iam = root(server, "iam")
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        name = {"RoleName": role, "PolicyName": policy}
        document = iam.get_role_policy(**name)["PolicyDocument"]
        if action in allowed(document):
            break
    else:
        raise AssertionError(f"{role} never had {action}")
    iam.put_role_policy(**name, PolicyDocument=json.dumps(without(document, action)))
    try:
        yield
    finally:
        iam.put_role_policy(**name, PolicyDocument=json.dumps(document))


def request(client: Any, action: str, known: dict[str, str]) -> Callable[[], Any]:
    """The call that takes this action, with as little in it as its model wants.

    known: values of members by name. Others are `concurrency-lab-probe` or the like: names of the lab's.
    """
    prefix, _, name = action.partition(":")
    operation = OPERATIONS.get(action, name)
    (method,) = (m for m, o in client.meta.method_to_api_mapping.items() if o == operation)
    tagged = dict.fromkeys(("Resource", "resourceArn", "ResourceArn", "ResourceARN"), TAGGED.get(prefix))
    shape = client.meta.service_model.operation_model(operation).input_shape
    parameters = _example(shape, {**EXAMPLES, **tagged, **known}) if shape else {}
    return lambda: getattr(client, method)(**parameters)


def _example(shape: Shape, known: dict[str, Any]) -> Any:
    """The least value of a shape: required members, and those that name the resource."""
    match shape.type_name:
        case "structure":
            members = [name for name in shape.members if name in shape.required_members or name in NAMING]
            return {name: known.get(name) or _example(shape.members[name], known) for name in members}
        case "list":
            return [_example(shape.member, known)]
        case "map":
            return {"project": _example(shape.value, known)}
        case "boolean":
            return True
        case "blob":
            return b"{}"
        case "string":
            return (shape.enum or ["concurrency-lab-probe"])[0]
        case _:  # numbers and times
            return 1


def main() -> None:
    """Run the notebooks 00 to 05 at scale quick under enforcement; exit 1 when one fails."""
    server = EnforcingServer.start()
    os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
    try:
        with tempfile.TemporaryDirectory() as out:
            chosen = [path for path in notebooks.discover() if path.stem < "06"]
            parameters = {"engine": "embedded", "scale": "quick"}
            results = notebooks.run(chosen, Path(out), parameters, progress=True)
    finally:
        server.stop()
    for result in results:
        print(f"{result.name}: {'green' if result.ok else result.error}")
    sys.exit(not all(result.ok for result in results))


if __name__ == "__main__":
    main()
