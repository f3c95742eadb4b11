"""How much a state may hand on."""

import json
from collections.abc import Callable
from typing import Any

PAYLOAD_BYTES = 262_144
"""The longest input or output, as UTF-8 (Step Functions service quotas, 2026-11-24)."""

Step = Callable[..., Any]


def output_too_long(sfn: Any, execute: Step) -> Step:
    """A state whose output is over 256 KiB fails the execution with States.DataLimitExceeded."""

    def corrected(state: dict[str, Any], *given: Any) -> Any:
        output, following = execute(state, *given)
        _check(sfn, output, given[-1]["State"]["Name"])
        return output, following

    return corrected


def result_too_long(sfn: Any, invoke: Step) -> Step:
    """A task whose result is over 256 KiB fails with States.DataLimitExceeded."""

    def corrected(resource: str, data: Any) -> Any:
        result = invoke(resource, data)
        _check(sfn, result, resource.removeprefix("arn:aws:states:::").rpartition(":")[0])
        return result

    return corrected


def _check(sfn: Any, value: Any, name: str) -> None:
    if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > PAYLOAD_BYTES:
        told = "returned a result with a size exceeding the maximum number of bytes service limit."
        raise sfn._ExecutionError("States.DataLimitExceeded", f"The state/task '{name}' {told}")


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    for kind in ("pass", "task", "choice", "wait", "parallel", "map"):
        setattr(sfn, f"_execute_{kind}", output_too_long(sfn, getattr(sfn, f"_execute_{kind}")))
    sfn._invoke_resource = result_too_long(sfn, sfn._invoke_resource)
