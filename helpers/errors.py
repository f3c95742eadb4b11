"""The errors that the lab raises on purpose: one base class, one sentence pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.formatting import plain

if TYPE_CHECKING:
    from helpers.trace import Trace

SHOWN = 200
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """A value that somebody gave, as a message shows it: its repr, or the beginning of a long one."""
    try:
        text = plain(repr(value))
    except ValueError:  # Python prints no integer of more than some thousand digits
        return "an integer of too many digits to print"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class LabError(Exception):
    """Something the lab refuses or could not do.

    The message names the value, the rule that it breaks and the remedy, so that it can be
    shown to a user as it is, without a traceback: as one line of plain text, whatever name it quotes.
    """

    def __str__(self) -> str:
        return plain(super().__str__())


class InvalidExperiment(LabError):
    """An Experiment, or a value for one, breaks a rule of the lab or of AWS."""


class EngineError(LabError):
    """An engine is unknown, not reachable, or did not start."""


class BudgetError(LabError):
    """What is about to run costs more than is left of its budget, or needs one and has none."""


class StackError(LabError):
    """A workflow could not be deployed, destroyed or started, or its run failed.

    trace: of a run, the Trace of what was measured until then, where that could be read; else None.
    """

    trace: Trace | None = None


class TraceError(LabError):
    """A trace file is not readable as one, or a trace lacks what was asked of it."""


class FileError(LabError):
    """A file could not be written: there is no room, or no right."""


class SweepError(LabError):
    """A sweep is empty, is asked for what it has not, or its folder is not to be used so."""


class NotebookError(LabError):
    """A notebook is unknown, is given a parameter that it does not have, or failed."""


class ObserveError(LabError):
    """What is to be observed is no Standard execution, does not exist, or may not be read."""


class GraphError(LabError):
    """A definition is not to be drawn, or is not that of what shall colour it."""
