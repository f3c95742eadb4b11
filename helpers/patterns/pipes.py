"""A pipe from a FIFO queue to a function: one message of each group at a time, so that groups are the limit.

A pipe has no MaximumConcurrency. From a standard queue it goes up to 1,000 batches at once, and a function's
reserved concurrency would refuse what it has already read; of a FIFO queue it processes one batch of a group
at a time. The sender deals the items to as many groups as may be worked on at once. Each group is a line of
its own: who is behind a long item waits for it, however free the others are. The results are counted in a
table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from helpers import stack
from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.patterns import counter
from helpers.patterns.pattern import Pattern
from helpers.trace import Trace


def run(engine: Engine, experiment: Experiment) -> Trace:
    """Deploy `pipes`, send the items in worker_concurrency groups, wait until they are counted, destroy it.

    The trace's experiment is one of Lambda's workers, a message each. Raises as `counter.run` does.
    """
    experiment = replace(experiment, siphon_share=1, consumer="lambda", batch_size=1, batch_window_seconds=0)
    counter.spend(engine, PATTERN.title, experiment, usage(experiment))
    with stack.deploy(engine, "pipes", stack.parameters(experiment, "pipes")) as deployed:
        return counter.count(deployed, experiment, groups(experiment.worker_concurrency))


def groups(number: int) -> Callable[[dict[str, Any]], dict[str, str]]:
    """What a message has beside its body, dealt to so many groups: its group, and its own name."""

    def fields(item: dict[str, Any]) -> dict[str, str]:
        group, name = item["item"] % number, item["item"]
        return {"MessageGroupId": str(group), "MessageDeduplicationId": str(name)}

    return fields


def usage(experiment: Experiment) -> dict[str, float]:
    """What the counter uses, of a FIFO queue, and a request of the pipe for each delivery."""
    used = counter.usage(replace(experiment, batch_size=1))
    fifo = used.pop("sqs_request")
    return used | {"sqs_fifo_request": fifo, "pipe_request": used["lambda_request"]}


PATTERN = Pattern(
    "pipes",
    "EventBridge Pipes and FIFO groups",
    "pipes",
    run,
    usage,
    needs=(
        "eventbridge.pipe_from_queue_to_function",
        "eventbridge.pipe_takes_one_of_a_group",
        "dynamodb.transaction_counts_once",
    ),
)
