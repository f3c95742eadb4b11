"""Faults of clocks: one is set to another hour in the middle of a run."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

from helpers import Trace, checks
from helpers.drills import until
from tests.faults.runner import FEW, FLEET, go_on, waiting
from tests.faults.trial import Damage, Place, counts, damage, ended, fault

HOUR_SECONDS = 3600
STEPS = {"forward": HOUR_SECONDS, "back": -HOUR_SECONDS}
CLOCK = """
import os, sys, time

def stepping(now=time.time):
    return now() + ({step} if os.path.exists({sign!r}) else 0)

"""
"""A clock that is set once the file `sign` is there."""
OF_THE_WORKERS = """
if any("fleet_worker" in argument for argument in sys.orig_argv):
    time.time = stepping
"""
"""As a sitecustomize.py, which every Python process imports."""


def stepped(place: Place, runs: dict[str, subprocess.Popen[str]]) -> list[Trace]:
    """The traces of runs whose clocks are set once items of all of them have come back."""
    until(lambda: len(back := counts(place.engine)) == 2 and min(back) >= 10, "items of both come back")
    (place.folder / "sign").touch()
    go_on(place)
    for process in runs.values():
        ended(process)
    return [Trace.load(place.folder / f"{name}.parquet") for name in runs]


@fault("the clock of a fleet's workers is set an hour forward, or back, in the middle of a run")
def workers_clock_is_set(place: Place) -> Damage:
    """Every item is there once; the law of order is said to be broken, by whom and by how much."""
    few = replace(FLEET, items=60, siphon_share=1, limited_seconds=0.1)
    runs = {}
    for name, step in STEPS.items():
        customize = place.folder / name / "sitecustomize.py"
        customize.parent.mkdir()
        clock = CLOCK.format(step=step, sign=str(place.folder / "sign"))
        customize.write_text(clock + OF_THE_WORKERS)
        file = place.folder / f"{name}.parquet"
        script = waiting(place, 30) + f"engine.run({few!r}, progress=False).save({str(file)!r})"
        runs[name] = place.start(script, name, PYTHONPATH=str(customize.parent))
    found = Damage(0)
    for trace in stepped(place, runs):
        found += damage(trace)
        try:
            checks.verify(trace)
            told = "nothing"
        except checks.LawBroken as broken:
            told = str(broken)
        assert re.search(r"law 'order' broken by item \d+ at .* is 3[56]\d\d\.\d+ s before", told), told
    return found


@fault("the clock of the process that runs an experiment is set an hour forward, or back, in the middle")
def runners_clock_is_set(place: Place) -> Damage:
    """It waits no longer and no shorter; every item is there once, and all laws hold."""
    few = replace(FEW, items=60, limited_seconds=0.1)
    runs = {}
    for name, step in STEPS.items():
        clock = CLOCK.format(step=step, sign=str(place.folder / "sign"))
        file = place.folder / f"{name}.parquet"
        script = f"time.time = stepping\nengine.run({few!r}, progress=False).save({str(file)!r})"
        runs[name] = place.start(waiting(place, 30) + clock + script, name)
    found = Damage(0)
    for trace in stepped(place, runs):
        found += damage(trace)
        checks.verify(trace)
    return found
