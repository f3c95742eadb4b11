"""Map Runs: the children of a Distributed Map, how many run at once, and when they end.

ministack runs the children of a Distributed Map to the last and knows no Map Run that fails, is stopped
or updated. This is that state of the language anew, on ministack's stores, paths and state interpreter.
"""

import contextvars
import json
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import map_results
import stopping
from map_items import Fields

DISTRIBUTED_MAP_LIMIT = 10_000
"""Child executions at once (Step Functions service quotas, 2026-11-24)."""

State = dict[str, Any]

TOLERANCES = {
    "ToleratedFailureCount": "toleratedFailureCount",
    "ToleratedFailurePercentage": "toleratedFailurePercentage",
}
COUNTED = (
    *("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total"),
    *("resultsWritten", "failuresNotRedrivable", "pendingRedrive"),
)
"""What MapRunItemCounts and MapRunExecutionCounts count (API reference, 2026-11-24)."""

map_runs: dict[str, "MapRun"] = {}
"""The Map Runs that run, by ARN."""


class MapRun:
    """One Map Run. `record` is what DescribeMapRun tells, and UpdateMapRun changes."""

    def __init__(self, fields: Fields, processor: State, execution: Any) -> None:
        self.fields, self.processor, self.execution = fields, processor, execution
        self.sfn, state = fields.sfn, fields.state
        *arn, _, machine = execution["stateMachineArn"].split(":")
        self.express = processor["ProcessorConfig"].get("ExecutionType") == "EXPRESS"
        self.place = ":".join(arn), f"{machine.partition('/')[0]}/{state.get('Label') or self.sfn.new_uuid()}"
        given = {name: fields.number(state, name) for name in TOLERANCES}
        self.tolerated = {TOLERANCES[name] for name, value in given.items() if value is not None}
        """The tolerances that hold. One that was not given holds only when both were not."""
        self.record: dict[str, Any] = {
            "mapRunArn": self._arn("mapRun", self.sfn.new_uuid()),
            "executionArn": execution["executionArn"],
            "status": "RUNNING",
            "startDate": self.sfn.now_iso(),
            "maxConcurrency": int(fields.number(state, "MaxConcurrency") or 0),
            "toleratedFailurePercentage": float(given["ToleratedFailurePercentage"] or 0),
            "toleratedFailureCount": int(given["ToleratedFailureCount"] or 0),
            "itemCounts": dict.fromkeys(COUNTED, 0),
            "executionCounts": dict.fromkeys(COUNTED, 0),
            "redriveCount": 0,
            "_stateMachineArn": self._arn("stateMachine"),
        }
        self.waiting: deque[tuple[int, tuple[Any, int]]] = deque()
        self.left: list[tuple[int, tuple[Any, int]]] = []
        """What was waiting when the Map Run ended."""
        self.children: list[Any] = []
        self.running: dict[str, dict[str, Any]] = {}
        self.workers = 0
        self.lock = threading.Lock()
        self.scope = stopping.Scope()
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def _arn(self, kind: str, *name: str) -> str:
        return ":".join([self.place[0], kind, self.place[1], *name])

    def run(self) -> Any:
        """Run all children and return the state's output and next state."""
        arn = self.record["mapRunArn"]
        self.sfn._map_runs[arn] = self.record
        map_runs[arn] = self
        started = {"mapRunStartedEventDetails": {"mapRunArn": arn}}
        self.sfn._add_event(self.execution, "MapRunStarted", started)
        try:
            self._read()
            try:
                with stopping.Scope.waking(lambda: self._end("ABORTED")):
                    self.fill()
                    self.ended.get()
            finally:
                self._end("ABORTED")
                result = self._result()
            if self.record["status"] == "FAILED":
                raise self.sfn._ExecutionError(
                    "States.ExceedToleratedFailureThreshold",
                    "The specified tolerated failure threshold was exceeded",
                )
        except self.sfn._ExecutionError as error:
            self._end("FAILED")
            self.record["status"] = "FAILED"
            failed = {"mapRunFailedEventDetails": {"error": error.error, "cause": error.cause}}
            self.sfn._add_event(self.execution, "MapRunFailed", failed)
            raise
        finally:
            del map_runs[arn]
        self.sfn._add_event(self.execution, "MapRunSucceeded")
        return self.fields.output(result)

    def _read(self) -> None:
        items = self.fields.items()
        self.waiting.extend(enumerate(self.fields.inputs(items)))
        self.children = [None] * len(self.waiting)
        for counts, n in (("itemCounts", len(items)), ("executionCounts", len(self.children))):
            self.record[counts] |= {"total": n, "pending": n}

    def fill(self) -> None:
        """Start as many workers as there is room for, and end the Map Run when it has nothing to do."""
        with self.lock:
            new = max(min(self._limit() - self.workers, len(self.waiting)), 0)
            self.workers += new
        self._settle()
        for _ in range(new):
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(self._work,), daemon=True, name="child").start()

    def updated(self, fields: set[str]) -> None:
        """Do as `record` says now; fields: those that UpdateMapRun was given."""
        self.tolerated |= fields & set(TOLERANCES.values())
        self.fill()

    def _limit(self) -> int:
        return min(self.record["maxConcurrency"] or DISTRIBUTED_MAP_LIMIT, DISTRIBUTED_MAP_LIMIT)

    def _count(self, items: int, before: str, after: str) -> None:
        for counts, n in ((self.record["itemCounts"], items), (self.record["executionCounts"], 1)):
            # In one step: who looks in between must not see an item twice, or not at all.
            counts.update({before: counts[before] - n, after: counts[after] + n})

    def _work(self) -> None:
        while True:
            with self.lock:
                if not self.waiting or self.workers > self._limit():
                    self.workers -= 1
                    return
                index, (data, items) = self.waiting.popleft()
                self._count(items, "pending", "running")
                child = self.children[index] = self._child(data, items)
                self.running[child["executionArn"]] = child
            self._run_child(child, data)

    def _child(self, data: Any, items: int) -> dict[str, Any]:
        """The record of a new child execution, which the API tells of as of any execution."""
        name = self.sfn.new_uuid()
        arn = self._arn("execution", name)
        if self.express:
            name = f"{name}:{self.sfn.new_uuid()}"
            arn = self._arn("express", name)
        child = {
            "executionArn": arn,
            "stateMachineArn": self.record["_stateMachineArn"],
            "mapRunArn": self.record["mapRunArn"],
            "name": name,
            "status": "RUNNING",
            "startDate": self.sfn.now_iso(),
            "stopDate": None,
            "input": json.dumps(data),
            "inputDetails": {"included": True},
            "output": None,
            "outputDetails": {"included": True},
            "testCase": self.execution.get("testCase"),
            "mockAttempts": {},
            "itemCount": items,
            "events": [],
        }
        self.sfn._executions[arn] = child
        return child

    def _run_child(self, child: dict[str, Any], data: Any) -> None:
        ctx = {
            "QueryLanguage": self.fields.ctx["QueryLanguage"],
            "Execution": {
                "Id": child["executionArn"],
                "Input": data,
                "Name": child["name"],
                "RoleArn": self.fields.ctx["Execution"].get("RoleArn"),
                "StartTime": child["startDate"],
            },
            "StateMachine": {"Id": child["stateMachineArn"], "Name": self.place[1]},
            "variables": {},
        }
        end: dict[str, Any] = {"status": "ABORTED"}
        with stopping.running(child["executionArn"], self.scope):
            try:
                output = self.sfn._run_sub_machine(
                    self.processor["States"], self.processor["StartAt"], data, child, ctx
                )
                end = {"status": "SUCCEEDED", "output": json.dumps(output)}
            except self.sfn._ExecutionError as error:
                end = {"status": "FAILED", "error": error.error, "cause": error.cause}
            except Exception as error:
                end = {"status": "FAILED", "error": "States.Runtime", "cause": str(error)}
        with self.lock:
            if child["status"] == "RUNNING":
                child.update(end, stopDate=self.sfn.now_iso())
            if self.running.pop(child["executionArn"], None):
                self._count(child["itemCount"], "running", child["status"].lower())
        self._settle()

    def _settle(self) -> None:
        """End the Map Run if too many items have failed, or none is left."""
        with self.lock:
            counts = self.record["itemCounts"].copy()
        limits = {
            "toleratedFailureCount": self.record["toleratedFailureCount"],
            "toleratedFailurePercentage": self.record["toleratedFailurePercentage"] * counts["total"] / 100,
        }
        failed = counts["failed"] + counts["timedOut"]
        if any(failed > limits[name] for name in self.tolerated or limits):
            self._end("FAILED")
        elif not counts["pending"] + counts["running"]:
            self._end("SUCCEEDED")

    def _end(self, status: str) -> None:
        """End the Map Run with what runs in it, unless it has ended."""
        with self.lock:
            if "stopDate" in self.record:
                return
            now = self.sfn.now_iso()
            self.left = list(self.waiting)
            self.waiting.clear()
            for child in self.running.values():
                if child["status"] == "RUNNING":
                    child.update(status="ABORTED", stopDate=now)
                self._count(child["itemCount"], "running", "aborted")
            self.running.clear()
            for name in ("itemCounts", "executionCounts"):
                counts = self.record[name]
                counts["resultsWritten"] = counts["total"] - counts["pending"]
            self.record |= {"status": status, "stopDate": now}
        self.ended.put(None)
        self.scope.stop()

    def _result(self) -> Any:
        """The results in the order of the items, or where they are written."""
        writer = self.fields.state.get("ResultWriter", {})
        children = [child for child in self.children if child]
        if "Resource" in writer:
            waiting = [data for _, (data, _) in self.left]
            return map_results.write(self.fields, self.record["mapRunArn"], children, waiting)
        config = self.fields.value(writer.get("WriterConfig", {}))
        return list(map_results.transformed(children, config.get("Transformation", "COMPACT")))


def run_distributed_map(sfn: Any) -> Callable[..., Any]:
    """A Distributed Map is a Map Run, which fails early, is stopped with its children, and can be updated."""

    def corrected(
        state: State, raw_input: Any, effective: Any, processor: State, execution: Any, ctx: dict[str, Any]
    ) -> Any:
        return MapRun(Fields(sfn, state, raw_input, effective, ctx), processor, execution).run()

    return corrected


def update_map_run(update: Callable[..., Any]) -> Callable[..., Any]:
    """UpdateMapRun takes effect on a Map Run that runs."""

    def corrected(data: dict[str, Any]) -> Any:
        answer = update(data)
        if run := map_runs.get(data.get("mapRunArn", "")):
            run.updated(set(data))
        return answer

    return corrected


def forget(sfn: Any, machine: str) -> None:
    """Drop what has ended of a state machine's executions, children and Map Runs, histories included."""
    for records in (sfn._executions, sfn._map_runs):
        for arn, record in list(records.items()):
            of = record.get("_stateMachineArn") or record["stateMachineArn"]
            if (of == machine or of.startswith(f"{machine}/")) and record["status"] != "RUNNING":
                records.pop(arn, None)


def executions_go_with_their_machine(
    sfn: Any, delete: Callable[..., Any], machine: Callable[..., str]
) -> Callable[..., Any]:
    """A state machine that is deleted takes with it what its executions and their children told.

    machine: the ARN, of what `delete` is given. ministack keeps that for ever, but for the executions
    themselves where DeleteStateMachine is called. How long it is told of on AWS, nobody documents.
    """

    def corrected(*given: Any) -> Any:
        answer = delete(*given)
        forget(sfn, machine(*given))
        return answer

    return corrected


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn
    from ministack.services.cloudformation import provisioners

    machine = provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
    machine["delete"] = executions_go_with_their_machine(
        sfn, machine["delete"], lambda arn, properties: str(arn)
    )
    sfn._delete_state_machine = executions_go_with_their_machine(
        sfn, sfn._delete_state_machine, lambda data: str(data.get("stateMachineArn", ""))
    )

    sfn._run_distributed_map = run_distributed_map(sfn)
    sfn._update_map_run = update_map_run(sfn._update_map_run)
