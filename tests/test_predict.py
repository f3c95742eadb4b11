"""Predictions: how much of each quota is used, what binds, which clocks hold, how sure the numbers are."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic import experiments, make_trace
from test_simulation import any_quotas

from helpers import predict, simulate, sweep, tune
from helpers.errors import InvalidExperiment, SweepError, TraceError
from helpers.experiment import Experiment, empirical, exponential, lognormal
from helpers.predict import HIT, MEASURED, fitted
from helpers.simulation import AWS_US_EAST_1, NEW_ACCOUNT, UNLIMITED, timeouts, usage
from helpers.simulation.timeouts import HIGHEST, advise, struck, tails, unclocked

inf = math.inf
calls = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 4)), min_size=1, max_size=40)
rates = st.floats(0.1, 20)
APART = replace(UNLIMITED, receive_seconds=0.02)
"""Where a worker takes a moment before its next batch, which tells its batches apart."""


def missing(times, per_second, counts):
    """Tokens that a bucket lacks after each call, one call after the other."""
    lacks, before, found = 0.0, times[0], []
    for time, count in zip(times, counts, strict=True):
        lacks = max(lacks - per_second * (time - before), 0.0) + count
        before = time
        found.append(lacks)
    return found


@given(calls, rates)
def test_the_closed_form_of_a_bucket_is_the_bucket(calls, per_second):
    """Tokens missing after each call are those of a bucket that is emptied and filled call by call."""
    times, counts = zip(*sorted(calls), strict=True)
    expected = missing(times, per_second, counts)
    np.testing.assert_allclose(usage.deficits(times, per_second, counts), expected, rtol=1e-9, atol=1e-9)


@given(calls, rates, st.integers(4, 60))
def test_a_share_says_how_much_more_load_a_bucket_bears(calls, per_second, burst):
    """With every call 1 / share times as heavy the bucket is just emptied: a little less never empties it."""
    times, counts = zip(*sorted(calls), strict=True)
    used = usage.bucket(times, burst, per_second, counts)
    for load, empties in ((0.999 / used.share, False), (1.001 / used.share, True)):
        heavier = [load * count for count in counts]
        assert empties == (max(missing(times, per_second, heavier)) > burst)
    within = [count for time, count in zip(times, counts, strict=True) if time <= times[0] + used.seconds]
    assert used.peak <= sum(counts)
    assert used.limit == pytest.approx(burst + per_second * used.seconds)
    assert used.seconds > 0 or used.peak >= within[0]


def test_what_is_unlimited_is_not_used():
    """An endless bucket has room for all; one that fills at once, for what comes at the same moment."""
    assert usage.bucket([0.0, 0.0, 5.0], inf, 3.0).share == 0
    assert usage.bucket([0.0, 0.0, 5.0], 4.0, inf).share == 0.5
    assert usage.bucket([], 4.0, 3.0).share == 0


@settings(max_examples=100)
@given(experiments, any_quotas)
def test_no_run_uses_more_than_a_quota_allows(experiment, allowed):
    """Of each quota the share is at most 1, where the trace tells all: no late or given up answer, no cold
    start."""
    endless = {"transitions_burst": inf, "transitions_per_second": inf}
    experiment = replace(experiment, cold_start=False, heartbeat_seconds=None, task_timeout_seconds=10**6)
    trace = simulate(experiment, replace(allowed, **endless))
    tries = trace.attempts
    given_up = tries["attempt"].to_numpy() > experiment.plan()["failures"].to_numpy()[tries["item"]]
    assume(not (tries["outcome"].isin(["late", "lost"]) | (given_up & (tries["outcome"] == "failed"))).any())
    used = usage.table(trace, replace(allowed, **endless))
    assert (used["share"] <= 1 + 1e-6).all(), used.to_string()


def test_each_quota_is_used_as_its_own_arithmetic_says():
    """20 workers who take 10 s each and beat every second, 4 children a second, all by hand."""
    experiment = Experiment(
        40, siphon_share=1, worker_concurrency=20, limited_seconds=10.5, heartbeat_seconds=3, cold_start=True
    )
    allowed = replace(
        UNLIMITED,
        children_per_second=4.0,
        account_concurrency=40.0,
        environments_burst=5.0,
        environments_per_second=4.0,
        mapping_start=20.0,
        mapping_limit=25.0,
        in_flight_limit=50.0,
        task_burst=30.0,
        task_per_second=60.0,
        transitions_burst=100.0,
        transitions_per_second=10.0,
    )
    used = usage.table(simulate(unclocked(experiment, ["heartbeat_seconds"]), allowed), allowed)
    used = used.set_index("quota")
    assert used.loc["child dispatch rate", "share"] == pytest.approx(1.0)
    assert used.loc["account concurrency", ["peak", "limit"]].tolist() == [20, 40]
    assert used.loc["mapping limit", ["peak", "limit"]].tolist() == [20, 25]
    assert used.loc["messages in flight", ["peak", "limit"]].tolist() == [20, 50]
    # One each 0.25 s, 20 of them, of 5 and 4 a second.
    assert used.loc["new environments", "share"] == pytest.approx(20 / (5 + 4 * 4.75))
    # 20 workers, each once a second, of 30 and 60 a second: the longest stretch of steady beating.
    assert used.loc["SendTaskHeartbeat", "share"] == pytest.approx(20 / 60, rel=0.1)
    assert used.loc["SendTaskHeartbeat", "share"] > used.loc["SendTaskSuccess", "share"]
    assert "mapping ramp" not in used.index


@given(experiments, st.integers(1, 12))
def test_beats_are_as_many_as_the_workers_send(experiment, heartbeat):
    """Three in a period from the start of its batch on, while a message is in hand and its task is open."""
    free = replace(unclocked(experiment), heartbeat_seconds=heartbeat)
    trace = simulate(free, APART)
    seen = usage.visits(trace, APART)
    returned = trace.items.set_index("item")["returned"]
    expected = []
    for row in range(len(seen.item)):
        beat = 1
        end = min(seen.until[row], returned[seen.item[row]]) - usage.ROUNDING
        while (time := seen.began[row] + beat * heartbeat / 3) < end:
            expected.append(time)
            beat += 1
    used = usage.table(trace, replace(APART, task_burst=1.0, task_per_second=1e-6)).set_index("quota")
    if len(seen.item):
        assert used.loc["SendTaskHeartbeat", "peak"] == len(expected)


@pytest.mark.parametrize(
    ("experiment", "quotas", "binding", "doubled"),
    [
        (
            Experiment(600, siphon_share=0.1),
            AWS_US_EAST_1,
            "child dispatch rate",
            {"children_per_second": 200.0},
        ),
        (Experiment(300, limited_seconds=3), NEW_ACCOUNT, "account concurrency", {"account_concurrency": 20}),
        (
            Experiment(300, siphon_share=1, limited_seconds=3.0, worker_concurrency=100),
            replace(UNLIMITED, mapping_start=5.0, mapping_per_minute=60.0, mapping_limit=1250.0),
            "mapping ramp",
            {"mapping_start": 10.0, "mapping_per_minute": 120.0},
        ),
        (
            Experiment(500, siphon_share=1, limited_seconds=0.1, worker_concurrency=500),
            replace(UNLIMITED, task_burst=20.0, task_per_second=5.0),
            "SendTaskSuccess",
            {"task_burst": 40.0, "task_per_second": 10.0},
        ),
        (
            Experiment(300, siphon_share=0, direct_seconds=5.0, cold_start=True),
            replace(UNLIMITED, transitions_burst=50.0, transitions_per_second=20.0),
            "StateTransition",
            {"transitions_burst": 100.0, "transitions_per_second": 40.0},
        ),
        (
            Experiment(400, siphon_share=1, limited_seconds=1.0, worker_concurrency=50),
            replace(UNLIMITED, in_flight_limit=10.0),
            "messages in flight",
            {"in_flight_limit": 20.0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_binding_quota_is_what_a_higher_one_shortens(experiment, quotas, binding, doubled):
    """Twice as much of the quota that binds shortens the run; without it the run is as short as foretold."""
    predicted = predict(experiment, quotas, 1)
    assert predicted.binding == binding
    free = unclocked(experiment)
    spans = [
        simulate(free, allowed).items["returned"].max()
        for allowed in (usage.lifted(quotas, binding), replace(quotas, **doubled), quotas)
    ]
    assert spans[0] <= spans[1] < spans[2]
    assert predicted.saves == pytest.approx(1 - spans[0] / spans[2])
    assert f"{binding} binds" in str(predicted)


def test_settings_bind_where_no_quota_does():
    """Few workers hold a run back whatever AWS allows; what is used most then is the next cliff."""
    predicted = predict(Experiment(300, siphon_share=1, worker_concurrency=5, limited_seconds=1.0))
    assert predicted.binding == "none"
    assert predicted.saves == 0
    assert predicted.held[0] == "worker limit"
    assert "No quota binds: worker limit holds the run back" in str(predicted)
    shares = predicted.use.set_index("quota")["share"]
    assert predicted.cliff == shares[shares < HIT].idxmax()
    used = shares[predicted.cliff]
    assert f"Next cliff: {predicted.cliff}, {used:.1%} used: at {1 / used:.3g} times the load" in str(
        predicted
    )


def test_a_run_without_limits_has_no_cliff():
    """Nothing unlimited is used, and so none is near."""
    predicted = predict(Experiment(50, consumer="fleet"), UNLIMITED, 2)
    assert (predicted.binding, predicted.cliff) == ("none", "none")
    assert "cliff" not in str(predicted)


def test_timeouts_do_not_make_a_run_look_shorter():
    """Without the dispatch rate all messages would wait for longer than their tasks may: that is no gain."""
    experiment = Experiment(
        2_000, siphon_share=1, worker_concurrency=30, limited_seconds=0.19, task_timeout_seconds=5
    )
    assert (simulate(experiment).items["outcome"] == "succeeded").all()
    without = usage.lifted(AWS_US_EAST_1, "child dispatch rate")
    assert (simulate(experiment, without).items["outcome"] == "timed_out").any()
    assert "timed_out" in str(predict(experiment, without, 1))
    shorter = simulate(unclocked(experiment), without).items["returned"].max()
    predicted = predict(experiment, repetitions=1)
    assert predicted.binding == "child dispatch rate"
    assert predicted.saves == pytest.approx(1 - shorter / predicted.numbers["makespan"][0])


@settings(max_examples=60)
@given(experiments, st.sampled_from([UNLIMITED, AWS_US_EAST_1]))
def test_with_the_recommended_clocks_no_item_is_lost(experiment, allowed):
    """Nobody times out, answers late, or becomes a dead letter that had to succeed."""
    advised = advise([experiment, replace(experiment, seed=experiment.seed // 2)], allowed)
    assume(max(experiment.plan()["task_seconds"]) * experiment.batch_size < 900)
    trace = simulate(replace(advised.experiment, seed=experiment.seed), allowed)
    assert not (trace.items["outcome"] == "timed_out").any(), advised
    assert not trace.attempts["outcome"].isin(["late", "lost"]).any(), advised
    failures = experiment.plan()["failures"].to_numpy()
    dead = (trace.items["outcome"] == "dead_lettered").to_numpy()
    assert (failures[dead] >= advised.experiment.max_receive_count).all(), advised
    assert advised.struck == struck(trace) == 0
    assert not any("AWS advises six" in sentence for sentence in advised.experiment.advice())


TAILED = Experiment(
    400,
    siphon_share=1,
    worker_concurrency=30,
    limited_seconds=lognormal(3.0, 0.5),
    failure_rate=0.05,
    map_concurrency=50,
)


def test_clocks_are_the_predicted_tails_with_their_margin():
    """Each by its rule from the runs without clocks; and the clocks come out alike whatever was given."""
    runs = [replace(TAILED, seed=seed) for seed in range(3)]
    advised = advise(runs, AWS_US_EAST_1).experiment
    free = [simulate(unclocked(run)) for run in runs]
    sojourn = max((trace.items["returned"] - trace.items["arrival"]).max() for trace in free)
    longest = max((trace.attempts["end"] - trace.attempts["start"]).max() for trace in free)
    assert advised.task_timeout_seconds == max(math.floor(2 * sojourn), advised.heartbeat_seconds) + 1
    assert 2 * longest < advised.function_timeout_seconds <= 2 * (longest + 0.02) + 1
    assert advised.visibility_timeout_seconds == 6 * advised.function_timeout_seconds
    assert advised.max_receive_count == 5
    told = [tails(trace, AWS_US_EAST_1) for trace in free]
    beat = advised.heartbeat_seconds
    assert beat - 1 <= max(run.silence(beat - 1, 2.0) for run in told)
    assert beat > max(run.silence(beat, 2.0) for run in told)
    short = {"task_timeout_seconds": 4, "heartbeat_seconds": 1, "max_receive_count": 1}
    assert advise([replace(run, **short) for run in runs], AWS_US_EAST_1).experiment == advised


@settings(max_examples=100)
@given(experiments, st.integers(1, 12))
def test_a_heartbeat_above_the_silence_holds(experiment, heartbeat):
    """Where silence is shorter than the heartbeat no task ends; where two thirds of a period longer, one."""
    experiment = unclocked(experiment)
    silent = tails(simulate(experiment, APART), APART).silence(heartbeat)
    lost = struck(simulate(replace(experiment, heartbeat_seconds=heartbeat), APART))
    if silent < heartbeat:
        assert lost == 0
    if silent > heartbeat + 2 * heartbeat / 3 + 1e-6:
        assert lost > 0


@settings(max_examples=100)
@given(experiments, st.integers(1, 12), st.integers(1, 5), st.sampled_from([0, 1, 5]))
def test_a_heartbeat_holds_at_every_speed_up_to_its_margin(experiment, heartbeat, times, redelivery):
    """An attempt too short for a beat grows with the run: what holds does so at each speed between."""
    seconds = {"limited_seconds": 0.7, "redelivery_seconds": redelivery, "map_concurrency": 0}
    experiment = unclocked(replace(experiment, **seconds))
    slower = [
        replace(experiment, limited_seconds=0.7 * k, redelivery_seconds=k * redelivery)
        for k in range(1, times + 1)
    ]
    silent = tails(simulate(experiment, UNLIMITED), UNLIMITED).silence(heartbeat, times)
    if silent < heartbeat:
        for each in slower:
            assert struck(simulate(replace(each, heartbeat_seconds=heartbeat), UNLIMITED)) == 0


eighths = st.integers(0, 72).map(lambda count: count / 8)
gaps_and_visits = st.lists(st.tuples(eighths, eighths), min_size=1, max_size=6)


@settings(max_examples=250)
@given(st.lists(gaps_and_visits, min_size=1, max_size=3), st.integers(1, 9), st.floats(1, 3), st.floats(0, 1))
def test_nothing_is_silent_for_longer_than_told(items, heartbeat, slower, between):
    """Beat by beat, at any speed down to the slowest; nor is it told to be by much longer than it can be."""
    item, began, until, returned = [], [], [], []
    for number, visits in enumerate(items):
        time = 0.0
        for gap, length in visits:
            item.append(number)
            began.append(time + gap)
            until.append(time := time + gap + length)
        returned.append(time)
    times = [np.array(each) for each in (np.zeros(len(items)), returned, item, began, until)]
    told = timeouts.Tails(0.0, 0.0, 0, 0, 0, *times).silence(heartbeat, slower)

    def exact(speed):
        longest = 0.0
        for number, end_of_all in enumerate(returned):
            heard = [0.0]
            for of, start, end in zip(item, began, until, strict=True):
                beats = (
                    math.ceil(3 * speed * (end - start) / heartbeat - usage.ROUNDING) if of == number else 0
                )
                heard += [speed * start + beat * heartbeat / 3 for beat in range(1, beats)]
            longest = max(longest, np.diff([*heard, speed * end_of_all]).max())
        return longest

    assert exact(1 + between * (slower - 1)) <= told + 1e-4
    assert told <= slower * exact(1) + 2 * heartbeat / 3 + 1e-4


def test_beats_of_many_workers_fit_their_bucket():
    """1,000 workers of long tasks, beating three times a period: below 500 a second with a margin of two."""
    experiment = Experiment(
        1_000, siphon_share=1, worker_concurrency=1_000, consumer="fleet", limited_seconds=60.0
    )
    allowed = replace(AWS_US_EAST_1, children_per_second=inf)
    advised = advise([experiment], allowed).experiment
    assert advised.heartbeat_seconds == 3 * 2 * 1_000 / 500
    used = usage.table(simulate(advised, allowed), allowed).set_index("quota")
    assert used.loc["SendTaskHeartbeat", "share"] <= 0.5


def test_receives_are_enough_for_chance():
    """Of n messages that fail with chance q each time, fewer than 0.01 are expected to fail so often."""
    experiment = replace(TAILED, failure_rate=0.3, items=200)
    advised = advise([experiment], UNLIMITED).experiment
    assert 200 * 0.3**advised.max_receive_count <= 0.01
    most = tails(simulate(unclocked(experiment), UNLIMITED), UNLIMITED).deliveries
    assert most >= advised.max_receive_count or 200 * 0.3 ** (advised.max_receive_count - 1) > 0.01


def test_visibility_outlasts_what_lambda_refuses():
    """Where the account allows far fewer functions than the mapping has workers, batches are refused long.

    If each refusal counts as a receive, no message may come back meanwhile; one that fails is lost even so.
    """
    experiment = Experiment(600, siphon_share=1, limited_seconds=0.5, worker_concurrency=200)
    throttled = replace(NEW_ACCOUNT, throttles_receive=True)
    held = advise([experiment], throttled)
    assert held.struck == 0
    assert held.experiment.visibility_timeout_seconds > 6 * held.experiment.function_timeout_seconds
    assert any("lower worker_concurrency" in reason for reason in held.reasons)
    lost = predict(replace(experiment, failure_rate=0.1), throttled, 1)
    assert lost.timeouts.struck > 0
    assert f"{lost.timeouts.struck:,} items would still be lost" in str(lost)
    clocks = lost.timeouts.experiment
    assert clocks.visibility_timeout_seconds == 6 * clocks.function_timeout_seconds


def test_what_cannot_be_served_in_time_is_told():
    """A batch of more than 900 s has no timeout that it would keep."""
    experiment = Experiment(8, siphon_share=1, limited_seconds=500.0, batch_size=2, worker_concurrency=2)
    advised = advise([experiment], UNLIMITED)
    assert advised.experiment.function_timeout_seconds == 900
    assert any("make batches smaller" in reason for reason in advised.reasons)
    assert advised.struck > 0


@pytest.mark.parametrize(
    "kept",
    [
        {"task_timeout_seconds": 20},
        {"visibility_timeout_seconds": 40},
        {"function_timeout_seconds": 7},
        {"heartbeat_seconds": 9},
        {"max_receive_count": 3},
    ],
)
def test_a_clock_that_is_kept_stays_and_the_others_fit(kept):
    """What is not to be changed is not; the rest is still an experiment that AWS accepts."""
    experiment = replace(TAILED, **kept)
    advised = advise([experiment], AWS_US_EAST_1, kept)
    [(name, value)] = kept.items()
    assert getattr(advised.experiment, name) == value
    assert len(advised.reasons) == len(HIGHEST) - 1
    assert all(not reason.startswith(name) for reason in advised.reasons)


def test_clocks_out_of_the_way_are_the_highest():
    """One more than these is refused, or for the heartbeat, there is none."""
    for name, highest in HIGHEST.items():
        assert getattr(unclocked(TAILED), name) == highest
        if highest is not None:
            with pytest.raises(InvalidExperiment):
                replace(unclocked(TAILED), **{name: highest + 1})


def test_numbers_are_those_of_its_replications():
    """Median and interval of runs with seeds from the experiment's own on; trace and bill are the first's."""
    experiment = replace(TAILED, seed=7)
    predicted = predict(experiment, repetitions=4)
    rows = [sweep.read(simulate(replace(experiment, seed=7 + k))) for k in range(4)]
    assert set(predicted.numbers) == set(tune.NUMBERS)
    for name, three in predicted.numbers.items():
        assert three == tune.interval([row[name] for row in rows])
    pd.testing.assert_frame_equal(predicted.trace.items, simulate(experiment).items)
    assert predicted.numbers["usd"][1] <= predicted.bill["usd"].sum() <= predicted.numbers["usd"][2]


def test_more_replications_narrow_the_intervals():
    """Of the same experiment, 40 tell more than 5."""
    few, many = (
        predict(Experiment(60, limited_seconds=exponential(2.0)), UNLIMITED, k).numbers for k in (5, 40)
    )
    for name in ("makespan", "p95_sojourn", "usd"):
        assert many[name][2] - many[name][1] < few[name][2] - few[name][1]


def test_a_number_that_a_run_lacks_is_left_out():
    """Nobody waits for workers where no item takes the limited lane."""
    predicted = predict(Experiment(20, siphon_share=0), repetitions=2)
    assert "utilisation" not in predicted.numbers
    assert "utilisation" not in str(predicted)
    assert "timed_out" not in str(predicted)
    assert predicted.timeouts.experiment.heartbeat_seconds is None


def test_no_replication_is_no_prediction():
    """Fewer than one is refused, by name."""
    with pytest.raises(SweepError, match="repetitions=0"):
        predict(Experiment(5), repetitions=0)


@pytest.mark.parametrize("quotas", [AWS_US_EAST_1, UNLIMITED])
def test_a_prediction_is_json_and_is_kept(quotas, tmp_path):
    """All but the trace can be written and read back, what is unlimited as null; the trace is a file."""
    predicted = predict(Experiment(40, limited_seconds=exponential(0.5)), quotas, 2)
    told = json.loads(json.dumps(predicted.to_dict(), allow_nan=False))
    assert Experiment.from_dict(told["experiment"]) == predicted.experiment
    assert told["numbers"]["makespan"]["median"] == predicted.numbers["makespan"][0]
    assert told["binding"]["quota"] == predicted.binding
    assert told["timeouts"]["task_timeout_seconds"] == predicted.timeouts.experiment.task_timeout_seconds
    assert (told["quotas"]["account_concurrency"] is None) == (quotas == UNLIMITED)
    predicted.save(tmp_path)
    assert json.loads((tmp_path / "prediction.json").read_text()) == told
    kept = type(predicted.trace).load(tmp_path / "trace.parquet")
    pd.testing.assert_frame_equal(predicted.trace.items, kept.items)
    assert (tmp_path / "timeline.png").is_file()


def test_a_fitted_experiment_has_the_measured_times():
    """Of each lane, those of its attempts that ended, failed ones too, and the failures that were seen."""
    measured = Experiment(
        200, direct_seconds=exponential(0.1), limited_seconds=exponential(2.0), failure_rate=0.2, seed=3
    )
    trace = make_trace(measured)
    found = fitted(Experiment(7, worker_concurrency=9), trace)
    assert (found.items, found.worker_concurrency) == (7, 9)
    tries = trace.attempts.merge(trace.items[["item", "lane"]], on="item")
    for lane, time in (("direct", found.direct_seconds), ("limited", found.limited_seconds)):
        own = tries[tries["lane"] == lane]
        assert list(time.values) == sorted((own["end"] - own["start"]).round(6))
    assert found.failure_rate == (tries["outcome"] == "failed").mean()
    assert predict(found, repetitions=1).numbers["makespan"][0] > 0


def test_lost_attempts_and_lanes_that_are_not_there_tell_nothing():
    """A lost attempt has no end; a lane without attempts keeps its times."""
    trace = make_trace(Experiment(20, siphon_share=1, limited_seconds=1.0))
    lost = trace.attempts.assign(outcome=["lost"] * 5 + ["succeeded"] * 15)
    lost["end"] = lost["end"].where(lost["outcome"] != "lost")
    base = Experiment(5, direct_seconds=0.3)
    found = fitted(base, replace(trace, attempts=lost))
    assert found == replace(base, limited_seconds=empirical([1.0] * 15))
    late = lost.assign(outcome=lost["outcome"].replace("succeeded", "late"))
    assert fitted(base, replace(trace, attempts=late)) == found
    with pytest.raises(TraceError, match="no attempt ended"):
        fitted(base, replace(trace, attempts=lost[:5]))


def test_many_measured_times_are_thinned_evenly():
    """A thousand of them, from the shortest to the longest, with the same quantiles."""
    trace = make_trace(Experiment(5_000, siphon_share=1, limited_seconds=lognormal(1.0, 1.0)))
    seconds = np.sort((trace.attempts["end"] - trace.attempts["start"]).round(6))
    kept = np.array(fitted(Experiment(5), trace).limited_seconds.values)
    assert len(kept) == MEASURED
    assert (kept[0], kept[-1]) == (seconds[0], seconds[-1])
    percents = np.arange(1, 100)
    np.testing.assert_allclose(np.percentile(kept, percents), np.percentile(seconds, percents), rtol=0.02)


def test_threads_do_not_change_a_prediction(monkeypatch):
    """One simulation at a time gives the same words."""
    several = str(predict(Experiment(100, failure_rate=0.1), repetitions=3))
    monkeypatch.setattr(timeouts, "THREADS", 1)
    assert str(predict(Experiment(100, failure_rate=0.1), repetitions=3)) == several
