"""The patterns there are, by name, in the order in which they are told."""

from __future__ import annotations

from helpers.errors import LabError, shown
from helpers.patterns import (
    activity,
    batches,
    callback,
    counter,
    distributed_map,
    inline_map,
    pipes,
    semaphore,
)
from helpers.patterns.pattern import Pattern

PATTERNS: dict[str, Pattern] = {
    module.PATTERN.name: module.PATTERN
    for module in (inline_map, distributed_map, batches, callback, activity, semaphore, counter, pipes)
}


def named(names: list[str]) -> list[Pattern]:
    """The patterns of these names, all of them if there are none. Raises LabError for an unknown one."""
    for name in names:
        if name not in PATTERNS:
            raise LabError(f"pattern {shown(name)}: not known; choose from {', '.join(PATTERNS)}")
    if len(set(names)) < len(names):
        raise LabError(f"patterns {', '.join(names)}: one is given twice; give each once")
    return [PATTERNS[name] for name in names or PATTERNS]
