"""Stopping what runs: an execution, a branch of a Parallel, an iteration of a Map.

Each is a scope, inside the scope that started it. Stopping a scope stops all that runs inside it: waits
end, and its threads end before they enter another state. What the API tells of an execution is still
its record's `status`, which whoever stops it sets first.
"""

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

State = dict[str, Any]
Step = Callable[..., Any]


class Stopped(SystemExit):
    """Ends a thread whose scope was stopped: no Retry or Catch takes it, and a thread ends of it quietly."""


class Scope:
    """What can be stopped as one."""

    current: contextvars.ContextVar["Scope | None"] = contextvars.ContextVar("scope", default=None)
    """The scope of the running state; the threads that ministack starts inherit it."""

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.parent = parent
        self.stopped = False
        self.lock = threading.Lock()
        self.wakes: dict[int, Callable[[], None]] = {}
        """What to call when it is stopped, by the id of who waits."""

    @classmethod
    def check(cls) -> None:
        """Raise Stopped when the current scope was stopped."""
        if (scope := cls.current.get()) and scope.stopped:
            raise Stopped

    @classmethod
    @contextlib.contextmanager
    def waking(cls, wake: Callable[[], None]) -> Iterator[None]:
        """A block that waits: `wake` is called to end the wait when the current scope is stopped.

        Raises Stopped then, and at once if the scope was stopped before.
        """
        if (scope := cls.current.get()) is None:
            yield
            return
        with scope.lock:
            cls.check()
            scope.wakes[id(wake)] = wake
        try:
            yield
        finally:
            scope.wakes.pop(id(wake), None)
            cls.check()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """A block that is this scope's; it is stopped when its parent is, and over when the block ends."""
        if self.parent:
            with self.parent.lock:
                if self.parent.stopped:
                    raise Stopped
                self.parent.wakes[id(self)] = self.stop
        before = self.current.set(self)
        try:
            yield
        finally:
            self.current.reset(before)
            if self.parent:
                self.parent.wakes.pop(id(self), None)

    def stop(self) -> None:
        """Stop all that runs in this scope. May be called from any thread, and more than once."""
        with self.lock:
            if self.stopped:
                return
            self.stopped = True
            wakes = list(self.wakes.values())
        for wake in wakes:
            wake()
            time.sleep(0)  # its thread may end before the next wakes: thousands at once hinder each other


executions: dict[str, Scope] = {}
"""The scopes of the executions that run, children included, by ARN."""


@contextlib.contextmanager
def running(arn: str, parent: Scope | None = None) -> Iterator[Scope]:
    """A block that is an execution's scope; it ends quietly when the execution is stopped."""
    scope = executions[arn] = Scope(parent)
    try:
        with contextlib.suppress(Stopped), scope.entered():
            yield scope
    finally:
        del executions[arn]


def scope_of_execution(run: Step) -> Step:
    """An execution is a scope of its own, whoever starts it."""

    def corrected(arn: str) -> None:
        with running(arn):
            run(arn)

    return corrected


def stop_reaches_threads(stop: Step) -> Step:
    """StopExecution stops what the execution runs: its waits, its branches, its children."""

    def corrected(data: dict[str, Any]) -> Any:
        answer = stop(data)
        if scope := executions.get(data.get("executionArn", "")):
            scope.stop()
        return answer

    return corrected


def first_end_counts(fail: Step) -> Step:
    """An execution that has ended, such as by StopExecution, does not fail afterwards."""

    def corrected(execution: Any, *error: str) -> Any:
        if execution["status"] == "RUNNING":
            return fail(execution, *error)

    return corrected


def unless_stopped(execute: Step) -> Step:
    """A stopped execution enters no state."""

    def corrected(*given: Any) -> Any:
        Scope.check()
        return execute(*given)

    return corrected


def sleep(wait_scale: float) -> Step:
    """A Wait, or the interval before a retry, ends when the execution is stopped."""

    def corrected(seconds: float) -> None:
        awake = threading.Event()
        with Scope.waking(awake.set):
            awake.wait(max(seconds * wait_scale, 0))

    return corrected


def fail_fast(run: Step) -> Step:
    """The first branch or iteration that fails, fails its state at once; the others are stopped."""

    def corrected(*given: Any) -> Any:
        outcomes: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        scope = FailFast(Scope.current.get(), outcomes)

        def work() -> None:
            try:
                with scope.entered():
                    outcomes.put((run(*given), None))
            except BaseException as error:
                outcomes.put((None, error))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
        thread.start()
        # What is stopped may yet wait for a function's answer: the state does not wait for that.
        with Scope.waking(lambda: outcomes.put((None, Stopped()))):
            result, error = outcomes.get()
        if error:
            scope.stop()
            raise error
        return result

    return corrected


class FailFast(Scope):
    """One attempt of a Map or Parallel state."""

    def __init__(self, parent: Scope | None, outcomes: queue.SimpleQueue[Any]) -> None:
        super().__init__(parent)
        self.outcomes = outcomes

    def fail(self, error: Exception) -> None:
        self.outcomes.put((None, error))
        self.stop()


def branch(failed: type[Exception], run_states: Step) -> Step:
    """A branch, iteration or child has a context object of its own, and its failure is its state's."""

    def corrected(states: Any, start_at: str, data: Any, execution: Any, ctx: dict[str, Any]) -> Any:
        try:
            return run_states(states, start_at, data, execution, {**ctx})
        except failed as error:
            if isinstance(scope := Scope.current.get(), FailFast):
                scope.fail(error)
            raise

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    sfn._run_execution = scope_of_execution(sfn._run_execution)
    sfn._stop_execution = stop_reaches_threads(sfn._stop_execution)
    sfn._fail_execution = first_end_counts(sfn._fail_execution)
    sfn._scaled_sleep = sleep(sfn._SFN_WAIT_SCALE)
    for kind in ("pass", "task", "choice", "wait", "parallel", "map"):
        setattr(sfn, f"_execute_{kind}", unless_stopped(getattr(sfn, f"_execute_{kind}")))
    sfn._run_parallel_branches = fail_fast(sfn._run_parallel_branches)
    sfn._run_map_items = fail_fast(sfn._run_map_items)
    sfn._run_sub_machine = branch(sfn._ExecutionError, sfn._run_sub_machine)
