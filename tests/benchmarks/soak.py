"""Whether one embedded engine stays as it is, run after run: `python -m tests.benchmarks.soak`.

RUNS runs of ITEMS items each on one engine, a fifth of them siphoned, in turn with Lambda workers and with a
fleet. Every trace must obey the laws. After each run: resident memory, open files, threads and processes of
this process and of the engine with all below it, what the engine keeps of executions, and its folder's size.

Flat means: after WARM_UP runs, the Theil-Sen slope (the median of the slopes of all pairs, so that one odd
run does not count) is below LIMITS. Memory: 1 MB a run is 1 kB an item, a tenth of what an item's history
takes, so no item can have stayed. What stays are records that AWS keeps, too: of deleted stacks, with their
templates, and CloudWatch's metrics. All else is counted: less than one in ten runs. Prints a table and the
verdict; exit 1 unless all holds.
--runs N: another number of runs.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil

from helpers import Experiment, checks, connect
from helpers.checks import LawBroken
from helpers.engines import Engine
from helpers.engines.embedded import Server

RUNS = 25
ITEMS = 1_000
WARM_UP = 5
SETTLE_SECONDS = 1.0
"""Between a run and the look at what is left of it."""
LIMITS = {
    "runner MB": 1.0,
    "runner files": 0.1,
    "runner threads": 0.1,
    "engine MB": 1.0,
    "engine files": 0.1,
    "engine threads": 0.1,
    "processes": 0.1,
    "executions": 0.1,
    "folder MB": 0.1,
}
"""What each may rise by from run to run."""


def main() -> None:
    """Run everything and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    server = Server.start()
    try:
        with connect("embedded", endpoint=server.endpoint_url) as engine, kept(engine) as executions:
            rows = [measured(server, engine, executions, number) for number in range(runs)]
    finally:
        server.stop()
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.1f}".format))
    wrong = list(judged(table))
    print("\n".join(wrong) or f"flat: all laws hold in {runs} runs of {ITEMS:,} items, nothing rises")
    sys.exit(bool(wrong))


def measured(server: Server, engine: Engine, executions: "Executions", number: int) -> dict[str, Any]:
    """One run, and what is there after it."""
    experiment = Experiment(
        ITEMS,
        siphon_share=0.2,
        map_concurrency=100,
        worker_concurrency=20,
        direct_seconds=0.02,
        limited_seconds=0.05,
        consumer=("lambda", "fleet")[number % 2],
        seed=number,
    )
    began = time.monotonic()
    trace = engine.run(experiment, progress=False)
    seconds = time.monotonic() - began
    law = "all"
    try:
        checks.verify(trace)
    except LawBroken as broken:
        law = str(broken)
    del trace
    time.sleep(SETTLE_SECONDS)
    row = {"run": number, "consumer": experiment.consumer, "s": seconds, "laws": law}
    found = usage(server) | {"executions": executions.told(engine)}
    print(f"run {number + 1}: {found}", file=sys.stderr)
    return row | found


def usage(server: Server) -> dict[str, float]:
    """What this process and the engine take."""
    own, main_process = psutil.Process(), psutil.Process(server.pid)
    below = main_process.children(recursive=True)
    memory, files, threads = 0.0, 0, 0
    for process in [main_process, *below]:
        with suppress(psutil.NoSuchProcess):
            memory += process.memory_info().rss / 1e6
            files += process.num_fds()
            threads += process.num_threads()
    folder = sum(path.stat().st_size for path in Path(server.directory).rglob("*") if path.is_file())
    return {
        "runner MB": own.memory_info().rss / 1e6,
        "runner files": own.num_fds(),
        "runner threads": own.num_threads(),
        "engine MB": memory,
        "engine files": files,
        "engine threads": threads,
        "processes": 1 + len(below),
        "folder MB": folder / 1e6,
    }


@dataclass
class Executions:
    """The executions of the soak so far, and their Map Runs."""

    started: list[str] = field(default_factory=list)
    map_runs: list[str] = field(default_factory=list)

    def told(self, engine: Engine) -> int:
        """How many of all that ever ran the engine still tells of, children included."""
        client = engine.client("stepfunctions")
        count = 0
        for arn in self.started:
            with suppress(client.exceptions.ExecutionDoesNotExist):
                client.describe_execution(executionArn=arn)
                count += 1
        for arn in self.map_runs:
            with suppress(client.exceptions.ResourceNotFound):
                pages = client.get_paginator("list_executions").paginate(mapRunArn=arn)
                count += sum(len(page["executions"]) for page in pages)
        return count


@contextmanager
def kept(engine: Engine) -> Iterator[Executions]:
    """Notes every execution that starts here, and its Map Runs before its stack goes."""
    found = Executions()
    client = engine.client("stepfunctions")

    def started(parsed: dict[str, Any], **_: Any) -> None:
        found.started.append(parsed["executionArn"])

    def deleting(**_: Any) -> None:
        runs = client.list_map_runs(executionArn=found.started[-1])["mapRuns"]
        found.map_runs += [run["mapRunArn"] for run in runs]

    client.meta.events.register("after-call.sfn.StartExecution", started)
    engine.client("cloudformation").meta.events.register("before-call.cloudformation.DeleteStack", deleting)
    yield found


def slope(values: list[float]) -> float:
    """The Theil-Sen slope: the median of (y2 - y1) / (x2 - x1) over all pairs (Sen, 1968)."""
    pairs = combinations(enumerate(values), 2)
    return median((later - earlier) / (x2 - x1) for (x1, earlier), (x2, later) in pairs)


def judged(table: pd.DataFrame) -> Iterator[str]:
    """What is wrong, a sentence each; tells each slope on standard error."""
    for run, law in zip(table["run"], table["laws"], strict=True):
        if law != "all":
            yield f"run {run}: {law}"
    for name, limit in LIMITS.items():
        rise = slope(table[name].iloc[WARM_UP:].tolist())
        print(f"{name}: {rise:+.3f} a run (limit {limit})", file=sys.stderr)
        if rise >= limit:
            yield f"{name}: rises by {rise:.2f} from run to run, and {limit} counts as flat"


if __name__ == "__main__":
    main()
