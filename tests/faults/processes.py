"""Faults of the processes that a run needs: engine, Lambda workers, a fleet's, a notebook's kernel."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from dataclasses import replace

import nbformat
import psutil

from helpers import Trace, checks, connect
from helpers.drills import until
from helpers.engines.embedded import Server
from helpers.fleet import PROGRAM
from tests.faults.runner import FEW, FLEET, RUN, go_on, kept_of, waiting
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

SOON_BACK = {"function_timeout_seconds": 10, "visibility_timeout_seconds": 12, "max_receive_count": 20}
"""Messages in dead hands come back soon; a worker has time to start on a busy machine, too."""


@fault("SIGKILL to the engine's process while two runs have items coming back, by Lambda and by a fleet")
def killed_engine(place: Place) -> Damage:
    """Both are told within seconds that it has ended; what the fleet did is on disk; no worker is left."""
    server = Server.start()
    try:
        where = {"AWS_ENDPOINT_URL": server.endpoint_url}
        few = replace(FEW, items=400, siphon_share=1)
        runs = {"fleet": replace(few, consumer="fleet"), "lambda": few}
        processes = [place.start(RUN.format(few), name, **where) for name, few in runs.items()]
        with connect("embedded", endpoint=server.endpoint_url) as its:
            until(lambda: len(counts(its)) == 2 and min(counts(its)) >= 5, "items of both come back")
            back = min(counts(its))
        workers = psutil.Process(server.pid).children(recursive=True)
        os.kill(server.pid, signal.SIGKILL)
        for process in processes:
            told = failed(process)
            assert "engine has ended, nothing listens there any more; start it" in told, told
        assert not psutil.wait_procs(workers, timeout=15)[1]
    finally:
        server.stop()
    (kept,) = place.kept("fleet")
    known = kept.attempts.loc[kept.attempts["outcome"] == "succeeded", "item"]
    lost = max(0, back - known.nunique())
    return Damage(len(known), lost, len(known) - known.nunique()) + afterwards(place.engine)


@fault("SIGKILL to one of the engine's Lambda workers in the middle of its task, five times in a run")
def killed_lambda_workers(place: Place) -> Damage:
    """Their messages are delivered again; every item ends once, and the trace obeys all laws."""
    few = replace(FEW, items=60, siphon_share=1, limited_seconds=0.2, **SOON_BACK)
    file = place.folder / "trace.parquet"
    script = waiting(place, 30) + f"engine.run({few!r}, progress=False).save({str(file)!r})"
    process = place.start(script)
    killed: set[int] = set()
    while len(killed) < 5:
        workers = until(lambda: lambda_workers(place, killed), "a worker in the middle of its task")
        with contextlib.suppress(psutil.NoSuchProcess):  # its function's timeout may have ended it
            victim = random.choice(workers)
            victim.kill()
            killed.add(victim.pid)
    go_on(place)
    ended(process)
    trace = Trace.load(file)
    checks.verify(trace)
    assert set(trace.items["outcome"]) == {"succeeded"}
    assert (trace.attempts["outcome"] == "lost").sum() >= len(killed)
    return damage(trace)


def lambda_workers(place: Place, killed: set[int]) -> list[psutil.Process]:
    """Return the engine's processes in which a task waits, without those that were killed."""
    waits = {int(path.name.rpartition("-")[2]) for path in place.folder.glob("waits-*")}
    server = psutil.Process(place.engine._own.pid)
    return [one for one in server.children(recursive=True) if one.pid in waits - killed]


TWO_FLEETS = """
import json
from helpers import stack
from helpers.errors import StackError
from helpers.fleet import Fleet

close, lines = Fleet.close, []

def close_and_note(fleet):
    close(fleet)
    lines.extend(fleet.lines)

Fleet.close = close_and_note
with stack.deploy(engine, "combined", stack.parameters({few!r})) as deployed:
    try:
        live.run(deployed, {few!r}, progress=False)
    except StackError as error:
        print(error, flush=True)
    with Fleet(deployed, 25, 1):
        live._drain(deployed, {few.items}, False)
ended = [one["item"] for one in live.parse_log(lines).values() if one["outcome"] != "lost"]
(live.RUNS / "ended.json").write_text(json.dumps(ended))
"""


@fault("SIGKILL to one of two processes of a fleet in the middle of its tasks")
def killed_fleet_process(place: Place) -> Damage:
    """The run ends and says so, what was done is on disk; messages in dead hands come back to others."""
    few = replace(FLEET, items=150, siphon_share=1, worker_concurrency=30, limited_seconds=0.3, **SOON_BACK)
    process = place.start(waiting(place, 90) + TWO_FLEETS.format(few=few))
    until(lambda: counted(place.engine) >= 30, "items come back")
    back = counted(place.engine)
    workers = [one for one in psutil.Process(process.pid).children() if str(PROGRAM) in one.cmdline()]
    assert len(workers) == 2
    random.choice(workers).kill()
    while "the fleet: a process of" not in said(process):
        pass
    go_on(place)
    ended(process)
    worked = set(json.loads((place.folder / "ended.json").read_text()))
    return kept_of(place, back) + Damage(few.items, few.items - len(worked)) + afterwards(place.engine)


NOTEBOOKS = {
    "01_killed": [
        "print('before')\nfrom helpers import connect, live, Experiment",
        "import os; open('pid', 'w').write(str(os.getpid())); live.RUNS = type(live.RUNS)()",
        f"connect(engine).run({FLEET!r}, progress=False)",
        "print('never')",
    ],
    "02_after": [
        "from helpers import connect, Experiment",
        f"trace = connect(engine).run({SMALL!r}, progress=False); trace.save('after.parquet')",
    ],
}


def write_notebooks(place: Place, notebooks: dict[str, list[str]]) -> None:
    """Put notebooks where `place.lab` finds them; In [1] are their parameters, In [2] those given."""
    v4 = nbformat.v4
    for name, cells in notebooks.items():
        parameters = v4.new_code_cell('engine = "embedded"', metadata={"tags": ["parameters"]})
        made = v4.new_notebook(cells=[parameters, *map(v4.new_code_cell, cells)])
        nbformat.write(made, place.folder / f"{name}.ipynb")


def named(place: Place, error: str) -> None:
    """Assert that what was executed of the first notebook is kept, with the cell that has this error."""
    out = place.folder / "out"
    result = json.loads((out / "results.json").read_text())["results"][0]
    assert (result["ok"], result["cell"]) == (False, 5)
    assert error in result["error"]
    assert error in (out / "index.html").read_text()
    assert "'text': 'before\\n'" in str(nbformat.read(out / "01_killed.ipynb", 4))


@fault("SIGKILL to a notebook's kernel in the middle of a run, under `lab run` of two notebooks")
def killed_kernel(place: Place) -> Damage:
    """The cell is named, what ran is kept, the next notebook runs; what had been deployed is destroyed."""
    write_notebooks(place, NOTEBOOKS)
    process = place.lab("run", "--out", str(place.folder / "out"))
    until(lambda: counted(place.engine) >= 5, "items come back")
    os.kill(int((place.folder / "pid").read_text()), signal.SIGKILL)
    assert "destroyed concurrency-lab-combined-" in failed(process)
    named(place, "the kernel ended while this cell ran")
    trace = Trace.load(place.folder / "after.parquet")
    checks.verify(trace)
    return damage(trace)


@fault("SIGTERM, by which CI cancels a job, to `lab run` while a notebook's run has items coming back")
def terminated_notebooks(place: Place) -> Damage:
    """As after Ctrl-C: the cell is named, what ran and was back is kept, what was deployed is destroyed."""
    write_notebooks(place, NOTEBOOKS)
    process = place.lab("run", "01", "--out", str(place.folder / "out"))
    until(lambda: counted(place.engine) >= 5, "items come back")
    back = counted(place.engine)
    process.send_signal(signal.SIGTERM)
    told = failed(process)
    assert process.returncode == 143, told
    named(place, "stopped before its end")
    return kept_of(place, back) + afterwards(place.engine)
