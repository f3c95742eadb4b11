"""A questionnaire at the end of the course: what is right, what is not, and why, for each choice.

In JupyterLab one clicks and sees at once; on a page, and where nobody clicks, each choice unfolds.
"""

# mypy: allow-untyped-calls
# (IPython's display carries no annotations)

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from helpers.exercises.telling import EXERCISE, UNATTENDED, page, show

__all__ = ["QUESTIONS", "Question", "grade", "questionnaire"]

LETTERS = "abcd"
NAME = "questionnaire"
AWS = "https://docs.aws.amazon.com"


@dataclass(frozen=True)
class Question:
    """asked: the question. choices: (what is chosen, why it is right or not), for the letters a to d.

    right: the letter. source: where it is documented, or was seen.
    """

    asked: str
    choices: tuple[tuple[str, str], ...]
    right: str
    source: str


QUESTIONS = (
    Question(
        "A thousand siphoned items of one second cost about ten cents on AWS. What is nearly all of it?",
        (
            ("Lambda's time", "A thousand seconds with 256 MB come to a third of a cent."),
            ("SQS requests", "Three thousand of them come to about a tenth of a cent."),
            ("messages that wait", "Waiting is free: neither the queue nor a waiting state is paid by time."),
            ("state transitions", "Four an item at $25 per million are the ten cents. Holding back is free."),
        ),
        "d",
        "https://aws.amazon.com/step-functions/pricing/",
    ),
    Question(
        "A licence allows one call at a time. You set MaximumConcurrency to 1. What happens?",
        (
            ("it is refused", "It takes 2 to 1000. One at a time is a FIFO queue with one message group."),
            ("one worker runs", "That was the wish. The setting takes 2 to 1000."),
            ("two run", "Nothing is rounded up: the call fails, before anything is created."),
            ("5 run, as at the start", "5 is what a mapping starts with. This one is not created."),
        ),
        "a",
        "https://github.com/formkiq/formkiq-core/issues/109",
    ),
    Question(
        "Reserved concurrency limits the function behind a busy queue. What becomes of good messages?",
        (
            ("they wait, untouched", "So it is with MaximumConcurrency. Here pollers take them first."),
            ("Lambda keeps them", "Lambda keeps no messages of a mapping: it refuses the call (429)."),
            (
                "some are dead letters",
                "Taken, refused, visible again, taken again: each receive counts, until maxReceiveCount.",
            ),
            ("they are deleted", "A message is deleted only after success. These end in another queue."),
        ),
        "c",
        "https://zaccharles.medium.com/"
        "reproducing-the-sqs-trigger-and-lambda-concurrency-limit-issue-f4c09d384a18",
    ),
    Question(
        "MaxConcurrency of a Distributed Map is 0. How many children run at once?",
        (
            ("none", "Then no Map without the field would ever run: 0 is its default."),
            ("one after another", "A workshop of AWS says so, and is wrong. That is MaxConcurrency 1."),
            ("up to 40", "40 is the limit of an inline Map."),
            ("up to 10,000", "0 is no limit of your own. The service's own is left: 10,000 children."),
        ),
        "d",
        f"{AWS}/step-functions/latest/dg/state-map-distributed.html",
    ),
    Question(
        "One of 10,000 items can never succeed. No tolerance is set, nothing is caught. What is the result?",
        (
            ("9,999 results, one null", "That needs a Catch in the item, or a tolerance."),
            (
                "the Map Run fails at once",
                "The tolerance is 0 by default: the first failure fails it, what runs is aborted.",
            ),
            ("it fails at the end", "It does not wait for the end: the threshold is passed at once."),
            ("it is tried for ever", "A Retry ends, and a Retry on the Map runs every child again."),
        ),
        "b",
        f"{AWS}/step-functions/latest/dg/state-map-distributed.html",
    ),
    Question(
        "A callback task has neither TimeoutSeconds nor HeartbeatSeconds, and its worker dies. When do you "
        "know?",
        (
            ("after a minute", "There is no clock with a default of a minute."),
            ("when its message dies", "The dead-letter queue gets the message. Nobody tells the state."),
            ("within a year", "Both clocks default to longer than the year that an execution may take."),
            ("at once, it fails", "Nothing fails: silence needs a clock, and none is set."),
        ),
        "c",
        f"{AWS}/step-functions/latest/dg/sfn-stuck-execution.html",
    ),
    Question(
        "SQS delivers a message twice; the second SendTaskSuccess is refused (TaskTimedOut). The worker "
        "should …",
        (
            ("raise the error", "Then the message comes back, to be done and refused again, until it dies."),
            ("delete the message", "The task is closed: the first answer counted. A refusal means: done."),
            ("call SendTaskFailure", "The token takes one answer; this one is refused as well."),
            ("try again later", "Closed tasks stay closed. A throttled call is what to try again."),
        ),
        "b",
        "https://github.com/boto/boto3/issues/4044",
    ),
    Question(
        "HeartbeatSeconds is 60. All workers are healthy, and messages wait 90 s in the queue. What happens?",
        (
            (
                "tasks time out unbegun",
                "The clock starts when the message is sent, and nobody beats for one that waits.",
            ),
            ("nothing: all is healthy", "Healthy workers beat only for what they have already taken."),
            ("the queue beats for them", "SQS knows nothing of tokens. Only who has the token can beat."),
            ("the wait does not count", "It does: the clock belongs to the task, not to its worker."),
        ),
        "a",
        f"{AWS}/step-functions/latest/dg/connect-to-resource.html",
    ),
    Question(
        "Each child of a Distributed Map waits for a task token, and 100 starts a second are too slow. Now?",
        (
            ("EXPRESS children", "Express cannot wait for a callback: it is request and response only."),
            ("MaxConcurrency 10,000", "It bounds how many are there at once, not how fast they start."),
            (
                "several items a child",
                "ItemBatcher: fewer starts for as many items. Standard children stay, for they can wait.",
            ),
            ("a shorter heartbeat", "A heartbeat starts nothing; too short, it kills tasks that live."),
        ),
        "c",
        "https://github.com/aws/aws-cdk/issues/30194",
    ),
    Question(
        "A map of 8 children, all siphoned. Why are 16 workers no faster than 8?",
        (
            ("the machine is too slow", "Then 8 would not be as fast as they are. Look at what binds."),
            ("SQS delivers in tens", "A batch is at most as large as you set it; nothing comes in tens."),
            ("they share a limit", "Each worker has its own environment. None waits for another."),
            (
                "8 items are started",
                "A worker can only be busy with an item whose child has been started: the map binds.",
            ),
        ),
        "d",
        "notebook 05, measured",
    ),
    Question(
        "MaximumConcurrency is 1,000 and 10,000 messages come. How many invocations run a minute later?",
        (
            ("at most 305", "A mapping starts with 5 and adds up to 300 a minute: the ramp is the limit."),
            ("1,000", "That many take more than three minutes to get to."),
            ("at most 65", "60 a minute was the ramp of 2023, as many tutorials still tell it."),
            ("10,000", "Neither the setting nor the account lets so many run."),
        ),
        "a",
        f"{AWS}/lambda/latest/dg/services-sqs-scaling.html",
    ),
    Question(
        "A handler answers {'BatchItemFailures': […]}: the first letter is large. What becomes of its "
        "failures?",
        (
            ("they come again", "That needs the key spelt as Lambda reads it: batchItemFailures."),
            ("they are deleted", "Lambda reads an answer that names no failure: success for the batch."),
            ("the batch comes again", "That is what a wrong itemIdentifier does, and it is noticed sooner."),
            ("the function fails", "The answer is valid JSON, and an unknown key is no error."),
        ),
        "b",
        "https://github.com/awsdocs/aws-lambda-developer-guide/issues/320",
    ),
    Question(
        "Many executions at once call a service that takes 5 calls. What keeps all of them together to 5?",
        (
            ("MaxConcurrency 5", "It holds for one Map Run. Ten executions with a Map each make 50 calls."),
            ("a Retry with jitter", "It repairs refusals one by one. It makes no places, and no limit."),
            (
                "one queue, 5 workers",
                "MaximumConcurrency belongs to the mapping of the queue, whoever sends the messages.",
            ),
            ("TimeoutSeconds", "A clock ends tasks that take too long. It counts no calls."),
        ),
        "c",
        f"{AWS}/lambda/latest/dg/services-sqs-scaling.html",
    ),
)


def questionnaire() -> None:
    """Display the questions: to be clicked, with a score, or, where nobody clicks, to be unfolded."""
    from IPython.display import display

    static = {"text/plain": _text(), "text/html": _static(), EXERCISE: {"name": NAME, "state": "unanswered"}}
    if UNATTENDED not in os.environ:
        view: dict[str, Any] = _clickable()._repr_mimebundle_()
        static = view | {"text/html": static["text/html"]}
    display(static, raw=True)


def grade(answers: Sequence[str]) -> bool:
    """Show which answers, one letter for each question, are right, and why others are not; True if all are.

    Never raises.
    """
    try:
        given = [str(answer).strip().lower() for answer in answers]
    except Exception:
        given = []
    judged = [
        (number, letter == question.right, _why(question, letter))
        for number, (question, letter) in enumerate(zip(QUESTIONS, given, strict=False), 1)
    ]
    right, wrong = sum(ok for _, ok, _ in judged), [(number, why) for number, ok, why in judged if not ok]
    told = [f"{right} of {len(QUESTIONS)} are right."]
    if len(given) != len(QUESTIONS):
        told.append(f"Give {len(QUESTIONS)} letters, one for each question, in a list.")
    told += [f"{number}: {why}" for number, why in wrong]
    passed = right == len(QUESTIONS) == len(given)
    show(NAME, "Questionnaire", "right" if passed else "wrong", "\n".join(told))
    return passed


def _why(question: Question, letter: str) -> str:
    if len(letter) != 1 or letter not in LETTERS:
        return f"{letter[:20]!r} is none of the choices {', '.join(LETTERS)}."
    return question.choices[LETTERS.index(letter)][1]


def _clickable() -> widgets.Widget:
    score = widgets.HTML()
    buttons = [
        widgets.RadioButtons(
            options=[
                (f"{letter}) {choice}", letter)
                for letter, (choice, _) in zip(LETTERS, one.choices, strict=True)
            ],
            value=None,
            layout=widgets.Layout(width="auto"),
        )
        for one in QUESTIONS
    ]
    told = [widgets.HTML() for _ in QUESTIONS]

    def answered(_: object = None) -> None:
        right = 0
        for question, button, why in zip(QUESTIONS, buttons, told, strict=True):
            if button.value is not None:
                ok = button.value == question.right
                right += ok
                title = f"{button.value})"
                reason = page("right" if ok else "wrong", title, _why(question, button.value))
                why.value = reason + _source(question)
        chosen = sum(button.value is not None for button in buttons)
        score.value = f"<b>{right} of {len(QUESTIONS)} are right</b>, {len(QUESTIONS) - chosen} are left."

    for button in buttons:
        button.observe(answered, "value")
    answered()
    rows: list[widgets.Widget] = []
    for number, (question, button, why) in enumerate(zip(QUESTIONS, buttons, told, strict=True), 1):
        rows += [widgets.HTML(f"<b>{number}. {html.escape(question.asked)}</b>"), button, why]
    return widgets.VBox([*rows, score])


def _static() -> str:
    """The questions as HTML that needs no script: each choice unfolds into why it is right or not."""
    parts = []
    for number, question in enumerate(QUESTIONS, 1):
        parts.append(f"<p><b>{number}. {html.escape(question.asked)}</b></p>")
        for letter, (choice, why) in zip(LETTERS, question.choices, strict=True):
            parts.append(
                f'<details style="margin-left: 1.5em"><summary>{letter}) {html.escape(choice)}</summary>'
                f"{page('right' if letter == question.right else 'wrong', f'{letter})', why)}</details>"
            )
        parts.append(_source(question))
    return "".join(parts)


def _source(question: Question) -> str:
    """Where it is documented or was seen, as HTML."""
    source = html.escape(question.source)
    linked = f'<a href="{source}">{source}</a>' if source.startswith("https:") else source
    return f'<p style="margin-left: 1.5em; font-size: smaller; overflow-wrap: anywhere">Source: {linked}</p>'


def _text() -> str:
    """The questions and their choices, without the explanations."""
    return "\n\n".join(
        "\n".join(
            [f"{number}. {question.asked}"]
            + [
                f"   {letter}) {choice}"
                for letter, (choice, _) in zip(LETTERS, question.choices, strict=True)
            ]
        )
        for number, question in enumerate(QUESTIONS, 1)
    )
