"""Concurrency Lab: one experiment, many engines, one trace."""

from helpers import checks, cost, live, metrics, observe, plots, queueing, simulation, stack
from helpers.engines import connect
from helpers.errors import LabError
from helpers.exercises import check, solve
from helpers.experiment import Experiment, empirical, exponential, lognormal
from helpers.graph import graph
from helpers.live_figure import LiveFigure
from helpers.notebooks import reading
from helpers.predict import fitted, predict
from helpers.search import search
from helpers.simulation import calibration, simulate
from helpers.trace import Trace

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
