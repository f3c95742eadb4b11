"""Which setting to take: medians, frontier, knee, limits, recommendation, by their definitions."""

import functools
import importlib
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_trace

from helpers import predict, simulate, stack, sweep, tune
from helpers.errors import LabError, SweepError
from helpers.experiment import Experiment, exponential
from helpers.search import LADDERS, ladders, search
from helpers.simulation import timeouts
from helpers.tune import check, curve, interval, knee, medians, pareto, recommend

BASE = Experiment(40, siphon_share=0.5, limited_seconds=0.5, direct_seconds=0.05)
SETTINGS = sweep.grid(BASE, {"worker_concurrency": [2, 4], "map_concurrency": [4, 8, 12]})


def rows_of(settings, repetitions=3, failing=()):
    """The table of a sweep over these settings in which each hand-over takes no time."""
    return _rows_of(tuple(settings), repetitions, frozenset(failing)).copy()


@functools.cache
def _rows_of(settings, repetitions, failing):
    rows = []
    for name, experiment in sweep.Sweep(settings, repetitions).runs():
        setting, repetition = (int(part[1:]) for part in name.split("-"))
        about = {"run": name, "setting": setting, "repetition": repetition}
        if experiment.worker_concurrency in failing:
            rows.append(about | experiment.to_dict() | {"law": None, "error": "StackError: no"})
        else:
            rows.append(about | sweep.read(make_trace(experiment)))
    return sweep.as_table(rows)


def test_medians_put_what_varies_beside_what_came_of_it():
    """A row a setting: its own fields and no other's, the median of its runs, the highest of its peaks."""
    rows = rows_of(SETTINGS, failing={4})
    summary = medians(rows)
    assert list(summary.columns[:3]) == ["setting", "map_concurrency", "worker_concurrency"]
    assert "batch_size" not in summary
    for setting, runs in rows.groupby("setting"):
        row = summary.set_index("setting").loc[setting]
        assert row["runs"] == 3
        if runs["error"].isna().all():
            assert row["makespan"] == runs["makespan"].median()
            assert row["makespan_low"] <= row["makespan"] <= row["makespan_high"]
            assert row["peak_map"] == runs["peak_map"].max()
            assert row["failed"] == 0
        else:
            assert np.isnan(row["makespan"])
            assert row["failed"] == 3
            assert not row["frontier_usd"]
            assert not row["frontier_p95_sojourn"]
    assert summary["frontier_usd"].any()
    assert summary["frontier_p95_sojourn"].any()


def test_limits_are_held_run_by_run():
    """Each run beyond a limit is named with its number and the limit; a failed run is always named."""
    rows = rows_of(SETTINGS, 1, failing={4})
    failed = [f"s{number:03d}-r00: StackError: no" for number in (3, 4, 5)]
    assert check(rows) == failed
    assert check(rows, "peak_workers<=2 and items == 40") == failed
    beyond = check(rows, "peak_map<=4")
    assert [told for told in beyond if told not in failed] == [
        f"{row.run}: peak_map={row.peak_map:g}, but must be <=4"
        for row in rows.itertuples()
        if pd.isna(row.error) and row.peak_map > 4
    ]
    assert len(beyond) > len(failed)


@pytest.mark.parametrize(
    ("limits", "told"), [("makespan", "'makespan'"), ("colour<3", "'colour'"), ("consumer==1", "'consumer'")]
)
def test_limits_that_say_nothing_are_refused(limits, told):
    """No comparison, or a name that is no number of a run."""
    with pytest.raises(SweepError, match=told):
        check(rows_of(SETTINGS[:1], 1), limits)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_interval_lies_within_the_values_and_around_their_median(values):
    """low <= median <= high, none beyond the data; of one value all are that value."""
    median, low, high = interval(values)
    assert median == np.median(values)
    assert min(values) <= low <= median <= high <= max(values)


def test_more_repetitions_narrow_the_interval():
    """Of the same kind of values, 200 tell more than 5."""
    values = np.random.default_rng(1).normal(10, 1, 200)
    few, many = interval(values[:5].tolist()), interval(values.tolist())
    assert many[2] - many[1] < few[2] - few[1]
    assert many[1] <= 10 <= many[2]


def test_no_values_have_no_median():
    """An empty list is refused by name."""
    with pytest.raises(SweepError, match="values="):
        interval([])


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=25), st.integers(1, 3))
def test_the_frontier_is_what_nobody_beats(points, columns):
    """Against the definition, pair by pair, in one to three columns; at least one point is on it."""
    rows = pd.DataFrame([point[:columns] for point in points], columns=list("abc")[:columns])
    points = [point[:columns] for point in points]
    expected = [
        not any(all(x <= y for x, y in zip(other, own, strict=True)) and other != own for other in points)
        for own in points
    ]
    assert pareto(rows, *rows.columns).tolist() == expected
    assert any(expected)


def test_what_is_missing_is_not_on_the_frontier():
    """A setting that failed has no numbers, and neither beats nor is best."""
    rows = pd.DataFrame({"a": [1.0, np.nan, 2.0], "b": [2.0, 0.0, 1.0]})
    assert pareto(rows, "a", "b").tolist() == [True, False, True]


@given(st.integers(3, 9), st.floats(0.01, 100), st.floats(1.1, 4), st.floats(0.2, 2))
def test_perfect_scaling_has_no_knee(points, work, step, power):
    """A power law, of which work / x is one, is a straight line on logarithmic axes, whatever its range."""
    x = [step**at for at in range(points)]
    assert knee(x, [work / value**power for value in x]) is None


@given(st.integers(3, 30), st.data(), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_knee_is_where_the_floor_begins(points, data, across, up):
    """Of max(work / x, floor) it is the first point on the floor, in whatever units x and y are."""
    first = data.draw(st.integers(1, points - 2))
    x = [2.0**at for at in range(points)]
    y = [max(x[-1] / value, x[-1] / x[first]) for value in x]
    assert knee([across * value for value in x], [up * value for value in y]) == first


def test_two_points_have_no_knee():
    """Between two points there is a line and nothing below it."""
    assert knee([], []) is None
    assert knee([1, 2], [2, 1]) is None


def test_a_curve_varies_one_field_only():
    """All settings that differ from one in that field, in its order, with what failed left out."""
    settings = sweep.grid(
        BASE, {"limited_seconds": [0.5, exponential(0.5)], "worker_concurrency": [8, 2, 4, 16]}
    )
    summary = medians(rows_of(settings, 1, failing={4}))
    assert curve(summary, "worker_concurrency", 6)["setting"].tolist() == [5, 4, 7]
    assert curve(summary, "worker_concurrency", 0)["worker_concurrency"].tolist() == [2, 8, 16]


def test_a_map_without_a_limit_is_the_widest():
    """MaxConcurrency 0 means 10,000: the end of the curve, not its beginning."""
    settings = sweep.grid(BASE, {"map_concurrency": [0, 4, 8]})
    along = curve(medians(rows_of(settings, 1)), "map_concurrency", 0)
    assert along["map_concurrency"].tolist() == [4, 8, 10_000]
    assert along["setting"].tolist() == [1, 2, 0]


def test_unlike_work_is_said():
    """A setting may look better because it has less to do; the reasons say so, and only then."""
    unlike = recommend(rows_of(sweep.grid(BASE, {"limited_seconds": [0.1, 0.5]}), 1))
    assert (
        "the settings differ in limited_seconds: less work may be all that makes it better" in unlike.reasons
    )
    assert "one run: spread unknown" in unlike.reasons[0]
    assert not any("less work" in reason for reason in recommend(rows_of(WORKERS)).reasons)


WORKERS = sweep.grid(
    replace(BASE, siphon_share=1, limited_seconds=1.0), {"worker_concurrency": [4, 10, 20, 40, 80]}
)


def test_the_recommendation_is_the_least_concurrency_that_is_as_fast():
    """40 items of 1 s: 40 workers take 1 s, 80 no less; nobody pays for the rest."""
    best = recommend(rows_of(WORKERS))
    assert best.experiment.worker_concurrency == 40
    assert "worker_concurrency=40" in best.sentence
    assert best.parameters == stack.parameters(WORKERS[3])
    assert best.experiment == WORKERS[3]
    assert (
        "worker_concurrency: 20 takes 2.00 times as long, 80 takes 1.00 times as long, the knee is at 40"
        in (best.reasons)
    )


def test_the_recommendation_keeps_the_limits():
    """The fastest of the settings that keep them in every run; the reasons give what was seen."""
    rows = rows_of(WORKERS).assign(throughput=range(15))
    best = recommend(rows, limits="peak_workers<=20 and throughput>=1.5")
    assert best.experiment.worker_concurrency == 20
    assert best.reasons[-2:] == (
        "peak_workers<=20 holds in every run: 20 to 20",
        "throughput>=1.5 holds in every run: 2 to 12",
    )


def test_a_limit_broken_once_rules_a_setting_out():
    """One run beyond the limit is enough."""
    rows = rows_of(WORKERS)
    at = rows.index[(rows["worker_concurrency"] == 40) & (rows["repetition"] == 2)]
    rows.loc[at, "p95_sojourn"] = 50.0
    assert recommend(rows, limits="p95_sojourn<30").experiment.worker_concurrency == 80


def test_a_setting_that_failed_once_is_not_recommended():
    """A run without a trace, or one that breaks a law, rules its setting out."""
    rows = rows_of(WORKERS)
    rows.loc[(rows["worker_concurrency"] == 40) & (rows["repetition"] == 0), "law"] = "limits: broken"
    rows.loc[(rows["worker_concurrency"] == 80) & (rows["repetition"] == 1), "error"] = "StackError: no"
    assert recommend(rows).experiment.worker_concurrency == 20


@pytest.mark.parametrize(("objective", "expected"), [("makespan", 40), ("p95_sojourn", 40), ("usd", 40)])
def test_what_costs_the_same_is_decided_by_time(objective, expected):
    """Concurrency itself is free: the cheapest settings are equal, and the fastest of them is taken."""
    assert recommend(rows_of(WORKERS), objective).experiment.worker_concurrency == expected


def test_the_cheapest_setting_may_be_slow():
    """Of settings that differ in cost, the objective usd takes the cheapest, makespan the fastest."""
    rows = rows_of(WORKERS[2:4])
    rows.loc[rows["worker_concurrency"] == 20, "usd"] /= 2
    assert recommend(rows, "usd").experiment.worker_concurrency == 20
    assert recommend(rows, "makespan").experiment.worker_concurrency == 40


def test_settings_are_compared_on_the_same_items():
    """Repetitions that differ by far more than the settings do not hide which setting is faster."""
    rows = rows_of(WORKERS[:2])
    rows["makespan"] = [10.0, 9.0, 100.0, 90.0, 2.0, 1.8]
    rows["usd"] = 1.0
    assert recommend(rows).experiment.worker_concurrency == 10


@pytest.mark.parametrize(
    ("rows", "arguments", "told"),
    [
        ((WORKERS,), {"objective": "speed"}, "objective='speed'.*makespan"),
        ((WORKERS,), {"limits": "makespan<0.5 and usd<1"}, r"makespan<0.5 \(0 of 5 .*usd<1 \(5 of 5"),
        ((WORKERS[:1], 3, {4}), {"limits": "makespan<1"}, "all 1 settings"),
    ],
)
def test_no_recommendation_says_why(rows, arguments, told):
    """An unknown objective, limits that nothing keeps, or nothing but failures."""
    with pytest.raises(SweepError, match=told):
        recommend(rows_of(*rows), **arguments)


def test_a_recommendation_is_json():
    """What it says can be written and read back, the experiment included."""
    best = recommend(rows_of(sweep.grid(BASE, {"limited_seconds": [exponential(0.5)]})))
    told = json.loads(json.dumps(best.to_dict()))
    assert Experiment.from_dict(told["experiment"]) == best.experiment
    assert told["parameters"] == best.parameters
    assert math.isfinite(medians(rows_of(WORKERS))["usd"].sum())


def test_limits_may_name_the_numbers_of_a_run():
    """All that `sweep.table` adds to the experiment, as far as they are numbers, and nothing else."""
    [row] = rows_of(SETTINGS[:1], 1).to_dict("records")
    given = {*SETTINGS[0].to_dict(), "run", "setting", "repetition"} - {"items"}
    numbers = [name for name, value in row.items() if isinstance(value, int | float) and name not in given]
    assert sorted(tune.NUMBERS) == sorted(numbers)


def test_a_number_that_a_run_does_not_have_keeps_no_limit():
    """Workers of a lane that nothing takes are neither busy nor idle, and so keep no limit on it."""
    rows = rows_of(sweep.grid(BASE, {"siphon_share": [0.0]}), 1)
    assert check(rows, "utilisation<=1") == ["s000-r00: utilisation=nan, but must be <=1"]
    with pytest.raises(SweepError, match=r"utilisation<=1 \(0 of 1"):
        recommend(rows, limits="utilisation<=1")


FEW = {"worker_concurrency": [2, 3, 4, 6, 8, 12], "map_concurrency": [2, 4, 8, 16], "batch_size": [1, 2]}


def found(objective, limits="", values=(), base=BASE):
    """The search on few values."""
    return search(base, FEW | dict(values), objective, limits, progress=False)


@pytest.fixture(scope="module")
def every():
    """One run of each setting of FEW, without clocks, as the search makes them."""
    runs = (simulate(timeouts.unclocked(setting)) for setting in sweep.grid(BASE, FEW))
    rows = [
        {"run": str(number), "setting": number, "repetition": 0} | sweep.read(run)
        for number, run in enumerate(runs)
    ]
    return sweep.as_table(rows)


@pytest.mark.parametrize(
    ("objective", "limits"),
    [
        ("makespan", ""),
        ("makespan", "peak_workers<=5"),
        ("makespan", "p95_sojourn<1.5"),
        ("usd", "makespan<8"),
        ("p95_sojourn", "makespan<9 and peak_map<10"),
    ],
)
def test_the_search_finds_what_trying_all_finds(every, objective, limits):
    """Of 48 settings it runs fewer, and what it takes is as good as the best of all, within the limits."""
    result = found(objective, limits)
    assert result.rows["setting"].nunique() < len(every)
    own = result.rows[result.rows["setting"] == result.recommendation.setting]
    assert own["repetition"].tolist() == [0, 1, 2]
    assert check(own, limits) == []
    numbers = every.set_index("setting")[objective]
    wanted = recommend(every, objective, limits).setting
    assert numbers[result.recommendation.setting] <= 1.05 * numbers[wanted]
    pd.testing.assert_series_equal(
        own.iloc[0].drop("run"), every.iloc[result.recommendation.setting].drop("run"), check_names=False
    )


def test_what_is_beside_the_best_was_tried():
    """On each ladder, and on several at once: nothing next to the answer can be better."""
    result = found("makespan", "p95_sojourn<1.5")
    rows = result.rows
    best, beside = result.recommendation.experiment, []
    for name, values in FEW.items():
        place = values.index(getattr(best, name))
        beside.append(values[max(place - 1, 0) : place + 2])
    tried = set(rows[list(FEW)].itertuples(index=False, name=None))
    assert set(itertools.product(*beside)) <= tried


def test_the_answer_has_the_clocks_that_its_tails_ask_for():
    """Its parameters are those of the setting with the recommended clocks, under which no item is lost."""
    result = found("makespan")
    best = result.recommendation.experiment
    assert best == result.prediction.timeouts.experiment == result.prediction.experiment
    assert result.recommendation.parameters == stack.parameters(best)
    assert best.task_timeout_seconds < 600
    assert timeouts.struck(simulate(best)) == result.prediction.timeouts.struck == 0
    again = predict(best, repetitions=3).numbers
    assert {name: again[name] for name in ("makespan", "usd")} == {
        name: result.prediction.numbers[name] for name in ("makespan", "usd")
    }


def test_values_that_are_given_are_the_only_ones():
    """One value pins a field, several are chosen from, whichever field it is; a clock that is given stays."""
    given_values = {"worker_concurrency": [4], "consumer": ["lambda", "fleet"], "task_timeout_seconds": [50]}
    result = found("makespan", values=given_values)
    assert set(result.rows["worker_concurrency"]) == {4}
    assert set(result.rows["consumer"]) == {"lambda", "fleet"}
    assert result.recommendation.experiment.task_timeout_seconds == 50
    assert not any("task_timeout" in reason for reason in result.prediction.timeouts.reasons)


def test_ladders_are_no_wider_than_the_work_and_hold_the_limits():
    """No more at once than items, to the next step; and just as many as a limit on a peak allows."""
    steps = ladders(Experiment(60), {"batch_size": [3]}, "peak_workers<=37 and peak_map<45 and makespan<9")
    assert steps["batch_size"] == [3]
    assert steps["worker_concurrency"] == [2, 3, 5, 7, 10, 15, 20, 30, 37, 50, 70]
    assert steps["map_concurrency"] == [10, 20, 44, 50, 100]
    assert ladders(Experiment(10**6), {})["map_concurrency"] == list(LADDERS["map_concurrency"])


def test_items_that_time_out_are_no_way_to_be_fast():
    """With a timeout that is given, settings in which tasks run out of time are not allowed."""
    base = replace(BASE, siphon_share=1, limited_seconds=2.0, consumer="fleet")
    values = {"map_concurrency": [12, 40], "worker_concurrency": [12], "task_timeout_seconds": [5]}
    result = found("makespan", values=values, base=base)
    assert result.recommendation.experiment.map_concurrency == 12
    wide = result.rows[result.rows["map_concurrency"] == 40]
    assert (wide["timed_out"] > 0).all()
    assert (wide["makespan"] < result.rows[result.rows["map_concurrency"] == 12]["makespan"].min()).all()
    allowed = found("makespan", "timed_out<=40", values, base)
    assert allowed.recommendation.experiment.map_concurrency == 40


def test_a_setting_that_breaks_a_limit_when_repeated_is_not_taken(monkeypatch):
    """On other items the one that was best is beyond the limit: the next best is looked for, and repeated."""
    first = found("makespan").recommendation.experiment
    read = sweep.read

    def worse(trace):
        again = trace.experiment.seed > 0 and trace.experiment.worker_concurrency == first.worker_concurrency
        return read(trace) | ({"p95_sojourn": 99.0} if again else {})

    monkeypatch.setattr(sweep, "read", worse)
    result = found("makespan", "p95_sojourn<50")
    assert result.recommendation.experiment.worker_concurrency != first.worker_concurrency
    own = result.rows[result.rows["setting"] == result.recommendation.setting]
    assert own["repetition"].tolist() == [0, 1, 2]
    assert check(own, "p95_sojourn<50") == []
    assert (result.rows.groupby("setting").size() == 3).sum() > 1


@pytest.mark.parametrize(
    ("limits", "workers"),
    [
        ("peak_workers==3", 3),
        ("peak_workers>=3 and peak_workers<=3", 3),
        ("peak_workers>7 and peak_workers<9", 8),
        ("peak_workers==6 and p95_sojourn>0.0001", 6),
    ],
)
@pytest.mark.parametrize("objective", ["makespan", "usd", "p95_sojourn"])
def test_what_is_allowed_only_between_coarse_values_is_found(objective, limits, workers):
    """None of the first settings keeps these limits: the search goes to where they are broken the least."""
    result = found(objective, limits, {"batch_size": [1]})
    assert workers not in result.rows["worker_concurrency"].tolist()[:9]
    assert result.recommendation.experiment.worker_concurrency == workers


def test_limits_that_nothing_keeps_are_named():
    """The limit that fails is told with what was seen of it, nearest first to last."""
    with pytest.raises(SweepError, match=r"makespan<1 \(0 of \d+ settings; seen: [\d.]+ to [\d.]+\)"):
        found("usd", "makespan<1 and peak_workers<=100")


@pytest.mark.parametrize(
    ("values", "objective", "limits", "told"),
    [
        ({}, "speed", "", "objective='speed'"),
        ({}, "usd", "colour<1", "'colour'"),
        ({}, "usd", "usd<1 and usd>1", "usd<1 and usd>1: contradict"),
        ({}, "usd", "usd<=1 and usd>1", "contradict"),
        ({}, "usd", "usd==1 and usd==2", "contradict"),
        ({"colour": [1]}, "usd", "", "'colour'"),
        ({"worker_concurrency": []}, "usd", "", "worker_concurrency"),
        ({"worker_concurrency": [1]}, "usd", "", "worker_concurrency=1"),
        ({"batch_size": [100]}, "usd", "", "batch_size=100"),
        ({"limited_seconds": [math.nan]}, "usd", "", "limited_seconds=nan"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_runs(values, objective, limits, told, monkeypatch):
    """Unknown names, empty lists, limits at odds: nothing is simulated."""
    module = importlib.import_module("helpers.search")  # whose name in the package is the function's
    monkeypatch.setattr(module, "simulate", lambda *_: pytest.fail("simulated"))
    with pytest.raises(LabError, match=told):
        search(BASE, values, objective, limits, progress=False)


def test_limits_that_meet_agree():
    """A number may be bound from both sides, and be just what both allow."""
    assert found("usd", "items>=40 and items<=40 and makespan>0.1 and makespan<1000").rows is not None


def test_a_search_is_json_and_is_kept(tmp_path):
    """What it found can be written and read back, its prediction within; all runs are in a table."""
    result = found("makespan")
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert Experiment.from_dict(told["experiment"]) == result.recommendation.experiment
    assert told["prediction"]["binding"]["quota"] == result.prediction.binding
    assert told["tried"] == result.rows["setting"].nunique()
    result.save(tmp_path)
    assert json.loads((tmp_path / "recommendation.json").read_text()) == told
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(result.rows)
    assert (tmp_path / "timeline.png").is_file()
