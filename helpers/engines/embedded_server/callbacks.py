"""Callback tasks: heartbeats, and a token for each attempt that takes one answer."""

import threading
import time
from collections.abc import Callable
from typing import Any

HEARTBEAT_CHECK_SECONDS = 0.1

State = dict[str, Any]
Step = Callable[..., Any]


class Callbacks:
    """Callback tasks: the heartbeat clock, and a new token for each attempt."""

    def __init__(self, sfn: Any) -> None:
        self.sfn = sfn
        self.running = threading.local()
        self.answering = threading.Lock()
        self.clocks: dict[str, tuple[float, float, tuple[str, str, str]]] = {}
        threading.Thread(target=self._expire, daemon=True, name="heartbeats").start()

    def new_token_for_each_attempt(self, execute: Step) -> Step:
        """A retried task waits for a token of its own; the old one is dead."""

        def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
            self.running.ctx = ctx
            return execute(state, raw_input, execution, ctx)

        return corrected

    def wait(self, wait: Step) -> Step:
        """HeartbeatSeconds without a heartbeat ends the task with States.HeartbeatTimeout."""

        def corrected(resource: str, data: Any, token: str, state: State) -> Any:
            if "HeartbeatSeconds" in state:
                key = (self.sfn.get_account_id(), self.sfn.get_region(), token)
                self._start(token, state["HeartbeatSeconds"], key)
            try:
                return wait(resource, data, token, state)
            finally:
                self.clocks.pop(token, None)
                self.running.ctx["Task"] = {"Token": self.sfn.new_uuid()}

        return corrected

    def first_answer_counts(self, send: Step) -> Step:
        """A token takes one answer: a second is refused even before the waiting state has woken up."""

        def corrected(data: dict[str, Any]) -> Any:
            with self.answering:
                task = self.sfn._task_tokens.get(data.get("taskToken"))
                if task and task["event"].is_set():
                    data = {**data, "taskToken": None}  # to ministack, a token that is gone
                return send(data)

        return corrected

    def heartbeat(self, send: Step) -> Step:
        """SendTaskHeartbeat starts the task's heartbeat clock anew."""

        def corrected(data: dict[str, Any]) -> Any:
            token = data.get("taskToken", "")
            if token in self.clocks:
                _, seconds, key = self.clocks[token]
                self._start(token, seconds, key)
            return send(data)

        return corrected

    def _start(self, token: str, seconds: float, key: tuple[str, str, str]) -> None:
        self.clocks[token] = (time.monotonic() + seconds, seconds, key)

    def _expire(self) -> None:
        while True:
            time.sleep(HEARTBEAT_CHECK_SECONDS)
            for deadline, seconds, key in list(self.clocks.values()):
                with self.answering:
                    task = self.sfn._task_tokens.get_scoped(*key)
                    if task and time.monotonic() >= deadline and not task["event"].is_set():
                        task["error"] = {
                            "Error": "States.HeartbeatTimeout",
                            "Cause": f"No heartbeat within {seconds} seconds",
                        }
                        task["event"].set()


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    callbacks = Callbacks(sfn)
    sfn._execute_task = callbacks.new_token_for_each_attempt(sfn._execute_task)
    sfn._invoke_with_callback = callbacks.wait(sfn._invoke_with_callback)
    sfn._send_task_failure = callbacks.first_answer_counts(sfn._send_task_failure)
    sfn._send_task_success = callbacks.first_answer_counts(sfn._send_task_success)
    sfn._send_task_heartbeat = callbacks.heartbeat(sfn._send_task_heartbeat)
