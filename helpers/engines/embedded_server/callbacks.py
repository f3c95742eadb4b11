"""Callback tasks and activities: a token for each attempt, which takes one answer in time."""

import asyncio
import contextlib
import contextvars
import functools
import json
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import clocks
from stopping import Scope, Stopped

KNOWN_TOKENS = 100_000
"""So many of the last tokens are told from texts that never were one."""

POLL_SECONDS = 0.05
"""Between two looks of a waiting GetActivityTask for a task, which AWS gives out as soon as there is one."""

State = dict[str, Any]
Step = Callable[..., Any]


class Answer(threading.Event):
    """What a task waits for; the wait is over, too, when the task is stopped.

    sent: the call that carries the token was made.
    """

    sent = True

    def wait(self, timeout: float | None = None) -> bool:
        with Scope.waking(self.set):
            return super().wait(timeout)


class Callbacks:
    """The tokens of the tasks that wait for an answer, and the clocks of those tasks."""

    def __init__(self, sfn: Any) -> None:
        self.sfn = sfn
        self.running = threading.local()
        """Of the thread's task: `state`, `execution`, `ctx`, and `token` while it waits for an answer."""
        self.answering = threading.Lock()
        self.known: dict[str, None] = {}
        """The last tokens, in the order in which their tasks began."""
        self.heartbeats: dict[str, Callable[[], None]] = {}
        """What calls off the next look at when a task was heard of, by token."""
        self.unfetched: dict[str, Callable[[str | None], None]] = {}
        """What to do when a worker fetches the task, by token."""

    def new_token_for_each_attempt(self, execute: Step) -> Step:
        """A retried task waits for a token of its own; the old one is dead."""

        def corrected(state: State, raw_input: Any, execution: Any, ctx: dict[str, Any]) -> Any:
            self.running.state, self.running.execution, self.running.ctx = state, execution, ctx
            return execute(state, raw_input, execution, ctx)

        return corrected

    def wait(self, wait: Step) -> Step:
        """HeartbeatSeconds without a heartbeat ends the task; a token dies with its task's wait."""

        def corrected(resource: str, data: Any, token: str, state: State) -> Any:
            self.running.token = token
            self.known[token] = None
            if len(self.known) > KNOWN_TOKENS:
                self.known.pop(next(iter(self.known)), None)
            if seconds := state.get("HeartbeatSeconds"):
                self.heartbeats[token] = clocks.after(seconds, self._listen, token, seconds, time.monotonic())
            try:
                return wait(resource, data, token, state)
            finally:
                self.running.token = None
                self.running.ctx["Task"] = {"Token": self.sfn.new_uuid()}
                with self.answering:
                    self.sfn._task_tokens.pop(token, None)
                    call_off = self.heartbeats.pop(token, None)
                if call_off:
                    call_off()
                self.unfetched.pop(token, None)

        return corrected

    def one_answer(self, send: Step) -> Step:
        """A token takes one answer, in time; what never was a token is told from one that is dead."""

        def corrected(data: dict[str, Any]) -> Any:
            token = data.get("taskToken")
            with self.answering:
                task = self.sfn._task_tokens.get(token)
                if task and not task["event"].is_set():
                    task["heard"] = time.monotonic()
                    return send(data)
            if task or token in self.known:
                told = "Task Timed Out: 'Provided task does not exist anymore'"
                return self.sfn.error_response_json("TaskTimedOut", told, 400)
            return self.sfn.error_response_json("InvalidToken", "Invalid Token: 'Invalid token'", 400)

        return corrected

    def activity(self, invoke: Step) -> Step:
        """An activity is a callback task whose token a worker fetches; its clocks start then."""

        def corrected(resource: str, data: Any) -> Any:
            if resource not in self.sfn._activities:
                return invoke(resource, data)
            begin = functools.partial(self._begin, self.running.state, self.running.execution)
            token = self.sfn.new_uuid()
            self.unfetched[token] = functools.partial(contextvars.copy_context().run, begin, token)
            return self.sfn._invoke_with_callback(f"activity:{resource}", data, token, {})

        return corrected

    def enqueue(self, resource: str, data: Any) -> None:
        """Leave the task for the workers of its activity."""
        task = {"taskToken": self.running.token, "input": json.dumps(data)}
        self.sfn._activity_tasks[resource.removeprefix("activity:")].append(task)

    def fetch(self, fetch: Step) -> Step:
        """GetActivityTask starts the clocks of the task that it returns."""

        async def corrected(data: dict[str, Any]) -> Any:
            answer = await fetch(data)
            if begin := self.unfetched.pop(json.loads(answer[2]).get("taskToken", ""), None):
                begin(data.get("workerName"))
            return answer

        return corrected

    def _begin(self, state: State, execution: Any, token: str, worker: str | None) -> None:
        started = {"activityStartedEventDetails": {"workerName": worker}} if worker else None
        with contextlib.suppress(Stopped):
            self.sfn._add_event(execution, "ActivityStarted", started)
        if seconds := state.get("TimeoutSeconds"):
            clocks.after(seconds, self._fail, token, "States.Timeout", f"No answer within {seconds} seconds")
        if seconds := state.get("HeartbeatSeconds"):
            self.heartbeats[token] = clocks.after(seconds, self._listen, token, seconds, time.monotonic())

    def handler_error(self, call: Step) -> Step:
        """The error of a function that is called with a task token fails the task."""

        def corrected(function: str, event: Any) -> Any:
            try:
                return call(function, event)
            except self.sfn._ExecutionError as error:
                if token := getattr(self.running, "token", None):
                    self.sfn._task_tokens[token]["event"].sent = False
                    self._fail(token, error.error, error.cause)
                raise

        return corrected

    def _listen(self, token: str, seconds: float, heard: float) -> None:
        """End the task when nothing was heard of it for so many seconds; until then, look again in time."""
        with self.answering:
            if (task := self.sfn._task_tokens.get(token)) is None:
                return
            silent = time.monotonic() - task.get("heard", heard)
            if silent < seconds:
                self.heartbeats[token] = clocks.after(seconds - silent, self._listen, token, seconds, heard)
                return
        self._fail(token, "States.HeartbeatTimeout", f"No heartbeat within {seconds} seconds")

    def _fail(self, token: str, error: str, cause: str) -> None:
        with self.answering:
            task = self.sfn._task_tokens.get(token)
            if task and not task["event"].is_set():
                task["error"] = {"Error": error, "Cause": cause}
                task["event"].set()


def heartbeats_are_timeouts(matches: Step) -> Step:
    """A lost heartbeat is States.HeartbeatTimeout, and to Retry and Catch a States.Timeout as well."""

    def corrected(names: list[str], error: str) -> bool:
        if error == "States.HeartbeatTimeout" and error not in names:
            error = "States.Timeout"
        return bool(matches(names, error))

    return corrected


def activities_in_templates(sfn: Any) -> dict[str, Step]:
    """How CloudFormation makes and deletes an AWS::StepFunctions::Activity; Ref is its ARN."""

    def create(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        tags = [{"key": tag["Key"], "value": tag["Value"]} for tag in properties.get("Tags", [])]
        status, _, body = sfn._create_activity({"name": properties["Name"], "tags": tags})
        answer = json.loads(body)
        if status >= 300:
            raise ValueError(answer["message"])
        return answer["activityArn"], {"Arn": answer["activityArn"], "Name": properties["Name"]}

    def delete(arn: str, properties: dict[str, Any]) -> None:
        sfn._delete_activity({"activityArn": arn})

    return {"create": create, "delete": delete}


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    callbacks = Callbacks(sfn)
    sfn.threading = SimpleNamespace(**vars(threading) | {"Event": Answer})
    sfn._execute_task = callbacks.new_token_for_each_attempt(sfn._execute_task)
    sfn._invoke_with_callback = callbacks.wait(sfn._invoke_with_callback)
    sfn._error_matches = heartbeats_are_timeouts(sfn._error_matches)
    sfn._invoke_activity = callbacks.activity(sfn._invoke_activity)
    sfn._SERVICE_DISPATCH["activity:"] = callbacks.enqueue
    sfn._get_activity_task = callbacks.fetch(sfn._get_activity_task)
    sfn.asyncio = SimpleNamespace(sleep=lambda _: asyncio.sleep(POLL_SECONDS))
    sfn._call_lambda = callbacks.handler_error(sfn._call_lambda)
    for action in ("success", "failure", "heartbeat"):
        name = f"_send_task_{action}"
        setattr(sfn, name, callbacks.one_answer(getattr(sfn, name)))
    provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::Activity"] = activities_in_templates(sfn)
    provisioners._STACK_TAG_PROPERTY["AWS::StepFunctions::Activity"] = ("Tags", "list")
