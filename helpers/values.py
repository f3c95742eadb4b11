"""Read values as users write them: on the command line, in a grid's file, for a notebook's parameter."""

from __future__ import annotations

import ast
import contextlib
import math
import re
from typing import Any

import yaml

from helpers.errors import LabError, shown

__all__ = ["literal", "loaded", "scalar"]

WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    **dict.fromkeys(("null", "none", "~", ""), None),
}
"""The words that are values, in any case: of YAML 1.2, and None of Python. Yes, no, on and off are text."""
_DIGITS = "[0-9]+(?:_[0-9]+)*"
NUMBER = re.compile(
    rf"[-+]?(?:(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?P<power>e[-+]?[0-9]+)?|\.?inf|infinity|\.?nan)",
    re.IGNORECASE,
)
OTHER = re.compile(r"[-+]?(?:0[xob][0-9a-f_]+|0[0-9_]*[0-9]|[0-9][0-9_]*(?::[0-9_.]+)+)", re.IGNORECASE)
"""Numbers of another base than ten in YAML 1.1 or Python, such as 0x10, 010 (8 or an error), 1:30 (90)."""
EXACT = 2**53
"""Up to here each whole number is a float of its own."""


def scalar(text: str) -> Any:
    """Read a number, true, false or null; any other text is itself.

    A number is decimal, such as 10, +1, 1_000, .5 or 1e-1. One with an exponent that is whole is an int, so
    that 1e3 items are 1000. Infinity and NaN are read: who takes the number says whether it may be one.

    Raises:
        LabError: For a number of another base than ten, and one that is too large.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if OTHER.fullmatch(text):
        raise LabError(f"{shown(text)}: not a decimal number; write it as one, without leading zeros")
    if not (found := NUMBER.fullmatch(text)):
        return text
    digits = text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    try:
        number = int(digits) if digits.lstrip("+-").isdecimal() else float(digits)
    except ValueError:  # Python reads no integer of more than some thousand digits
        number = math.inf
    if math.isinf(number) and "inf" not in digits:
        raise LabError(f"{shown(text)}: too large; give a number below 1e308")
    if found["power"] and abs(number) < EXACT and number == int(number):
        return int(number)
    return number


def literal(text: str) -> Any:
    """Read what `scalar` reads, or else a literal of Python, such as [1, 2]; any other text is itself.

    Raises:
        LabError: As `scalar` does.
    """
    value = scalar(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose plain scalars are those of `scalar`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own


_Loader.add_implicit_resolver("!scalar", re.compile(""), None)
_Loader.add_constructor("!scalar", lambda loader, node: scalar(node.value))


def loaded(text: str | bytes, name: str = "grid") -> Any:
    """Read a YAML text.

    Args:
        text: The text, as bytes in UTF-8 or UTF-16.
        name: What it is called in an error.

    Raises:
        LabError: For what is no YAML, asks for code, or holds a number that `scalar` refuses.
    """
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader
    except LabError as error:
        raise LabError(f"{name}: {error}") from error
    except Exception as error:  # PyYAML has many for what is none, such as KeyError for !!bool x
        told = " ".join(str(error).split())
        raise LabError(f"{name}: not readable ({told}); write FIELD: [V1, V2]") from error
