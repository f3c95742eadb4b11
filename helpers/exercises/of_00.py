"""The exercises of 00 Start here."""

from typing import Any

from helpers import metrics
from helpers.exercises.judging import Choice, Exercise, Number, Parts, Wrong, experiment_for


def _fewest(answer: Any) -> str:
    given = experiment_for(answer, items=600, siphon_share=1.0, limited_seconds=0.5)
    seconds = metrics.ideal_makespan(given)
    if seconds > 20:
        raise Wrong(
            f"With {given.worker_concurrency} workers it takes {seconds:.1f} s at least, "
            f"{seconds - 20:.1f} s too long. The work is 600 x 0.5 s: how much of it has each time for?"
        )
    if given.worker_concurrency > 15:
        raise Wrong(
            f"{given.worker_concurrency} workers are done after {seconds:.1f} s, which is sooner than asked: "
            f"{given.worker_concurrency - 15} of them can be spared."
        )
    return "600 x 0.5 s are 300 s of work, and in 20 s each worker does 20 of them: 15 workers, not one less."


EXERCISES = {
    "00.1": Exercise(
        "How long did the message wait, and how long was it served?",
        "the four moments of the one message",
        Parts(
            waiting=Number(
                2.5,
                "seconds",
                "It was there at 1.0 s and its task began at 3.5 s: it waited 2.5 s.",
                {
                    0.5: "0.5 s is the service time: the task itself. Waiting ends when the task begins.",
                    3.0: "3 s is the sojourn time, from arrival to return: waiting and service together.",
                    3.5: "3.5 s is the moment at which the task begins. A waiting time is the time between "
                    "two moments, so it needs the moment of sending, too.",
                },
            ),
            service=Number(
                0.5,
                "seconds",
                "Its task lasted from 3.5 s to 4.0 s: 0.5 s of service.",
                {
                    2.5: "2.5 s is the waiting time: service starts only when a worker begins the task.",
                    3.0: "3 s is the sojourn time, from arrival to return: waiting and service together.",
                    4.0: "4 s is the moment at which the task ends, not how long it took.",
                },
            ),
        ),
    ),
    "00.2": Exercise(
        "How long do ten messages of 0.2 s take with two workers, at least?",
        "metrics.ideal_makespan, which takes an Experiment like the one above, of one message",
        Number(
            1.0,
            "seconds",
            "Ten times 0.2 s are 2 s of work, and two workers share it: no schedule is shorter than 1 s.",
            {
                2.0: "2 s is the work of all ten, as if one worker did it alone. Two share it.",
                0.2: "0.2 s would need ten workers, all at once. There are two, so the others wait.",
                0.1: "0.1 s divides one message between two workers. A message is one worker's, and there "
                "are ten of them.",
                5.0: "5 is the number of messages for each worker. How long does each of them take?",
                20.0: "Two workers share the work; 20 s is more than one alone would need for all of it.",
            },
        ),
    ),
    "00.3": Exercise(
        "When is a MaximumConcurrency of 1 refused?",
        "what the refusal says, and whether a stack is left behind by it",
        Choice(
            "before",
            "It was refused before anything was created: what AWS would refuse is looked up in the "
            "template's own bounds, so a mistake leaves nothing behind, and costs nothing.",
            {
                "after": "Look for a stack that the refused call has left: stack.deployed(lab) names them "
                "all. What is refused after it was created has to be removed again.",
                "never": "It is refused: AWS takes a MaximumConcurrency from 2 to 1000. Did you call "
                "stack.deploy with it, and catch the error?",
            },
        ),
    ),
    "00.4": Exercise(
        "Which Experiment does 600 messages of 0.5 s in 20 s at best, with the fewest workers?",
        "exercise 2, turned round: there the workers were given, here the time",
        _fewest,
    ),
}
