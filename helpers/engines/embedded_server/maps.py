"""Inline Maps; map_runs.py has the distributed ones."""

from collections.abc import Callable
from typing import Any

INLINE_MAP_LIMIT = 40
"""Iterations at once (Step Functions service quotas, 2026-11-24)."""

State = dict[str, Any]
Step = Callable[..., Any]


def iterations_at_once(sfn: Any, run: Step) -> Step:
    """An inline Map runs 40 iterations at once at most; MaxConcurrency 0 means 40."""

    def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        processor = state.get("ItemProcessor") or state.get("Iterator") or {}
        if processor.get("ProcessorConfig", {}).get("Mode") != "DISTRIBUTED":
            wanted = state.get("MaxConcurrency", 0)
            if isinstance(wanted, str):
                wanted = sfn._jsonata_state_field(state, "MaxConcurrency", "number", raw_input, ctx)
            state = {**state, "MaxConcurrency": min(int(wanted) or INLINE_MAP_LIMIT, INLINE_MAP_LIMIT)}
        return run(state, raw_input, execution, ctx)

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    sfn._run_map_items = iterations_at_once(sfn, sfn._run_map_items)
