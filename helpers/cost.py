"""What a run of the `combined` workflow costs on AWS: line items in US dollars, from a trace or from a plan.

Not billed, so without a line: waiting for a task token, heartbeats, SendTaskSuccess and SendTaskFailure, the
mapping's MaximumConcurrency, and a message's move to the dead-letter queue. Left out: logs, data transfer,
storage, warming calls, and what the lab reads to measure the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.errors import LabError
from helpers.experiment import Experiment
from helpers.fleet import RECEIVE_LIMIT
from helpers.fleet_worker import LONG_POLL_SECONDS
from helpers.live import fits_input, items_text
from helpers.metrics import ideal_makespan
from helpers.simulation.quotas import AWS_US_EAST_1
from helpers.trace import ATTEMPT_OUTCOMES, Trace

__all__ = ["US_EAST_1", "Price", "Prices", "bill", "estimate", "express", "of", "per_month", "total"]

COLUMNS = ["service", "item", "quantity", "unit", "usd_per_unit", "usd", "source", "date"]
PARENT_STATES = 6
"""Limits, ItemsInInput, MapItems, Summarise, WithinTolerance and Done; one more for SaveItems."""
CHILD_TRANSITIONS = 4
"""The start of the child, ChooseLane, its lane, and Answered or Unanswered."""
MEMORY_GB = 0.25
"""Of the functions `process` and `worker`."""
SUMMARISE_GB_SECONDS = 1.0
"""Assumed: 1 GB for one second."""
RESULT_FILES = 2
"""Assumed: the ResultWriter's manifest and one file of results, each written once and read once."""
MAPPING_POLLERS = 5
"""Of an event source mapping at rest: Lambda guide, services-sqs-scaling, 2026-11-24."""
CHILDREN_PER_SECOND = AWS_US_EAST_1.children_per_second
"""Standard children that a Map Run starts at most."""
DAYS_A_MONTH = 365 / 12


def _check(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise LabError(f"{name}={value!r}: it must be finite and >= 0; give such a number.")


@dataclass(frozen=True)
class Price:
    """One price: usd for one unit of a service, where it was read, and when.

    free: units a month that the account's free tier covers. Raises LabError for a negative or infinite one.
    """

    usd: float
    unit: str
    service: str
    source: str
    date: str = "2026-11-24"
    free: float = 0.0

    def __post_init__(self) -> None:
        for name in ("usd", "free"):
            _check(name, getattr(self, name))


_STEP_FUNCTIONS = "https://aws.amazon.com/step-functions/pricing/"
_EXPRESS = "https://www.wring.co/blog/aws-step-functions-pricing-guide"
_LAMBDA = "https://aws.amazon.com/lambda/pricing/"
_SQS = "https://cloudburn.io/blog/amazon-sqs-pricing"
_CLOUDWATCH = "https://support.site24x7.com/portal/en/kb/articles/aws-cloudwatch-metrics-cost-calculation"
_DYNAMODB = "https://airbyte.com/data-engineering-resources/dynamodb-pricing"
_PIPES = "https://cloudburn.io/blog/amazon-eventbridge-pricing"
_S3 = "https://c3x.dev/blog/s3-request-fees-explained"


@dataclass(frozen=True)
class Prices:
    """The prices of one region, by default us-east-1; override with `dataclasses.replace`.

    First volume tiers. Prices of SQS, Express, S3, CloudWatch, DynamoDB and Pipes were read on third-party
    pages, which `source` names. Some still have twice as much for DynamoDB, as it was until November 2024.
    """

    transition: Price = Price(0.000025, "transition", "Step Functions", _STEP_FUNCTIONS, free=4_000)
    express_request: Price = Price(0.000001, "request", "Step Functions Express", _EXPRESS)
    express_gb_second: Price = Price(0.00001667, "GB-second", "Step Functions Express", _EXPRESS)
    lambda_request: Price = Price(0.0000002, "request", "Lambda", _LAMBDA, free=1_000_000)
    lambda_gb_second_arm64: Price = Price(0.0000133334, "GB-second", "Lambda", _LAMBDA, free=400_000)
    lambda_gb_second_x86: Price = Price(0.0000166667, "GB-second", "Lambda", _LAMBDA, free=400_000)
    sqs_request: Price = Price(0.0000004, "request", "SQS", _SQS, free=1_000_000)
    sqs_fifo_request: Price = Price(0.0000005, "request", "SQS FIFO", _SQS, "2026-11-26", free=1_000_000)
    s3_put: Price = Price(0.000005, "PUT or LIST request", "S3", _S3)
    s3_get: Price = Price(0.0000004, "GET request", "S3", _S3)
    dynamodb_write: Price = Price(0.000000625, "write request unit", "DynamoDB", _DYNAMODB, "2026-11-26")
    dynamodb_read: Price = Price(0.000000125, "read request unit", "DynamoDB", _DYNAMODB, "2026-11-26")
    pipe_request: Price = Price(0.0000004, "request", "EventBridge Pipes", _PIPES, "2026-11-26")
    metric: Price = Price(0.00001, "metric requested", "CloudWatch", _CLOUDWATCH)


US_EAST_1 = Prices()


def of(trace: Trace, prices: Prices = US_EAST_1, free_tier: bool = False) -> pd.DataFrame:
    """What the traced run costs as AWS would bill it; columns as in `bill`.

    An attempt is billed by the millisecond, rounded up; a lost one until the function's timeout, or only as a
    message that was received, where it never began. A retry of the direct lane is a state transition, a
    redelivery by the queue is not: it is one more receive, GetQueueUrl and ChangeMessageVisibility. Assumed:
    batches are full; messages stay under 64 KB; empty receives are those of 5 pollers of the mapping, which
    are taken to poll as long as SQS allows, or of each worker of a fleet, one every 20 s of the run. A
    fleet's own machines are not in the bill, nor what else an interrupted run did for items that never came
    back than their attempts, nor messages beyond the first of an item whose task is sent again with a new
    token.
    """
    experiment = trace.experiment
    item, start, end = (trace.attempts[name].to_numpy() for name in ("item", "start", "end"))
    seconds = np.where(np.isnan(end), experiment.function_timeout_seconds, end - start)
    seconds[np.isnan(start)] = 0.0
    milliseconds = _milliseconds(np.maximum(seconds, 0.0))
    # The plan knows the lane of an attempt whose item never came back, too.
    planned = np.append(experiment.plan()["lane"] == "limited", False)
    limited = planned[np.where((item >= 0) & (item < experiment.items), item, experiment.items)]
    outcomes = np.bincount(trace.attempts["outcome"].array.codes[limited], minlength=len(ATTEMPT_OUTCOMES))
    deliveries = dict(zip(ATTEMPT_OUTCOMES, outcomes.tolist(), strict=True))
    direct = item[~limited]
    return _combined(
        experiment,
        items=len(trace.items),
        messages=int((trace.items["lane"] == "limited").sum()),
        retries=len(direct) - len(pd.unique(direct)),
        direct=len(direct),
        deliveries=sum(deliveries.values()),
        failed=deliveries["failed"],
        done=deliveries["succeeded"] + deliveries["late"],
        direct_ms=int(milliseconds[~limited].sum()),
        limited_ms=int(milliseconds[limited].sum()),
        seconds=float(np.nan_to_num(trace.items["returned"].max())),
        prices=prices,
        free_tier=free_tier,
    )


def estimate(experiment: Experiment, prices: Prices = US_EAST_1, free_tier: bool = False) -> pd.DataFrame:
    """What the planned run would cost; columns and assumptions as in `of` and `bill`.

    Counts come from `experiment.plan()`, planned failures included. The run is taken to last for its ideal
    makespan, or for as long as AWS needs to start its children at 100 a second; only empty receives and the
    time in functions depend on measured times.
    """
    plan = experiment.plan()
    limited = (plan["lane"] == "limited").to_numpy()
    failures = plan["failures"].to_numpy()
    limit = experiment.most_attempts(limited)
    attempts = np.minimum(failures + 1, limit)
    done = limited & (failures < limit)
    milliseconds = _milliseconds(plan["task_seconds"].to_numpy()) * attempts
    deliveries = int(attempts[limited].sum())
    return _combined(
        experiment,
        items=experiment.items,
        messages=int(limited.sum()),
        retries=int((attempts - 1)[~limited].sum()),
        direct=int(attempts[~limited].sum()),
        deliveries=deliveries,
        failed=deliveries - int(done.sum()),
        done=int(done.sum()),
        direct_ms=int(milliseconds[~limited].sum()),
        limited_ms=int(milliseconds[limited].sum()),
        seconds=max(ideal_makespan(experiment), experiment.items / CHILDREN_PER_SECOND),
        prices=prices,
        free_tier=free_tier,
    )


def express(requests: float, seconds: float, memory_mb: float, prices: Prices = US_EAST_1) -> pd.DataFrame:
    """What `requests` Express executions of a mean duration (s) and memory (MB) cost; columns as in `bill`.

    Duration is rounded up to 100 ms, memory to 64 MB (https://aws.amazon.com/step-functions/pricing/).
    Raises LabError for a negative or infinite value.
    """
    for name, value in (("requests", requests), ("seconds", seconds), ("memory_mb", memory_mb)):
        _check(name, value)
    gigabytes = math.ceil(memory_mb / 64) * 64 / 1024
    billed_seconds = math.ceil(round(seconds * 10, 6)) / 10
    return bill(
        [
            ("express_request", "executions", requests),
            ("express_gb_second", "duration", requests * billed_seconds * gigabytes),
        ],
        prices,
    )


def bill(
    lines: Sequence[tuple[str, str, float]], prices: Prices = US_EAST_1, free_tier: bool = False
) -> pd.DataFrame:
    """A bill from lines of (the price's name in `Prices`, what it is for, quantity); none where it is zero.

    Columns: service, item, quantity, unit, usd_per_unit, usd, source and date (of the price). free_tier
    takes the account's monthly allowance off `usd`, line by line, as though nothing else used it; `quantity`
    stays what was used. Raises LabError for a negative or infinite quantity.
    """
    used: dict[tuple[str, str], float] = {}
    rows = []
    for name, item, quantity in lines:
        price: Price = getattr(prices, name)
        _check(item, quantity)
        pool = (price.service, price.unit)
        free = min(quantity, max(0.0, price.free - used.get(pool, 0.0))) if free_tier else 0.0
        used[pool] = used.get(pool, 0.0) + quantity
        usd = (quantity - free) * price.usd
        row = (price.service, item, float(quantity), price.unit, price.usd, usd, price.source, price.date)
        if quantity:
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def total(table: pd.DataFrame) -> float:
    """The sum of a bill in US dollars. For 1,000 items: `1000 * total(table) / items`."""
    return math.fsum(table["usd"])


def per_month(table: pd.DataFrame, runs_per_day: float) -> float:
    """US dollars a month of 365/12 days at a rate of such runs; of a bill without the monthly free tier.

    Raises LabError for a negative or infinite rate.
    """
    _check("runs_per_day", runs_per_day)
    return total(table) * runs_per_day * DAYS_A_MONTH


def _combined(
    experiment: Experiment,
    *,
    items: int,
    messages: int,
    retries: int,
    direct: int,
    deliveries: int,
    failed: int,
    done: int,
    direct_ms: int,
    limited_ms: int,
    seconds: float,
    prices: Prices,
    free_tier: bool,
) -> pd.DataFrame:
    at_once = min(experiment.batch_size, RECEIVE_LIMIT)
    on_lambda = experiment.consumer == "lambda"
    pollers = MAPPING_POLLERS if on_lambda else experiment.worker_concurrency
    empty = pollers * math.ceil(seconds / LONG_POLL_SECONDS) if messages else 0
    invocations = math.ceil(deliveries / experiment.batch_size) if on_lambda else 0
    limited_gb_seconds = limited_ms / 1000 * MEMORY_GB if on_lambda else 0.0
    lines = [
        ("transition", "parent execution", PARENT_STATES + _items_fit_input(experiment)),
        ("transition", "child executions", CHILD_TRANSITIONS * items),
        ("transition", "retries in the direct lane", retries),
        ("lambda_request", "direct lane", direct),
        ("lambda_request", "limited lane", invocations),
        ("lambda_request", "summary", 1),
        ("lambda_gb_second_arm64", "direct lane, time", direct_ms / 1000 * MEMORY_GB),
        ("lambda_gb_second_arm64", "limited lane, time", limited_gb_seconds),
        ("lambda_gb_second_arm64", "summary, time", SUMMARISE_GB_SECONDS),
        ("sqs_request", "send", messages),
        ("sqs_request", "receive", math.ceil(deliveries / at_once)),
        ("sqs_request", "delete", math.ceil(done / at_once)),
        ("sqs_request", "redelivery: GetQueueUrl, ChangeMessageVisibility", 2 * failed),
        ("sqs_request", "empty receives", empty),
        ("s3_put", "items and results", 1 + RESULT_FILES),
        ("s3_get", "items and results", 1 + RESULT_FILES),
    ]
    return bill(lines, prices, free_tier)


def _items_fit_input(experiment: Experiment) -> bool:
    # The text of an item has 59 to 101 characters, so that few plans have to be written out.
    if 2_300 < experiment.items <= 4_000:
        return fits_input(items_text(experiment))
    return experiment.items <= 2_300


def _milliseconds(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    # Rounded to the microsecond first: 0.3 - 0.2 is no more than 100 ms.
    return np.ceil((seconds * 1000).round(3)).astype(np.int64)
