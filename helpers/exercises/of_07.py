"""The exercises of 07 Failure drills."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from helpers.exercises.judging import Choice, Exercise, Number, Parts, Wrong, number_in, told
from helpers.stack import INPUT_LIMIT_BYTES


def _most(bytes_of_one: float) -> float:
    """With a comma between two results and the brackets around them."""
    return float((INPUT_LIMIT_BYTES - 1) // (bytes_of_one + 1))


def _finds_problems(answer: Any) -> str:
    if not callable(answer):
        raise Wrong(f"{told(answer)} is no function: write problems(answer, records), and give it.")
    records = [{"messageId": "a"}, {"messageId": "b"}]
    cases: tuple[tuple[Any, int, str], ...] = (
        ({"batchItemFailures": []}, 0, "an empty list says that all are done"),
        ({"batchItemFailures": [{"itemIdentifier": "b"}]}, 0, "it names one message of the batch"),
        (
            {"BatchItemFailures": [{"itemIdentifier": "b"}]},
            1,
            "its key is misspelt, and Lambda reads success",
        ),
        (
            {"batchItemFailures": [{"itemIdentifier": ""}, {"messageId": "b"}]},
            2,
            "one identifier is empty, and the other has the wrong key",
        ),
        ({"batchItemFailures": [{"itemIdentifier": "c"}]}, 1, "no message of the batch has that identifier"),
        (None, 1, "no answer says that all are done, which a handler should say on purpose"),
    )
    for given, wanted, why in cases:
        found = answer(given, records)
        if not isinstance(found, list):
            raise Wrong(f"problems({given!r}, …) gives {told(found)}: give a list of sentences.")
        if len(found) != wanted:
            raise Wrong(
                f"problems({given!r}, …) finds {len(found)} problems, and there should be {wanted}: {why}."
            )
    return (
        "It lets good answers through, and names the misspelt key, which Lambda takes for success, and the "
        "wrong identifiers, for which it does the whole batch again."
    )


def _without_storm(answer: Any, places: int) -> str:
    limit = number_in(answer, "iterations")
    if limit != int(limit) or limit < 1:
        raise Wrong(
            f"{limit:g} is no such MaxConcurrency: give a whole number from 1 on. 0 would be no limit of "
            "your own, which is how the storm came about."
        )
    if limit > places:
        raise Wrong(
            f"{limit:g} at once for {places} places: {limit - places:g} calls are throttled at the very "
            "start."
        )
    if limit < places / 4:
        raise Wrong(
            f"With {limit:g} at once nothing is throttled, and {places - limit:g} of {places} places stand "
            "empty: the run is slower than the storm was."
        )
    return (
        f"{limit:g} at once find a place each time among {places}, so no call is refused, and no retry "
        "waits. Fewer than the places leaves room for the moment in which one call ends and the next begins."
    )


def _three_alarms(answer: Any, sees: Mapping[str, set[int]]) -> str:
    if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
        raise Wrong(f"{told(answer)} is no list of alarms: give three names from sees.")
    chosen = list(answer)
    if unknown := [name for name in chosen if not isinstance(name, str) or name not in sees]:
        raise Wrong(f"{told(unknown[0])} is no name in sees.")
    if len(set(chosen)) != 3:
        raise Wrong(f"These are {len(set(chosen))} alarms: you may have three.")
    seen = set[int]().union(*(sees[name] for name in chosen))
    most = max(len(set[int]().union(*map(sees.__getitem__, three))) for three in combinations(sees, 3))
    if len(seen) < most:
        told_of = ", ".join(map(str, sorted(seen)))
        raise Wrong(
            f"Together they see {len(seen)} faults ({told_of}), and three can see {most}. Faults that two of "
            "yours see count once: choose what the others miss."
        )
    unseen = ", ".join(map(str, sorted(set(range(1, 12)) - seen)))
    return (
        f"Together they see {most} of the eleven, as many as three can. Unseen are {unseen}: these need "
        "clocks, counts and tests of your own."
    )


EXERCISES = {
    "07.1": Exercise(
        "Which of the drills 7 to 11 lost work with no failed execution, no error and no dead letter?",
        "the table at the end, second and third column",
        Choice(
            7,
            "It was even a success: Lambda deleted the messages, since the misspelt answer named none that "
            "failed.",
            {
                8: "One bad item failed its Map Run, and the execution with it: ExecutionsFailed sees that.",
                9: "Too much output ends in States.DataLimitExceeded, a failed execution, after all the "
                "work.",
                10: "A stop is seen as ExecutionsAborted, and somebody meant it; work was done, for nobody.",
                11: "A retry storm is seen as throttles, and in the end all items were done.",
            },
        ),
    ),
    "07.2": Exercise(
        "What is wrong with a handler's answer to a batch?",
        "drill 7: the key that Lambda reads, and what an identifier has to be",
        _finds_problems,
    ),
    "07.3": Exercise(
        "With how many items would the Map without ResultWriter just have succeeded?",
        "drill 9, and at stack.INPUT_LIMIT_BYTES: an array has a comma between two results and two brackets",
        Number(
            _most,
            "items",
            "So many results with their commas and brackets fit into 256 KiB, one more does not: the test "
            "with ten passed, the run with twenty could not.",
            {
                lambda one: _most(one) + 1: "With that one more the array is longer than 256 KiB.",
                20: "20 is the run that failed.",
                10: "10 passed, and there was room left. How many fit?",
                256: "256 is the limit in KiB. How many results fit into it?",
            },
            tolerance=0,
        ),
    ),
    "07.4": Exercise(
        "For how many seconds do the workers go on for nobody after the stop?",
        "drill 10: what a stop leaves in the queue, and who goes on with it",
        Parts(
            all_sent=Number(
                2_700,
                "seconds",
                "9,000 messages of 30 s are left to 100 workers: 2,700 s.",
                {
                    3_000: "That is the whole run. 1,000 tasks were answered before the stop.",
                    270_000: "That is one worker. A hundred share what is left.",
                    9_000: "9,000 is how many messages are left. How long do 100 workers need for them?",
                    30: "Only the tasks that are under way would end within 30 s. Who tells the queue?",
                    0: "The stop ends the execution. The queue and the workers know nothing of it.",
                },
            ),
            held_back=Number(
                90,
                "seconds",
                "A message is there for each child that waits, and no more: 300 x 30 s / 100. MaxConcurrency "
                "bounds what a stop leaves.",
                {
                    2_700: "With MaxConcurrency 300 only 300 messages have been sent that are not answered.",
                    60: "That leaves out the 100 that are under way: their work is for nobody, too.",
                    3: "3 is how many each worker has. How long does each take?",
                    9_000: "That is one worker. A hundred share what is left.",
                    30: "That is one round. 300 messages for 100 workers are three.",
                    0: "What was sent before the stop is still in the queue.",
                },
            ),
        ),
    ),
    "07.5": Exercise(
        "Which MaxConcurrency makes the retries of drill 11 unnecessary?",
        "drill 11: how many places there are, and how many calls come at once",
        _without_storm,
    ),
    "07.6": Exercise(
        "Which three alarms see as many of the eleven faults as three can?",
        "sees: a fault that two alarms see counts once",
        _three_alarms,
    ),
}
