"""States in general, and what they call."""

import json
from collections.abc import Callable
from typing import Any

State = dict[str, Any]
Step = Callable[..., Any]


def limits_from_paths(sfn: Any, execute: Step) -> Step:
    """MaxConcurrencyPath, TimeoutSecondsPath and their like select a number from the state's input."""
    fields = (
        "HeartbeatSeconds",
        "MaxConcurrency",
        "TimeoutSeconds",
        "ToleratedFailureCount",
        "ToleratedFailurePercentage",
    )

    def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        paths = {field: state[f"{field}Path"] for field in fields if f"{field}Path" in state}
        if paths:
            effective = sfn._apply_input_path(state, raw_input, ctx)
            numbers = {f: sfn._resolve_path_or_ctx(path, effective, ctx) for f, path in paths.items()}
            state = {**state, **numbers}
        return execute(state, raw_input, execution, ctx)

    return corrected


def put_object(sfn: Any, s3: Any, dispatch: Step) -> Step:
    """A state can write to S3: aws-sdk:s3:putObject, whose Body may be any JSON value."""

    def corrected(service: Any, name: str, action: str, data: dict[str, Any]) -> Any:
        if (name, action) != ("s3", "putObject"):
            return dispatch(service, name, action, data)
        body = data["Body"] if isinstance(data["Body"], str) else json.dumps(data["Body"])
        status, headers, _ = s3._put_object(data["Bucket"], data["Key"], body.encode(), {})
        if status >= 300:
            raise sfn._ExecutionError("S3.S3Exception", f"PutObject to {data['Bucket']} answered {status}")
        return {"ETag": headers.get("ETag")}

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import s3
    from ministack.services import stepfunctions as sfn

    sfn._dispatch_aws_sdk_rest_xml = put_object(sfn, s3, sfn._dispatch_aws_sdk_rest_xml)
    sfn._execute_task = limits_from_paths(sfn, sfn._execute_task)
    sfn._execute_map = limits_from_paths(sfn, sfn._execute_map)
