"""Laws of the proxy that does faults on the wire."""

import contextlib
import re
import threading
from importlib.metadata import version

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError
from botocore.retries.standard import ThrottledRetryableChecker
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import connect, live, stack
from helpers.errors import EngineError
from helpers.wire import KINDS, THROTTLED, WRITTEN_FOR, Fault, Wire

CALLS = {
    "cloudformation": ("list_stacks", {}),
    "lambda": ("list_functions", {}),
    "logs": ("describe_log_groups", {}),
    "s3": ("list_buckets", {}),
    "sqs": ("list_queues", {}),
    "stepfunctions": ("list_state_machines", {}),
}
"""A call of each service that changes nothing."""
ONCE = Config(retries={"total_max_attempts": 1})
PATIENT = Config(retries={"mode": "standard", "total_max_attempts": 3})


def client(wire, service, config=ONCE):
    """A client of the engine behind the wire, as patient as that."""
    return wire.engine._session.client(service, config=config)


def call(wire, service, config=ONCE):
    name, given = CALLS[service]
    return getattr(client(wire, service, config), name)(**given)


def test_the_codes_are_those_that_boto3_knows_as_throttling():
    """Each service that these tests call has a code, and boto3 backs off at every one."""
    assert list(CALLS) == list(THROTTLED)
    assert set(THROTTLED.values()) <= set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES)


@pytest.mark.parametrize("service", CALLS)
def test_a_throttled_call_is_refused_with_the_services_own_code_and_tried_again(engine, service):
    """The code is the service's, boto3 counts it as throttling, and a call made again in time succeeds."""
    with Wire(engine, Fault("throttled", 1.0, service)) as wire:
        with pytest.raises(ClientError) as refused:
            call(wire, service)
        assert refused.value.response["Error"]["Code"].endswith(THROTTLED[service])
        with pytest.raises(ClientError) as given_up:
            call(wire, service, PATIENT)
        assert given_up.value.response["ResponseMetadata"]["RetryAttempts"] == 2
        wire.change()
        assert call(wire, service)["ResponseMetadata"]["HTTPStatusCode"] == 200


@pytest.mark.parametrize("service", CALLS)
def test_a_failed_call_has_status_500(engine, service):
    """`failed` is an error of the server's, which clients try again."""
    with Wire(engine, Fault("failed", 1.0, service)) as wire, pytest.raises(ClientError) as refused:
        call(wire, service)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


@pytest.mark.parametrize("kind", ["reset", "unanswered"])
def test_a_cut_call_is_done_or_not_as_its_kind_says(engine, kind):
    """The caller of a call that was reset or left unanswered has no answer; only the latter was done."""
    with Wire(engine, Fault(kind, 1.0, "sqs", "CreateQueue")) as wire:
        with pytest.raises((ConnectionClosedError, HTTPClientError)):
            client(wire, "sqs").create_queue(QueueName=f"test-{kind}")
        urls = client(wire, "sqs").list_queues(QueueNamePrefix=f"test-{kind}").get("QueueUrls", [])
    assert len(urls) == (kind == "unanswered")


def test_a_slow_call_is_done(engine):
    """`slow` delays, and changes nothing else; it is on record as a delay."""
    with Wire(engine, Fault("slow", 1.0, "sqs", seconds=0.01)) as wire:
        assert call(wire, "sqs")["ResponseMetadata"]["HTTPStatusCode"] == 200
        (fired,) = wire.fired().to_dict("records")
    assert (fired["service"], fired["operation"], fired["fault"][:7]) == ("sqs", "ListQueues", "latency")


def test_a_fault_strikes_its_operation_only(engine):
    """Other operations and services pass, as do all where the rate is 0; what struck is on record."""
    with Wire(engine, Fault("failed", 1.0, "sqs", "PurgeQueue"), Fault("failed", 0.0)) as wire:
        for service in CALLS:
            assert call(wire, service)["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert len(wire.fired()) == 0


@settings(deadline=None, max_examples=50)
@given(
    kind=st.sampled_from(KINDS) | st.text(max_size=5),
    rate=st.floats() | st.sampled_from([0.0, 0.5, 1.0]),
    service=st.none() | st.sampled_from(list(THROTTLED)) | st.text(max_size=5),
    seconds=st.floats() | st.sampled_from([0.0, 1.0]),
)
def test_what_is_no_fault_is_refused_by_name(kind, rate, service, seconds):
    """A fault has a known kind and service, a share as its rate, and a delay that is none or finite."""
    good = {
        "kind": kind in KINDS,
        "rate": 0 <= rate <= 1,
        "service": service is None or service in THROTTLED,
        "seconds": 0 <= seconds < float("inf"),
    }
    bad = next((name for name, is_good in good.items() if not is_good), None)
    with pytest.raises(EngineError, match=f"^{bad}=") if bad else contextlib.nullcontext():
        Fault(kind, rate, service, seconds=seconds)


def test_an_engine_without_one_endpoint_is_refused():
    """No proxy stands before the simulator, or before AWS, whose services have each their own endpoint."""
    with pytest.raises(EngineError, match="no single endpoint"):
        Wire(connect("simulated"))


def test_another_release_is_refused(engine, monkeypatch):
    """The proxy is written for one release of microburst, the installed one; another is refused by name."""
    assert version("microburst") == WRITTEN_FOR
    monkeypatch.setattr("helpers.wire.version", lambda package: f"0.0.1 of {package}")
    refusal = f"^microburst 0.0.1 of microburst is installed.* microburst=={re.escape(WRITTEN_FOR)}, or "
    with pytest.raises(EngineError, match=refusal):
        Wire(engine)


def test_it_listens_on_loopback_and_ends(engine):
    """While entered it listens on 127.0.0.1 only; afterwards neither port nor thread is left."""
    with Wire(engine) as wire:
        port = int(wire.endpoint_url.rsplit(":", 1)[1])
        listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]
    listening = [c.laddr.port for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert port not in listening
    assert "wire" not in {thread.name for thread in threading.enumerate()}


def test_a_deployed_function_calls_through_it(engine):
    """`put_before` keeps the function's settings and sends its calls, here the warming one, by the proxy."""
    with stack.deploy(engine, "task_token") as deployed, Wire(engine, Fault("slow", 1.0)) as wire:
        name = deployed.outputs["WorkerFunction"]
        functions = engine.client("lambda")
        before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        wire.put_before(deployed)
        after = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        assert before.items() < after.items()
        live.warm(deployed, "WorkerFunction", 1, progress=False)
        assert "SendTaskHeartbeat" in set(wire.fired()["operation"])
