"""The command: try the faults, print the table, and store it."""

from __future__ import annotations

import fnmatch
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from helpers import connect
from helpers.files import write_whole
from tests.faults.trial import Damage, Fault, all_faults, attempt

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """# What the lab survives

Made by `.venv/bin/python -m tests.faults --write` from `tests/faults/`, on {date}: change the faults instead.

Each fault is injected for real, on the embedded engine, and what should hold is asserted in each try: no item
is lost or counted twice, what was measured is on disk and can be read, the error says what to do, nothing
keeps running or stays deployed, and a run afterwards works.

Where the network is at fault all laws are held but the queue's own count of its depth: answers that are given
again and messages that are sent twice keep more in it than the attempts tell of.

Items: how many were at stake in all tries. Lost: those without an outcome, or measured and not kept. Doubled:
those with two outcomes or two answers that counted. Left behind: processes, stacks, temporary folders,
half-written files.

| fault | how it is injected | what holds all the same | tries | items | lost | doubled | left behind |
|---|---|---|---|---|---|---|---|
"""


def main(
    times: Annotated[int, typer.Option(min=1, help="How often each fault is tried.")] = 3,
    only: Annotated[str, typer.Option(help="Only faults that match, such as 'engine_*'.")] = "*",
    write: Annotated[bool, typer.Option(help="Write docs/faults.md.")] = False,
) -> None:
    """Try the faults. Example: python -m tests.faults --only 'wire_*' --times 5"""
    faults = [known for known in all_faults() if fnmatch.fnmatch(known.name, only)]
    if write and only != "*":
        raise typer.BadParameter("the table is whole or not written: leave out --only, or --write")
    rows, harmed = [], False
    with connect("embedded") as engine, tempfile.TemporaryDirectory() as folder:
        for known in faults:
            found = Damage(0)
            for number in range(times):
                found += attempt(known, engine, Path(folder) / f"{known.name}-{number}")
            rows.append(row(known, times, found))
            print(rows[-1], flush=True)
            harmed |= bool(found.lost or found.doubled or found.left)
    if write:
        write_whole(PAGE, HEAD.format(date=datetime.now(UTC).date()) + "".join(f"{line}\n" for line in rows))
    sys.exit(1 if harmed else 0)


def row(known: Fault, times: int, found: Damage) -> str:
    """The fault's line of the table."""
    left = ", ".join(found.left) or 0
    cells = (known.name, known.injected, known.law, times, found.items, found.lost, found.doubled, left)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    typer.run(main)
