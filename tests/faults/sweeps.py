"""Faults of a sweep."""

from __future__ import annotations

from dataclasses import replace

from helpers import Trace, checks
from helpers.sweep import Sweep, grid
from tests.faults.trial import SMALL, Damage, Place, damage, ended, failed, fault, until

WHOLE = Sweep(grid(replace(SMALL, cold_start=False), {"worker_concurrency": [2, 4, 6]}), 2)
SWEEP = f"""
from helpers import sweep
from helpers.sweep import Sweep
sweep.run(engine, {WHOLE!r}, live.RUNS, resume=True, progress=False)
"""


@fault("a second sweep in the folder of one that runs, then SIGKILL to the first one")
def killed_sweep(place: Place) -> Damage:
    """The second is refused; resumed, each run is there once, and those from before are untouched."""
    first = place.start(SWEEP)
    traces = place.folder / "traces"
    until(lambda: len(list(traces.glob("s*"))) >= 2, "runs end")
    assert "another sweep runs there" in failed(place.start(SWEEP))
    first.kill()
    failed(first)
    before = {path.name: path.read_bytes() for path in traces.glob("s*")}
    assert 2 <= len(before) < 6
    ended(place.lab("destroy", "--all"))
    ended(place.start(SWEEP))
    assert {name: (traces / name).read_bytes() for name in before} == before
    found = Damage(0)
    for name, experiment in WHOLE.runs():
        trace = Trace.load(traces / f"{name}.parquet")
        assert trace.experiment == experiment
        checks.verify(trace)
        found += damage(trace)
    return found
