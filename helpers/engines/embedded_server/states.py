"""States in general, and what they call."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import clocks
import stopping

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


def timeout_of_execution(sfn: Any, run: Step) -> Step:
    """An execution that runs longer than its state machine's TimeoutSeconds ends as TIMED_OUT."""

    def expire(execution: Any) -> None:
        if execution["status"] == "RUNNING":
            execution["status"], execution["stopDate"] = "TIMED_OUT", sfn.now_iso()
            details = {"executionTimedOutEventDetails": {"error": "States.Timeout"}}
            sfn._add_event(execution, "ExecutionTimedOut", details)
            sfn._emit_execution_status_event(execution)
            stopping.executions[execution["executionArn"]].stop()

    def corrected(arn: str) -> None:
        execution = sfn._executions[arn]
        machine = sfn._state_machines.get(execution["stateMachineArn"], {"definition": "{}"})
        with contextlib.ExitStack() as at_the_end:
            if seconds := json.loads(machine["definition"]).get("TimeoutSeconds"):
                at_the_end.callback(clocks.after(seconds, expire, execution))
            run(arn)

    return corrected


def retry_delays(find: Step) -> Step:
    """A retry waits for MaxDelaySeconds at most, and with full jitter for any time up to what is its turn."""

    def corrected(retriers: list[State], error: str, counts: dict[int, int]) -> Any:
        retrier, index = find(retriers, error, counts)
        if retrier is not None:
            seconds = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2) ** counts.get(
                index, 0
            )
            seconds = min(seconds, retrier.get("MaxDelaySeconds", seconds))
            if retrier.get("JitterStrategy") == "FULL":
                seconds = random.uniform(0, seconds)
            retrier = retrier | {"IntervalSeconds": seconds, "BackoffRate": 1}
        return retrier, index

    return corrected


def start_again(sfn: Any, start: Step) -> Step:
    """StartExecution with the name and input of an execution that runs returns that one."""

    def corrected(data: dict[str, Any]) -> Any:
        answer = start(data)
        found = json.loads(answer[2])
        if found.get("__type") == "ExecutionAlreadyExists":
            execution = sfn._executions[found["message"].split("'")[1]]
            if execution["status"] == "RUNNING" and execution["input"] == data.get("input", "{}"):
                return sfn.json_response({key: execution[key] for key in ("executionArn", "startDate")})
        return answer

    return corrected


def ends_as_a_whole(sfn: Any, describe: Step) -> Step:
    """DescribeExecution reports an end with its output or error and its time.

    ministack notes the status first and the rest right after it, in a thread of the execution's own.
    """

    def corrected(data: dict[str, Any]) -> Any:
        execution = sfn._executions.get(data.get("executionArn")) or {"status": "RUNNING"}
        while execution["status"] != "RUNNING" and not execution["stopDate"]:
            time.sleep(0.001)
        return describe(data)

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


def one_after_another(turn: threading.RLock, write: Step) -> Step:
    """A write to a table begins when the last has ended: what its condition saw, it still is.

    Requests come one after another to ministack's tables, but each state calls from a thread of its own.
    """

    def corrected(data: dict[str, Any]) -> Any:
        with turn:
            return write(data)

    return corrected


def tables_end_with_their_tags(dynamodb: Any, delete: Step) -> Step:
    """A table that CloudFormation deletes is found by its tags no more."""

    def corrected(name: str, properties: dict[str, Any]) -> Any:
        table = dynamodb._tables.get(name) or {}
        answer = delete(name, properties)
        dynamodb._tags.pop(table.get("TableArn", ""), None)
        return answer

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import dynamodb, s3
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    turn = threading.RLock()
    for write in ("put_item", "update_item", "delete_item", "batch_write_item", "transact_write_items"):
        setattr(dynamodb, f"_{write}", one_after_another(turn, getattr(dynamodb, f"_{write}")))
    sfn._run_execution = timeout_of_execution(sfn, sfn._run_execution)
    sfn._find_matching_retrier = retry_delays(sfn._find_matching_retrier)
    sfn._start_execution = start_again(sfn, sfn._start_execution)
    sfn._describe_execution = ends_as_a_whole(sfn, sfn._describe_execution)
    sfn._dispatch_aws_sdk_rest_xml = put_object(sfn, s3, sfn._dispatch_aws_sdk_rest_xml)
    sfn._execute_task = limits_from_paths(sfn, sfn._execute_task)
    sfn._execute_map = limits_from_paths(sfn, sfn._execute_map)
    table = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
    table["delete"] = tables_end_with_their_tags(dynamodb, table["delete"])
