"""Queues."""

import json
import time
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import Site

GUIDE = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide"
API = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference"
VISIBILITY = f"{GUIDE}/sqs-visibility-timeout.html"
POLLING = f"{GUIDE}/sqs-short-and-long-polling.html"
MESSAGES = f"{GUIDE}/quotas-messages.html"
DEAD = f"{GUIDE}/sqs-dead-letter-queues.html"


def count(messages: list[dict[str, Any]]) -> list[str]:
    """How often each message has been received."""
    return [message["Attributes"]["ApproximateReceiveCount"] for message in messages]


@probe(VISIBILITY, [["1"], ["2"], True], lesson=True)
def visibility_timeout(site: Site) -> Any:
    """A received message is hidden for the visibility timeout, then delivered again, its
    ApproximateReceiveCount one more."""
    url = site.queue(VisibilityTimeout=2)
    site.send(url, ["m"])
    start = time.monotonic()
    seen = [count(site.receive(url, wait=20)) for _ in range(2)]
    return [*seen, time.monotonic() - start >= 1.9]


@probe(VISIBILITY, [["1"], ["2"]], lesson=True)
def visibility_set_to_zero(site: Site) -> Any:
    """ChangeMessageVisibility 0 returns a message at once."""
    url = site.queue(VisibilityTimeout=600)
    site.send(url, ["m"])
    (message,) = site.receive(url, wait=5)
    handle = message["ReceiptHandle"]
    site.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    return [count([message]), count(site.receive(url, wait=10))]


@probe(VISIBILITY, [], lesson=True)
def visibility_extended(site: Site) -> Any:
    """ChangeMessageVisibility hides a message for so long from now on."""
    url = site.queue(VisibilityTimeout=1)
    site.send(url, ["m"])
    handle = site.receive(url, wait=5)[0]["ReceiptHandle"]
    site.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=600)
    return count(site.receive(url, wait=3))


@probe(f"{GUIDE}/sqs-delay-queues.html", [["1"], True])
def delay(site: Site) -> Any:
    """DelaySeconds hides a new message for so long."""
    url, start = site.queue(), time.monotonic()
    site.sqs.send_message(QueueUrl=url, MessageBody="m", DelaySeconds=2)
    return [count(site.receive(url, wait=20)), time.monotonic() - start >= 1.9]


@probe(POLLING, True, lesson=True)
def long_poll_waits(site: Site) -> Any:
    """A long poll of an empty queue waits for WaitTimeSeconds."""
    url, start = site.queue(), time.monotonic()
    return site.receive(url, wait=2) == [] and time.monotonic() - start > 1.9


@probe(POLLING, ["1"], lesson=True)
def long_poll_ends_with_message(site: Site) -> Any:
    """A long poll ends as soon as a message is there."""
    url, start = site.queue(), time.monotonic()
    site.sqs.send_message(QueueUrl=url, MessageBody="m", DelaySeconds=2)
    found = count(site.receive(url, wait=20))
    return found if time.monotonic() - start < 18 else "waited for the whole of WaitTimeSeconds"


@probe(MESSAGES, [10, "TooManyEntriesInBatchRequest"], lesson=True)
def batch_of_ten(site: Site) -> Any:
    """SendMessageBatch takes ten messages; eleven are refused."""
    url, entries = site.queue(), [{"Id": str(n), "MessageBody": "m"} for n in range(11)]
    sent = site.sqs.send_message_batch(QueueUrl=url, Entries=entries[:10])
    return [len(sent["Successful"]), site.refused(site.sqs.send_message_batch, QueueUrl=url, Entries=entries)]


@probe(MESSAGES, ["accepted", "refused"])
def message_of_1_mib(site: Site) -> Any:
    """A message is at most 1 MiB."""
    url, seen = site.queue(), []
    for size in (1_048_576, 1_048_577):
        code = site.refused(site.sqs.send_message, QueueUrl=url, MessageBody="m" * size)
        seen.append("accepted" if code == "accepted" else "refused")
    return seen


@probe(f"{API}/API_GetQueueAttributes.html", ["3", "2", "1"], lesson=True)
def approximate_counts(site: Site) -> Any:
    """ApproximateNumberOfMessages counts visible messages, NotVisible received, Delayed delayed ones."""
    url = site.queue(VisibilityTimeout=600)
    site.send(url, ["m"] * 5)
    site.sqs.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=600)
    got = 0
    while got < 2:
        got += len(site.receive(url, wait=5))
    name = "ApproximateNumberOfMessages"
    return [site.attribute(url, name + kind) for kind in ("", "NotVisible", "Delayed")]


@probe(DEAD, [["1"], ["2"], [], 1], lesson=True)
def dead_letters(site: Site) -> Any:
    """After maxReceiveCount receives a message moves to the dead-letter queue."""
    url, dead = site.with_dead_letters(2, VisibilityTimeout=1)
    site.send(url, ["1"])
    seen: list[Any] = [count(site.receive(url, wait=10)) for _ in range(2)]
    seen.append(count(site.receive(url, wait=4)))
    return [*seen, len(site.take(dead, 1, quiet=0))]


@probe(f"{GUIDE}/sqs-configure-dead-letter-queue-redrive.html", 1)
def dead_letters_moved_back(site: Site) -> Any:
    """StartMessageMoveTask moves the messages of a dead-letter queue back to their source."""
    url, dead = site.with_dead_letters(1, VisibilityTimeout=1)
    site.send(url, ["1"])
    site.receive(url, wait=5)
    site.receive(url, wait=3)
    site.until(lambda: site.attribute(dead, "ApproximateNumberOfMessages") == "1")
    site.sqs.start_message_move_task(SourceArn=site.queue_arn(dead))
    return len(site.take(url, 1, quiet=0))


@probe(f"{GUIDE}/FIFO-queues-understanding-logic.html", [["a1"], ["b1"], [], ["a2"]])
def fifo_group_in_order(site: Site) -> Any:
    """FIFO: while a message of a group is in flight the rest of the group waits; other groups go on."""
    url = site.queue(fifo=True, VisibilityTimeout=600)
    for body in ("a1", "a2", "b1"):
        site.sqs.send_message(
            QueueUrl=url, MessageBody=json.dumps(body), MessageGroupId=body[0], MessageDeduplicationId=body
        )
    seen, handles = [], []
    for _ in range(3):
        found = site.receive(url, wait=2)
        seen.append([json.loads(message["Body"]) for message in found])
        handles += [message["ReceiptHandle"] for message in found]
    site.sqs.delete_message(QueueUrl=url, ReceiptHandle=handles[0])
    return [*seen, [json.loads(message["Body"]) for message in site.receive(url, wait=5)]]


@probe(f"{GUIDE}/FIFO-queues-exactly-once-processing.html", 1)
def fifo_deduplication(site: Site) -> Any:
    """FIFO: a MessageDeduplicationId sent again within five minutes is accepted and not delivered again."""
    url = site.queue(fifo=True)
    for _ in range(2):
        site.sqs.send_message(QueueUrl=url, MessageBody="1", MessageGroupId="g", MessageDeduplicationId="d")
    return len(site.take(url, 1))
