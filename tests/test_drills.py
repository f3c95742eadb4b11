"""Laws of what drills do to a deployed workflow, and the same workflow on the embedded engine."""

import json
import threading

import pytest

from helpers import stack
from helpers.drills import attempts, both, logged, outcome, recode, redefine, redrive, until
from helpers.errors import StackError
from helpers.live import depth

SLEEP = '    time.sleep(item["task_seconds"])\n'
"""A line that is once in the worker's code."""


def test_both_sides_run_at_the_same_time():
    """Each side can wait for the other; their results come in the order in which the sides were given."""
    meeting = threading.Barrier(2, timeout=60)
    arrived = both(lambda: (meeting.wait() >= 0, "broken"), lambda: (meeting.wait() >= 0, "repaired"))
    assert arrived == ((True, "broken"), (True, "repaired"))


def test_what_a_side_raises_is_raised_after_the_other_has_ended():
    """A failed assertion of one side is the cell's, and leaves no side running."""
    ended = []
    with pytest.raises(ZeroDivisionError):
        both(lambda: 1 / 0, lambda: ended.append("repaired"))
    assert ended == ["repaired"]


def test_until_returns_what_happened():
    """It asks again until there is something, and that is what it returns."""
    answers = iter([[], 0, "now"])
    assert until(lambda: next(answers), "an answer") == "now"


def test_until_gives_up_and_says_on_what():
    """What does not happen is named, with the time that it had."""
    with pytest.raises(StackError, match=r"the flood: not within 0 s"):
        until(lambda: False, "the flood", seconds=0)


@pytest.mark.parametrize("text", ["no such line", "import"])
def test_a_text_that_is_not_once_in_the_code_is_refused(engine, text):
    """A drill that would break nothing, or more than it says, is refused before anything is changed."""
    undeployed = stack.Stack(engine, "task_token", "concurrency-lab-none", {}, {})
    with pytest.raises(StackError, match=rf"'{text}': is \d+ times in the code of WorkerFunction"):
        recode(undeployed, {text: "pass"})


@pytest.fixture(scope="module")
def deployed(engine):
    """A workflow whose messages are given up at the first failure."""
    values = {"MaxReceiveCount": 1, "RedeliverySeconds": 0, "MaximumConcurrency": 2}
    with stack.deploy(engine, "task_token", values) as one:
        yield one


def test_a_workers_bug_is_broken_in_and_repaired(deployed):
    """Recoded, the worker fails the item; its letter, moved back to the repaired one, is answered.

    The execution waits all the while, and its message is all that moves."""
    recode(deployed, {SLEEP: SLEEP + "    raise ArithmeticError\n"})
    arn = deployed.start({"item": {"item": 5, "task_seconds": 0}})
    until(lambda: depth(deployed, "DeadLetterQueueUrl"), "the dead letter")
    assert depth(deployed, "QueueUrl") == 0
    recode(deployed, {})
    redrive(deployed)
    assert tuple(outcome(deployed, arn)[key] for key in ("outcome", "item")) == ("answered", 5)
    tried = attempts(deployed, 2)
    assert tried["outcome"].tolist() == ["failed", "succeeded"]
    assert (tried["start"] <= tried["end"]).all()
    assert tried["item"].tolist() == [5, 5]
    errors = [
        line["redelivery"]["error"] for line in logged(deployed, "WorkerLogGroup") if "redelivery" in line
    ]
    assert errors == ["ArithmeticError()"]


def test_a_redefined_state_is_changed_alone(engine, deployed):
    """The state has its change, every other state is what it was."""
    machine = deployed.outputs["StateMachineArn"]

    def states():
        described = engine.client("stepfunctions").describe_state_machine(stateMachineArn=machine)
        return json.loads(described["definition"])["States"]

    before = states()
    redefine(deployed, lambda state: state.pop("HeartbeatSecondsPath"))
    after = states()
    before["WaitForAnswer"].pop("HeartbeatSecondsPath")
    assert before == after


def test_an_attempt_that_was_killed_is_lost(engine):
    """A worker that its function's timeout ends has started, and nobody saw its end."""
    values = {"FunctionTimeout": 1, "VisibilityTimeout": 1, "MaxReceiveCount": 1}
    with pytest.warns(UserWarning, match="VisibilityTimeout=1"):
        short = stack.deploy(engine, "task_token", values)
    with short:
        short.start({"item": {"item": 0, "task_seconds": 30}})
        until(lambda: depth(short, "DeadLetterQueueUrl"), "the dead letter")
        (tried,) = attempts(short, 1, lost=1).to_dict("records")
    assert (tried["outcome"], tried["end"] != tried["end"]) == ("lost", True)
