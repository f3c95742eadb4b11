"""The history of an execution, as GetExecutionHistory tells it: one record an attempt of a state.

Event types and their fields are those of the Step Functions API reference (HistoryEvent, 2026-11-24).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["TIMEOUTS", "Attempt", "History", "Iteration", "loads", "read"]

TIMEOUTS = re.compile(r"(States\.(Heartbeat)?Timeout|Sandbox\.Timedout)")
"""Errors of tasks that took too long: by the state's two clocks, and by the function's own."""
THROTTLES = re.compile(
    r"TooManyRequests|Throttl|Rate ?exceeded|(?<!Data)LimitExceeded|SlowDown|ThroughputExceeded",
    re.IGNORECASE,
)
THROTTLED = re.compile(r"TooManyRequestsException|ThrottlingException|Rate exceeded")
"""Errors, and causes of others, of a call that was refused since there were too many."""
OUTCOMES = {"FAILED": "failed", "TIMED_OUT": "timed_out"}
"""What becomes of a state that is open when its execution ends with this status; else it is aborted."""
ENDS = ("ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted")
_TASK = re.compile(
    r"(?:Task|LambdaFunction|Activity)"
    r"(Scheduled|Started|Submitted|Succeeded|TimedOut|(?:Schedule|Start|Submit)?Failed)"
)
_QUEUE = "sqs:sendMessage.waitForTaskToken"
_NAN = float("nan")


@dataclass
class Attempt:
    """One attempt of a state, or its only pass where it is no Task. Times are epoch seconds, NaN if unknown.

    iteration: its inline Map's (see `History.iterations`), or None. visit: tells apart the visits of a state.
    attempt: from 1 in each visit. resource: what a Task calls, "" for other states. started: the call was
    made, or the state entered. served: a worker took it, which no event tells. submitted: the call that
    carries a task token was made. outcome: succeeded, failed, timed_out, aborted or running.
    output: what a Task answered. details: of TaskScheduled.
    """

    iteration: int | None
    visit: int
    state: str
    resource: str
    attempt: int
    scheduled: float
    submitted: float = _NAN
    started: float = _NAN
    served: float = _NAN
    ended: float = _NAN
    outcome: str = "running"
    error: str = ""
    output: Any = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def queued(self) -> bool:
        """Whether it sent a message to SQS and waited for an answer by task token."""
        return self.resource.endswith(_QUEUE)

    def end(self, time: float, outcome: str) -> None:
        """Close it, unless it has ended before."""
        if self.outcome == "running":
            self.ended, self.outcome = time, outcome


@dataclass
class Iteration:
    """One iteration of an inline Map that lies in no other's. Times are epoch seconds; NaN while it runs."""

    name: str
    started: float
    ended: float = _NAN
    status: str = "RUNNING"


@dataclass(frozen=True)
class History:
    """What the events tell. whole: they go from the execution's start to its end, or to now.

    iterations: by the number in `Attempt.iteration`, in the order in which they started.
    """

    attempts: list[Attempt]
    iterations: dict[int, Iteration]
    whole: bool
    output: Any
    error: str


class _Visit(NamedTuple):
    """One stay in a state. kind: task, other, or guessed where an engine does not tell the state."""

    number: int
    state: str
    kind: str
    attempts: list[Attempt]


class _Place(NamedTuple):
    """Where an event happened: the iterations that it lies in, outermost first, and the visit of a state."""

    iterations: tuple[int, ...] = ()
    visit: _Visit | None = None


def read(
    events: Iterable[Mapping[str, Any]],
    states: Mapping[str, Mapping[str, Any]],
    status: str = "RUNNING",
    stopped: float = _NAN,
) -> History:
    """The history that these events tell, all pages of them in ascending order.

    states: the definition's, by name, for engines that do not say which state a task belongs to.
    status, stopped: the execution's; states that are open when it ended are closed with it.
    Events follow each other by previousEventId. Where an engine leaves that out, they are taken one after
    another, and the ends of tasks that ran at once are matched first in, first out.
    """
    places = {0: _Place()}
    place = places[0]
    attempts: list[Attempt] = []
    iterations: dict[int, Iteration] = {}
    maps: dict[int, str] = {}
    passes: dict[tuple[str, tuple[int, ...]], Attempt] = {}
    whole, output, error = False, None, ""

    def visit(state: str, kind: str) -> _Visit:
        return _Visit(len(attempts) + 1, state, kind, [])

    def attempt(on: _Visit, resource: str, time: float) -> Attempt:
        inside = place.iterations[0] if place.iterations else None
        attempts.append(Attempt(inside, on.number, on.state, resource, len(on.attempts) + 1, time))
        return attempts[-1]

    for event in events:
        kind, time = event["type"], event["timestamp"].timestamp()
        details = event.get(f"{kind[0].lower()}{kind[1:]}EventDetails", {})
        if "previousEventId" in event:
            place = places.get(event["previousEventId"], places[0])
        if task := _TASK.fullmatch(kind):
            step, on = task[1], place.visit
            if step == "Scheduled" or (step == "ScheduleFailed" and _open(on) is None):
                resource = ":".join(filter(None, (details.get("resourceType"), details.get("resource"))))
                if on is None or _over(on, resource):
                    on = visit(_state_of(resource, states), "guessed")
                    place = place._replace(visit=on)
                new = attempt(on, resource, time)
                new.details = details
                on.attempts.append(new)
            if under_way := _open(on):
                _take(step, time, details, under_way)
        elif kind.endswith("StateEntered"):
            task_entered = kind == "TaskStateEntered"
            on = visit(event["stateEnteredEventDetails"]["name"], "task" if task_entered else "other")
            place = place._replace(visit=on)
            if not task_entered:
                new = passes[on.state, place.iterations] = attempt(on, "", time)
                new.started = time
                if kind == "FailStateEntered":
                    new.end(time, "failed")
        elif kind.endswith("StateExited"):
            if done := passes.pop((event["stateExitedEventDetails"]["name"], place.iterations), None):
                done.end(time, "succeeded")
        elif kind == "TaskStateAborted" and place.visit:
            for open_still in place.visit.attempts:
                open_still.end(time, "aborted")
        elif kind == "MapIterationStarted":
            # The event before it may lie in the iteration whose place it takes.
            names = [maps[number] for number in place.iterations]
            around = place.iterations[: (*names, details["name"]).index(details["name"])]
            maps[event["id"]] = details["name"]
            place = _Place((*around, event["id"]))
            if len(place.iterations) == 1:
                iterations[event["id"]] = Iteration(f"{details['name']}[{details['index']}]", time)
        elif kind.startswith("MapIteration") and place.iterations:
            if len(place.iterations) == 1:
                done_iteration = iterations[place.iterations[0]]
                done_iteration.ended, done_iteration.status = time, kind.removeprefix("MapIteration").upper()
            place = _Place(place.iterations[:-1])
        elif kind in ENDS:
            whole, output, error = True, loads(details.get("output")), details.get("error", "")
        places[event["id"]] = place
    if status != "RUNNING":
        for open_still in attempts:
            open_still.end(stopped, OUTCOMES.get(status, "aborted"))
        for iteration in iterations.values():
            if iteration.status == "RUNNING":
                iteration.ended, iteration.status = stopped, status
    return History(attempts, iterations, whole or status == "RUNNING", output, error)


def _open(on: _Visit | None) -> Attempt | None:
    """The oldest attempt of the visit that is under way."""
    return next((a for a in on.attempts if a.outcome == "running"), None) if on else None


def _take(step: str, time: float, details: Mapping[str, Any], attempt: Attempt) -> None:
    """Enter what an event of a task tells."""
    if step == "Submitted":
        attempt.submitted = time
    elif step == "Started":
        attempt.started = time
    elif step == "Succeeded":
        attempt.output = loads(details.get("output"))
        attempt.end(time, "succeeded")
    elif step != "Scheduled":
        late = step == "TimedOut" or TIMEOUTS.fullmatch(details.get("error", ""))
        attempt.error = details.get("error") or ("States.Timeout" if late else "States.TaskFailed")
        throttled = THROTTLES.search(attempt.error) or THROTTLED.search(details.get("cause", ""))
        attempt.end(time, "timed_out" if late else "throttled" if throttled else "failed")


def _over(on: _Visit, resource: str) -> bool:
    """Whether a task that is scheduled now belongs to another visit than this one."""
    if on.kind != "guessed":
        return on.kind == "other"
    last = on.attempts[-1]
    return last.resource != resource or (_open(on) is None and last.outcome == "succeeded")


def _state_of(resource: str, states: Mapping[str, Mapping[str, Any]]) -> str:
    """The only state that calls this resource, or else what is called."""
    names = [name for name, state in states.items() if resource.endswith(str(state.get("Resource", "?")))]
    return names[0] if len(names) == 1 else resource.rpartition(":::")[2]


def loads(text: str | None) -> Any:
    """The JSON value, or None where there is none or it was cut."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
