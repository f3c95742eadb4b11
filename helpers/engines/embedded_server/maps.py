"""Maps, inline and distributed."""

from collections.abc import Callable
from typing import Any

INLINE_MAP_LIMIT = 40
DISTRIBUTED_MAP_LIMIT = 10_000
"""Iterations and child executions at once (Step Functions service quotas, 2026-11-24)."""

State = dict[str, Any]
Step = Callable[..., Any]


def map_limits(execute: Step) -> Step:
    """An inline Map runs 40 iterations at once, a distributed one 10,000; MaxConcurrency 0 means these."""

    def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        processor = state.get("ItemProcessor") or state.get("Iterator") or {}
        distributed = processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
        limit = DISTRIBUTED_MAP_LIMIT if distributed else INLINE_MAP_LIMIT
        wanted = state.get("MaxConcurrency", 0)
        if isinstance(wanted, int):  # in JSONata it may be an expression, which is ministack's to evaluate
            state = {**state, "MaxConcurrency": min(wanted or limit, limit)}
        return execute(state, raw_input, execution, ctx)

    return corrected


def context_of_children(run_states: Step) -> Step:
    """In a child execution `$$.Execution` is the child, not its parent."""

    def corrected(states: Any, start_at: str, data: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        if "mapRunArn" in execution and ctx["Execution"]["Id"] != execution["executionArn"]:
            ctx["Execution"] = {
                "Id": execution["executionArn"],
                "Input": data,
                "Name": execution["name"],
                "RoleArn": ctx["Execution"].get("RoleArn"),
                "StartTime": execution["startDate"],
            }
        return run_states(states, start_at, data, execution, ctx)

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    sfn._execute_map = map_limits(sfn._execute_map)
    sfn._run_sub_machine = context_of_children(sfn._run_sub_machine)
