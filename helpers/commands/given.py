"""What users give on the command line: assignments and lists of values."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from helpers.errors import LabError
from helpers.values import loaded

Assignments = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="KEY=VALUE; may be given more than once.")
]


def assigned(pairs: list[str] | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LabError(f"parameter {pair!r}: must be KEY=VALUE; for example -p scale=full")
        if key in values:
            raise LabError(f"{key}: is given twice, as {values[key]!r} and as {value!r}; give it once")
        values[key] = value
    return values


def value_lists(given: dict[str, str]) -> dict[str, Any]:
    """What assignments of comma-separated values give."""
    return {key: loaded(f"[{text}]", key) for key, text in given.items()}
