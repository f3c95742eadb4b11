"""The exercises of 02 Distributed Map."""

from typing import Any

import pandas as pd

from helpers.exercises.judging import Exercise, Number, Wrong, number_in, told

EVENTS_LIMIT = 25_000
INLINE_LIMIT = 40


def _held_back(answer: Any, items: pd.DataFrame) -> str:
    given = number_in(answer, "an item")
    own = items.set_index("item")
    ends = own["returned"]
    if given not in own.index:
        raise Wrong(f"{told(answer)} is no item of this run: they are numbered 0 to {own.index.max()}.")
    last = ends.idxmax()
    if given == last:
        seconds = (own["service_end"] - own["service_start"])[last]
        return (
            f"Item {last} came back last, at {ends[last]:.2f} s, after {seconds:.2f} s of service: until "
            "then its place was the one that was not filled, and nobody had the array."
        )
    at = f"It was back at {ends[given]:.2f} s, and others came later."
    if given == own.index.max():
        raise Wrong(f"Item {given:g} is the last of the list, not the last to come back. {at}")
    if given == (own["service_end"] - own["service_start"]).idxmax():
        raise Wrong(f"Item {given:g} took longest, but it was started early enough. {at}")
    raise Wrong(f"The answer is held back by the item that is missing longest. {at}")


def _chooses(answer: Any, per_iteration: int) -> str:
    if not callable(answer):
        raise Wrong(
            f"{told(answer)} is no function: write choose(items, at_once, result_bytes), and give it."
        )
    half = EVENTS_LIMIT // 2
    cases = (
        (100, 10, 300, "inline", "all of it fits, so the plain Map will do"),
        (100, INLINE_LIMIT, 300, "inline", "40 at once is what an inline Map still does"),
        (100, INLINE_LIMIT + 1, 300, "distributed", "an inline Map runs 40 at once and no more"),
        (half // per_iteration, 10, 20, "inline", f"with {per_iteration} events each that is half a history"),
        (half // per_iteration + 1, 10, 20, "distributed", "its events are more than half of 25,000"),
        (100, 10, 2_000, "distributed", "its results are more than half of 256 KiB"),
    )
    for items, at_once, result_bytes, kind, why in cases:
        if (chosen := answer(items, at_once, result_bytes)) != kind:
            raise Wrong(
                f"choose({items}, {at_once}, {result_bytes}) gives {told(chosen)}; it should be {kind!r}, "
                f"for {why}."
            )
    return (
        "Three limits decide: 40 at once, 25,000 events, 256 KiB. The margin is for what you add later: a "
        "state more is two to five events more for each item."
    )


EXERCISES = {
    "02.1": Exercise(
        "How many of 200 items run at once in an inline Map with MaxConcurrency 0?",
        "the table of peaks under MaxConcurrency",
        Number(
            INLINE_LIMIT,
            "items",
            "0 is no limit of your own. The service's own is left: 40 iterations of an inline Map.",
            {
                0: "0 is the setting, not what runs: with none at once nothing would ever be done.",
                1: "One after another is what a workshop says of 0, and it is wrong: that is "
                "MaxConcurrency 1.",
                200: "All of them would be right for a Distributed Map. An inline one has a limit of its "
                "own.",
                10_000: "10,000 children is the limit of a Distributed Map, and there are 200 items.",
                1_000: "1,000 is Lambda's limit for an account. The Map's own is lower.",
            },
            tolerance=0,
        ),
    ),
    "02.2": Exercise(
        "From which MaxConcurrency on does more not help, with 10,000 items of 2 s?",
        "the dispatch rate, and Little's law: the children at once are rate x time",
        Number(
            200,
            "children",
            "100 children start each second and each stays for 2 s: 200 are at work, whatever you allow.",
            {
                100: "100 is how many start each second. Each of them is there for 2 s.",
                50: "That divides the rate by the time. Children that stay longer are more at once: "
                "multiply.",
                10_000: "10,000 are allowed, and never reached: the first is done before the 201st starts.",
                2_000: "1,000 a second is the rate of Express children. These are Standard.",
                40: "40 is the limit of an inline Map.",
                5_000: "That is items / seconds. What counts is how many start in the time that one takes.",
            },
            tolerance=0,
        ),
    ),
    "02.3": Exercise(
        "Which whole ToleratedFailurePercentage lets 12 of 500 items fail?",
        "A bad item: 10 % of 20 was tolerated since it is not more than 10 %",
        Number(
            3,
            "%",
            "3 % of 500 are 15: the least whole percentage that lets 12 pass, and it lets 13, 14 and 15 "
            "pass, too. None is so exact; ToleratedFailureCount is.",
            {
                2: "2 % of 500 are 10, so the run fails at the eleventh, and 12 were to be tolerated.",
                2.4: "2.4 % is 12 of 500 exactly, and not whole. Which whole one lets 12 pass?",
                0.024: "That is the share; a percentage is a hundred times that, and this one is to be "
                "whole.",
                12: "12 is the count, for ToleratedFailureCount. As a percentage it would let 60 fail.",
                97: "This is the share that has to succeed. The setting is the share that may fail.",
                98: "This is the share that has to succeed. The setting is the share that may fail.",
                4: "4 % of 500 are 20. A smaller one lets 12 pass as well.",
            },
            tolerance=0,
        ),
    ),
    "02.4": Exercise(
        "Which item held back the answer of the distributed run with MaxConcurrency 10?",
        "traces['distributed', 10].items, column returned, and at Why a Map's answer waits",
        _held_back,
    ),
    "02.5": Exercise(
        "Which kind of Map suits so many items, so many at once, with results of that size?",
        "the three limits in section Inline or distributed",
        _chooses,
    ),
}
