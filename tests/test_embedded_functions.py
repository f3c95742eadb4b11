"""The embedded engine's Lambda functions, their event source mappings and logs do what AWS documents."""

import functools
import io
import json
import os
import sys
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import SimpleNamespace

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from machines import ROLE, callback, distributed, ended, machine

from helpers.drills import until
from helpers.engines import connect, embedded, local

sys.path.append(embedded.Server.program)  # whose modules are found where they lie

import functions


def function(engine, code: str, file: str = "index.py", **fields) -> str:
    """Create a function from the text of its file and return its name."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(file, code)
    settings = {"Runtime": "python3.13", "Role": ROLE, "Handler": "index.handler"} | fields
    package = {"ZipFile": packed.getvalue()}
    engine.client("lambda").create_function(FunctionName=name, Code=package, **settings)
    return name


def log_lines(engine, name: str) -> list[str]:
    """All that a function has logged so far."""
    logs = engine.client("logs")
    found = logs.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{name}")
    try:
        return [event["message"] for page in found for event in page["events"]]
    except logs.exceptions.ResourceNotFoundException:  # its first invocation makes the group
        return []


def queue(engine, **attributes: object) -> tuple[str, str]:
    """Create a queue and return its URL and its ARN."""
    sqs = engine.client("sqs")
    texts = {name: str(value) for name, value in attributes.items()}
    url = sqs.create_queue(QueueName=f"test-{uuid.uuid4().hex[:8]}", Attributes=texts)["QueueUrl"]
    known = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, known["Attributes"]["QueueArn"]


def send(engine, url: str, number: int) -> None:
    for n in range(number):
        engine.client("sqs").send_message(QueueUrl=url, MessageBody=str(n))


def count(engine, url: str, what: str = "") -> int:
    name = f"ApproximateNumberOfMessages{what}"
    found = engine.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=[name])
    return int(found["Attributes"][name])


def mapping(engine, name: str, arn: str, concurrency: int = 10, **fields) -> str:
    """Create an event source mapping and return its UUID."""
    settings = {"BatchSize": 1, "ScalingConfig": {"MaximumConcurrency": concurrency}} | fields
    client = engine.client("lambda")
    return client.create_event_source_mapping(FunctionName=name, EventSourceArn=arn, **settings)["UUID"]


TELLS = """
import json, time
def handler(event, context):
    start = time.time()
    time.sleep(0.2)
    received = [record["attributes"]["ApproximateReceiveCount"] for record in event["Records"]]
    print(json.dumps({"received": received, "start": start, "end": time.time()}), flush=True)
"""
"""A handler that tells its batch: how often each message was received, and when it began and ended."""


def batches(engine, name: str) -> list[dict]:
    """What TELLS has told so far, in the order of the starts."""
    told = [json.loads(line) for line in log_lines(engine, name) if line.startswith("{")]
    return sorted(told, key=lambda batch: batch["start"])


def at_once(found: list[dict]) -> int:
    """The most batches that were in service at the same time."""
    return max(sum(a["start"] <= b["start"] < a["end"] for a in found) for b in found)


def test_logs_of_concurrent_invocations_are_whole(engine):
    """Each line that a handler prints is logged, its last included, however many run at once."""
    code = (
        "import time\n"
        "def handler(event, context):\n"
        "    for n in range(3):\n"
        "        print('line', event['call'], n, flush=True)\n"
        "        time.sleep(0.02)\n"
    )
    name = function(engine, code)

    def call(number: int) -> None:
        engine.client("lambda").invoke(FunctionName=name, Payload=json.dumps({"call": number}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(80)))
    assert {f"line {call} {n}" for call in range(80) for n in range(3)} <= set(log_lines(engine, name))


@pytest.mark.parametrize(("raised", "name"), [("Bad('two\\\\nlines: 1')", "Bad"), ("KeyError", "KeyError")])
def test_a_handler_error_is_named_after_its_class(engine, raised, name):
    """A handler's exception is an error of its class, with its message or without."""
    code = f"class Bad(Exception):\n    pass\ndef handler(event, context):\n    raise {raised}\n"
    answer = engine.client("lambda").invoke(FunctionName=function(engine, code), Payload=b"{}")
    assert answer["FunctionError"]
    assert json.load(answer["Payload"])["errorType"] == name


def test_a_workers_log_is_read_from_its_own_pipe_alone(monkeypatch):
    """What comes to a pipe that has the number of a dead worker's, is left to those who wait for it."""
    reads, writes = os.pipe()
    log = os.fdopen(reads)
    anothers = []

    class Poll:
        """Between its end and the next look, the worker is given up and its number taken."""

        def register(self, *_):
            os.close(writes)

        def poll(self):
            log.close()
            anothers.extend(os.pipe())
            assert anothers[0] == reads
            os.write(anothers[1], b"for another")

    monkeypatch.setattr(functions.select, "poll", Poll)
    worker = type("Worker", (), {})
    functions.whole_logs(worker)
    given_up = worker()
    given_up._proc, given_up._stderr_queue = SimpleNamespace(stderr=log), SimpleQueue()
    given_up._read_stderr()
    os.close(anothers[1])
    with os.fdopen(anothers[0], "rb") as pipe:
        assert pipe.read() == b"for another"


def test_log_events_are_paged(engine):
    """FilterLogEvents gives all events, each once, however many there are."""
    logs = engine.client("logs")
    logs.create_log_group(logGroupName="test-pages")
    logs.create_log_stream(logGroupName="test-pages", logStreamName="s")
    now = int(time.time() * 1000)
    for first in range(0, 21_000, 3_000):
        events = [{"timestamp": now + n // 10, "message": str(n)} for n in range(first, first + 3_000)]
        logs.put_log_events(logGroupName="test-pages", logStreamName="s", logEvents=events)
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName="test-pages")
    found = [int(event["message"]) for page in pages for event in page["events"]]
    assert sorted(found) == list(range(21_000))


def test_throttled_messages_use_up_their_receives(engine):
    """Reserved concurrency does not hold a mapping back: what is throttled until its visibility timeout has
    been received, and after maxReceiveCount lies in the dead-letter queue."""
    dead_url, dead_arn = queue(engine)
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 2})
    url, arn = queue(engine, VisibilityTimeout=2, RedrivePolicy=redrive)
    name = function(engine, TELLS, Timeout=1)
    engine.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    send(engine, url, 6)
    mapping(engine, name, arn)
    until(lambda: count(engine, url, "NotVisible") == 6, "six in flight")
    until(lambda: count(engine, dead_url) == 6, "six dead letters")
    assert not count(engine, url)


def test_a_throttled_batch_is_tried_again(engine):
    """Within its visibility timeout a throttled batch gets its turn, by one receive; no more run at once than
    are reserved."""
    url, arn = queue(engine)
    name = function(engine, TELLS)
    engine.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    send(engine, url, 3)
    mapping(engine, name, arn)
    until(lambda: len(batches(engine, name)) == 3, "three batches")
    found = batches(engine, name)
    assert [batch["received"] for batch in found] == [["1"]] * 3
    assert at_once(found) == 1


def test_maximum_concurrency_changes_at_run_time(engine, tmp_path):
    """UpdateEventSourceMapping raises and lowers how many batches are in service at once."""
    code = (
        "import pathlib, time\n"
        "def handler(event, context):\n"
        "    until = pathlib.Path(event['Records'][0]['body'])\n"
        "    while not until.exists():\n"
        "        time.sleep(0.02)\n"
    )
    url, arn = queue(engine, VisibilityTimeout=600)
    name = function(engine, code, Timeout=300)
    client = engine.client("lambda")
    paths = [tmp_path / str(n) for n in range(20)]
    for path in paths:
        engine.client("sqs").send_message(QueueUrl=url, MessageBody=str(path))
    uuid_ = mapping(engine, name, arn, concurrency=2)
    until(lambda: count(engine, url, "NotVisible") == 2, "two in flight")
    client.update_event_source_mapping(UUID=uuid_, ScalingConfig={"MaximumConcurrency": 5})
    until(lambda: count(engine, url, "NotVisible") == 5, "five in flight")
    client.update_event_source_mapping(UUID=uuid_, ScalingConfig={"MaximumConcurrency": 3})
    for path in paths[:5]:
        path.touch()
    until(lambda: (count(engine, url), count(engine, url, "NotVisible")) == (12, 3), "three in flight")
    time.sleep(0.5)  # time enough for a fourth
    assert count(engine, url, "NotVisible") == 3
    for path in paths[5:]:
        path.touch()
    until(lambda: (count(engine, url), count(engine, url, "NotVisible")) == (0, 0), "an empty queue")


@pytest.mark.parametrize(("size", "window", "sent"), [(10, 3, 3), (2, 300, 2), (15, 300, 15)])
def test_a_batching_window_gathers_messages(engine, size, window, sent):
    """A batch goes when it has BatchSize messages, more than 10 too, or when its window is over."""
    url, arn = queue(engine)
    name = function(engine, TELLS)
    mapping(engine, name, arn, BatchSize=size, MaximumBatchingWindowInSeconds=window)
    send(engine, url, 1)
    until(lambda: count(engine, url, "NotVisible") == 1, "one in flight")
    send(engine, url, sent - 1)
    until(lambda: not count(engine, url) + count(engine, url, "NotVisible"), "an empty queue")
    assert [sent] == [len(batch["received"]) for batch in batches(engine, name)]


def test_a_throttled_task_fails_by_name(engine):
    """A state can catch what Lambda throttles as Lambda.TooManyRequestsException."""
    name = function(engine, TELLS)
    engine.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    invoke = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": name},
        "Catch": [{"ErrorEquals": ["Lambda.TooManyRequestsException"], "Next": "Throttled"}],
        "End": True,
    }
    states = {"Invoke": invoke, "Throttled": {"Type": "Pass", "Result": "throttled", "End": True}}
    described = ended(engine, machine(engine, states, "Invoke"), {})
    assert json.loads(described["output"]) == "throttled"


def stack(engine, resources: dict, name: str = "") -> str:
    """Create a stack of these resources, or update the one of this name; return its name once it is made."""
    cfn = engine.client("cloudformation")
    body = json.dumps({"Resources": resources})
    if name:
        cfn.update_stack(StackName=name, TemplateBody=body)
        cfn.get_waiter("stack_update_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
        return name
    name = f"test-{uuid.uuid4().hex[:8]}"
    cfn.create_stack(StackName=name, TemplateBody=body)
    until(lambda: not stack_status(engine, name).endswith("IN_PROGRESS"), "the end of the change")
    return name


def stack_status(engine, name: str) -> str:
    return engine.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]


def resource(engine, name: str, logical_id: str) -> str:
    """The physical id of a stack's resource."""
    found = engine.client("cloudformation").describe_stack_resource(
        StackName=name, LogicalResourceId=logical_id
    )
    return found["StackResourceDetail"]["PhysicalResourceId"]


def templated(code: str, **properties) -> dict:
    """A function in a template."""
    settings = {"Runtime": "python3.13", "Role": ROLE, "Handler": "index.handler", "Code": {"ZipFile": code}}
    return {"Type": "AWS::Lambda::Function", "Properties": settings | properties}


def test_a_template_reserves_concurrency(engine):
    """ReservedConcurrentExecutions of a template is the function's, and an update's; without it there is
    none."""
    client = engine.client("lambda")
    name = stack(engine, {"Function": templated(TELLS, ReservedConcurrentExecutions=2)})
    function_name = resource(engine, name, "Function")
    assert client.get_function_concurrency(FunctionName=function_name)["ReservedConcurrentExecutions"] == 2
    stack(engine, {"Function": templated(TELLS, ReservedConcurrentExecutions="3")}, name)
    assert client.get_function_concurrency(FunctionName=function_name)["ReservedConcurrentExecutions"] == 3
    stack(engine, {"Function": templated(TELLS)}, name)
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=function_name)


REFUSED = [
    {"ScalingConfig": {"MaximumConcurrency": 1}},
    {"BatchSize": 11},
    {"FunctionName": {"Ref": "Slow"}},
]
"""What Lambda refuses of a mapping to a queue whose messages are hidden for 30 s."""


@pytest.mark.parametrize("settings", REFUSED)
def test_a_mapping_that_is_refused_rolls_its_stack_back(engine, settings):
    """A resource that cannot be made ends the stack as ROLLBACK_COMPLETE, and its other resources go."""
    queue_name = f"test-{uuid.uuid4().hex[:8]}"
    properties = {"EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]}, "FunctionName": {"Ref": "Function"}}
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": queue_name}},
        "Function": templated(TELLS),
        "Slow": templated(TELLS, Timeout=31),
        "Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": properties | settings},
    }
    assert stack_status(engine, stack(engine, resources)) == "ROLLBACK_COMPLETE"
    with pytest.raises(ClientError, match="NonExistentQueue"):
        engine.client("sqs").get_queue_url(QueueName=queue_name)


@pytest.mark.parametrize(
    ("settings", "timeout"), [({"BatchSize": 11}, 3), ({}, 31)], ids=["no window", "slow function"]
)
def test_a_mapping_that_is_refused_is_not_made(engine, settings, timeout):
    """CreateEventSourceMapping refuses a batch above 10 without a window, and a function that may take longer
    than messages are hidden; right below either it does not."""
    _, arn = queue(engine)
    client = engine.client("lambda")
    name = function(engine, TELLS, Timeout=timeout)
    with pytest.raises(client.exceptions.InvalidParameterValueException):
        mapping(engine, name, arn, **settings)
    assert not client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"]
    client.update_function_configuration(FunctionName=name, Timeout=30)
    mapping(engine, name, arn, BatchSize=10)


NOTES_ITS_PROCESS = """
import os, pathlib, time
pathlib.Path(os.environ["NOTES"], str(os.getpid())).touch()
time.sleep(float(os.environ["START_SECONDS"]))
def handler(event, context):
    print("busy", flush=True)
    time.sleep(event)
"""
"""A handler whose process notes its number as the name of a file when it starts."""


def test_workers_end_with_their_function(engine, tmp_path):
    """A function that is deleted leaves no worker: none that idles, is busy, starts, or would start when an
    asynchronous invocation that failed is tried again."""
    lambda_, cfn = engine.client("lambda"), engine.client("cloudformation")
    cases = (("idle", 1, 0, 0), ("busy", 1, 0, 50), ("start", 3, 2, 0))
    functions = {}
    for by in ("DeleteFunction", "CloudFormation"):
        for what, workers, start_seconds, busy_seconds in cases:
            notes = tmp_path / by / what
            notes.mkdir(parents=True)
            variables = {"NOTES": str(notes), "START_SECONDS": str(start_seconds)}
            settings = {"Environment": {"Variables": variables}, "Timeout": 60}
            if by == "CloudFormation":
                made = stack(engine, {"Function": templated(NOTES_ITS_PROCESS, **settings)})
                name = resource(engine, made, "Function")
                functions[notes] = functools.partial(cfn.delete_stack, StackName=made)
            else:
                name = function(engine, NOTES_ITS_PROCESS, **settings)
                functions[notes] = functools.partial(lambda_.delete_function, FunctionName=name)
            for _ in range(workers):
                seconds = json.dumps(busy_seconds)
                lambda_.invoke(FunctionName=name, InvocationType="Event", Payload=seconds)
    for notes, delete in functions.items():
        until(lambda notes=notes: any(notes.iterdir()), "the first note")
        delete()
    time.sleep(4)  # past the retries of asynchronous invocations, the second of which comes after 3 s
    # One that was busy with its task for long would end by itself, too.
    workers = tmp_path.rglob
    until(lambda: not any(alive(int(path.name)) for path in workers("[0-9]*")), "the end of all workers", 40)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_account_has_a_concurrency_limit_and_sigterm_leaves_no_worker(monkeypatch, tmp_path):
    """All functions together run LAMBDA_ACCOUNT_CONCURRENCY at once, a further invocation is throttled; an
    engine that gets SIGTERM ends with its workers, though some are busy and a state waits for its answer."""
    for variable in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LAMBDA_ACCOUNT_CONCURRENCY", "2")
    monkeypatch.setattr(local, "KEPT", tmp_path / "kept")
    notes = tmp_path / "notes"
    notes.mkdir()
    with connect("embedded") as engine:
        variables = {"NOTES": str(notes), "START_SECONDS": "0"}
        settings = {"Environment": {"Variables": variables}, "Timeout": 300}
        one, other = (function(engine, NOTES_ITS_PROCESS, **settings) for _ in range(2))
        client = engine.client("lambda")
        for name in (one, other):
            client.invoke(FunctionName=name, InvocationType="Event", Payload="200")
        until(lambda: len(list(notes.iterdir())) == 2, "two notes")
        limit = client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
        impatient = engine._session.client("lambda", config=Config(retries={"total_max_attempts": 1}))
        with pytest.raises(impatient.exceptions.TooManyRequestsException) as refused:
            impatient.invoke(FunctionName=other, Payload="0")
        sfn = engine.client("stepfunctions")
        url, _ = queue(engine)
        states = distributed(callback(url, TimeoutSeconds=600), "Wait")
        states["Map"]["ItemProcessor"]["ProcessorConfig"] = {"Mode": "INLINE"}
        sfn.start_execution(stateMachineArn=machine(engine, states, "Map"), input='{"items": [1]}')
        until(lambda: count(engine, url) == 1, "one message back")
        workers = [psutil.Process(int(path.name)) for path in notes.iterdir()]
        server = psutil.Process(engine._own.pid)
        children = server.children(recursive=True)
        server.terminate()
        assert not psutil.wait_procs([server, *workers, *children], timeout=60)[1]
    assert limit == 2
    assert refused.value.response["Reason"] == "ConcurrentInvocationLimitExceeded"


ANSWERS = """
import json
def handler(event, context):
    print("called", flush=True)
    return json.loads('''ANSWER''')
"""


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, 1),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, 1),
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, 1),
        ({"batchItemFailures": [{"ItemIdentifier": "misspelt"}]}, 1),
        ({"batchItemFailures": "text"}, 1),
        ({"batchItemFailures": []}, 0),
        ({"batchItemFailures": None}, 0),
        ({"BatchItemFailures": [{"itemIdentifier": "unheard"}]}, 0),
        (None, 0),
    ],
    ids=str,
)
def test_an_answer_that_names_no_message_fails_its_batch(engine, answer, left):
    """A message stays after an identifier that is not its own, and is deleted where none failed."""
    name = function(engine, ANSWERS.replace("ANSWER", json.dumps(answer)))
    url, arn = queue(engine, VisibilityTimeout=3600)
    send(engine, url, 1)
    mapping(engine, name, arn, FunctionResponseTypes=["ReportBatchItemFailures"])
    until(lambda: any("called" in line for line in log_lines(engine, name)), "the call in the log")
    until(lambda: count(engine, url) == 0 and count(engine, url, "NotVisible") == left, "what is left")


PIPED = """
import json
def handler(event, context):
    print(json.dumps({"bodies": [record["body"] for record in event]}), flush=True)
    bad = [record["messageId"] for record in event if record["body"] == "0"]
    return {"batchItemFailures": [{"itemIdentifier": one} for one in bad]}
"""


def test_a_pipe_hands_over_batches_and_keeps_what_failed(engine):
    """A pipe gives its function an array of up to BatchSize messages, and deletes those that it did not name.

    A pipe that is stopped takes no more."""
    name, (url, source) = function(engine, PIPED), queue(engine, VisibilityTimeout="600")
    send(engine, url, 4)
    pipes, arn = engine.client("pipes"), engine.client("lambda").get_function(FunctionName=name)
    pipes.create_pipe(
        Name=name,
        RoleArn=ROLE,
        Source=source,
        SourceParameters={"SqsQueueParameters": {"BatchSize": 2}},
        Target=arn["Configuration"]["FunctionArn"],
    )
    until(lambda: (count(engine, url), count(engine, url, "NotVisible")) == (0, 1), "one in flight alone")
    bodies = [json.loads(line)["bodies"] for line in log_lines(engine, name) if line.startswith("{")]
    assert sorted(bodies) == [["0", "1"], ["2", "3"]]
    pipes.stop_pipe(Name=name)
    send(engine, url, 1)
    time.sleep(1.5)  # longer than the poller sleeps
    assert count(engine, url) == 1
    pipes.delete_pipe(Name=name)


@pytest.mark.parametrize("change", ["code", "configuration"])
def test_an_update_lets_running_invocations_end(engine, tmp_path, change):
    """An invocation that began before an update ends as it began; the next one runs what is new."""
    begun, may_end = tmp_path / "begun", tmp_path / "may_end"
    code = (
        "import os, pathlib, time\n"
        "def handler(event, context):\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not os.path.exists({str(may_end)!r}):\n"
        "        time.sleep(0.01)\n"
        "    return [os.environ['NAME'], 'code', os.getpid()]\n"
    )
    name = function(engine, code, Timeout=60, Environment={"Variables": {"NAME": "configuration"}})
    functions = engine.client("lambda")

    def call() -> list:
        return json.load(functions.invoke(FunctionName=name)["Payload"])

    with ThreadPoolExecutor() as pool:
        running = pool.submit(call)
        until(begun.exists, "an invocation that runs")
        if change == "code":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr("index.py", code.replace("'code'", "'new'"))
            functions.update_function_code(FunctionName=name, ZipFile=packed.getvalue())
        else:
            functions.update_function_configuration(
                FunctionName=name, Environment={"Variables": {"NAME": "new"}}
            )
        functions.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.05})
        may_end.touch()
        *before, replaced = running.result()
    *after, process = call()
    assert before == ["configuration", "code"]
    assert after == [word if word != change else "new" for word in before]
    assert process != replaced
    until(lambda: not psutil.pid_exists(replaced), "the end of the replaced worker")


def test_a_deleted_function_takes_replaced_workers_with_it(engine, tmp_path):
    """A worker that was replaced in mid-invocation ends with its function, not with its invocation."""
    begun = tmp_path / "begun"
    code = (
        "import os, pathlib, time\n"
        "def handler(event, context):\n"
        f"    pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(300)\n"
    )
    name = function(engine, code, Timeout=400)
    functions = engine.client("lambda")
    functions.invoke(FunctionName=name, InvocationType="Event")
    until(lambda: begun.exists() and begun.read_text(), "an invocation that runs")
    functions.update_function_configuration(FunctionName=name, Timeout=300)
    process = int(begun.read_text())
    assert psutil.pid_exists(process)
    functions.delete_function(FunctionName=name)
    until(lambda: not psutil.pid_exists(process), "the end of the replaced worker")
