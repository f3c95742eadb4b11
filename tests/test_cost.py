"""What a run costs: AWS's own examples, and the laws of a bill."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import experiments, make_trace

from helpers import cost, live
from helpers.errors import LabError
from helpers.experiment import Experiment

# Both lanes give up after five attempts, as the workflow's Retry and its default redrive policy say.
five_attempts = experiments.map(lambda experiment: replace(experiment, max_receive_count=5))
MEASURED = {"direct lane, time", "limited lane, time", "empty receives"}


def counts(table, but=()):
    """Quantity of each line."""
    lines = table.set_index(["service", "unit", "item"])["quantity"].to_dict()
    return {key: quantity for key, quantity in lines.items() if key[2] not in but}


def test_standard_example():
    """3 transitions x 1,000 executions cost $0.075.

    AWS's Step Functions workshop, module 13, step 5:
    https://github.com/aws-samples/the-aws-step-functions-workshop
    """
    assert round(cost.total(cost.bill([("transition", "three states", 3 * 1000)])), 3) == 0.075


def test_express_example():
    """1,000 requests of 11,300 ms in 64 MB cost $0.0127746 (by a price of four digits), shown as $0.01.

    AWS's Step Functions workshop, module 13, step 5:
    https://github.com/aws-samples/the-aws-step-functions-workshop
    """
    assert cost.total(cost.express(1000, 11.3, 64)) == pytest.approx(0.0127746, rel=2e-4)


def test_lambda_example():
    """3 million requests of 1 s in 512 MB, at the page's $0.00001667, cost $18.34 + $0.40 = $18.74.

    https://aws.amazon.com/lambda/pricing/, example 1 of the edition that bills by 100 ms.
    """
    then = replace(cost.US_EAST_1.lambda_gb_second_x86, usd=0.00001667)
    prices = replace(cost.US_EAST_1, lambda_gb_second_x86=then)
    lines = [
        ("lambda_gb_second_x86", "compute", 3_000_000 * 1 * 512 / 1024),
        ("lambda_request", "requests", 3_000_000),
    ]
    table = cost.bill(lines, prices, free_tier=True)
    assert [round(usd, 2) for usd in table["usd"]] == [18.34, 0.40]
    assert round(cost.total(table), 2) == 18.74


def test_sqs_example():
    """300,000 sends in batches, 3 million receives and 3 million deletes cost $2.52.

    https://adhdecode-articles-4.pages.dev/articles/sqs/sqs-cost-per-million-messages-pricing (third party)
    """
    lines = [("sqs_request", "send", 3e5), ("sqs_request", "receive", 3e6), ("sqs_request", "delete", 3e6)]
    assert round(cost.total(cost.bill(lines)), 2) == 2.52


def test_the_workflows_own_example():
    """5,000 direct items of 0.05 s and 5,000 limited of 0.5 s: the formulas of infra/combined/README.md."""
    experiment = Experiment(items=10_000, seed=7)
    limited = int((experiment.plan()["lane"] == "limited").sum())
    lines = cost.estimate(experiment).set_index(["service", "item"])["usd"]
    direct = 10_000 - limited
    transitions = (6 + 4 * 10_000) * 0.000025
    assert transitions == pytest.approx(lines["Step Functions"].sum())
    sqs = lines["SQS"].drop("empty receives").sum()
    assert 3 * limited * 0.0000004 == pytest.approx(sqs)
    time = lines["Lambda"][["direct lane, time", "limited lane, time"]].sum()
    assert (direct * 0.05 + limited * 0.5) * 0.25 * 0.0000133334 == pytest.approx(time)


@pytest.mark.parametrize("items", [2_300, 2_301, 3_000, 3_300, 3_500, 4_000, 4_001])
@pytest.mark.parametrize("seconds", [0.0, 123_456.123456])
def test_items_that_fit_into_the_input_are_one_transition_more(items, seconds):
    """A state of their own saves them; where their text is too long they are saved before."""
    share = float(seconds > 0)
    experiment = Experiment(items, siphon_share=share, direct_seconds=seconds, limited_seconds=seconds)
    table = cost.estimate(experiment).set_index("item")
    fits = live.fits_input(live.items_text(experiment))
    assert table["quantity"]["parent execution"] == 6 + fits


def test_retry_is_a_transition_and_redelivery_is_not():
    """Failures add transitions in the direct lane only, and queue requests in the limited lane only."""
    direct, limited = (
        cost.estimate(Experiment(items=50, siphon_share=share, failure_rate=0.5, max_receive_count=1000))
        for share in (0, 1)
    )
    assert "retries in the direct lane" in set(direct["item"])
    assert "SQS" not in set(direct["service"])
    assert "retries in the direct lane" not in set(limited["item"])
    assert "redelivery: GetQueueUrl, ChangeMessageVisibility" in set(limited["item"])


@given(experiment=five_attempts)
def test_estimate_agrees_with_the_trace(experiment):
    """Counts that do not depend on measured times are the same from the plan and from the run."""
    trace, plan = cost.of(make_trace(experiment)), cost.estimate(experiment)
    assert counts(plan, MEASURED) == counts(trace, MEASURED)


@given(experiment=five_attempts)
def test_a_bill_adds_up(experiment):
    """No line is negative, each is quantity x price, and the lines sum to the total."""
    table = cost.estimate(experiment)
    assert (table["usd"] >= 0).all()
    assert np.allclose(table["quantity"] * table["usd_per_unit"], table["usd"])
    assert table["usd"].sum() == pytest.approx(cost.total(table))
    assert list(table) == cost.COLUMNS


@given(experiment=experiments, more=st.integers(1, 40))
def test_more_items_cost_more(experiment, more):
    """Cost grows with items."""
    larger = replace(experiment, items=experiment.items + more)
    assert cost.total(cost.estimate(larger)) > cost.total(cost.estimate(experiment))


@given(experiment=experiments, seed=st.integers(0, 2**32 - 1))
def test_order_is_free(experiment, seed):
    """The order of the rows of a trace does not change its bill."""
    trace = make_trace(experiment)
    shuffled = replace(
        trace,
        items=trace.items.sample(frac=1, random_state=seed),
        attempts=trace.attempts.sample(frac=1, random_state=seed),
    )
    assert counts(cost.of(trace)) == counts(cost.of(shuffled))


@given(experiment=experiments)
def test_free_tier_never_costs(experiment):
    """The free tier makes no line dearer, and uses the same quantities."""
    full, free = cost.estimate(experiment), cost.estimate(experiment, free_tier=True)
    assert (free["usd"] <= full["usd"]).all()
    assert counts(full) == counts(free)


def test_free_tier_is_spent_once():
    """Lines of one service and unit share the month's allowance."""
    lines = [("transition", "first", 3_000), ("transition", "second", 3_000)]
    table = cost.bill(lines, free_tier=True)
    expected = [0, 2_000 * 0.000025]
    assert expected == pytest.approx(table["usd"].tolist())


@pytest.mark.parametrize("name", [field.name for field in fields(cost.Prices)])
def test_one_price_moves_its_own_lines(name):
    """A doubled price doubles its own lines and leaves the others."""
    price = getattr(cost.US_EAST_1, name)
    doubled = replace(cost.US_EAST_1, **{name: replace(price, usd=2 * price.usd)})
    lines = [(field.name, field.name, 10) for field in fields(cost.Prices)]
    before, after = (
        cost.bill(lines, prices).set_index("item")["usd"] for prices in (cost.US_EAST_1, doubled)
    )
    factor = after / before
    assert factor[name] == pytest.approx(2)
    assert (factor.drop(name) == 1).all()


def test_tables_and_pipes_have_their_prices():
    """A million on-demand writes, reads and pipe requests, as told for us-east-1 on 2026-11-26."""
    lines = [(name, name, 1e6) for name in ("dynamodb_write", "dynamodb_read", "pipe_request")]
    assert cost.bill(lines)["usd"].tolist() == pytest.approx([0.625, 0.125, 0.4])


def test_a_fleet_has_no_lambda_in_the_limited_lane():
    """With long-polling workers the limited lane invokes nothing, and each worker polls."""
    workers = 7
    table = cost.estimate(Experiment(items=20, siphon_share=1, consumer="fleet", worker_concurrency=workers))
    assert {"summary", "summary, time"} == set(table["item"][table["service"] == "Lambda"])
    assert workers == table.set_index("item")["quantity"]["empty receives"]


def test_batches_save_requests():
    """Ten messages at once need a tenth of the invocations, receives and deletes."""
    one, ten = (
        counts(cost.estimate(Experiment(items=100, siphon_share=1, batch_size=size))) for size in (1, 10)
    )
    for key in (
        ("Lambda", "request", "limited lane"),
        ("SQS", "request", "receive"),
        ("SQS", "request", "delete"),
    ):
        assert one[key] == 10 * ten[key] == 100


def test_express_rounds_up():
    """100 ms and 64 MB are the smallest steps."""
    assert cost.total(cost.express(1000, 0.2, 128)) == cost.total(cost.express(1000, 0.11, 65))


def test_a_month_is_runs_times_days():
    """A month at one run a day is 365/12 runs."""
    table = cost.bill([("transition", "states", 1200)])
    expected = 0.03 * 365 / 12
    assert expected == pytest.approx(cost.per_month(table, 1))


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_nonsense_is_refused(bad):
    """Negative and infinite numbers are refused by name."""
    with pytest.raises(LabError, match="runs_per_day"):
        cost.per_month(cost.bill([]), bad)
    with pytest.raises(LabError, match="usd"):
        replace(cost.US_EAST_1.transition, usd=bad)
    with pytest.raises(LabError, match="seconds"):
        cost.express(1, bad, 64)
    with pytest.raises(LabError, match="states"):
        cost.bill([("transition", "states", bad)])


@pytest.mark.parametrize(("end", "billed_seconds"), [(0.3, 0.1), (0.3001, 0.101), (np.nan, 30)])
def test_an_attempt_is_billed_by_the_millisecond(end, billed_seconds):
    """Time is rounded up to 1 ms, not beyond; an attempt that was lost runs into the function's timeout."""
    trace = make_trace(Experiment(items=1, siphon_share=0))
    trace = replace(trace, attempts=trace.attempts.assign(start=0.2, end=end))
    quantity = cost.of(trace).set_index("item")["quantity"]
    assert billed_seconds * 0.25 == pytest.approx(quantity["direct lane, time"])


def test_an_attempt_of_clocks_that_disagree_or_of_no_item_costs_no_less():
    """One that ends before its start took no time; what no item of the plan explains is a direct call."""
    trace = make_trace(Experiment(items=2, siphon_share=1, limited_seconds=1.0))
    attempts = trace.attempts.assign(item=[7, 1], start=[0.0, 1.0], end=[1.0, 0.9])
    quantity = cost.of(replace(trace, attempts=attempts)).set_index("item")["quantity"]
    assert quantity["direct lane, time"] == 0.25
    assert quantity["limited lane"] == 1
    assert "limited lane, time" not in quantity


def test_saved_items_are_one_more_transition():
    """Items that fit into the input pass SaveItems; those put into S3 beforehand do not."""
    small, large = (
        counts(cost.estimate(Experiment(items=n)))["Step Functions", "transition", "parent execution"]
        for n in (10, 10_000)
    )
    assert small == large + 1 == 7


@given(experiment=five_attempts)
def test_time_agrees_with_the_trace(experiment):
    """Time in functions is the same from the plan and from the run, but for 1 ms an attempt."""
    trace = make_trace(experiment)
    times = [
        table.loc[table["unit"] == "GB-second", "quantity"].sum()
        for table in (cost.estimate(experiment), cost.of(trace))
    ]
    assert times[0] == pytest.approx(times[1], abs=0.25 * 0.001 * len(trace.attempts))
