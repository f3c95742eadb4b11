"""Learn the quotas of an engine from measured runs, so that simulations predict what it would measure.

An engine without AWS's limits is held back by its own work alone. Two kinds of traces tell of it:

- An easy run, in which hardly an item waits for the engine, tells how long each step takes: the mean over
  the middle half of the items.
- A hard run, in which nearly all waiting is for the engine, tells how many steps it does in a second: the
  rate of state transitions at which the simulation takes as long as the run did. All items pass their bucket,
  so it stands for an engine that does one thing at a time.

Of several runs of a kind the median counts, but the fastest start: what else the machine does may delay it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from helpers.engines.base import Engine
from helpers.errors import TraceError
from helpers.experiment import Experiment, Floats, lognormal
from helpers.simulation.model import simulate
from helpers.simulation.quotas import UNLIMITED, Quotas
from helpers.trace import Trace
from helpers.tune import varied

__all__ = ["EXPERIMENTS", "calibrate", "compare", "measure"]

EXPERIMENTS = (
    Experiment(
        80,
        map_concurrency=8,
        worker_concurrency=4,
        direct_seconds=lognormal(0.1, 0.3),
        limited_seconds=lognormal(0.3, 0.3),
    ),
    Experiment(600, map_concurrency=40, worker_concurrency=20, direct_seconds=0.005, limited_seconds=0.005),
)
"""What to measure: an easy run, and a hard one."""
REPETITIONS = 3
HARD = 0.5
"""A run is hard where its experiment alone explains no more than this share of its makespan, easy where it
explains more."""
BURST = 4.0
"""Transitions of one child: one alone does not wait."""
FEWEST = 10
"""Items that a time or a rate is read from at least."""
RATES = 1.0, 1e6
"""Transitions a second between which the engine's rate is sought."""
TELLING = 0.9
"""Where more of a hard run's makespan than this share is explained without the rate, it does not tell it."""
CLOSE = 1.001
"""How near to each other the ends of the search are when it ends."""


def measure(engine: Engine, progress: bool = True) -> list[Trace]:
    """The traces of EXPERIMENTS on the engine, REPETITIONS of each with other items, after one to warm up."""
    with engine.bench() as run:
        run(EXPERIMENTS[-1], progress)
        return [
            run(replace(experiment, seed=seed), progress)
            for seed in range(REPETITIONS)
            for experiment in EXPERIMENTS
        ]


def calibrate(traces: Sequence[Trace]) -> Quotas:
    """The quotas under which simulations of these traces' experiments take the times that were measured.

    Of AWS's limits none. Raises TraceError, with the remedy, for a trace that cannot tell: of one lane, with
    failures or late answers, of a fleet, with cold starts or arrivals; and where none is easy, none is hard,
    an easy one takes its messages in batches, or a hard one is held back by less than the engine's rate.
    """
    for trace in traces:
        _check(trace)
    start = float(np.median([trace.items["arrival"].min() for trace in traces])) if traces else 0.0
    bare = replace(UNLIMITED, map_start_seconds=start)
    hard = [trace for trace in traces if _makespan(trace.experiment, bare) - start <= HARD * _span(trace)]
    easy = [trace for trace in traces if not any(trace is one for one in hard)]
    if not easy or not hard:
        raise TraceError(
            f"{len(easy)} easy and {len(hard)} hard traces: it takes at least one of each, one in which work "
            f"takes more than {HARD:.0%} of the makespan and one in which it takes less; measure EXPERIMENTS"
        )
    answer = _median(easy, _answers)
    times = replace(
        bare,
        children_per_second=max(_start_rate(trace) for trace in hard),
        send_seconds=_median(easy, lambda trace: _between(trace, "limited", "arrival", "enqueued")),
        invoke_seconds=_median(easy, lambda trace: _between(trace, "direct", "arrival", "service_start")),
        receive_seconds=_median(easy, lambda trace: _receives(trace, answer)),
        answer_seconds=answer,
        return_seconds=_median(easy, lambda trace: _between(trace, "direct", "service_end", "returned")),
        transitions_burst=BURST,
    )
    return replace(times, transitions_per_second=_median(hard, lambda trace: _rate(trace, times)))


def compare(traces: Sequence[Trace], quotas: Quotas) -> pd.DataFrame:
    """How far predictions are from measurements: one row a setting, in the order of the traces.

    Columns: what varies between the settings; measured and predicted, the makespans in seconds, each the
    median over the setting's runs, which may differ in their seeds; error = predicted / measured - 1; and
    runs, their number.
    """
    rows = pd.DataFrame([vars(trace.experiment) for trace in traces])
    names = varied(rows)
    rows["setting"] = pd.factorize(rows[names].map(repr).agg(" ".join, axis=1) if names else rows["items"])[0]
    rows["measured"] = [float(trace.items["returned"].max()) for trace in traces]
    rows["predicted"] = [_makespan(trace.experiment, quotas) for trace in traces]
    table = rows.groupby("setting")[names].first()
    table[["measured", "predicted"]] = rows.groupby("setting")[["measured", "predicted"]].median()
    table["error"] = table["predicted"] / table["measured"] - 1
    return table.assign(runs=rows.groupby("setting").size()).reset_index(drop=True)


def _check(trace: Trace) -> None:
    experiment = trace.experiment
    named = f"trace of {trace.started}"
    if experiment.consumer != "lambda":
        raise TraceError(f"{named}: has a fleet, which polls in its own rhythm; measure consumer='lambda'")
    if experiment.cold_start:
        raise TraceError(f"{named}: starts cold, so its times are those of environments; measure it warm")
    if experiment.arrivals_per_second is not None:
        raise TraceError(f"{named}: its items arrive at times of their own; measure it without arrivals")
    if (trace.items["attempts"] != 1).any() or (trace.items["outcome"] != "succeeded").any():
        raise TraceError(
            f"{named}: has failed or repeated attempts, whose times are those of retries; measure "
            "failure_rate=0 and longer timeouts"
        )
    for lane in ("direct", "limited"):
        if (found := int((trace.items["lane"] == lane).sum())) < FEWEST:
            raise TraceError(
                f"{named}: has {found} items in the {lane} lane, too few to tell its times; measure at least "
                f"{FEWEST} in each, by more items or another siphon_share"
            )


def _span(trace: Trace) -> float:
    return float(trace.items["returned"].max() - trace.items["arrival"].min())


def _makespan(experiment: Experiment, quotas: Quotas) -> float:
    return float(simulate(experiment, quotas).items["returned"].max())


def _middle(times: Floats) -> float:
    """The mean of the middle half: robust as a median, and finer than clocks that count milliseconds."""
    quarter = len(times) // 4
    return max(0.0, float(np.sort(times)[quarter : len(times) - quarter].mean()))


def _median(traces: Sequence[Trace], of: Callable[[Trace], float]) -> float:
    return float(np.median([of(trace) for trace in traces]))


def _between(trace: Trace, lane: str, first: str, second: str) -> float:
    items = trace.items[trace.items["lane"] == lane]
    return _middle((items[second] - items[first]).to_numpy())


def _answers(trace: Trace) -> float:
    return _between(trace, "limited", "service_end", "returned")


def _receives(trace: Trace, answer_seconds: float) -> float:
    """From when a message could have been received to its start: it was there, and so was an idle worker.

    The k-th start needs the end of all tasks before but as many as there are other workers.
    """
    if trace.experiment.batch_size > 1:
        raise TraceError(
            f"trace of {trace.started}: batch_size={trace.experiment.batch_size}: does not tell which "
            "messages came in one batch; measure an easy run with batch_size=1"
        )
    limited = trace.items[trace.items["lane"] == "limited"].sort_values("service_start")
    possible = limited["enqueued"].to_numpy().copy()
    workers = trace.experiment.worker_concurrency
    freed = np.sort(limited["service_end"].to_numpy())[: max(0, len(possible) - workers)] + answer_seconds
    possible[workers:] = np.maximum(possible[workers:], freed)
    return _middle(limited["service_start"].to_numpy() - possible)


def _start_rate(trace: Trace) -> float:
    """Children a second of the first ones, for which the map has room whoever has ended."""
    first = np.sort(trace.items["arrival"].to_numpy())[: trace.experiment.map_limit]
    if len(first) < FEWEST:
        raise TraceError(
            f"trace of {trace.started}: map_concurrency={trace.experiment.map_concurrency}: too few children "
            f"at once to tell a rate; measure a hard run with at least {FEWEST}"
        )
    taken = float(first[-1] - first[0])
    return (len(first) - 1) / taken if taken > 0 else math.inf


def _rate(trace: Trace, times: Quotas) -> float:
    """The transitions a second with which the simulation takes as long as the run did (bisection)."""
    slow, fast = RATES
    measured = float(trace.items["returned"].max())
    if (share := _makespan(trace.experiment, times) / measured) > TELLING:
        raise TraceError(
            f"trace of {trace.started}: its starts and steps alone explain {share:.0%} of the makespan, so "
            "it does not tell the engine's rate; measure a hard run with more workers and a wider map"
        )
    while fast / slow > CLOSE:
        middle = math.sqrt(slow * fast)
        if _makespan(trace.experiment, replace(times, transitions_per_second=middle)) > measured:
            slow = middle
        else:
            fast = middle
    return math.sqrt(slow * fast)
