"""Laws of the proxy that does faults on the wire."""

import contextlib
import gzip
import io
import os
import re
import threading
import zipfile
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Signer
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError
from botocore.retries.standard import ThrottledRetryableChecker
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import connect, live, stack
from helpers.engines.guard import SIGNED_HOST, Credentials
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
    """While entered it listens on loopback only, by both addresses of `localhost`; nothing is left of it."""
    with Wire(engine) as wire:
        port = int(wire.endpoint_url.rsplit(":", 1)[1])
        listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
        here = {address.ip for address in listening if address.port == port}
        assert "127.0.0.1" in here <= {"127.0.0.1", "::1"}
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


# --- The walls before it ---


def asked(wire, method="GET", path="/", body=b"", **headers):
    """Status, headers and body of the answer to a request that no SDK has made."""
    url = urlsplit(wire.endpoint_url)
    connection = HTTPConnection(url.hostname, url.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def signed(wire, method="GET", path="/", body=b"", service="sqs", keys=None, **headers):
    """The headers of a request that is signed for the proxy, with these keys or with the engine's."""
    keys = keys or wire.engine.credentials
    request = AWSRequest(
        method=method,
        url=f"{wire.endpoint_url}{path}",
        data=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    SigV4Auth(Signer(keys.access_key, keys.secret_key), service, "us-east-1").add_auth(request)
    return dict(request.headers.items())


@pytest.fixture
def striking(engine):
    """A proxy whose fault strikes every call of SQS: what strikes has passed the walls."""
    with Wire(engine, Fault("failed", 1.0, "sqs")) as wire:
        yield wire


def test_a_signed_call_passes_and_an_unsigned_one_causes_no_fault(striking):
    """Without a signature, with a stranger's or with another body there is neither an answer nor a fault."""
    call = {"X_Amz_Target": "AmazonSQS.ListQueues", "Content_Type": "application/x-amz-json-1.0"}
    port = urlsplit(striking.endpoint_url).port
    for headers, body in (
        (call, b"{}"),
        (signed(striking, "POST", body=b"{}", keys=Credentials.generate(port), **call), b"{}"),
        (signed(striking, "POST", body=b"{}", **call), b'{"QueueNamePrefix": "x"}'),
        (signed(striking, "POST", body=b"{}", **call) | {"X-Amz-Target": "AmazonSQS.PurgeQueue"}, b"{}"),
    ):
        status, _, told = asked(striking, "POST", "/", body, **headers)
        assert (status, b"lab engine env" in told) == (403, True)
    assert len(striking.fired()) == 0
    assert asked(striking, "POST", "/", b"{}", **signed(striking, "POST", body=b"{}", **call))[0] == 500
    assert list(striking.fired()["operation"]) == ["ListQueues"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *[("Host", host) for host in ("rebind.test", "rebind.test:{port}", "127.0.0.1", "127.0.0.1:1", "")],
        *[("Origin", origin) for origin in ("null", "http://rebind.test", "http://localhost:1", "file://")],
        *[("Sec-Fetch-Site", site) for site in ("cross-site", "same-site")],
        ("Access-Control-Request-Method", "GET"),
    ],
)
def test_a_page_s_request_is_refused_though_it_is_signed(striking, header, value):
    """Host, Origin, Sec-Fetch-Site and preflights are refused in a sentence, whatever else is right."""
    value = value.format(port=urlsplit(striking.endpoint_url).port)
    for method in ("GET", "POST", "OPTIONS"):
        headers = signed(striking, method) | {header: value}
        status, answered, told = asked(striking, method, **headers)
        assert status == 403
        assert header.lower().encode() in told.lower()
        assert [name for name in answered if name.lower().startswith("access-control-")] == []
    assert len(striking.fired()) == 0


@pytest.mark.parametrize(
    "path", ["/_microburst/rules", "/_microburst/fired", "/_microburst", "//_microburst/rules"]
)
def test_microburst_s_control_plane_is_not_there(striking, path):
    """What is sent to it, signed or not, goes the way of every request: no rule and no record changes."""
    service = client(striking, "sqs")
    with pytest.raises(ClientError):
        service.list_queues()
    for method in ("GET", "POST", "PATCH", "DELETE"):
        body = b"" if method == "GET" else b"[]"
        assert asked(striking, method, path, body)[0] == 403
        told = asked(striking, method, path, body, **signed(striking, method, path, body, service="s3"))[2]
        assert b"upstream" not in told
    with pytest.raises(ClientError):
        service.list_queues()
    assert list(striking.fired()["operation"]) == ["ListQueues", "ListQueues"]


def test_answers_have_no_cors_headers(engine):
    """Neither an answer of the engine nor that of a fault lets a page of another site read it."""
    with Wire(engine, Fault("failed", 1.0, "sqs")) as wire:
        for service in ("sqs", "s3"):
            headers = asked(wire, **signed(wire, service=service))[1]
            assert [name for name in headers if name.lower().startswith("access-control-")] == []


def test_any_body_and_any_key_reaches_the_engine_as_it_was_signed(engine):
    """Of whatever size, in one piece or in chunks, by header or by presigned URL; nothing is lost."""
    with Wire(engine) as wire:
        s3 = client(wire, "s3")
        s3.create_bucket(Bucket="test-through")
        for key, size in (("plain", 10), ("odd//../ä b+c%2F=&~*'(!):@,;$?#", 0), ("large", 6 * 2**20)):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            s3.put_object(Bucket="test-through", Key=key, Body=body)
            assert s3.get_object(Bucket="test-through", Key=key)["Body"].read() == body
            assert s3.upload_fileobj(io.BytesIO(body), "test-through", key) is None
            assert engine.client("s3").get_object(Bucket="test-through", Key=key)["Body"].read() == body
        named = {"Bucket": "test-through", "Key": "presigned"}
        for method, body in (("put_object", b"presigned"), ("get_object", b"")):
            # Of the older version: ministack itself takes one of version 4 for its own address only.
            url = urlsplit(
                client(wire, "s3", Config(signature_version="s3")).generate_presigned_url(method, named)
            )
            status, _, told = asked(wire, method[:3].upper(), f"{url.path}?{url.query}", body)
            assert (status, told or body) == (200, b"presigned")
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as file:
            file.writestr("index.py", os.urandom(5 * 2**20))
        functions = client(wire, "lambda")
        functions.create_function(
            FunctionName="test-large",
            Runtime="python3.13",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="index.handler",
            Code={"ZipFile": package.getvalue()},
        )
        functions.delete_function(FunctionName="test-large")
        s3.delete_objects(
            Bucket="test-through",
            Delete={
                "Objects": [
                    {"Key": one["Key"]} for one in s3.list_objects_v2(Bucket="test-through")["Contents"]
                ]
            },
        )
        s3.delete_bucket(Bucket="test-through")


def test_a_compressed_body_stays_as_it_is(engine):
    """An object with Content-Encoding gzip is stored as it was sent: its signature is that of those bytes."""
    body = gzip.compress(b"compressed")
    with Wire(engine) as wire:
        s3 = client(wire, "s3")
        s3.create_bucket(Bucket="test-compressed")
        s3.put_object(Bucket="test-compressed", Key="k", Body=body, ContentEncoding="gzip")
        stored = engine.client("s3").get_object(Bucket="test-compressed", Key="k")
        assert (body, "gzip") == (stored["Body"].read(), stored["ContentEncoding"])
        s3.delete_object(Bucket="test-compressed", Key="k")
        s3.delete_bucket(Bucket="test-compressed")


def test_what_was_signed_for_the_proxy_is_for_the_proxy(engine):
    """The engine itself refuses it, unless the proxy says for which host of this machine it was signed."""
    with Wire(engine) as wire:
        headers = signed(wire, service="s3")
        host = urlsplit(wire.endpoint_url).netloc
        assert asked(wire, **headers)[0] == 200
        assert asked(engine, **headers)[0] == 403
        assert asked(engine, **headers, **{SIGNED_HOST: host})[0] == 200
        for foreign in ("rebind.test", f"rebind.test:{host.rpartition(':')[2]}", f"{host}@rebind.test", ""):
            status, _, told = asked(engine, **headers, **{SIGNED_HOST: foreign})
            assert (status, SIGNED_HOST.encode() in told) == (403, True)
        assert asked(engine, **{SIGNED_HOST: host})[0] == 403


def test_an_engine_without_credentials_has_the_wall_against_pages(engine):
    """Before an emulator of the user's own pages are refused, and calls are signed as its users sign them."""
    with Somebodys() as url, Wire(connect("endpoint", endpoint=url)) as wire:
        status, headers, told = asked(wire)
        assert (status, told) == (200, b"read me")
        assert "Access-Control-Allow-Origin" not in headers
        for header in ({"Origin": "null"}, {"Host": "rebind.test"}, {"Sec_Fetch_Site": "cross-site"}):
            assert asked(wire, **header)[0] == 403


class Somebodys(ThreadingHTTPServer):
    """An emulator that lets every page read its answers; the context gives its URL."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Open)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Open(BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"read me")

    def log_message(self, format, *args):
        """Print nothing."""
