"""Laws of the files in infra/: what every template and every state machine definition must have."""

import ast
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest
from cfnlint.api import lint, lint_file
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from helpers import stack
from helpers.stack import INFRA

WORKFLOWS = stack.workflows()
MACHINES = sorted(INFRA.glob("*/statemachine/*.asl.json"))
BOUNDARY = json.loads((INFRA / "boundary.policy.json").read_text())
TEMPLATE_LIMIT_BYTES = 51_200
"""TemplateBody of CreateStack (CloudFormation quotas, 2026-11-24)."""
FIXED_NAMES = {
    "BucketName",
    "Name",
    "TableName",
    "FunctionName",
    "LogGroupName",
    "QueueName",
    "RoleName",
    "StateMachineName",
}
LAMBDA, MACHINE = "AWS::Lambda::Function", "AWS::StepFunctions::StateMachine"
MAPPING, ROLE = "AWS::Lambda::EventSourceMapping", "AWS::IAM::Role"
BUCKET, LOGS, QUEUE = "AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::SQS::Queue"
ACTIVITY, TABLE = "AWS::StepFunctions::Activity", "AWS::DynamoDB::Table"
PIPE, RULE = "AWS::Pipes::Pipe", "AWS::Events::Rule"
NAMED = (ACTIVITY, BUCKET, LAMBDA, LOGS, MACHINE, PIPE, QUEUE, ROLE, RULE, TABLE)
"""Types of resources that may have a name of the template's choice."""
LOGGING = {"logs:CreateLogStream", "logs:PutLogEvents"}
POLLING = {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}
"""What an event source mapping does with its function's role (Lambda guide, services-sqs-configure)."""
MAP_RUN = {"DescribeExecution", "RedriveExecution", "StartExecution", "StopExecution"}
"""What a Distributed Map does to its own state machine (Step Functions guide, iam-policies-eg-dist-map)."""
CALLBACK = "arn:aws:states:::sqs:sendMessage.waitForTaskToken"
WORK = "${ActivityArn}"
"""A Task of an activity: its workers come for it, for which the state machine needs no right."""
INTEGRATIONS: dict[str, tuple[str, set[str]]] = {
    "arn:aws:states:::aws-sdk:s3:putObject": ("Bucket", {"s3:PutObject"}),
    "arn:aws:states:::dynamodb:updateItem": ("TableName", {"dynamodb:UpdateItem"}),
    "arn:aws:states:::lambda:invoke": ("FunctionName", {"lambda:InvokeFunction"}),
    "arn:aws:states:::s3:getObject": ("Bucket", {"s3:GetObject", "s3:ListBucket"}),
    "arn:aws:states:::s3:putObject": (
        "Bucket",
        {"s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"},
    ),
    "arn:aws:states:::sqs:sendMessage": ("QueueUrl", {"sqs:SendMessage"}),
    CALLBACK: ("QueueUrl", {"sqs:SendMessage"}),
    WORK: ("", set()),
}
"""All that a state may call: the parameter that names its target, and the actions that it takes."""

TRANSACTIONS = {"dynamodb:TransactWriteItems": {"dynamodb:PutItem", "dynamodb:UpdateItem"}}
"""What a transaction takes: the actions of what is in it (DynamoDB guide, transaction-apis-iam)."""

Node = dict[str, Any]
of_every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS)
of_every_machine = pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda path: f"{path.parents[1].name}-{path.name.partition('.')[0]}"
)


def of_type(workflow: str, *types: str) -> dict[str, Node]:
    """The template's resources of these types, by logical id."""
    return {k: r for k, r in stack.template(workflow)["Resources"].items() if r["Type"] in types}


def properties(workflow: str, kind: str) -> dict[str, Node]:
    return {name: resource.get("Properties", {}) for name, resource in of_type(workflow, kind).items()}


def local_paths(workflow: str) -> Node:
    """The template's resources as written, with code and definitions by path."""
    return stack.written(workflow)["Resources"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def named(value: Any) -> set[str]:
    """The logical ids that a value refers to."""
    if not isinstance(value, dict):
        return set()
    if "Fn::GetAtt" in value:
        return {value["Fn::GetAtt"][0]}
    return {value["Ref"]} if "Ref" in value else set(re.findall(r"\$\{(\w+)[.}]", value.get("Fn::Sub", "")))


def statements(workflow: str) -> Iterator[Node]:
    """Every statement of every policy document in the template."""

    def documents(node: Any) -> Iterator[Node]:
        if isinstance(node, dict):
            yield from (node[key] for key in node if key == "PolicyDocument")
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        for child in children:
            yield from documents(child)

    for document in documents(stack.template(workflow)["Resources"]):
        yield from document["Statement"]


def granted(workflow: str, role: str) -> set[tuple[str, str]]:
    """What a role may do: action, and the logical id of the resource."""
    documents = [policy["PolicyDocument"] for policy in properties(workflow, ROLE)[role]["Policies"]]
    for policy in properties(workflow, "AWS::IAM::Policy").values():
        if {"Ref": role} in policy["Roles"]:
            documents.append(policy["PolicyDocument"])
    return {
        (action, name)
        for document in documents
        for statement in document["Statement"]
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
        for name in named(resource)
    }


def scopes(machine: Node) -> Iterator[Node]:
    """The state machine and the ones within it, each with StartAt and States."""
    yield machine
    for state in machine["States"].values():
        for inner in [state.get("ItemProcessor"), *state.get("Branches", [])]:
            if inner:
                yield from scopes(inner)


def states(machine: Node) -> dict[str, Node]:
    return {name: state for scope in scopes(machine) for name, state in scope["States"].items()}


def integrations(machine: Node) -> Iterator[tuple[str, Node]]:
    """Each Resource that the states call, readers and writers of a Map too, with its parameters."""
    for state in states(machine).values():
        for caller in (state, state.get("ItemReader", {}), state.get("ResultWriter", {})):
            if "Resource" in caller:
                yield caller["Resource"], caller["Parameters"]


def unique(pairs: list[tuple[str, Any]]) -> Node:
    assert len(pairs) == len(dict(pairs)), f"a key twice among {[key for key, _ in pairs]}"
    return dict(pairs)


def load(path: Any) -> Node:
    return json.loads(path.read_text(), object_pairs_hook=unique)


def deployed_machines(workflow: str) -> Iterator[tuple[str, Node, Node]]:
    """Each state machine of a template: logical id, properties, definition."""
    for name, resource in properties(workflow, MACHINE).items():
        yield name, resource, json.loads(resource["DefinitionString"])


def calls(code: str) -> set[str]:
    """The AWS actions that a function's code calls through clients that it keeps under a name."""
    tree = ast.parse(code)
    clients = {
        target.id: boto3.client(node.value.args[0].value, region_name="us-east-1")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "boto3.client"
        for target in node.targets
    }
    assert len(clients) == code.count("boto3.client("), "a client without a name of its own"
    return {
        f"{client.meta.service_model.signing_name}:{client.meta.method_to_api_mapping[node.attr]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        for name, client in clients.items()
        if node.value.id == name
    }


# Templates


@of_every_workflow
def test_every_parameter_is_described_and_bounded(workflow):
    """A parameter has a description, a default, and the values that it may take."""
    for name, spec in stack.template(workflow)["Parameters"].items():
        assert {"Description", "Default"} <= spec.keys(), name
        bounds = ({"AllowedValues"}, {"MinValue", "MaxValue"}, {"AllowedPattern", "MaxLength"})
        assert any(keys <= spec.keys() for keys in bounds), name


@of_every_workflow
def test_defaults_are_what_aws_takes_and_advises(workflow):
    """A workflow deploys as it is: its defaults are in bounds, go together, and earn no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack.check(workflow, {})


@of_every_workflow
def test_every_parameter_and_output_is_of_use(workflow):
    """A parameter is referred to, and an output says what it is."""
    template = stack.template(workflow)
    rest = json.dumps([template.get("Conditions"), template["Resources"]])
    assert [name for name in template["Parameters"] if f'{{"Ref": "{name}"}}' not in rest] == []
    assert [name for name, output in template["Outputs"].items() if not output.get("Description")] == []


@of_every_workflow
def test_nothing_has_a_fixed_name(workflow):
    """Two stacks of one workflow never collide: CloudFormation names what is in them, or their name does."""
    found = {
        f"{name}.{key}"
        for name, resource in of_type(workflow, *NAMED).items()
        for key in FIXED_NAMES & resource["Properties"].keys()
        if "AWS::StackName" not in json.dumps(resource["Properties"][key])
    }
    assert set() == found


@of_every_workflow
def test_every_state_machine_is_named_after_its_stack(workflow):
    """CloudFormation puts the stack's name into all names but a state machine's; policies go by it."""
    names = [machine["StateMachineName"] for machine in properties(workflow, MACHINE).values()]
    texts = [name.get("Fn::Sub") or f"${{{name['Ref']}}}" for name in names]
    assert [text for text in texts if not text.startswith("${AWS::StackName}")] == []
    assert len(texts) == len(set(texts))


@of_every_workflow
def test_every_source_queue_has_a_dead_letter_queue(workflow):
    """A queue that work comes from moves its hopeless messages to one that keeps them for longer."""
    queues = properties(workflow, QUEUE)
    dead = {
        name for q in queues.values() for name in named(q.get("RedrivePolicy", {}).get("deadLetterTargetArn"))
    }
    for name in queues.keys() - dead:
        redrive = queues[name].get("RedrivePolicy", {})
        assert redrive.get("maxReceiveCount") == {"Ref": "MaxReceiveCount"}, name
        assert named(redrive["deadLetterTargetArn"]) <= queues.keys() - {name}
    assert [name for name in dead if queues[name].get("MessageRetentionPeriod", 0) < 1_209_600] == []


@of_every_workflow
def test_every_queue_and_bucket_is_encrypted(workflow):
    """What waits in a queue or lies in a bucket is encrypted there, and no bucket can become public."""
    for name, queue in properties(workflow, QUEUE).items():
        assert queue.get("SqsManagedSseEnabled") is True, name
    for name, bucket in properties(workflow, BUCKET).items():
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"], name
        public = bucket["PublicAccessBlockConfiguration"]
        assert len(public) == 4, name
        assert {True} == set(public.values()), name


@of_every_workflow
def test_every_queue_and_bucket_refuses_plain_http(workflow):
    """Whoever comes without TLS is denied everything, on every queue and bucket."""
    guarded = {
        (action, json.dumps(resource))
        for statement in statements(workflow)
        if statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }
    policies = properties(workflow, "AWS::SQS::QueuePolicy").values()
    attached = {name for policy in policies for queue in policy["Queues"] for name in named(queue)}
    for queue in properties(workflow, QUEUE):
        assert queue in attached
        assert ("sqs:*", json.dumps({"Fn::GetAtt": [queue, "Arn"]})) in guarded
    attached = {
        name for p in properties(workflow, "AWS::S3::BucketPolicy").values() for name in named(p["Bucket"])
    }
    for bucket in properties(workflow, BUCKET):
        assert bucket in attached
        assert ("s3:*", json.dumps({"Fn::GetAtt": [bucket, "Arn"]})) in guarded
        assert ("s3:*", json.dumps({"Fn::Sub": f"${{{bucket}.Arn}}/*"})) in guarded


@of_every_workflow
def test_what_holds_data_goes_with_the_stack(workflow):
    """Logs expire; queues, tables, buckets and logs are deleted with their stack, and that is said."""
    assert [
        name for name, group in properties(workflow, LOGS).items() if "RetentionInDays" not in group
    ] == []
    for name, resource in of_type(workflow, BUCKET, LOGS, QUEUE, TABLE).items():
        assert (
            resource.get("DeletionPolicy"),
            resource.get("UpdateReplacePolicy"),
        ) == ("Delete", "Delete"), name


@of_every_workflow
def test_every_principal_has_a_role_of_its_own(workflow):
    """Whatever acts has a role that only its service can take, and a function its log group."""
    functions = properties(workflow, LAMBDA)
    acts = [("lambda", function["Role"]) for function in functions.values()]
    acts += [("states", machine["RoleArn"]) for machine in properties(workflow, MACHINE).values()]
    acts += [("pipes", pipe["RoleArn"]) for pipe in properties(workflow, PIPE).values()]
    acts += [("events", t["RoleArn"]) for r in properties(workflow, RULE).values() for t in r["Targets"]]
    roles = [role["Fn::GetAtt"][0] for _, role in acts]
    assert sorted(properties(workflow, ROLE)) == sorted(roles)
    groups = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()]
    assert sorted(properties(workflow, LOGS)) == sorted(groups)
    for (service, _), role in zip(acts, roles, strict=True):
        (trust,) = properties(workflow, ROLE)[role]["AssumeRolePolicyDocument"]["Statement"]
        assert {"Service": f"{service}.amazonaws.com"} == trust["Principal"]
        assert (trust["Effect"], trust["Action"]) == ("Allow", "sts:AssumeRole")


@of_every_workflow
def test_every_role_has_the_boundary_that_is_named(workflow):
    """A role has the permissions boundary of the parameter, or none where that is empty, and nothing else
    that acts is made: no user, no group, no managed policy."""
    template = stack.template(workflow)
    named = {"Ref": "PermissionsBoundary"}
    condition = {"Fn::Not": [{"Fn::Equals": [named, ""]}]}
    assert condition == template["Conditions"]["RolesAreBounded"]
    assert template["Parameters"]["PermissionsBoundary"]["Default"] == ""
    bound = {"Fn::If": ["RolesAreBounded", named, {"Ref": "AWS::NoValue"}]}
    roles = properties(workflow, ROLE)
    assert [bound] * len(roles) == [role.get("PermissionsBoundary") for role in roles.values()]
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert {kind for kind in kinds if "::IAM::" in kind} <= {ROLE, "AWS::IAM::Policy"}


def arns(kind: str) -> list[str]:
    """Resources of a stack of the lab's, as a policy names them: one of this type, and what is in it."""
    where, name = "us-east-1:111122223333", f"{stack.PREFIX}any-12345678"
    return {
        ACTIVITY: [f"arn:aws:states:{where}:activity:{name}"],
        BUCKET: [f"arn:aws:s3:::{name}-bucket-1", f"arn:aws:s3:::{name}-bucket-1/key"],
        LAMBDA: [f"arn:aws:lambda:{where}:function:{name}-F-1"],
        LOGS: [f"arn:aws:logs:{where}:log-group:{name}-L-1:*"],
        MACHINE: [
            f"arn:aws:states:{where}:stateMachine:{name}",
            f"arn:aws:states:{where}:execution:{name}:run",
        ],
        QUEUE: [f"arn:aws:sqs:{where}:{name}-Q-1"],
        TABLE: [f"arn:aws:dynamodb:{where}:table/{name}-T-1"],
    }[kind]


@of_every_workflow
def test_the_boundary_allows_what_the_roles_allow(workflow):
    """Bounded by infra/boundary.policy.json, a role may still do all that its own policy allows."""
    kinds = {name: resource["Type"] for name, resource in stack.template(workflow)["Resources"].items()}
    refused = {
        (action, name)
        for role in properties(workflow, ROLE)
        for action, name in granted(workflow, role)
        if not any(
            action in listed(statement["Action"]) and fnmatchcase(arn, statement["Resource"])
            for statement in BOUNDARY["Statement"]
            for arn in arns(kinds[name])
        )
    }
    assert set() == refused


def test_the_boundary_allows_no_more():
    """Its actions are those of the roles, and its resources those of the lab's stacks."""
    used = {
        action
        for workflow in WORKFLOWS
        for role in properties(workflow, ROLE)
        for action, _ in granted(workflow, role)
    }
    allowed = [action for statement in BOUNDARY["Statement"] for action in listed(statement["Action"])]
    assert sorted(used) == sorted(allowed)
    for statement in BOUNDARY["Statement"]:
        assert statement["Effect"] == "Allow"
        assert re.search(rf"[:/]{stack.PREFIX}\*(/\*)?$", statement["Resource"]), statement["Sid"]


@of_every_workflow
def test_the_names_of_a_stack_fit(workflow):
    """The names that begin with a stack's name are no longer than AWS takes."""
    stack.check_names(workflow, f"{stack.PREFIX}{workflow}-12345678", stack.template(workflow))


@of_every_workflow
def test_nobody_is_allowed_everything(workflow):
    """An Allow names its actions one by one, and its resources."""
    for statement in statements(workflow):
        if statement["Effect"] == "Allow":
            assert [action for action in listed(statement["Action"]) if "*" in action] == []
            assert [resource for resource in listed(statement["Resource"]) if not named(resource)] == []


@of_every_workflow
def test_a_state_machine_may_do_exactly_what_its_states_do(workflow):
    """Each integration has the permission that it needs on its own target, and there is no other."""
    for name, resource, definition in deployed_machines(workflow):
        expected = set()
        for integration, parameters in integrations(definition):
            where, actions = INTEGRATIONS[integration]
            if not actions:
                continue
            substitution = parameters[where].removeprefix("${").removesuffix("}")
            (target,) = named(resource["DefinitionSubstitutions"][substitution])
            expected |= {(action, target) for action in actions}
        if "DISTRIBUTED" in resource["DefinitionString"]:
            expected |= {(f"states:{action}", name) for action in MAP_RUN}
        assert expected == granted(workflow, resource["RoleArn"]["Fn::GetAtt"][0])


@of_every_workflow
def test_a_function_may_do_exactly_what_its_code_does(workflow):
    """A role covers its code's calls, its mapping's and its log; answers only where somebody waits."""
    machines = list(deployed_machines(workflow))
    waiting = {name for name, _, d in machines if CALLBACK in dict(integrations(d))}
    for name, function in properties(workflow, LAMBDA).items():
        mappings = [m for m in properties(workflow, MAPPING).values() if named(m["FunctionName"]) == {name}]
        sources = {queue for mapping in mappings for queue in named(mapping["EventSourceArn"])}
        pipes = [p for p in properties(workflow, PIPE).values() if named(p["Target"]) == {name}]
        piped = {queue for pipe in pipes for queue in named(pipe["Source"])}
        targets = {"s3": set(properties(workflow, BUCKET)), "sqs": sources | piped, "states": waiting}
        targets |= {"dynamodb": set(properties(workflow, TABLE))}
        expected = {(action, function["LoggingConfig"]["LogGroup"]["Ref"]) for action in LOGGING}
        expected |= {(action, queue) for action in POLLING for queue in sources}
        for called in calls(function["Code"]["ZipFile"]):
            for action in TRANSACTIONS.get(called, {called}):
                expected |= {(action, target) for target in targets[action.partition(":")[0]]}
        assert expected == granted(workflow, function["Role"]["Fn::GetAtt"][0])


@of_every_workflow
def test_a_pipe_takes_one_message_of_a_group_and_may_do_no_more(workflow):
    """A pipe has no limit of its own: its queue has groups, and it waits for its function each time."""
    for name, pipe in properties(workflow, PIPE).items():
        (queue,), (function,) = named(pipe["Source"]), named(pipe["Target"])
        assert properties(workflow, QUEUE)[queue]["FifoQueue"] is True, name
        assert pipe["SourceParameters"] == {"SqsQueueParameters": {"BatchSize": 1}}, name
        waits = {"LambdaFunctionParameters": {"InvocationType": "REQUEST_RESPONSE"}}
        assert pipe["TargetParameters"] == waits, name
        expected = {(action, queue) for action in POLLING} | {("lambda:InvokeFunction", function)}
        assert expected == granted(workflow, pipe["RoleArn"]["Fn::GetAtt"][0])


@of_every_workflow
def test_a_rule_may_only_start_what_it_starts(workflow):
    """A rule's target has a role that allows to start that state machine, and nothing else."""
    for rule in properties(workflow, RULE).values():
        for target in rule["Targets"]:
            (machine,) = named(target["Arn"])
            role = target["RoleArn"]["Fn::GetAtt"][0]
            assert {("states:StartExecution", machine)} == granted(workflow, role)


@of_every_workflow
def test_a_mapping_limits_its_workers_and_takes_partial_answers(workflow):
    """The limit is the mapping's MaximumConcurrency, 2 for dead letters, and no batch fails as a whole."""
    for name, mapping in properties(workflow, MAPPING).items():
        dead = named(mapping["EventSourceArn"]) == {"DeadLetterQueue"}
        limit = 2 if dead else {"Ref": "MaximumConcurrency"}
        assert mapping["ScalingConfig"] == {"MaximumConcurrency": limit}, name
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"], name


@of_every_workflow
def test_everything_that_can_be_tagged_is(workflow):
    """A bill can be told apart by project; what is taggable, CloudFormation's own schemas say."""
    for name, resource in stack.template(workflow)["Resources"].items():
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", resource["Type"]).schema
        if schema.get("tagging", {}).get("taggable"):
            tags = resource["Properties"].get("Tags")
            told = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags or []}
            assert told == {"project": "concurrency-lab"}, name


@of_every_workflow
def test_a_mapped_queue_hides_its_messages_for_long_enough(workflow):
    """Lambda refuses a mapping whose queue hides messages for less than the function's timeout.

    Where both are the template's own numbers, the first is six times the second, as AWS advises."""
    for name, mapping in properties(workflow, MAPPING).items():
        (queue,), (function,) = named(mapping["EventSourceArn"]), named(mapping["FunctionName"])
        hidden = properties(workflow, QUEUE)[queue]["VisibilityTimeout"]
        lasts = properties(workflow, LAMBDA)[function]["Timeout"]
        parameters = {"Ref": "VisibilityTimeout"}, {"Ref": "FunctionTimeout"}
        assert (hidden, lasts) == parameters or hidden == stack.VISIBILITY_FACTOR * lasts, name


@of_every_workflow
def test_a_packaged_template_fits_into_one_call(workflow):
    """With code and definitions in it, a template needs no bucket to be deployed from."""
    assert len(json.dumps(stack.template(workflow)).encode()) < TEMPLATE_LIMIT_BYTES


@of_every_workflow
def test_cfn_lint_finds_nothing(workflow):
    """As written and as deployed; W3002 only says that the written form needs `package`."""
    written = [m for m in lint_file(INFRA / workflow / "template.yaml") if m.rule.id != "W3002"]
    assert [f"{m.linenumber}: {m.rule.id} {m.message}" for m in written] == []
    assert [f"{m.rule.id} {m.message}" for m in lint(json.dumps(stack.template(workflow), indent=1))] == []


@of_every_workflow
def test_the_code_deployed_is_what_lies_in_functions(workflow):
    """A function is the text of one file, valid Python with the handler that the template names."""
    for name, resource in local_paths(workflow).items():
        if resource["Type"] == LAMBDA:
            text = (INFRA / workflow / resource["Properties"]["Code"] / "index.py").read_text()
            deployed = properties(workflow, LAMBDA)[name]
            assert text == deployed["Code"]["ZipFile"]
            module, handler = deployed["Handler"].split(".")
            defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
            assert module == "index"
            assert handler in defined


def test_every_file_is_used():
    """No function and no definition lies in infra/ that no template deploys."""
    used = set()
    for workflow in WORKFLOWS:
        for resource in local_paths(workflow).values():
            path = resource.get("Properties", {}).get(
                {LAMBDA: "Code", MACHINE: "DefinitionS3Location"}.get(resource["Type"])
            )
            if path:
                used.add((INFRA / workflow / path).resolve())
    assert used == {p.parent for p in INFRA.glob("*/functions/*/index.py")} | set(MACHINES)


@of_every_workflow
def test_substitutions_match_both_ways(workflow):
    """Each ${X} of a definition is supplied by its template, and each supplied one is used."""
    for _, resource, _ in deployed_machines(workflow):
        asked = set(re.findall(r"\$\{(\w+)\}", resource["DefinitionString"]))
        assert asked == set(resource["DefinitionSubstitutions"])


@of_every_workflow
def test_numbers_reach_states_as_numbers(workflow):
    """A number is substituted in quotes, so states read it through StringToJson and a path, nowhere else."""
    specs = stack.template(workflow)["Parameters"]
    for _, resource, definition in deployed_machines(workflow):
        for name, value in resource["DefinitionSubstitutions"].items():
            if "Ref" in value and specs.get(value["Ref"], {}).get("Type") == "Number":
                once = f"States.StringToJson('${{{name}}}')"
                if f'"N":"${{{name}}}"' in resource["DefinitionString"]:  # DynamoDB's numbers are texts
                    once = f'"N":"${{{name}}}"'
                assert resource["DefinitionString"].count(f"${{{name}}}") == 1, name
                assert once in resource["DefinitionString"], name
        limits = definition["States"][definition["StartAt"]].get("Parameters", {})
        for state in states(definition).values():
            for field, path in state.items():
                if re.fullmatch(r"(.+Seconds|MaxConcurrency|Tolerated.+)Path", field):
                    assert f"{path.rpartition('.limits.')[2]}.$" in limits, field


# Definitions


@of_every_machine
def test_a_definition_is_json_before_substitution(machine):
    """Any JSON tool can read a definition as it lies there, and no key is in it twice."""
    assert {"Comment", "StartAt", "States"} <= load(machine).keys()


@of_every_machine
def test_every_state_says_what_it_is_for(machine):
    """A reader of the console's graph finds a comment in every state."""
    assert [name for name, state in states(load(machine)).items() if not state.get("Comment")] == []


@of_every_machine
def test_states_lead_to_states(machine):
    """Every Next exists, every state is reached, and each either goes on or ends."""
    for scope in scopes(load(machine)):
        reached, ahead = set(), {scope["StartAt"]}
        while ahead:
            name = ahead.pop()
            reached.add(name)
            state = scope["States"][name]
            goes_on = {state[key] for key in ("Next", "Default") if key in state}
            goes_on |= {branch["Next"] for branch in state.get("Choices", []) + state.get("Catch", [])}
            ahead |= goes_on - reached
            if state["Type"] not in ("Choice", "Succeed", "Fail"):
                assert ("Next" in state) != ("End" in state), name
        assert set(scope["States"]) == reached


@of_every_machine
def test_states_call_only_what_is_on_the_list(machine):
    """A misspelt integration is found here, not when the state runs."""
    assert set() == {resource for resource, _ in integrations(load(machine))} - INTEGRATIONS.keys()


@of_every_machine
def test_every_task_has_a_timeout(machine):
    """Without one a lost task holds its execution for up to a year."""
    for name, state in states(load(machine)).items():
        if state["Type"] == "Task":
            assert state.keys() & {"TimeoutSeconds", "TimeoutSecondsPath"}, name


@of_every_machine
def test_every_callback_survives_a_lost_token(machine):
    """A callback sends its token, has both clocks, tries again what may pass, and catches the rest.

    An activity's task, whose token a worker fetches, has the same."""
    for name, state in states(load(machine)).items():
        callback = "waitForTaskToken" in state.get("Resource", "")
        if callback or state.get("Resource") == WORK:
            assert not callback or "$$.Task.Token" in json.dumps(state["Parameters"]), name
            assert state.keys() & {"HeartbeatSeconds", "HeartbeatSecondsPath"}, name
            assert {"Catch", "Retry"} <= state.keys(), name
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name
            if {"HeartbeatSeconds", "TimeoutSeconds"} <= state.keys():
                assert state["HeartbeatSeconds"] < state["TimeoutSeconds"], name


@of_every_machine
def test_errors_are_matched_from_the_special_to_the_general(machine):
    """The first match counts: States.ALL stands last and alone, a lost heartbeat before the timeout."""
    for name, state in states(load(machine)).items():
        for rules in (state.get("Retry", []), state.get("Catch", [])):
            order = [rule["ErrorEquals"] for rule in rules]
            assert [errors for errors in order[:-1] if "States.ALL" in errors] == [], name
            assert [errors for errors in order if "States.ALL" in errors and len(errors) > 1] == [], name
            flat = [error for errors in order for error in errors]
            if {"States.HeartbeatTimeout", "States.Timeout"} <= set(flat):
                assert flat.index("States.HeartbeatTimeout") < flat.index("States.Timeout"), name


@of_every_machine
def test_every_map_says_its_concurrency(machine):
    """What happens without a number differs between inline and distributed, AWS and its emulators."""
    for name, state in states(load(machine)).items():
        if state["Type"] == "Map":
            assert state.keys() & {"MaxConcurrency", "MaxConcurrencyPath"}, name
            if state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED":
                assert state["ItemProcessor"]["ProcessorConfig"]["ExecutionType"] == "STANDARD", name
                assert "ResultWriter" in state, name


# Guides


@of_every_workflow
def test_every_folder_has_its_guide(workflow):
    """A README tells in the same order what is needed, how to deploy, how it works, what it costs."""
    text = (INFRA / workflow / "README.md").read_text()
    sections = ["Requirements", "Deploy", "How it works", "Testing", "Clean-up", "What it costs"]
    assert sections == re.findall(r"(?m)^## (.+)$", text)
    assert f"./lab deploy {workflow}" in text
    assert [name for name in stack.template(workflow)["Outputs"] if f"`{name}`" not in text] == []


def test_the_guides_defaults_are_the_templates():
    """The table of parameters in infra/README.md is what the templates say, none left out."""
    text = (INFRA / "README.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    head, _, *table = [row for row in rows if len(row) == 2 + len(WORKFLOWS)]
    assert set(WORKFLOWS) == set(head[2:])
    for column, workflow in enumerate(head[2:], start=2):
        told = {row[0]: row[column] for row in table if row[column] != "-"}
        specs = stack.template(workflow)["Parameters"]
        assert told == {name: str(spec["Default"]) for name, spec in specs.items()}


def test_a_copy_of_the_starter_obeys_the_rules(tmp_path):
    """Begun as docs/add_your_own_workflow.md says, a workflow is held to every law, and breaks none."""
    root = INFRA.parent
    for folder in ("helpers", "infra", "tests"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    guide = shutil.copytree(INFRA / "starter", tmp_path / "infra" / "thumbnails") / "README.md"
    guide.write_text(guide.read_text().replace("starter", "thumbnails"))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/test_infra.py", "-k", "thumbnails"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    laws = [law for law in globals().values() if hasattr(law, "pytestmark")]
    assert f"\n{len(laws)} passed" in ran.stdout, ran.stdout + ran.stderr
