"""What a fault is, the place where it is tried, and how its damage is counted."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers import Experiment, Trace, checks, stack
from helpers.engines import Engine

MARK = "LAB_FAULT"
"""The environment variable by which every process that a try starts is known, orphans included."""
ENDS_SECONDS = 15
"""How long what is being ended may take to be gone."""
PATIENCE_SECONDS = 120
"""How long a condition may take to come true, or a process to end, before the try counts as hung."""


SMALL = Experiment(20, siphon_share=0.5, worker_concurrency=2, cold_start=True, limited_seconds=0.05)
"""What runs after a fault, to see that it runs."""


@dataclass(frozen=True)
class Damage:
    """What a try found. items: how many were at stake. left: what nobody cleaned up, by name."""

    items: int
    lost: int = 0
    doubled: int = 0
    left: tuple[str, ...] = ()

    def __add__(self, other: Damage) -> Damage:
        """The damage of both."""
        return Damage(
            self.items + other.items,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.left + other.left,
        )


@dataclass(frozen=True)
class Place:
    """Where a fault is tried: an engine, and an empty folder, in which temporary files lie, too."""

    engine: Engine
    folder: Path

    def start(self, script: str, runs: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start a Python process that runs this script on the engine, its runs/ in the folder, or below it.

        Its output can be read from `stdout` and `stderr`. The script finds `engine` connected, and `helpers`.
        With an empty AWS_ENDPOINT_URL among the environment, the engine is the process's own.
        """
        begin = f"""
            from pathlib import Path
            from helpers import *
            from helpers import live
            from helpers.engines import local
            live.RUNS = Path({str(self.folder / runs)!r})
            local.KEPT = live.RUNS / "kept"
            engine = connect("embedded")
        """
        return self._python(textwrap.dedent(begin) + textwrap.dedent(script), environment)

    def lab(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the command line with these arguments on the engine; its notebooks lie in the folder."""
        begin = f"""
            import sys
            from pathlib import Path
            from helpers import cli, notebooks
            from helpers.engines import local
            notebooks.NOTEBOOKS = Path({str(self.folder)!r})
            local.KEPT = notebooks.NOTEBOOKS / "kept"
            sys.argv = ["lab", *{arguments!r}]
            cli.main()
        """
        return self._python(textwrap.dedent(begin), environment)

    def _python(self, script: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | self.engine.shared() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kept(self, runs: str = "") -> list[Trace]:
        """The traces that interrupted runs saved in the folder, or below it."""
        return [Trace.load(path) for path in sorted((self.folder / runs).glob("interrupted-*.parquet"))]


@dataclass(frozen=True)
class Fault:
    """A fault. injected: how, in words. law: what holds all the same."""

    name: str
    injected: str
    law: str
    inject: Callable[[Place], Damage] = field(repr=False)


_faults: list[Fault] = []


def fault(injected: str) -> Callable[[Callable[[Place], Damage]], Callable[[Place], Damage]]:
    """Make a function a fault of the table; its docstring says what holds all the same.

    The function injects the fault, asserts that what should hold does, a clear error and a re-run that works
    among it, and returns the damage to items. What is left behind is counted around it.
    """

    def register(inject: Callable[[Place], Damage]) -> Callable[[Place], Damage]:
        assert inject.__doc__
        law = " ".join(inject.__doc__.split())
        _faults.append(Fault(inject.__name__, injected, law, inject))
        return inject

    return register


def all_faults() -> list[Fault]:
    """Every fault of this package, in the order of its modules and of their text."""
    import tests.faults as package

    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.faults.{module.name}")
    return list(_faults)


def attempt(tried: Fault, engine: Engine, folder: Path) -> Damage:
    """Try the fault once in an empty folder; the damage, what is left behind included."""
    folder.mkdir(parents=True)
    before = everything(engine)
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as temporary:
        with _marked(temporary) as mark:
            damage = tried.inject(Place(engine, folder))
            left = [f"process {process.pid}" for process in _remaining(mark)]
        left += [path.name for path in Path(temporary).glob("concurrency-lab-*")]
    left += sorted(everything(engine) - before)
    left += [path.name for path in folder.rglob("*.partial")]
    return damage + Damage(0, left=tuple(left))


@contextlib.contextmanager
def _marked(temporary: str) -> Iterator[str]:
    """Let processes that are started carry a mark, and put temporary files into this folder.

    What of them still runs at the end, is killed: a try that fails harms no other.
    """
    mark, old, environment = uuid.uuid4().hex, tempfile.tempdir, dict(os.environ)
    tempfile.tempdir = temporary
    os.environ |= {MARK: mark, "TMPDIR": temporary}
    try:
        yield mark
    finally:
        tempfile.tempdir = old
        os.environ.clear()
        os.environ |= environment
        for process in _running(mark):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _running(mark: str) -> list[psutil.Process]:
    """The processes with the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _remaining(mark: str) -> list[psutil.Process]:
    """The processes with the mark that do not end by themselves in ENDS_SECONDS."""
    give_up = time.monotonic() + ENDS_SECONDS
    while (found := _running(mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return found


def everything(engine: Engine) -> set[str]:
    """The names of all that a workflow could leave on the engine.

    Without the log groups of functions that are there, which another test's function may make at any time.
    """
    names = set(stack.deployed(engine))
    for service, call, key, name in (
        ("sqs", "list_queues", "QueueUrls", None),
        ("s3", "list_buckets", "Buckets", "Name"),
        ("iam", "list_roles", "Roles", "RoleName"),
        ("logs", "describe_log_groups", "logGroups", "logGroupName"),
        ("lambda", "list_functions", "Functions", "FunctionName"),
        ("lambda", "list_event_source_mappings", "EventSourceMappings", "UUID"),
        ("stepfunctions", "list_state_machines", "stateMachines", "name"),
        ("stepfunctions", "list_activities", "activities", "name"),
        ("dynamodb", "list_tables", "TableNames", None),
        ("events", "list_rules", "Rules", "Name"),
        ("pipes", "list_pipes", "Pipes", "Name"),
    ):
        for page in engine.client(service).get_paginator(call).paginate():
            names |= {one if name is None else one[name] for one in page.get(key, [])}
    return names - {f"/aws/lambda/{name}" for name in names}


def said(process: subprocess.Popen[str]) -> str:
    """The line that a process says next; an AssertionError gives its errors when it ends instead."""
    assert process.stdout
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.rstrip("\n")


def ended(process: subprocess.Popen[str]) -> str:
    """What a process says on standard error until it ends, and ends well."""
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output + errors
    return errors


def failed(process: subprocess.Popen[str]) -> str:
    """What a process says until it ends, and does not end well."""
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode != 0, output + errors
    return output + errors


def counts(engine: Engine) -> list[int]:
    """How many items the Map Run of each running execution counts as succeeded."""
    sfn, found = engine.client("stepfunctions"), []
    for machine in sfn.list_state_machines()["stateMachines"]:
        arn = machine["stateMachineArn"]
        for execution in sfn.list_executions(stateMachineArn=arn, statusFilter="RUNNING")["executions"]:
            for run in sfn.list_map_runs(executionArn=execution["executionArn"])["mapRuns"]:
                described = sfn.describe_map_run(mapRunArn=run["mapRunArn"])
                found.append(int(described["itemCounts"]["succeeded"]))
    return found


def counted(engine: Engine) -> int:
    """How many items the Map Runs of all running executions count as succeeded."""
    return sum(counts(engine))


def afterwards(engine: Engine) -> Damage:
    """Run a small experiment on the engine, which must obey all laws; the damage to it."""
    trace = engine.run(SMALL, progress=False)
    checks.verify(trace)
    return damage(trace)


def damage(trace: Trace, expected: set[int] | None = None) -> Damage:
    """What the trace of a run lost and doubled.

    Lost: expected items (all of the experiment, unless told) without an outcome. Doubled: items with more
    than one outcome or more than one answer that counted.
    """
    wanted = set(range(trace.experiment.items)) if expected is None else expected
    rows = trace.items["item"].value_counts()
    counted = trace.attempts.loc[trace.attempts["outcome"] == "succeeded", "item"].value_counts()
    doubled = set(rows.index[rows > 1]) | set(counted.index[counted > 1])
    return Damage(len(wanted), len(wanted - set(rows.index)), len(doubled))
