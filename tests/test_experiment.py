"""Laws of Experiment: what it refuses, and that its plan is the same draw under every setting."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import experiments

from helpers.errors import InvalidExperiment
from helpers.experiment import BLOCK, Experiment, _mix, empirical, exponential, lognormal

NUMBERS = [
    field.name
    for field in dataclasses.fields(Experiment)
    if field.name not in ("consumer", "cold_start", "heartbeat_seconds", "arrivals_per_second")
]
WHOLE = [name for name in NUMBERS if name not in ("siphon_share", "failure_rate")]
WHOLE = [name for name in WHOLE if name not in ("direct_seconds", "limited_seconds")]


@pytest.mark.parametrize(
    ("given_settings", "words"),
    [
        ({"items": 0}, ["items=0", "1 to 100,000,000", "give"]),
        ({"items": -5}, ["items=-5"]),
        ({"items": 100_000_001}, ["items=100000001"]),
        ({"items": "10"}, ["items='10'"]),
        ({"map_concurrency": -1}, ["map_concurrency=-1", "0 to 10,000"]),
        ({"map_concurrency": 10_001}, ["map_concurrency=10001"]),
        ({"siphon_share": -0.1}, ["siphon_share=-0.1", "from 0 to 1"]),
        ({"siphon_share": 1.1}, ["siphon_share=1.1"]),
        ({"worker_concurrency": 1}, ["worker_concurrency=1:", "2 to 1,000", "MaximumConcurrency"]),
        ({"worker_concurrency": 1_001}, ["worker_concurrency=1001"]),
        ({"worker_concurrency": 0, "consumer": "fleet"}, ["worker_concurrency=0", "1 to 1,000"]),
        ({"consumer": "sqs"}, ["consumer='sqs'", "'lambda'", "'fleet'"]),
        ({"consumer": None}, ["consumer=None"]),
        ({"direct_seconds": -0.1}, ["direct_seconds=-0.1", ">= 0"]),
        ({"limited_seconds": math.inf}, ["limited_seconds=inf", "finite"]),
        ({"limited_seconds": "fast"}, ["limited_seconds='fast'"]),
        ({"limited_seconds": {"mean": 1}}, ["limited_seconds={'mean': 1}"]),
        ({"failure_rate": 1}, ["failure_rate=1", "< 1"]),
        ({"failure_rate": -0.01}, ["failure_rate=-0.01"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"batch_size": 10_001}, ["batch_size=10001"]),
        ({"batch_size": 11}, ["batch_size=11", "batch_window_seconds=1"]),
        ({"batch_size": 11, "batch_window_seconds": 1, "consumer": "fleet"}, ["batch_size=11", "1 to 10 "]),
        ({"batch_window_seconds": 301}, ["batch_window_seconds=301", "0 to 300"]),
        ({"function_timeout_seconds": 0}, ["function_timeout_seconds=0", "1 to 900"]),
        (
            {"function_timeout_seconds": 901, "visibility_timeout_seconds": 5406},
            ["function_timeout_seconds=901"],
        ),
        ({"visibility_timeout_seconds": 29}, ["visibility_timeout_seconds=29", "at least 30", "AWS refuses"]),
        ({"visibility_timeout_seconds": 43_201}, ["visibility_timeout_seconds=43201"]),
        ({"redelivery_seconds": -1}, ["redelivery_seconds=-1"]),
        ({"max_receive_count": 0}, ["max_receive_count=0", "1 to 1,000"]),
        ({"task_timeout_seconds": 1}, ["task_timeout_seconds=1", "heartbeat"]),
        ({"task_timeout_seconds": 31_536_001}, ["task_timeout_seconds=31536001"]),
        ({"heartbeat_seconds": 0}, ["heartbeat_seconds=0"]),
        ({"heartbeat_seconds": 600}, ["heartbeat_seconds=600", "1 to 599", "below task_timeout_seconds"]),
        ({"cold_start": 1}, ["cold_start=1"]),
        ({"task_attempts": 0}, ["task_attempts=0", "1 to 100"]),
        ({"task_attempts": 101}, ["task_attempts=101"]),
        ({"arrivals_per_second": 0}, ["arrivals_per_second=0", "> 0"]),
        ({"arrivals_per_second": -1.0}, ["arrivals_per_second=-1.0"]),
        ({"arrivals_per_second": math.inf}, ["arrivals_per_second=inf", "finite"]),
        ({"arrivals_per_second": math.nan}, ["arrivals_per_second=nan"]),
        ({"arrivals_per_second": True}, ["arrivals_per_second=True"]),
        ({"arrivals_per_second": "fast"}, ["arrivals_per_second='fast'"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": 2**64}, [f"seed={2**64}"]),
    ],
)
def test_a_setting_outside_its_rule_is_refused_with_value_rule_and_remedy(given_settings, words):
    """The message names the setting, its value, the rule and what to give instead."""
    with pytest.raises(InvalidExperiment) as refusal:
        Experiment(**({"items": 10} | given_settings))
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, True, None, np.bool_(True)])
def test_what_is_no_number_is_refused_where_a_number_is_meant(name, value):
    """NaN, truth values and None are no numbers."""
    with pytest.raises(InvalidExperiment, match=f"^{name}="):
        Experiment(**({"items": 10} | {name: value}))


@pytest.mark.parametrize("name", [*WHOLE, "heartbeat_seconds"])
def test_aws_integers_must_be_integers(name):
    """A float is refused where AWS wants an integer, even a whole one."""
    with pytest.raises(InvalidExperiment, match=f"^{name}="):
        Experiment(**({"items": 10} | {name: 100.0}))


@pytest.mark.parametrize(
    "allowed",
    [
        {"items": 1},
        {"items": 100_000_000},
        {"map_concurrency": 10_000},
        {"siphon_share": 0},
        {"siphon_share": 1},
        {"worker_concurrency": 2},
        {"worker_concurrency": 1_000},
        {"worker_concurrency": 1, "consumer": "fleet"},
        {"direct_seconds": 0, "limited_seconds": 0},
        {"failure_rate": 0.999},
        {"batch_size": 10_000, "batch_window_seconds": 1},
        {"batch_size": 10, "consumer": "fleet"},
        {"batch_window_seconds": 300},
        {"visibility_timeout_seconds": 30},
        {"function_timeout_seconds": 900, "visibility_timeout_seconds": 43_200},
        {"redelivery_seconds": 0},
        {"redelivery_seconds": 43_200},
        {"max_receive_count": 1},
        {"max_receive_count": 1_000},
        {"task_timeout_seconds": 31_536_000},
        {"heartbeat_seconds": 599},
        {"task_attempts": 100},
        {"arrivals_per_second": 1e-9},
        {"seed": 2**64 - 1},
    ],
)
def test_the_ends_of_every_range_are_allowed(allowed):
    """A range includes its ends, and the record keeps what it was given."""
    experiment = Experiment(**({"items": 10} | allowed))
    assert allowed == {name: getattr(experiment, name) for name in allowed}


def test_numpy_numbers_become_plain_ones():
    """Settings from an array or a table compare, hash and serialise like plain numbers."""
    plain = Experiment(items=7, siphon_share=0.5, direct_seconds=1, seed=3)
    numpy = Experiment(
        np.int64(7), siphon_share=np.float64(0.5), direct_seconds=np.int32(1), seed=np.uint64(3)
    )
    assert plain == numpy
    assert hash(plain) == hash(numpy)
    assert json.dumps(plain.to_dict()) == json.dumps(numpy.to_dict())


def test_the_record_is_frozen():
    """Neither an experiment nor a distribution can be changed."""
    for record, name in ((Experiment(1), "items"), (exponential(1.0), "mean"), (empirical([1.0]), "values")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 2)


@given(experiments)
def test_an_experiment_survives_json(experiment):
    """from_dict undoes to_dict, with JSON between them."""
    assert experiment == Experiment.from_dict(json.loads(json.dumps(experiment.to_dict(), allow_nan=False)))


def test_from_dict_refuses_an_unknown_key_by_name():
    """A misspelt setting is never ignored."""
    with pytest.raises(InvalidExperiment, match="'worker_concurency' is no setting"):
        Experiment.from_dict({"items": 1, "worker_concurency": 3})


@pytest.mark.parametrize(
    "time",
    [
        {},
        {"distribution": "normal", "mean": 1},
        {"distribution": ["lognormal"], "mean": 1},
        {"distribution": "lognormal", "mean": 1},
        {"distribution": "exponential", "mean": 1, "sigma": 1},
    ],
)
def test_from_dict_refuses_what_is_no_distribution(time):
    """A distribution has a known name and exactly its own parameters."""
    with pytest.raises(InvalidExperiment, match="no distribution; give"):
        Experiment.from_dict({"items": 1, "limited_seconds": time})


def test_from_dict_wants_items():
    """The number of items has no default."""
    with pytest.raises(InvalidExperiment, match="items is missing"):
        Experiment.from_dict({"seed": 1})


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: lognormal(0, 1), "lognormal mean=0"),
        (lambda: lognormal(math.inf, 1), "lognormal mean=inf"),
        (lambda: lognormal(1, -1), "lognormal sigma=-1"),
        (lambda: lognormal(1, 11), "lognormal sigma=11"),
        (lambda: lognormal("1", 1), "lognormal mean='1'"),
        (lambda: exponential(0), "exponential mean=0"),
        (lambda: exponential(math.nan), "exponential mean=nan"),
        (lambda: exponential(True), "exponential mean=True"),
        (lambda: empirical([]), "empirical values="),
        (lambda: empirical([1, -1]), "empirical value=-1"),
        (lambda: empirical([1, math.nan]), "empirical value=nan"),
        (lambda: empirical("12"), "empirical values='12'"),
        (lambda: empirical(5), "empirical values=5"),
    ],
)
def test_a_distribution_refuses_what_is_no_time(make, word):
    """Means are positive, sigma lies in 0..10, measured values are finite and not negative."""
    with pytest.raises(InvalidExperiment, match="^" + word):
        make()


def test_advice_names_what_aws_advises_against_and_nothing_else():
    """Advice is silent on good settings and gives one sentence for each that AWS advises against."""
    assert not Experiment(1).advice()
    assert not Experiment(1, visibility_timeout_seconds=182, batch_window_seconds=2).advice()
    cases = {
        "visibility_timeout_seconds=179": Experiment(1, visibility_timeout_seconds=179),
        "visibility_timeout_seconds=180": Experiment(1, batch_window_seconds=2),
        "max_receive_count=4": Experiment(1, max_receive_count=4),
        "direct_seconds=exponential(mean=31.0)": Experiment(1, direct_seconds=exponential(31)),
        "limited_seconds=4.0 with 10": Experiment(1, limited_seconds=4, batch_size=10),
        "limited_seconds=empirical(values=(20.0, 60.0))": Experiment(1, limited_seconds=empirical([20, 60])),
    }
    for start, experiment in cases.items():
        (sentence,) = experiment.advice()
        assert sentence.startswith(start)
        assert sentence.endswith(".")


def test_map_limit_is_what_the_map_allows():
    """MaxConcurrency 0 means AWS's own limit, 10,000."""
    expected = [10_000, 1, 10_000]
    assert expected == [Experiment(1, map_concurrency=n).map_limit for n in (0, 1, 10_000)]


@pytest.mark.parametrize("given_settings", [{"task_attempts": 3}, {"arrivals_per_second": 2.5}])
def test_what_only_the_simulation_runs_survives_json_too(given_settings):
    """from_dict undoes to_dict for new tokens and for arrivals."""
    experiment = Experiment(5, **given_settings)
    assert experiment == Experiment.from_dict(json.loads(json.dumps(experiment.to_dict())))


def test_an_item_is_tried_as_often_as_its_messages_and_its_retry_allow():
    """max_receive_count deliveries of each of task_attempts messages; five attempts of a direct item."""
    experiment = Experiment(1, max_receive_count=3, task_attempts=4)
    assert experiment.most_attempts([False, True]).tolist() == [5, 12]


def test_all_items_are_there_at_the_start_unless_they_arrive():
    """A Map Run has its items when it starts: there is nothing to draw."""
    assert Experiment(5).arrivals() is None


@pytest.mark.parametrize("rate", [0.5, 40.0])
def test_arrivals_are_a_poisson_process(rate):
    """Ascending from 0; gaps are exponential: mean, deviation and share above the mean to five errors."""
    n = 200_000
    arrivals = Experiment(n, arrivals_per_second=rate, seed=5).arrivals()
    gaps = np.diff(arrivals, prepend=0.0) * rate
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1, abs=5 / math.sqrt(n))
    assert gaps.var() == pytest.approx(1, abs=5 * math.sqrt(8 / n))
    assert (gaps > 1).mean() == pytest.approx(math.exp(-1), abs=2.5 / math.sqrt(n))
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / math.sqrt(n)


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**64 - 1))
def test_more_items_only_arrive_later(items, other, seed):
    """Common random numbers: the first items arrive when they do without the others, twice as fast in half
    the time."""
    first, second = (Experiment(n, arrivals_per_second=4.0, seed=seed).arrivals() for n in (items, other))
    shared = min(items, other)
    assert first[:shared].tolist() == second[:shared].tolist()
    fast = Experiment(items, arrivals_per_second=8.0, seed=seed).arrivals()
    assert (first / 2).tolist() == fast.tolist()


def test_arrivals_are_drawn_apart_from_the_plan():
    """Gaps tell nothing of lanes and times, and the plan is the same whether items arrive or not."""
    n = 100_000
    experiment = Experiment(
        n, limited_seconds=exponential(1), direct_seconds=exponential(1), failure_rate=0.5
    )
    arriving = dataclasses.replace(experiment, arrivals_per_second=1.0)
    plan = experiment.plan()
    pd.testing.assert_frame_equal(plan, arriving.plan(), check_exact=True)
    gaps = np.diff(arriving.arrivals(), prepend=0.0)
    for column in ((plan["lane"] == "limited").astype(float), plan["task_seconds"], plan["failures"]):
        assert abs(np.corrcoef(gaps, column)[0, 1]) < 5 / math.sqrt(n)


@given(experiments)
def test_a_plan_has_one_row_an_item_in_order(experiment):
    """Columns, dtypes, order and range of every plan."""
    plan = experiment.plan()
    dtypes = {"item": "int64", "lane": "category", "task_seconds": "float64", "failures": "int64"}
    assert dtypes == plan.dtypes.astype(str).to_dict()
    assert list(range(experiment.items)) == plan["item"].tolist()
    assert set(plan["lane"]) <= {"direct", "limited"}
    assert np.isfinite(plan["task_seconds"]).all()
    assert (plan["task_seconds"] >= 0).all()
    assert (plan["failures"] >= 0).all()


@given(experiments, st.integers(1, 100))
def test_a_row_does_not_depend_on_the_number_of_items(experiment, items):
    """The plan of fewer items is the beginning of the plan of more."""
    other = dataclasses.replace(experiment, items=items)
    shared = min(items, experiment.items)
    pd.testing.assert_frame_equal(experiment.plan()[:shared], other.plan()[:shared], check_exact=True)


@given(experiments)
def test_settings_that_a_plan_does_not_show_do_not_move_it(experiment):
    """Limits, queue settings and timeouts change nothing of what is drawn."""
    other = Experiment(
        items=experiment.items,
        siphon_share=experiment.siphon_share,
        direct_seconds=experiment.direct_seconds,
        limited_seconds=experiment.limited_seconds,
        failure_rate=experiment.failure_rate,
        seed=experiment.seed,
    )
    pd.testing.assert_frame_equal(experiment.plan(), other.plan(), check_exact=True)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_raising_the_siphon_share_only_adds_siphoned_items(share, other, seed):
    """Common random numbers: no item leaves the limited lane as the share rises, none changes otherwise."""
    low, high = (
        Experiment(
            200, siphon_share=s, direct_seconds=exponential(1), limited_seconds=exponential(1), seed=seed
        )
        for s in sorted((share, other))
    )
    few, many = low.plan(), high.plan()
    assert ((few["lane"] == "direct") | (many["lane"] == "limited")).all()
    unchanged = ["item", "task_seconds", "failures"]
    pd.testing.assert_frame_equal(few[unchanged], many[unchanged], check_exact=True)


@given(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 2**64 - 1))
def test_raising_the_failure_rate_only_adds_failures(rate, other, seed):
    """Common random numbers: an item that fails k times fails at least k times at a higher rate."""
    low, high = (Experiment(200, failure_rate=r, seed=seed).plan() for r in sorted((rate, other)))
    assert (low["failures"] <= high["failures"]).all()


def test_the_ends_of_the_siphon_share_are_exact():
    """A share of 0 siphons nothing, a share of 1 everything."""
    assert {"direct"} == set(Experiment(100_000, siphon_share=0).plan()["lane"])
    assert {"limited"} == set(Experiment(100_000, siphon_share=1).plan()["lane"])


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_draws_have_their_distributions(seed):
    """Shares, means and quantiles of 200,000 items lie within five standard errors of the stated ones."""
    n = 200_000

    def near(expected, deviation, values):
        assert expected == pytest.approx(values.mean(), abs=5 * deviation / math.sqrt(n))

    plan = Experiment(n, siphon_share=0.3, failure_rate=0.2, seed=seed).plan()
    near(0.3, math.sqrt(0.21), plan["lane"] == "limited")
    near(0.8, math.sqrt(0.16), plan["failures"] == 0)
    near(0.04 * 0.8, math.sqrt(0.032 * 0.968), plan["failures"] == 2)

    def times(time):
        return Experiment(n, siphon_share=1, limited_seconds=time, seed=seed).plan()["task_seconds"]

    sigma = 0.5
    long = times(lognormal(2.0, sigma))
    near(2.0, 2.0 * math.sqrt(math.exp(sigma**2) - 1), long)
    near(math.log(2.0) - sigma**2 / 2, sigma, np.log(long))
    near(sigma**2, math.sqrt(2) * sigma**2, (np.log(long) - np.log(2.0) + sigma**2 / 2) ** 2)
    near(0.5, 0.5, long < 2.0 * math.exp(-(sigma**2) / 2))
    near(3.0, 3.0, times(exponential(3.0)))
    near(math.exp(-1), 0.5, times(exponential(3.0)) > 3.0)
    measured = times(empirical([1.0, 2.0, 5.0]))
    assert {1.0, 2.0, 5.0} == set(measured)
    near(1 / 3, math.sqrt(2 / 9), measured == 5.0)
    assert {0.25} == set(times(0.25))


def test_lane_time_and_failures_are_drawn_independently():
    """No column of the plan tells anything of another, nor of the next item or the next seed."""
    n = 100_000
    settings_ = {"limited_seconds": exponential(1), "direct_seconds": exponential(1), "failure_rate": 0.5}
    first, second = (Experiment(n, seed=seed, **settings_).plan() for seed in (0, 1))
    columns = [(first["lane"] == "limited").astype(float), first["task_seconds"], first["failures"]]
    columns += [(second["lane"] == "limited").astype(float), second["task_seconds"], second["failures"]]
    columns += [first["task_seconds"].shift(fill_value=0)]
    off_diagonal = np.corrcoef(columns) - np.eye(len(columns))
    assert abs(off_diagonal).max() < 5 / math.sqrt(n)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_an_empirical_draw_is_in_range_for_the_extreme_uniforms(values):
    """The uniforms nearest to 0 and 1 give the first and the last value."""
    ends = np.array([2.0**-53, 1 - 2.0**-53])
    assert [values[0], values[-1]] == empirical(values).sample(ends, ends).tolist()


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1))
def test_uniforms_lie_strictly_between_zero_and_one(seed):
    """So that logarithms are finite and a share of 1 takes all."""
    for stream in ("lane", "time", "time, second", "failures", "arrival"):
        uniform = Experiment(1000, seed=seed)._uniform(stream, slice(0, 1000))
        assert uniform.min() > 0
        assert uniform.max() < 1


def test_the_mixer_is_splitmix64():
    """The published sequence of splitmix64 for the state 1234567."""
    states = (1234567 + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert expected == _mix(states).tolist()


def test_the_draws_of_a_seed_stay():
    """A seed names the same plan in every release: saved traces and reports rely on it."""
    plan = Experiment(6, limited_seconds=exponential(1), failure_rate=0.5, seed=42).plan()
    lanes = ["limited", "direct", "limited", "limited", "direct", "limited"]
    failures = [2, 1, 3, 0, 0, 0]
    seconds = [
        0.013377834419759317,
        0.05,
        0.6797384309071522,
        0.3785218282981603,
        0.05,
        0.9716851216202583,
    ]
    assert lanes == plan["lane"].tolist()
    assert failures == plan["failures"].tolist()
    assert seconds == pytest.approx(plan["task_seconds"].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("seed", "siphoned", "failures", "digests"),
    [
        (0, 50_092, 43_016, "68cdb56923117a13 ffb5a8c190433314 8bd312402e7013e0 a258aba8d6c525b4"),
        (42, 49_785, 42_656, "f99f767269fa7849 c4658b5704311a52 73c2f13d33fa602e 36edbd76dd7d9d76"),
        (2**64 - 1, 49_814, 42_574, "3ce87d10f77efdfa 732dd8fd1b5acca5 02a4dc7fc2e3ca65 883bd5881d8f9b4f"),
    ],
)
def test_the_uniforms_of_a_seed_stay_to_the_bit(seed, siphoned, failures, digests):
    """100,000 of each stream, by the beginning of their SHA-256, and what a plan makes of them."""
    experiment = Experiment(100_000, failure_rate=0.3, seed=seed)
    for stream, digest in zip(("lane", "time", "time, second", "failures"), digests.split(), strict=True):
        uniform = experiment._uniform(stream, slice(0, 100_000))
        assert digest == hashlib.sha256(uniform.tobytes()).hexdigest()[:16]
    plan = experiment.plan()
    assert siphoned == (plan["lane"] == "limited").sum()
    assert failures == plan["failures"].sum()


TIMES = [0.25, exponential(1.5), lognormal(1.0, 0.5), empirical([0.1, 0.2, 0.7])]


@pytest.mark.parametrize("direct", TIMES)
@pytest.mark.parametrize("limited", TIMES)
@pytest.mark.parametrize(("share", "rate"), [(0.0, 0.0), (0.4, 0.3), (1.0, 0.01)])
def test_a_plan_is_what_the_uniforms_say_of_all_items_at_once(direct, limited, share, rate):
    """To the bit, however few of them are drawn, and block by block, of which the last is short."""
    n = 2 * BLOCK + 5
    settings_ = {"siphon_share": share, "direct_seconds": direct, "limited_seconds": limited}
    experiment = Experiment(n, **settings_, failure_rate=rate, seed=3, arrivals_per_second=7.0)
    streams = ("lane", "time", "time, second", "failures", "arrival")
    lane, u, v, w, gap = (experiment._uniform(stream, slice(0, n)) for stream in streams)
    seconds = [np.full(n, t) if isinstance(t, float) else t.sample(u, v) for t in (limited, direct)]
    plan = experiment.plan()
    siphoned = lane < share
    assert np.array_equal(siphoned, plan["lane"] == "limited")
    assert np.array_equal(np.where(siphoned, *seconds), plan["task_seconds"])
    failures = (np.log(w) / math.log(rate)).astype(int) if rate else np.zeros(n)
    assert np.array_equal(failures, plan["failures"])
    assert np.array_equal(np.cumsum(-np.log(gap) / 7.0), experiment.arrivals())
