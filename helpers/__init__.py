"""Concurrency Lab: one experiment, many engines, one trace."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from helpers import checks, cost, live, metrics, observe, queueing, simulation, stack
from helpers.engines import connect
from helpers.errors import LabError
from helpers.exercises import check, solve
from helpers.experiment import Experiment, empirical, exponential, lognormal
from helpers.graph import graph
from helpers.notebooks import reading
from helpers.predict import fitted, predict
from helpers.search import search
from helpers.simulation import calibration, simulate
from helpers.trace import Trace

if TYPE_CHECKING:
    from helpers import plots
    from helpers.live_figure import LiveFigure

__all__ = [
    "Experiment",
    "LabError",
    "LiveFigure",
    "Trace",
    "calibration",
    "check",
    "checks",
    "connect",
    "cost",
    "empirical",
    "exponential",
    "fitted",
    "graph",
    "live",
    "lognormal",
    "metrics",
    "observe",
    "plots",
    "predict",
    "queueing",
    "reading",
    "search",
    "simulate",
    "simulation",
    "solve",
    "stack",
]


def __getattr__(name: str) -> Any:
    """What draws, when it is wanted: Matplotlib takes as long to load as all the rest."""
    if name == "LiveFigure":
        from helpers.live_figure import LiveFigure

        return LiveFigure
    if name == "plots":
        return import_module("helpers.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
