"""What failure drills do to a deployed workflow: break its code or its definition, wait, count what is left.

Nothing here is needed to run experiments: the breaking is done with the same calls that an operator has.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pandas as pd

from helpers import live
from helpers.errors import StackError
from helpers.fleet import Fleet
from helpers.stack import Stack, template

__all__ = ["attempts", "both", "logged", "outcome", "recode", "redefine", "redrive", "until"]

PATIENCE_SECONDS = 120
"""How long something that must happen may take."""
UPDATE_SECONDS = 300
"""How long new code may take until it is what a function runs."""

A = TypeVar("A")
B = TypeVar("B")


def both(broken: Callable[[], A], repaired: Callable[[], B]) -> tuple[A, B]:
    """Run both at the same time and return what each returned; what one raises is raised at the end."""
    with ThreadPoolExecutor(2) as pool:
        sides = pool.submit(broken), pool.submit(repaired)
        return sides[0].result(), sides[1].result()


def until(happened: Callable[[], A], what: str, seconds: float = PATIENCE_SECONDS) -> A:
    """What `happened` returns, as soon as that is true or something; it is asked ten times a second.

    what: what is waited for, in words. Raises StackError when it has not happened after so many seconds.
    """
    give_up = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > give_up:
            raise StackError(f"{what}: not within {seconds:g} s; see the functions' logs and the queues")
        time.sleep(0.1)
    return found


def outcome(deployed: Stack, arn: str) -> dict[str, Any]:
    """The output of an execution of `task_token`, once it has ended; of one that failed, {}.

    Its `outcome` is the name of the state that ended it, as infra/task_token/README.md lists them.
    """
    output: dict[str, Any] = json.loads(live.wait(deployed, arn, progress=False).get("output", "{}"))
    return output


def attempts(deployed: Stack, count: int, lost: int = 0, fleet: Fleet | None = None) -> pd.DataFrame:
    """The attempts of the stack's workers, one row each, in the order in which they started.

    Columns item, attempt (ApproximateReceiveCount), worker, enqueued, start, end (epoch s; NaN where nobody
    saw it), outcome: succeeded, failed, late (the answer was refused), lost (killed in the middle). Waits
    until there are `count`, of which `lost` never end, or the engine's `log_seconds` are over.
    """

    def complete(found: live.Attempts) -> bool:
        return len(found) >= count and sum(one["outcome"] != "lost" for one in found.values()) >= count - lost

    every = deployed.engine.clock_seconds  # all since the epoch: the stack is younger
    found = live.attempts_since(deployed, every, complete, fleet)
    columns = ["item", "attempt", "worker", "enqueued", "start", "end", "outcome"]
    return pd.DataFrame(found.values(), columns=columns).sort_values(["start", "item"], ignore_index=True)


def logged(deployed: Stack, group: str) -> list[dict[str, Any]]:
    """The lines of JSON in a log group (the output that names it), in their order."""
    lines = live.log_lines(deployed, deployed.outputs[group], 0)
    return [json.loads(line) for line in lines if line.startswith("{")]


def redefine(
    deployed: Stack,
    change: Callable[[dict[str, Any]], object],
    state: str = "WaitForAnswer",
    machine: str = "StateMachineArn",
) -> None:
    """Update a deployed state machine with one of its states changed in place by `change`.

    machine: the output that names it. Waits until new executions have the new definition (`settle_seconds`).
    """
    step_functions, arn = deployed.engine.client("stepfunctions"), deployed.outputs[machine]
    definition = json.loads(step_functions.describe_state_machine(stateMachineArn=arn)["definition"])
    change(definition["States"][state])
    step_functions.update_state_machine(stateMachineArn=arn, definition=json.dumps(definition))
    time.sleep(deployed.engine.settle_seconds)


def recode(deployed: Stack, changes: Mapping[str, str], output: str = "WorkerFunction") -> None:
    """Give a function (the output that names it) the template's code with these texts replaced.

    changes: what stands there, and what shall; none of them is the template's code again, as it is. Waits
    until the new code is what runs. Raises StackError for a text that does not stand there exactly once.
    """
    resources = template(deployed.workflow)["Resources"]
    code = str(resources[output.removesuffix("Function")]["Properties"]["Code"]["ZipFile"])
    for old, new in changes.items():
        if (times := code.count(old)) != 1:
            raise StackError(f"{old!r}: is {times} times in the code of {output}; give a text that is once")
        code = code.replace(old, new)
    functions, name = deployed.engine.client("lambda"), deployed.outputs[output]
    functions.update_function_code(FunctionName=name, ZipFile=_packed(code))
    seconds = deployed.engine.poll_seconds
    functions.get_waiter("function_updated_v2").wait(
        FunctionName=name,
        WaiterConfig={"Delay": seconds, "MaxAttempts": int(UPDATE_SECONDS / seconds)},
    )


def redrive(deployed: Stack) -> None:
    """Move what is in the dead-letter queue back to the queue that it came from, and wait until it is.

    StartMessageMoveTask; on an engine without it message by message, as one did before there was that call.
    """
    engine, dead = deployed.engine, deployed.outputs["DeadLetterQueueUrl"]
    sqs = engine.client("sqs")
    if engine.shows("sqs.dead_letters_moved_back"):
        attributes = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
        sqs.start_message_move_task(SourceArn=attributes["QueueArn"])
    else:
        while messages := sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                sqs.send_message(QueueUrl=deployed.outputs["QueueUrl"], MessageBody=message["Body"])
                sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])
    until(lambda: not live.depth(deployed, "DeadLetterQueueUrl"), "the dead-letter queue is empty")


def _packed(code: str) -> bytes:
    """A deployment package that holds this code as index.py."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as files:
        entry = zipfile.ZipInfo("index.py")
        entry.external_attr = 0o644 << 16  # Lambda's own user must be able to read it
        files.writestr(entry, code)
    return package.getvalue()
