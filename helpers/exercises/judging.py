"""How an answer is judged: by its value, by what it chooses, by its parts, or by a function of its own.

A judge is called with the answer and the notebook's evidence. It returns a sentence that says why the answer
is right, or raises Wrong with one that says what is wrong and what to think over.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import shown
from helpers.experiment import Experiment

__all__ = ["Choice", "Exercise", "Number", "Parts", "Several", "Wrong", "experiment_for", "number_in", "told"]

Judge = Callable[..., str]
Value = float | Callable[..., float]
"""A number, or what makes one of the notebook's evidence."""

_MISTAKEN_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "seconds": ((1e3, "milliseconds"), (1 / 60, "minutes"), (1 / 3600, "hours")),
    "%": ((0.01, "a share of 1"),),
    "US dollars": ((100, "cents"),),
}
"""unit: (how many of another are one of it, that other unit)."""


class Wrong(Exception):
    """The answer is not right; the message says why, and what to think over."""


@dataclass(frozen=True)
class Exercise:
    """What is asked, where the notebook has what is needed for it, and how an answer is judged.

    question: one line. look: where to look, as the end of "Look at …". judge: called as
    judge(answer, *evidence), see the module.
    """

    question: str
    look: str
    judge: Judge


@dataclass(frozen=True)
class Number:
    """Judges one number by its value.

    right: the number, or a function of the evidence. unit: as the message names it, "seconds" or "workers".
    because: why it is right. mistakes: typical wrong numbers, or functions of the evidence, each with the
    misconception behind it, the first that fits is told. tolerance: relative; 0 for counts.
    """

    right: Value
    unit: str
    because: str
    mistakes: Mapping[Value, str] = field(default_factory=dict)
    tolerance: float = 0.01

    def __call__(self, answer: Any, *evidence: Any) -> str:
        value, right = number_in(answer, self.unit), _value(self.right, evidence)
        if self._is(value, right):
            return self.because
        for mistake, why in self.mistakes.items():
            if self._is(value, _value(mistake, evidence)):
                raise Wrong(why)
        for each, other in _MISTAKEN_UNITS.get(self.unit, ()):
            if self._is(value, right * each):
                raise Wrong(f"{value:g} would be right in {other}: give it in {self.unit}.")
        raise Wrong(f"{value:g}, in {self.unit}, is too {'large' if value > right else 'small'}.")

    def _is(self, value: float, other: float) -> bool:
        return math.isclose(value, other, rel_tol=self.tolerance, abs_tol=1e-9)


@dataclass(frozen=True)
class Choice:
    """Judges one of several possible answers: texts (case does not matter), True or False, or whole numbers.

    because: why `right` is right. mistakes: each other possible answer, with why it is not.
    """

    right: Any
    because: str
    mistakes: Mapping[Any, str]

    def __call__(self, answer: Any, *_: Any) -> str:
        given = _plain(answer)
        if _same(given, self.right):
            return self.because
        for mistake, why in self.mistakes.items():
            if _same(given, mistake):
                raise Wrong(why)
        options = sorted(map(repr, (self.right, *self.mistakes)))
        raise Wrong(f"{told(answer)} is none of the possible answers. Choose one of {', '.join(options)}.")


@dataclass(frozen=True)
class Several:
    """Judges a set of names.

    right: the names that belong to it. because: why. members: each name that can be given, with a sentence
    that says why it belongs to the set, or why not: told of the first that is missing or too many.
    """

    right: frozenset[str]
    because: str
    members: Mapping[str, str]

    def __call__(self, answer: Any, *_: Any) -> str:
        if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
            raise Wrong(f"{told(answer)} is {_kind(answer)}: give a set of names, such as {{'…', '…'}}.")
        given = list(answer)
        if unknown := [name for name in given if not isinstance(name, str) or name not in self.members]:
            options = ", ".join(map(repr, sorted(self.members)))
            raise Wrong(f"{told(unknown[0])} is none of the names. Choose from {options}.")
        wrong = self.right.symmetric_difference(given)
        for name, why in self.members.items():
            if name in wrong:
                at_fault = "is missing" if name in self.right else "does not belong to it"
                raise Wrong(f"{name} {at_fault}: {why}")
        return self.because


class Parts:
    """Judges a dictionary: each of its values by the judge of that name."""

    def __init__(self, **judges: Judge) -> None:
        self.judges = judges

    def __call__(self, answer: Any, *evidence: Any) -> str:
        if not isinstance(answer, Mapping):
            raise Wrong(
                f"{told(answer)} is {_kind(answer)}: give a dictionary of {' and '.join(self.judges)}."
            )
        reasons = []
        for name, judge in self.judges.items():
            if name not in answer:
                raise Wrong(f"{name} is missing: the dictionary has to give {' and '.join(self.judges)}.")
            try:
                reasons.append(judge(answer[name], *evidence))
            except Wrong as wrong:
                raise Wrong(f"{name}: {wrong}") from None
        return " ".join(reasons)


# --- For judges of one's own ---------------------------------------------------------------------------


def told(answer: Any) -> str:
    """An answer as a message shows it, whatever its repr does."""
    try:
        return shown(answer)
    except Exception:
        return f"a {type(answer).__name__}"


def number_in(answer: Any, unit: str) -> float:
    """The answer as a number; Wrong if it is none, or not finite."""
    given = _plain(answer)
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise Wrong(f"{told(answer)} is {_kind(answer)}: give a plain number of {unit}.")
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise Wrong(f"{told(answer)} is not finite: give a plain number of {unit}.")
    return value


def experiment_for(answer: Any, **fixed: Any) -> Experiment:
    """The answer as an Experiment; Wrong if it is none, or if one of the fields that are fixed differs."""
    if not isinstance(answer, Experiment):
        raise Wrong(f"{told(answer)} is {_kind(answer)}: give an Experiment(…).")
    for name, value in fixed.items():
        if (given := getattr(answer, name)) != value:
            raise Wrong(f"{name} is {told(given)}; the exercise has {told(value)}: keep that.")
    return answer


def _kind(answer: Any) -> str:
    """What it is, in the words of somebody who learns."""
    name = type(answer).__name__
    known = {"str": "text", "bool": "True or False", "NoneType": "nothing", "function": "a function"}
    return known.get(name, f"of type {name}")


def _plain(answer: Any) -> Any:
    """Python's own value in place of NumPy's."""
    import numpy as np

    return answer.item() if isinstance(answer, np.generic) else answer


def _same(given: Any, option: Any) -> bool:
    if isinstance(given, str) and isinstance(option, str):
        return given.strip().casefold() == option.casefold()
    return type(given) is type(option) and bool(given == option)


def _value(value: Value, evidence: tuple[Any, ...]) -> float:
    return float(value(*evidence) if callable(value) else value)
