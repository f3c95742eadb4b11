"""The simulation: the laws of a run under any quotas, each quota's own arithmetic, and what is refused."""

import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle_ciw import service_ends
from oracle_simpy import simulate_simpy
from synthetic import experiments
from twin import simulate_twin

from helpers import checks, connect, metrics, queueing, simulate
from helpers.errors import EngineError, LabError
from helpers.experiment import Experiment, exponential
from helpers.simulation import AWS_US_EAST_1, UNLIMITED, Quotas, model, quotas
from helpers.trace import ITEM_TIMES

inf = math.inf
OUT_OF_REACH = {
    "task_timeout_seconds": 100_000,
    "function_timeout_seconds": 900,
    "visibility_timeout_seconds": 43_200,
}
"""Clocks that the oracles do not know."""
tight = st.builds(
    Quotas,
    children_per_second=st.sampled_from([1.0, 5.0, 100.0, inf]),
    account_concurrency=st.sampled_from([1.0, 3.0, 1000.0]),
    environments_burst=st.sampled_from([1.0, 2.0, 1000.0]),
    environments_per_second=st.sampled_from([0.5, 100.0]),
    cold_start_seconds=st.sampled_from([0.0, 0.3]),
    cold_start_share=st.sampled_from([0.0, 0.5]),
    mapping_start=st.sampled_from([1.0, 5.0]),
    mapping_per_minute=st.sampled_from([1.0, 60.0, 300.0]),
    mapping_limit=st.sampled_from([5.0, 1250.0]),
    ramp_stepped=st.booleans(),
    throttle_retry_seconds=st.sampled_from([0.1, 1.0, 7.0]),
    throttles_receive=st.booleans(),
    in_flight_limit=st.sampled_from([1.0, 4.0, 120_000.0]),
    task_burst=st.sampled_from([1.0, 3000.0]),
    task_per_second=st.sampled_from([0.5, 3.0, 500.0]),
    transitions_burst=st.sampled_from([1.0, 5000.0]),
    transitions_per_second=st.sampled_from([2.0, 5000.0]),
)
any_quotas = st.one_of(st.just(UNLIMITED), st.just(AWS_US_EAST_1), tight)
TOKENS_IN_ONE_BATCH = Experiment(
    13,
    siphon_share=0.25,
    worker_concurrency=2,
    direct_seconds=0.0,
    limited_seconds=3.0,
    batch_size=4,
    max_receive_count=2,
    redelivery_seconds=0,
    task_timeout_seconds=2,
)
"""With three tokens each, its three limited items fill a batch of four."""
FREE = replace(UNLIMITED, mapping_limit=1250.0, mapping_start=1250.0)


def queue_of(items, workers, **settings):
    """All items through the queue to a fleet of so many workers, with service times of 1 s on average."""
    lane = {"siphon_share": 1, "consumer": "fleet", "limited_seconds": exponential(1.0)}
    return Experiment(items, worker_concurrency=workers, **lane, **settings)


@settings(max_examples=200)
@given(experiments, any_quotas, st.integers(1, 40), st.sampled_from([1, 1, 3]))
def test_every_law_holds_under_any_quotas(experiment, allowed, function_timeout, task_attempts):
    """Conservation, limits, order, attempts and Little's law, whatever runs out."""
    settings = {"function_timeout_seconds": function_timeout, "task_attempts": task_attempts}
    checks.verify(simulate(replace(experiment, **settings), allowed))


@settings(max_examples=200)
@given(
    experiments,
    any_quotas,
    st.integers(1, 40),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([None, 1]),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([None, None, 0.5, 20.0]),
)
@example(TOKENS_IN_ONE_BATCH, UNLIMITED, 3, 0, None, 3, None)
def test_the_kernel_and_its_plain_twin_agree_bit_for_bit(
    experiment, allowed, function_timeout, window, heartbeat, task_attempts, arrivals
):
    """The same model written again, plainly, from its description: every column of both tables is equal."""
    experiment = replace(
        experiment,
        function_timeout_seconds=function_timeout,
        batch_window_seconds=window,
        heartbeat_seconds=heartbeat,
        task_attempts=task_attempts,
        arrivals_per_second=arrivals,
    )
    _, items, times, attempts = model.run(experiment, allowed)
    twin_items, twin_attempts = simulate_twin(experiment, allowed)
    for name, found in zip(ITEM_TIMES, times, strict=True):
        np.testing.assert_array_equal(twin_items[name], found, name)
    for name in ("count", "outcome"):
        np.testing.assert_array_equal(twin_items[name], items[name], name)
    for name in ("item", "worker", "start", "end", "outcome"):
        np.testing.assert_array_equal(twin_attempts[name], attempts[name], name)


@given(
    st.integers(1, 80),
    st.sampled_from([1, 3, 20, 0]),
    st.floats(0, 1),
    st.integers(2, 20),
    st.sampled_from([5.0, 100.0, 1000.0]),
    st.integers(0, 9),
)
def test_the_core_is_that_of_a_simpy_model(items, map_concurrency, siphon_share, workers, rate, seed):
    """Processes and resources of a general library give the same times, to the last bit."""
    experiment = Experiment(
        items,
        map_concurrency=map_concurrency,
        siphon_share=siphon_share,
        worker_concurrency=workers,
        direct_seconds=exponential(0.2),
        limited_seconds=exponential(0.5),
        seed=seed,
        **OUT_OF_REACH,
    )
    latencies = {"send_seconds": 0.011, "invoke_seconds": 0.013, "receive_seconds": 0.017}
    latencies |= {"answer_seconds": 0.019, "return_seconds": 0.023, "map_start_seconds": 0.5}
    allowed = replace(UNLIMITED, children_per_second=rate, **latencies)
    expected, found = simulate_simpy(experiment, allowed), simulate(experiment, allowed).items
    for name, times in expected.items():
        np.testing.assert_array_equal(times, found[name], name)


@given(st.integers(1, 200), st.integers(2, 20), st.integers(0, 9))
def test_services_end_when_ciw_ends_them(items, workers, seed):
    """A queue of c servers in a library for queueing networks ends the same services at the same times."""
    experiment = queue_of(items, workers, seed=seed, **OUT_OF_REACH)
    found = simulate(experiment, replace(UNLIMITED, children_per_second=8.0)).items
    services = experiment.plan()["task_seconds"].tolist()
    expected = service_ends(found["enqueued"].tolist(), services, workers)
    np.testing.assert_allclose(np.sort(found["service_end"]), expected, rtol=1e-12)


def test_a_refused_batch_is_tried_again_each_second():
    """A bucket of 1.7 environments that gains 0.5 a second: one at once, one after 1 s, one after 3 s."""
    experiment = Experiment(
        3, siphon_share=1, worker_concurrency=5, limited_seconds=9.0, cold_start=True, task_timeout_seconds=99
    )
    allowed = replace(UNLIMITED, environments_burst=1.7, environments_per_second=0.5, cold_start_seconds=0.25)
    starts = simulate(experiment, allowed).attempts["start"] - 0.25
    assert starts.tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(("counted", "dead"), [(False, 42), (True, 46)])
def test_throttling_makes_dead_letters_of_messages_without_fault(counted, dead):
    """50 workers may poll, 2 functions run: what is refused stays with the mapping until it is visible.

    After three visibility timeouts it is a dead letter, or after one where each try counts as a receive: by
    then 8 or 4 messages have begun.
    """
    experiment = Experiment(
        50,
        siphon_share=1,
        worker_concurrency=50,
        limited_seconds=30.0,
        visibility_timeout_seconds=40,
        max_receive_count=3,
        task_timeout_seconds=3_000,
    )
    allowed = replace(UNLIMITED, account_concurrency=2.0, throttles_receive=counted)
    trace = simulate(experiment, allowed)
    assert metrics.summary(trace)["peak_workers"] == 2
    assert (trace.items["outcome"] == "dead_lettered").sum() == dead


def test_a_task_that_runs_out_of_time_is_sent_again_with_a_new_token():
    """One worker at 1.5 s a task: the second item's task ends at 2 s, in service, and is sent once more.

    The answer to the old token is late, though the item waits; the new token's counts.
    """
    experiment = Experiment(
        2,
        siphon_share=1,
        consumer="fleet",
        worker_concurrency=1,
        limited_seconds=1.5,
        task_timeout_seconds=2,
        task_attempts=4,
    )
    trace = simulate(experiment, UNLIMITED)
    checks.verify(trace)
    assert trace.items["outcome"].tolist() == ["succeeded", "succeeded"]
    tries = trace.attempts[trace.attempts["item"] == 1]
    assert tries["outcome"].tolist() == ["late", "succeeded"]
    assert tries["start"].tolist() == [1.5, 3.0]
    once = simulate(replace(experiment, task_attempts=1), UNLIMITED)
    assert once.items["outcome"].tolist() == ["succeeded", "timed_out"]


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (5, 4.0), (50, 45.0)])
def test_an_open_system_waits_as_erlang_says(servers, rate):
    """Poisson arrivals, exponential services, c workers: the mean wait is Erlang C's to 3 standard errors.

    Over 30 replications of 4,000 arrivals, of which the first 1,000 are left out, as the system starts empty.
    """
    expected = queueing.mean_waiting(rate, 1.0, servers)
    found = []
    for seed in range(30):
        experiment = queue_of(4_000, servers, arrivals_per_second=rate, seed=seed, **OUT_OF_REACH)
        items = simulate(experiment, UNLIMITED).items[1_000:]
        found.append((items["service_start"] - items["enqueued"]).mean())
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 3 * error


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"arrivals_per_second": 99, "worker_concurrency": 40},
            "49.5 workers are busy .* < worker_concur.*=40",
        ),
        ({"arrivals_per_second": 100.0}, "100 < children_per_second=100 fails"),
        ({"arrivals_per_second": 10.0, "map_concurrency": 5}, "map_concurrency=5"),
        ({"arrivals_per_second": 50.0, "failure_rate": 0.9}, "worker_concurrency=100"),
    ],
)
def test_an_unstable_open_system_is_refused(settings, told):
    """The inequality that fails is named with its numbers: what waits would grow without end."""
    free = replace(FREE, children_per_second=100.0)
    base = Experiment(10, siphon_share=0.5, limited_seconds=1.0, direct_seconds=0.1)
    with pytest.raises(LabError, match=told):
        simulate(replace(base, **settings), free)


@given(experiments, any_quotas)
def test_a_simulation_is_a_function(experiment, allowed):
    """The same experiment under the same quotas gives the same trace, also with too little room at first."""
    expected = simulate(experiment, allowed)
    with pytest.MonkeyPatch.context() as patch:
        real = np.zeros

        def small(shape, dtype=float):
            few = dtype == model.ATTEMPTS and shape > 40
            return real(shape // 4 if few else shape, dtype)

        patch.setattr(model.np, "zeros", small)
        actual = simulate(experiment, allowed)
    pd.testing.assert_frame_equal(expected.items, actual.items)
    pd.testing.assert_frame_equal(expected.attempts, actual.attempts)


@given(st.integers(1, 300), st.integers(1, 60), st.integers(0, 5))
def test_without_frictions_the_makespan_is_near_its_bound(items, workers, seed):
    """Of one lane it is between the fluid bound and that bound and the longest item (Graham, 1969)."""
    experiment = queue_of(items, workers, seed=seed)
    ideal = metrics.ideal_makespan(experiment)
    longest = experiment.plan()["task_seconds"].max()
    found = metrics.summary(simulate(experiment, UNLIMITED))["makespan"]
    assert ideal * (1 - 1e-9) <= found <= ideal + longest


@pytest.mark.parametrize("siphon_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("map_concurrency", [10, 100, 500])
@pytest.mark.parametrize("time", [1.0, exponential(1.0)])
def test_a_large_run_takes_little_longer_than_its_bound(siphon_share, map_concurrency, time):
    """Makespan / bound is in [1, 1.05] where the longest item is short against the run."""
    experiment = Experiment(
        100_000,
        map_concurrency=map_concurrency,
        siphon_share=siphon_share,
        worker_concurrency=50,
        direct_seconds=time,
        limited_seconds=time,
        **OUT_OF_REACH,
    )
    summary = metrics.summary(simulate(experiment, UNLIMITED))
    assert 1 - 1e-9 <= summary["makespan"] / summary["ideal_makespan"] <= 1.05


@given(st.integers(2, 400), st.integers(2, 40), st.integers(1, 40))
def test_more_workers_never_take_longer_on_equal_items(items, workers, more):
    """With equal service times first come, first served is optimal: the makespan falls with the workers."""
    base = Experiment(items, siphon_share=1, worker_concurrency=workers, limited_seconds=1.0)
    spans = [
        metrics.summary(simulate(replace(base, worker_concurrency=count), FREE))["makespan"]
        for count in (workers, workers + more)
    ]
    assert spans[1] <= spans[0] + 1e-9
    assert spans[0] == pytest.approx(math.ceil(items / workers))


def test_children_start_at_the_dispatch_rate():
    """100 a second, evenly, the first at once: 10,000 take 99.99 s to start whatever they do."""
    trace = simulate(Experiment(10_000, siphon_share=0, direct_seconds=0.1))
    np.testing.assert_allclose(trace.items["arrival"], np.arange(10_000) / 100, atol=1e-6)


@pytest.mark.parametrize("stepped", [False, True])
def test_the_mapping_grows_from_5_by_300_a_minute(stepped):
    """Evenly, one more each 0.2 s; or by 300 at each whole minute. 100 workers need 19 s, or a minute."""
    experiment = Experiment(4_000, siphon_share=1, worker_concurrency=100, limited_seconds=2.0)
    allowed = replace(
        UNLIMITED, mapping_start=5.0, mapping_per_minute=300.0, mapping_limit=1250.0, ramp_stepped=stepped
    )
    time, count = metrics.concurrency(simulate(experiment, allowed), "limited")
    grown = np.floor(time / 60) * 300 if stepped else np.floor(time * 5 + 1e-9)
    assert (count <= np.minimum(100, 5 + grown)).all()
    reached = time[np.argmax(count == 100)]
    assert reached == pytest.approx(60.0 if stepped else 19.0)


def test_answers_wait_for_the_task_bucket():
    """2,000 answers at once from a bucket of 1,500 and 300 a second: the rest tries again."""
    allowed = replace(UNLIMITED, task_burst=1_500.0, task_per_second=300.0)
    experiment = Experiment(
        2_000, siphon_share=1, consumer="fleet", worker_concurrency=1_000, limited_seconds=0.1
    )
    trace = simulate(experiment, allowed)
    answered = np.sort(trace.items["returned"].to_numpy())
    assert (trace.items["outcome"] == "succeeded").all()
    assert (np.arange(1, 2_001) <= 1_500 + 300 * answered + 1e-6).all()
    assert answered[-1] > 0.2 + 1


def test_the_account_holds_both_lanes_together():
    """Functions at once, direct and limited, never pass the account's concurrency; it is reached."""
    experiment = Experiment(600, direct_seconds=0.4, limited_seconds=0.4, worker_concurrency=20)
    trace = simulate(experiment, replace(UNLIMITED, account_concurrency=30.0, children_per_second=120.0))
    assert metrics.steps(trace.attempts["start"], trace.attempts["end"])[1].max() == 30


def test_a_wall_in_flight_holds_back_receiving():
    """No more messages are received and not deleted than the queue allows: 50 workers, and 6 of them work."""
    experiment = Experiment(400, siphon_share=1, worker_concurrency=50, limited_seconds=0.5)
    trace = simulate(experiment, replace(UNLIMITED, in_flight_limit=6.0))
    assert metrics.summary(trace)["peak_workers"] == 6


def test_cold_environments_start_no_faster_than_allowed():
    """The first 10 at once and 2 a second from then on: a refused call is tried again by the Retry."""
    experiment = Experiment(40, siphon_share=0, direct_seconds=60.0, cold_start=True)
    allowed = replace(UNLIMITED, environments_burst=10.0, environments_per_second=2.0, cold_start_seconds=1.0)
    starts = np.sort(simulate(experiment, allowed).attempts["start"].to_numpy()) - 1.0
    assert (np.arange(1, len(starts) + 1) <= 10 + 2 * starts + 1e-6).all()
    assert (starts[:10] == 0).all()


def test_a_heartbeat_that_queues_too_long_ends_the_task():
    """The clock runs while the message waits: of 2 workers at 1 s each, the fifth item would begin at 2 s.

    Nobody has beaten for it by then: it is ended, and its answer is late."""
    experiment = Experiment(
        10, siphon_share=1, worker_concurrency=2, limited_seconds=1.0, heartbeat_seconds=2, consumer="fleet"
    )
    trace = simulate(experiment, UNLIMITED)
    late = trace.items["outcome"] == "timed_out"
    assert late.tolist() == [False] * 4 + [True] * 6
    assert (trace.items["returned"][late] == 2.0).all()
    assert (trace.attempts["outcome"] == "late").sum() == 6


def test_beats_keep_a_long_task_alive_until_the_bucket_is_empty():
    """A task of ten periods lives by its beats; a storm of beats beyond the bucket ends tasks in service."""
    long = Experiment(
        50, siphon_share=1, worker_concurrency=50, limited_seconds=20.0, heartbeat_seconds=2, consumer="fleet"
    )
    assert (simulate(long, UNLIMITED).items["outcome"] == "succeeded").all()
    storm = simulate(long, replace(UNLIMITED, task_burst=1.0, task_per_second=10.0))
    assert (storm.items["outcome"] == "timed_out").any()


def test_a_function_out_of_time_loses_the_batch():
    """It is killed, its attempt has no end, and its messages come back after the visibility timeout."""
    experiment = Experiment(
        1,
        siphon_share=1,
        worker_concurrency=2,
        limited_seconds=5.0,
        function_timeout_seconds=3,
        visibility_timeout_seconds=20,
        max_receive_count=2,
        task_timeout_seconds=100,
    )
    trace = simulate(experiment, FREE)
    assert trace.attempts[["start", "outcome"]].values.tolist() == [[0.0, "lost"], [20.0, "lost"]]
    assert trace.items[["outcome", "returned"]].values.tolist() == [["dead_lettered", 100.0]]


def test_settings_share_their_draws():
    """An item's cold start and backoff are its own: they do not depend on what else runs."""
    allowed = replace(UNLIMITED, cold_start_share=0.3, cold_start_seconds=1.0)
    short, long = (
        simulate(Experiment(items, siphon_share=0, direct_seconds=0.0), allowed).items["service_start"]
        for items in (50, 500)
    )
    assert 5 < (long[:50] > 0).sum() < 30
    assert short.tolist() == long[:50].tolist()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"children_per_second": 0}, "children_per_second=0"),
        ({"task_per_second": -1}, "task_per_second=-1"),
        ({"answer_seconds": math.nan}, "answer_seconds=nan"),
        ({"answer_seconds": inf}, "finite"),
        ({"cold_start_share": 1.5}, "cold_start_share=1.5"),
        ({"account_concurrency": True}, "account_concurrency=True"),
        ({"ramp_stepped": 1}, "ramp_stepped=1"),
        ({"mapping_start": 2000}, "mapping_limit=1250"),
        ({"mapping_per_minute": 0}, "never reached"),
        ({"in_flight_limit": 0}, "in_flight_limit=0"),
        ({"task_burst": 0.5}, "task_burst=0.5"),
        ({"mapping_per_minute": inf}, "mapping_per_minute=inf"),
        ({"in_flight_limit": 2.5}, "in_flight_limit=2.5"),
    ],
)
def test_quotas_that_cannot_be_are_refused(wrong, told):
    """Negative, no number, or at odds with another: named, with what to do."""
    with pytest.raises(LabError, match=told):
        replace(AWS_US_EAST_1, **wrong)


def test_every_figure_has_a_source():
    """A page, or the word that it is assumed."""
    found = quotas.sources()
    assert list(found) == [one.name for one in fields(Quotas)]
    assert all(len(source) > 10 for source in found.values())


def test_the_simulated_engine_runs_experiments_and_has_no_services():
    """Like any engine, but for clients."""
    experiment = Experiment(20)
    with connect("simulated") as engine, engine.bench() as run:
        pd.testing.assert_frame_equal(run(experiment).items, simulate(experiment).items)
        assert run(experiment).engine == engine.name == "simulated"
        with pytest.raises(EngineError, match="'sqs'"):
            engine.client("sqs")
