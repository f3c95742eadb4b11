"""Refuse to run more workers than this machine can hold.

An engine on this machine runs each Lambda environment as a process, and a fleet runs its workers in
processes of 25 threads. Too many of them end in "Task timed out" or in a machine without memory, minutes
later. So a run is refused before anything of it starts.
"""

from __future__ import annotations

import bisect
import math
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from helpers.errors import EngineError
from helpers.experiment import Experiment

OVERCOMMIT = "LAB_OVERCOMMIT"
"""The environment variable that, set to 1, lets a run start that does not fit this machine."""
CALLS_A_SECOND = 200
"""Direct tasks that an engine on this machine is assumed to start in a second at most."""
DIRECT = 50
"""Environments that the direct lane is assumed to have at least, as so many are warmed."""
THREADS_A_PROCESS = 25
"""Workers that share one fleet process."""
SPARE = 0.95
"""Share of a free resource that a run may take."""
ROOT = Path("/")
"""Where the files of the system that are read here begin."""


@dataclass(frozen=True)
class Footprint:
    """The cost of one process with workers, the engine's share included.

    Measured by `python -m tests.benchmarks.footprints` on 2026-11-30, on 2 cores with Python 3.11.

    Attributes:
        memory: Bytes of its own, beside the pages that it shares.
        tasks: Processes and threads, which the system counts alike.
        files: File descriptors in the engine.
        calls: Sockets of the process that runs the experiment, as each environment is warmed by one call.
        cpu_seconds: Processor time from its start until it works.
    """

    memory: int
    tasks: int
    files: int
    calls: int = 0
    cpu_seconds: float = 0.0


ENVIRONMENT = Footprint(memory=31_000_000, tasks=6, files=10, calls=1, cpu_seconds=0.3)
"""A Lambda environment of the embedded engine, forked from a process that has boto3 loaded."""
LOCALSTACK_ENVIRONMENT = Footprint(memory=40_000_000, tasks=5, files=8, calls=1, cpu_seconds=0.5)
"""A Lambda environment of LocalStack: a Python of its own that imports boto3."""
FLEET_PROCESS = Footprint(memory=37_000_000, tasks=51, files=28, calls=2)
"""A process of a fleet with all its threads."""


@dataclass(frozen=True)
class Room:
    """What is left of this machine for a run.

    Attributes:
        memory: Bytes that are available to this process and its children.
        tasks: Processes and threads that may still be started.
        files: File descriptors that an engine may open.
        calls: File descriptors that this process may still open.
        cores: Processors that this process may use.
    """

    memory: float
    tasks: float
    files: float
    calls: float
    cores: float


def check(
    experiment: Experiment, environment: Footprint | None, warm: int = 0, room: Room | None = None
) -> None:
    """Raise EngineError when this machine cannot hold the experiment's workers, and say how many fit.

    LAB_OVERCOMMIT=1 lets the experiment start all the same.

    Args:
        experiment: The experiment that is about to run.
        environment: The cost of a Lambda environment; None where the engine is not on this machine, so that
            only a fleet counts.
        warm: Lambda environments that run already, which the experiment takes over or which end before it.
        room: What is left of the machine; by default it is looked up.
    """
    if os.environ.get(OVERCOMMIT) == "1":
        return
    room = room or left()
    direct, limited = _at_once(experiment)

    def short(workers: int) -> str | None:
        kinds = []
        if environment:
            functions = direct + (min(limited, workers) if experiment.consumer == "lambda" else 0)
            kinds.append((max(0, functions - warm), environment))
        if experiment.consumer == "fleet":
            kinds.append((math.ceil(workers / THREADS_A_PROCESS), FLEET_PROCESS))
        return _short(kinds, room, experiment.function_timeout_seconds)

    if (reason := short(experiment.worker_concurrency)) is None:
        return
    fits = bisect.bisect_left(
        range(1, experiment.worker_concurrency), True, key=lambda n: short(n) is not None
    )
    least = 2 if experiment.consumer == "lambda" else 1  # what an Experiment allows
    if fits >= least:
        advice = f"there is room for worker_concurrency={fits}. Use fewer workers"
    elif short(0):
        advice = "the direct lane alone does not fit. Use a lower map_concurrency"
    else:
        advice = f"not even worker_concurrency={least} fits. Free what is short"
    raise EngineError(
        f"worker_concurrency={experiment.worker_concurrency}: {reason}; {advice}, predict the run "
        f"(`./lab predict`, or the simulated engine), or set {OVERCOMMIT}=1 to try it all the same"
    )


def _at_once(experiment: Experiment) -> tuple[int, int]:
    """Return how many items of the direct and of the limited lane may be under way at once.

    The arrivals keep so many direct tasks busy, by Little's law; the limited lane has its workers for limit.
    """
    plan = experiment.plan()
    direct = plan.loc[plan["lane"] == "direct", "task_seconds"]
    busy = math.ceil(CALLS_A_SECOND * float(direct.mean())) if len(direct) else 0
    return min(len(direct), experiment.map_limit, max(DIRECT, busy)), len(plan) - len(direct)


def _short(kinds: list[tuple[int, Footprint]], room: Room, timeout: int) -> str | None:
    """Return which resource does not suffice for so many processes of each kind, or None.

    Args:
        kinds: The number of processes of each kind, and the cost of one.
        room: What is left of the machine.
        timeout: The function's timeout in seconds.
    """
    count = f"{sum(n for n, _ in kinds):,} worker processes"

    def total(name: str) -> float:
        return float(sum(n * getattr(cost, name) for n, cost in kinds))

    if (memory := total("memory")) > SPARE * room.memory:
        return f"{count} need {memory / 1e9:.1f} GB of memory, and {room.memory / 1e9:.1f} GB are available"
    if (tasks := total("tasks")) > SPARE * room.tasks:
        return (
            f"{count} need {tasks:,.0f} processes and threads, and the system allows {room.tasks:,.0f} more "
            "(`ulimit -u`, or the container's limit of pids)"
        )
    for name, whose in (("files", "the engine"), ("calls", "this process")):
        if (files := total(name)) > SPARE * (most := getattr(room, name)):
            return (
                f"{count} need {files:,.0f} open files and sockets in {whose}, which may open {most:,.0f} "
                "(`ulimit -n`)"
            )
    if (seconds := total("cpu_seconds") / room.cores) > timeout:
        return (
            f"{count} take {seconds:.0f} s to start on {room.cores:g} processors, and what runs meanwhile "
            f"ends after function_timeout_seconds={timeout}"
        )
    return None


def left() -> Room:
    """Look up what is left of this machine, of the container, and of this user's limits."""
    memory = [float(psutil.virtual_memory().available), *_cgroup_memory()]
    tasks = [float(limit - used) for limit, used in (*_cgroup_tasks(), *_user_tasks())]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room(
        memory=min(memory),
        tasks=min(tasks, default=math.inf),
        files=_finite(hard),
        calls=_finite(soft) - psutil.Process().num_fds(),
        cores=_cores(),
    )


def _finite(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else float(limit)


def _cores() -> float:
    """The processors that this process may use, a container's share of them included."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroups("cpu"):
        quota, period = (*_words(folder / "cpu.max"), "", "")[:2]
        if not quota:
            quota, period = (_word(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, int(quota) / int(period))
    return cores


def _cgroup_memory() -> Iterator[float]:
    """Bytes that each control group has left; cached files count, as the system gives them up."""
    for folder in _cgroups("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _word(folder / most), _word(folder / used)
            if limit.isdecimal() and usage.isdecimal():
                stat = _words(folder / "memory.stat")
                pairs: Mapping[str, str] = dict(zip(stat[::2], stat[1::2], strict=False))
                yield float(int(limit) - int(usage) + int(pairs.get(cached, "0")))


def _cgroup_tasks() -> Iterator[tuple[int, int]]:
    for folder in _cgroups("pids"):
        most, used = _word(folder / "pids.max"), _word(folder / "pids.current")
        if most.isdecimal() and used.isdecimal():
            yield int(most), int(used)


def _user_tasks() -> Iterator[tuple[int, int]]:
    """The limits of threads of the whole system and of this user, and how many there are."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    uid = os.getuid()
    every = own = 0
    for process in psutil.process_iter(["num_threads", "uids"]):
        threads = process.info["num_threads"] or 1
        every += threads
        if process.info["uids"] and process.info["uids"].real == uid:
            own += threads
    if limit != resource.RLIM_INFINITY and uid != 0:  # it does not bind root
        yield limit, own
    for name in ("threads-max", "pid_max"):
        if (most := _word(ROOT / "proc/sys/kernel" / name)).isdecimal():
            yield int(most), every


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups with the controller, each with all above it.

    In a container the group's path may be that of the host: then only the mount itself is there.
    """
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [controllers, controller] if controllers else ["", "unified"]
        for mount in dict.fromkeys(ROOT / "sys/fs/cgroup" / name for name in mounts):
            inner = mount / path.lstrip("/")
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(mount) and folder.is_dir():
                    yield folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _word(path: Path) -> str:
    return (*_words(path), "")[0]
