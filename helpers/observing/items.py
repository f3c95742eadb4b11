"""From what was found of an execution to the items and attempts of a Trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from helpers.observing.history import TIMEOUTS, Attempt
from helpers.trace import LANES

__all__ = ["Case", "number", "rows", "told_by"]

NAN = float("nan")
CLOCKS_SECONDS = 1.0
"""How far a worker's clock may be from that of Step Functions."""
Row = dict[str, Any]


@dataclass
class Case:
    """An item as it was found: a child, an iteration, or the execution itself. Times in epoch seconds."""

    name: str
    status: str
    arrival: float
    returned: float
    arn: str = ""
    number: int = -1
    attempts: list[Attempt] = field(default_factory=list)
    result: Any = None
    error: str = ""
    read: bool = False

    @property
    def ended(self) -> bool:
        return self.status not in ("RUNNING", "PENDING_REDRIVE")


def number(cases: list[Case], total: int) -> bool:
    """Number the items as the lab does, if each result tells an item of its own, else by their start."""
    ended = [case for case in cases if case.read and case.ended]
    told = [case.result.get("item") for case in ended if isinstance(case.result, dict)]
    numbers = [number for number in told if type(number) is int and 0 <= number < total]
    ours = 0 < len(ended) == len(numbers) == len(set(numbers))
    for place, case in enumerate(ended if ours else cases):
        case.number = numbers[place] if ours else place
    return ours


def _served(case: Case) -> list[Attempt]:
    """The attempts of the visit of a state that counts as the item's service.

    Of a child that ended badly, the last Task's. Else the last callback's through the queue, or those of the
    Task that took longest.
    """
    visits: dict[int, list[Attempt]] = {}
    for attempt in case.attempts:
        if attempt.resource:
            visits.setdefault(attempt.visit, []).append(attempt)
    if not visits:
        return []
    *_, last = visits.values()
    if case.status != "SUCCEEDED":
        return last
    if queued := [visit for visit in visits.values() if visit[0].queued]:
        return queued[-1]
    return max(visits.values(), key=lambda visit: visit[-1].ended - visit[0].scheduled)


def told_by(case: Case, served: list[Attempt]) -> Row:
    """The answer of a worker that tells when it served (epoch seconds) as the lab's do, or {}."""
    result = case.result.get("answer") if isinstance(case.result, dict) else None
    for answer in (served[-1].output if served else None, result):
        told = answer.get("Payload", answer) if isinstance(answer, dict) else {}
        told = told if isinstance(told, dict) else {}
        numbers = {name: value for name, value in told.items() if type(value) in (int, float)}
        start, end = numbers.get("service_start", NAN), numbers.get("service_end", NAN)
        # Anybody's answer may have such fields: they must be times in the life of the item.
        if case.arrival - CLOCKS_SECONDS <= start <= end <= case.returned + CLOCKS_SECONDS:
            return numbers | {
                "attempt": int(numbers.get("attempt", 1)),
                "worker": str(told.get("worker", "")),
            }
    return {}


def _ours(case: Case) -> Row:
    """The result of a child of the lab's own workflows, or {}."""
    return case.result if isinstance(case.result, dict) and case.result.get("lane") in LANES else {}


def rows(
    notes: list[str], cases: list[Case], logged: Mapping[int, list[Row]], settings: Row
) -> tuple[list[Row], list[Row]]:
    """The rows of a Trace's items and attempts, with times in epoch seconds."""
    ended = [case for case in cases if case.read and case.ended]
    found = [_item(case, logged.get(case.number, []), settings) for case in ended]
    answers = [tries[-1] for row, tries in found if tries and row["lane"] == "limited"]
    _estimate(notes, answers, settings, sum(case.read for case in cases) / len(cases))
    unseen = 0
    for case, (row, tries) in zip(ended, found, strict=True):
        unseen += max((attempt["attempt"] for attempt in tries), default=0) - len(tries)
        for number, attempt in enumerate(tries, start=1):
            attempt["attempt"] = number
        counted = next((t for t in tries if t["outcome"] == "succeeded"), tries[-1] if tries else {})
        row["service_start"], row["service_end"] = counted.get("start", NAN), counted.get("end", NAN)
        row["attempts"] = len(tries)
        if (served := _served(case)) and row["outcome"] == "succeeded" and "whole" not in counted:
            served[-1].served = counted["start"]
    if unseen:
        notes.append(f"Attempts that answers tell of, but no log that can be read: {unseen:,}; left out.")
    return sorted((row for row, _ in found), key=lambda row: int(row["item"])), [
        attempt for _, tries in found for attempt in tries
    ]


def _item(case: Case, logged: list[Row], settings: Row) -> tuple[Row, list[Row]]:
    """The row of one item, its service times left out, and those of its attempts."""
    served = _served(case)
    told, result = told_by(case, served), _ours(case)
    queued = [attempt for attempt in case.attempts if attempt.queued]
    lane = result.get("lane", LANES[bool(queued)])
    caught = str(result["error"].get("Error")) if isinstance(result.get("error"), dict) else ""
    error, how = caught or case.error, served[-1].outcome if served else ""
    if case.status == "SUCCEEDED" and how in ("", "succeeded") and not caught:
        outcome = "succeeded"
    else:
        late = "timed_out" in (how, case.status.lower()) or TIMEOUTS.fullmatch(error)
        outcome = "timed_out" if late else "failed"
    tries = [dict(attempt) for attempt in logged] or _tries(case, served, told)
    times = [_time(result.get(name), getattr(case, name)) for name in ("arrival", "returned")]
    # One answer to an item that succeeded, none to another: what does not fit so was several tasks.
    if sum(attempt["outcome"] == "succeeded" for attempt in tries) != (outcome == "succeeded"):
        whole = {"item": case.number, "attempt": 1, "worker": "", "start": times[0], "end": times[1]}
        tries = [whole | {"outcome": "succeeded", "whole": True}] if outcome == "succeeded" else []
    elif outcome == "timed_out" and lane == "limited" and logged:
        undone = all(attempt["outcome"] in ("failed", "lost") for attempt in tries)
        if undone and len(tries) >= settings.get("max_receive_count", math.inf):
            outcome = "dead_lettered"
    enqueued = times[0]
    if lane == "limited":
        sent = [queued[-1].submitted, queued[-1].scheduled] if queued else []
        last = tries[-1] if tries else {}
        candidates = [told.get("enqueued"), last.get("enqueued"), *sent, last.get("start")]
        enqueued = next((at for at in candidates if at is not None and math.isfinite(at)), NAN)
    row = {"item": case.number, "lane": lane, "arrival": times[0], "enqueued": enqueued}
    return row | {"returned": times[1], "outcome": outcome}, tries


def _time(text: Any, otherwise: float) -> float:
    """A time that a result tells as the lab's do, in epoch seconds."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return otherwise


def _tries(case: Case, served: list[Attempt], told: Row) -> list[Row]:
    """The attempts as the history tells them; of callbacks only the one that a worker answered."""
    tries = []
    for attempt in served:
        start = attempt.started if math.isfinite(attempt.started) else attempt.scheduled
        done = attempt.outcome if attempt.outcome in ("succeeded", "aborted") else "failed"
        row = {"item": case.number, "attempt": attempt.attempt, "worker": attempt.state, "outcome": done}
        row |= {"start": start, "end": attempt.ended}
        if told and attempt is served[-1]:
            row |= {"start": told["service_start"], "end": told["service_end"]}
            row |= {"attempt": told["attempt"], "worker": told["worker"]}
        elif attempt.queued:
            sent = math.isfinite(attempt.submitted) or math.isnan(attempt.started)
            if attempt is not served[-1] or attempt.outcome not in ("succeeded", "failed") or not sent:
                continue
            row |= {"start": np.fmax(start, attempt.submitted), "attempt": 1, "guessed": True}
        elif done == "aborted":
            row |= {"end": NAN, "outcome": "lost"}
        tries.append(row)
    return tries


def _estimate(notes: list[str], answers: list[Row], settings: Row, share: float) -> None:
    """Split the time of those callbacks whose answers do not tell when a worker took them.

    With c workers, the i-th to end is taken to be served from when the (i-c)-th had ended, and to have waited
    before: then c are never passed, and service is as long as they allow. share: of the items that was read.
    """
    guessed = sum("guessed" in answer for answer in answers)
    if not guessed:
        return
    workers = settings.get("worker_concurrency")
    note = f"{guessed:,} answers do not tell when a worker took the message"
    if workers is None:
        notes.append(f"{note}: all of the time since it was sent counts as service.")
        return
    notes.append(f"{note}: it is estimated as the earliest that {workers:,} workers allow.")
    answers = sorted((a for a in answers if math.isfinite(a["end"])), key=lambda answer: float(answer["end"]))
    for before, answer in zip(answers, answers[max(1, round(workers * share)) :], strict=False):
        if "guessed" in answer:
            answer["start"] = max(answer["start"], before["end"])
