"""What each engine was seen to do of what AWS documents: the results of the conformance suite.

`python -m tests.conformance --write` measures; behaviours.json beside this file holds the columns, and
docs/engines.md is the same as a table.
"""

from __future__ import annotations

import difflib
import functools
import json
from pathlib import Path
from typing import Any

from helpers.errors import EngineError

FILE = Path(__file__).with_suffix(".json")


@functools.cache
def table() -> dict[str, Any]:
    """The file: `behaviours` by name (aws, page, expects, lesson), `engines` by name (release, date,
    results by behaviour)."""
    read: dict[str, Any] = json.loads(FILE.read_text())
    return read


def shows(engine: str, behaviour: str) -> bool:
    """Whether an engine does what AWS documents, as last measured.

    AWS itself does, and so does an engine that has no column, such as a user's own endpoint: it is taken
    at AWS's word. The simulator has no API that could show anything. Raises EngineError when the behaviour
    is not known.
    """
    known = table()["behaviours"]
    if behaviour not in known:
        near = difflib.get_close_matches(behaviour, known, n=3, cutoff=0.5)
        raise EngineError(
            f"behaviour {behaviour!r}: not in the conformance suite; "
            + (f"choose one such as {', '.join(near)}" if near else "docs/engines.md lists them")
        )
    if engine == "simulated":
        return False
    column = table()["engines"].get(engine)
    return column is None or column["results"].get(behaviour, {}).get("state") == "yes"


def not_shown(engine: str) -> list[str]:
    """The behaviours that an engine does not show, in the order of docs/engines.md."""
    return [behaviour for behaviour in table()["behaviours"] if not shows(engine, behaviour)]
