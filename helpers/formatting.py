"""Escape foreign text for the place where it is shown: a terminal, a page, a figure, a table.

State names, errors, causes, logs, tags and file names are whatever their author wrote. `plain` shows the
characters that would command a terminal or reorder a line; the other functions build on it, one for each
kind of document, so that a name is never markup, a formula or a command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["caption", "markdown", "markup", "plain", "to_csv", "to_text"]

UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls: C0 with ESC, DEL, C1
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # marks and fillers without width
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # no width, line ends, directions
    "\ud800-\udfff\ufffe\uffff"  # half a character, and none: no UTF-8, no XML
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # more without width, tags
    "]"
)
"""Characters that act on what shows them, or show nothing: controls, default ignorables and surrogates.

Unicode 16, sections 23.1 to 23.9; without the variation selectors that emoji need.
"""
LONGEST_CAPTION = 40
"""Characters of a name in a figure: a longer one would leave no room for what is drawn."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
FORMULA = re.compile(
    r"(^|;)([\s\"]*)(?=[=+\-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
    r"\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}])"
)
"""The beginnings that spreadsheets compute, of a cell and after a semicolon, at which some split lines.

From OWASP, CSV Injection, 2026-11-30.
"""
MARKED = re.compile(r"[\\`*_\[\]|~$#!]")
"""Characters of Markdown and of formulas in it that act within a line."""


def plain(text: str, keep: str = "") -> str:
    r"""Write each character of the text that is not safe to print as its escape, such as \x1b.

    Args:
        text: Any text.
        keep: Characters to let through although they are controls, for example "\n" in a text of lines.

    Example:
        >>> plain("Pay\x1b]0;now\x07")
        'Pay\\x1b]0;now\\x07'
    """

    def escaped(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else found[0].encode("unicode_escape").decode()

    return UNSAFE.sub(escaped, text)


def markup(text: str, keep: str = "") -> str:
    """Escape the text for HTML, XML 1.0 and SVG, in elements and attributes; keep as in `plain`."""
    return html.escape(plain(text, keep))


def markdown(text: str) -> str:
    """Escape the text for one line of Markdown or one cell of its tables, where HTML would be HTML."""
    return MARKED.sub(r"\\\g<0>", html.escape(plain(text), quote=False))


def caption(text: str, longest: int = LONGEST_CAPTION) -> str:
    """Shorten the text to a line for a figure.

    Matplotlib takes dollars for formulas all the same: draw it with `parse_math=False`.
    """
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def to_csv(table: pd.DataFrame) -> str:
    """Write the table as CSV in which no spreadsheet finds a formula.

    An apostrophe stands before what would begin one. Numbers, also as text, stay as they are.
    """
    return _texts(table, _cell).to_csv(index=False)


def to_text(table: pd.DataFrame) -> str:
    """Write the table as lines of aligned columns, its numbers with four digits."""
    return _texts(table, plain).to_string(index=False, na_rep="", float_format="{:.4g}".format)


def _texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Apply the function to each text of the table, its heads included."""
    from pandas.api.types import is_numeric_dtype  # pandas takes half a second, which errors do not need

    changed = table.copy()
    for name in table.columns:
        if not is_numeric_dtype(table[name]):
            changed[name] = [change(value) if isinstance(value, str) else value for value in table[name]]
    return changed.set_axis([change(str(name)) for name in table.columns], axis="columns")


def _cell(text: str) -> str:
    """Escape the text for a cell that a spreadsheet reads."""
    return text if NUMBER.fullmatch(text) else FORMULA.sub(r"\1\2'", plain(text))
