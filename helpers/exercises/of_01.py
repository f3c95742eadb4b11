"""The exercises of 01 SQS limits concurrency."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers.exercises.judging import Choice, Exercise, Number, Parts, Wrong, experiment_for, number_in, told

CONNECTIONS = 30
NEEDED = (10 * 0.3, 40 * 0.2, 50 * 0.1)
"""Busy workers of each queue, on average: messages a second times seconds of each, by Little's law."""


def _timeouts(answer: Any) -> str:
    given = experiment_for(answer, items=100, siphon_share=1.0, limited_seconds=5.0, batch_size=10)
    if advice := given.advice():
        raise Wrong(f"AWS would still have something to say: {advice[0]}")
    if given.function_timeout_seconds <= 50:
        raise Wrong(
            "Ten messages of 5 s, one after another, take 50 s and a little: a function timeout of "
            f"{given.function_timeout_seconds} s ends the invocation before its last message is done."
        )
    return (
        "A batch takes ten times 5 s, so the function needs more than 50 s, and the visibility timeout six "
        "times what the function has: whoever changes one of the three changes all."
    )


def _shared(answer: Any) -> str:
    if isinstance(answer, str) or not isinstance(answer, Sequence | np.ndarray) or len(answer) != 3:
        raise Wrong(f"{told(answer)} is not a list of three limits: give one for each queue, in their order.")
    chosen = [number_in(limit, "workers") for limit in answer]
    for limit, need in zip(chosen, NEEDED, strict=True):
        if limit != int(limit):
            raise Wrong(f"{limit:g} is not a whole number of workers.")
        if limit < 2:
            raise Wrong(f"AWS refuses a MaximumConcurrency of {limit:g}: the least is 2.")
        if limit <= need:
            raise Wrong(
                f"A queue that needs {need:g} busy workers on average gets {limit:g}: it falls behind, for "
                "with no place left over every delay stays. Rate times service time is what it needs."
            )
    if sum(chosen) > CONNECTIONS:
        raise Wrong(
            f"Each limit is safe alone, but together they are {sum(chosen):g} workers on {CONNECTIONS} "
            "connections: the database sees their sum."
        )
    return (
        "Each queue has more places than it needs on average (3, 8 and 5), so none falls behind, and their "
        "sum fits the database, so a burst in one of them takes nothing from the others."
    )


EXERCISES = {
    "01.1": Exercise(
        "Where are the messages of a burst that MaximumConcurrency does not yet let through?",
        "the grey area of the first figure, and what AWS documents of reserved concurrency",
        Choice(
            "queue",
            "They stay in the queue, where nobody has received them: no receive count rises, and waiting "
            "costs nothing. That is what makes it the right limiter.",
            {
                "function": "A function has no waiting room for a mapping's messages: what it cannot run, it "
                "refuses. That is reserved concurrency, the wrong limiter.",
                "poller": "A limited mapping does not take messages that it may not hand over. Pollers do so "
                "where the function refuses: reserved concurrency, the wrong limiter.",
                "dead-letter queue": "There lies what was delivered too often. A message that waits has not "
                "been delivered once.",
            },
        ),
    ),
    "01.2": Exercise(
        "How long does the burst take at least, and which limit just keeps up?",
        "N / T in section Why of the formula, and at Little's law, which is the same read backwards",
        Parts(
            at_least=Number(
                80,
                "seconds",
                "10,000 x 0.4 s are 4,000 s of calls, 50 at once: 80 s.",
                {
                    4000: "4,000 s is the work, one call after another. Fifty go at once.",
                    200: "200 is how many calls each of the 50 places gets. How long is each call?",
                    125: "125 is the throughput, N / T, in messages a second. How long do 10,000 take at it?",
                    0.4: "0.4 s is one call: as if all 10,000 went at once.",
                },
            ),
            keeps_up=Number(
                48,
                "workers",
                "120 a second, 0.4 s each, keep 48 workers busy: L = λW.",
                {
                    300: "300 divides the rate by the time. Longer calls need more workers: multiply.",
                    120: "120 workers would be busy if each message took one second.",
                    50: "50 is what the API takes. It keeps up, with two to spare: what is the least?",
                },
                tolerance=0,
            ),
        ),
    ),
    "01.3": Exercise(
        "After how many seconds is a message that always crashes its worker in the dead-letter queue?",
        "section How long is it hidden, and at the defaults in stack.template('sqs_limited')['Parameters']",
        Parts(
            here=Number(
                900,
                "seconds",
                "Five deliveries, after each of which it is hidden for 180 s: 900 s.",
                {
                    180: "180 s is one delivery. It gets five before it is given up.",
                    720: "720 s are the four gaps between five deliveries. The fifth hides it, too, and only "
                    "when that is over can it be moved.",
                    150: "That takes the function's timeout. A crash ends the function at once; what hides "
                    "the message is the visibility timeout.",
                    5: "A redelivery after one second is what a worker asks for that noticed its failure. "
                    "One that crashes cannot ask.",
                },
            ),
            plain=Number(
                300,
                "seconds",
                "SQS's own defaults give it up sooner, 10 x 30 s, though they deliver it twice as often.",
                {
                    30: "30 s is one delivery of ten.",
                    270: "270 s are the nine gaps between ten deliveries. The tenth hides it, too.",
                    1800: "Ten deliveries is right; the visibility timeout of SQS's own default is 30 s.",
                },
            ),
        ),
    ),
    "01.4": Exercise(
        "How long will a message wait that comes when the backlog is deepest, by Little's law?",
        "the readings of the first burst: messages waiting, peak; and throughput measured",
        Number(
            lambda waiting_most, throughput, service: waiting_most / throughput,
            "seconds",
            "Backlog / throughput: those before it leave at the measured rate, and then it is its turn. It "
            "needs no knowledge of who sent what, or when: two numbers that every queue shows.",
            {
                lambda waiting_most, throughput, service: waiting_most * service: "That is backlog times "
                "service time, as if one worker did all of it. Five share it, and the rate knows that.",
                lambda waiting_most, throughput, service: waiting_most / 5: "Backlog / workers is how many "
                "messages each worker has before it, not how long they take.",
                lambda waiting_most, throughput, service: waiting_most * throughput: "Little's law reads "
                "L = λW. You have L and λ: divide.",
                lambda waiting_most, throughput, service: throughput / waiting_most: "It is the other way "
                "round: the more wait, the longer it takes.",
                lambda waiting_most, throughput, service: waiting_most * service / 5: "That is the formula's "
                "N / T. The measured throughput is lower, as handing over takes time, too: take that one.",
                lambda waiting_most, throughput, service: service: "That is the mean service time. What is "
                "asked for is the time before it: waiting.",
            },
        ),
    ),
    "01.5": Exercise(
        "Which timeouts suit batches of ten messages of 5 s?",
        "Experiment(…).advice(), and at AWS's two rules on the visibility timeout",
        _timeouts,
    ),
    "01.6": Exercise(
        "Which three limits keep every queue up and the database safe?",
        "Little's law: how many workers each queue keeps busy on average",
        _shared,
    ),
}
