"""Map Runs: the children of a Distributed Map, how many run at once, when they end, where results go.

ministack runs the children of a Distributed Map to the last and knows no Map Run that fails, is stopped
or updated. This is that state of the language anew, on ministack's stores, paths and state interpreter.
"""

import contextvars
import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import stopping

DISTRIBUTED_MAP_LIMIT = 10_000
"""Child executions at once (Step Functions service quotas, 2026-11-24)."""

State = dict[str, Any]

TOLERANCES = {"ToleratedFailureCount": "toleratedFailureCount"} | {
    "ToleratedFailurePercentage": "toleratedFailurePercentage"
}
COUNTED = (
    *("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total"),
    *("resultsWritten", "failuresNotRedrivable", "pendingRedrive"),
)
"""What MapRunItemCounts and MapRunExecutionCounts count (API reference, 2026-11-24)."""

map_runs: dict[str, "MapRun"] = {}
"""The Map Runs that run, by ARN."""


class Fields:
    """The fields of one Map state, whichever query language they are written in."""

    def __init__(self, sfn: Any, state: State, raw_input: Any, effective: Any, ctx: dict[str, Any]) -> None:
        self.sfn, self.state, self.raw_input, self.effective, self.ctx = sfn, state, raw_input, effective, ctx
        self.jsonata = sfn._state_query_language(state, ctx) == "JSONata"

    def value(self, template: Any, ctx: dict[str, Any] | None = None) -> Any:
        """What a template gives."""
        if self.jsonata:
            return self.sfn._apply_jsonata_template(template, self.raw_input, ctx or self.ctx)
        return self.sfn._resolve_params_obj(template, self.effective, ctx or self.ctx)

    def number(self, holder: State, name: str) -> Any:
        """A number that a field, or its Path form, gives; None without either."""
        if f"{name}Path" in holder:
            return self.sfn._resolve_path_or_ctx(holder[f"{name}Path"], self.effective, self.ctx)
        return self.value(holder[name]) if name in holder else None

    def items(self) -> list[Any]:
        """The items of the Map, read from where it says."""
        if "ItemReader" in self.state:
            reader = self.state["ItemReader"]
            found = self.sfn._read_map_items(
                self.value(reader) if self.jsonata else reader, self.effective, self.ctx
            )
        elif self.jsonata:
            found = self.value(self.state["Items"]) if "Items" in self.state else self.raw_input
        else:
            found = self.sfn._resolve_path_or_ctx(self.state.get("ItemsPath", "$"), self.effective, self.ctx)
        return found if isinstance(found, list) else [found]

    def inputs(self, items: list[Any]) -> Iterator[tuple[Any, int]]:
        """The input of each child, and how many items are in it."""
        selector = self.state.get("ItemSelector") or self.state.get("Parameters")
        selected = (
            self.value(selector, self.ctx | {"Map": {"Item": {"Index": index, "Value": item}}})
            if selector
            else item
            for index, item in enumerate(items)
        )
        if "ItemBatcher" not in self.state:
            return ((item, 1) for item in selected)
        return self._batches(selected, self.state["ItemBatcher"])

    def _batches(self, items: Iterator[Any], batcher: State) -> Iterator[tuple[Any, int]]:
        """Items together, as many as MaxItemsPerBatch and MaxInputBytesPerBatch allow."""
        most, most_bytes = (
            self.number(batcher, name) or float("inf")
            for name in ("MaxItemsPerBatch", "MaxInputBytesPerBatch")
        )
        frame = {"BatchInput": self.value(batcher["BatchInput"])} if "BatchInput" in batcher else {}
        empty = size = _bytes(frame | {"Items": []})
        batch: list[Any] = []
        for item in items:
            added = _bytes(item) + bool(batch)  # a comma
            if batch and (len(batch) == most or size + added > most_bytes):
                yield frame | {"Items": batch}, len(batch)
                batch, size, added = [], empty, _bytes(item)
            batch.append(item)
            size += added
        if batch:
            yield frame | {"Items": batch}, len(batch)

    def output(self, result: Any) -> tuple[Any, Any]:
        """What the state hands on, and to which state."""
        sfn, state = self.sfn, self.state
        if self.jsonata:
            output = sfn._apply_jsonata_output(state, self.raw_input, self.ctx, result=result, default=result)
            sfn._apply_state_assign(state, self.raw_input, self.ctx, result=result)
        else:
            result = sfn._apply_result_selector(state, result)
            output = sfn._apply_result_path(state, self.raw_input, result)
            output = sfn._apply_output_path(state, output, self.ctx)
        return output, sfn._next_or_end(state)


def _bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


class MapRun:
    """One Map Run. `record` is what DescribeMapRun tells, and UpdateMapRun changes."""

    def __init__(self, fields: Fields, processor: State, execution: Any) -> None:
        self.fields, self.processor, self.execution = fields, processor, execution
        self.sfn, state = fields.sfn, fields.state
        *arn, _, machine = execution["stateMachineArn"].split(":")
        self.express = processor["ProcessorConfig"].get("ExecutionType") == "EXPRESS"
        self.id = self.sfn.new_uuid()
        self.place = ":".join(arn), f"{machine.partition('/')[0]}/{state.get('Label') or self.sfn.new_uuid()}"
        given = {name: fields.number(state, name) for name in TOLERANCES}
        self.tolerated = {TOLERANCES[name] for name, value in given.items() if value is not None}
        """The tolerances that hold. One that was not given holds only when both were not."""
        self.record: dict[str, Any] = {
            "mapRunArn": self._arn("mapRun", self.id),
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

    def run(self) -> tuple[Any, Any]:
        """Run all children and return the state's output and next state."""
        arn = self.record["mapRunArn"]
        self.sfn._map_runs[arn] = self.record
        map_runs[arn] = self
        self.sfn._add_event(
            self.execution, "MapRunStarted", {"mapRunStartedEventDetails": {"mapRunArn": arn}}
        )
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
            details = {"error": error.error, "cause": error.cause}
            self.sfn._add_event(self.execution, "MapRunFailed", {"mapRunFailedEventDetails": details})
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
        """The results in the order of the items (of a failed child its record), or where they are written."""
        writer = self.fields.state.get("ResultWriter", {})
        if "Resource" in writer:
            return self._written(writer)
        config = self.fields.value(writer.get("WriterConfig", {}))
        if self.record["status"] == "SUCCEEDED":
            return list(_transformed(self.children, config.get("Transformation", "COMPACT")))

    def _written(self, writer: State) -> dict[str, Any]:
        """Write the results to S3, one file for each outcome, and return where."""
        from ministack.services import s3

        place = self.fields.value(writer.get("Parameters") or writer.get("Arguments") or {})
        config = self.fields.value(writer.get("WriterConfig", {}))
        folder = "/".join(filter(None, [place.get("Prefix"), self.id]))
        jsonl = config.get("OutputType") == "JSONL"

        def put(name: str, content: list[Any] | State) -> dict[str, Any]:
            lines = jsonl and isinstance(content, list)
            text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
            key, body = f"{folder}/{name}", text.encode()
            status, _, _ = s3._put_object(place["Bucket"], key, body, {})
            if status >= 300:
                raise self.sfn._ExecutionError(
                    "States.ResultWriterFailed", f"PutObject to {place['Bucket']} answered {status}"
                )
            return {"Key": key, "Size": len(body)}

        ran = [child for child in self.children if child]
        succeeded = [child for child in ran if child["status"] == "SUCCEEDED"]
        contents = {
            "FAILED": [_told(child) for child in ran if child["status"] != "SUCCEEDED"],
            "PENDING": [
                {"Input": json.dumps(data), "InputDetails": {"Included": True}, "Status": "PENDING"}
                for _, (data, _) in self.left
            ],
            "SUCCEEDED": list(_transformed(succeeded, config.get("Transformation", "NONE"))),
        }
        ending = "jsonl" if jsonl else "json"
        files = {
            outcome: [put(f"{outcome}_0.{ending}", content)] if content else []
            for outcome, content in contents.items()
        }
        manifest = {
            "DestinationBucket": place["Bucket"],
            "MapRunArn": self.record["mapRunArn"],
            "ResultFiles": files,
        }
        key = put("manifest.json", manifest)["Key"]
        return {
            "MapRunArn": self.record["mapRunArn"],
            "ResultWriterDetails": {"Bucket": place["Bucket"], "Key": key},
        }


def _transformed(children: list[Any], transformation: str) -> Iterator[Any]:
    """What a ResultWriter makes of these children: NONE, COMPACT or FLATTEN."""
    for child in children:
        if transformation == "NONE" or child["status"] != "SUCCEEDED":
            yield _told(child)
            continue
        output = json.loads(child["output"])
        if transformation == "FLATTEN" and isinstance(output, list):
            yield from output
        else:
            yield output


def _told(child: dict[str, Any]) -> dict[str, Any]:
    """A child as a ResultWriter tells of it (ResultWriter, developer guide, 2026-11-24)."""
    names = {"executionArn", "input", "name", "output", "error", "cause", "startDate", "stateMachineArn"}
    names |= {"status", "stopDate"}
    told = {name[0].upper() + name[1:]: child[name] for name in names if child.get(name) is not None}
    redrive = {"RedriveStatus": "REDRIVABLE_BY_MAP_RUN"}
    if child["status"] == "SUCCEEDED":
        redrive = {
            "RedriveStatus": "NOT_REDRIVABLE",
            "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
        }
    included = {"InputDetails": {"Included": True}, "OutputDetails": {"Included": True}, "RedriveCount": 0}
    return dict(sorted((told | redrive | included).items()))


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


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import stepfunctions as sfn

    sfn._run_distributed_map = run_distributed_map(sfn)
    sfn._update_map_run = update_map_run(sfn._update_map_run)
