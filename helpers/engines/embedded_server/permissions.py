"""IAM, where the server is told to enforce it (AUTH=true): the lab's clients are then a user of few rights.

ministack holds users and the roles of functions to their policies, request by request. Most corrections are
of what a request is to it: which action, on which resource, under which conditions. infra/README.md says what
is checked and what is not.
"""

import json
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

OPERATOR = "lab-operator"
"""The user who signs with the access key of the lab's clients, and that user's only policy."""

NAMED_IN_BODY = ("dynamodb", "events", "states")
NAMING = ("mapRunArn", "resourceArn", "ResourceArn", "ResourceARN")
"""The fields of such a request by which it names its resource, where ministack does not look."""

BOUNDARY = "concurrency-lab-boundary"
"""The managed policy that bounds the roles of what the lab deploys."""
PASSED = "lab:passed-roles"
"""Where the conditions of a request keep the roles that it passes; no policy can name it."""
PASSING = ("cloudformation", "events", "lambda", "pipes", "states")
"""The services to which a request passes roles."""
ROLE_FIELDS = ("Role", "RoleARN", "RoleArn", "roleArn")
"""The fields of such a request that hold a role."""

Step = Callable[..., Any]


def log_groups_are_named_after_their_stack(provisioners: Any, handlers: dict[str, Step]) -> None:
    """CloudFormation names a log group as it names most things: stack, logical id and a suffix."""
    create, update = handlers["create"], handlers["update"]

    def created(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        name = {"LogGroupName": provisioners._physical_name(stack, logical_id, max_len=512)}
        return create(logical_id, name | properties, stack)

    def updated(name: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> Any:
        return update(name, {"LogGroupName": name} | old, {"LogGroupName": name} | new, *rest)

    handlers |= {"create": created, "update": updated}


def create_operator(iam: Any, key: str, secret: str, policy: str) -> None:
    """A user with this policy and no other, who signs with this access key."""
    iam._create_user({"UserName": [OPERATOR]})
    user_policy = {"UserName": [OPERATOR], "PolicyName": [OPERATOR], "PolicyDocument": [policy]}
    status, _, answer = iam._put_user_policy(user_policy)
    if status >= 300:
        raise SystemExit(f"{OPERATOR}: the policy was refused: {answer.decode()}")
    iam._access_keys[key] = {"UserName": OPERATOR, "SecretAccessKey": secret, "Status": "Active"}


def create_boundary(iam: Any, policy: str) -> None:
    """A managed policy by which the operator may bound the roles that it makes."""
    status, _, answer = iam._create_policy({"PolicyName": [BOUNDARY], "PolicyDocument": [policy]})
    if status >= 300:
        raise SystemExit(f"{BOUNDARY}: the policy was refused: {answer.decode()}")


def roles_of_stacks_are_bounded(iam: Any, handlers: dict[str, Step]) -> None:
    """CloudFormation gives a role the PermissionsBoundary of its template."""
    create, update = handlers["create"], handlers["update"]

    def bounded(answer: Any, properties: dict[str, Any]) -> Any:
        iam._roles[answer[0]]["PermissionsBoundary"] = properties.get("PermissionsBoundary")
        return answer

    def created(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        return bounded(create(logical_id, properties, stack), properties)

    def updated(name: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> Any:
        return bounded(update(name, old, new, *rest), new)

    handlers |= {"create": created, "update": updated}


def loopback_is_secure(pin: Step) -> Step:
    """What stays on this machine counts as sent by TLS, which the lab's queues and buckets insist on."""

    def corrected(source_ip: str, _secure: bool) -> None:
        pin(source_ip, True)

    return corrected


def lambda_actions(match: Step) -> Step:
    """A request to Lambda is the operation of the service's model that it fits."""

    def corrected(method: str, path: str) -> str | None:
        operation: str | None = match("lambda", method, path)
        return "InvokeFunction" if operation == "Invoke" else operation

    return corrected


def batches_are_single_actions(extract: Step) -> Step:
    """sqs:SendMessage allows SendMessageBatch as well, and its like the same."""

    def corrected(service: str, *request: Any) -> str | None:
        action: str | None = extract(service, *request)
        return action.removesuffix("Batch") if service == "sqs" and action else action

    return corrected


class Waiting:
    """Which state machine waits for a task token: whether one may answer is decided on that."""

    def __init__(self) -> None:
        self.running = threading.local()
        self.machines: dict[str, str] = {}

    def note_machine(self, execute: Step) -> Step:
        """Remember whose state this thread runs."""

        def corrected(state: Any, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
            self.running.machine = ctx["StateMachine"]["Id"]
            return execute(state, raw_input, execution, ctx)

        return corrected

    def note_token(self, wait: Step) -> Step:
        """Remember whose the token is, for answers that come too late as well."""

        def corrected(resource: str, data: Any, token: str, state: Any) -> Any:
            self.machines[token] = self.running.machine
            return wait(resource, data, token, state)

        return corrected

    def resources(self, extract: Step) -> Step:
        """The resource of a request that names a token, a Map Run, something with tags or a new activity."""

        def corrected(service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any) -> str:
            data = json.loads(body) if service in NAMED_IN_BODY and body else {}
            named = next((data[field] for field in NAMING if field in data), None)
            named = named or self.machines.get(data.get("taskToken", ""))
            if service == "pipes" and path.startswith("/tags/"):
                named = unquote(path.removeprefix("/tags/"))
            if "Rule" in data:
                body = json.dumps(data | {"RuleName": data["Rule"]}).encode()
            found = named or str(extract(service, method, path, headers, body, *rest))
            found = found.replace(":rule/default/", ":rule/")
            new = headers.get("x-amz-target", "").endswith(".CreateActivity")
            return found.replace(":stateMachine:", ":activity:") if new else found

        return corrected


class Functions:
    """What a request to Lambda is about, where its body alone says it, or the mapping that it names."""

    def __init__(self, lambda_svc: Any) -> None:
        self.lambda_svc = lambda_svc

    def _named(self, body: bytes) -> str:
        """The ARN of the function that a request's body names."""
        name = json.loads(body)["FunctionName"].rpartition(":")[2]
        where = f"{self.lambda_svc.get_region()}:{self.lambda_svc.get_account_id()}"
        return f"arn:aws:lambda:{where}:function:{name}"

    def resources(self, extract: Step) -> Step:
        """The resource of CreateFunction is the function that is yet to be made."""

        def corrected(service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any) -> str:
            if service == "lambda" and method == "POST" and path.rstrip("/").endswith("/functions"):
                return self._named(body)
            return str(extract(service, method, path, headers, body, *rest))

        return corrected

    def of_a_new_mapping(self, conditions: Step) -> Step:
        """Who makes an event source mapping is held to its function: lambda:FunctionArn."""

        def corrected(service: str, action: str, body: bytes, params: Any) -> Any:
            keys = conditions(service, action, body, params)
            if action == "lambda:CreateEventSourceMapping":
                keys = keys | {"lambda:FunctionArn": self._named(body)}
            return keys

        return corrected

    def of_a_mapping(self, enforce: Step) -> Step:
        """The same for a mapping that is there."""

        def corrected(
            key: str,
            action: str,
            service: str,
            region: str,
            resource_arn: str = "*",
            service_context: Any = None,
        ) -> Any:
            mapping = self.lambda_svc._esms.get(resource_arn.rpartition(":")[2])
            if service == "lambda" and mapping:
                service_context = (service_context or {}) | {"lambda:FunctionArn": mapping["FunctionArn"]}
            return enforce(key, action, service, region, resource_arn, service_context)

        return corrected


class Roles:
    """What a request does with roles: it names one that has a boundary, or passes one to a service."""

    def __init__(self, iam: Any, iam_actions: Any) -> None:
        self.iam, self.iam_actions = iam, iam_actions
        self.refused: ContextVar[str | None] = ContextVar("refused", default=None)

    def conditions(self, conditions: Step) -> Step:
        """Add iam:PermissionsBoundary: what the request gives a role, or what the role has already."""

        def corrected(service: str, action: str, body: bytes, params: Any) -> Any:
            keys = conditions(service, action, body, params)
            if service == "iam":
                given = self.iam_actions._query_param(params, "PermissionsBoundary")
                role = self.iam._roles.get(self.iam_actions._query_param(params, "RoleName")) or {}
                if boundary := given or role.get("PermissionsBoundary"):
                    keys = keys | {"iam:PermissionsBoundary": boundary}
            if service in PASSING and (passed := self._passed(body, params)):
                keys = keys | {PASSED: passed}
            return keys

        return corrected

    def _passed(self, body: bytes, params: Any) -> list[str]:
        """The roles that a request passes: in its body, at whatever depth, or among its parameters."""
        if named := self.iam_actions._query_param(params, "RoleARN"):
            return [named]
        try:
            ahead: list[Any] = [json.loads(body)]
        except ValueError:  # no JSON: a form, or nothing
            return []
        found = []
        while ahead:
            node = ahead.pop()
            if isinstance(node, dict):
                found += [node[field] for field in ROLE_FIELDS if isinstance(node.get(field), str)]
            ahead += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return found

    def enforce(self, enforce: Step) -> Step:
        """Who passes a role to a service needs iam:PassRole on it."""

        def corrected(
            key: str,
            action: str,
            service: str,
            region: str,
            resource_arn: str = "*",
            service_context: Any = None,
        ) -> Any:
            denied = enforce(key, action, service, region, resource_arn, service_context)
            for role in (service_context or {}).get(PASSED, ()):
                if not denied:
                    to = {"iam:PassedToService": f"{service}.amazonaws.com"}
                    denied = enforce(key, "iam:PassRole", "iam", region, role, to)
                    self.refused.set(role if denied else None)
            return denied

        return corrected

    def refusal(self, response: Step) -> Step:
        """A refusal names iam:PassRole where that was what the request lacked."""

        def corrected(service: str, action: str, *rest: Any, **options: Any) -> Any:
            if role := self.refused.get():
                action, options = "iam:PassRole", options | {"resource_arn": role}
                self.refused.set(None)
            return response(service, action, *rest, **options)

        return corrected


def correct() -> None:
    """Put these corrections in place in ministack; but for the names, only where it enforces IAM."""
    from ministack import app
    from ministack.core import iam_actions, iam_evaluator
    from ministack.services import iam, lambda_svc
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    log_groups = provisioners._RESOURCE_HANDLERS["AWS::Logs::LogGroup"]
    log_groups_are_named_after_their_stack(provisioners, log_groups)
    roles_of_stacks_are_bounded(iam, provisioners._RESOURCE_HANDLERS["AWS::IAM::Role"])
    if not app.AUTH:
        return
    told = ("LAB_OPERATOR_KEY", "LAB_OPERATOR_SECRET", "LAB_OPERATOR_POLICY")
    create_operator(iam, *(os.environ[name] for name in told))
    create_boundary(iam, os.environ["LAB_BOUNDARY_POLICY"])
    app.pin_request_origin = loopback_is_secure(app.pin_request_origin)
    iam_actions._BOTOCORE_SERVICE_MAP["lambda"] = ["lambda"]
    iam_actions._lambda_action = lambda_actions(iam_actions._match_rest_action)
    iam_actions.extract_iam_action = batches_are_single_actions(iam_actions.extract_iam_action)
    waiting = Waiting()
    sfn._execute_task = waiting.note_machine(sfn._execute_task)
    sfn._invoke_with_callback = waiting.note_token(sfn._invoke_with_callback)
    iam_actions.extract_resource_arn = waiting.resources(iam_actions.extract_resource_arn)
    functions = Functions(lambda_svc)
    iam_actions.extract_resource_arn = functions.resources(iam_actions.extract_resource_arn)
    iam_actions.request_tag_context = functions.of_a_new_mapping(iam_actions.request_tag_context)
    iam_evaluator.enforce = functions.of_a_mapping(iam_evaluator.enforce)
    roles = Roles(iam, iam_actions)
    iam_actions.request_tag_context = roles.conditions(iam_actions.request_tag_context)
    iam_actions.access_denied_response = roles.refusal(iam_actions.access_denied_response)
    iam_evaluator.enforce = roles.enforce(iam_evaluator.enforce)
