"""The exercises of 08 Which pattern when."""

from helpers.exercises.judging import Choice, Exercise, Number, Parts

EXERCISES = {
    "08.1": Exercise(
        "By which pattern do all other items lose their results when one fails at every attempt?",
        "When something breaks, the column of what is lost",
        Choice(
            "inline_map",
            "A failed iteration fails the Map, and with it the one execution that would have had the "
            "results; the work was done in vain.",
            {
                "distributed_map": "Each item has an execution of its own there, and with a tolerance a "
                "failed one costs itself alone.",
                "batches": "A bad item takes its batch with it, and no more: the other batches have children "
                "of their own.",
                "callback": "Its child catches the error, or the clock that runs out: the others have their "
                "answers.",
            },
        ),
    ),
    "08.2": Exercise(
        "How long do 10,000 items of one second take at least, in batches of 20, a thousand at once?",
        "how many children that is, how fast they start, and how long each of them works",
        Number(
            20,
            "seconds",
            "500 children start within 5 s, and each works for 20 s, one item after another: no run is "
            "shorter than its longest child. Fewer children start sooner; longer ones end later.",
            {
                5: "That is when the last of 500 children starts, at 100 a second. It then has 20 items "
                "to do.",
                10: "That is work / limit, with a thousand at once. There are only 500 batches, each of "
                "which does its 20 items one after another.",
                100: "That is one child for each item, at 100 a second. Twenty items share one here.",
                500: "That is the number of children.",
            },
        ),
    ),
    "08.3": Exercise(
        "How many items may be at work at once when a Map with MaxConcurrency 10 runs twice?",
        "A Map's own limit, the last sentence of its Why",
        Number(
            20,
            "items",
            "MaxConcurrency is each Map Run's own: two runs are twice the load. A limit that all share has "
            "to be somewhere that all go through, such as a queue's mapping.",
            {
                10: "That would be a limit of the workflow. MaxConcurrency is one of each Map Run.",
                40: "40 is what an inline Map has at most; here each run has its 10.",
            },
            tolerance=0,
        ),
    ),
    "08.4": Exercise(
        "Which pattern for a shared limit with answers, for many cheap items, and for work outside AWS?",
        "the decision table, and the three questions under it",
        Parts(
            shared=Choice(
                "callback",
                "The queue's mapping limits all three teams together, and a token brings each its answer.",
                {
                    "inline_map": "its limit is one execution's: three workflows are three times the load.",
                    "distributed_map": "its limit is one Map Run's: three of them are three times the load.",
                    "batches": "its limit is one Map Run's: three workflows are three times the load.",
                    "counter": "the limit is shared, but nobody gets an answer; a workflow cannot go on.",
                    "pipes": "the groups limit, but nobody gets an answer; a workflow cannot go on.",
                    "semaphore": "it would do, at several times the price, and nobody is served in order: "
                    "with three busy teams most of them wait.",
                    "activity": "it would do, with workers on machines that you would have to run.",
                },
            ),
            cheap=Choice(
                "batches",
                "A transition for each batch in place of three for each item, and work that may be repeated.",
                {
                    "inline_map": "so many items do not fit into the history of one execution.",
                    "distributed_map": "three transitions for 20 ms of work each: nearly all of the bill.",
                    "callback": "four transitions and three requests of SQS for 20 ms of work each.",
                    "activity": "three transitions for each item, and machines.",
                    "semaphore": "the dearest of all, for transitions and writes.",
                    "counter": "cheap as well, but its limit is the queue's, and no run ends by itself.",
                    "pipes": "requests of four kinds for each item, and groups behind their longest.",
                },
            ),
            outside=Choice(
                "activity",
                "A worker anywhere fetches the task over HTTPS and answers with its token, hours later.",
                {
                    "inline_map": "its work is a Lambda function, which ends after 15 minutes.",
                    "distributed_map": "its work is a Lambda function, which ends after 15 minutes.",
                    "batches": "its work is a Lambda function, which ends after 15 minutes.",
                    "callback": "its worker here is a Lambda function, which ends after 15 minutes.",
                    "semaphore": "its work is a Lambda function, which ends after 15 minutes.",
                    "counter": "its worker is a Lambda function, and no workflow waits for it.",
                    "pipes": "its worker is a Lambda function, and no workflow waits for it.",
                },
            ),
        ),
    ),
}
