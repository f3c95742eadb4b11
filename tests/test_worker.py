"""Laws of the functions: the worker behind the queue, the direct lane's task, the summary.

The clients are boto3's own, stopped right before the network: what the functions send is checked
against AWS's service models, and what comes back is what each test says.
"""

import importlib.util
import io
import json
import re
import threading
import time
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.response import StreamingBody

from helpers.stack import INFRA

CONTEXT = SimpleNamespace(log_stream_name="stream-1")
QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/000000000000/tasks"
SENT = 1_700_000_000.5
PATIENCE_SECONDS = 120


class Wire:
    """boto3 clients without a network: `sent` records the calls, `answers` holds what they get, by name."""

    def __init__(self):
        self.sent = []
        self.answers = {"GetQueueUrl": {"QueueUrl": QUEUE_URL}}
        self.happened = threading.Condition()

    def client(self, service, config=None):
        client = boto3.client(service, "us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
        client.meta.events.register("provide-client-params", self._record)
        client.meta.events.register("before-call", self._answer)
        return client

    def _record(self, params, model, **_):
        with self.happened:
            self.sent.append((model.name, dict(params)))
            self.happened.notify_all()

    def _answer(self, model, **_):
        answer = self.answers.get(model.name, {})
        if callable(answer):
            answer = answer(self.of(model.name)[-1])
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(status_code=400 if "Error" in answer else 200), answer

    def of(self, name):
        """The parameters of the calls of this name so far."""
        return [params for called, params in self.sent if called == name]

    def wait_for(self, calls, name):
        with self.happened:
            assert self.happened.wait_for(lambda: len(self.of(name)) >= calls, PATIENCE_SECONDS)


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def load(wire, monkeypatch):
    """Load a function's file as Lambda does, with clients on the wire."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("REDELIVERY_SECONDS", raising=False)

    def load(workflow, name):
        path = INFRA / workflow / "functions" / name / "index.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for attribute, service in (("step_functions", "stepfunctions"), ("sqs", "sqs")):
            if hasattr(module, attribute):
                monkeypatch.setattr(module, attribute, wire.client(service))
        return module

    return load


@pytest.fixture
def worker(load):
    return load("sqs_limited", "worker")


def record(item=0, token="token", attempt=1, message=None, **settings):
    """A message as the event source mapping hands it over."""
    body = {"item": {"item": item, "task_seconds": 0, **settings}}
    if token is not None:
        body |= {"token": f"{token}-{item}"}
    return {
        "messageId": f"message-{item}",
        "receiptHandle": f"receipt-{item}",
        "body": json.dumps(body | (message or {})),
        "attributes": {"ApproximateReceiveCount": str(attempt), "SentTimestamp": str(int(SENT * 1000))},
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:tasks",
    }


def refusal(code):
    return {"Error": {"Code": code, "Message": "no"}}


def failed(answer):
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def attempts(text):
    """The attempts that were logged: what started, what ended."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [[line[kind] for line in lines if kind in line] for kind in ("attempt_started", "attempt_ended")]


# The worker


def test_a_success_is_answered_once_with_its_times(worker, wire, capsys):
    """One message, one SendTaskSuccess: who did it, when it was enqueued, when service began and ended."""
    before = time.time()
    answer = worker.handler({"Records": [record(7, attempt=2)]}, CONTEXT)
    after = time.time()
    assert failed(answer) == []
    ((name, sent),) = wire.sent
    assert (name, sent["taskToken"]) == ("SendTaskSuccess", "token-7")
    output = json.loads(sent["output"])
    assert before <= output["service_start"] <= output["service_end"] <= after
    expected = {"item": 7, "attempt": 2, "worker": "stream-1", "enqueued": SENT}
    assert expected == {key: output[key] for key in expected}
    (started,), (ended,) = attempts(capsys.readouterr().out)
    assert started == expected | {"start": output["service_start"]}
    assert {k: v for k, v in expected.items() if k != "enqueued"} | {
        "end": output["service_end"],
        "outcome": "succeeded",
    } == ended


def test_a_bad_item_is_told_and_not_delivered_again(worker, wire, capsys):
    """What can never succeed ends its task by name, and its message is deleted."""
    assert failed(worker.handler({"Records": [record(bad=True)]}, CONTEXT)) == []
    ((name, sent),) = wire.sent
    assert (name, sent["taskToken"], sent["error"]) == ("SendTaskFailure", "token-0", "BadItem")
    assert "item 0" in sent["cause"]
    assert [attempt["outcome"] for attempt in attempts(capsys.readouterr().out)[1]] == ["failed"]


def test_a_passing_failure_is_delivered_again_soon(worker, wire, monkeypatch, capsys):
    """The message comes back after REDELIVERY_SECONDS, nobody is answered, until an attempt succeeds."""
    monkeypatch.setattr(worker, "REDELIVERY_SECONDS", 3)
    assert failed(worker.handler({"Records": [record(failures=1, attempt=1)]}, CONTEXT)) == ["message-0"]
    assert wire.sent == [
        ("GetQueueUrl", {"QueueName": "tasks", "QueueOwnerAWSAccountId": "000000000000"}),
        (
            "ChangeMessageVisibility",
            {"QueueUrl": QUEUE_URL, "ReceiptHandle": "receipt-0", "VisibilityTimeout": 3},
        ),
    ]
    assert failed(worker.handler({"Records": [record(failures=1, attempt=2)]}, CONTEXT)) == []
    assert len(wire.of("SendTaskSuccess")) == 1
    outcomes = [attempt["outcome"] for attempt in attempts(capsys.readouterr().out)[1]]
    assert outcomes == ["failed", "succeeded"]


@pytest.mark.parametrize("seconds", [None, "0", "7"])
def test_the_redelivery_is_set_by_the_template(load, monkeypatch, seconds):
    """REDELIVERY_SECONDS is read from the environment, 1 where there is none."""
    if seconds is not None:
        monkeypatch.setenv("REDELIVERY_SECONDS", seconds)
    assert int(seconds or 1) == load("sqs_limited", "worker").REDELIVERY_SECONDS


@pytest.mark.parametrize("code", ["InvalidToken", "TaskDoesNotExist", "TaskTimedOut"])
@pytest.mark.parametrize("bad", [False, True])
def test_an_answer_that_nobody_waits_for_is_late_not_failed(worker, wire, capsys, code, bad):
    """A task that has ended already is no reason to do the work once more: the message is deleted."""
    wire.answers |= {"SendTaskSuccess": refusal(code), "SendTaskFailure": refusal(code)}
    assert failed(worker.handler({"Records": [record(bad=bad)]}, CONTEXT)) == []
    assert len(wire.sent) == 1
    assert [attempt["outcome"] for attempt in attempts(capsys.readouterr().out)[1]] == ["late"]


@pytest.mark.parametrize(
    "trouble",
    [refusal("ThrottlingException"), refusal("InternalFailure"), EndpointConnectionError(endpoint_url="x")],
)
@pytest.mark.parametrize("bad", [False, True])
def test_an_answer_that_did_not_get_through_is_delivered_again(worker, wire, capsys, trouble, bad):
    """Throttled or cut off, the waiting task has not heard: the message must come again."""
    wire.answers |= {"SendTaskSuccess": trouble, "SendTaskFailure": trouble}
    assert failed(worker.handler({"Records": [record(bad=bad)]}, CONTEXT)) == ["message-0"]
    assert len(wire.of("ChangeMessageVisibility")) == 1
    assert [attempt["outcome"] for attempt in attempts(capsys.readouterr().out)[1]] == ["failed"]


def test_a_message_that_cannot_be_hidden_is_delivered_again_all_the_same(worker, wire):
    """If ChangeMessageVisibility is refused, the visibility timeout brings the message back."""
    wire.answers["ChangeMessageVisibility"] = refusal("ReceiptHandleIsInvalid")
    assert failed(worker.handler({"Records": [record(failures=1)]}, CONTEXT)) == ["message-0"]


def test_a_mixed_batch_returns_exactly_the_failed_ones(worker, wire):
    """Each message of a batch has its own fate, in any order."""

    def throttle_item_4(params):
        return refusal("ThrottlingException") if params["taskToken"] == "token-4" else {}

    wire.answers["SendTaskSuccess"] = throttle_item_4
    batch = [
        record(0),
        record(1, failures=1),
        record(2, bad=True),
        record(3, token=None),
        record(4),
        record(5, failures=1, attempt=2),
        record(6, failures=2, attempt=2),
    ]
    answer = worker.handler({"Records": batch}, CONTEXT)
    assert failed(answer) == ["message-1", "message-4", "message-6"]
    assert answer.keys() == {"batchItemFailures"}
    assert [p["taskToken"] for p in wire.of("SendTaskSuccess")] == ["token-0", "token-4", "token-5"]
    assert [p["taskToken"] for p in wire.of("SendTaskFailure")] == ["token-2"]
    hidden = [p["ReceiptHandle"] for p in wire.of("ChangeMessageVisibility")]
    assert hidden == ["receipt-1", "receipt-4", "receipt-6"]


@pytest.mark.parametrize("settings", [{}, {"bad": True}])
def test_work_that_nobody_waits_for_is_done_and_not_answered(worker, wire, monkeypatch, settings):
    """Without a token there is no answer, nothing that beats, and the message is deleted."""
    do, during, before = worker.do, [], set(threading.enumerate())

    def watched(item, attempt):
        during.append(set(threading.enumerate()))
        do(item, attempt)

    monkeypatch.setattr(worker, "do", watched)
    message = record(token=None, message={"heartbeat_seconds": 60}, **settings)
    assert failed(worker.handler({"Records": [message]}, CONTEXT)) == []
    assert wire.sent == []
    assert [threads - before for threads in during] == [set()]


def test_heartbeats_last_as_long_as_the_task(worker, wire, monkeypatch):
    """A long task is heard of all along, and once it has ended nothing beats on."""
    monkeypatch.setattr(worker, "do", lambda item, attempt: wire.wait_for(3, "SendTaskHeartbeat"))
    before = set(threading.enumerate())
    message = record(message={"heartbeat_seconds": 0.03})
    assert failed(worker.handler({"Records": [message]}, CONTEXT)) == []
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert {"token-0"} == {params["taskToken"] for params in wire.of("SendTaskHeartbeat")}
    assert len(wire.of("SendTaskSuccess")) == 1


@pytest.mark.parametrize("error", ["BadItem", "Transient", "RuntimeError"])
def test_heartbeats_stop_when_a_task_fails(worker, wire, monkeypatch, error):
    """However a task ends, it is silent afterwards."""

    def fail(item, attempt):
        wire.wait_for(1, "SendTaskHeartbeat")
        raise {"RuntimeError": RuntimeError}.get(error) or getattr(worker, error)("no")

    monkeypatch.setattr(worker, "do", fail)
    before = set(threading.enumerate())
    worker.handler({"Records": [record(message={"heartbeat_seconds": 0.03})]}, CONTEXT)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def test_a_heartbeat_that_is_refused_for_good_is_the_last(worker, wire, monkeypatch):
    """When the task has ended already there is nobody to beat for; a throttled beat is tried again."""
    codes = iter(["ThrottlingException", "TaskTimedOut"])
    wire.answers["SendTaskHeartbeat"] = lambda params: refusal(next(codes))
    before = set(threading.enumerate())

    def outlast_the_heartbeats(item, attempt):
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    monkeypatch.setattr(worker, "do", outlast_the_heartbeats)
    assert failed(worker.handler({"Records": [record(message={"heartbeat_seconds": 0.03})]}, CONTEXT)) == []
    assert len(wire.of("SendTaskHeartbeat")) == 2


def test_a_heartbeat_that_is_cut_off_is_tried_again(worker, wire, monkeypatch):
    """A lost connection silences one heartbeat, not the task."""
    wire.answers["SendTaskHeartbeat"] = EndpointConnectionError(endpoint_url="nowhere")
    monkeypatch.setattr(worker, "do", lambda item, attempt: wire.wait_for(2, "SendTaskHeartbeat"))
    assert failed(worker.handler({"Records": [record(message={"heartbeat_seconds": 0.03})]}, CONTEXT)) == []


def test_the_whole_batch_is_heard_of(worker, wire, monkeypatch):
    """Messages further back in a batch send heartbeats while the first is served; served ones do not."""
    heard = []

    def do(item, attempt):
        before = len(wire.of("SendTaskHeartbeat"))
        wire.wait_for(before + 4, "SendTaskHeartbeat")
        heard.append({params["taskToken"] for params in wire.of("SendTaskHeartbeat")[before + 1 :]})

    monkeypatch.setattr(worker, "do", do)
    batch = [record(number, message={"heartbeat_seconds": 0.03}) for number in range(2)]
    assert failed(worker.handler({"Records": batch}, CONTEXT)) == []
    assert heard == [{"token-0", "token-1"}, {"token-1"}]


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"item": 3}'])
def test_a_message_that_is_no_task_fails_alone(worker, wire, body):
    """It is delivered again, and in the end to the dead-letter queue; its batch is done."""
    batch = [record(0), record(1) | {"body": body}, record(2)]
    assert failed(worker.handler({"Records": batch}, CONTEXT)) == ["message-1"]
    assert [params["taskToken"] for params in wire.of("SendTaskSuccess")] == ["token-0", "token-2"]


def test_a_message_that_cannot_be_hidden_for_want_of_a_connection_fails_alone(worker, wire):
    """The visibility timeout brings it back; the rest of its batch is done."""
    wire.answers["ChangeMessageVisibility"] = EndpointConnectionError(endpoint_url="nowhere")
    batch = [record(0), record(1, failures=1)]
    assert failed(worker.handler({"Records": batch}, CONTEXT)) == ["message-1"]


# The dead letters


@pytest.fixture
def dead_letters(load):
    return load("task_token", "dead_letters")


def letters(text):
    return [json.loads(line)["dead_letter"] for line in text.splitlines()]


def test_a_dead_letter_fails_its_task_by_name(dead_letters, wire, capsys):
    """The waiting state gets the error DeadLettered, with the item and its receives; the log has no token."""
    assert failed(dead_letters.handler({"Records": [record(7, attempt=6)]}, CONTEXT)) == []
    ((name, sent),) = wire.sent
    assert (name, sent["taskToken"], sent["error"]) == ("SendTaskFailure", "token-7", "DeadLettered")
    assert re.search(r"item 7\b.* 6 times", sent["cause"])
    text = capsys.readouterr().out
    item = {"item": 7, "task_seconds": 0}
    assert [{"item": item, "received": 6, "outcome": "told"}] == letters(text)
    assert "token" not in text


@pytest.mark.parametrize("code", ["InvalidToken", "TaskDoesNotExist", "TaskTimedOut"])
def test_a_dead_letter_that_nobody_waits_for_is_done(dead_letters, wire, capsys, code):
    """A state that has ended already needs no news: the letter is deleted, and logged all the same."""
    wire.answers["SendTaskFailure"] = refusal(code)
    assert failed(dead_letters.handler({"Records": [record()]}, CONTEXT)) == []
    assert [letter["outcome"] for letter in letters(capsys.readouterr().out)] == ["already_answered"]


@pytest.mark.parametrize(
    "trouble",
    [refusal("ThrottlingException"), refusal("AccessDenied"), EndpointConnectionError(endpoint_url="x")],
)
def test_a_dead_letter_that_could_not_be_told_stays(dead_letters, wire, trouble):
    """Throttled, refused or cut off, the state has not heard: its letter comes again, the others are done."""

    def refuse_item_1(params):
        return trouble if params["taskToken"] == "token-1" else {}

    wire.answers["SendTaskFailure"] = refuse_item_1
    batch = [record(number) for number in range(3)]
    assert failed(dead_letters.handler({"Records": batch}, CONTEXT)) == ["message-1"]
    assert [p["taskToken"] for p in wire.of("SendTaskFailure")] == ["token-0", "token-1", "token-2"]


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"item": {"item": 3}}', '{"token": "t"}'])
def test_a_dead_letter_that_is_no_task_stays_alone(dead_letters, wire, body):
    """Nobody can be told of it, so it is left to whoever looks into the queue; its batch is done."""
    batch = [record(0), record(1) | {"body": body}, record(2)]
    assert failed(dead_letters.handler({"Records": batch}, CONTEXT)) == ["message-1"]
    assert [params["taskToken"] for params in wire.of("SendTaskFailure")] == ["token-0", "token-2"]


# The direct lane's task


@pytest.fixture
def process(load):
    return load("distributed_map", "process")


def test_the_direct_task_returns_when_and_where_it_ran(process, capsys):
    """The answer has the same times as the worker's, under the same names, and as the log."""
    event = {"item": {"item": 3, "task_seconds": 0.001}, "attempt": 1}
    before = time.time()
    answer = process.handler(event, CONTEXT)
    assert before <= answer["service_start"] < answer["service_end"] <= time.time()
    expected = {"item": 3, "attempt": 1, "worker": "stream-1"}
    assert expected == {key: answer[key] for key in expected}
    (started,), (ended,) = attempts(capsys.readouterr().out)
    assert started == expected | {"start": answer["service_start"]}
    assert ended == expected | {"end": answer["service_end"], "outcome": "succeeded"}


def test_the_direct_task_fails_by_name(process, capsys):
    """A bad item fails at every attempt, a passing failure only as often as the item says."""
    for attempt in (1, 9):
        with pytest.raises(process.BadItem, match="item 4"):
            process.handler(
                {"item": {"item": 4, "task_seconds": 0, "bad": True}, "attempt": attempt}, CONTEXT
            )
    item = {"item": 5, "task_seconds": 0, "failures": 2}
    for attempt in (1, 2):
        with pytest.raises(process.Transient, match="item 5"):
            process.handler({"item": item, "attempt": attempt}, CONTEXT)
    assert process.handler({"item": item, "attempt": 3}, CONTEXT)["attempt"] == 3
    outcomes = [attempt["outcome"] for attempt in attempts(capsys.readouterr().out)[1]]
    assert outcomes == ["failed"] * 4 + ["succeeded"]


def test_a_batch_is_done_in_order_and_fails_as_a_whole(process, capsys):
    """A batch has an answer for each item, one after another; one that fails leaves the rest undone."""
    batch = [{"item": n, "task_seconds": 0.001} for n in range(3)]
    answers = process.handler({"items": batch, "attempt": 2}, CONTEXT)
    assert [(answer["item"], answer["attempt"]) for answer in answers] == [(0, 2), (1, 2), (2, 2)]
    times = [answer[time] for answer in answers for time in ("service_start", "service_end")]
    assert times == sorted(times)
    capsys.readouterr()
    batch[1]["failures"] = 2
    with pytest.raises(process.Transient, match="item 1"):
        process.handler({"items": batch, "attempt": 2}, CONTEXT)
    started, ended = attempts(capsys.readouterr().out)
    assert [attempt["item"] for attempt in started] == [0, 1]
    assert [attempt["outcome"] for attempt in ended] == ["succeeded", "failed"]


def test_an_item_may_end_its_worker(process, worker, wire, capsys):
    """The first `deaths` attempts are begun and never ended, in either lane; no answer is sent."""
    item = {"item": 1, "task_seconds": 0, "deaths": 1}
    with pytest.raises(SystemExit):
        process.handler({"item": item, "attempt": 1}, CONTEXT)
    with pytest.raises(SystemExit):
        worker.do(item, 1)
    started, ended = attempts(capsys.readouterr().out)
    assert (len(started), len(ended)) == (1, 0)
    assert process.handler({"item": item, "attempt": 2}, CONTEXT)["attempt"] == 2
    assert worker.do(item, 2) is None


@pytest.mark.parametrize(
    ("workflow", "name", "calls"),
    [
        ("sqs_limited", "worker", [("SendTaskHeartbeat", {"taskToken": "warm"})]),
        ("distributed_map", "process", []),
    ],
)
def test_a_warming_call_only_names_the_worker(load, wire, capsys, workflow, name, calls):
    """It answers with its environment's name, does no task, and logs no attempt.

    A worker also opens the connection on which it will answer; that its call is refused does not matter."""
    wire.answers["SendTaskHeartbeat"] = {"Error": {"Code": "InvalidToken", "Message": ""}}
    assert load(workflow, name).handler({"warm_seconds": 0}, CONTEXT) == {"worker": "stream-1"}
    assert wire.sent == calls
    assert attempts(capsys.readouterr().out) == [[], []]


# The summary

RESULTS = [
    {"item": 0, "lane": "direct", "answer": {}},
    {"item": 1, "lane": "limited", "answer": {}},
    {"item": 2, "lane": "limited", "error": {"Error": "BadItem"}},
    {"item": 3, "lane": "limited", "answer": {}},
]
SUMMARY = {
    "items": 4,
    "failed_percentage": 25,
    "lanes": {"direct": {"succeeded": 1}, "limited": {"failed": 1, "succeeded": 2}},
}


def test_the_summary_counts_results_that_came_inline(load):
    """Each result counts once, in its lane; none at all are no failure."""
    handler = load("combined", "summarise").handler
    assert handler({"results": RESULTS}, None) == SUMMARY
    nothing = {"items": 0, "failed_percentage": 0, "lanes": {"direct": {}, "limited": {}}}
    assert handler({"results": []}, None) == nothing


def test_the_summary_reads_results_that_were_written(load, wire, monkeypatch):
    """With a ResultWriter the same results lie in S3, in several files behind a manifest."""
    files = {
        "results/run/manifest.json": {
            "ResultFiles": {"FAILED": [], "SUCCEEDED": [{"Key": "results/run/0"}, {"Key": "results/run/1"}]}
        },
        "results/run/0": [{"Output": json.dumps(result)} for result in RESULTS[:3]],
        "results/run/1": [{"Output": json.dumps(result)} for result in RESULTS[3:]],
    }

    def stored(params):
        assert params["Bucket"] == "bucket"
        data = json.dumps(files[params["Key"]]).encode()
        return {"Body": StreamingBody(io.BytesIO(data), len(data))}

    wire.answers["GetObject"] = stored
    module = load("combined", "summarise")
    monkeypatch.setattr(module, "boto3", SimpleNamespace(client=wire.client))
    details = {"Bucket": "bucket", "Key": "results/run/manifest.json"}
    assert module.handler({"results": {"MapRunArn": "x", "ResultWriterDetails": details}}, None) == SUMMARY
