"""The patterns that bring workflows of their own: each item once, the limit kept, whatever dies or fails."""

import importlib.util
import json
import uuid
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import simpy
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from test_workflows import deploy, items, logged

from helpers import Experiment, checks, exponential, live, metrics
from helpers.cost import Prices
from helpers.drills import until
from helpers.patterns import activity, counter, pipes, semaphore
from helpers.stack import INFRA
from tests.faults.trial import everything

SHORT = {"function_timeout_seconds": 1, "visibility_timeout_seconds": 2, "redelivery_seconds": 0}
"""Clocks by which a dead worker is soon found out."""
WORK = Experiment(
    12,
    siphon_share=1,
    worker_concurrency=3,
    limited_seconds=0.1,
    failure_rate=0.2,
    heartbeat_seconds=2,
    max_receive_count=5,
    **SHORT,
)
DIES, HOPELESS = 3, 5
of_every_pattern = pytest.mark.parametrize(
    ("pattern", "given_up"),
    [(activity, "failed"), (semaphore, "failed"), (counter, "dead_lettered"), (pipes, "dead_lettered")],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2],
)


@of_every_pattern
@pytest.mark.filterwarnings("ignore:VisibilityTimeout")
def test_each_item_is_done_once_whatever_dies(engine, pattern, given_up):
    """All laws hold though attempts fail, a worker ends with an item in its hands, and an item is hopeless.

    The item of the dead worker is done by another; the hopeless one is told of, and keeps no other up. What
    was deployed is gone.
    """
    before = everything(engine)
    with live.spoilt({DIES: {"deaths": 1}, HOPELESS: {"bad": True}}):
        trace = pattern.run(engine, WORK)
    checks.verify(trace)
    outcome = dict(zip(trace.items["item"], trace.items["outcome"], strict=True))
    assert outcome == {item: given_up if item == HOPELESS else "succeeded" for item in range(WORK.items)}
    attempts = trace.attempts.query(f"item == {DIES}").sort_values("attempt")["outcome"].to_list()
    planned = ["failed"] * int(WORK.plan()["failures"][DIES] - 1)
    assert attempts == ["lost", *planned, "succeeded"]
    assert everything(engine) == before


@of_every_pattern
def test_what_a_pattern_uses_has_prices(pattern, given_up):
    """The planned use names prices, and more items never use less of anything."""
    few, many = (pattern.usage(replace(WORK, items=n)) for n in (10, 200))
    assert few.keys() <= {field.name for field in fields(Prices)}
    assert few.keys() == many.keys()
    assert [name for name in few if not 0 < few[name] <= many[name]] == []


def test_planned_use_is_counted_by_hand():
    """Without failures: three transitions a child, two writes in a transaction, a request a message."""
    plain = replace(WORK, items=100, failure_rate=0.0, limited_seconds=0.0)
    assert activity.usage(plain)["transition"] == 4 + 3 * 100
    assert counter.usage(plain)["dynamodb_write"] == 4 * 100
    assert counter.usage(plain)["lambda_request"] == pipes.usage(plain)["pipe_request"] == 100
    assert semaphore.usage(plain)["transition"] == 3 * 100  # nobody waits for a task of no time
    assert semaphore.usage(plain)["dynamodb_write"] == 2 * 100


@given(
    st.integers(1, 60), st.integers(2, 12), st.sampled_from([0.5, exponential(2.0)]), st.integers(0, 2**32)
)
def test_a_simulated_semaphore_is_executions_that_ask_until_a_place_is_free(items, places, seconds, seed):
    """Against SimPy, event by event: the same end and the same number of tries, and no less than the work."""
    work = Experiment(items, siphon_share=1.0, limited_seconds=seconds, worker_concurrency=places, seed=seed)
    environment, random = simpy.Environment(), np.random.default_rng([seed, 3])
    held, tries = set(), []

    def execution(item, task_seconds):
        pause = 1.0
        tries.append(item)
        while len(held) == places:
            yield environment.timeout(random.uniform(0, pause))
            pause = min(1.5 * pause, 8.0)
            tries.append(item)
        held.add(item)
        yield environment.timeout(task_seconds)
        held.remove(item)

    for item, task_seconds in enumerate(work.plan()["task_seconds"]):
        environment.process(execution(item, task_seconds))
    environment.run()
    assert semaphore.simulated(work, draw=3) == (pytest.approx(environment.now), len(tries))
    assert environment.now >= metrics.ideal_makespan(work) * (1 - 1e-9)


def test_a_holder_that_dies_gives_its_place_back(engine):
    """An execution that is stopped at work loses its place to the one that waits, which then is done."""
    with deploy(engine, "semaphore", {"MaximumConcurrency": 1}) as deployed:
        sfn, name = engine.client("stepfunctions"), uuid.uuid4().hex
        (long,), (short,) = items(1, task_seconds=60), items(1, task_seconds=0)
        held = deployed.start({"item": long}, name=name)
        until(lambda: semaphore.holders(deployed) == {name}, "the lock taken")
        waits = deployed.start({"item": short})
        until(
            lambda: (
                "TaskFailed"
                in json.dumps(sfn.get_execution_history(executionArn=waits)["events"], default=str)
            ),
            "a refused lock",
        )
        assert semaphore.holders(deployed) == {name}
        sfn.stop_execution(executionArn=held)
        assert live.wait(deployed, waits, progress=False)["status"] == "SUCCEEDED"
        assert semaphore.holders(deployed) == set()


def test_a_message_that_comes_twice_counts_once(engine):
    """Of two messages of one item the first counts; the second is done in vain, and deleted."""
    with deploy(engine, "counter") as deployed:
        live.send(deployed, items(1, task_seconds=0))
        until(lambda: counter.counted(deployed) == 1, "the count")
        live.send(deployed, items(1, task_seconds=0))
        until(
            lambda: len(logged(deployed, "WorkerLogGroup")[1]) == 2 and live.depth(deployed) == 0, "both ends"
        )
        _, ends = logged(deployed, "WorkerLogGroup")
        assert [end["outcome"] for end in ends] == ["succeeded", "late"]
        assert counter.counted(deployed) == 1
        assert [result["item"] for result in counter.results(deployed)] == [0]


# The counter's worker


def refused(*reasons: str) -> ClientError:
    """The refusal of a transaction for these reasons, one an item in it."""
    told = [{"Code": reason} for reason in reasons]
    error = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": told}
    return ClientError(error, "TransactWriteItems")


@pytest.fixture
def worker(monkeypatch):
    """The counter's worker as Lambda loads it, whose transactions end as `ends` says, one after another."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TABLE", "table")
    path = INFRA / "counter" / "functions" / "worker" / "index.py"
    spec = importlib.util.spec_from_file_location("counting", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ends, module.CONFLICT_SECONDS = [], 0

    def transact(**_):
        if ended := module.ends.pop(0):
            raise ended

    monkeypatch.setattr(module, "dynamodb", SimpleNamespace(transact_write_items=transact))
    return module


CONFLICT = refused("None", "TransactionConflict")


@pytest.mark.parametrize(
    ("ends", "counted"),
    [
        ([None], True),
        ([CONFLICT, CONFLICT, None], True),
        ([refused("ConditionalCheckFailed", "None")], False),
        ([CONFLICT, refused("ConditionalCheckFailed", "TransactionConflict")], False),
    ],
)
def test_a_transaction_that_meets_another_is_tried_again(worker, ends, counted):
    """A conflict passes; an item that has been counted is not counted again."""
    worker.ends[:] = ends
    assert worker.count({"item": 0}) is counted
    assert worker.ends == []


@pytest.mark.parametrize("ends", [[refused("ThrottlingError", "None")], [CONFLICT] * 8])
def test_what_cannot_be_counted_comes_again(worker, ends, capsys):
    """A refusal of another kind, or one conflict after another, fails the attempt: its message is kept."""
    worker.ends[:] = [*ends, None]  # one more try would have been taken
    attributes = {"ApproximateReceiveCount": "1", "SentTimestamp": "0"}
    body = json.dumps({"item": {"item": 0, "task_seconds": 0}})
    message = {"messageId": "one", "body": body, "attributes": attributes}
    again = worker.handler([message | {"eventSourceARN": ""}], SimpleNamespace(log_stream_name="stream"))
    assert again == {"batchItemFailures": [{"itemIdentifier": "one"}]}
    assert worker.ends == [None]
    assert '"outcome": "failed"' in capsys.readouterr().out


def test_what_is_no_task_is_left_to_the_dead_letter_queue(worker, capsys):
    """A message that cannot be read is neither done nor counted, and comes again until it is given up."""
    context = SimpleNamespace(log_stream_name="stream")
    again = worker.handler({"Records": [{"messageId": "one", "body": "no JSON"}]}, context)
    assert again == {"batchItemFailures": [{"itemIdentifier": "one"}]}
    assert "not_a_task" in capsys.readouterr().out
