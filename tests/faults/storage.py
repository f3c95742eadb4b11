"""Faults of the disk: it is full while something is saved."""

from __future__ import annotations

import json
from dataclasses import replace

from helpers import Trace, checks
from helpers.sweep import Sweep, grid
from tests.faults.processes import write_notebooks
from tests.faults.trial import SMALL, Damage, Place, damage, ended, failed, fault

FULL = """
import contextlib, resource

@contextlib.contextmanager
def room_for(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""
SAVES = """
import json, os
from helpers import budget
from helpers.errors import FileError
from helpers.files import write_whole

trace = engine.run({few!r}, progress=False)
where = live.RUNS / "saves"
text = json.dumps(["whole"] * 1000)
os.environ[budget.LEDGER] = str(where / "ledger.jsonl")
saves = {{
    "trace.parquet": lambda: trace.save(where / "trace.parquet"),
    "results.json": lambda: write_whole(where / "results.json", text),
    "ledger.jsonl": lambda: budget.spend("something", 1.0),
}}
for name, save in saves.items():
    save()
    before = (where / name).read_bytes()
    with room_for(len(before) + 9 if name == "ledger.jsonl" else len(before) // 2):
        try:
            save()
            raise AssertionError(name)
        except FileError as error:
            assert str(where / name) in str(error), error
            assert "make room there" in str(error), error
    assert (where / name).read_bytes() == before, name
    save()
assert [note["usd"] for note in budget.noted()] == [1.0, 1.0]
assert not list(where.glob(".*"))
"""


@fault("RLIMIT_FSIZE below what a trace, results and the ledger need, while they are saved again")
def full_disk_for_files(place: Place) -> Damage:
    """The old file stays as it was, the error names the file and the remedy; with room, it is saved."""
    ended(place.start(FULL + SAVES.format(few=SMALL)))
    return damage(Trace.load(place.folder / "saves" / "trace.parquet"))


SWEEP = """
import os, resource
from helpers import sweep
from helpers.sweep import Sweep
from helpers.trace import Trace

save = Trace.save
traces = live.RUNS / "sweep" / "traces"

def save_while_there_is_room(trace, path):
    with room_for({room} if len(list(traces.glob("s*"))) >= 2 else resource.RLIM_INFINITY):
        return save(trace, path)

Trace.save = save_while_there_is_room
sweep.run(engine, {whole!r}, live.RUNS / "sweep", resume=True, progress=False)
"""


@fault("RLIMIT_FSIZE below what a trace needs, from the third of a sweep's four runs on")
def full_disk_under_a_sweep(place: Place) -> Damage:
    """The sweep stops and says so, its first runs stay as they were; resumed with room, each run is there."""
    whole = Sweep(grid(SMALL, {"worker_concurrency": [2, 3]}), 2)
    script = FULL + SWEEP
    told = failed(place.start(script.format(room=2000, whole=whole)))
    traces = place.folder / "sweep" / "traces"
    assert "stopped at run s000-r01" in told, (told, [path.name for path in traces.iterdir()])
    assert "make room there" in told
    before = {path.name: path.read_bytes() for path in traces.iterdir()}
    assert len(before) == 2
    ended(place.start(script.format(room="resource.RLIM_INFINITY", whole=whole)))
    assert {name: (traces / name).read_bytes() for name in before} == before
    found = Damage(0)
    for name, experiment in whole.runs():
        found += damage(replace(Trace.load(traces / f"{name}.parquet"), experiment=experiment))
    return found


SHORT = {
    "01_runs": [
        f"import helpers; helpers.connect(engine).run({SMALL!r}).save('trace.parquet')".replace(
            "Experiment(", "helpers.Experiment("
        )
    ],
    "02_prints": ["print(1)", "print(2)"],
}
EXECUTED = """
from papermill.iorw import LocalHandler
from helpers import notebooks
from helpers.errors import FileError

here, out = live.RUNS, live.RUNS / "out"
write, times = LocalHandler.write, []

def write_half(self, text, path):
    times.append(1)
    if len(times) == 5:
        write(self, text[: len(text) // 2], path)
        raise OSError(28, "No space left on device")
    return write(self, text, path)

def kept():
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith("02")}

def run(name, full=None):
    try:
        notebooks.run([here / f"{name}.ipynb"], out, {"engine": "embedded"}, progress=False)
        assert full is None
    except FileError as error:
        assert str(error).startswith(str(full)), error
        assert "make room there" in str(error), error

run("01_runs")
before = kept()
LocalHandler.write = write_half
run("02_prints", out / "02_prints.ipynb")
assert kept() == before
"""


@fault("ENOSPC in the middle of saving an executed notebook, the second of two")
def full_disk_under_notebooks(place: Place) -> Damage:
    """The error names the file and the remedy; results, page and notebooks from before stay as they were."""
    write_notebooks(place, SHORT)
    ended(place.start(EXECUTED))
    (result,) = json.loads((place.folder / "out" / "results.json").read_text())["results"]
    assert result["ok"]
    return damage(Trace.load(place.folder / "trace.parquet"))


@fault("TMPDIR is a folder with a path of more than 100 characters, for a process with its own engine")
def deep_temporary_folder(place: Place) -> Damage:
    """Sockets lie elsewhere, as they could not be in it: the run obeys all laws."""
    deep, file = place.folder / ("deep" * 25), place.folder / "trace.parquet"
    deep.mkdir()
    script = f"engine.run({SMALL!r}, progress=False).save({str(file)!r})"
    ended(place.start(script, AWS_ENDPOINT_URL="", TMPDIR=str(deep)))
    trace = Trace.load(file)
    checks.verify(trace)
    return damage(trace)
