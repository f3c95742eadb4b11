"""The laws hold on every valid trace, and a trace that breaks one is told which, where and when."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from synthetic import experiments, make_trace

from helpers import checks, metrics
from helpers.checks import LAWS, LawBroken, verify
from helpers.experiment import Experiment, exponential
from helpers.trace import Trace

NAN = float("nan")


@given(experiments)
def test_every_law_holds_on_every_valid_trace(experiment):
    """Whatever the settings: both lanes, failures, dead letters, time-outs and late answers."""
    verify(make_trace(experiment))


@given(experiments)
def test_every_law_holds_on_a_trace_of_imprecise_clocks(experiment):
    """Clocks that disagree by less than clock_seconds break no law."""
    trace = make_trace(experiment)
    clock = 0.01
    off = np.random.default_rng(experiment.seed).uniform(-clock / 2, clock / 2, (6, len(trace.attempts)))
    items = trace.items.assign(returned=trace.items["returned"] + clock / 2)
    attempts = trace.attempts.assign(
        start=trace.attempts["start"] + off[0], end=trace.attempts["end"] + off[1]
    )
    verify(replace(trace, items=items, attempts=attempts, clock_seconds=clock))


def test_the_laws_are_listed_in_their_order():
    """A caller can show and run each law by its name."""
    expected = ["conservation", "limits", "order", "attempts", "little"]
    assert expected == list(LAWS)


def run(**settings) -> Trace:
    """A valid run with waiting, failures that come back, and both lanes busy up to both limits."""
    usual = {
        "map_concurrency": 20,
        "worker_concurrency": 4,
        "direct_seconds": exponential(0.5),
        "limited_seconds": exponential(0.5),
        "failure_rate": 0.3,
    }
    return make_trace(Experiment(**({"items": 80} | usual | settings)))


def with_item(trace: Trace, item: int, **values) -> Trace:
    items = trace.items.copy()
    items.loc[item, list(values)] = list(values.values())
    return replace(trace, items=items)


def with_attempt(trace: Trace, row: int, **values) -> Trace:
    attempts = trace.attempts.copy()
    attempts.loc[row, list(values)] = list(values.values())
    return replace(trace, attempts=attempts)


def added(attempts: pd.DataFrame, **values) -> pd.DataFrame:
    return pd.concat([attempts, pd.DataFrame([attempts.iloc[0].to_dict() | values])], ignore_index=True)


def only(law: str, trace: Trace) -> LawBroken:
    """The breach of this law, after seeing that every other law holds and that verify finds this one."""
    for name, check in LAWS.items():
        if name != law:
            check(trace)
    with pytest.raises(LawBroken, match=f"^law '{law}' broken by ") as breach:
        verify(trace)
    assert law == breach.value.law
    return breach.value


def row_of(trace: Trace, item: int, outcome: str = "succeeded") -> int:
    attempts = trace.attempts
    return attempts.index[(attempts["item"] == item) & (attempts["outcome"] == outcome)][0]


def limited_success(trace: Trace, attempts: int = 1) -> int:
    items = trace.items
    own = (items["lane"] == "limited") & (items["outcome"] == "succeeded") & (items["attempts"] == attempts)
    return int(items["item"][own].iloc[0])


# 1 conservation


def test_conservation_names_an_item_that_is_missing():
    """No item may be lost on the way."""
    trace = run()
    last = trace.experiment.items - 1
    lacking = replace(trace, items=trace.items[:-1], attempts=trace.attempts[trace.attempts["item"] != last])
    breach = only("conservation", lacking)
    assert last == breach.item
    assert breach.moment is None
    assert "0 outcomes instead of one" in str(breach)


def test_conservation_names_an_item_that_is_there_twice():
    """No item may come back twice."""
    trace = run()
    twice = replace(trace, items=pd.concat([trace.items, trace.items[7:8]]))
    with pytest.raises(LawBroken, match=r"law 'conservation' broken by item 7 at .* 2 outcomes") as breach:
        verify(twice)
    assert trace.items["returned"][7] == breach.value.moment


@pytest.mark.parametrize("item", [-1, 80])
def test_conservation_names_an_item_that_nobody_sent(item):
    """No item may come from nowhere."""
    trace = run()
    foreign = replace(trace, items=pd.concat([trace.items, trace.items[7:8].assign(item=item)]))
    with pytest.raises(LawBroken, match=f"law 'conservation' broken by item {item}: .* 0 to 79"):
        verify(foreign)


# 2 limits


def test_limits_name_the_worker_that_is_one_too_many():
    """The same run under a limit one lower breaks it where the last worker starts."""
    trace = run()
    time, count = metrics.concurrency(trace, "limited")
    assert count.max() == 4
    breach = only("limits", replace(trace, experiment=replace(trace.experiment, worker_concurrency=3)))
    assert time[np.argmax(count == 4)] == breach.moment
    starts = trace.attempts["start"][trace.attempts["item"] == breach.item]
    assert breach.moment in starts.tolist()
    assert "it makes 4 at once, but worker_concurrency allows 3" in str(breach)


def test_limits_name_the_child_that_is_one_too_many():
    """The same for the children of the map."""
    trace = run()
    breach = only("limits", replace(trace, experiment=replace(trace.experiment, map_concurrency=19)))
    assert breach.moment == 0.0
    assert breach.item == 19
    assert "it makes 20 at once, but map_concurrency allows 19" in str(breach)


def test_limits_hold_the_map_to_awss_own_limit_where_none_is_set():
    """MaxConcurrency 0 is 10,000 children, not any number."""
    trace = make_trace(Experiment(10_001, siphon_share=0.0, map_concurrency=10_000), samples=0)
    together = replace(trace, items=trace.items.assign(arrival=0.0, returned=9.0))
    unlimited = replace(together, experiment=replace(trace.experiment, map_concurrency=0))
    assert "10001 at once, but map_concurrency allows 10000" in str(only("limits", unlimited))


def test_limits_let_pass_what_disagreeing_clocks_explain_and_no_more():
    """An overlap breaks the law only if it is longer than clock_seconds."""
    trace = run(failure_rate=0.0)
    workers = trace.attempts[trace.attempts["worker"] != "direct"].sort_values("start")
    row = workers.index[10]
    moved = with_attempt(trace, row, start=workers["start"][row] - 0.003)
    item = int(workers["item"][row])
    moved = with_item(moved, item, service_start=workers["start"][row] - 0.003)
    assert item == only("limits", moved).item
    with pytest.raises(LawBroken, match="limits"):
        verify(replace(moved, clock_seconds=0.002))
    verify(replace(moved, clock_seconds=0.004))


def test_limits_do_not_count_lost_attempts():
    """Nobody saw when a lost attempt ended, so it proves no overlap."""
    trace = run()
    lost = with_attempt(trace, row_of(trace, limited_success(trace, 2), "failed"), end=NAN, outcome="lost")
    verify(lost)


# 3 order


@pytest.mark.parametrize("column", ["enqueued", "service_start", "service_end", "returned"])
def test_order_names_a_time_before_the_one_it_follows(column):
    """arrival <= enqueued <= service_start <= service_end <= returned, for each of the four."""
    trace = run(failure_rate=0.0)
    before = {
        "enqueued": "arrival",
        "service_start": "enqueued",
        "service_end": "service_start",
        "returned": "service_end",
    }[column]
    item = limited_success(trace)
    moment = float(trace.items[before][item]) - 0.01
    broken = with_item(trace, item, **{column: moment})
    with pytest.raises(
        LawBroken, match=f"law 'order' broken by item {item} at {moment:.6f} s: {column} is 0.01"
    ):
        checks.order(broken)
    verify(trace)


def test_order_alone_is_broken_by_a_message_sent_before_its_child_began():
    """A breach of this law and no other."""
    trace = run(failure_rate=0.0)
    item = int(trace.items["item"][(trace.items["lane"] == "direct") & (trace.items["arrival"] > 0)].iloc[0])
    moment = float(trace.items["arrival"][item]) - 0.01
    breach = only("order", with_item(trace, item, enqueued=moment))
    assert (item, moment) == (breach.item, breach.moment)


def test_order_lets_pass_what_disagreeing_clocks_explain_and_no_more():
    """A time may precede the one that it follows by clock_seconds."""
    trace = run()
    item = int(trace.items["item"][(trace.items["lane"] == "direct") & (trace.items["arrival"] > 0)].iloc[0])
    early = with_item(trace, item, enqueued=trace.items["arrival"][item] - 0.010)
    only("order", replace(early, clock_seconds=0.009))
    verify(replace(early, clock_seconds=0.011))


def test_order_looks_past_a_missing_time():
    """Where the times between are missing, those around them still keep their order."""
    trace = make_trace(
        Experiment(9, siphon_share=1.0, limited_seconds=9.0, worker_concurrency=2, task_timeout_seconds=5)
    )
    item = 8
    assert np.isnan(trace.items["service_start"][item])
    failed = with_item(trace, item, outcome="failed", enqueued=NAN, returned=-1.0)
    with pytest.raises(LawBroken, match=rf"law 'order' broken by item {item} at -1\.0+ s: returned is 1\.0"):
        checks.order(failed)


@pytest.mark.parametrize(
    ("outcome", "may_lack"),
    [
        ("succeeded", []),
        ("failed", ["enqueued", "service_start", "service_end"]),
        ("timed_out", ["enqueued", "service_start", "service_end"]),
        ("dead_lettered", ["service_start", "service_end"]),
    ],
)
def test_order_allows_only_the_missing_times_that_the_outcome_explains(outcome, may_lack):
    """A success lacks nothing, an unserved item its service, and every item has come and gone."""
    trace = run(failure_rate=0.0)
    item = limited_success(trace)
    for column in ("arrival", "enqueued", "service_start", "service_end", "returned"):
        lacking = with_item(trace, item, outcome=outcome, **{column: NAN})
        if column in may_lack:
            checks.order(lacking)
        else:
            with pytest.raises(LawBroken, match=f"item {item} at .*: it is {outcome} without {column}"):
                checks.order(lacking)


def test_order_names_a_result_in_the_wrong_place():
    """The map's results come back in item order."""
    trace = run()
    places = np.arange(80)
    places[[3, 4]] = 4, 3
    breach = only("order", replace(trace, items=trace.items.iloc[places]))
    assert breach.item == 4
    assert trace.items["returned"][4] == breach.moment
    assert "came back in place 3" in str(breach)


def test_order_allows_a_late_attempt_after_its_task_timed_out():
    """The worker learns only from its answer that the task has ended."""
    trace = run()
    item = limited_success(trace)
    late = with_item(trace, item, outcome="timed_out", returned=trace.items["service_start"][item])
    checks.order(late)
    with pytest.raises(LawBroken, match=f"item {item} at .* returned is"):
        checks.order(with_item(late, item, outcome="failed"))


# 4 attempts


def test_attempts_name_one_beyond_max_receive_count():
    """The same run under a lower count breaks it at the first attempt beyond."""
    trace = run()
    limited = trace.items["item"][trace.items["lane"] == "limited"]
    most = int(trace.attempts["attempt"][trace.attempts["item"].isin(limited)].max())
    assert most > 1
    breach = only(
        "attempts", replace(trace, experiment=replace(trace.experiment, max_receive_count=most - 1))
    )
    own = trace.attempts[(trace.attempts["item"] == breach.item) & (trace.attempts["attempt"] == most)]
    assert own["start"].tolist() == [breach.moment]
    assert f"attempt {most} is beyond the {most - 1} that its queue allows" in str(breach)


def test_attempts_of_a_new_token_are_more_than_those_of_one_message():
    """Each of task_attempts messages may be delivered max_receive_count times."""
    trace = run(max_receive_count=4)
    assert trace.attempts["attempt"].max() == 4
    twice = replace(trace, experiment=replace(trace.experiment, max_receive_count=2, task_attempts=2))
    verify(twice)
    once = replace(trace, experiment=replace(trace.experiment, max_receive_count=1, task_attempts=3))
    assert "attempt 4 is beyond the 3 that its queue allows" in str(only("attempts", once))


def test_attempts_of_the_direct_lane_are_those_of_its_retry():
    """Its five attempts have nothing to do with the queue's redrive policy; a sixth breaks the law."""
    trace = run(siphon_share=0.0, failure_rate=0.8, max_receive_count=1)
    assert trace.attempts["attempt"].max() == 5
    verify(trace)
    most = trace.attempts["attempt"] == 5
    sixth = trace.attempts[most].iloc[:1].assign(attempt=6)
    items = trace.items.assign(
        attempts=trace.items["attempts"] + (trace.items["item"] == sixth["item"].iloc[0])
    )
    told = only("attempts", replace(trace, items=items, attempts=pd.concat([trace.attempts, sixth])))
    assert "attempt 6 is beyond the 5 of its Retry" in str(told)


def test_attempts_name_an_item_with_two_successes():
    """Only one answer can count."""
    trace = run()
    item = limited_success(trace, 2)
    row = row_of(trace, item, "failed")
    assert item == only("attempts", with_attempt(trace, row, outcome="succeeded")).item
    own = trace.items.loc[item]
    end = float(own["service_end"])
    same = {"item": item, "start": end, "end": end, "outcome": "succeeded"}
    again = replace(trace, attempts=added(trace.attempts, attempt=3, **same))
    again = replace(with_item(again, item, attempts=3, service_start=end), clock_seconds=100.0)
    with pytest.raises(LawBroken, match=f"item {item} at .* it has 2 succeeded attempts instead of one"):
        checks.attempts(again)


def test_attempts_name_an_item_that_succeeded_without_one():
    """A success is some attempt's."""
    trace = run()
    item = limited_success(trace)
    breach = only("attempts", with_attempt(trace, row_of(trace, item), outcome="failed"))
    assert (item, trace.items["returned"][item]) == (breach.item, breach.moment)
    assert "it has 0 succeeded attempts instead of one" in str(breach)


def test_attempts_name_a_success_that_its_item_does_not_know():
    """If an answer counted, the item succeeded."""
    trace = run()
    item = limited_success(trace)
    breach = only("attempts", with_item(trace, item, outcome="failed"))
    assert (item, trace.items["service_start"][item]) == (breach.item, breach.moment)
    assert "attempt 1 succeeded, but its item did not" in str(breach)


def test_attempts_name_a_success_at_another_time_than_its_items():
    """The item has the times of the attempt that counted, to within clock_seconds."""
    trace = run(failure_rate=0.0)
    item = limited_success(trace)
    row = row_of(trace, item)
    moved = with_attempt(trace, row, end=trace.attempts["end"][row] - 0.001)
    assert item == only("attempts", moved).item
    verify(replace(moved, clock_seconds=0.002))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"start": NAN}, "has no start"),
        ({"end": NAN}, "must lack its end just if it was lost"),
        ({"outcome": "lost"}, "must lack its end just if it was lost"),
        ({"end": -1.0}, "ends before it starts"),
        ({"attempt": 2}, "attempt 2 is not the next number of its item"),
        ({"attempt": 0}, "attempt 0 is not the next number of its item"),
        ({"item": 80}, "belongs to no item of the experiment"),
    ],
)
def test_attempts_name_a_row_that_cannot_be(values, words):
    """Numbers from 1 without a gap, a start, an end after it unless lost, an item of the experiment."""
    trace = run()
    row = row_of(trace, limited_success(trace))
    breach = only("attempts", with_attempt(trace, row, **values))
    assert words in str(breach)
    assert values.get("item", trace.attempts["item"][row]) == breach.item


def test_attempts_name_an_item_that_counts_wrongly():
    """An item counts as many attempts as there are."""
    trace = run()
    item = limited_success(trace)
    breach = only("attempts", with_item(trace, item, attempts=2))
    assert item == breach.item
    assert "it has 1 attempts, not as many as it counts" in str(breach)


# 5 little


def test_little_compares_two_counts_of_the_same_presence(monkeypatch):
    """A count of children over time that is off by one item is seen against the sojourn times."""
    trace = run()
    exact = metrics.concurrency

    def one_short(trace, lane=None):
        return (
            metrics.steps(trace.items["arrival"][1:], trace.items["returned"][1:])
            if lane is None
            else exact(trace, lane)
        )

    monkeypatch.setattr(metrics, "concurrency", one_short)
    breach = only("little", trace)
    assert breach.item is None
    assert "children were present for" in str(breach)


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_little_holds_the_trace_against_what_the_queue_reported(factor):
    """The queue's own counts are an independent measurement: half as many, or many more, cannot be."""
    trace = run(items=300, map_concurrency=60)
    samples = trace.samples.assign(visible=(trace.samples["visible"] * factor).astype(int))
    breach = only("little", replace(trace, samples=samples))
    assert breach.moment in samples["time"].tolist()
    assert "the queue reported" in str(breach)


def called(trace, calls):
    """Samples of a right trace, by calls one after another: each waits, takes its time, and sees the queue.

    calls: of each the pause before it, how long it takes, and at which share of that it sees the queue. The
    run is as long as all of them.
    """
    items, attempts = trace.items, trace.attempts
    last = attempts.groupby("item")["end"].max().reindex(items["item"]).to_numpy()
    scale = last.max() / sum(pause + duration for pause, duration, _ in calls)
    now, rows = 0.0, []
    for pause, duration, share in calls:
        asked = now + pause * scale
        now = asked + duration * scale
        seen = asked + share * (now - asked)
        here = (items["enqueued"].to_numpy() <= seen) & ~(last <= seen)
        rows.append(((asked + now) / 2, int(here.sum()), 0))
    return pd.DataFrame(rows, columns=["time", "visible", "in_flight"])


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 20.0), st.floats(0.0, 1.0)), min_size=25, max_size=60
    )
)
@example([(0.1, 0.1, 0.0), (0.1, 600.0, 0.0)] + [(0.5, 0.0, 0.0)] * 30)
@example([(0.1, 0.1, 1.0), (0.1, 600.0, 1.0)] + [(0.5, 0.0, 1.0)] * 30)
def test_little_holds_however_slow_sparse_and_irregular_the_samples_are(calls):
    """A sample counts for the time to those beside it, at any moment of which it may have seen the queue."""
    trace = run(items=300, map_concurrency=0, siphon_share=1.0)
    verify(replace(trace, samples=called(trace, calls)))


@pytest.mark.parametrize("off", [-4, 4])
@pytest.mark.parametrize("late", [0.0, 5.0])
def test_little_sees_a_few_messages_where_nothing_moves(off, late):
    """Where the queue's depth is the same all the time, no distance of samples excuses a wrong one."""
    trace = run(items=100, siphon_share=1.0, worker_concurrency=100, map_concurrency=0, limited_seconds=100)
    samples = called(trace, [(0.1, late, 0.5)] * 400)
    verify(replace(trace, samples=samples))
    wrong = samples.assign(visible=(samples["visible"] + off).clip(lower=0))
    only("little", replace(trace, samples=wrong))


def test_little_allows_the_queue_its_approximation():
    """A tenth off is within what SQS calls approximate."""
    trace = run(items=300, map_concurrency=60)
    samples = trace.samples.assign(visible=(trace.samples["visible"] * 1.1).astype(int))
    verify(replace(trace, samples=samples))


def test_little_counts_what_a_batch_holds_back():
    """A batch is deleted as a whole: half of it beside the one in service may be done and still in the queue.

    No more than that, and nothing where messages come one by one."""
    slow = {"limited_seconds": 0.5, "batch_size": 10, "worker_concurrency": 4, "map_concurrency": 12}
    trace = run(items=300, **slow)
    held = trace.samples.assign(in_flight=(trace.samples["in_flight"] * 5.5).astype(int))
    verify(replace(trace, samples=held))
    more = trace.samples.assign(in_flight=(trace.samples["in_flight"] * 8).astype(int))
    only("little", replace(trace, samples=more))
    one_by_one = run(items=300, **slow | {"batch_size": 1})
    only("little", replace(one_by_one, samples=held))


def test_little_draws_no_conclusion_from_few_samples_or_from_an_idle_queue():
    """Fewer than 20 samples while the queue was in use say nothing, nor do those before and after."""
    trace = run(items=300, map_concurrency=60)
    wrong = trace.samples.assign(visible=900)
    verify(replace(trace, samples=wrong[:19]))
    verify(replace(trace, samples=wrong.assign(time=wrong["time"] + 1e6)))
    verify(replace(run(siphon_share=0.0), samples=wrong))
    with pytest.raises(LawBroken, match="little"):
        verify(replace(trace, samples=wrong[:20]))


def test_a_breach_is_an_assertion_error():
    """So that a test or a notebook cell fails on it without knowing the laws."""
    breach = LawBroken("order", 3, 1.5, "why")
    assert isinstance(breach, AssertionError)
    assert str(breach) == "law 'order' broken by item 3 at 1.500000 s: why"
    assert str(LawBroken("little", None, None, "why")) == "law 'little' broken by the run: why"
