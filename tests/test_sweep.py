"""A sweep: every run once, whatever happens in between, and read back as it was."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from botocore.exceptions import EndpointConnectionError
from synthetic import make_trace

from helpers import sweep, tune
from helpers.errors import InvalidExperiment, StackError, SweepError
from helpers.experiment import Experiment
from helpers.sweep import Sweep, grid, table

BASE = Experiment(12, siphon_share=0.5, worker_concurrency=2, consumer="fleet", limited_seconds=0.05)
SETTINGS = grid(BASE, {"worker_concurrency": [2, 4], "map_concurrency": [4, 8, 12]})


class Schedule:
    """An engine that only computes; it notes what it ran, and fails or is interrupted where told."""

    def __init__(self, failing=(), interrupt_after=None):
        self.ran, self.failing, self.interrupt_after = [], failing, interrupt_after

    def run(self, experiment, progress=True):
        self.ran.append(experiment)
        if self.interrupt_after is not None and len(self.ran) > self.interrupt_after:
            raise KeyboardInterrupt
        if experiment.worker_concurrency in self.failing:
            raise StackError("no")
        return make_trace(experiment)

    @contextlib.contextmanager
    def bench(self):
        yield self.run


def test_a_grid_is_every_combination_once():
    """The product of the values, with everything else as in the base."""
    found = {(s.worker_concurrency, s.map_concurrency) for s in SETTINGS}
    expected = {(w, m) for w in (2, 4) for m in (4, 8, 12)}
    assert expected == found
    assert len(SETTINGS) == 6
    assert {replace(s, worker_concurrency=2, map_concurrency=0) for s in SETTINGS} == {BASE}


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ({"colour": [1]}, SweepError, "'colour'"),
        ({"batch_size": []}, SweepError, "batch_size="),
        ({"consumer": "fleet"}, SweepError, "consumer='fleet'"),
        ({"worker_concurrency": [2, 1001]}, InvalidExperiment, "1001"),
    ],
)
def test_a_grid_that_cannot_run_is_refused(values, kind, told):
    """An unknown field, no values, or a setting that AWS would refuse: named before anything runs."""
    with pytest.raises(kind, match=told):
        grid(BASE, values)


@pytest.mark.parametrize(
    ("settings", "repetitions", "told"),
    [((), 3, "at least one"), (SETTINGS[:1] * 2, 3, "twice"), (SETTINGS, 0, "repetitions=0")],
)
def test_a_sweep_of_nothing_is_refused(settings, repetitions, told):
    """No setting, one setting twice, or no repetition is no sweep."""
    with pytest.raises(SweepError, match=told):
        Sweep(settings, repetitions)


def test_settings_share_their_random_numbers():
    """Within a repetition all settings have one seed; between repetitions it differs."""
    seeds = {}
    for name, experiment in Sweep(SETTINGS, 3).runs():
        seeds.setdefault(name.split("-")[1], set()).add(experiment.seed)
    assert seeds == {"r00": {0}, "r01": {1}, "r02": {2}}


def test_every_run_is_there_once(tmp_path):
    """As many rows as settings times repetitions, the warm-up not among them, which is the widest setting."""
    engine = Schedule()
    sweep.run(engine, Sweep(SETTINGS, 3), tmp_path, progress=False)
    rows = table(tmp_path)
    assert rows.groupby(["setting", "repetition"]).size().tolist() == [1] * 18
    assert len(engine.ran) == 1 + 18
    assert engine.ran[0] == SETTINGS[-1]
    assert rows["law"].isna().all()
    assert rows["error"].isna().all()
    assert (rows["peak_workers"] <= rows["worker_concurrency"]).all()


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    """What ended is not run again, what did not is run, and the table is that of a sweep left in peace."""
    whole = Sweep(SETTINGS, 2)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(Schedule(interrupt_after=1 + 5), whole, tmp_path / "cut", progress=False)
    assert len(table(tmp_path / "cut")) == 5
    second = Schedule()
    sweep.run(second, whole, tmp_path / "cut", resume=True, progress=False)
    assert len(second.ran) == 1 + 7
    sweep.run(Schedule(), whole, tmp_path / "left", progress=False)
    pd.testing.assert_frame_equal(table(tmp_path / "left"), table(tmp_path / "cut"))


def test_settings_with_arrivals_and_without_are_one_table(tmp_path):
    """Where a setting has no rate or no heartbeat the table has none, and gives every setting back."""
    settings = grid(BASE, {"arrivals_per_second": [None, 2.5], "task_attempts": [1, 3]})
    sweep.run(Schedule(), Sweep(settings, 1), tmp_path, progress=False)
    rows = table(tmp_path)
    assert rows["arrivals_per_second"].isna().tolist() == [True, True, False, False]
    assert settings == tuple(tune.recommend(rows[n : n + 1], "makespan").experiment for n in range(4))


def test_a_sweep_that_is_whole_runs_nothing(tmp_path):
    """Resuming what has ended is no work, and no warm-up either."""
    sweep.run(Schedule(), Sweep(SETTINGS, 1), tmp_path, progress=False)
    again = Schedule()
    sweep.run(again, Sweep(SETTINGS, 1), tmp_path, resume=True, progress=False)
    assert again.ran == []


def test_a_failing_setting_is_recorded_and_the_others_run(tmp_path):
    """Its rows hold the error in place of numbers."""
    sweep.run(Schedule(failing={4}), Sweep(SETTINGS, 2), tmp_path, progress=False)
    rows = table(tmp_path)
    assert len(rows) == 12
    assert set(rows.loc[rows["worker_concurrency"] == 4, "error"]) == {"StackError: no"}
    assert rows.loc[rows["worker_concurrency"] == 2, "makespan"].notna().all()


def test_an_engine_that_dies_ends_the_sweep_and_is_no_result(tmp_path):
    """What had ended stays, the run under way is not recorded, and the sweep can be resumed."""

    class Dying(Schedule):
        def run(self, experiment, progress=True):
            if len(self.ran) == 1 + 2:
                raise EndpointConnectionError(endpoint_url="nowhere")
            return super().run(experiment)

    with pytest.raises(SweepError, match=r"s002-r00.*resume"):
        sweep.run(Dying(), Sweep(SETTINGS, 1), tmp_path, progress=False)
    assert len(table(tmp_path)) == 2
    sweep.run(Schedule(), Sweep(SETTINGS, 1), tmp_path, resume=True, progress=False)
    assert len(table(tmp_path)) == 6


def test_a_folder_holds_one_sweep(tmp_path):
    """A second sweep there, or another plan, is refused; nothing is overwritten."""
    sweep.run(Schedule(), Sweep(SETTINGS, 1), tmp_path, progress=False)
    with pytest.raises(SweepError, match="holds a sweep already"):
        sweep.run(Schedule(), Sweep(SETTINGS, 1), tmp_path, progress=False)
    with pytest.raises(SweepError, match="holds another sweep"):
        sweep.run(Schedule(), Sweep(SETTINGS, 2), tmp_path, resume=True, progress=False)
    with pytest.raises(SweepError, match="holds no sweep"):
        table(tmp_path / "elsewhere")


def test_a_broken_law_is_named_in_the_table(tmp_path):
    """A trace that breaks a law stays, and its row says which."""
    sweep.run(Schedule(), Sweep(SETTINGS[:1], 1), tmp_path, progress=False)
    path = tmp_path / "traces" / "s000-r00.parquet"
    trace = sweep.Trace.load(path)
    replace(trace, items=trace.items.iloc[:-1]).save(path)
    assert "conservation" in table(tmp_path)["law"].iloc[0]


def test_two_sweeps_run_at_once(engine, tmp_path):
    """On one engine and into folders of their own, neither disturbs the other."""
    whole = Sweep(grid(BASE, {"worker_concurrency": [2, 4]}), 1)

    def swept(name):
        sweep.run(engine, whole, tmp_path / name, progress=False)
        return table(tmp_path / name)

    with ThreadPoolExecutor() as pool:
        for rows in pool.map(swept, ("one", "other")):
            assert rows["run"].tolist() == ["s000-r00", "s001-r00"]
            assert rows["succeeded"].tolist() == [12, 12]
            assert rows["law"].isna().all()
            assert rows["error"].isna().all()


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "changed": lambda path: path.write_bytes(bytes([*path.read_bytes()[:50], 255, *path.read_bytes()[51:]])),
    "text": lambda path: path.write_text("x" * 99),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_set_aside_and_done_again(tmp_path, capsys, damage):
    """Its table names the file and the remedy; resuming keeps the file elsewhere, runs that one and no more,
    and gives the table of a sweep that nothing happened to."""
    whole = Sweep(SETTINGS, 1)
    sweep.run(Schedule(failing={4}), whole, tmp_path, progress=False)
    expected = table(tmp_path)
    for path in (tmp_path / "traces/s000-r00.parquet", tmp_path / "traces/s003-r00.json"):
        DAMAGES[damage](path)
        with pytest.raises(SweepError, match=rf"{path}: damaged \(.*\); resume the sweep"):
            table(tmp_path)
        assert [path.stem] == [name for name, _ in sweep.missing(whole, tmp_path)]
        again = Schedule(failing={4})
        sweep.run(again, whole, tmp_path, resume=True, progress=False)
        assert len(again.ran) == 1 + 1
        assert (tmp_path / "damaged" / f"1-{path.name}").exists()
        assert f"{path}: damaged (" in capsys.readouterr().err
        pd.testing.assert_frame_equal(expected, table(tmp_path))


def test_what_is_set_aside_twice_is_kept_twice(tmp_path):
    """Nothing that was measured is overwritten."""
    whole, path = Sweep(SETTINGS[:1], 1), tmp_path / "traces/s000-r00.parquet"
    sweep.run(Schedule(), whole, tmp_path, progress=False)
    for content in (b"a", b"b"):
        path.write_bytes(content)
        sweep.run(Schedule(), whole, tmp_path, resume=True, progress=False)
    kept = sorted((tmp_path / "damaged").iterdir())
    assert [file.read_bytes() for file in kept] == [b"a", b"b"]


def test_files_that_are_no_runs_are_left_alone(tmp_path):
    """What else lies beside the traces is neither read nor moved."""
    sweep.run(Schedule(), Sweep(SETTINGS[:1], 1), tmp_path, progress=False)
    others = [tmp_path / "traces" / name for name in ("notes.txt", "sx-ry.parquet", "s000-r00.parquet.bak")]
    for other in others:
        other.write_bytes(b"x")
    sweep.run(Schedule(), Sweep(SETTINGS[:1], 1), tmp_path, resume=True, progress=False)
    assert table(tmp_path)["run"].tolist() == ["s000-r00"]
    assert all(other.exists() for other in others)


def test_a_plan_that_is_no_text_is_another_sweep(tmp_path):
    """A damaged plan is refused by its name, and nothing runs."""
    sweep.run(Schedule(), Sweep(SETTINGS[:1], 1), tmp_path, progress=False)
    (tmp_path / "plan.json").write_bytes(b"\xff\x00")
    engine = Schedule()
    with pytest.raises(SweepError, match=r"plan\.json"):
        sweep.run(engine, Sweep(SETTINGS[:1], 1), tmp_path, resume=True, progress=False)
    assert engine.ran == []
