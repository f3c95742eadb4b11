"""What Step Functions refuses: what is too long, a text that is no JSON, a definition that breaks a rule."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from payloads import PAYLOAD_BYTES

REQUESTS = {
    "send_task_failure": {"error": 256, "cause": 32_768},
    "send_task_success": {"output": PAYLOAD_BYTES},
    "start_execution": {"input": PAYLOAD_BYTES, "name": 80},
    "start_sync_execution": {"input": PAYLOAD_BYTES, "name": 80},
    "stop_execution": {"error": 256, "cause": 32_768},
}
"""The longest that their fields may be (Step Functions API reference, 2026-11-24)."""

Step = Callable[..., Any]


def too_long(sfn: Any, call: Step, most: dict[str, int]) -> Step:
    """A request with a field that is too long is refused: ValidationException."""

    def corrected(data: dict[str, Any]) -> Any:
        for field, limit in most.items():
            value = data.get(field) or ""
            if len(value.encode() if limit == PAYLOAD_BYTES else value) > limit:
                rule = f"Member must have length less than or equal to {limit}"
                told = f"1 validation error detected: Value at '{field}' failed to satisfy constraint: {rule}"
                return sfn.error_response_json("ValidationException", told, 400)
        return call(data)

    return corrected


def not_json(sfn: Any, call: Step, field: str, code: str) -> Step:
    """A request whose input or output is no JSON is refused."""

    def corrected(data: dict[str, Any]) -> Any:
        try:
            json.loads(data.get(field, "{}"))
        except ValueError as error:
            return sfn.error_response_json(code, f"The {field} is no JSON: {error}", 400)
        return call(data)

    return corrected


def broken_definition(sfn: Any, call: Step) -> Step:
    """A definition that breaks a rule of the Amazon States Language is refused: InvalidDefinition."""

    def corrected(data: dict[str, Any]) -> Any:
        try:
            definition = json.loads(data.get("definition", "null"))
            kind = data.get("type") or sfn._state_machines.get(data.get("stateMachineArn"), {}).get("type")
            broken = next(_broken(definition, kind == "EXPRESS"), None) if definition is not None else None
        except ValueError as error:
            broken = f"INVALID_JSON_DESCRIPTION: {error}"
        if broken:
            told = f"Invalid State Machine Definition: '{broken}'"
            return sfn.error_response_json("InvalidDefinition", told, 400)
        return call(data)

    return corrected


def _broken(machine: dict[str, Any], express: bool, at: str = "") -> Iterator[str]:
    """The rules that a state machine breaks, and those inside of it."""
    for field in ("StartAt", "States"):
        if field not in machine:
            yield f"SCHEMA_VALIDATION_FAILED: These fields are required: [{field}] at {at or '/'}"
            return
    states = machine["States"]
    if machine["StartAt"] not in states:
        yield f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {machine['StartAt']} at {at}/StartAt"
    for name, state in states.items():
        here = f"{at}/States/{name}"
        if "Next" in state and state["Next"] not in states:
            yield f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {state['Next']} at {here}/Next"
        goes_on = state.get("Type") not in ("Choice", "Succeed", "Fail")
        if goes_on and not (state.get("End") or "Next" in state):
            yield f"SCHEMA_VALIDATION_FAILED: One of these fields is required: [Next, End] at {here}"
        timeout, heartbeat = state.get("TimeoutSeconds"), state.get("HeartbeatSeconds")
        if isinstance(timeout, int) and isinstance(heartbeat, int) and heartbeat >= timeout:
            yield f"SCHEMA_VALIDATION_FAILED: HeartbeatSeconds must be smaller than TimeoutSeconds at {here}"
        for pattern in (".sync", ".waitForTaskToken"):
            if express and pattern in state.get("Resource", ""):
                rule = f"Express state machine does not support '{pattern}' service integration"
                yield f"SCHEMA_VALIDATION_FAILED: {rule} at {here}/Resource"
        for number, branch in enumerate(state.get("Branches", [])):
            yield from _broken(branch, express, f"{here}/Branches[{number}]")
        for field in ("ItemProcessor", "Iterator"):
            if field in state:
                kind = state[field].get("ProcessorConfig", {}).get("ExecutionType")
                yield from _broken(state[field], kind == "EXPRESS" if kind else express, f"{here}/{field}")


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    for action, field, code in (
        ("send_task_success", "output", "InvalidOutput"),
        ("start_execution", "input", "InvalidExecutionInput"),
        ("start_sync_execution", "input", "InvalidExecutionInput"),
    ):
        setattr(sfn, f"_{action}", not_json(sfn, getattr(sfn, f"_{action}"), field, code))
    for action, most in REQUESTS.items():
        setattr(sfn, f"_{action}", too_long(sfn, getattr(sfn, f"_{action}"), most))
    for action in ("create", "update"):
        name = f"_{action}_state_machine"
        setattr(sfn, name, broken_definition(sfn, getattr(sfn, name)))
