"""The exercises of 06 Predict at scale."""

from collections.abc import Mapping
from typing import Any

from helpers import metrics, queueing
from helpers.exercises.judging import Exercise, Number, Parts, Wrong, experiment_for, number_in
from helpers.experiment import exponential
from helpers.simulation import UNLIMITED, simulate

WAIT = 0.1
ARRIVALS, TASK = 50.0, 2.0
"""Items a second, and seconds of each."""


def _heartbeat(answer: Any) -> str:
    given = number_in(answer, "seconds")
    why = "800 workers that beat three times in a period send 2,400 beats in it, and 500 a second are let in."
    if given != int(given):
        raise Wrong(
            f"{given:g} is not whole: HeartbeatSeconds takes whole seconds. Round so that it is safe."
        )
    if given == 6:
        raise Wrong("6 s is what 1,000 workers need. With 800 a shorter one is safe, too.")
    if given < 5:
        beats = 2_400 / given if given > 0 else float("inf")
        raise Wrong(
            f"With {given:g} s the workers send {beats:.0f} beats a second, and the bucket is filled with "
            "500: beats are refused, and living tasks die. Does your count have three beats in a period?"
        )
    if given > 5:
        raise Wrong(f"{given:g} s is safe, and longer than it has to be: dead workers are found later. {why}")
    return f"{why} That is 4.8 s at least, so 5 s; with 4 s it is over the cliff."


def _pooled(found: Mapping[tuple[int, float], tuple[float, float]]) -> float:
    return found[5, 0.9][0] / found[50, 0.9][0]


def _enough(answer: Any) -> str:
    fixed = {"siphon_share": 1.0, "consumer": "fleet", "limited_seconds": exponential(TASK)}
    given = experiment_for(answer, **fixed, arrivals_per_second=ARRIVALS)
    workers, load = given.worker_concurrency, ARRIVALS * TASK
    if workers <= load:
        raise Wrong(
            f"{load:g} workers are busy on average, by Little's law, so with {workers} the queue grows "
            "without end. There must be more."
        )
    waiting = queueing.mean_waiting(ARRIVALS, TASK, workers)
    if waiting >= WAIT:
        raise Wrong(
            f"With {workers} workers the mean wait is {waiting:.3f} s by Erlang's formula, "
            f"{waiting - WAIT:.3f} s too long."
        )
    if (less := queueing.mean_waiting(ARRIVALS, TASK, workers - 1)) < WAIT:
        raise Wrong(
            f"{workers} workers wait {waiting:.3f} s on average; {workers - 1} would do as well, with "
            f"{less:.3f} s."
        )
    seen = metrics.summary(simulate(given, UNLIMITED))["mean_waiting"]
    return (
        f"{workers} workers wait {waiting:.3f} s on average by Erlang's formula, {seen:.3f} s in one "
        f"simulated run of {given.items:,} items; with one less it is {less:.3f} s. At this utilisation "
        "each of the last few workers counts."
    )


EXERCISES = {
    "06.1": Exercise(
        "How many children are at work at once, and what is the makespan, on AWS?",
        "A run in virtual time: children that start a second, and Little's law",
        Parts(
            at_once=Number(
                100,
                "children",
                "100 start each second, and each is there for about a second: about 100 at once.",
                {
                    4_000: "All at once would be right if they started at once. AWS starts 100 a second.",
                    1_000: "1,000 is what the account carries. So many never get started in a second.",
                    10_000: "10,000 is the limit of a Map Run, and there are 4,000 items.",
                    40: "40 at once is the limit of an inline Map; 40 s is the time that the starts take.",
                },
                tolerance=0.06,
            ),
            makespan=Number(
                41,
                "seconds",
                "4,000 starts at 100 a second are 40 s, and the last child needs its second.",
                {
                    1: "1 s would do if all started at once. How many start in a second?",
                    4_000: "That is one after another.",
                    4: "That is 1,000 starts a second: the rate of Express children, which cannot wait.",
                    100: "100 s is the time of 10,000 items.",
                },
                tolerance=0.04,
            ),
        ),
    ),
    "06.2": Exercise(
        "How many functions run at once in a new account, and how many of the 300 items succeed?",
        "simulate(…, simulation.NEW_ACCOUNT) and metrics.summary",
        Parts(
            at_once=Number(
                10,
                "functions",
                "A new account carries 10 at once, whatever MaximumConcurrency allows.",
                {
                    50: "50 is what the mapping may have at once. The account carries less.",
                    1_000: "1,000 is what an account has by default. This one is new.",
                    5: "5 is what a mapping starts with. It grows from there, until the account refuses.",
                },
                tolerance=0,
            ),
            succeeded=Number(
                300,
                "items",
                "All: a refused message goes back to the queue and is tried again, so this account is slower "
                "by far, and loses nothing. (The direct lane has no queue: its Retry gives up.)",
                {
                    10: "10 run at once. What is refused is not lost: it is tried again later.",
                    50: "50 is the mapping's limit. What is refused is not lost: it is tried again later.",
                    0: "Ten at a time succeed, and what is refused is tried again later.",
                },
                tolerance=0,
            ),
        ),
    ),
    "06.3": Exercise(
        "From which whole HeartbeatSeconds on are 800 workers safe?",
        "A heartbeat storm: beats in a period, and how many a second are let in",
        _heartbeat,
    ),
    "06.4": Exercise(
        "How many times as long as in the pool of 50 do items wait for 5 workers, at 90 %?",
        "found[5, 0.9] and found[50, 0.9], whose first number is the mean waiting time",
        Number(
            _pooled,
            "times",
            "Ten times the workers wait far less than a tenth: in a large pool it is rare that all are busy "
            "at once. So one queue with a large limit beats ten small ones.",
            {
                lambda found: 1 / _pooled(found): "It is the other way round: the few wait longer.",
                10: "10 is the ratio of the workers, and of the work. The waiting time falls by more.",
                1: "They are as busy, but do not wait as long: see the two lines of the figure.",
                lambda found: found[5, 0.9][0] - found[50, 0.9][0]: "That is the difference in seconds. How "
                "many times as long is it?",
                lambda found: found[5, 0.8][0] / found[50, 0.8][0]: "That is at 80 %.",
            },
            tolerance=0.02,
        ),
    ),
    "06.5": Exercise(
        "Which Experiment serves 50 items of 2 s a second with a mean wait below 0.1 s and the fewest "
        "workers?",
        "queueing.mean_waiting, and at 100 busy workers on average, of which it has to have more",
        _enough,
    ),
}
