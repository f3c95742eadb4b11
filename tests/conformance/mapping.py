"""Event source mappings: Lambda as the consumer of a queue."""

import json
import time
from typing import Any

from tests.conformance.functions import open_gate
from tests.conformance.probe import probe
from tests.conformance.site import Site

GUIDE = "https://docs.aws.amazon.com/lambda/latest/dg"
SCALING = f"{GUIDE}/services-sqs-scaling.html"
ERRORS = f"{GUIDE}/services-sqs-errorhandling.html"
CONFIGURE = f"{GUIDE}/services-sqs-configure.html"
SQS = f"{GUIDE}/with-sqs.html"
API = "https://docs.aws.amazon.com/lambda/latest/api"
VISIBLE = 12
"""Visibility timeout and Timeout of handlers that fail; a cold start on a busy machine fits in (seconds)."""
COLD = 60
"""How long to wait for functions that start (seconds)."""


class Held:
    """A mapping whose handlers each report and wait until they are let go."""

    def __init__(self, site: Site, messages: int, **settings: Any) -> None:
        self.site, self.log, self.gate = site, site.queue(), site.queue()
        self.url = site.queue(VisibilityTimeout=600)
        order = {"do": "wait", "log": self.log, "gate": self.gate}
        site.send(self.url, [order | {"item": n} for n in range(messages)])
        self.id = site.mapping(self.url, site.function(Timeout=100), **settings)

    def started(self, count: int) -> int:
        """How many more invocations have started: waits for `count`, and whether more come."""
        return len(self.site.take(self.log, count, seconds=COLD if count else 3))

    def release(self, count: int) -> None:
        """Let so many handlers go on."""
        open_gate(self.site, self.gate, count)


def peak(site: Site, maximum: int) -> list[int]:
    """[invocations at once under a MaximumConcurrency, those that start when one has ended]."""
    held = Held(site, maximum + 5, ScalingConfig={"MaximumConcurrency": maximum})
    at_once = held.started(maximum)
    held.release(1)
    then = held.started(1)
    held.release(maximum + 5)
    return [at_once, then]


@probe(SCALING, [2, 1], needs="lambda", lesson=True)
def maximum_concurrency_2(site: Site) -> Any:
    """MaximumConcurrency 2: two invocations at once, never more, and another when one ends."""
    return peak(site, 2)


@probe(SCALING, [5, 1], needs="lambda", lesson=True)
def maximum_concurrency_5(site: Site) -> Any:
    """MaximumConcurrency 5: five invocations at once, never more, and another when one ends."""
    return peak(site, 5)


@probe(SCALING, [20, 1], needs="lambda", lesson=True)
def maximum_concurrency_20(site: Site) -> Any:
    """MaximumConcurrency 20: twenty invocations at once, never more, and another when one ends."""
    return peak(site, 20)


@probe(SCALING, "five or more", needs="lambda")
def starts_with_five(site: Site) -> Any:
    """Without MaximumConcurrency a mapping starts with five invocations at once, and goes on from there."""
    held = Held(site, 8)
    at_once = held.started(5)
    held.release(8)
    return "five or more" if at_once >= 5 else at_once


@probe(SCALING, "more than five", needs="lambda")
def scales_beyond_five(site: Site) -> Any:
    """Without MaximumConcurrency invocations at once grow by up to 300 a minute while messages remain."""
    held = Held(site, 9)
    at_once = held.started(6)
    held.release(9)
    return "more than five" if at_once > 5 else at_once


@probe(SCALING, ["refused", "refused", "accepted"], needs="lambda")
def maximum_concurrency_range(site: Site) -> Any:
    """MaximumConcurrency is 2 to 1,000."""
    name, seen = site.function(), []
    for maximum in (1, 1001, 1000):
        config = {"MaximumConcurrency": maximum}
        url = site.queue(VisibilityTimeout=120)
        code = site.refused(site.mapping, url=url, function=name, ScalingConfig=config)
        seen.append("accepted" if code == "accepted" else "refused")
    return seen


@probe(f"{API}/API_UpdateEventSourceMapping.html", [2, 4], needs="lambda", lesson=True)
def maximum_concurrency_updated(site: Site) -> Any:
    """UpdateEventSourceMapping changes MaximumConcurrency of a mapping under way: 2 becomes 6."""
    held = Held(site, 10, ScalingConfig={"MaximumConcurrency": 2})
    before = held.started(2)
    site.functions.update_event_source_mapping(UUID=held.id, ScalingConfig={"MaximumConcurrency": 6})
    more = held.started(4)
    held.release(10)
    return [before, more]


@probe(f"{API}/API_UpdateEventSourceMapping.html", [0, 3], needs="lambda", lesson=True)
def disabled_mapping_stops(site: Site) -> Any:
    """Enabled false stops the polling, messages stay; enabled again it goes on."""
    url, log = site.queue(VisibilityTimeout=120), site.queue()
    made = site.mapping(url, site.function())
    site.functions.update_event_source_mapping(UUID=made, Enabled=False)
    site.until(lambda: site.mapping_state(made) == "Disabled")
    site.send(url, [{"do": "return", "log": log}] * 3)
    idle = len(site.take(log, 0, seconds=3))
    site.functions.update_event_source_mapping(UUID=made, Enabled=True)
    return [idle, len(site.take(log, 3))]


@probe(SQS, [5, 0], needs="lambda", lesson=True)
def batch_of_five(site: Site) -> Any:
    """BatchSize 5: a handler gets up to five messages at once; when it returns they are deleted."""
    url, log = site.queue(VisibilityTimeout=120), site.queue()
    site.send(url, [{"do": "return", "log": log, "item": n} for n in range(10)])
    site.mapping(url, site.function(), BatchSize=5)
    batches: list[Any] = []
    while sum(len(b["items"]) for b in batches) < 10:
        if not (found := site.take(log, 1, quiet=0)):
            break
        batches += found
    counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

    def left() -> int:
        return sum(int(site.attribute(url, name)) for name in counts)

    site.until(lambda: left() == 0)
    return [max(len(b["items"]) for b in batches), left()]


@probe(CONFIGURE, [4], needs="lambda")
def batching_window(site: Site) -> Any:
    """MaximumBatchingWindowInSeconds gathers messages until a batch is full or the window is over."""
    url, log = site.queue(VisibilityTimeout=120), site.queue()
    site.mapping(url, site.function(), BatchSize=10, MaximumBatchingWindowInSeconds=4)
    for n in range(4):
        site.send(url, [{"do": "return", "log": log, "item": n}])
        time.sleep(0.2)
    return sorted(len(b["items"]) for b in site.take(log, 1, quiet=3))


@probe(CONFIGURE, "InvalidParameterValueException", needs="lambda")
def batch_over_ten_needs_window(site: Site) -> Any:
    """BatchSize above 10 needs a batching window of at least a second."""
    return site.refused(site.mapping, url=site.queue(), function=site.function(), BatchSize=11)


@probe(CONFIGURE, "InvalidParameterValueException", needs="lambda")
def visibility_below_timeout_refused(site: Site) -> Any:
    """A queue whose visibility timeout is shorter than the function's Timeout is refused."""
    url, name = site.queue(VisibilityTimeout=5), site.function(Timeout=10)
    return site.refused(site.mapping, url=url, function=name)


@probe(SQS, ["messageId", "receiptHandle", "1", "aws:sqs", True], needs="lambda", lesson=True)
def record_fields(site: Site) -> Any:
    """A record has messageId, receiptHandle, body, attributes (ApproximateReceiveCount, SentTimestamp and
    more), eventSource and eventSourceARN."""
    url, log = site.queue(VisibilityTimeout=120), site.queue()
    site.send(url, [{"do": "return", "log": log}])
    site.mapping(url, site.function())
    facts = site.one(log)
    record = facts["records"][0]
    found = [key for key in ("messageId", "receiptHandle") if record.get(key)]
    ours = record["eventSourceARN"] == site.queue_arn(url) and "SentTimestamp" in record["attributes"]
    return [*found, record["attributes"]["ApproximateReceiveCount"], record["eventSource"], ours]


def redelivered(site: Site, orders: list[dict[str, Any]], **settings: Any) -> Any:
    """[receive counts of the deliveries, messages in the dead-letter queue after two receives]."""
    log = site.queue()
    url, dead = site.with_dead_letters(2, VisibilityTimeout=VISIBLE)
    site.send(url, [order | {"log": log, "item": n} for n, order in enumerate(orders)])
    site.mapping(url, site.function(Timeout=VISIBLE), BatchSize=10, **settings)
    lost = len(site.take(dead, 1, seconds=VISIBLE * 2 + 30))
    records = [r for facts in site.take(log, 0, seconds=2) for r in facts["records"]]
    return [sorted(int(r["attributes"]["ApproximateReceiveCount"]) for r in records), lost]


@probe(ERRORS, [[1, 2], 1], needs="lambda", lesson=True)
def handler_error_to_dead_letters(site: Site) -> Any:
    """When a handler fails its messages come back after the visibility timeout, and go to the dead-letter
    queue after maxReceiveCount receives."""
    return redelivered(site, [{"do": "fail"}])


@probe(ERRORS, [[1, 2], 1], needs="lambda", lesson=True)
def timeout_redelivers(site: Site) -> Any:
    """When a function times out its messages come back, too."""
    return redelivered(site, [{"do": "return", "seconds": 30}])


@probe(ERRORS, [[1, 1, 1, 2], 1], needs="lambda", lesson=True)
def item_failures_reported(site: Site) -> Any:
    """ReportBatchItemFailures: only the messages that the handler names come back."""
    orders = [{"do": "report"}, {"do": "report", "bad": True}, {"do": "report"}]
    kinds = ["ReportBatchItemFailures"]
    window = {"MaximumBatchingWindowInSeconds": 1}
    return redelivered(site, orders, FunctionResponseTypes=kinds, **window)


@probe(ERRORS, [[1, 2], 1], needs="lambda")
def empty_identifier_fails_batch(site: Site) -> Any:
    """ReportBatchItemFailures with an empty identifier fails the whole batch."""
    orders = [{"do": "report", "bad": True, "identifier": ""}]
    kinds = ["ReportBatchItemFailures"]
    return redelivered(site, orders, FunctionResponseTypes=kinds)


@probe(SCALING, [True, True], needs="lambda", lesson=True)
def reserved_below_maximum_throttles(site: Site) -> Any:
    """Reserved concurrency below MaximumConcurrency: the mapping reads more than may run, invocations are
    throttled, and messages can reach the dead-letter queue without a handler's having failed."""
    log = site.queue()
    url, dead = site.with_dead_letters(1, VisibilityTimeout=VISIBLE)
    site.send(url, [{"do": "return", "log": log, "seconds": 3, "item": n} for n in range(30)])
    name = site.function(reserved=2, Timeout=VISIBLE)
    site.mapping(url, name, ScalingConfig={"MaximumConcurrency": 10})
    lost = site.take(dead, 1, seconds=COLD, quiet=2)
    handled = site.take(log, 0, seconds=2)
    return [len(lost) > 0, len(handled) > 0]


@probe(SCALING, [3, 0], needs="lambda")
def fifo_group_at_a_time(site: Site) -> Any:
    """FIFO: as many invocations at once as there are active message groups, one for each group."""
    log, gate = site.queue(), site.queue()
    url = site.queue(fifo=True, VisibilityTimeout=600, ContentBasedDeduplication="true")
    for n in range(6):
        order = json.dumps({"do": "wait", "log": log, "gate": gate, "item": n})
        site.sqs.send_message(QueueUrl=url, MessageGroupId=f"g{n % 3}", MessageBody=order)
    site.mapping(url, site.function(Timeout=100))
    at_once = len(site.take(log, 3, seconds=COLD))
    more = len(site.take(log, 0, seconds=2))
    open_gate(site, gate, 6)
    return [at_once, more]
