"""Stacks: what the templates in infra/ are made of."""

import json
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import HANDLER, Site, outcome

GUIDE = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide"
REFERENCE = "https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference"
STACKS = f"{GUIDE}/stacks.html"

QUEUES = {
    "Dead": {"Type": "AWS::SQS::Queue"},
    "Queue": {
        "Type": "AWS::SQS::Queue",
        "Properties": {
            "VisibilityTimeout": 77,
            "RedrivePolicy": {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": 3},
        },
    },
}
OUTPUTS = {"Url": {"Value": {"Ref": "Queue"}}}


class Stack:
    """A stack of a probe: deployed, waited for, and deleted at the end."""

    def __init__(self, site: Site, resources: dict[str, Any], **parts: Any) -> None:
        self.site, self.name = site, site.name()
        self.site.undo.append(self.delete)
        self.status = self.deploy(site.cfn.create_stack, resources, **parts)

    def deploy(
        self, call: Any, resources: dict[str, Any], parameters: dict[str, str] | None = None, **parts: Any
    ) -> str:
        """The status in which the stack comes to rest."""
        call(
            StackName=self.name,
            TemplateBody=json.dumps({"Resources": resources, **parts}),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in (parameters or {}).items()],
            Tags=[{"Key": "project", "Value": "concurrency-lab"}],
        )
        return self.rest()

    def describe(self) -> dict[str, Any]:
        """What DescribeStacks says of it."""
        return self.site.cfn.describe_stacks(StackName=self.name)["Stacks"][0]

    def rest(self) -> str:
        """The status once nothing is in progress."""
        self.site.until(lambda: not self.describe()["StackStatus"].endswith("IN_PROGRESS"), seconds=120)
        return self.describe()["StackStatus"]

    def outputs(self) -> dict[str, str]:
        """Its outputs."""
        return {o["OutputKey"]: o["OutputValue"] for o in self.describe().get("Outputs", [])}

    def delete(self) -> bool:
        """Whether it is gone, after its deletion."""
        self.site.cfn.delete_stack(StackName=self.name)

        def gone() -> bool:
            try:
                return self.describe()["StackStatus"] == "DELETE_COMPLETE"
            except self.site.cfn.exceptions.ClientError:
                return True

        return bool(self.site.until(gone, seconds=120))


def role(service: str, *statements: dict[str, Any]) -> dict[str, Any]:
    """A role for a service."""
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "Policies": [{"PolicyName": "Probe", "PolicyDocument": policy}],
        },
    }


@probe(f"{REFERENCE}/aws-resource-sqs-queue.html", ["CREATE_COMPLETE", "77", 3], lesson=True)
def queue_with_dead_letters(site: Site) -> Any:
    """AWS::SQS::Queue with VisibilityTimeout and RedrivePolicy; Ref gives its URL, as an output."""
    stack = Stack(site, QUEUES, Outputs=OUTPUTS)
    url = stack.outputs()["Url"]
    policy = json.loads(site.attribute(url, "RedrivePolicy"))
    return [stack.status, site.attribute(url, "VisibilityTimeout"), int(policy["maxReceiveCount"])]


@probe(STACKS, [True, "QueueDoesNotExist"], lesson=True)
def delete_removes_all(site: Site) -> Any:
    """DeleteStack deletes the stack's resources."""
    stack = Stack(site, QUEUES, Outputs=OUTPUTS)
    url = stack.outputs()["Url"]
    deleted = stack.delete()
    code = site.refused(site.sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["QueueArn"])
    return [deleted, code.replace("NonExistentQueue", "QueueDoesNotExist")]


@probe(
    f"{GUIDE}/using-cfn-updating-stacks-update-behaviors.html", ["UPDATE_COMPLETE", True, "11"], lesson=True
)
def update_without_interruption(site: Site) -> Any:
    """UpdateStack with another parameter changes a queue in place."""
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": {"Ref": "Seconds"}}}
    }
    parts = {"Parameters": {"Seconds": {"Type": "Number"}}, "Outputs": OUTPUTS}
    stack = Stack(site, resources, parameters={"Seconds": "10"}, **parts)
    url = stack.outputs()["Url"]
    status = stack.deploy(site.cfn.update_stack, resources, parameters={"Seconds": "11"}, **parts)
    return [status, stack.outputs()["Url"] == url, site.attribute(url, "VisibilityTimeout")]


@probe(f"{GUIDE}/cfn-console-add-tags.html", [{"Key": "project", "Value": "concurrency-lab"}], lesson=True)
def stack_keeps_tags(site: Site) -> Any:
    """A stack's tags are in its description, by which it can be found."""
    return Stack(site, {"Queue": {"Type": "AWS::SQS::Queue"}}).describe().get("Tags")


@probe(f"{GUIDE}/conditions-section-structure.html", ["CREATE_COMPLETE", ["Queue"]], lesson=True)
def conditions(site: Site) -> Any:
    """A resource whose Condition is false is not made."""
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Other": {"Type": "AWS::SQS::Queue", "Condition": "Wanted"},
    }
    parts = {
        "Parameters": {"Kind": {"Type": "String", "AllowedValues": ["a", "b"], "Default": "a"}},
        "Conditions": {"Wanted": {"Fn::Equals": [{"Ref": "Kind"}, "b"]}},
    }
    stack = Stack(site, resources, **parts)
    found = site.cfn.describe_stack_resources(StackName=stack.name)["StackResources"]
    return [stack.status, sorted(resource["LogicalResourceId"] for resource in found)]


@probe(f"{GUIDE}/parameters-section-structure.html", ["ValidationError"] * 2, lesson=True)
def parameters_checked(site: Site) -> Any:
    """A parameter outside MinValue and MaxValue, or not among AllowedValues, is refused."""
    resources = {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": {"Ref": "Value"}}}}
    rules = ({"Type": "Number", "MaxValue": 5}, {"Type": "Number", "AllowedValues": [1, 2]})
    return [
        site.refused(
            Stack, site=site, resources=resources, parameters={"Value": "6"}, Parameters={"Value": rule}
        )
        for rule in rules
    ]


@probe(f"{GUIDE}/stack-failure-options.html", ["ROLLBACK_COMPLETE", 0])
def failure_rolls_back(site: Site) -> Any:
    """When a resource cannot be made the stack is rolled back: ROLLBACK_COMPLETE, nothing left."""
    broken = {
        "Type": "AWS::StepFunctions::StateMachine",
        "DependsOn": "Queue",
        "Properties": {"RoleArn": site.role_arn, "DefinitionString": "{not a definition"},
    }
    mine = site.name()
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": mine}}
    stack = Stack(site, {"Queue": queue, "Broken": broken})
    left = site.sqs.list_queues(QueueNamePrefix=mine).get("QueueUrls", [])
    return [stack.status, len(left)]


@probe(f"{REFERENCE}/aws-resource-stepfunctions-statemachine.html", ["CREATE_COMPLETE", "hello"], lesson=True)
def state_machine_with_substitutions(site: Site) -> Any:
    """AWS::StepFunctions::StateMachine with its role and DefinitionSubstitutions runs."""
    definition = {"StartAt": "Say", "States": {"Say": {"Type": "Pass", "Result": "${Word}", "End": True}}}
    machine = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "RoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
            "DefinitionString": json.dumps(definition),
            "DefinitionSubstitutions": {"Word": "hello"},
        },
    }
    allowed = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}
    resources = {"Role": role("states.amazonaws.com", allowed), "Machine": machine}
    stack = Stack(site, resources, Outputs={"Arn": {"Value": {"Ref": "Machine"}}})
    return [stack.status, outcome(site.end(site.start(stack.outputs()["Arn"])))]


def worker(**mapping: Any) -> dict[str, Any]:
    """Resources of a queue whose messages a function takes."""
    sqs = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:SendMessage"]
    return {
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 120}},
        "Role": role("lambda.amazonaws.com", {"Effect": "Allow", "Action": sqs, "Resource": "*"}),
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Runtime": "python3.13",
                "Handler": "index.handler",
                "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                "Timeout": 60,
                "ReservedConcurrentExecutions": 7,
                "Code": {"ZipFile": HANDLER},
            },
        },
        "Mapping": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
                "FunctionName": {"Ref": "Function"},
                "BatchSize": 1,
                **mapping,
            },
        },
    }


WORKER_OUTPUTS = {name: {"Value": {"Ref": name}} for name in ("Queue", "Function", "Mapping")}


@probe(
    f"{REFERENCE}/aws-resource-lambda-eventsourcemapping.html",
    [4, 1],
    needs="lambda",
    lesson=True,
    seconds=240,
)
def function_and_mapping(site: Site) -> Any:
    """AWS::Lambda::Function and ::EventSourceMapping with ScalingConfig: the queue's messages are taken."""
    log = site.queue()
    stack = Stack(site, worker(ScalingConfig={"MaximumConcurrency": 4}), Outputs=WORKER_OUTPUTS)
    made = stack.outputs()
    config = site.functions.get_event_source_mapping(UUID=made["Mapping"])["ScalingConfig"]
    site.send(made["Queue"], [{"do": "return", "log": log}])
    return [config["MaximumConcurrency"], len(site.take(log, 1, seconds=60, quiet=0))]


@probe(
    f"{REFERENCE}/aws-properties-lambda-function-loggingconfig.html",
    ["first line", "last line"],
    needs="lambda",
    lesson=True,
    seconds=240,
)
def function_logs_to_own_group(site: Site) -> Any:
    """LoggingConfig sends what a function prints to a log group of the stack."""
    resources = {**worker(), "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 1}}}
    resources["Function"]["Properties"]["LoggingConfig"] = {"LogGroup": {"Ref": "Logs"}}
    write = {"Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": "*"}
    resources["Role"] = role("lambda.amazonaws.com", write)
    del resources["Mapping"], resources["Queue"]
    stack = Stack(site, resources, Outputs={name: {"Value": {"Ref": name}} for name in ("Function", "Logs")})
    made = stack.outputs()
    site.call(made["Function"], do="return")

    def lines() -> list[str]:
        events = site.logs.filter_log_events(logGroupName=made["Logs"])["events"]
        return [e["message"].strip() for e in events if e["message"].strip().endswith(" line")]

    site.until(lambda: len(lines()) == 2)
    return lines()


@probe(f"{REFERENCE}/aws-resource-lambda-function.html", 7, needs="lambda", lesson=True)
def reserved_concurrency(site: Site) -> Any:
    """ReservedConcurrentExecutions of AWS::Lambda::Function reserves concurrency."""
    made = Stack(site, worker(), Outputs=WORKER_OUTPUTS).outputs()
    return site.functions.get_function_concurrency(FunctionName=made["Function"]).get(
        "ReservedConcurrentExecutions"
    )


@probe(
    f"{REFERENCE}/aws-resource-lambda-eventsourcemapping.html",
    [True, 6],
    needs="lambda",
    lesson=True,
    seconds=240,
)
def mapping_updated_in_place(site: Site) -> Any:
    """UpdateStack with another MaximumConcurrency changes the mapping in place."""
    stack = Stack(site, worker(ScalingConfig={"MaximumConcurrency": 4}), Outputs=WORKER_OUTPUTS)
    old = stack.outputs()["Mapping"]
    stack.deploy(
        site.cfn.update_stack, worker(ScalingConfig={"MaximumConcurrency": 6}), Outputs=WORKER_OUTPUTS
    )
    new = stack.outputs()["Mapping"]
    config = site.functions.get_event_source_mapping(UUID=new)["ScalingConfig"]
    return [new == old, config["MaximumConcurrency"]]


@probe(
    f"{REFERENCE}/aws-resource-stepfunctions-activity.html",
    ["CREATE_COMPLETE", True, "ActivityDoesNotExist"],
    lesson=True,
)
def activity(site: Site) -> Any:
    """AWS::StepFunctions::Activity makes an activity, whose ARN Ref gives, and deletes it with the stack."""
    resource = {"Type": "AWS::StepFunctions::Activity", "Properties": {"Name": site.name()}}
    stack = Stack(site, {"Activity": resource}, Outputs={"Arn": {"Value": {"Ref": "Activity"}}})
    arn = stack.outputs()["Arn"]
    made = site.sfn.describe_activity(activityArn=arn)["activityArn"] == arn
    stack.delete()
    return [stack.status, made, site.refused(site.sfn.describe_activity, activityArn=arn)]
