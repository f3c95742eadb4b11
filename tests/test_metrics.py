"""Laws of metrics: counts over time are exact, and the summary is what its definitions say."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from synthetic import experiments, make_trace

from helpers import metrics
from helpers.errors import TraceError
from helpers.experiment import Experiment, empirical
from helpers.trace import ITEM_TIMES, Trace

NAN = float("nan")
# Few distinct moments, so that ends and starts often coincide.
moments = st.one_of(st.integers(0, 6).map(float), st.floats(-5, 5), st.just(NAN))


def trace_of(items: list[tuple], attempts: list[tuple], **settings) -> Trace:
    """items: lane, arrival, enqueued, service_start, service_end, returned, outcome.
    attempts: item, start, end, outcome."""
    columns = ["lane", "arrival", "enqueued", "service_start", "service_end", "returned", "outcome"]
    items = pd.DataFrame(items, columns=columns)
    attempts = pd.DataFrame(attempts, columns=["item", "start", "end", "outcome"])
    attempts["attempt"] = attempts.groupby("item").cumcount() + 1
    items["item"] = range(len(items))
    items["attempts"] = [int((attempts["item"] == item).sum()) for item in items["item"]]
    return Trace(
        experiment=Experiment(**({"items": len(items)} | settings)),
        engine="simulated",
        items=items,
        attempts=attempts.assign(worker="w"),
        samples=pd.DataFrame(columns=["time", "visible", "in_flight"]),
        started="2026-11-24T12:00:00+00:00",
        versions={},
        clock_seconds=0.0,
    )


def points(counted) -> list[tuple[float, int]]:
    """The steps where the count changes."""
    time, count = counted
    return [(t, n) for t, n, before in zip(time, count, [0, *count], strict=False) if n != before]


def value(counted, moment: float) -> int:
    time, count = counted
    at = np.searchsorted(time, moment, "right") - 1
    return int(count[at]) if at >= 0 else 0


@given(st.lists(st.tuples(moments, moments), max_size=12))
def test_steps_count_the_open_intervals_at_every_moment(intervals):
    """Against counting one by one: open are those that have started, the start included, and not ended."""
    time, count = metrics.steps([start for start, _ in intervals], [end for _, end in intervals])
    assert (np.diff(time) > 0).all()
    for moment in {t for interval in intervals for t in interval if t == t} | {-9.0, 0.5, 9.0}:
        expected = sum(start <= moment and not end <= moment for start, end in intervals)
        assert expected == value((time, count), moment)


@given(st.lists(st.tuples(moments, moments), max_size=12), st.booleans())
def test_many_intervals_are_counted_as_few_are(intervals, in_order):
    """Compiled code and numpy give the same steps, whether starts and ends come in order or not, and leave
    the caller's arrays as they are."""
    starts, ends = np.array(intervals, float).reshape(-1, 2).T.copy()
    if in_order:
        starts.sort()
        ends.sort()
    given_ = starts.copy(), ends.copy()
    few = metrics.steps(starts, ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MANY", 0)
        many = metrics.steps(starts, ends)
    for expected, actual in zip((*given_, *few), (starts, ends, *many), strict=True):
        np.testing.assert_array_equal(expected, actual)
        assert expected.dtype == actual.dtype


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted), max_size=12))
def test_steps_start_and_end_empty_and_never_fall_below_zero(intervals):
    """What has started and ended leaves nothing behind, and the area is the sum of the lengths."""
    starts, ends = [a for a, _ in intervals], [b for _, b in intervals]
    time, count = metrics.steps(starts, ends)
    assert count.min(initial=0) >= 0
    if intervals:
        assert count[-1] == 0
        assert sum(b - a for a, b in intervals) == pytest.approx(np.dot(np.diff(time), count[:-1]))


def test_an_end_counts_before_a_start_at_the_same_moment():
    """A worker that goes from one item to the next at once is one worker."""
    expected = [0.0, 1.0, 2.0], [1, 1, 0]
    time, count = metrics.steps([0, 1], [1, 2])
    assert expected == (time.tolist(), count.tolist())


def test_steps_of_nothing_are_empty():
    """No interval, no step."""
    for starts, ends in (([], []), ([NAN], [1.0])):
        time, count = metrics.steps(starts, ends)
        assert not len(time)
        assert not len(count)


def workshop() -> Trace:
    """Two workers; item 1 fails once, item 3 waits for item 1's second attempt; items 0 and 4 are direct."""
    return trace_of(
        [
            ("direct", 0.0, 0.0, 0.0, 1.0, 1.0, "succeeded"),
            ("limited", 0.0, 1.0, 5.0, 7.0, 8.0, "succeeded"),
            ("limited", 0.0, 1.0, 2.0, 5.0, 5.0, "succeeded"),
            ("limited", 1.0, 2.0, 7.0, 10.0, 10.0, "succeeded"),
            ("direct", 5.0, 5.0, 6.0, 8.0, 9.0, "failed"),
        ],
        [
            (0, 0.0, 1.0, "succeeded"),
            (1, 2.0, 4.0, "failed"),
            (2, 2.0, 5.0, "succeeded"),
            (1, 5.0, 7.0, "succeeded"),
            (3, 7.0, 10.0, "succeeded"),
            (4, 6.0, 8.0, "failed"),
        ],
        worker_concurrency=2,
    )


def test_concurrency_counts_children_and_the_attempts_of_a_lane():
    """The map's children from arrival to return, each lane's attempts from start to end."""
    trace = workshop()
    children = [(0.0, 3), (5.0, 3), (8.0, 2), (9.0, 1), (10.0, 0)]
    assert [point for point in children if point[0] != 5.0] == points(metrics.concurrency(trace))
    limited = [(2.0, 2), (4.0, 1), (10.0, 0)]
    assert limited == points(metrics.concurrency(trace, "limited"))
    direct = [(0.0, 1), (1.0, 0), (6.0, 1), (8.0, 0)]
    assert direct == points(metrics.concurrency(trace, "direct"))


def test_the_backlog_is_the_queue_without_the_messages_in_service():
    """A failed message waits again; the queue holds each message until its last attempt ends."""
    trace = workshop()
    depth = [(1.0, 2), (2.0, 3), (5.0, 2), (7.0, 1), (10.0, 0)]
    assert depth == points(metrics.queue_depth(trace))
    waiting = [(1.0, 2), (2.0, 1), (4.0, 2), (5.0, 1), (7.0, 0)]
    assert waiting == points(metrics.backlog(trace))


def test_another_lane_is_refused():
    """The message gives the lanes."""
    with pytest.raises(TraceError, match=r"lane='fast'.*'direct', 'limited'"):
        metrics.concurrency(workshop(), "fast")


def test_a_lost_attempt_counts_until_its_item_returned_or_the_function_timed_out():
    """Whichever is first, and never before its start."""
    trace = trace_of(
        [
            ("limited", 0.0, 0.0, NAN, NAN, 4.0, "timed_out"),
            ("limited", 0.0, 0.0, NAN, NAN, 90.0, "timed_out"),
            ("limited", 0.0, 0.0, NAN, NAN, 5.0, "timed_out"),
        ],
        [(0, 1.0, NAN, "lost"), (1, 50.0, NAN, "lost"), (2, 6.0, NAN, "lost")],
        function_timeout_seconds=30,
    )
    expected = [(1.0, 1), (4.0, 0), (50.0, 1), (80.0, 0)]
    assert expected == points(metrics.concurrency(trace, "limited"))


def test_messages_leave_the_queue_as_sqs_lets_them():
    """A dead letter and a late answer at their end, an unserved message never.

    After the last allowed attempt no message comes back."""
    trace = trace_of(
        [
            ("limited", 0.0, 0.0, 1.0, 2.0, 9.0, "dead_lettered"),
            ("limited", 0.0, 0.0, NAN, NAN, 3.0, "timed_out"),
            ("limited", 0.0, 0.0, NAN, NAN, 3.0, "timed_out"),
            ("limited", 0.0, 0.0, 1.0, 2.0, 3.0, "timed_out"),
            ("limited", 0.0, NAN, NAN, NAN, 3.0, "timed_out"),
        ],
        [(0, 1.0, 2.0, "failed"), (1, 5.0, 6.0, "late"), (3, 1.0, 2.0, "failed")],
        max_receive_count=2,
    )
    expected = [(0.0, 4), (2.0, 3), (6.0, 2)]
    assert expected == points(metrics.queue_depth(trace))
    waiting = [(0.0, 4), (1.0, 2), (2.0, 3), (5.0, 2)]
    assert waiting == points(metrics.backlog(trace))
    once = dataclasses.replace(trace, experiment=Experiment(5, max_receive_count=1))
    expected = [(0.0, 4), (2.0, 2), (6.0, 1)]
    assert expected == points(metrics.queue_depth(once))


def test_overlapping_deliveries_of_one_message_are_two_workers_but_no_wait():
    """A message that is delivered again while it is served does not wait, nor count twice in the queue."""
    trace = trace_of(
        [("limited", 0.0, 0.0, 1.0, 6.0, 6.0, "succeeded")],
        [(0, 1.0, 6.0, "succeeded"), (0, 3.0, 4.0, "late")],
    )
    expected = [(0.0, 1), (1.0, 0)]
    assert expected == points(metrics.backlog(trace))
    expected = [(0.0, 1), (6.0, 0)]
    assert expected == points(metrics.queue_depth(trace))
    expected = [(1.0, 1), (3.0, 2), (4.0, 1), (6.0, 0)]
    assert expected == points(metrics.concurrency(trace, "limited"))


def test_a_message_waits_from_the_latest_end_of_its_deliveries():
    """Also where one that began later ended sooner, of whichever message that is in the table."""
    trace = trace_of(
        [
            ("limited", 0.0, 0.0, 8.0, 9.0, 9.0, "succeeded"),
            ("limited", 0.0, 0.5, 1.0, 9.0, 9.0, "succeeded"),
        ],
        [
            (1, 1.0, 9.0, "succeeded"),
            (0, 8.0, 9.0, "succeeded"),
            (0, 1.0, 6.0, "failed"),
            (0, 2.0, 3.0, "failed"),
            (0, 3.0, 4.0, "failed"),
        ],
    )
    expected = [(0.0, 1), (0.5, 2), (1.0, 0), (6.0, 1), (8.0, 0)]
    assert expected == points(metrics.backlog(trace))


@given(experiments)
def test_the_queue_holds_what_waits_and_what_is_served(experiment):
    """backlog + workers = queue_depth at every moment, where no delivery overlaps another of its message."""
    trace = make_trace(experiment)
    parts = [metrics.backlog(trace), metrics.concurrency(trace, "limited"), metrics.queue_depth(trace)]
    for moment in np.unique(np.concatenate([time for time, _ in parts])):
        waiting, served, depth = (value(part, moment) for part in parts)
        assert depth == waiting + served


@pytest.mark.parametrize(
    ("expected", "items", "settings"),
    [
        (50.0, 100, {}),
        (100.0, 100, {"map_concurrency": 2}),
        (2.0, 3, {}),
        (6.0, 20_000, {"siphon_share": 0.0, "direct_seconds": 3.0}),
    ],
)
def test_the_ideal_makespan_is_the_largest_of_its_three_bounds(expected, items, settings):
    """Work of the limited lane by its workers, work of all by the map, and the longest item."""
    usual = {"siphon_share": 1.0, "limited_seconds": 2.0, "worker_concurrency": 4}
    assert expected == metrics.ideal_makespan(Experiment(items, **(usual | settings)))


def test_a_failing_attempt_costs_a_full_service_time_in_the_ideal_makespan():
    """k failures cost k + 1 services, but no more than max_receive_count of them."""
    experiment = Experiment(
        500,
        siphon_share=1.0,
        limited_seconds=2.0,
        failure_rate=0.5,
        max_receive_count=3,
        worker_concurrency=4,
    )
    services = np.minimum(experiment.plan()["failures"] + 1, 3).sum()
    assert services < (experiment.plan()["failures"] + 1).sum()
    assert services * 2.0 / 4 == metrics.ideal_makespan(experiment)


def test_the_summary_is_what_its_definitions_say():
    """Every figure of a run small enough for a pencil."""
    trace = workshop()
    found = metrics.summary(trace)
    expected = {
        "items": 5,
        "succeeded": 4,
        "failed": 1,
        "timed_out": 0,
        "dead_lettered": 0,
        "makespan": 10.0,
        "throughput": 0.5,
        "peak_map": 3,
        "peak_workers": 2,
        "utilisation": (2 + 3 + 2 + 3) / (2 * 9),
        "ideal_makespan": metrics.ideal_makespan(trace.experiment),
        "efficiency": metrics.ideal_makespan(trace.experiment) / 10.0,
        "mean_waiting": (0 + 4 + 1 + 5 + 1) / 5,
        "p50_waiting": 1.0,
        "mean_service": (1 + 2 + 3 + 3 + 2) / 5,
        "p50_service": 2.0,
        "mean_sojourn": (1 + 8 + 5 + 9 + 4) / 5,
        "p50_sojourn": 5.0,
        "p95_sojourn": pytest.approx(8 + 0.8 * 1),
        "p99_sojourn": pytest.approx(8 + 0.96 * 1),
    }
    assert expected == {key: found[key] for key in expected}
    direct = {"items": 2, "failed": 1, "makespan": 9.0, "throughput": 2 / 9, "mean_sojourn": 2.5}
    assert direct == {key: found["lanes"]["direct"][key] for key in direct}
    limited = {"items": 3, "succeeded": 3, "makespan": 10.0, "mean_waiting": 10 / 3, "p50_service": 3.0}
    assert limited == {key: found["lanes"]["limited"][key] for key in limited}


def test_the_ideal_makespan_of_a_lane_is_its_own():
    """Each lane is held against the bound of its own planned work."""
    experiment = Experiment(
        400, direct_seconds=1.0, limited_seconds=2.0, worker_concurrency=4, map_concurrency=10
    )
    lanes = metrics.summary(make_trace(experiment))["lanes"]
    count = experiment.plan()["lane"].value_counts()
    ideal = {"direct": count["direct"] * 1.0 / 10, "limited": count["limited"] * 2.0 / 4}
    assert ideal == {lane: lanes[lane]["ideal_makespan"] for lane in lanes}
    for lane in lanes.values():
        assert lane["ideal_makespan"] / lane["makespan"] == lane["efficiency"]


@given(experiments)
def test_a_summary_is_json_and_keeps_within_the_limits(experiment):
    """On any valid trace: JSON without NaN, lanes that sum to the whole, no limit exceeded, no efficiency
    above 1, since no schedule beats the ideal makespan."""
    trace = make_trace(experiment)
    found = metrics.summary(trace)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert set(trace.items["lane"]) == set(found["lanes"])
    for key in ("items", "succeeded", "failed", "timed_out", "dead_lettered"):
        assert found[key] == sum(lane[key] for lane in found["lanes"].values())
    assert found["peak_map"] <= experiment.map_limit
    assert found["peak_workers"] <= experiment.worker_concurrency
    for part in (found, *found["lanes"].values()):
        assert (part["efficiency"] or 0) <= 1 + 1e-9
    assert 0 <= (found["utilisation"] or 0) <= 1 + 1e-9
    assert ("limited" in found["lanes"]) or found["utilisation"] is None


def test_what_nothing_defines_is_none():
    """A run that takes no time has no throughput, an unserved item no waiting time."""
    instant = metrics.summary(make_trace(Experiment(3, siphon_share=0.0, direct_seconds=0.0)))
    assert all(instant[key] is None for key in ("throughput", "efficiency", "utilisation"))
    unserved = trace_of([("limited", 0.0, 0.0, NAN, NAN, 3.0, "timed_out")], [])
    found = metrics.summary(unserved)
    assert all(found[key] is None for key in ("p95_waiting", "mean_service"))
    assert found["mean_sojourn"] == 3.0
    assert found["peak_workers"] == 0


def test_items_that_timed_out_are_no_part_of_the_ideal_makespan():
    """The bound is on work that was done: only so can it be compared with the run."""
    experiment = Experiment(
        50, siphon_share=1.0, limited_seconds=empirical([1.0]), worker_concurrency=2, task_timeout_seconds=10
    )
    trace = make_trace(experiment)
    done = int((trace.items["outcome"] == "succeeded").sum())
    assert 0 < done < 50
    assert done * 1.0 / 2 == metrics.summary(trace)["ideal_makespan"]


def held_back(**settings):
    """What held a schedule without friction back most, and all shares."""
    shares = metrics.saturation(make_trace(Experiment(200, direct_seconds=0.05, **settings)))
    return max(shares, key=shares.__getitem__), shares


@given(experiments)
def test_saturation_shares_out_the_whole_makespan(experiment):
    """Every moment of the run is held back by something: no share is negative, and together they are 1."""
    trace = make_trace(experiment)
    assume(trace.items["returned"].max() > 0)
    shares = metrics.saturation(trace)
    assert min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(1)
    # The schedule hands over at once, so that no worker idles while a message waits.
    assert shares.get("engine", 0.0) == pytest.approx(0, abs=1e-9)
    assert shares["dispatch rate"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"worker_concurrency": 2}, "worker limit"),
        ({"worker_concurrency": 2, "map_concurrency": 20}, "worker limit"),
        ({"worker_concurrency": 50, "map_concurrency": 4}, "map concurrency"),
        ({"worker_concurrency": 2, "map_concurrency": 3, "siphon_share": 0.02}, "map concurrency"),
        ({"worker_concurrency": 1000}, "task time"),
        (
            {"worker_concurrency": 1000, "failure_rate": 0.3, "redelivery_seconds": 60, "seed": 1},
            "redelivery",
        ),
    ],
)
def test_saturation_names_what_binds(settings, expected):
    """The tightest limit, and neither limit where nothing waits; retries that wait are no worker limit."""
    name, shares = held_back(**settings)
    assert name == expected, shares


@pytest.mark.parametrize(("outcome", "hidden"), [("failed", 2), ("lost", 5)])
def test_saturation_tells_hidden_messages_from_waiting_ones(outcome, hidden):
    """After a failure a message is hidden for redelivery_seconds, then it waits; a lost one stays hidden."""
    trace = trace_of(
        [("limited", 0.0, 0.0, 6.0, 7.0, 7.0, "succeeded")],
        [(0, 0.0, 1.0 if outcome == "failed" else NAN, outcome), (0, 6.0, 7.0, "succeeded")],
        redelivery_seconds=2,
        function_timeout_seconds=1,
    )
    shares = {name: share * 7 for name, share in metrics.saturation(trace).items() if share}
    expected = {"redelivery": hidden, "engine": 5 - hidden, "task time": 2}
    assert shares == pytest.approx({name: seconds for name, seconds in expected.items() if seconds})


def slowed(trace, **shift):
    """The trace with these columns of its items and the attempts moved by so many seconds."""
    items = trace.items.assign(**{name: trace.items[name] + by for name, by in shift.items()})
    moved = shift.get("service_start", 0.0)
    attempts = trace.attempts.assign(start=trace.attempts["start"] + moved, end=trace.attempts["end"] + moved)
    return dataclasses.replace(trace, items=items, attempts=attempts)


def test_saturation_blames_the_engine_for_idle_workers():
    """Messages that wait for 3 s while all workers idle are the engine's, or the batch's."""
    late = {"service_start": 3.0, "service_end": 3.0, "returned": 3.0}
    for batch_size, expected in ((1, "engine"), (10, "batch size")):
        ideal = make_trace(Experiment(20, siphon_share=1, limited_seconds=1.0, batch_size=batch_size))
        shares = metrics.saturation(slowed(ideal, **late))
        assert shares[expected] == pytest.approx(3 / 4)
        assert shares["task time"] == pytest.approx(1 / 4)


def test_saturation_blames_dispatch_for_children_that_start_late():
    """Children that start one a second though 10,000 may be under way: the dispatch rate holds them back."""
    ideal = make_trace(Experiment(11, siphon_share=0, direct_seconds=0.5))
    items, by = ideal.items, ideal.items["item"].astype(float)
    times = ["arrival", "enqueued", "service_start", "service_end", "returned"]
    late = dataclasses.replace(
        ideal,
        items=items.assign(**{name: items[name] + by for name in times}),
        attempts=ideal.attempts.assign(
            start=ideal.attempts["start"] + ideal.attempts["item"],
            end=ideal.attempts["end"] + ideal.attempts["item"],
        ),
    )
    assert metrics.saturation(late)["dispatch rate"] == pytest.approx(10 / 10.5, abs=1e-3)


@pytest.mark.parametrize("late", [0.0, 2.0])
def test_saturation_blames_nobody_for_items_that_have_not_arrived(late):
    """In an open system what has not arrived does not wait; what has, for a child of its own, does."""
    ideal = make_trace(Experiment(50, siphon_share=0, direct_seconds=0.5))
    experiment = dataclasses.replace(ideal.experiment, arrivals_per_second=0.1)
    by = experiment.arrivals() + late
    items = ideal.items.assign(**{name: ideal.items[name] + by for name in ITEM_TIMES})
    attempts = ideal.attempts.assign(**{name: ideal.attempts[name] + by for name in ("start", "end")})
    shares = metrics.saturation(
        dataclasses.replace(ideal, experiment=experiment, items=items, attempts=attempts)
    )
    time, waiting = metrics.steps(by - late, by)
    waited = np.diff(time)[waiting[:-1] > 0].sum()
    assert shares["task time"] == pytest.approx(1 - waited / (by[-1] + 0.5))
    assert shares["dispatch rate"] == pytest.approx(1 - shares["task time"], rel=0.01)


def test_saturation_of_nothing_is_refused():
    """A trace in which no item returned tells nothing."""
    ideal = make_trace(Experiment(3))
    with pytest.raises(TraceError, match="no item returned"):
        metrics.saturation(dataclasses.replace(ideal, items=ideal.items.iloc[:0]))
