"""Faults of the process that runs an experiment."""

from __future__ import annotations

import re
import signal
from dataclasses import replace

from helpers import Experiment, Trace, checks, connect, stack
from helpers.drills import until
from tests.faults.trial import (
    SMALL,
    Damage,
    Place,
    afterwards,
    counted,
    counts,
    damage,
    ended,
    failed,
    fault,
    said,
)

FEW = Experiment(
    200,
    siphon_share=0.5,
    worker_concurrency=4,
    cold_start=True,
    direct_seconds=0.02,
    limited_seconds=2.0,
)
"""What runs until it is ended: its direct lane is back at once, its limited lane takes most of a minute."""
FLEET = replace(FEW, consumer="fleet")
RUN = "engine.run({!r}, progress=False)\n"
HELD = """
import time
from helpers import stack

def held(module, name, when=lambda *given: True):
    real, times = getattr(module, name), []

    def hold(*given, **more):
        if when(*given) and not times:
            times.append(1)
            print("here", flush=True)
            time.sleep(60)
        return real(*given, **more)

    setattr(module, name, hold)

"""
"""Functions so held say `here` when they are called first, and wait there, for a signal."""
WAITING = """
from pathlib import Path
from helpers import fleet, stack

task = '    time.sleep(item["task_seconds"])\\n'
wait = '''
    while item["item"] >= {first} and not os.path.exists({folder!r} + "/go on"):
        open({folder!r} + f"/waits-{{os.getpid()}}", "w").close()
        time.sleep(0.1)
'''

def waiting(code):
    assert code.count(task) == 1
    return code.replace(task, task + wait[1:])

def template(*given, made=stack.template, **more):
    changed = made(*given, **more)
    code = changed["Resources"]["Worker"]["Properties"]["Code"]
    code["ZipFile"] = waiting(code["ZipFile"])
    return changed

stack.template = template
handler = live.RUNS / "waiting_worker.py"
handler.parent.mkdir(exist_ok=True)
handler.write_text(waiting(fleet.HANDLER.read_text()))
fleet.HANDLER = handler

"""
"""Limited tasks of items from `first` on wait, in Lambda and in a fleet, until `go_on` lets them."""
STAGES = {
    "deploying": ('held(stack, "_wait", lambda *given: "create" in given[1])', None),
    "warming": ('held(live, "_warm")', None),
    "running": ('held(live, "wait")', 0),
    "reading": ('held(live, "attempts_since")', 20),
    "destroying": ('held(stack, "_stop_executions")', 20),
}
"""How a run is held in each of its stages, and how many items the file has that it leaves then, at least."""


def kept_of(place: Place, back: int) -> Damage:
    """The damage to the one trace that was kept, of which so many items were back according to the engine."""
    (kept,) = place.kept()
    assert len(kept.items) < kept.experiment.items
    assert set(kept.items["item"]) <= set(kept.attempts["item"])
    return damage(kept, set(kept.items["item"])) + Damage(0, max(0, back - len(kept.items)))


def obeyed(place: Place, errors: str) -> int:
    """Run the commands that an error names, each of which must work; how many there were."""
    commands = re.findall(r"`\./lab (destroy [^`]+)`", errors)
    for command in commands:
        ended(place.lab(*command.split()))
    return len(commands)


def waiting(place: Place, first: int) -> str:
    """Return a script's beginning by which its limited tasks from this item on wait for `go_on`.

    So a run has work in hand when it is harmed, however slow this process is.
    """
    return WAITING.format(first=first, folder=str(place.folder))


def go_on(place: Place) -> None:
    """Let the tasks that wait go on."""
    (place.folder / "go on").touch()


def interrupted(place: Place, few: Experiment) -> Damage:
    """Interrupt a run while items are coming back."""
    process = place.start(RUN.format(few))
    until(lambda: counted(place.engine) >= 5, "items come back")
    back = counted(place.engine)
    process.send_signal(signal.SIGINT)
    assert "interrupted: " in failed(process)
    return kept_of(place, back) + afterwards(place.engine)


@fault("SIGINT to the process while items are coming back; the consumer is Lambda")
def interrupted_run(place: Place) -> Damage:
    """What the engine said was back is on disk with its attempts; nothing is left; the next run is whole."""
    return interrupted(place, FEW)


@fault("SIGINT to the process while items are coming back; the consumer is a fleet")
def interrupted_run_of_a_fleet(place: Place) -> Damage:
    """What the engine said was back is on disk with its attempts; no worker outlives the process."""
    return interrupted(place, FLEET)


@fault("SIGINT to five processes: while one deploys, warms, runs, reads the trace, and destroys")
def interrupted_at_each_stage(place: Place) -> Damage:
    """What was measured by then is on disk; nothing is left but what is named, with the command for it."""
    few = replace(SMALL, cold_start=False)
    processes = {
        stage: place.start(f"{HELD}{hold}\n" + RUN.format(few), stage) for stage, (hold, _) in STAGES.items()
    }
    for stage, process in processes.items():
        assert said(process) == "here", stage
        process.send_signal(signal.SIGINT)
    found = Damage(0)
    for stage, process in processes.items():
        told = failed(process)
        assert "KeyboardInterrupt" in told, stage
        least = STAGES[stage][1]
        kept = place.kept(stage)
        assert len(kept) == (0 if least is None else 1), (stage, told)
        for trace in kept:
            found += damage(trace, set(range(least or 0)) or set(trace.items["item"]))
        assert obeyed(place, told) == (1 if stage == "destroying" else 0), told
    return found + afterwards(place.engine)


@fault("SIGINT to the process while items are coming back, and again while it destroys what it deployed")
def interrupted_twice(place: Place) -> Damage:
    """What was back is on disk; the stack that is left is named, and the command that is told removes it."""
    process = place.start(HELD + STAGES["destroying"][0] + "\n" + RUN.format(FEW))
    until(lambda: counted(place.engine) >= 5, "items come back")
    back = counted(place.engine)
    process.send_signal(signal.SIGINT)
    assert said(process).startswith("interrupted: ")
    assert said(process) == "here"
    process.send_signal(signal.SIGINT)
    told = failed(process)
    assert len(stack.deployed(place.engine)) == 1
    assert obeyed(place, told) == 1
    return kept_of(place, back) + afterwards(place.engine)


@fault("SIGKILL to the process in the middle, on an engine that others use")
def killed_runner(place: Place) -> Damage:
    """What it had deployed is there and found by its tag: `lab destroy --all` removes all of it."""
    process = place.start(RUN.format(FLEET))
    until(lambda: counted(place.engine) >= 5, "items come back")
    process.kill()
    failed(process)
    assert len(stack.deployed(place.engine)) == 1
    ended(place.lab("destroy", "--all", "--yes"))
    return afterwards(place.engine)


@fault("SIGKILL to the process in the middle, on an engine of its own")
def killed_runner_with_its_engine(place: Place) -> Damage:
    """The engine, its Lambda workers and the fleet end with it, and their folder is gone."""
    process = place.start("print(engine.endpoint_url, flush=True)\n" + RUN.format(FLEET), AWS_ENDPOINT_URL="")
    with connect("embedded", endpoint=said(process)) as its:
        until(lambda: counted(its) >= 5, "items come back")
    process.kill()
    failed(process)
    return afterwards(place.engine)


@fault("two processes run the same experiment on one engine at the same time")
def two_runs_at_once(place: Place) -> Damage:
    """Each trace has all of its own items and none of the other's, and obeys all laws."""
    few = replace(FEW, items=60, limited_seconds=0.1)
    files = [place.folder / f"{name}.parquet" for name in ("one", "other")]
    run = waiting(place, 30) + f"engine.run({few!r}, progress=False)"
    both = [place.start(f"{run}.save({str(file)!r})", file.stem) for file in files]
    until(lambda: len(back := counts(place.engine)) == 2 and min(back) >= 5, "items of both come back")
    go_on(place)
    found = Damage(0)
    for process, file in zip(both, files, strict=True):
        ended(process)
        trace = Trace.load(file)
        checks.verify(trace)
        found += damage(trace)
    return found
