"""The workflows in infra/ on the embedded engine: each does, end to end, what its README says."""

import contextlib
import json
import time
from datetime import datetime
from itertools import pairwise

import pytest
from botocore.exceptions import ClientError

from helpers import drills, live, metrics, stack
from helpers.drills import until
from helpers.live import depth
from tests.faults.trial import everything


def ended(deployed, arn):
    """The execution's description, once it has ended."""

    def look():
        execution = deployed.engine.client("stepfunctions").describe_execution(executionArn=arn)
        return execution if execution["status"] != "RUNNING" else None

    return until(look, "the end of the execution")


def results(deployed, data, machine):
    """The results of an execution with this input, which must succeed, in item order."""
    execution = ended(deployed, deployed.start(data, machine))
    assert execution["status"] == "SUCCEEDED", execution.get("cause")
    return live.results(deployed, execution)


def log(deployed, group):
    """The lines of a function's log."""
    return list(live.log_lines(deployed, deployed.outputs[group], 0))


def logged(deployed, group):
    """Attempts in a function's log: those that started, those that ended."""
    lines = [json.loads(text) for text in log(deployed, group) if text.startswith('{"attempt_')]
    return [[line[kind] for line in lines if kind in line] for kind in ("attempt_started", "attempt_ended")]


def peak(starts, ends):
    return metrics.steps(starts, ends)[1].max()


def items(number, task_seconds=0.05):
    common = {"lane": "direct", "task_seconds": task_seconds, "failures": 0}
    return [{"item": n, **common} for n in range(number)]


@contextlib.contextmanager
def deploy(engine, workflow, values=None):
    """A stack that, destroyed, has left nothing: no queue, function, bucket, role, log, state machine."""
    before = everything(engine)
    with stack.deploy(engine, workflow, values) as deployed:
        assert len(everything(engine) - before) > 5
        yield deployed
    assert everything(engine) == before


@pytest.mark.parametrize("workflow", ["sqs_limited", "task_token", "combined"])
@pytest.mark.parametrize("consumer", ["lambda", "fleet"])
def test_only_the_lambda_consumer_has_a_mapping(engine, workflow, consumer):
    """For a fleet the queue stays without one, so that the two never take each other's messages."""
    with deploy(engine, workflow, {"Consumer": consumer}) as deployed:
        found = engine.client("lambda").list_event_source_mappings(
            FunctionName=deployed.outputs["WorkerFunction"]
        )["EventSourceMappings"]
        assert len(found) == (consumer == "lambda")
        if "MappingId" in deployed.outputs:
            assert found[0]["UUID"] == deployed.outputs["MappingId"]


# sqs_limited


@pytest.fixture(scope="module")
def fired(engine):
    """Nine items sent to three workers: one fails once, one always. The stack, the execution."""
    values = {"MaximumConcurrency": 3, "MaxReceiveCount": 2, "RedeliverySeconds": 0}
    with deploy(engine, "sqs_limited", values) as deployed:
        work = items(9, task_seconds=0.4)
        work[0]["failures"] = 99
        work[1]["failures"] = 1
        execution = ended(deployed, deployed.start({"items": work}))
        until(
            lambda: depth(deployed, "QueueUrl") == 0 and len(logged(deployed, "WorkerLogGroup")[1]) == 11,
            "eleven ends",
        )
        yield deployed, execution


def test_fire_and_forget_ends_before_its_work(fired):
    """The execution counts its messages and is over while the workers are still at it: it cannot know."""
    deployed, execution = fired
    assert json.loads(execution["output"]) == {"messages": 9}
    _, ends = logged(deployed, "WorkerLogGroup")
    assert execution["stopDate"].timestamp() < max(attempt["end"] for attempt in ends)


def test_the_queue_drains_at_the_mappings_limit(fired):
    """Every item is done, by several workers at once and never more than MaximumConcurrency."""
    starts, ends = logged(fired[0], "WorkerLogGroup")
    done = [attempt["item"] for attempt in ends if attempt["outcome"] == "succeeded"]
    assert sorted(done) == list(range(1, 9))
    assert 1 < peak([a["start"] for a in starts], [a["end"] for a in ends]) <= 3


def test_what_always_fails_lands_in_the_dead_letter_queue(fired):
    """A failing message is delivered MaxReceiveCount times, then set aside; the others are not touched."""
    deployed, _ = fired
    _, ends = logged(deployed, "WorkerLogGroup")
    tries = {n: [a["attempt"] for a in ends if a["item"] == n] for n in (0, 1, 2)}
    assert tries == {0: [1, 2], 1: [1, 2], 2: [1]}
    (message,) = deployed.engine.client("sqs").receive_message(
        QueueUrl=deployed.outputs["DeadLetterQueueUrl"], MaxNumberOfMessages=10
    )["Messages"]
    assert json.loads(message["Body"])["item"]["item"] == 0


# distributed_map

MACHINES = ("InlineArn", "DistributedArn")
SOJOURN = ("arrival", "returned")


@pytest.fixture(scope="module")
def maps(engine):
    with deploy(engine, "distributed_map") as deployed:
        yield deployed


def test_inline_and_distributed_give_the_same_results(maps):
    """Both return every item in order, as combined returns its items; a passing failure is tried again."""
    work = items(6)
    work[2]["failures"] = 1
    expected = [(n, "direct", n, 2 if n == 2 else 1) for n in range(6)]
    for machine in MACHINES:
        back = results(maps, {"items": work}, machine)
        actual = [(r["item"], r["lane"], r["answer"]["item"], r["answer"]["attempt"]) for r in back]
        assert expected == actual
        for result in back:
            arrival, returned = (datetime.fromisoformat(result[key]).timestamp() for key in SOJOURN)
            answer = result["answer"]
            clock = maps.engine.clock_seconds
            assert arrival <= answer["service_start"] + clock
            assert answer["service_start"] <= answer["service_end"] <= returned + clock


def test_distributed_finds_items_that_lie_in_s3(maps):
    """Without items in its input, a run reads those that lie in the bucket under its own name."""
    maps.engine.client("s3").put_object(
        Bucket=maps.outputs["Bucket"], Key="items/from-s3.json", Body=json.dumps(items(3))
    )
    execution = ended(maps, maps.start({}, "DistributedArn", name="from-s3"))
    assert [result["item"] for result in live.results(maps, execution)] == [0, 1, 2]


@pytest.mark.parametrize("machine", MACHINES)
def test_an_execution_may_bring_its_own_concurrency(maps, machine):
    """max_concurrency in the input overrules the template's MaxConcurrency, without a deployment."""

    def at_once(given):
        back = results(maps, {"items": items(4, task_seconds=0.5), **given}, machine)
        moments = [[datetime.fromisoformat(r[key]).timestamp() for r in back] for key in SOJOURN]
        return peak(*moments)

    assert [at_once({"max_concurrency": limit}) for limit in (1, 2)] == [1, 2]
    assert at_once({}) == 4


def test_one_failed_item_against_the_tolerance(engine, maps):
    """Inline, one bad item fails the run; distributed, it does at a tolerance of 0 and does not at 100."""
    work = items(4)
    work[2]["bad"] = True
    with deploy(engine, "distributed_map", {"ToleratedFailurePercentage": 100}) as tolerant:
        runs = [(maps, "InlineArn"), (maps, "DistributedArn"), (tolerant, "DistributedArn")]
        arns = [deployed.start({"items": work}, machine) for deployed, machine in runs]
        inline, strict, passed = (ended(run[0], arn) for run, arn in zip(runs, arns, strict=True))
        back = live.results(tolerant, passed)
    assert [inline["status"], strict["status"], passed["status"]] == ["FAILED", "FAILED", "SUCCEEDED"]
    assert "item 2 is marked as bad" in inline["cause"]
    assert strict["error"] == "States.ExceedToleratedFailureThreshold"
    assert [result["item"] for result in back] == [0, 1, 3]


# task_token


def test_the_worker_answers_and_rejects(engine):
    """With the Lambda consumer a good item is answered with its times, a bad one rejected by name."""
    with deploy(engine, "task_token", {"MaximumConcurrency": 2}) as deployed:
        good = deployed.start({"item": {"item": 1, "task_seconds": 0.05}})
        bad = deployed.start({"item": {"item": 2, "task_seconds": 0.05, "bad": True}})
        answered, rejected = (json.loads(ended(deployed, arn)["output"]) for arn in (good, bad))
        until(lambda: depth(deployed, "QueueUrl") == 0, "an empty queue")
        assert depth(deployed, "DeadLetterQueueUrl") == 0
    assert (answered["outcome"], answered["item"]) == ("answered", 1)
    assert (rejected["outcome"], rejected["item"]) == ("rejected", 2)
    assert rejected["error"]["Error"] == "BadItem"
    moments = [
        datetime.fromisoformat(answered["arrival"]).timestamp(),
        answered["answer"]["enqueued"],
        answered["answer"]["service_start"],
        answered["answer"]["service_end"],
        datetime.fromisoformat(answered["returned"]).timestamp(),
    ]
    assert all(early <= late + engine.clock_seconds for early, late in pairwise(moments))


def test_a_dead_letter_is_told_by_name(engine):
    """With a consumer, a task whose message was given up ends as DeadLettered; the letter is logged and gone.

    The log has the item, to be sent anew, and not the token."""
    values = {"DeadLetterConsumer": "lambda", "MaxReceiveCount": 2, "RedeliverySeconds": 0}
    hopeless = {"item": 3, "task_seconds": 0, "failures": 99}
    with deploy(engine, "task_token", values) as deployed:
        told = json.loads(ended(deployed, deployed.start({"item": hopeless}))["output"])
        (line,) = until(
            lambda: [text for text in log(deployed, "DeadLettersLogGroup") if text.startswith("{")],
            "a line of the dead letters' consumer",
        )
        until(lambda: depth(deployed, "DeadLetterQueueUrl") == 0, "no dead letter")
    assert (told["outcome"], told["item"], told["error"]["Error"]) == ("dead_lettered", 3, "DeadLettered")
    assert "item 3" in told["error"]["Cause"]
    expected = {"dead_letter": {"item": hopeless, "received": 3, "outcome": "told"}}
    assert expected == json.loads(line)


def test_a_dead_letter_lies_where_nobody_takes_it(engine):
    """Without a consumer the letter stays, and the task waits on."""
    values = {"MaxReceiveCount": 1, "RedeliverySeconds": 0}
    with deploy(engine, "task_token", values) as deployed:
        arn = deployed.start({"item": {"item": 0, "task_seconds": 0, "failures": 99}})
        until(
            lambda: depth(deployed, "DeadLetterQueueUrl") == 1 and depth(deployed, "QueueUrl") == 0,
            "the dead letter",
        )
        execution = engine.client("stepfunctions").describe_execution(executionArn=arn)
    assert execution["status"] == "RUNNING"


def take(deployed, *items):
    """Receive messages until those of these items are there; return their tokens."""
    taken = {}

    def look():
        received = deployed.engine.client("sqs").receive_message(
            QueueUrl=deployed.outputs["QueueUrl"], MaxNumberOfMessages=10, WaitTimeSeconds=1
        )
        for message in received.get("Messages", []):
            body = json.loads(message["Body"])
            taken[body["item"]["item"]] = body["token"]
        return taken.keys() >= set(items)

    until(look, "all messages")
    return taken


def test_anyone_with_the_token_can_answer_once(engine):
    """Whoever holds the token ends the task, with an answer or an error of any name, and only once."""
    sfn = engine.client("stepfunctions")
    with deploy(engine, "task_token", {"Consumer": "fleet"}) as deployed:
        good, other = (deployed.start({"item": {"item": n}}) for n in (1, 2))
        tokens = take(deployed, 1, 2)
        sfn.send_task_success(taskToken=tokens[1], output='{"by": "hand"}')
        answered = json.loads(ended(deployed, good)["output"])
        with pytest.raises(ClientError, match="TaskTimedOut"):
            sfn.send_task_success(taskToken=tokens[1], output='{"by": "another"}')
        sfn.send_task_failure(taskToken=tokens[2], error="Broken", cause="a reason")
        failed = json.loads(ended(deployed, other)["output"])
    assert (answered["outcome"], answered["answer"]) == ("answered", {"by": "hand"})
    assert (failed["outcome"], failed["error"]) == (
        "failed",
        {"Error": "Broken", "Cause": "a reason"},
    )


def test_silence_and_delay_end_differently(engine):
    """Unheard of, a task ends after HeartbeatSeconds, else after TimeoutSeconds; neither is tried again."""
    sfn = engine.client("stepfunctions")
    values = {"Consumer": "fleet", "HeartbeatSeconds": 4, "TimeoutSeconds": 5}
    with deploy(engine, "task_token", values) as deployed:
        silent, busy = (deployed.start({"item": {"item": n}}) for n in (1, 2))
        token = take(deployed, 2)[2]
        while sfn.describe_execution(executionArn=busy)["status"] == "RUNNING":
            with contextlib.suppress(ClientError):  # the task may end between the two calls
                sfn.send_task_heartbeat(taskToken=token)
            time.sleep(0.2)
        lost = [json.loads(ended(deployed, arn)["output"]) for arn in (silent, busy)]
        assert depth(deployed, "QueueUrl") == 2
    assert [result["outcome"] for result in lost] == ["lost_heartbeat", "lost_token"]
    assert [result["error"]["Error"] for result in lost] == ["States.HeartbeatTimeout", "States.Timeout"]
    for result, seconds in zip(lost, (4, 5), strict=True):
        arrival, returned = (datetime.fromisoformat(result[key]).timestamp() for key in SOJOURN)
        assert returned - arrival >= seconds - engine.clock_seconds


# starter


DOES = """
    time.sleep(item["seconds"])
    return {"item": item["item"]}
"""
DOES_AND_TELLS = """
    start = time.time()
    if item["item"] == 11:
        raise CannotSucceed("never")
    time.sleep(item["seconds"])
    print(json.dumps({"did": item["item"], "start": start, "end": time.time()}))
    return {"item": item["item"]}
"""
TAKES = """message = json.loads(record["body"])
"""
TAKES_AND_DIES = """message = json.loads(record["body"])
        if message["item"]["item"] == 5 and record["attributes"]["ApproximateReceiveCount"] == "1":
            raise SystemExit("a worker that dies")
"""


def test_the_starter_brings_every_item_home_within_its_limit(engine):
    """Results come back in item order, each once, a bad item's error among them; never too many workers.

    The item of a worker that dies is done by another.
    """
    values = {"MaximumConcurrency": 3, "FunctionTimeout": 1, "VisibilityTimeout": 6}
    listed = [{"item": n, "seconds": 0.1} for n in range(12)]
    with deploy(engine, "starter", values) as deployed:
        drills.recode(deployed, {DOES: DOES_AND_TELLS, TAKES: TAKES_AND_DIES}, "WorkFunction")
        *good, bad = results(deployed, {"items": listed}, "StateMachineArn")
        did = [json.loads(text) for text in log(deployed, "WorkLogGroup") if text.startswith('{"did"')]
    assert [{"item": n} for n in range(11)] == good
    assert (bad["item"], bad["error"]["Error"]) == (11, "CannotSucceed")
    assert list(range(11)) == sorted(one["did"] for one in did)
    assert peak([one["start"] for one in did], [one["end"] for one in did]) <= 3
