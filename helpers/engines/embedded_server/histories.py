"""Execution histories: which events there are, what they tell, which one comes before each, and how many."""

import contextvars
import functools
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import callbacks
import stopping
from map_items import Fields
from stopping import Scope, Stopped

MOST_EVENTS = 25_000
"""Events of a Standard execution: the last one ends it (Step Functions service quotas, 2026-11-24)."""
FULL = f"The execution reached the maximum number of history events ({MOST_EVENTS})."
ENDS = ("ExecutionSucceeded", "ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut")
TIMEOUTS = ("States.Timeout", "States.HeartbeatTimeout")

State = dict[str, Any]
Step = Callable[..., Any]


class Line:
    """A line of events, each of which names the one before; branches, iterations and children have their own.

    inner: ministack notes no states there. place: of an iteration, its Map's name and its index. inside: of a
    state. kind, name, state, arguments: of that, or the last one, and what it passes on. started: the event
    with which that started, if it is a Map or Parallel. lines: those in it. over: has succeeded or failed.
    stopped: nothing more is noted.
    """

    current: contextvars.ContextVar["Line | None"] = contextvars.ContextVar("line", default=None)
    """That of the running state; the threads that ministack starts inherit it."""
    note: Step
    """How an event is added to a line: `one_by_one`."""
    lock = threading.RLock()
    """Held by who adds an event: none comes between a line's end and what is noted of it."""

    def __init__(self, execution: Any, previous: int = 0, inner: bool = True) -> None:
        self.execution, self.previous, self.inner = execution, previous, inner
        self.place: dict[str, Any] | None = None
        self.kind, self.name, self.started = "", "", 0
        self.lines: dict[Line, None] = {}
        self.inside = self.over = self.stopped = False
        self.state: State = {}
        self.arguments: Any = None
        self.written: tuple[Any, str] = (None, "null")

    def add(self, kind: str, **details: Any) -> None:
        """Note an event; details that are None are left out."""
        told = {name: value for name, value in details.items() if value is not None}
        name = kind[len(self.kind) :] if kind.endswith(("StateEntered", "StateExited")) else kind
        key = f"{name[0].lower()}{name[1:]}EventDetails"
        Line.note(self, kind, {key: told} if told else None)

    def follow(self, run: Callable[[], Any]) -> Any:
        """Run what this line tells."""
        before = self.current.set(self)
        try:
            return run()
        finally:
            self.current.reset(before)

    def iteration(self, how: str) -> None:
        """If it is an iteration's, note that it has Started, Succeeded, Failed or was Aborted."""
        with Line.lock:
            if self.place:
                self.add(f"MapIteration{how}", **self.place)
            self.over = how != "Started"

    def fail(self) -> None:
        """The Map or Parallel that it is in has failed: what runs in it is aborted."""
        self._abort_lines()
        self.add(f"{self.kind}StateFailed")

    def abort(self) -> None:
        """Close it and the lines in it."""
        self._abort_lines()
        if self.inside and self.kind in ("Map", "Parallel", "Task", "Wait"):
            self.add(f"{self.kind}StateAborted")
        self.iteration("Aborted")
        self.stopped = True

    def _abort_lines(self) -> None:
        with Line.lock:
            for line in self.lines:
                if not line.over:
                    line.abort()

    def text(self, value: Any) -> str:
        """The value as JSON: one text for what a state hands on and the next receives."""
        if value is not self.written[0]:
            self.written = value, _json(value)
        return self.written[1]


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Packed:
    """The history of a child that has ended: a tenth of its size."""

    def __init__(self, events: list[Any]) -> None:
        self.packed = zlib.compress(json.dumps(events).encode(), 1)

    def __iter__(self) -> Iterator[Any]:
        return iter(json.loads(zlib.decompress(self.packed)))


def one_by_one(sfn: Any, add: Step) -> Step:
    """Events are numbered one by one, name the one before, and stop at the execution's end or at 25,000."""

    def corrected(line: Line, kind: str, details: Any = None) -> None:
        with Line.lock:
            events = line.execution["events"]
            if line.stopped or isinstance(events, Packed) or (events and events[-1]["type"] in ENDS):
                return
            full = len(events) == MOST_EVENTS - 1 and kind not in ENDS
            if not full:
                add(line.execution, kind, details)["previousEventId"] = line.previous
                line.previous = len(events)
        if full:
            sfn._fail_execution(line.execution, "States.Runtime", FULL)
            stopping.executions[line.execution["executionArn"]].stop()
            Scope.check()

    return corrected


def task_events(execution: Any, kind: str, details: Any = None) -> None:
    """A task's events are named after what it calls, and tell its arguments, its clocks and its timeout."""
    line = Line.current.get()
    if line is None or line.execution is not execution or kind in ("ExecutionAborted", "ExecutionTimedOut"):
        line = Line(execution)  # these come from outside
    if kind not in ("TaskScheduled", "TaskSucceeded", "TaskFailed"):
        Line.note(line, kind, details)
        return
    ((_, told),) = details.items()
    calls = told.pop("resource")
    if kind == "TaskScheduled":
        _schedule(line, calls)
    elif told.get("error") in TIMEOUTS:
        _task(line, calls, "TimedOut", error=told["error"])
    else:
        _task(line, calls, kind.removeprefix("Task"), **told)


def _schedule(line: Line, calls: str) -> None:
    given = line.text(line.arguments)
    details = {
        "timeoutInSeconds": line.state.get("TimeoutSeconds"),
        "heartbeatInSeconds": line.state.get("HeartbeatSeconds"),
    }
    if calls.startswith("arn:aws:states:::"):
        details |= {"parameters": given, "region": line.execution["executionArn"].split(":")[3]}
    else:
        details |= {"input": given, "resource": calls}
    _task(line, calls, "Scheduled", **details)
    if ":activity:" not in calls:
        _task(line, calls, "Started")


def _task(line: Line, calls: str, step: str, **details: Any) -> None:
    """Note that a task was Scheduled, Started and so on. calls: the Resource of its state."""
    if ":activity:" in calls:
        line.add(f"Activity{step}", **details)
    elif ":function:" in calls:
        line.add(f"LambdaFunction{step}", **details)
    else:
        kind, _, action = calls.removeprefix("arn:aws:states:::").rpartition(":")
        line.add(f"Task{step}", resourceType=kind, resource=action, **details)


def submitted(wait: Step) -> Step:
    """A callback task is submitted once the message with its token is sent."""

    def corrected(answer: callbacks.Answer, timeout: float | None = None) -> Any:
        line = Line.current.get()
        if line and answer.sent and ":activity:" not in line.state["Resource"]:
            _task(line, line.state["Resource"], "Submitted")
        return wait(answer, timeout)

    return corrected


def arguments(apply: Step) -> Step:
    """What a task passes on is in its history."""

    def corrected(*given: Any) -> Any:
        result = apply(*given)
        if line := Line.current.get():
            line.arguments = result
        return result

    return corrected


def state_events(sfn: Any, kind: str, execute: Step) -> Step:
    """A state of a branch, iteration or child is entered and exited; a Map or Parallel may fail."""

    def corrected(state: State, data: Any, *given: Any) -> Any:
        line = Line.current.get()
        if line is None:
            return execute(state, data, *given)
        line.kind, line.name, line.state, line.inside = kind, given[-1]["State"]["Name"], state, True
        if line.inner:
            line.add(f"{kind}StateEntered", name=line.name, input=line.text(data))
        try:
            output, following = execute(state, data, *given)
        except sfn._ExecutionError:
            if kind in ("Map", "Parallel"):
                line.fail()
            raise
        line.inside = False
        if line.inner:
            line.add(f"{kind}StateExited", name=line.name, output=line.text(output))
        return output, following

    return corrected


def caught(apply: Step) -> Step:
    """A Map or Parallel whose error is caught has failed all the same."""

    def corrected(*given: Any) -> Any:
        if (line := Line.current.get()) and line.kind in ("Map", "Parallel"):
            line.fail()
        return apply(*given)

    return corrected


def started(sfn: Any, run: Step) -> Step:
    """Each attempt of a Map or Parallel is started; a Map tells how many items its input has."""

    def corrected(state: State, data: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        line = Line.current.get()
        if line is None:
            return run(state, data, execution, ctx)
        length = None
        if line.kind == "Map":
            effective = sfn._apply_input_path(state, data, ctx)
            items = Fields(sfn, state, data, effective, ctx).items
            length = 0 if "ItemReader" in state else len(items())
        line.add(f"{line.kind}StateStarted", length=length)
        line.started, line.lines = line.previous, {}
        result = run(state, data, execution, ctx)
        line.add(f"{line.kind}StateSucceeded")
        return result

    return corrected


def fail_state(fail: Step) -> Step:
    """A Fail state of a branch, iteration or child is entered."""

    def corrected(state: State, data: Any, ctx: dict[str, Any]) -> Any:
        if (line := Line.current.get()) and line.inner:
            line.kind = "Fail"
            line.add("FailStateEntered", name=ctx["State"]["Name"], input=line.text(data))
        return fail(state, data, ctx)

    return corrected


def succeed_state(apply: Step) -> Step:
    """A Succeed state of a branch, iteration or child is entered and exited."""

    def corrected(state: State, data: Any, ctx: Any = None) -> Any:
        line = Line.current.get()
        if line is None or not line.inner or state.get("Type") != "Succeed":
            return apply(state, data, ctx)
        line.kind, name = "Succeed", ctx["State"]["Name"]
        line.add("SucceedStateEntered", name=name, input=line.text(data))
        output = apply(state, data, ctx)
        line.add("SucceedStateExited", name=name, output=line.text(output))
        return output

    return corrected


def own_line(run: Step) -> Step:
    """A child has a history of its own; an iteration is told from the others, as is a branch."""

    def corrected(*given: Any) -> Any:
        *_, execution, ctx = given
        outer = Line.current.get()
        if "mapRunArn" in execution and (outer is None or outer.execution is not execution):
            return _child(functools.partial(run, *given), execution, ctx)
        return _branch(functools.partial(run, *given), outer, ctx) if outer else run(*given)

    return corrected


def _child(run: Callable[[], Any], child: Any, ctx: dict[str, Any]) -> Any:
    line = Line(child)
    line.add("ExecutionStarted", input=child["input"], roleArn=ctx["Execution"].get("RoleArn"))
    line.previous = 0  # as of any execution's first state
    try:
        output = line.follow(run)
        line.add("ExecutionSucceeded", output=line.text(output))
        return output
    except Stopped:
        line.add("ExecutionAborted")
        raise
    except Exception as error:
        told = getattr(error, "error", "States.Runtime"), getattr(error, "cause", str(error))
        line.add("ExecutionFailed", error=told[0], cause=told[1])
        raise
    finally:
        child["events"] = Packed(child["events"])


def _branch(run: Callable[[], Any], outer: Line, ctx: dict[str, Any]) -> Any:
    line = Line(outer.execution, outer.started)
    if outer.kind == "Map":
        line.place = {"name": outer.name, "index": ctx["Map"]["Item"]["Index"]}
    with Line.lock:  # once its state has failed, none starts
        Scope.check()
        outer.lines[line] = None
        line.iteration("Started")
    try:
        output = line.follow(run)
    except Exception:
        line.iteration("Failed")
        raise
    else:
        line.iteration("Succeeded")
        return output
    finally:
        if not line.stopped:
            outer.previous = line.previous


def first_line(sfn: Any, run: Step) -> Step:
    """The states of an execution follow each other."""

    def corrected(arn: str) -> None:
        execution = sfn._executions[arn]
        execution["events"][0]["previousEventId"] = 0
        Line(execution, inner=False).follow(lambda: run(arn))

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    Line.note = one_by_one(sfn, sfn._add_event)
    sfn._add_event = task_events
    callbacks.Answer.wait = submitted(callbacks.Answer.wait)
    sfn._apply_parameters = arguments(sfn._apply_parameters)
    sfn._apply_jsonata_arguments = arguments(sfn._apply_jsonata_arguments)
    for kind in ("Pass", "Task", "Choice", "Wait", "Parallel", "Map"):
        name = f"_execute_{kind.lower()}"
        setattr(sfn, name, state_events(sfn, kind, getattr(sfn, name)))
    sfn._apply_catcher = caught(sfn._apply_catcher)
    sfn._run_map_items = started(sfn, sfn._run_map_items)
    sfn._run_parallel_branches = started(sfn, sfn._run_parallel_branches)
    sfn._fail_state_error = fail_state(sfn._fail_state_error)
    sfn._apply_output_path = succeed_state(sfn._apply_output_path)
    sfn._run_sub_machine = own_line(sfn._run_sub_machine)
    sfn._run_execution = first_line(sfn, sfn._run_execution)
