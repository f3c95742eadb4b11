"""What is about to run, in US dollars on AWS: estimated before it begins, noted, and held to a budget.

Estimates are `cost.estimate` at the prices of us-east-1 without the free tier, and warm-up calls at their
most. Not in them: logs, data transfer and storage, retries beyond those planned, the looks at a queue's depth
(four a second: $0.006 an hour), and what a caller asks of clients by himself. The notes go to a ledger, the
file that LAB_LEDGER names, so that the notebooks of one `./lab run` share one budget; where none is named
they last as long as this process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from helpers.console import say
from helpers.errors import BudgetError, shown
from helpers.experiment import Experiment
from helpers.files import open_own, writing

# Every function that knows prices imports `cost` itself: that reads from `live`, which reads from here.

__all__ = [
    "FILE",
    "LEDGER",
    "afford",
    "dollars",
    "noted",
    "of_burst",
    "of_execution",
    "of_idle_day",
    "of_metrics",
    "of_run",
    "of_usage",
    "of_warming",
    "spend",
]

LEDGER = "LAB_LEDGER"
"""The environment variable that names the ledger's file."""
MOST_USD = 1e9
"""The largest amount in a ledger (US dollars); more is a mistake, and would not add up exactly."""
FILE = "ledger.jsonl"
"""What it is called in a run's folder."""
_process: list[dict[str, Any]] = []
_lock = threading.Lock()


def dollars(usd: float) -> str:
    """An amount as it is printed: $1.03, $0.0121, $0.000014."""
    return f"${usd:,.{2 if usd >= 1 or not usd else 4 if usd >= 0.01 else 6}f}"


def spend(what: str, usd: float, limit_usd: float | None = None, quietly: bool = False) -> None:
    """Note that something begins that costs so much at most (US dollars).

    limit_usd: a budget, from which all that was noted before is gone. Within one, the estimate and what is
    then left are printed on standard error, unless `quietly`. Raises BudgetError, and notes nothing, where
    less is left, where an amount is none, or where the ledger is damaged, and FileError where it cannot be
    noted.
    """
    for name, amount in (("estimate", usd), ("budget", 0 if limit_usd is None else limit_usd)):
        if not _is_amount(amount):
            raise BudgetError(
                f"{what}: {name} {shown(amount)}: must be a number of US dollars from 0 to {MOST_USD:,.0f}"
            )
    with _ledger() as entries:
        if limit_usd is not None:
            left = limit_usd - math.fsum(entry["usd"] for entry in entries)
            afford(what, usd, left, limit_usd)
            if not quietly:
                told = (
                    f"{what}: at most {dollars(usd)} on AWS; {dollars(left - usd)} is then left of the budget"
                )
                say(f"{told} {dollars(limit_usd)}", err=True)
        entries.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "what": what, "usd": usd})


def afford(what: str, usd: float, left_usd: float, limit_usd: float) -> None:
    """Raise BudgetError where something costs more than is left of a budget (all in US dollars)."""
    if usd > left_usd:
        raise BudgetError(
            f"{what}: estimate {dollars(usd)}: more than the {dollars(left_usd)} left of the budget "
            f"{dollars(limit_usd)}; use fewer items or a larger --budget"
        )


def noted() -> list[dict[str, Any]]:
    """All notes so far, in order: time (UTC, ISO 8601), what, usd."""
    with _ledger() as entries:
        return list(entries)


@contextlib.contextmanager
def _ledger() -> Iterator[list[dict[str, Any]]]:
    """The notes so far; what the block appends is kept. Other threads, and processes, wait for its end."""
    name = os.environ.get(LEDGER)
    if not name:
        with _lock:
            yield _process
        return
    path = Path(name)
    with _opened(path) as file:
        text = file.read()
        entries = list(_entries(path, text))
        before = len(entries)
        yield entries
        if new := entries[before:]:
            # One write: a crash leaves all of it, or a line that does not end and is found to be damaged.
            line = b"".join(json.dumps(entry).encode() + b"\n" for entry in new)
            with writing(path):
                if file.write(line) < len(line):  # as much of it as a full disk had room for
                    file.truncate(len(text))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open the ledger, make it where it is missing, and hold its lock; no link is followed."""
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with FileIO(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                yield file
                return
        # It was removed while another held the lock: what is noted there, nobody would read.


def _entries(path: Path, text: bytes) -> Iterator[dict[str, Any]]:
    """Read the ledger's lines; raise BudgetError for one that no spending wrote: its amount is not known."""
    *lines, rest = text.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            if line is rest:
                raise ValueError("its line does not end")
            yield _entry(line)
        except (ValueError, RecursionError) as error:
            raise BudgetError(
                f"{path}, line {number}: the ledger is damaged ({error}), so what is spent is not known; "
                "mend the line, or run it again in another folder"
            ) from error


def _entry(line: bytes) -> dict[str, Any]:
    """Return a note from its line of JSON; raise ValueError for anything else."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    entry = json.loads(line, object_pairs_hook=distinct)
    if not isinstance(entry, dict) or entry.keys() != {"time", "what", "usd"}:
        raise ValueError("not an object of time, what and usd")
    if not all(isinstance(entry[name], str) for name in ("time", "what")):
        raise ValueError("time and what must be text")
    if not _is_amount(entry["usd"]):
        raise ValueError(f"usd={shown(entry['usd'])}: must be a number from 0 to {MOST_USD:,.0f}")
    return entry


def _is_amount(usd: object) -> bool:
    """Whether a value is an amount of US dollars that can be added up."""
    return isinstance(usd, int | float) and not isinstance(usd, bool) and 0 <= usd <= MOST_USD


def of_run(experiment: Experiment) -> float:
    """What a run of `combined` costs at most, warm-up calls included (US dollars).

    Of `distributed_map` it costs less: its children have one transition less.
    """
    from helpers import cost, live

    return cost.total(cost.estimate(experiment)) + sum(map(of_warming, live.to_warm(experiment).values()))


def of_burst(experiment: Experiment) -> float:
    """What a burst costs at most: a run's messages and workers, without a state machine (US dollars)."""
    from helpers import cost, live

    bill = cost.estimate(experiment)
    burst = bill["service"].isin(["Lambda", "SQS"]) & ~bill["item"].str.startswith("summary")
    return cost.total(bill[burst]) + sum(map(of_warming, live.to_warm(experiment).values()))


def of_usage(used: Mapping[str, float]) -> float:
    """What so much costs of each price, by its name in `cost.Prices` (US dollars)."""
    from helpers import cost

    return cost.total(cost.bill([(name, name, amount) for name, amount in used.items()]))


def of_warming(environments: int) -> float:
    """What warming so many environments of a function costs at most: every try that there is (US dollars)."""
    from helpers import cost, live

    held = sum(live.WARM_SECONDS * 2**attempt for attempt in range(live.WARM_TRIES))
    lines = [
        ("lambda_request", "warming", environments * live.WARM_TRIES),
        ("lambda_gb_second_arm64", "warming, time", environments * held * cost.MEMORY_GB),
    ]
    return cost.total(cost.bill(lines))


def of_execution(workflow: str, data: Any) -> float:
    """What an execution of the workflow with this input costs at most, if no task is retried (US dollars).

    data: as for `Stack.start`: items under "items", or one under "item". Items that lie in S3 are not known.
    """
    from helpers import cost

    items = data.get("items", [data["item"]] if "item" in data else []) if isinstance(data, dict) else []
    seconds = sum(item.get("task_seconds", 0.0) for item in items)
    states, states_an_item, files, summaries = _shape(workflow)
    lines = [
        ("transition", "execution", states),
        ("transition", "items", states_an_item * len(items)),
        ("lambda_request", "tasks", len(items) + summaries),
        ("lambda_gb_second_arm64", "tasks, time", seconds * cost.MEMORY_GB),
        ("lambda_gb_second_arm64", "summary, time", summaries * cost.SUMMARISE_GB_SECONDS),
        ("sqs_request", "send, receive, delete", 3 * len(items)),
        ("s3_put", "items and results", files),
        ("s3_get", "items and results", files),
    ]
    return cost.total(cost.bill(lines))


def of_idle_day() -> float:
    """What a mapping costs in a day by polling an empty queue (US dollars)."""
    from helpers import cost
    from helpers.fleet_worker import LONG_POLL_SECONDS

    polls = cost.MAPPING_POLLERS * 86_400 / LONG_POLL_SECONDS
    return cost.total(cost.bill([("sqs_request", "empty receives", polls)]))


def of_metrics(metrics: int) -> float:
    """What it costs to ask CloudWatch once for so many metrics (US dollars)."""
    from helpers import cost

    return cost.total(cost.bill([("metric", "GetMetricData", metrics)]))


@functools.cache
def _shape(workflow: str) -> tuple[int, int, int, int]:
    """The most transitions of an execution and of an item in it, files that it writes, and summaries."""
    from helpers import cost, stack

    resources = stack.template(workflow)["Resources"]
    outer, inner = 0, 0
    for resource in resources.values():
        if resource["Type"] == "AWS::StepFunctions::StateMachine":
            machine = json.loads(resource["Properties"]["DefinitionString"])
            outer = max(outer, 1 + _longest(machine, machine["StartAt"]))
            for part in (
                state["ItemProcessor"] for state in machine["States"].values() if "ItemProcessor" in state
            ):
                inner = max(inner, 1 + _longest(part, part["StartAt"]))
    files = 1 + cost.RESULT_FILES if "Bucket" in resources else 0
    return outer, inner, files, int("Summarise" in resources)


def _longest(machine: dict[str, Any], name: str) -> int:
    """How many states there are at most from this one to an end; the lab's machines have no loops."""
    state = machine["States"][name]
    ways = [state, {"Next": state.get("Default")}, *state.get("Choices", []), *state.get("Catch", [])]
    return 1 + max((_longest(machine, way["Next"]) for way in ways if way.get("Next")), default=0)
