"""Concurrency Lab: one experiment, many engines, one trace."""

from helpers import checks, cost, live, metrics, observe, plots, queueing, simulation, stack
from helpers.engines import connect
from helpers.errors import LabError
from helpers.exercises import check
from helpers.experiment import Experiment, empirical, exponential, lognormal
from helpers.notebooks import reading
from helpers.predict import fitted, predict
from helpers.search import search
from helpers.simulation import calibration, simulate
from helpers.trace import Trace

__all__ = [
    "Experiment",
    "LabError",
    "Trace",
    "calibration",
    "check",
    "checks",
    "connect",
    "cost",
    "empirical",
    "exponential",
    "fitted",
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
    "stack",
]
