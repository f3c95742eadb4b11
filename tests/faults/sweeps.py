"""Faults of a sweep."""

from __future__ import annotations

from dataclasses import replace

import psutil

from helpers import Trace, checks
from helpers.drills import until
from helpers.engines.embedded import Server
from helpers.sweep import Sweep, grid
from tests.faults.trial import SMALL, Damage, Place, damage, ended, failed, fault

WHOLE = Sweep(grid(replace(SMALL, cold_start=False), {"worker_concurrency": [2, 4, 6]}), 2)
SWEEP = f"""
from helpers import sweep
from helpers.sweep import Sweep
sweep.run(engine, {WHOLE!r}, live.RUNS, resume=True, progress=False)
"""

DEATH = """
import os, signal
from helpers import stack
traces = live.RUNS / "traces"

def deadly(make_ready):
    def make_ready_after_its_death(*given):
        if len(list(traces.glob("s*"))) == 2:
            os.kill({pid}, signal.{signal})
        return make_ready(*given)
    return make_ready_after_its_death

stack.Stack.update, live.deploy = deadly(stack.Stack.update), deadly(live.deploy)
"""


def whole(place: Place) -> Damage:
    """The damage to a sweep that has ended; each of its traces must be of its own run, and obey all laws."""
    traces = place.folder / "traces"
    found = Damage(0)
    for name, experiment in WHOLE.runs():
        trace = Trace.load(traces / f"{name}.parquet")
        assert trace.experiment == experiment
        checks.verify(trace)
        found += damage(trace)
    return found


@fault("SIGKILL to the engine after two of a sweep's six runs, when the stack is made ready for the third")
def killed_engine_under_a_sweep(place: Place) -> Damage:
    """The third is not taken for a run that failed; on another engine the sweep goes on where it was."""
    traces = place.folder / "traces"
    server = Server.start()
    try:
        told = failed(
            place.start(
                DEATH.format(pid=server.pid, signal="SIGKILL") + SWEEP, AWS_ENDPOINT_URL=server.endpoint_url
            )
        )
    finally:
        server.stop()
    assert "stopped at run s002-r00" in told, told
    assert "engine has ended" in told
    assert "resume the sweep" in told
    before = {path.name: path.read_bytes() for path in traces.iterdir()}
    assert sorted(before) == ["s000-r00.parquet", "s001-r00.parquet"]
    ended(place.start(SWEEP))
    assert {name: (traces / name).read_bytes() for name in before} == before
    return whole(place)


@fault("a second sweep in the folder of one that runs, then SIGKILL to the first one")
def killed_sweep(place: Place) -> Damage:
    """The second is refused; resumed, each run is there once, and those from before are untouched."""
    first = place.start(DEATH.format(pid="os.getpid()", signal="SIGSTOP") + SWEEP)
    traces = place.folder / "traces"
    until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED, "it stops after two runs")
    assert "another sweep runs there" in failed(place.start(SWEEP))
    first.kill()
    failed(first)
    before = {path.name: path.read_bytes() for path in traces.glob("s*")}
    assert len(before) == 2
    ended(place.lab("destroy", "--all", "--yes"))
    ended(place.start(SWEEP))
    assert {name: (traces / name).read_bytes() for name in before} == before
    return whole(place)
