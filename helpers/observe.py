"""Observe any execution on a live engine, ours or not: where its time went, what failed, what held it back.

Only reads: the execution, its Map Runs and children with their histories (`reader`, `history`), the queue of
its callback state, the event source mapping behind that, and the workers' logs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import live, metrics
from helpers.console import Bar
from helpers.engines.base import Engine
from helpers.errors import ObserveError
from helpers.experiment import DISTRIBUTED_MAP_LIMIT, Experiment, empirical
from helpers.files import write_whole
from helpers.formatting import plain
from helpers.observing import diagnosis, history, items
from helpers.observing.history import Attempt
from helpers.observing.items import Case
from helpers.observing.reader import PAGE, Reader, check
from helpers.trace import ITEM_TIMES, LANES, Trace

__all__ = ["Observation", "execution"]

SAMPLE = 1000
"""Children that are read where calls have quotas, unless asked otherwise: 50 s at 20 histories a second."""
READERS = 16
INLINE_MAP_LIMIT = 40
"""Iterations of an inline Map at once (Step Functions developer guide, 2026-11-24)."""
YEAR_SECONDS = 31_536_000
FUNCTION_SECONDS = 900
"""The longest that a callback may wait, and a function run (Step Functions and Lambda quotas, 2026-11-24)."""
CALLBACK = "sqs:sendMessage.waitForTaskToken"
NAN = float("nan")

States = Mapping[str, Mapping[str, Any]]
"""States of a definition by their name."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen of an execution. Times are float seconds since it started, NaN where they never came.

    arn, status, error ("" or the execution's own error and cause).
    children: all child executions; without a Map Run, an inline Map's iterations or the execution itself.
        name, item (as in the trace, -1 where unknown), status, arrival, returned, error.
    trace: the items that ended and were read. Its experiment says how many there are in all, what the account
        allows as far as it tells, and how long the tasks took.
    states: one row an attempt of a state in what was read. item (-1 outside of the children, too), state,
        attempt (from 1 in each visit), scheduled, started (by the worker, where its answer tells), ended,
        outcome (succeeded, failed, throttled, timed_out, aborted or running), error, waiting and service (s).
        A callback that was not answered well has only waited, as far as one can see.
    failures, slowest: see `diagnosis`. notes: what the engine does not tell, what was sampled or estimated.
    diagnosis: what it comes to, in sentences.
    """

    arn: str
    status: str
    error: str
    children: pd.DataFrame
    trace: Trace
    states: pd.DataFrame
    failures: pd.DataFrame
    slowest: pd.DataFrame
    notes: tuple[str, ...]
    diagnosis: tuple[str, ...]

    def by_state(self) -> pd.DataFrame:
        """One row a state: attempts, outcomes, median and p95 of waiting and service; see `diagnosis`."""
        return diagnosis.by_state(self.states)

    def to_dict(self) -> dict[str, Any]:
        """All but the rows of the items, attempts and children, JSON-able."""
        tables = {"states": self.by_state(), "failures": self.failures, "slowest": self.slowest}
        return {
            "arn": self.arn,
            "status": self.status,
            "error": self.error,
            "engine": self.trace.engine,
            "started": self.trace.started,
            "children": {str(k): int(n) for k, n in self.children["status"].value_counts().items()},
            "peak_children": diagnosis.peak(self.children["arrival"], self.children["returned"]),
            "items_read": len(self.trace.items),
            "experiment": self.trace.experiment.to_dict(),
            "summary": metrics.summary(self.trace) if len(self.trace.items) else None,
            **{name: _records(table) for name, table in tables.items()},
            "notes": list(self.notes),
            "diagnosis": list(self.diagnosis),
        }

    def _with_all_children(self) -> Trace:
        """The trace with those children too that run still or were not read, to be counted."""
        others = self.children[~self.children["item"].isin(self.trace.items["item"])]
        others = others.assign(item=-1 - np.arange(len(others)), lane=LANES[0], attempts=0, outcome="failed")
        return replace(self.trace, items=pd.concat([self.trace.items, others]))

    def save(self, folder: Path) -> Path:
        """Write trace.parquet, observation.json, timeline.png, latency.png and states.png into a folder."""
        from helpers import plots

        self.trace.save(folder / "trace.parquet")
        write_whole(folder / "observation.json", json.dumps(self.to_dict(), indent=1))
        figures: dict[str, Callable[[Any], Any]] = {
            "timeline": lambda ax: plots.timeline(self._with_all_children(), ax),
            "latency": lambda ax: plots.latency(self.trace, ax),
            "states": lambda ax: plots.states(self.by_state(), ax),
        }
        for name, draw in figures.items():
            plots.save(folder / f"{name}.png", draw)
        return folder


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON holds them, with None for NaN; their texts may hold half a surrogate pair."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def execution(engine: Engine, arn: str, sample: int | None = None, progress: bool = True) -> Observation:
    """Observe an execution by its ARN, also one that still runs.

    sample: read at most so many children, evenly spread by their start; None: all where calls have no quotas,
    else at most SAMPLE. How many there are, and when each ran, is of all of them in any case.
    Raises ObserveError for what is no ARN of a Standard execution, one that does not exist, and a permission
    that is missing; what an observation can do without becomes a note.
    """
    check(arn)
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
        raise ObserveError(f"sample={sample!r}: must be a whole number of children from 1; or leave it out")
    reader = Reader(engine)
    described = reader.call("stepfunctions", "describe_execution", executionArn=arn)
    machine = reader.optional("stepfunctions", "describe_state_machine_for_execution", executionArn=arn)
    definition = json.loads(machine["definition"]) if machine else {}
    states = dict(_states(definition))
    runs = [
        reader.call("stepfunctions", "describe_map_run", mapRunArn=run["mapRunArn"])
        for run in reader.pages("stepfunctions", "list_map_runs", "mapRuns", executionArn=arn)
    ]
    cases, outside = (
        _children(reader, runs, dict(_states(definition, of_children=True)), sample, progress)
        if runs
        else _own(reader, described, states)
    )
    settings = {"items": max(1, len(cases), sum(run["executionCounts"]["total"] for run in runs))}
    ours = items.number(cases, settings["items"])
    functions = _limits(reader, states, cases, settings)
    logged = _logged(reader, states, functions, cases, described) if ours else {}
    workers = settings.get("worker_concurrency")
    rows, tries = items.rows(reader.notes, cases, logged, settings)
    if runs:
        most = [run["maxConcurrency"] for run in runs]
        settings["map_concurrency"] = sum(most) if all(most) else 0
    elif len(cases) > 1:
        inline = [state.get("MaxConcurrency", 0) for state in states.values() if state.get("Type") == "Map"]
        limit = inline[0] if len(inline) == 1 and isinstance(inline[0], int) else 0
        settings["map_concurrency"] = min(limit or INLINE_MAP_LIMIT, INLINE_MAP_LIMIT)
    trace = _trace(reader, described, rows, tries, settings, workers)
    began = described["startDate"].timestamp()
    children = _frame(
        [(c.name, c.number, c.status, c.arrival - began, c.returned - began, c.error) for c in cases],
        ["name", "item", "status", "arrival", "returned", "error"],
    )
    table = _table(cases, outside, began)
    failed = diagnosis.failures(children, table, trace)
    status, seconds = described["status"], _epoch(described, "stopDate", time.time()) - began
    error = "" if status == "SUCCEEDED" else ": ".join(filter(None, map(described.get, ("error", "cause"))))
    said = diagnosis.sentences(status, error, seconds, children, trace, table, failed)
    return Observation(
        arn,
        status,
        error,
        children,
        trace,
        table,
        failed,
        diagnosis.slowest(children, trace),
        tuple(map(plain, dict.fromkeys(reader.notes))),
        tuple(map(plain, said)),
    )


def _epoch(found: Mapping[str, Any], name: str, otherwise: float = NAN) -> float:
    return float(found[name].timestamp()) if found.get(name) else otherwise


def _states(
    definition: Mapping[str, Any], of_children: bool = False
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All states of a definition with their names; or those of its Distributed Maps' children alone."""
    for name, state in definition.get("States", {}).items():
        processor = state.get("ItemProcessor") or state.get("Iterator") or {}
        distributed = processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
        if not of_children:
            yield name, state
        for inner in (processor, *state.get("Branches", [])):
            yield from _states(inner, of_children and not distributed)


def _arguments(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a Task passes on, in either query language; an expression tells nothing."""
    given = state.get("Parameters") or state.get("Arguments")
    return given if isinstance(given, dict) else {}


def _children(
    reader: Reader, runs: list[dict[str, Any]], states: States, sample: int | None, progress: bool
) -> tuple[list[Case], list[Attempt]]:
    """All children by their start; those that are read, with their histories."""
    total, executions = (sum(run[f"{k}Counts"]["total"] for run in runs) for k in ("item", "execution"))
    shown: dict[str, Any] = {"delay": live.BAR_AFTER_SECONDS, "leave": False, "disable": not progress}
    listed = (
        child
        for arguments in [{"mapRunArn": run["mapRunArn"], "maxResults": PAGE} for run in runs]
        for child in reader.pages("stepfunctions", "list_executions", "executions", **arguments)
    )
    cases = []
    for child in Bar(listed, "children", executions, **shown):
        times = _epoch(child, "startDate"), _epoch(child, "stopDate")
        cases.append(Case(child["name"], child["status"], *times, child["executionArn"]))
    cases.sort(key=lambda case: (case.arrival, case.name))
    most = min(sample or (SAMPLE if reader.engine.paced else len(cases)), len(cases))
    chosen = [cases[place] for place in np.linspace(0, len(cases) - 1, most).round().astype(int)]
    kept = [case for case in chosen if ":express:" not in case.arn]

    def read(case: Case) -> bool:
        arguments = {"executionArn": case.arn, "maxResults": PAGE}
        events = reader.pages("stepfunctions", "get_execution_history", "events", **arguments)
        told = history.read(events, states, case.status, case.returned)
        case.attempts, case.result, case.error, case.read = told.attempts, told.output, told.error, True
        if not told.whole:
            child = reader.call("stepfunctions", "describe_execution", executionArn=case.arn)
            case.result, case.error = history.loads(child.get("output")), child.get("error", "")
        return told.whole

    with ThreadPoolExecutor(READERS) as pool:
        whole = list(Bar(pool.map(read, kept), "histories", len(kept), **shown))
    read_of = (
        f"Of {len(cases):,} children {most:,}, evenly spread, were read; their number and times are of all."
    )
    for true, note in (
        (most < len(cases), read_of),
        (len(kept) < most, f"{most - len(kept):,} children are Express: their history is in their logs."),
        (not all(whole), "Of a child this engine's history has the tasks alone, and not when they started."),
        (len(runs) > 1, f"{len(runs)} Map Runs are taken together, and their limits are added."),
        (total > executions, f"{total:,} items are in batches: what is called an item here is a child."),
    ):
        if true:
            reader.notes.append(note)
    return cases, []


def _own(reader: Reader, described: dict[str, Any], states: States) -> tuple[list[Case], list[Attempt]]:
    """An execution without Map Runs: the iterations of its inline Map or itself, and what is outside them."""
    arguments = {"executionArn": described["executionArn"], "maxResults": PAGE}
    events = reader.pages("stepfunctions", "get_execution_history", "events", **arguments)
    times = _epoch(described, "startDate"), _epoch(described, "stopDate")
    told = history.read(events, states, described["status"], times[1])
    cases = [
        Case(each.name, each.status, each.started, each.ended, read=True) for each in told.iterations.values()
    ]
    if cases:
        inside = dict(zip(told.iterations, cases, strict=True))
        for attempt in told.attempts:
            if attempt.iteration is not None:
                inside[attempt.iteration].attempts.append(attempt)
        return cases, [attempt for attempt in told.attempts if attempt.iteration is None]
    if any(state.get("Type") == "Map" for state in states.values()):
        reader.notes.append(
            "The history does not tell the Map's iterations apart: the execution is taken as one item. Tasks "
            "that ran at once are matched with their ends first in, first out: how many there were is exact, "
            "how long each took is not."
        )
    result, error = history.loads(described.get("output")), described.get("error", "")
    case = Case(described["name"], described["status"], *times, described["executionArn"])
    case.attempts, case.result, case.error, case.read = told.attempts, result, error, True
    return [case], []


def _limits(reader: Reader, states: States, cases: list[Case], settings: dict[str, Any]) -> list[str]:
    """Enter what limits the callback state through the queue, if there is one; return its functions."""
    state = next((s for s in states.values() if str(s.get("Resource")).endswith(CALLBACK)), None)
    sent = next((attempt for case in cases for attempt in case.attempts if attempt.queued), None)
    if state is None and sent is None:
        return []
    state, told = state or {}, sent.details if sent else {}
    timeout = told.get("timeoutInSeconds") or state.get("TimeoutSeconds")
    heartbeat = told.get("heartbeatInSeconds") or state.get("HeartbeatSeconds")
    if timeout is None and state and "TimeoutSecondsPath" not in state:
        timeout = YEAR_SECONDS
        reader.notes.append("The callback has no TimeoutSeconds: a token that is lost holds it for a year.")
    if isinstance(timeout, int):
        settings["task_timeout_seconds"] = timeout = min(max(timeout, 2), YEAR_SECONDS)
        if isinstance(heartbeat, int) and 1 <= heartbeat < timeout:
            settings["heartbeat_seconds"] = heartbeat
    else:
        reader.notes.append("The callback's timeout is not told here: task_timeout_seconds is the default.")
    sending = history.loads(told.get("parameters"))
    url = str((sending if isinstance(sending, dict) else _arguments(state)).get("QueueUrl"))
    if not url.startswith("http"):
        reader.notes.append(
            "Which queue the callback uses is not told here: its limits are left as they are."
        )
        return []
    queue = reader.optional("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
    if queue is None:
        return []
    attributes = queue["Attributes"]
    redrive = history.loads(attributes.get("RedrivePolicy")) or {}
    settings["max_receive_count"] = int(redrive.get("maxReceiveCount", 1000))
    if not redrive:
        reader.notes.append("The queue has no dead-letter queue: a message that fails comes back for days.")
    listed = reader.optional("lambda", "list_event_source_mappings", EventSourceArn=attributes["QueueArn"])
    mappings = [
        m for m in (listed or {}).get("EventSourceMappings", []) if "Disabl" not in m.get("State", "")
    ]
    settings["consumer"] = "lambda" if mappings else "fleet"
    visibility = int(attributes["VisibilityTimeout"])
    timeout = min(max(visibility, 1), FUNCTION_SECONDS)
    functions = [str(mapping["FunctionArn"]) for mapping in mappings]
    if mappings:
        most = [mapping.get("ScalingConfig", {}).get("MaximumConcurrency") for mapping in mappings]
        if all(most):
            settings["worker_concurrency"] = sum(most)
        settings["batch_size"] = mappings[0].get("BatchSize", 10)
        settings["batch_window_seconds"] = mappings[0].get("MaximumBatchingWindowInSeconds", 0)
        function = reader.optional("lambda", "get_function_configuration", FunctionName=functions[0]) or {}
        timeout = min(function.get("Timeout", timeout), FUNCTION_SECONDS)
    settings["function_timeout_seconds"] = timeout
    settings["visibility_timeout_seconds"] = max(visibility, timeout)
    if visibility < timeout:
        reader.notes.append(
            f"The queue hides messages for {visibility} s, but its function may take {timeout} s: a message "
            f"may be served twice. visibility_timeout_seconds is given as {timeout}."
        )
    return functions


def _logged(
    reader: Reader, states: States, functions: list[str], cases: list[Case], described: dict[str, Any]
) -> dict[int, list[dict[str, Any]]]:
    """The attempts of each item by their start, from the logs of workers that are the lab's."""
    invoked = [_arguments(state).get("FunctionName") for state in states.values()]
    groups = []
    for name in dict.fromkeys([*(n for n in invoked if isinstance(n, str) and "{%" not in n), *functions]):
        if found := reader.optional("lambda", "get_function_configuration", FunctionName=name):
            default = f"/aws/lambda/{found['FunctionName']}"
            groups.append(found.get("LoggingConfig", {}).get("LogGroup") or default)
    since = _epoch(described, "startDate") - reader.engine.clock_seconds
    until = _epoch(described, "stopDate", time.time())
    window = {"startTime": int(since * 1000), "endTime": int((until + FUNCTION_SECONDS) * 1000)}
    # A fleet logs where it runs: only the functions' answers are to be looked for.
    own = [case for case in cases if functions or not any(attempt.queued for attempt in case.attempts)]
    answers = [a for case in own if (a := items.told_by(case, [])).get("item") == case.number]
    while True:
        lines = []
        for group in dict.fromkeys(groups):
            try:
                events = reader.pages("logs", "filter_log_events", "events", logGroupName=group, **window)
                lines += [event["message"].rstrip("\n") for event in events]
            except ObserveError as error:
                reader.notes.append(f"Left out: {error}.")
        seen = live.parse_log(lines)
        missing = [a for a in answers if seen.get(live.attempt_key(a), {}).get("outcome") in (None, "lost")]
        # What has just been logged may be on its way.
        if not missing or time.time() > until + reader.engine.log_seconds:
            break
        time.sleep(reader.engine.poll_seconds)
    for answer in missing:  # the answer tells as much as the log
        times = {"start": answer["service_start"], "end": answer["service_end"]}
        seen[live.attempt_key(answer)] = {**answer, **times, "outcome": "succeeded"}
    by_item: dict[int, list[dict[str, Any]]] = {}
    for attempt in sorted(seen.values(), key=lambda attempt: attempt.get("start", 0)):
        if since <= attempt.get("start", 0) <= until:
            by_item.setdefault(attempt["item"], []).append(attempt)
    return by_item


def _trace(
    reader: Reader,
    described: dict[str, Any],
    rows: list[dict[str, Any]],
    attempts: list[dict[str, Any]],
    settings: dict[str, Any],
    workers: int | None,
) -> Trace:
    """The trace, with an experiment that these settings and what was measured make up."""
    engine, began = reader.engine, described["startDate"].timestamp()
    found = pd.DataFrame(rows, columns=["item", "lane", *ITEM_TIMES, "attempts", "outcome"])
    columns = ["item", "attempt", "worker", "start", "end", "outcome"]
    tries = _frame([tuple(map(attempt.get, columns)) for attempt in attempts], columns)
    found[ITEM_TIMES] = found[ITEM_TIMES].astype(float) - began
    tries[["start", "end"]] = tries[["start", "end"]].astype(float) - began
    for lane in LANES:
        own = found[found["lane"] == lane]
        service = (own["service_end"] - own["service_start"]).dropna().clip(lower=0).round(6)
        if len(service):
            settings[f"{lane}_seconds"] = empirical(service.tolist())
    if len(found):
        settings["siphon_share"] = float((found["lane"] == "limited").mean())
        failed = float(tries["outcome"].isin(["failed", "lost"]).mean()) if len(tries) else 0.0
        settings["failure_rate"] = min(failed, 0.99)  # 1 would mean that no attempt ever succeeds
    limited = tries[tries["item"].isin(found["item"][found["lane"] == "limited"])].dropna(subset="end")
    busy = diagnosis.peak(limited["start"], limited["end"], engine.clock_seconds)
    if workers is None and len(limited):
        settings["worker_concurrency"] = busy
        reader.notes.append(f"No mapping limits the workers: worker_concurrency is the most at once, {busy}.")
    at_once = diagnosis.peak(found["arrival"], found["returned"], engine.clock_seconds)
    receives = int(tries["attempt"].max()) if len(tries) else 0
    fewest = 1 if settings.get("consumer") == "fleet" else 2
    # What was allowed when it ran may have been changed since; an Experiment knows limits of its own, too.
    for name, low, high in (
        ("worker_concurrency", max(busy, fewest), 1000),
        ("map_concurrency", at_once if settings.get("map_concurrency") else 0, DISTRIBUTED_MAP_LIMIT),
        ("max_receive_count", receives, 1000),
        ("batch_window_seconds", int(settings.get("batch_size", 1) > 10), 300),
    ):
        told = settings.get(name, getattr(Experiment(1), name))
        settings[name] = min(max(told, low), high)
        if settings[name] != told and name in settings:
            reader.notes.append(f"{name} is {told:,} now; it is given as {settings[name]:,}.")
    return Trace(
        experiment=Experiment(**settings),
        engine=engine.name,
        items=found,
        attempts=tries.sort_values(["start", "item"], ignore_index=True),
        samples=pd.DataFrame(columns=["time", "visible", "in_flight"]),
        started=datetime.fromtimestamp(began, UTC).isoformat(),
        versions=engine.versions(),
        clock_seconds=engine.clock_seconds,
    )


def _frame(rows: list[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """Make a table; pandas holds no half of a surrogate pair, which JSON may: its escape stands for it."""
    texts = [
        [v.encode(errors="backslashreplace").decode() if isinstance(v, str) else v for v in row]
        for row in rows
    ]
    return pd.DataFrame(texts, columns=columns)


def _table(cases: list[Case], outside: list[Attempt], began: float) -> pd.DataFrame:
    """The table `Observation.states`."""
    times = ["scheduled", "started", "served", "ended"]
    columns = ["state", "attempt", *times, "outcome", "error", "queued"]
    of = [*((case.number, case.attempts) for case in cases), (-1, outside)]
    rows = [(item, *attrgetter(*columns)(attempt)) for item, attempts in of for attempt in attempts]
    table = _frame(rows, ["item", *columns])
    table[times] = table[times].astype(float) - began
    queued = table.pop("queued").astype(bool)
    # That its message was sent does not tell that anybody took it.
    table["started"] = table.pop("served").fillna(table["started"].mask(queued))
    unanswered = queued & (table["outcome"] != "succeeded")
    table["waiting"] = table["started"].mask(unanswered, table["ended"]) - table["scheduled"]
    table["service"] = table["ended"] - table["started"].fillna(table["scheduled"].mask(queued))
    return table
