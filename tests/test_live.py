"""An Experiment on the live engine: what it asks for is what happens, and all of it is measured."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from helpers import budget, checks, live, metrics, stack
from helpers.drills import until
from helpers.errors import InvalidExperiment, StackError
from helpers.experiment import Experiment
from helpers.fleet import Fleet
from helpers.fleet_worker import WholeLines
from helpers.stack import INFRA
from helpers.trace import Trace
from helpers.wire import Fault, Wire

CONSUMERS = ("lambda", "fleet")


@pytest.fixture(scope="module", params=CONSUMERS)
def trace(request, engine):
    """One run with both lanes, passing failures and a map limit, for each consumer."""
    experiment = Experiment(
        40,
        map_concurrency=20,
        siphon_share=0.6,
        worker_concurrency=4,
        consumer=request.param,
        direct_seconds=0.02,
        limited_seconds=0.2,
        failure_rate=0.15,
        redelivery_seconds=0,
        max_receive_count=9,
        seed=3,
    )
    return engine.run(experiment, progress=False)


def test_the_laws_hold(trace):
    """A measured trace obeys every law."""
    checks.verify(trace)


def test_the_worker_limit_is_reached_and_never_passed(trace):
    """With more work than workers, exactly worker_concurrency of them are busy at the peak."""
    summary = metrics.summary(trace)
    assert summary["peak_workers"] == 4
    assert summary["peak_map"] == 20


def test_lanes_are_those_of_the_plan(trace):
    """The items that the seed siphons off take the limited lane, on this engine as on any."""
    planned = trace.experiment.plan().set_index("item")["lane"].to_dict()
    assert trace.items.set_index("item")["lane"].to_dict() == planned


def test_results_come_back_in_item_order(trace):
    """Whoever finished first, the map's results are in the order of its items."""
    assert list(trace.items["item"]) == list(range(40))


def test_failures_are_attempts(trace):
    """An item whose plan says k passing failures has k failed attempts and one that succeeded."""
    plan = trace.experiment.plan().set_index("item")["failures"]
    retried = plan[plan > 0]
    assert len(retried) > 0
    counted = trace.attempts.groupby("item")["outcome"].value_counts().unstack(fill_value=0)
    assert counted["failed"].to_dict() == plan.to_dict()
    assert set(counted["succeeded"]) == {1}


def test_service_takes_as_long_as_planned(trace):
    """No task is shorter than its plan: the worker really did it."""
    planned = trace.experiment.plan()["task_seconds"].to_numpy()
    served = (trace.items["service_end"] - trace.items["service_start"]).to_numpy()
    assert (served >= planned - 0.001).all()


def test_the_queue_is_watched(engine):
    """What lies in the queue, and what is in flight, is seen in the samples, each with its time."""
    sqs, began = engine.client("sqs"), time.time()
    with stack.deploy(engine, "sqs_limited", {"Consumer": "fleet"}) as deployed:
        url = deployed.outputs["QueueUrl"]
        with live.sampled_queue(deployed) as samples:

            def seen(**depth: int) -> bool:
                give_up = time.monotonic() + 60
                while not any(depth.items() <= sample.items() for sample in samples):
                    assert time.monotonic() < give_up, f"{depth} was not seen"
                    time.sleep(0.05)
                return True

            for body in "ab":
                sqs.send_message(QueueUrl=url, MessageBody=body)
            assert seen(visible=2, in_flight=0)
            sqs.receive_message(QueueUrl=url)
            assert seen(visible=1, in_flight=1)
    times = [began, *(sample["time"] for sample in samples), time.time()]
    assert times == sorted(times)


def test_a_lost_item_is_dead_lettered_and_sinks_nothing(engine):
    """A message that always fails ends in the DLQ; its item says so, and the others succeed."""
    experiment = Experiment(
        6,
        siphon_share=1,
        worker_concurrency=2,
        limited_seconds=0.01,
        redelivery_seconds=0,
        max_receive_count=2,
        task_timeout_seconds=6,
        failure_rate=0.4,
        seed=2,
    )
    doomed = set(experiment.plan().query("failures >= 2")["item"])
    assert 0 < len(doomed) < 6
    trace = engine.run(experiment, progress=False)
    checks.verify(trace)
    assert set(trace.items.query("outcome == 'dead_lettered'")["item"]) == doomed
    assert set(trace.items.query("outcome == 'succeeded'")["item"]) == set(range(6)) - doomed


def test_a_bad_item_fails_at_once_and_sinks_nothing(engine):
    """A permanent error is one attempt, one SendTaskFailure; the tolerance decides about the run."""
    items = [{"item": n, "lane": "limited", "task_seconds": 0, "failures": 0} for n in range(3)]
    items[1]["bad"] = True
    for tolerated, status in ((100, "SUCCEEDED"), (10, "FAILED")):
        with stack.deploy(engine, "combined", {"ToleratedFailurePercentage": tolerated}) as deployed:
            execution = live.wait(deployed, deployed.start({"items": items}), progress=False)
            assert execution["status"] == status
            results = live.results(deployed, execution)
            assert [r.get("error", {}).get("Error") for r in results] == [None, "BadItem", None]
            if status == "SUCCEEDED":
                summary = json.loads(execution["output"])["summary"]
                assert summary["lanes"] == {"direct": {}, "limited": {"failed": 1, "succeeded": 2}}
            else:
                assert execution["error"] == "TooManyFailures"


def test_a_batch_is_one_worker_at_a_time(engine):
    """With batches, a worker serves its messages one after another: attempts of one worker do not overlap."""
    experiment = Experiment(
        20, siphon_share=1, worker_concurrency=2, batch_size=5, batch_window_seconds=1, limited_seconds=0.05
    )
    trace = engine.run(experiment, progress=False)
    checks.verify(trace)
    for _, attempts in trace.attempts.sort_values("start").groupby("worker"):
        assert (attempts["start"].to_numpy()[1:] >= attempts["end"].to_numpy()[:-1]).all()


def dead_letters(deployed):
    """The items that the stack's dead-letter queue hands out at once, ten messages at most."""
    answer = deployed.engine.client("sqs").receive_message(
        QueueUrl=deployed.outputs["DeadLetterQueueUrl"], MaxNumberOfMessages=10
    )
    return {json.loads(message["Body"])["item"]["item"] for message in answer.get("Messages", [])}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_burst_drains_at_the_worker_limit(engine, consumer):
    """All messages of a burst end once, done or dead-lettered, with no more workers than allowed."""
    experiment = Experiment(
        40,
        siphon_share=1,
        worker_concurrency=4,
        consumer=consumer,
        limited_seconds=0.1,
        failure_rate=0.2,
        redelivery_seconds=0,
        max_receive_count=2,
        seed=1,
    )
    doomed = set(experiment.plan().query("failures >= 2")["item"])
    assert doomed
    with stack.deploy(engine, "sqs_limited", stack.parameters(experiment, "sqs_limited")) as deployed:
        trace = live.burst(deployed, experiment, progress=False)
        left = dead_letters(deployed)
    checks.verify(trace)
    assert metrics.summary(trace)["peak_workers"] == 4
    assert set(trace.items.query("outcome == 'dead_lettered'")["item"]) == doomed
    assert left == doomed, "a trace only looks at the dead letters: they are there for others to read"


@pytest.mark.parametrize("machine", ["InlineArn", "DistributedArn"])
def test_a_map_alone_is_measured_too(engine, machine):
    """Both kinds of Map keep the experiment's map_concurrency, and the laws."""
    experiment = Experiment(60, map_concurrency=15, siphon_share=0, direct_seconds=0.2)
    with stack.deploy(engine, "distributed_map") as deployed:
        trace = live.run(deployed, experiment, machine, progress=False)
    checks.verify(trace)
    assert metrics.summary(trace)["peak_map"] == 15


def test_runs_on_one_stack_are_traces_of_their_own(engine):
    """What earlier runs left in the stack's logs is no part of a later run's trace."""
    experiment = Experiment(12, map_concurrency=4, siphon_share=0, direct_seconds=0.02)
    with stack.deploy(engine, "distributed_map") as deployed:
        for machine in ("InlineArn", "DistributedArn", "InlineArn"):
            trace = live.run(deployed, experiment, machine, progress=False)
            checks.verify(trace)
            assert len(trace.attempts) == 12


def test_an_answer_stands_for_a_log_that_lacks_its_last_line(engine, monkeypatch):
    """An attempt whose answer counted succeeded, whether or not its end was logged."""
    read = live.log_lines

    def without_ends(*about):
        return (line for line in read(*about) if not line.startswith('{"attempt_ended"'))

    monkeypatch.setattr(live, "log_lines", without_ends)
    experiment = Experiment(6, siphon_share=0, direct_seconds=0.02)
    with stack.deploy(engine, "distributed_map") as deployed:
        trace = live.run(deployed, experiment, "InlineArn", progress=False)
    checks.verify(trace)
    assert set(trace.attempts["outcome"]) == {"succeeded"}


def measured(deployed) -> int:
    """How many executions the stack has had, of all its state machines."""
    sfn = deployed.engine.client("stepfunctions")
    machines = [arn for arn in deployed.outputs.values() if ":stateMachine:" in arn]
    return sum(len(sfn.list_executions(stateMachineArn=arn)["executions"]) for arn in machines)


def test_a_second_run_on_a_stack_is_refused_before_it_starts(engine):
    """While a run uses a stack, another one, in whatever thread, starts and spends nothing."""
    experiment = Experiment(2, siphon_share=0, direct_seconds=0.02)
    with stack.deploy(engine, "distributed_map") as deployed:
        with stack.claimed(deployed):
            noted = len(budget.noted())
            for start in (live.run, live.burst):
                either = replace(experiment, siphon_share=float(start is live.burst))
                with pytest.raises(StackError, match=f"{deployed.name}: another run is using it; wait for"):
                    start(deployed, either, progress=False)
            assert (measured(deployed), len(budget.noted())) == (0, noted)
        checks.verify(live.run(deployed, experiment, "InlineArn", progress=False))


CLAIM = """
import sys, tempfile
from pathlib import Path
from unittest.mock import Mock
from helpers import stack
engine = Mock(lock_folder=lambda: Path(tempfile.gettempdir()))
with stack.claimed(stack.Stack(engine, "counter", sys.argv[1], {}, {})):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_claim_holds_between_processes_and_ends_with_its_own():
    """A process that runs on a stack keeps others away, and none once it was killed; no file is left."""
    engine = Mock(lock_folder=lambda: Path(tempfile.gettempdir()))
    mine = stack.Stack(engine, "counter", f"lab-{uuid.uuid4().hex}", {}, {})
    command = [sys.executable, "-P", "-c", CLAIM, mine.name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, cwd=INFRA.parent, env=os.environ | {"PYTHONPATH": "."}) as other:
        try:
            assert other.stdout.readline() == "claimed\n"
            with pytest.raises(StackError, match="another run is using it"), stack.claimed(mine):
                pass
        finally:
            other.kill()
    with stack.claimed(mine):
        assert len([*Path(tempfile.gettempdir()).glob(f"*{mine.name}*")]) == 1
    assert [*Path(tempfile.gettempdir()).glob(f"*{mine.name}*")] == []


def test_an_execution_of_somebody_elses_keeps_a_run_away(engine):
    """An execution that runs in the stack, whoever started it, is named, and no other starts."""
    items = [{"item": 0, "lane": "limited", "task_seconds": 0, "failures": 0}]
    with stack.deploy(engine, "combined", {"Consumer": "fleet"}) as deployed:
        execution = deployed.start({"items": items})
        with pytest.raises(StackError, match=f"the execution {execution} runs in it; wait for its end"):
            live.run(deployed, SMALL, progress=False)
        assert measured(deployed) == 1


def test_a_burst_into_a_queue_with_messages_is_refused(engine, monkeypatch):
    """Messages that are there already would be counted as the burst's: it is refused before it sends one."""
    monkeypatch.setattr(live, "EMPTIES_SECONDS", 0.5)
    with stack.deploy(engine, "sqs_limited", {"Consumer": "fleet"}) as deployed:
        live.send(deployed, live.payloads(replace(SMALL, items=3)))
        with pytest.raises(StackError, match="its queue holds 3 messages already"):
            live.burst(deployed, replace(SMALL, consumer="fleet"), progress=False)
        assert live.depth(deployed) == 3


def test_a_bench_does_one_run_at_a_time(monkeypatch):
    """A run that is asked for while another uses the bench is refused, and leaves that alone."""
    told = []

    def nested(*_):
        with pytest.raises(StackError, match="this bench: is in use"):
            run(SMALL)
        told.append("refused")
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "_check", nested)
    with live.bench(Mock()) as run:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(SMALL)
    assert told == ["refused"] * 2


def test_a_lane_that_is_not_there_is_refused(engine):
    """A lane that the workflow does not have is refused before anything starts."""
    with (
        stack.deploy(engine, "distributed_map") as deployed,
        pytest.raises(StackError, match="no limited lane"),
    ):
        live.run(deployed, Experiment(1, siphon_share=0.5))
    with (
        stack.deploy(engine, "sqs_limited") as deployed,
        pytest.raises(StackError, match="limited lane only"),
    ):
        live.burst(deployed, Experiment(1, siphon_share=0.5))


def test_large_inputs_go_through_s3(engine):
    """Items that do not fit into an execution's input are read from S3, and are all done."""
    experiment = Experiment(4000, siphon_share=0, map_concurrency=50, direct_seconds=0, cold_start=True)
    text = json.dumps({"items": live.payloads(experiment)})
    assert len(text) > stack.INPUT_LIMIT_BYTES
    trace = engine.run(experiment, progress=False)
    assert trace.items["outcome"].eq("succeeded").sum() == 4000
    assert len(trace.attempts) == 4000


def the_stack(engine) -> dict[str, str]:
    """The outputs of the only stack on the engine, and its name."""
    (name,) = stack.deployed(engine)
    return {"name": name} | stack._outputs(engine, name)


SMALL = Experiment(4, siphon_share=1, worker_concurrency=2, limited_seconds=0.05)


def test_runs_on_a_bench_obey_their_own_settings(engine):
    """Each run reaches its limits and passes none, on one stack that is updated, with environments kept."""
    base = Experiment(20, siphon_share=1, worker_concurrency=2, limited_seconds=0.4)
    names, workers = set(), []
    with engine.bench() as run:
        for limit, at_once, batch, visibility in ((2, 4, 1, 180), (6, 14, 2, 240), (3, 8, 1, 190)):
            experiment = replace(
                base,
                worker_concurrency=limit,
                map_concurrency=at_once,
                batch_size=batch,
                visibility_timeout_seconds=visibility,
            )
            trace = run(experiment, progress=False)
            checks.verify(trace)
            summary = metrics.summary(trace)
            assert (limit, at_once) == (summary["peak_workers"], summary["peak_map"])
            outputs = the_stack(engine)
            names.add(outputs["name"])
            attributes = engine.client("sqs").get_queue_attributes(
                QueueUrl=outputs["QueueUrl"], AttributeNames=["VisibilityTimeout"]
            )["Attributes"]
            assert attributes == {"VisibilityTimeout": str(visibility)}
            (mapping,) = engine.client("lambda").list_event_source_mappings(
                FunctionName=outputs["WorkerFunction"]
            )["EventSourceMappings"]
            assert mapping["BatchSize"] == batch
            workers.append(set(trace.attempts["worker"]))
    assert len(names) == 1
    assert workers[0] < workers[1] > workers[2]
    assert stack.deployed(engine) == []


def test_what_a_run_leaves_behind_is_not_in_the_next(engine):
    """Work that goes on after a run, and a cold start, take a new stack; each trace is of its own run."""
    late = replace(SMALL, limited_seconds=2.5, task_timeout_seconds=2)
    cold = replace(SMALL, cold_start=True)
    names = []
    with engine.bench() as run:
        for experiment, outcome in (
            (SMALL, "succeeded"),
            (late, "timed_out"),
            (SMALL, "succeeded"),
            (cold, "succeeded"),
        ):
            trace = run(experiment, progress=False)
            names.append(the_stack(engine)["name"])
            assert set(trace.items["outcome"]) == {outcome}
            if outcome == "succeeded":
                checks.verify(trace)
                assert len(trace.attempts) == SMALL.items
    assert names[0] == names[1]
    assert len(set(names[1:])) == 3
    assert stack.deployed(engine) == []


def test_a_stack_is_as_new_when_nothing_is_left_on_it(engine, monkeypatch):
    """A run may follow another on its stack, but not failures, a fleet, messages or other warm workers."""
    monkeypatch.setattr(live, "EMPTIES_SECONDS", 0.5)
    sqs = engine.client("sqs")
    with stack.deploy(engine, "combined", stack.parameters(SMALL)) as deployed:
        trace = live.run(deployed, SMALL, progress=False)
        live._drain(deployed, SMALL.items, progress=False)
        assert live._as_new(deployed, trace)
        failed = trace.items.assign(outcome=["succeeded"] * 3 + ["failed"])
        assert not live._as_new(deployed, replace(trace, items=failed))
        fleet = replace(SMALL, consumer="fleet")
        assert not live._as_new(deployed, replace(trace, experiment=fleet))
        assert not live._as_new(replace(deployed, warmed={}), trace)
        for queue, delay in (("DeadLetterQueueUrl", 0), ("QueueUrl", 600)):
            url = deployed.outputs[queue]
            sqs.send_message(QueueUrl=url, MessageBody="left", DelaySeconds=delay)
            assert not live._as_new(deployed, trace)
            sqs.purge_queue(QueueUrl=url)
            assert live._as_new(deployed, trace)


@pytest.mark.parametrize("setting", [{"task_attempts": 2}, {"arrivals_per_second": 3.0}])
def test_what_only_the_simulation_runs_is_refused_before_anything_is_made(setting):
    """New tokens and arrivals: named with value, rule and remedy, by whatever runs experiments."""
    experiment = replace(SMALL, siphon_share=1, **setting)
    ((name, value),) = setting.items()
    told = rf"{name}={value}: a deployed workflow .*; use {name}=(1|None), or the simulated engine"
    nothing = Mock(spec=[])  # whoever asks it for a client fails
    with live.bench(nothing) as run, pytest.raises(InvalidExperiment, match=told):
        run(experiment, progress=False)
    for function in (live.run, live.burst):
        with pytest.raises(InvalidExperiment, match=told):
            function(nothing, experiment, progress=False)


def test_a_bench_is_usable_after_a_failure_and_leaves_nothing(engine, monkeypatch):
    """A run that fails or is interrupted takes its stack with it; the next has another; the end has none."""

    def use_and_break():
        with engine.bench() as run:
            run(SMALL, progress=False)
            for failure in (KeyboardInterrupt, StackError):
                with monkeypatch.context() as patch:
                    patch.setattr(live, "_run", Mock(side_effect=failure))
                    with pytest.raises(failure):
                        run(SMALL, progress=False)
                assert stack.deployed(engine) == []
            checks.verify(run(SMALL, progress=False))
            assert len(stack.deployed(engine)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_and_break()
    assert stack.deployed(engine) == []


def test_what_is_warm_is_not_warmed_again(engine, monkeypatch):
    """Functions are warmed when more environments are needed, when they were restarted, or after a while."""
    calls = []
    warm = live._warm

    def counted(deployed, function, workers, progress):
        calls.append((function, workers))
        return warm(deployed, function, workers, progress)

    def warmed(deployed, experiment):
        calls.clear()
        live._warm_all(deployed, experiment, False)
        return calls

    monkeypatch.setattr(live, "_warm", counted)
    mixed = replace(SMALL, items=6, map_concurrency=2, siphon_share=0.5)
    both = [("ProcessFunction", 2), ("WorkerFunction", 2)]
    with stack.deploy(engine, "combined") as deployed:
        assert warmed(deployed, mixed) == both
        assert warmed(deployed, mixed) == []
        assert warmed(deployed, replace(SMALL, worker_concurrency=3)) == [("WorkerFunction", 3)]
        assert warmed(deployed, SMALL) == []
        updated = deployed.update({"MaximumConcurrency": 3})
        assert warmed(updated, mixed) == []
        updated = updated.update({"FunctionTimeout": 20})
        assert warmed(updated, mixed) == both
        monkeypatch.setattr(live, "WARM_LASTS_SECONDS", 0)
        assert warmed(updated, SMALL) == both[1:]


def test_an_end_of_an_earlier_run_is_not_this_ones():
    """An attempt that was lost stays lost, though an earlier run's attempt of the same name ended."""
    about = {"item": 5, "attempt": 1, "worker": "w"}
    old = json.dumps({"attempt_ended": about | {"end": 10.0, "outcome": "succeeded"}})
    new = json.dumps({"attempt_started": about | {"start": 11.0, "enqueued": 10.5}})
    for lines in ([old, new], [new, old]):
        (attempt,) = live.parse_log(lines).values()
        assert attempt["outcome"] == "lost"
        assert math.isnan(attempt["end"])
    assert live.parse_log([old]) == {}


def test_warming_gives_that_many_workers(engine):
    """After warming n workers, n environments have answered."""
    with stack.deploy(engine, "combined") as deployed:
        assert live.warm(deployed, "WorkerFunction", 5, progress=False) == 5


def test_workers_end_with_their_stack(own_engine):
    """Run after run, no Lambda worker outlives the function that it served."""
    server = psutil.Process(own_engine._own.pid)

    def children() -> set[psutil.Process]:
        return set(server.children(recursive=True))

    def used() -> set[psutil.Process]:
        with stack.deploy(own_engine, "combined") as deployed:
            live.warm(deployed, "WorkerFunction", 3, progress=False)
            return children()

    used()  # the process from which workers are forked starts with the first of them
    before = children()
    assert len(used() - before) >= 3
    until(lambda: children() <= before, "the end of the workers")


def test_an_interrupted_burst_keeps_what_it_measured(engine, tmp_path, monkeypatch):
    """What was done when Ctrl-C came is on disk, and what was still to be done is not."""

    def interrupt(deployed, *_):
        group = deployed.outputs["WorkerLogGroup"]
        ended = '{"attempt_ended"'
        until(
            lambda: any(ended in line for line in live.log_lines(deployed, group, 0)), "an attempt has ended"
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "RUNS", tmp_path)
    monkeypatch.setattr(live, "_drain", interrupt)
    experiment = Experiment(100, siphon_share=1, worker_concurrency=2, limited_seconds=1)
    values = stack.parameters(experiment, "sqs_limited")
    with stack.deploy(engine, "sqs_limited", values) as deployed, pytest.raises(KeyboardInterrupt):
        live.burst(deployed, experiment, progress=False)
    (kept,) = tmp_path.glob("interrupted-*.parquet")
    assert 0 < len(Trace.load(kept).items) < 100


def test_results_that_a_result_writer_wrote_are_read_in_item_order(engine):
    """As AWS documents the manifest and its files, in whatever order they come."""
    files = {"a.json": [4, 0, 2], "b.json": [3, 1]}
    s3 = engine.client("s3")
    s3.create_bucket(Bucket="test-results")
    for key, numbers in files.items():
        children = [{"Output": json.dumps({"item": n}), "Status": "SUCCEEDED"} for n in numbers]
        s3.put_object(Bucket="test-results", Key=key, Body=json.dumps(children))
    written = {"SUCCEEDED": [{"Key": key, "Size": 1} for key in files], "FAILED": [], "PENDING": []}
    s3.put_object(Bucket="test-results", Key="manifest.json", Body=json.dumps({"ResultFiles": written}))
    details = {"MapRunArn": "arn", "ResultWriterDetails": {"Bucket": "test-results", "Key": "manifest.json"}}
    execution = {"status": "SUCCEEDED", "output": json.dumps({"results": details})}
    deployed = stack.Stack(engine, "combined", "none", {}, {"Bucket": "test-results"})
    assert live.results(deployed, execution) == [{"item": n} for n in range(5)]


def test_results_that_are_cut_off_in_their_body_are_read_again(engine):
    """Half of all answers break off after their head, where boto3 gives up: all are read in the end."""
    s3 = engine.client("s3")
    s3.create_bucket(Bucket="test-cut")
    s3.put_object(Bucket="test-cut", Key="results.json", Body=b"[1, 2]")
    with Wire(engine, Fault("unanswered", 0.5, "s3", "GetObject")) as wire:
        behind = stack.Stack(wire.engine, "combined", "none", {}, {"Bucket": "test-cut"})
        assert [live._read(behind, "results.json") for _ in range(10)] == [[1, 2]] * 10
        assert len(wire.fired()) > 0


def test_a_fleet_takes_ten_messages_at_most(engine):
    """A batch that ReceiveMessage cannot return is refused before a worker starts."""
    with (
        stack.deploy(engine, "combined", {"Consumer": "fleet"}) as deployed,
        pytest.raises(StackError, match="11"),
    ):
        Fleet(deployed, workers=1, batch_size=11)


def test_lines_of_threads_do_not_interleave():
    """WholeLines passes a line on when it is whole, and not before."""

    class Output:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    output = Output()
    lines = WholeLines(output)
    lines.write("a")
    assert output.text == ""
    lines.write("b\nc")
    assert output.text == "ab\n"
