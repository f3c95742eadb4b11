"""What is observed of an execution: as our own runner measured it, or as AWS's history events tell it."""

import json
import math
import random
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import boto3
import numpy as np
import pytest
import synthetic  # noqa: F401  # its profile: a slow machine is no failing law
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from botocore.validate import ParamValidator
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import checks, live, metrics, observe, stack
from helpers.engines import Engine
from helpers.engines.pacing import QUOTAS, Bucket
from helpers.errors import ObserveError
from helpers.experiment import Experiment
from helpers.observing import history, items
from helpers.observing.diagnosis import LOST, REDELIVERED

ARN = "arn:aws:states:us-east-1:123456789012:execution:orders:monday"
START = 1_800_000_000.0


# --- On the embedded engine, against our own runner ---


@pytest.fixture(scope="module")
def combined(engine):
    """An execution of `combined` that a plain boto3 client started: observed on its way and at its end."""
    experiment = Experiment(
        60,
        map_concurrency=40,
        worker_concurrency=6,
        direct_seconds=0.02,
        limited_seconds=0.1,
        failure_rate=0.25,
        redelivery_seconds=0,
        seed=32,  # with no more than one failure of a direct item: each doubles the wait for a retry
    )
    payloads = live.payloads(experiment)
    for lane in ("direct", "limited"):
        next(item for item in payloads if item["lane"] == lane)["bad"] = True
    with stack.deploy(engine, "combined", stack.parameters(experiment)) as deployed:
        plain = boto3.client(
            "stepfunctions",
            endpoint_url=engine.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=engine.credentials.access_key,
            aws_secret_access_key=engine.credentials.secret_key,
        )
        text = json.dumps({"items": payloads})
        machine = deployed.outputs["StateMachineArn"]
        arn = plain.start_execution(stateMachineArn=machine, input=text)["executionArn"]
        while not (runs := plain.list_map_runs(executionArn=arn)["mapRuns"]):
            time.sleep(0.05)
        running = observe.execution(engine, arn, progress=False)
        described = live.wait(deployed, arn, progress=False)
        seen = observe.execution(engine, arn, progress=False)
        counts = plain.describe_map_run(mapRunArn=runs[0]["mapRunArn"])["executionCounts"]
        yield SimpleNamespace(
            experiment=experiment,
            running=running,
            seen=seen,
            counts=counts,
            ours=live._trace(deployed, experiment, described, [], None),
            arn=arn,
        )


def test_observed_and_measured_agree(combined):
    """Item by item our runner's outcomes, lanes and attempts, and its times to within the clock."""
    seen, ours = (trace.items.set_index("item") for trace in (combined.seen.trace, combined.ours))
    expected = {"succeeded": 58, "failed": 2, "timed_out": 0, "dead_lettered": 0}
    assert expected == ours["outcome"].value_counts().to_dict()
    assert ours["attempts"].max() > 1
    for column in ("outcome", "lane", "attempts"):
        assert ours[column].to_dict() == seen[column].to_dict()
    for column in ("arrival", "enqueued", "service_start", "service_end", "returned"):
        off = (seen[column] - ours[column]).abs()
        assert (seen[column].isna() == ours[column].isna()).all()
        assert off.max() <= 2 * combined.ours.clock_seconds
    key = ["item", "attempt", "worker"]
    tries = [t.attempts.sort_values(key, ignore_index=True) for t in (combined.seen.trace, combined.ours)]
    assert tries[0][[*key, "outcome"]].equals(tries[1][[*key, "outcome"]])


def test_what_is_observed_obeys_the_laws(combined):
    """The trace of an execution that ended passes every law, with the limits that the account tells."""
    checks.verify(combined.seen.trace)
    told, meant = combined.seen.trace.experiment, combined.experiment
    for name in ("items", "map_concurrency", "worker_concurrency", "max_receive_count", "consumer"):
        assert getattr(meant, name) == getattr(told, name)
    for name in ("batch_size", "function_timeout_seconds", "visibility_timeout_seconds"):
        assert getattr(meant, name) == getattr(told, name)


def test_children_are_counted_as_the_map_run_counts_them(combined):
    """All children are there, by status as DescribeMapRun counts them."""
    found = combined.seen.children["status"].value_counts()
    assert combined.counts["total"] == len(combined.seen.children)
    assert combined.counts["succeeded"] == found["SUCCEEDED"]


def test_failures_are_counted_by_error(combined):
    """Each failed attempt of our trace is one failure: by its error, or as one that its log tells of."""
    ours = combined.ours
    lanes = ours.attempts["item"].map(ours.items.set_index("item")["lane"])
    failed = lanes[ours.attempts["outcome"] == "failed"].value_counts()
    counted = combined.seen.failures.set_index("error")["attempts"].to_dict()
    assert {"BadItem": 2, "Transient": failed["direct"] - 1, REDELIVERED: failed["limited"] - 1} == counted


def test_a_running_execution_is_observed(combined):
    """While it runs: the status says so, children under way have no end and are no items yet."""
    seen = combined.running
    assert seen.status == "RUNNING"
    under_way = seen.children["returned"].isna()
    assert under_way.any()
    assert (seen.children.loc[under_way, "status"] == "RUNNING").all()
    assert len(seen.trace.items) == (~under_way).sum()
    assert seen.trace.experiment.items == 60
    assert any("has run for" in sentence for sentence in seen.diagnosis)


def test_an_observation_is_kept(combined, tmp_path):
    """save() writes the trace, the figures and one JSON object; of a running execution too."""
    for seen in (combined.seen, combined.running):
        folder = seen.save(tmp_path / seen.status)
        assert {"trace.parquet", "observation.json", "timeline.png", "latency.png", "states.png"} == {
            path.name for path in folder.iterdir()
        }
        told = json.loads((folder / "observation.json").read_text())
        assert told == json.loads(json.dumps(seen.to_dict()))
        assert told["status"] == seen.status
        assert sum(told["children"].values()) == len(seen.children)


def test_a_sample_is_of_all_children(engine, combined):
    """A sample reads so many, evenly spread; how many there are and when each ran is of all."""
    seen = observe.execution(engine, combined.arn, sample=7, progress=False)
    assert len(seen.trace.items) == 7
    assert seen.trace.experiment.items == 60
    times = ["name", "status", "arrival", "returned"]
    assert seen.children[times].equals(combined.seen.children[times])
    assert any("60 children 7" in note for note in seen.notes)
    checks.attempts(seen.trace)
    checks.little(seen.trace)


# --- Other executions on the embedded engine ---


def ended(engine, definition, data=None):
    """Run a definition on the engine to its end and observe it."""
    client = engine.client("stepfunctions")
    name = f"observed-{random.getrandbits(48):x}"
    role = "arn:aws:iam::000000000000:role/any"
    machine = client.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)
    started = client.start_execution(
        stateMachineArn=machine["stateMachineArn"], input=json.dumps({} if data is None else data)
    )
    while client.describe_execution(executionArn=started["executionArn"])["status"] == "RUNNING":
        time.sleep(0.05)
    return observe.execution(engine, started["executionArn"], progress=False)


def test_an_execution_without_a_map_is_one_item(engine):
    """A plain chain is one item, served for its whole life where no Task tells more; each state has a row."""
    seen = ended(
        engine,
        {
            "StartAt": "Pause",
            "States": {"Pause": {"Type": "Wait", "Seconds": 1, "Next": "Done"}, "Done": {"Type": "Succeed"}},
        },
    )
    checks.verify(seen.trace)
    assert seen.trace.items[["lane", "outcome", "attempts"]].values.tolist() == [["direct", "succeeded", 1]]
    assert list(seen.states["state"]) == ["Pause", "Done"]
    assert seen.states["service"][0] >= 0.99


def test_an_execution_that_failed_tells_its_error(engine):
    """Its item failed, without an attempt where no Task ran; error and cause are in the diagnosis."""
    seen = ended(
        engine,
        {"StartAt": "No", "States": {"No": {"Type": "Fail", "Error": "TooDear", "Cause": "over budget"}}},
    )
    assert seen.status == "FAILED"
    checks.verify(seen.trace)
    assert list(seen.trace.items["outcome"]) == ["failed"]
    assert "It ended with TooDear: over budget." in seen.diagnosis
    assert seen.failures.to_dict("records") == [
        {"error": "TooDear", "outcome": "failed", "attempts": 1, "items": 1}
    ]


CALLBACK = {
    "Type": "Task",
    "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
    "Parameters": {"MessageBody": {"token.$": "$$.Task.Token"}},
}


def test_a_callback_that_nobody_answers_is_a_timeout(engine):
    """It took the limited lane, only waited, and timed out; its queue's settings are the experiment's."""
    url = engine.client("sqs").create_queue(QueueName="observed", Attributes={"VisibilityTimeout": "77"})
    task = CALLBACK | {"TimeoutSeconds": 2, "End": True}
    task["Parameters"] = task["Parameters"] | {"QueueUrl": url["QueueUrl"]}
    seen = ended(engine, {"StartAt": "Ask", "States": {"Ask": task}})
    checks.verify(seen.trace)
    assert seen.trace.items[["lane", "outcome", "attempts"]].values.tolist() == [["limited", "timed_out", 0]]
    assert seen.states[["state", "outcome", "error"]].values.tolist() == [
        ["Ask", "timed_out", "States.Timeout"]
    ]
    assert seen.states["waiting"][0] >= 1.99
    assert seen.failures["outcome"].to_list() == ["timed_out"]
    told = seen.trace.experiment
    assert (told.visibility_timeout_seconds, told.task_timeout_seconds, told.consumer) == (77, 2, "fleet")
    assert any("no dead-letter queue" in note for note in seen.notes)


def test_the_iterations_of_an_inline_map_are_its_items(engine):
    """Each iteration is an item with a task of its own, and nothing had to be guessed."""
    url = engine.client("sqs").create_queue(QueueName="observed-map")["QueueUrl"]
    send = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": url, "MessageBody": "hello"},
        "End": True,
    }
    loop = {"Type": "Map", "ItemProcessor": {"StartAt": "Send", "States": {"Send": send}}, "End": True}
    seen = ended(engine, {"StartAt": "Each", "States": {"Each": loop}}, [1, 2, 3, 4])
    checks.verify(seen.trace)
    assert len(seen.trace.items) == 4
    assert seen.states.loc[seen.states["state"] == "Send", "item"].tolist() == [0, 1, 2, 3]
    assert not [note for note in seen.notes if "iterations apart" in note]


def test_what_does_not_exist(engine):
    """The error names the execution, and where it was looked for."""
    with pytest.raises(ObserveError, match=r"monday.*does not exist.*embedded.*us-east-1"):
        observe.execution(engine, ARN)


# --- As AWS tells it: events in the shapes of botocore's model ---


def event(kind, at, **details):
    """An event of a branch; `details` are those of its type."""
    key = f"{kind[0].lower()}{kind[1:]}EventDetails"
    if kind.endswith("StateEntered") or kind.endswith("StateExited"):
        key = f"state{kind[-7:] if kind.endswith('Entered') else 'Exited'}EventDetails"
    return {"type": kind, "timestamp": moment(at), **({key: details} if details else {})}


def moment(at):
    return datetime.fromtimestamp(START + at, UTC)


def chained(*events):
    """One branch: each event follows the one before it."""
    return [e | {"id": n, "previousEventId": n - 1} for n, e in enumerate(events, start=1)]


LAMBDA = {"resourceType": "lambda", "resource": "invoke"}
QUEUE = {"resourceType": "sqs", "resource": "sendMessage.waitForTaskToken"}
SEND = {
    "region": "us-east-1",
    "parameters": json.dumps({"QueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/jobs"}),
    "timeoutInSeconds": 60,
    "heartbeatInSeconds": 20,
}
CALL = {"region": "us-east-1", "parameters": "{}"}


def task(state, at, ends, resource=LAMBDA, submitted=False):
    """A Task entered at a time, with an attempt for each (scheduled, ended, how it ended, details)."""
    events = [event("TaskStateEntered", at, name=state)]
    for scheduled, end, how, details in ends:
        events.append(event("TaskScheduled", scheduled, **resource, **(SEND if submitted else CALL)))
        events.append(event("TaskStarted", scheduled + 0.1, **resource))
        if submitted:
            events.append(event("TaskSubmitted", scheduled + 0.2, **resource))
        events.append(event(f"Task{how}", end, **resource, **details))
    return events


def child(at, middle, end, output="null", failed=None):
    """The whole history of a child."""
    last = (
        event("ExecutionFailed", end, error=failed)
        if failed
        else event("ExecutionSucceeded", end, output=output)
    )
    return chained(event("ExecutionStarted", at, input="{}"), *middle, last)


DONE = ("Succeeded", {"output": json.dumps({"Payload": {"ok": True}})})
HISTORIES = {
    # Refused twice, then done.
    "throttled": child(
        1,
        task(
            "Work",
            1,
            [
                (1, 2, "Failed", {"error": "Lambda.TooManyRequestsException", "cause": "Rate exceeded"}),
                (3, 4, "Failed", {"error": "Lambda.Unknown", "cause": '{"x": "TooManyRequestsException"}'}),
                (5, 7, *DONE),
            ],
        ),
        7.5,
    ),
    # Its answer tells when the worker took it.
    "told": child(
        1,
        task(
            "Ask",
            1,
            [
                (
                    1,
                    9,
                    "Succeeded",
                    {"output": json.dumps({"service_start": START + 6, "service_end": START + 8.9})},
                )
            ],
            QUEUE,
            submitted=True,
        ),
        9.5,
    ),
    # Theirs do not.
    "first": child(1, task("Ask", 1, [(1, 5, "Succeeded", {"output": "1"})], QUEUE, submitted=True), 5.5),
    "second": child(1, task("Ask", 1, [(1, 8, "Succeeded", {"output": "2"})], QUEUE, submitted=True), 8.5),
    "third": child(1, task("Ask", 1, [(1, 12, "Succeeded", {"output": "3"})], QUEUE, submitted=True), 12.5),
    "silent": child(
        2,
        task("Ask", 2, [(2, 62, "TimedOut", {"error": "States.Timeout"})], QUEUE, submitted=True),
        62.5,
        failed="States.Timeout",
    ),
    "refused": child(
        2,
        task("Ask", 2, [(2, 20, "Failed", {"error": "BadItem", "cause": "no"})], QUEUE, submitted=True),
        20.5,
        failed="BadItem",
    ),
    # The work is done, but what comes after fails.
    "afterwards": child(
        3,
        [*task("Work", 3, [(3, 5, *DONE)]), event("TaskStateExited", 5, name="Work")],
        6,
        failed="States.Runtime",
    ),
}
STOPS = {name: events[-1]["timestamp"] for name, events in HISTORIES.items()}
DEFINITION = {
    "StartAt": "All",
    "States": {
        "All": {
            "Type": "Map",
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED"},
                "StartAt": "Ask",
                "States": {
                    "Ask": CALLBACK,
                    "Work": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke"},
                },
            },
            "End": True,
        }
    },
}
MAP_RUN = "arn:aws:states:us-east-1:123456789012:mapRun:orders/All:1"
ZEROS = dict.fromkeys(
    ("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total", "resultsWritten"), 0
)


class Aws(Engine):
    """AWS as far as it is asked, in answers that botocore's model allows; counts the calls."""

    name = "aws"
    clock_seconds = 0.05
    poll_seconds = 0.01
    log_seconds = 0.0

    def __init__(self, histories, page=3, **others):
        super().__init__()
        self.calls = []
        self.histories, self.page, self.others = histories, page, others

    def versions(self):
        return {}

    def _new_client(self, service):
        real = boto3.client(
            service, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        return Answers(self, real)

    def answer(self, action, asked):
        """What AWS answers to one call."""
        if action in self.others:
            return self.others[action](asked)
        count = len(self.histories)
        token = int(asked.get("nextToken", 0))
        more = {}
        if action == "DescribeExecution":
            return {
                "executionArn": ARN,
                "stateMachineArn": "arn:aws:states:us-east-1:123456789012:stateMachine:orders",
                "name": "monday",
                "status": "SUCCEEDED",
                "startDate": moment(0),
                "stopDate": moment(70),
                "output": "[]",
            }
        if action == "DescribeStateMachineForExecution":
            return {
                "stateMachineArn": "arn",
                "name": "orders",
                "definition": json.dumps(DEFINITION),
                "roleArn": "arn",
                "updateDate": moment(-1),
            }
        if action == "ListMapRuns":
            run = {"executionArn": ARN, "mapRunArn": MAP_RUN, "stateMachineArn": "a", "startDate": moment(1)}
            return {"mapRuns": [run]}
        if action == "DescribeMapRun":
            return {
                "mapRunArn": asked["mapRunArn"],
                "executionArn": ARN,
                "status": "SUCCEEDED",
                "startDate": moment(1),
                "maxConcurrency": 50,
                "toleratedFailurePercentage": 100.0,
                "toleratedFailureCount": 0,
                "itemCounts": ZEROS | {"total": count},
                "executionCounts": ZEROS | {"total": count},
            }
        if action == "ListExecutions":
            names = sorted(self.histories)[token : token + self.page]
            if token + self.page < count:
                more = {"nextToken": str(token + self.page)}
            return {"executions": [self.listed(name) for name in names], **more}
        if action == "GetExecutionHistory":
            events = self.histories[asked["executionArn"].rpartition(":")[2]]
            if token + self.page < len(events):
                more = {"nextToken": str(token + self.page)}
            return {"events": events[token : token + self.page], **more}
        if action == "GetQueueAttributes":
            redrive = json.dumps({"maxReceiveCount": 7, "deadLetterTargetArn": "arn"})
            return {
                "Attributes": {
                    "VisibilityTimeout": "10",
                    "QueueArn": "arn:aws:sqs:us-east-1:123456789012:jobs",
                    "RedrivePolicy": redrive,
                }
            }
        if action == "ListEventSourceMappings":
            function = "arn:aws:lambda:us-east-1:123456789012:function:worker"
            mapping = {"FunctionArn": function, "BatchSize": 5, "ScalingConfig": {"MaximumConcurrency": 2}}
            return {"EventSourceMappings": [mapping | {"State": "Enabled"}]}
        if action == "GetFunctionConfiguration":
            return {"FunctionName": "worker", "Timeout": 30}
        raise AssertionError(f"{action} was not expected")

    def listed(self, name):
        """A child as ListExecutions shows it."""
        events = self.histories[name]
        kind = events[-1]["type"]
        status = {"ExecutionSucceeded": "SUCCEEDED", "ExecutionFailed": "FAILED"}.get(kind, "RUNNING")
        return {
            "executionArn": f"arn:aws:states:us-east-1:123456789012:execution:orders/All:{name}",
            "stateMachineArn": "arn:aws:states:us-east-1:123456789012:stateMachine:orders/All",
            "name": name,
            "status": status,
            "startDate": events[0]["timestamp"],
            **({} if status == "RUNNING" else {"stopDate": events[-1]["timestamp"]}),
        }


class Answers:
    """A client that has the engine answer, and holds the answer against the service's model."""

    def __init__(self, engine, real):
        self.engine, self.meta = engine, real.meta

    def __getattr__(self, operation):
        action = self.meta.method_to_api_mapping[operation]

        def call(**asked):
            self.engine.calls.append(action)
            shapes = self.meta.service_model.operation_model(action)
            self.meta.events.emit(f"before-call.any.{action}", model=shapes, params={"headers": {}})
            assert not ParamValidator().validate(asked, shapes.input_shape).has_errors()
            answer = self.engine.answer(action, asked)
            assert not (problems := ParamValidator().validate(answer, shapes.output_shape)).has_errors(), (
                problems.generate_report()
            )
            return answer

        return call


@pytest.fixture(scope="module")
def aws():
    """The children of HISTORIES as they are observed."""
    return observe.execution(Aws(HISTORIES), ARN, progress=False)


def of(seen, name):
    """The item of this child, and its states."""
    number = seen.children.set_index("name").loc[name, "item"]
    return seen.trace.items.set_index("item").loc[number], seen.states[seen.states["item"] == number]


def test_lanes_and_outcomes_come_from_the_history(aws):
    """A child that went through the queue took the limited lane; how its task ended is its outcome."""
    expected = {
        "throttled": ("direct", "succeeded", 3),
        "told": ("limited", "succeeded", 1),
        "first": ("limited", "succeeded", 1),
        "second": ("limited", "succeeded", 1),
        "third": ("limited", "succeeded", 1),
        "silent": ("limited", "timed_out", 0),
        "refused": ("limited", "failed", 1),
        "afterwards": ("direct", "failed", 0),
    }
    found = {name: tuple(of(aws, name)[0][["lane", "outcome", "attempts"]]) for name in HISTORIES}
    assert expected == found
    checks.verify(aws.trace)


def test_attempts_of_a_state_are_rows(aws):
    """Each retry is a row: waiting until it started, service until it ended; refusals are throttled."""
    _, states = of(aws, "throttled")
    assert states[["state", "attempt", "outcome"]].values.tolist() == [
        ["Work", 1, "throttled"],
        ["Work", 2, "throttled"],
        ["Work", 3, "succeeded"],
    ]
    assert states["waiting"].to_list() == pytest.approx([0.1] * 3)
    assert states["service"].to_list() == pytest.approx([0.9, 0.9, 1.9])


def test_an_answer_tells_waiting_from_service(aws):
    """A callback waits until the worker's own start, where its answer tells it."""
    item, states = of(aws, "told")
    assert (item["enqueued"], item["service_start"], item["service_end"]) == pytest.approx((1.2, 6, 8.9))
    assert states["waiting"].to_list() == pytest.approx([5])


def test_what_answers_do_not_tell_is_estimated(aws):
    """With 2 workers the service of the last began at the earliest when all but one had ended."""
    assert of(aws, "first")[0]["service_start"] == pytest.approx(1.2)
    assert of(aws, "third")[0]["service_start"] == pytest.approx(8)
    assert any("do not tell when" in note for note in aws.notes)


def test_throttles_and_timeouts_are_told_apart(aws):
    """Failures are counted by error, throttles and timeouts each with advice."""
    table = aws.failures.set_index("error")
    assert table["attempts"].to_dict() == {
        "Lambda.TooManyRequestsException": 1,
        "Lambda.Unknown": 1,
        "States.Timeout": 1,
        "BadItem": 1,
        "States.Runtime": 1,
    }
    assert table.loc[["Lambda.TooManyRequestsException", "Lambda.Unknown"], "outcome"].unique() == [
        "throttled"
    ]
    assert table.loc["States.Timeout", "outcome"] == "timed_out"
    assert any("were throttled: 2" in sentence for sentence in aws.diagnosis)


def test_the_account_tells_the_limits(aws):
    """Queue, mapping and history give the experiment's settings; one that AWS would refuse is put right."""
    told = aws.trace.experiment
    assert (told.map_concurrency, told.worker_concurrency, told.batch_size) == (50, 2, 5)
    assert (told.max_receive_count, told.function_timeout_seconds) == (7, 30)
    assert (told.task_timeout_seconds, told.heartbeat_seconds) == (60, 20)
    assert told.visibility_timeout_seconds == 30
    assert any("hides messages for 10 s" in note for note in aws.notes)


def test_pages_are_all_read():
    """However little a page holds, the observation is the same."""
    whole, paged = (observe.execution(Aws(HISTORIES, page), ARN, progress=False) for page in (1000, 1))
    assert whole.states.equals(paged.states)
    assert whole.trace.items.equals(paged.trace.items)
    assert whole.children.equals(paged.children)


def test_what_is_denied_besides_is_a_note():
    """Without the queue the execution is observed all the same; the action that is missing is named."""
    seen = observe.execution(Aws(HISTORIES, GetQueueAttributes=deny), ARN, progress=False)
    assert any("sqs:GetQueueAttributes" in note for note in seen.notes)
    assert len(seen.trace.items) == len(HISTORIES)


def deny(asked):
    raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "any")


@pytest.mark.parametrize(
    "action", ["DescribeExecution", "ListMapRuns", "DescribeMapRun", "ListExecutions", "GetExecutionHistory"]
)
def test_a_missing_permission_is_named(action):
    """Without what an observation needs, the error names the action to allow."""
    with pytest.raises(ObserveError, match=f"do not allow states:{action}"):
        observe.execution(Aws(HISTORIES, **{action: deny}), ARN, progress=False)


def test_botocores_own_error_is_understood(monkeypatch):
    """The code that botocore itself raises for a denial is one of those that are looked for."""
    engine = Aws({})
    real = boto3.client(
        "stepfunctions", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    monkeypatch.setattr(engine, "client", lambda service: real)
    with Stubber(real) as stubbed:
        stubbed.add_client_error("describe_execution", "AccessDeniedException", "not authorized", 400)
        with pytest.raises(ObserveError, match="states:DescribeExecution"):
            observe.execution(engine, ARN)
        stubbed.add_client_error("describe_execution", "ExecutionDoesNotExist", "no", 400)
        with pytest.raises(ObserveError, match="does not exist"):
            observe.execution(engine, ARN)


def test_a_result_tells_when_it_came_back():
    """A child of the lab's tells its own arrival and return, which are nearer than those of its execution."""
    times = {"arrival": moment(1.25).isoformat(), "returned": moment(6.75).isoformat()}
    result = {"item": 0, "lane": "direct", "answer": {}} | times
    histories = {"one": child(1, task("Work", 1, [(2, 6, *DONE)]), 7, json.dumps(result))}
    engine = Aws(histories, FilterLogEvents=lambda asked: {"events": []})
    seen = observe.execution(engine, ARN, progress=False)
    assert seen.trace.items[["arrival", "returned"]].values.tolist() == [[1.25, 6.75]]
    assert seen.children[["arrival", "returned"]].values.tolist() == [[1, 7]]


def test_children_under_way_show_what_they_wait_for():
    """Of a running child there is the attempt under way, by its state, and no item yet."""
    begun = task("Ask", 2, [(2, 9, *DONE)], QUEUE, submitted=True)[:-1]
    histories = {"first": HISTORIES["first"], "later": child(2, begun, 9)[:-1]}
    histories["third"] = HISTORIES["third"][:-1]  # answered, and not ended yet
    described = Aws({}).answer("DescribeExecution", {}) | {"status": "RUNNING"}
    del described["stopDate"], described["output"]
    engine = Aws(histories, DescribeExecution=lambda asked: described)
    seen = observe.execution(engine, ARN, progress=False)
    assert len(seen.trace.items) == 1
    assert list(seen.states["outcome"]) == ["succeeded", "succeeded", "running"]
    assert seen.states["service"].notna().to_list() == [True, False, False]  # nobody tells of the others yet
    assert any("Under way in Ask: 1" in sentence for sentence in seen.diagnosis)


def test_several_map_runs_are_one_list():
    """Children of all Map Runs are items; a note says so, and that an Express child has no history."""
    engine = Aws(HISTORIES)
    [run] = engine.answer("ListMapRuns", {})["mapRuns"]
    runs = [run, run | {"mapRunArn": MAP_RUN.replace(":1", ":2")}]
    engine.others["ListMapRuns"] = lambda asked: {"mapRuns": runs}
    arn = "arn:aws:states:us-east-1:123456789012:express:orders/All:quick:1"

    def listed(asked):
        if asked["mapRunArn"].endswith("1"):
            return {"executions": [engine.listed(name) for name in HISTORIES]}
        return {"executions": [engine.listed("first") | {"executionArn": arn, "name": "quick"}]}

    engine.others["ListExecutions"] = listed
    seen = observe.execution(engine, ARN, progress=False)
    assert len(seen.children) == len(HISTORIES) + 1
    assert len(seen.trace.items) == len(HISTORIES)
    assert seen.trace.experiment.map_concurrency == 100
    assert any("2 Map Runs" in note for note in seen.notes)
    assert any("1 children are Express" in note for note in seen.notes)


def test_logs_tell_of_deliveries_that_the_history_does_not():
    """A message that came back until its last delivery is a dead letter, with the attempts of the log."""
    result = {"item": 0, "lane": "limited", "error": {"Error": "States.Timeout", "Cause": ""}}
    asked = task("Ask", 1, [(1, 61, "TimedOut", {"error": "States.Timeout"})], QUEUE, submitted=True)
    histories = {"one": child(1, asked, 62, json.dumps(result))}
    lines = []
    for n in range(1, 8):
        about = {"item": 0, "attempt": n, "worker": "w"}
        lines.append({"attempt_started": about | {"enqueued": START + 1.19, "start": START + n}})
        if n > 1:
            lines.append({"attempt_ended": about | {"end": START + n + 0.5, "outcome": "failed"}})
    answer = {"events": [{"message": json.dumps(line) + "\n"} for line in lines]}
    seen = observe.execution(Aws(histories, FilterLogEvents=lambda asked: answer), ARN, progress=False)
    checks.verify(seen.trace)
    [item] = seen.trace.items.to_dict("records")
    assert (item["outcome"], item["attempts"], item["enqueued"]) == ("dead_lettered", 7, pytest.approx(1.19))
    failed = seen.failures.set_index("error")["attempts"].to_dict()
    assert failed == {REDELIVERED: 6, LOST: 1, "States.Timeout": 1}


def test_logs_on_their_way_are_waited_for():
    """Where the log does not have an answered attempt yet, it is read again until it has."""
    about = {"item": 0, "attempt": 2, "worker": "w", "enqueued": START + 1.2}
    answer = about | {"service_start": START + 5, "service_end": START + 6}
    result = {"item": 0, "lane": "limited", "answer": answer}
    asked = task("Ask", 1, [(1, 6, "Succeeded", {"output": json.dumps(answer)})], QUEUE, submitted=True)
    first = about | {"attempt": 1}
    lines = [
        {"attempt_started": first | {"start": START + 2}},
        {"attempt_ended": first | {"end": START + 3, "outcome": "failed"}},
        {"attempt_started": about | {"start": START + 5}},
        {"attempt_ended": about | {"end": START + 6, "outcome": "succeeded"}},
    ]
    pages = iter([lines[:2], lines[:3], lines])

    def found(asked):
        return {"events": [{"message": json.dumps(line) + "\n"} for line in next(pages)]}

    engine = Aws({"one": child(1, asked, 7, json.dumps(result))}, FilterLogEvents=found)
    engine.log_seconds = math.inf
    seen = observe.execution(engine, ARN, progress=False)
    checks.verify(seen.trace)
    assert list(seen.trace.attempts["outcome"]) == ["failed", "succeeded"]
    assert list(pages) == []


# --- Inline Maps and branches ---


def test_a_fail_state_failed_whatever_caught_it():
    """A Fail state that a Catch outside of it caught has failed, though its execution succeeded."""
    events = chained(
        event("ExecutionStarted", 0, input="{}"),
        event("ParallelStateEntered", 0, name="Both"),
        event("ParallelStateStarted", 0),
        event("FailStateEntered", 1, name="No"),
        event("ParallelStateFailed", 1),
        event("ParallelStateExited", 1, name="Both"),
        event("ExecutionSucceeded", 1, output="1"),
    )
    told = history.read(events, {}, "SUCCEEDED", START + 1)
    assert {a.state: a.outcome for a in told.attempts} == {"Both": "succeeded", "No": "failed"}
    assert (told.whole, told.output) == (True, 1)


def iteration(index, at, work):
    """The events of one iteration after MapStateStarted, with a task that takes `work` seconds."""
    return [
        event("MapIterationStarted", at, name="Each", index=index),
        *task("Work", at, [(at, at + work, *DONE)]),
        event("TaskStateExited", at + work, name="Work"),
        event("MapIterationSucceeded", at + work, name="Each", index=index),
    ]


@st.composite
def interleaved(draw):
    """The history of an inline Map whose iterations' events lie between each other in any order."""
    works = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    head = [event("ExecutionStarted", 0, input="{}"), event("MapStateEntered", 0, name="Each")]
    events = chained(*head, event("MapStateStarted", 0, length=len(works)))
    branches = [iteration(index, 1, work) for index, work in enumerate(works)]
    last = dict.fromkeys(range(len(works)), len(events))
    order = draw(st.permutations([n for n, branch in enumerate(branches) for _ in branch]))
    for n in order:
        events.append(branches[n].pop(0) | {"id": len(events) + 1, "previousEventId": last[n]})
        last[n] = len(events)
    for kind, details in (
        ("MapStateSucceeded", {}),
        ("MapStateExited", {"name": "Each"}),
        ("ExecutionSucceeded", {}),
    ):
        events.append(event(kind, 20, **details) | {"id": len(events) + 1, "previousEventId": len(events)})
    return works, events


@given(interleaved())
def test_iterations_are_told_apart_in_any_order(drawn):
    """By previousEventId each iteration has its own task, whatever lies between its events."""
    works, events = drawn
    told = history.read(events, {}, "SUCCEEDED", START + 20)
    found = {told.iterations[a.iteration].name: a for a in told.attempts if a.iteration is not None}
    assert {f"Each[{n}]": work for n, work in enumerate(works)} == {
        name: round(attempt.ended - attempt.scheduled) for name, attempt in found.items()
    }
    assert {each.status for each in told.iterations.values()} == {"SUCCEEDED"}
    outside = [a for a in told.attempts if a.iteration is None]
    assert [(a.state, a.outcome) for a in outside] == [("Each", "succeeded")]


def test_an_iteration_lies_beside_the_one_whose_place_it_takes():
    """Under MaxConcurrency the event before a new iteration is the last one in an iteration that is over."""
    head = [event("ExecutionStarted", 0, input="{}"), event("MapStateEntered", 0, name="Each")]
    events = chained(*head, event("MapStateStarted", 0, length=3))
    last = len(events)
    for index in range(3):
        *inside, over = iteration(index, 5 * index, 2)
        for one in inside:
            events.append(one | {"id": len(events) + 1, "previousEventId": last})
            last = len(events)
        events.append(over | {"id": len(events) + 1, "previousEventId": last})
    told = history.read(events, {}, "SUCCEEDED", START + 20)
    assert [(f"Each[{n}]", "SUCCEEDED", START + 5 * n + 2) for n in range(3)] == [
        (each.name, each.status, each.ended) for each in told.iterations.values()
    ]
    tasks = [attempt.iteration for attempt in told.attempts if attempt.state == "Work"]
    assert list(told.iterations) == tasks


def test_tasks_that_overlap_in_a_history_without_branches():
    """They are matched first in, first out, and their item is served for its whole life."""
    events = [
        event("MapStateEntered", 1, name="Each"),
        event("TaskScheduled", 2, **LAMBDA, **CALL),
        event("TaskScheduled", 3, **LAMBDA, **CALL),
        event("TaskSucceeded", 5, **LAMBDA, output="1"),
        event("TaskSucceeded", 9, **LAMBDA, output="2"),
        event("MapStateExited", 9, name="Each"),
    ]
    events = [each | {"id": n} for n, each in enumerate(events)]
    seen = observe.execution(
        Aws({"monday": events}, ListMapRuns=lambda asked: {"mapRuns": []}), ARN, progress=False
    )
    checks.verify(seen.trace)
    assert seen.trace.items[["service_start", "service_end"]].values.tolist() == [[0, 70]]
    assert seen.states["service"].to_list() == [8, 3, 6]
    assert not (seen.states["waiting"] < 0).any()


def test_the_iterations_of_an_inline_map_are_items():
    """Each iteration is an item with its own times; the Map's own row belongs to none of them."""
    events = chained(
        event("ExecutionStarted", 0, input="{}"),
        event("MapStateEntered", 0, name="Each"),
        event("MapStateStarted", 0, length=2),
        *iteration(0, 1, 2),
        *iteration(1, 2, 5),
        event("MapStateExited", 8, name="Each"),
        event("ExecutionSucceeded", 8, output="[]"),
    )
    inline = {"StartAt": "Each", "States": {"Each": {"Type": "Map", "MaxConcurrency": 4}}}
    machine = {"stateMachineArn": "a", "name": "orders", "roleArn": "a", "updateDate": moment(0)}
    engine = Aws(
        {"monday": events},
        ListMapRuns=lambda asked: {"mapRuns": []},
        DescribeStateMachineForExecution=lambda asked: machine | {"definition": json.dumps(inline)},
    )
    seen = observe.execution(engine, ARN, progress=False)
    checks.verify(seen.trace)
    assert list(seen.children["name"]) == ["Each[0]", "Each[1]"]
    assert seen.trace.items["arrival"].to_list() == [1, 2]
    assert seen.trace.items["returned"].to_list() == [3, 7]
    assert seen.trace.experiment.map_concurrency == 4
    assert list(seen.states["item"]) == [0, 1, -1]


# --- Whatever an account holds ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "item",
                    "lane",
                    "answer",
                    "error",
                    "Error",
                    "Payload",
                    "arrival",
                    "service_start",
                    "service_end",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.lists(JSON, min_size=1, max_size=3), st.booleans())
@example([{"service_start": 1, "service_end": 2}], True)
@example([{"item": 0, "lane": "limited", "answer": {"Payload": [0]}, "error": None}], False)
@example([{"item": 0, "lane": "direct", "error": {"Error": 5}, "arrival": []}], False)
def test_any_result_is_observed(results, queued):
    """Whatever children answer, what is observed of them is a valid trace."""
    histories = {}
    for n, result in enumerate(results):
        answer = [(1, 5 + n, "Succeeded", {"output": json.dumps(result)})]
        middle = task("Ask", 1, answer, QUEUE if queued else LAMBDA, submitted=queued)
        histories[f"child-{n}"] = child(1, middle, 9, json.dumps(result))
    engine = Aws(histories, FilterLogEvents=lambda asked: {"events": []})
    checks.verify(observe.execution(engine, ARN, progress=False).trace)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30), st.integers(1, 5))
def test_an_estimate_keeps_to_the_workers(drawn, workers):
    """Never more of the estimated services at once than there are workers, each within its own time."""
    tries = [{"start": min(pair), "end": max(pair), "guessed": True} for pair in drawn]
    sent = {id(attempt): attempt["start"] for attempt in tries}
    items._estimate([], tries, {"worker_concurrency": workers}, 1.0)
    counted = metrics.steps([t["start"] for t in tries], [t["end"] for t in tries])[1]
    assert counted.max(initial=0) <= workers
    assert all(sent[id(attempt)] <= attempt["start"] <= attempt["end"] for attempt in tries)


# --- Bad input and quotas ---


class Unasked(Aws):
    """An engine that must not be called."""

    def client(self, service):
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("arn", "told"),
    [
        ("monday", "'monday': is no ARN"),
        ("", "is no ARN"),
        (None, "is no ARN"),
        ("arn:aws:sqs:us-east-1:123456789012:jobs", "service 'sqs'"),
        ("arn:aws:lambda:us-east-1:123456789012:function:worker", "service 'lambda'"),
        ("arn:aws:states:us-east-1:123456789012:stateMachine:orders", "list-executions"),
        ("arn:aws:states:us-east-1:123456789012:mapRun:orders/All:1", "describe-map-run"),
        ("arn:aws:states:us-east-1:123456789012:express:orders:monday:1", "Express"),
        ("arn:aws:states:us-east-1:123456789012:activity:orders", "kind 'activity'"),
        ("arn:aws:states:us-east-1:123456789012:execution:orders", "does not name"),
        (ARN + ":more", "does not name"),
    ],
)
def test_what_is_no_execution_is_refused(arn, told):
    """Before any call, with what it is and what to give instead."""
    with pytest.raises(ObserveError) as refused:
        observe.execution(Unasked({}), arn)
    assert told in str(refused.value)
    assert "give" in str(refused.value)


@pytest.mark.parametrize("sample", [0, -1, 1.5, True, "9"])
def test_a_sample_is_a_number_of_children(sample):
    """Anything else is refused before any call."""
    with pytest.raises(ObserveError, match="sample="):
        observe.execution(Unasked({}), ARN, sample=sample)


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@given(
    st.integers(1, 20),
    st.floats(0.5, 50),
    st.lists(st.floats(0, 3), min_size=1, max_size=100),
)
def test_calls_keep_to_the_quota(size, rate, pauses):
    """In no time t are there more than size + rate * t calls, and as many are made where they are wanted."""
    clock = Clock()
    bucket = Bucket(size, rate, clock, clock.sleep)
    calls = []
    for pause in pauses:
        clock.sleep(pause)
        bucket.take()
        calls.append(clock.now)
    at = np.array(calls)
    number = np.arange(len(at))
    within = (number[None, :] - number[:, None] + 1) <= size + rate * (at[None, :] - at[:, None]) + 1e-6
    assert within[np.triu_indices(len(at))].all()
    # Nobody waits for longer than the quota makes him: the last call is when the slowest stretch allows it.
    arrived = np.cumsum(pauses)
    assert at[-1] <= arrived[-1] + len(pauses) / rate


def test_each_call_takes_from_its_own_quota(monkeypatch):
    """Off the embedded engine every call with a quota is paced by it, and no other call is."""
    taken = []
    monkeypatch.setattr(Bucket, "take", lambda self: taken.append((self._size, self._rate)))
    engine = Aws(HISTORIES)
    observe.execution(engine, ARN, progress=False)
    assert sorted(taken) == sorted(QUOTAS[action] for action in engine.calls if action in QUOTAS)
    assert len(taken) > 2 * len(HISTORIES)


def test_where_calls_have_quotas_a_sample_is_read(monkeypatch):
    """Unless asked otherwise, no more histories are read than SAMPLE; on the embedded engine all are."""
    monkeypatch.setattr(observe, "SAMPLE", 3)
    seen = observe.execution(Aws(HISTORIES, page=1000), ARN, progress=False)
    assert len(seen.trace.items) == 3
    assert len(seen.children) == len(HISTORIES)
    assert list(np.flatnonzero(seen.children["item"].isin(seen.trace.items["item"]))) == [0, 4, 7]
