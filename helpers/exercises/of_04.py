"""The exercises of 04 Putting it together."""

import math
from typing import Any

from helpers import metrics
from helpers.exercises.judging import Choice, Exercise, Number, Wrong, experiment_for
from helpers.experiment import Experiment
from helpers.simulation import UNLIMITED, simulate

WORK = "items", "siphon_share", "direct_seconds", "limited_seconds", "worker_concurrency", "seed"
"""The fields of Experiment that say what is to be done, and by how many workers."""


def _bound_equal(experiment: Experiment) -> float:
    """The least worker_concurrency at which the workers' bound is no longer above the map's."""
    work = experiment.plan().groupby("lane", observed=False)["task_seconds"].sum()
    return float(math.ceil(work["limited"] * experiment.map_limit / work.sum()))


def _direct_done(experiment: Experiment) -> float:
    """When the direct lane's last item is back (s), simulated without quotas."""
    return float(simulate(experiment, UNLIMITED).items.query("lane == 'direct'")["returned"].max())


def _sooner(answer: Any, base: Experiment) -> str:
    given = experiment_for(answer, **{name: getattr(base, name) for name in WORK})
    before, after = _direct_done(base), _direct_done(given)
    if after > 0.9 * before:
        told = "sooner by less than a tenth" if after < before else "no sooner"
        raise Wrong(
            f"Simulated, the direct lane's last item is back at {after:.2f} s, {told} than before "
            f"({before:.2f} s). What keeps its items from starting is the places that waiting children hold: "
            f"of {base.map_limit} here, {given.map_limit} with your settings."
        )
    return (
        f"Simulated, the direct lane's last item is back at {after:.2f} s in place of {before:.2f} s, with "
        "the same workers: with enough places in the map the waiting children hold nobody up."
    )


EXERCISES = {
    "04.1": Exercise(
        "Does a child of the limited lane hold a place in the map while it waits in the queue?",
        "places in the map held by siphoned items, under Why",
        Choice(
            True,
            "It does: the child is an execution that runs, whether it works or waits. So MaxConcurrency has "
            "to leave room for those that wait.",
            {
                False: "The message is in the queue, but its child still runs: it waits for the answer, and "
                "an execution that waits is counted like any other.",
            },
        ),
    ),
    "04.2": Exercise(
        "How long does the run last at least, with a map of 200 and with one of 1,000?",
        "the two bounds under Predict, or metrics.ideal_makespan of two Experiments",
        Number(
            lambda: metrics.ideal_makespan(
                Experiment(10_000, map_concurrency=1_000, siphon_share=0.1, limited_seconds=8)
            ),
            "seconds",
            "About 1,000 x 8 s / 100 workers, 80 s, and the map's bound is smaller in both cases: the worker "
            "limit binds, so the map does not matter.",
            {
                8_000: "That is one worker for all siphoned items. A hundred share them.",
                800: "That sends all 10,000 to the workers. A tenth of them is siphoned.",
                40: "That lets 200 children do the siphoned work. At most 100 workers do.",
                42.25: "That is the map's bound, all work / 200. The run is not shorter than the larger "
                "bound.",
                8.45: "That is the map's bound, all work / 1,000. The run is not shorter than the larger "
                "bound.",
                8: "8 s is one siphoned item.",
                5: "That is the direct lane alone.",
            },
            tolerance=0.03,
        ),
    ),
    "04.3": Exercise(
        "From which worker_concurrency on does the map bind in this notebook's run, and no longer the "
        "workers?",
        "the two bounds under Predict: for which number of workers are they equal?",
        Number(
            _bound_equal,
            "workers",
            "There the workers' bound has come down to the map's, which more workers do not move: beyond it "
            "the next thing to change is MaxConcurrency.",
            {
                lambda one: one.map_limit: "So many children fit the map, but direct ones need places, too: "
                "it binds earlier. Compare the bounds, work / limit.",
                lambda one: (
                    _bound_equal(one) - 1
                ): "One short: with a worker less the workers' bound is still the larger one. Round up.",
                lambda one: one.worker_concurrency: "With the run's own number the workers bind: their bound "
                "is the larger one.",
                lambda one: (
                    2 * one.worker_concurrency
                ): "Twice the workers halve their bound, and it still is the larger one.",
            },
            tolerance=0,
        ),
    ),
    "04.4": Exercise(
        "Which settings bring the direct lane's last item back sooner, with as many workers?",
        "Why: what the places in the map are held by, and what follows for MaxConcurrency",
        _sooner,
    ),
}
