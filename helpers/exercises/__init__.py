"""Exercises that answer at once: `check` judges an answer of a notebook and says why it is right or wrong.

What is asked in notebook NN, and how it is judged, is defined in `of_NN`: a dictionary EXERCISES of the
exercises' names, such as "03.1", so that the notebook does not give the answer away.
"""

import importlib
from importlib.util import find_spec
from typing import Any

from helpers.errors import LabError, shown
from helpers.exercises.judging import Exercise, Wrong
from helpers.exercises.telling import show

__all__ = ["check", "exercises_of", "solve"]


def exercises_of(notebook: str) -> dict[str, Exercise]:
    """The exercises of the notebook with this number, such as "03"; none where none are defined."""
    module = f"{__name__}.of_{notebook}"
    if not notebook.isdigit() or find_spec(module) is None:
        return {}
    exercises: dict[str, Exercise] = importlib.import_module(module).EXERCISES
    return exercises


def check(name: str, answer: Any, *evidence: Any) -> bool:
    """Judge the answer to an exercise and show why it is right, or what to think over; True if it is right.

    name: as the notebook gives it, such as "03.1". answer: whatever it is, `...` for none yet. evidence: what
    the notebook has measured, if the right answer depends on it. Never raises for an answer; LabError for a
    name that no exercise has.
    """
    exercise = _find(name)
    state, sentence = _judged(exercise, answer, evidence)
    show(name, f"Exercise {name}", state, sentence)
    return state == "right"


def solve(name: str, answer: Any, *evidence: Any) -> None:
    """Judge the solution of an exercise and show why it is right, folded: who runs all cells sees it closed.

    Arguments as of `check`. Raises AssertionError with the sentence that judges it unless it is right, and
    LabError for a name that no exercise has.
    """
    state, sentence = _judged(_find(name), answer, evidence)
    show(name, f"Exercise {name}, solution", state, sentence, folded=True)
    assert state == "right", sentence


def _find(name: str) -> Exercise:
    known = exercises_of(name.partition(".")[0])
    if name not in known:
        there = ", ".join(known) or "none is there for that notebook"
        raise LabError(f"exercise {shown(name)}: there is none of that name; choose from {there}")
    return known[name]


def _judged(exercise: Exercise, answer: Any, evidence: tuple[Any, ...]) -> tuple[str, str]:
    """The state and the sentences for this answer."""
    hint = f"Look at {exercise.look}."
    try:
        if _missing(answer):
            asked = f"{exercise.question} Put your answer in place of the three dots and run the cell again."
            return "unanswered", f"{asked} {hint}"
        return "right", exercise.judge(answer, *evidence)
    except Wrong as wrong:
        return "wrong", f"{wrong} {hint}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an answer may be code, and do anything
        return "wrong", f"Trying this answer ended in {_named(error)}. {exercise.question} {hint}"


def _missing(answer: Any) -> bool:
    if type(answer) is dict:
        return any(value is ... for value in answer.values())
    return answer is ...


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
    except Exception:
        return type(error).__name__
