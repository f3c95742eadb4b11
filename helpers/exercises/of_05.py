"""The exercises of 05 Benchmark concurrency."""

from dataclasses import replace
from typing import Any

import pandas as pd

from helpers import metrics
from helpers.exercises.judging import Choice, Exercise, Number, Several, Wrong, experiment_for
from helpers.simulation import simulate

SECONDS, EFFICIENCY = 90, 0.8


def _ratio(by_size: pd.DataFrame, name: str = "p95_sojourn") -> float:
    times = by_size[name]
    return float(times[10] / times[1])


def _difference(by_size: pd.DataFrame) -> float:
    times = by_size["p95_sojourn"]
    return float(times[10] - times[1])


def _fewest(answer: Any) -> str:
    given = experiment_for(answer, items=2_000, siphon_share=0.5, limited_seconds=1.5, seed=0)
    allowed = EFFICIENCY * SECONDS
    workers, seconds = given.worker_concurrency, metrics.ideal_makespan(given)
    wide = replace(given, map_concurrency=0)
    if metrics.ideal_makespan(wide) > allowed:
        raise Wrong(
            f"{workers} workers need {metrics.ideal_makespan(wide):.1f} s at best. At an efficiency of 0.8 "
            f"only {allowed:g} of the 90 s are there for that: "
            f"{metrics.ideal_makespan(wide) - allowed:.1f} s too long."
        )
    if seconds > allowed:
        raise Wrong(
            f"The workers would do, but a map of {given.map_limit} children takes {seconds:.1f} s: a worker "
            "can only be busy with an item whose child has been started."
        )
    if workers > 2 and metrics.ideal_makespan(replace(wide, worker_concurrency=workers - 1)) <= allowed:
        raise Wrong(
            f"{workers} workers need {seconds:.1f} s of {allowed:g} s at best: fewer would do, and each is a "
            "connection to whatever lies behind."
        )
    told = metrics.summary(simulate(given))["makespan"]
    if told > SECONDS:
        raise Wrong(
            f"Under AWS's quotas the simulator sees {told:.1f} s, {told - SECONDS:.1f} s too long, though "
            f"the bound is {seconds:.1f} s. With a map of {given.map_limit} the workers run out of started "
            "items."
        )
    return (
        f"{seconds:.1f} s at best, {seconds / EFFICIENCY:.1f} s at an efficiency of 0.8, and one worker less "
        f"would not do. Simulated under AWS's quotas: {told:.1f} s. The map only has to keep the workers "
        "busy."
    )


EXERCISES = {
    "05.1": Exercise(
        "How many of 16 workers are busy at once, at most, with a map of 8 children?",
        "What you predicted: the narrowest map with the most workers",
        Number(
            8,
            "workers",
            "A worker is only busy with an item whose child has been started, and 8 are at once.",
            {
                16: "16 are allowed. Where would the work for all of them come from, with 8 children?",
                24: "The limits do not add up: each item passes both.",
                128: "The limits do not multiply: each item passes both.",
                2: "That is the ratio of the two. Each item passes both limits, so the smaller one is left.",
            },
            tolerance=0,
        ),
    ),
    "05.2": Exercise(
        "At which number of workers is the knee?",
        "Measured against the ideal: from the knee on the line falls less than it did",
        Choice(
            20,
            "Up to 20, twice the workers take about half the time (40, 20.5, 11 s); beyond, twice as many "
            "save a tenth.",
            {
                5: "From 5 to 10 the time halves: there is all to gain.",
                10: "From 10 to 20 the time nearly halves once more (20.5 to 11 s).",
                40: "At 40 the line is flat already: the step from 20 to 40 gained 1.2 s of 11.",
                80: "80 is the fastest, not the knee: it brings 0.2 s over 40 workers.",
                11: "11 s is the time there. Give the number of workers.",
                2: "That is its place in the list. Give the number of workers.",
            },
        ),
    ),
    "05.3": Exercise(
        "Which of the four settings are on the Pareto frontier?",
        "The frontier: no other setting is at least as good in both, and better in one",
        Several(
            frozenset("ABD"),
            "A is the fastest, D the cheapest, and B lies between: slower than A and cheaper, faster than D "
            "and dearer. C is slower than A and dearer, so nobody would choose it.",
            {
                "C": "A is faster (10 s) and cheaper (2 US$) than C (11 s, 2.2 US$), which beats it in both.",
                "B": "nothing beats B in both: A is faster but dearer, D is cheaper but slower. The frontier "
                "is more than its two ends.",
                "A": "no setting is faster than A.",
                "D": "no setting is cheaper than D, however slow it is.",
            },
        ),
    ),
    "05.4": Exercise(
        "By how many percent is p95 of sojourn longer with batches of 10 than with batches of 1?",
        "the table by_size, column p95_sojourn",
        Number(
            lambda by_size: 100 * (_ratio(by_size) - 1),
            "%",
            "That is what the messages behind others of their batch wait, while workers beside theirs are "
            "idle: dear, for less than a percent of the bill.",
            {
                lambda by_size: 100 * _ratio(by_size): "That is the one as a percentage of the other, where "
                "100 % would be the same. How much longer is it?",
                _ratio: "That is how many times as long it is. How many percent longer?",
                _difference: "That is the difference in seconds. Of the time with batches of 1 it is how "
                "many percent?",
                lambda by_size: 100 * (1 - 1 / _ratio(by_size)): "That is the difference as a share of the "
                "larger time. What it is longer than is the time with batches of 1.",
                lambda by_size: 100 * (_ratio(by_size, "p50_sojourn") - 1): "That is the median, p50. The "
                "slowest twentieth is what p95 is about.",
                lambda by_size: 100 * (_ratio(by_size, "makespan") - 1): "That is the makespan, of the run. "
                "p95 of sojourn is about its slowest items.",
            },
            tolerance=0.02,
        ),
    ),
    "05.5": Exercise(
        "Which Experiment does 2,000 items in 90 s at an efficiency of 0.8, with the fewest workers?",
        "metrics.ideal_makespan; efficiency is the ideal makespan over the measured one",
        _fewest,
    ),
}
