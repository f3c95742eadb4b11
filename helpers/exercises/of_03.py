"""The exercises of 03 Task-token callbacks."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from helpers import metrics
from helpers.errors import LabError
from helpers.exercises.judging import Choice, Exercise, Number, Parts, Wrong, number_in, told
from helpers.experiment import Experiment
from helpers.simulation import simulate


def _shortest(answer: Any, turns: pd.DataFrame) -> str:
    given, longest = number_in(answer, "seconds"), turns["waiting"].max()
    if given != int(given):
        raise Wrong(f"{given:g} is not whole: HeartbeatSeconds takes whole seconds.")
    if given <= longest:
        lost = int((turns["waiting"] >= given).sum())
        mean = " It is the longest waiting time that counts, not the mean." if lost < len(turns) else ""
        raise Wrong(
            f"With {given:g} s, {lost} of the {len(turns)} tasks are given up before their worker can beat "
            f"for the first time: the last one waited {longest:.1f} s.{mean}"
        )
    if given > math.floor(longest) + 1:
        raise Wrong(
            f"{given:g} s loses no task, and is longer than it has to be: the longest wait was "
            f"{longest:.1f} s, and a dead worker is found that much later."
        )
    return (
        f"The last task waited {longest:.1f} s, and its first beat came in time. It is the longest waiting "
        "time that decides, and that grows with the backlog: leave more room than this, or hold work back."
    )


def _held_back(answer: Any) -> str:
    if not isinstance(answer, Mapping) or {*answer} != {"MaxConcurrency", "HeartbeatSeconds"}:
        raise Wrong(f"{told(answer)} is no dictionary of MaxConcurrency and HeartbeatSeconds: give both.")
    heartbeat = answer["HeartbeatSeconds"]
    try:
        tried = Experiment(
            2_000,
            map_concurrency=answer["MaxConcurrency"],
            heartbeat_seconds=heartbeat,
            siphon_share=1,
            worker_concurrency=100,
            consumer="fleet",
            limited_seconds=8,
        )
    except LabError as error:
        raise Wrong(f"These settings are refused: {error}") from None
    if heartbeat is None or heartbeat > 30:
        raise Wrong(
            f"With HeartbeatSeconds {heartbeat} a dead worker is not found within 30 s: it may have beaten "
            "just before it died."
        )
    seen = metrics.summary(simulate(tried))
    if lost := seen["timed_out"]:
        raise Wrong(
            f"{lost:,} of 2,000 healthy tasks are given up: the messages wait longer than {heartbeat} s for "
            "a first beat. Let fewer wait at once, or be silent for longer. Workers here beat three times in "
            "a period, the first time a third of it after they began."
        )
    best = 2_000 * 8 / 100
    if seen["makespan"] > 1.05 * best:
        raise Wrong(
            f"The run takes {seen['makespan']:.0f} s in place of {best:.0f} s: {tried.map_concurrency} "
            "children at once do not keep 100 workers busy. Some must wait for each worker that gets free."
        )
    return (
        f"Simulated: none of 2,000 tasks is lost, the run takes {seen['makespan']:.0f} s of {best:.0f} s at "
        f"best, and a dead worker is found within {heartbeat} s. MaxConcurrency bounds the longest wait, and "
        "so allows a short heartbeat."
    )


def _careful(answer: Any, task_seconds: float, silent: str) -> str:
    columns = {"item", "waiting", "service", "late", "outcome"}
    if not isinstance(answer, pd.DataFrame) or not columns <= {*answer}:
        raise Wrong(f"{told(answer)} is not what burst(period, careful) returns: give that table.")
    lost = answer["outcome"] == silent
    if not lost.any():
        raise Wrong("No task was given up in this burst: show it with the short heartbeat, burst(period, …).")
    if answer["late"].any():
        raise Wrong(
            f"{int(answer['late'].sum())} of the {len(answer)} tasks: done for nobody, answered too late. "
            "Ask before the work begins; a refused heartbeat says that nobody waits."
        )
    if answer.loc[lost, "service"].max() >= task_seconds:
        raise Wrong(
            f"A worker was busy for {answer.loc[lost, 'service'].max():.1f} s with a task that had been "
            "given up. It should throw the message away as soon as its heartbeat is refused."
        )
    if answer.loc[~lost, "service"].min() < task_seconds:
        raise Wrong("An answered task took less than a task takes: was its work left out, too?")
    return (
        f"{int(lost.sum())} tasks were given up before they were begun, and none was done for nobody: one "
        "heartbeat before the work is enough to ask. The tasks are lost all the same; that is for the "
        "heartbeat's length, or the Map's MaxConcurrency, to mend."
    )


EXERCISES = {
    "03.1": Exercise(
        "In which state does the execution end that is told SendTaskFailure with the error NoSpace?",
        "the state's Catch: which errors it names, and which of them matches all others",
        Choice(
            "Failed",
            "Only BadItem has a way of its own among the errors that a worker sends. Any other is caught by "
            "States.ALL, which stands last, and leads to Failed.",
            {
                "Rejected": "Rejected is where the error BadItem leads, caught by its name. NoSpace is no "
                "such name.",
                "Answered": "SendTaskFailure is an answer, too, but an error: only SendTaskSuccess leads to "
                "Answered.",
                "LostToken": "LostToken is for a task whose time is over (States.Timeout). This one was told "
                "something.",
                "LostHeartbeat": "LostHeartbeat is for silence. This worker spoke.",
                "DeadLettered": "DeadLettered is the name of an error that whoever empties the dead-letter "
                "queue sends. NoSpace comes from the worker.",
            },
        ),
    ),
    "03.2": Exercise(
        "How long may the last message wait, if all are sent at once, and with MaxConcurrency 300?",
        "the end of The clock runs in the queue: a burst of n tasks with C workers",
        Parts(
            all_at_once=Number(
                792,
                "seconds",
                "A hundred rounds of 8 s, and in the last one it is served: 99 x 8 s of waiting.",
                {
                    800: "800 s is until all are done. The last task waits for the 99 rounds before its own.",
                    80_000: "That is one worker. A hundred share the work.",
                    79_992: "That is one worker. A hundred share the work.",
                    99: "99 is the number of rounds before the last one. How long is each?",
                    100: "100 is the number of rounds. How long is each, and how many are before the last?",
                },
                tolerance=0.001,
            ),
            held_back=Number(
                16,
                "seconds",
                "Of 300 at once 100 are served, so at most two rounds are before it: 16 s. A dead worker is "
                "found much sooner, and the same 100 workers are as busy.",
                {
                    24: "24 s is until the 300 are done. A message waits for the rounds before its own.",
                    2: "2 is the number of rounds before it. How long is each?",
                    792: "With MaxConcurrency 300, only 300 messages are there at once: the others have not "
                    "been sent, and no clock runs for them.",
                },
                tolerance=0.001,
            ),
        ),
    ),
    "03.3": Exercise(
        "What is the shortest whole HeartbeatSeconds with which all tasks of the burst had been answered?",
        "the table long, column waiting: this worker beats as soon as it has a message",
        _shortest,
    ),
    "03.4": Exercise(
        "Which MaxConcurrency and HeartbeatSeconds find a dead worker within 30 s and lose no healthy task?",
        "exercise 2, and at Why in The clock runs in the queue",
        _held_back,
    ),
    "03.5": Exercise(
        "How does a worker avoid tasks that nobody waits for any more?",
        "what the stuck worker learned from its next heartbeat, under Two clocks",
        _careful,
    ),
}
