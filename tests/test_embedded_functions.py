"""The embedded engine's Lambda functions, their event source mappings and logs do what AWS documents."""

import io
import json
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from machines import ROLE


def archive(code: str) -> bytes:
    """A deployment package whose index.py is this code."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("index.py", code)
    return packed.getvalue()


def function(engine, code: str, **fields) -> str:
    """Create a function from the text of its index.py and return its name."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    settings = {"Runtime": "python3.13", "Role": ROLE, "Handler": "index.handler"} | fields
    engine.client("lambda").create_function(FunctionName=name, Code={"ZipFile": archive(code)}, **settings)
    return name


def log_lines(engine, name: str) -> list[str]:
    """All that a function has logged."""
    pages = engine.client("logs").get_paginator("filter_log_events")
    found = pages.paginate(logGroupName=f"/aws/lambda/{name}")
    return [event["message"] for page in found for event in page["events"]]


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
