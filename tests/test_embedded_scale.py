"""What makes the embedded engine light and quick changes nothing of what it does."""

import copy
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from machines import ended, machine, queue
from ministack.services import sqs
from test_embedded_functions import alive, function

from helpers.drills import until
from helpers.engines import embedded

sys.path.append(embedded.Server.program)  # whose modules are found where they lie

import scale

MAX_RECEIVES = 3
DEAD_LETTERS = "arn:aws:sqs:us-east-1:000000000000:dead"


def a_queue(messages: list[tuple[int, int, float]], fifo: bool = False) -> dict:
    """A queue as ministack keeps it; of each message how often it was received, its group, and when it is
    visible (epoch s)."""
    redrive = {"deadLetterTargetArn": DEAD_LETTERS, "maxReceiveCount": MAX_RECEIVES}
    return {
        "url": "http://localhost:4566/000000000000/test",
        "is_fifo": fifo,
        "attributes": {"RedrivePolicy": json.dumps(redrive), "QueueArn": "arn"},
        "messages": [
            {"id": n, "body": "", "sent_at": 0.0, "receive_count": count, "group_id": group, "visible_at": at}
            for n, (count, group, at) in enumerate(messages)
        ],
    }


NEVER = 1e12
MESSAGES = st.tuples(st.integers(0, MAX_RECEIVES), st.integers(1, 2), st.sampled_from([0.0, 0.0, 0.0, NEVER]))
QUEUES = st.lists(st.tuples(MESSAGES, st.integers(1, 15)), max_size=5).map(
    lambda runs: [message for message, length in runs for _ in range(length)]
)
"""Queues with many equal messages in a row."""


def drained(queue: dict, most: int, sweep: Callable, collect: Callable) -> list:
    """All that a consumer receives until there is nothing left, a message deleted as soon as received."""
    received = []
    while True:
        sweep(queue)
        found = collect(queue, most, 60)
        if not found:
            return received
        received.append([message["id"] for message in found])
        for message in found:
            queue["messages"].remove(message)


@given(QUEUES, st.integers(1, 10), st.booleans())
@example([(1, 1, NEVER)] + [(0, 1, 0.0)] * 12 + [(MAX_RECEIVES, 2, 0.0)], 1, True)
def test_the_front_of_a_queue_tells_what_the_whole_does(messages, most, fifo):
    """Whoever reads no further than to what is received next, receives the same in the same order, and the
    same messages go to the dead-letter queue."""
    whole, front = a_queue(messages, fifo), a_queue(messages, fifo)
    dead: dict[str, list] = {}
    with pytest.MonkeyPatch.context() as patch:

        def moved(name: str) -> Callable:
            letters = a_queue([])
            dead[name] = letters["messages"]
            patch.setattr(sqs, "_queue_by_arn", lambda _: letters)
            return sqs._dlq_sweep

        first = drained(whole, most, moved("whole"), sqs._collect_msgs)
        sweep, collect = (
            scale.sweep_what_is_next(moved("front")),
            scale.receive_from_the_front(sqs._collect_msgs),
        )
        assert first == drained(front, most, sweep, collect)
    assert [m["id"] for m in dead["whole"]] == [m["id"] for m in dead["front"]]


def test_deleting_loses_nothing_that_is_sent_meanwhile():
    """A message that is sent while others are deleted is in the queue afterwards."""
    queue_ = a_queue([(1, 1, NEVER)] * 3)
    for number, message in enumerate(queue_["messages"]):
        message["receipt_handle"] = str(number)
    queues = {queue_["url"]: queue_}

    def delete(data: dict, url: str) -> str:
        part = queues[url]
        kept = [m for m in part["messages"] if m["receipt_handle"] != data["ReceiptHandle"]]
        queue_["messages"].append({"id": "sent meanwhile", "receipt_handle": None})
        part["messages"] = kept
        return "deleted"

    module = SimpleNamespace(_queues=queues, _get_q=queues.__getitem__, new_uuid=sqs.new_uuid)
    data = {"QueueUrl": queue_["url"], "ReceiptHandle": "1"}
    assert scale.delete_in_place(module, delete)(data, "") == "deleted"
    assert [message["id"] for message in queue_["messages"]] == [0, 2, "sent meanwhile"]
    assert list(queues) == [queue_["url"]]


def test_deletes_are_answered_as_ever(engine):
    """A message is deleted by its handle, alone or in a batch, and a handle that is none is told."""
    client, url = engine.client("sqs"), queue(engine)
    for n in range(3):
        client.send_message(QueueUrl=url, MessageBody=str(n))
    received = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    first, second, third = (message["ReceiptHandle"] for message in received)
    client.delete_message(QueueUrl=url, ReceiptHandle=first)
    entries = [{"Id": "none", "ReceiptHandle": "none"}, {"Id": "second", "ReceiptHandle": second}]
    answer = client.delete_message_batch(QueueUrl=url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["second"]
    assert [entry["Id"] for entry in answer["Failed"]] == ["none"]
    with pytest.raises(client.exceptions.ReceiptHandleIsInvalid):
        client.delete_message(QueueUrl=url, ReceiptHandle=first)
    client.change_message_visibility(QueueUrl=url, ReceiptHandle=third, VisibilityTimeout=0)
    (left,) = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert left["Body"] == "2"


def test_iterations_do_not_see_what_others_write(engine):
    """Though the iterations of a Map share the execution's input, each changes its own data only."""
    write = {
        "Type": "Pass",
        "Parameters": {"all.$": "$$.Execution.Input", "own.$": "$$.Map.Item.Value"},
        "Next": "Into",
    }
    into = {"Type": "Pass", "InputPath": "$.own", "ResultPath": "$.all.known", "End": True}
    states = {
        "Map": {
            "Type": "Map",
            "ItemsPath": "$.items",
            "MaxConcurrency": 1,
            "ItemProcessor": {"StartAt": "Write", "States": {"Write": write, "Into": into}},
            "End": True,
        }
    }
    described = ended(engine, machine(engine, states, "Map"), {"items": [1, 2], "known": 0})
    expected = [{"all": {"items": [1, 2], "known": n}, "own": n} for n in (1, 2)]
    assert expected == json.loads(described["output"])


def test_copies_of_a_context_share_the_execution():
    """A copy of the context object has data of its own, but for what it tells of the execution."""
    context = scale.Context({"Execution": {"Input": [1]}, "State": {"Name": "a"}})
    copied = copy.deepcopy(context)
    assert context == copied
    assert copied["Execution"] is context["Execution"]
    assert copied["State"] is not context["State"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_copy_of_data_is_equal_and_its_own(data):
    """A copy of JSON data equals it and shares nothing that could be changed."""
    found = scale.copied({"data": data, "again": data})
    assert {"data": data, "again": data} == found
    assert not isinstance(data, list | dict) or found["data"] is not data


def test_a_task_ends_at_its_own_timeout(engine):
    """TimeoutSeconds ends a task whose function would run longer, and one whose function's timeout comes
    first fails by that."""
    code = "import time\ndef handler(event, context):\n    time.sleep(60)\n"
    ends = {}
    for seconds, timeout in ((1, 20), (60, 1)):
        task = {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": function(engine, code, Timeout=timeout)},
            "TimeoutSeconds": seconds,
            "End": True,
        }
        ends[seconds] = ended(engine, machine(engine, {"Task": task}, "Task"), {})["error"]
    assert ends == {1: "States.Timeout", 60: "Sandbox.Timedout"}


TELLS_WHERE_IT_RUNS = """
import os, sys
def handler(event, context):
    print("to standard output")
    os.environ["LEFT"] = "behind"
    return {"pid": os.getpid(), "environment": dict(os.environ), "cwd": os.getcwd(), "path": sys.path,
            "argv": sys.argv, "modules": list(sys.modules)}
"""


def told(engine, name: str) -> dict:
    answer = engine.client("lambda").invoke(FunctionName=name, Payload=b"{}")
    assert "FunctionError" not in answer
    return json.load(answer["Payload"])


def test_a_worker_is_as_if_python_had_been_started_for_it(engine):
    """A forked worker has its function's environment, folder and path, and nothing of the engine's or of
    other functions'."""
    one = function(engine, TELLS_WHERE_IT_RUNS, Environment={"Variables": {"ONE": "1"}})
    told(engine, one)
    other = told(engine, function(engine, TELLS_WHERE_IT_RUNS))
    assert other["pid"] != told(engine, one)["pid"]
    assert "ONE" not in other["environment"]
    assert other["cwd"].endswith("/code")
    assert other["path"][0] == other["cwd"]
    assert embedded.Server.program not in other["path"]
    assert not {"ministack", "callbacks", "functions"} & set(other["modules"])
    assert [Path(other["cwd"]).parent / "_worker.py"] == [Path(text) for text in other["argv"]]


def test_a_worker_that_dies_is_replaced(engine):
    """A handler that ends its process fails its invocation only, and so does one that runs into its timeout
    and will not end; a worker that was killed while it was idle is missed by nobody."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def handler(event, context):\n"
        "    if event == 'die':\n"
        "        os._exit(3)\n"
        "    time.sleep(event)\n"
        "    return os.getpid()\n"
    )
    name = function(engine, code, Timeout=1)
    client = engine.client("lambda")

    def call(event: object) -> tuple[str | None, Any]:
        answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
        return answer.get("FunctionError"), json.load(answer["Payload"])

    _, first = call(0)
    assert call("die")[0] == "Unhandled"
    _, second = call(0)
    assert call(90)[1]["errorMessage"] == "Task timed out after 1.00 seconds"
    until(lambda: not alive(second), "the end of the second worker")
    _, third = call(0)
    os.kill(third, signal.SIGKILL)
    until(lambda: not alive(third), "the end of the third worker")
    error, fourth = call(0)
    assert error is None
    assert len({first, second, third, fourth}) == 4
