"""A ledger is trusted whole or not at all, and no link makes the lab write, or truncate, another's file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import Experiment, budget, connect, sweep
from helpers.engines import localstack
from helpers.errors import BudgetError, FileError, LabError

ROOT = Path(__file__).parents[1]
GOOD = '{"time": "now", "what": "a run", "usd": 0.25}'


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The path of a ledger that is named and not there."""
    monkeypatch.setenv(budget.LEDGER, str(tmp_path / "run" / budget.FILE))
    return tmp_path / "run" / budget.FILE


@pytest.mark.parametrize(
    "line",
    [GOOD.replace("0.25", usd) for usd in ("NaN", "Infinity", "-Infinity", "1e999", "-1", "-0.0001")]
    + [
        GOOD.replace("0.25", usd)
        for usd in ("true", "null", '"1"', "[1]", "{}", "1e300", "9" * 400, "9" * 9000)
    ]
    + [GOOD.replace('"a run"', "7"), GOOD.replace(', "usd": 0.25', ""), GOOD[:-1] + ', "more": 1}']
    + ["", " ", "7", "[]", "null", '"text"', GOOD[:-9], GOOD + GOOD, "\x00", "[" * 100_000]
    + [GOOD[:-1] + ', "usd": 0}'],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_damaged_ledger_grants_nothing(ledger, line, last):
    """A line that no spending wrote is refused by file and number: nothing is read from it, nor noted."""
    ledger.parent.mkdir()
    ledger.write_text(f"{GOOD}\n{line}\n" + ("" if last else f"{GOOD}\n"))
    before = ledger.read_bytes()
    for use in (budget.noted, lambda: budget.spend("more", 0.1, 1.0), lambda: budget.spend("more", 0.1)):
        with pytest.raises(BudgetError, match=f"^{ledger}, line 2: the ledger is damaged"):
            use()
    assert ledger.read_bytes() == before


@pytest.mark.parametrize("half", [GOOD, GOOD[:10], "{", "\xff"])
def test_a_line_that_does_not_end_is_damage(ledger, half):
    """The rest of a write that a crash cut short is an amount that nobody knows."""
    ledger.parent.mkdir()
    ledger.write_bytes(f"{GOOD}\n{half}".encode("latin-1"))
    with pytest.raises(BudgetError, match=r"line 2: .* does not end"):
        budget.spend("more", 0.1, 1.0)


@pytest.mark.parametrize("usd", [float("nan"), float("inf"), -0.1, 1e10, True, "1", None])
def test_what_is_no_amount_is_not_spent(ledger, usd):
    """An estimate or a budget that cannot be compared grants nothing."""
    with pytest.raises(BudgetError, match=r"estimate .*must be a number of US dollars"):
        budget.spend("a run", usd, 1.0)
    if usd is not None:
        with pytest.raises(BudgetError, match=r"budget .*must be a number of US dollars"):
            budget.spend("a run", 0.1, usd)
    assert not ledger.exists()


SPENDS = """
import os, sys
from helpers import budget
def turn():
    for _ in range(40):
        try:
            budget.spend("a run", 0.02, 1.0, quietly=True)
            print("granted")
        except budget.BudgetError:
            pass
turn()
"""


def test_processes_are_granted_the_budget_and_no_more(ledger):
    """Four processes that try at once are granted $1.00 together, though the file is new."""
    running = [subprocess.Popen([sys.executable, "-c", SPENDS], stdout=subprocess.PIPE) for _ in range(4)]
    granted = sum(process.communicate(timeout=120)[0].count(b"granted") for process in running)
    assert granted == 50
    assert len(budget.noted()) == 50


def test_a_ledger_that_is_removed_while_one_waits_is_made_anew(ledger, tmp_path):
    """A process that waited for a ledger which is gone meanwhile notes where others read."""
    with budget._ledger() as entries:
        waiting = subprocess.Popen([sys.executable, "-c", SPENDS], stdout=subprocess.PIPE)
        locks = Path("/proc/locks")
        from helpers.drills import until

        until(lambda: f"-> FLOCK  ADVISORY  WRITE {waiting.pid}" in locks.read_text(), "a process that waits")
        entries.append(json.loads(GOOD))
        ledger.unlink()
    assert waiting.communicate(timeout=60)[0].count(b"granted") == 40
    assert len(budget.noted()) == 40


def test_a_second_run_in_a_folder_is_refused(engine, tmp_path, monkeypatch):
    """While a command runs there its ledger stays; only then the next one goes on with it, or begins anew."""
    from helpers.commands.places import Place

    place = Place(endpoint=engine.endpoint_url, engine="embedded")
    folder = tmp_path / "run"
    with place.shared(folder):
        budget.spend("a run", 0.9, 1.0)
        again = place.shared(folder, new_ledger=True)
        with pytest.raises(LabError, match="another command runs there"), again:
            pass
        with pytest.raises(BudgetError):
            budget.spend("another", 0.9, 1.0)
        assert len(budget.noted()) == 1
    with place.shared(folder):
        assert len(budget.noted()) == 1
    with place.shared(folder, new_ledger=True):
        assert budget.noted() == []


@pytest.fixture
def precious(tmp_path):
    """A file of somebody else's."""
    path = tmp_path / "precious"
    path.write_text("keep")
    return path


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_ledger_that_is_a_link_is_refused(ledger, precious, link):
    """What a link leads to is neither read nor written."""
    ledger.parent.mkdir()
    link(precious, ledger)
    with pytest.raises(FileError, match="is a link, which the lab does not follow"):
        budget.spend("a run", 0.1)
    assert precious.read_text() == "keep"


SWEEP = sweep.Sweep((Experiment(1),), 1)


@pytest.mark.parametrize("name", [".lock", "traces"])
@pytest.mark.parametrize("there", [True, False])
def test_a_sweep_follows_no_link(tmp_path, precious, name, there):
    """A sweep is refused in whose folder a name of its own is a link, and what that leads to stays."""
    folder, elsewhere = tmp_path / "swept", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    target = (elsewhere if name == "traces" else precious) if there else tmp_path / "nothing"
    (folder / name).symlink_to(target)
    with pytest.raises(FileError, match=f"{name}: is a link, which the lab does not follow"):
        sweep.run(connect("simulated"), SWEEP, folder, progress=False)
    assert (precious.read_text(), list(elsewhere.iterdir())) == ("keep", [])
    assert not (tmp_path / "nothing").exists()
    assert not (folder / "plan.json").exists()


def test_a_damaged_run_is_not_set_aside_through_a_link(tmp_path):
    """Where the folder for damaged runs is a link, nothing is moved to what it leads to."""
    folder, elsewhere = tmp_path / "swept", tmp_path / "elsewhere"
    elsewhere.mkdir()
    sweep.run(connect("simulated"), SWEEP, folder, progress=False)
    (run,) = (folder / "traces").iterdir()
    run.write_text("damaged")
    (folder / "damaged").symlink_to(elsewhere)
    with pytest.raises(FileError, match="damaged: is a link"):
        sweep.run(connect("simulated"), SWEEP, folder, resume=True, progress=False)
    assert (list(elsewhere.iterdir()), run.read_text()) == ([], "damaged")


def test_an_installation_follows_no_link(tmp_path, precious, monkeypatch):
    """The lock of LocalStack's installation is no link."""
    (tmp_path / "ls.lock").symlink_to(precious)
    monkeypatch.setattr(localstack, "PYTHONS", (sys.version_info[:2],))
    with pytest.raises(FileError, match="is a link"):
        localstack.install(tmp_path / "ls")
    assert precious.read_text() == "keep"


def test_the_script_follows_no_link(tmp_path, precious):
    """`lab` does not empty what a link in the place of its lock leads to."""
    clone = tmp_path / "clone"
    (clone / ".lab").mkdir(parents=True)
    for name in ("lab", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, clone)
    (clone / ".lab" / "setup.lock").symlink_to(precious)
    environment = {"PATH": "/usr/bin:/bin", "LAB_PYTHON": sys.executable}
    done = subprocess.run([str(clone / "lab")], capture_output=True, text=True, env=environment)
    assert (done.returncode, precious.read_text()) == (1, "keep")
    assert "setup.lock: is a link, which is not followed; remove it" in done.stderr
