"""Who may call an engine: no page in a browser, and nobody without the engine's credentials.

The first half holds the guard itself to its laws, without an engine; the second tries both engines over raw
connections and with boto3.
"""

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Signer
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from helpers.engines import connect, embedded, guard, local, localstack
from helpers.engines.guard import HOSTS, HOW, Credentials, Guard, Refusal
from helpers.errors import EngineError

ROOT = Path(__file__).parents[1]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine, whatever proxy the environment names."""
PORT = 4566
HOST = f"127.0.0.1:{PORT}"
KEYS = Credentials.generate(PORT)
WALLS = Guard(PORT, {KEYS.access_key: KEYS.secret_key}.get)
BODY = b'{"QueueName": "q"}'


def request(method="POST", target="/path?a=1&b=%20", body=BODY, service="sqs", **headers):
    """A request as botocore signs it: method, target and headers."""
    given = {"host": HOST, "content-type": "application/json"} | headers
    made = AWSRequest(method, f"http://{HOST}{target}", given, body)
    kind = S3SigV4Auth if service == "s3" and "X-Amz-Content-SHA256" not in headers else SigV4Auth
    kind(Signer(KEYS.access_key, KEYS.secret_key), service, "us-east-1").add_auth(made)
    return method, target, dict(made.headers.items())


def admit(method, target, headers, body=BODY, walls=WALLS):
    """Let the guard judge a request, its body included."""
    raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in dict(headers).items()]
    walls.admit(method, target, raw).verify(body)


def refused(*given, **named):
    with pytest.raises(Refusal) as refusal:
        admit(*given, **named)
    return refusal.value


# --- The browser's wall


@given(st.sampled_from(HOSTS))
def test_this_machine_is_called_by_its_names(name):
    """127.0.0.1, localhost and [::1] with the engine's port are served."""
    admit(*request(host=f"{name}:{PORT}"))


@given(
    st.one_of(
        st.text(max_size=40),
        st.builds("{}:{}".format, st.sampled_from(HOSTS), st.integers(0, 70_000)),
        st.builds(
            "{}{}:4566".format, st.sampled_from(HOSTS), st.sampled_from([".", " ", "\t", "@", ":", ".x"])
        ),
        st.builds(
            "{}{}:4566".format,
            st.sampled_from(["bucket.", "x@", "evil.example", "0"]),
            st.sampled_from(HOSTS),
        ),
        st.sampled_from(
            ["LOCALHOST:4566", "127.1:4566", "0.0.0.0:4566", "::1:4566", "localhost", "127.0.0.1"]
        ),
    )
)
def test_any_other_host_is_refused(host):
    """Whatever name a page has had resolved to 127.0.0.1, and whatever port: the request is refused."""
    if host in WALLS.hosts:
        return
    with pytest.raises(Refusal, match="must be one of 127"):
        WALLS.admit("GET", "/", [(b"host", host.encode("utf-8"))])


@pytest.mark.parametrize(
    "lines", [[], [(b"Host", HOST.encode())] * 2, [(b"hOST", HOST.encode()), (b"host", b"x")]]
)
def test_a_request_names_one_host(lines):
    """None, two of the same, and two that differ are refused."""
    with pytest.raises(Refusal, match="Host"):
        WALLS.admit("GET", "/", lines)


@given(
    st.one_of(st.text(max_size=40), st.sampled_from(["null", "https://" + HOST, "http://localhost:4566", ""]))
)
def test_any_other_origin_is_refused(origin):
    """A page of any origin but the engine's own is refused, though its request were signed."""
    if origin == f"http://{HOST}":
        return
    assert "pages of other sites" in str(refused(*request(origin=origin)))


@given(st.one_of(st.text(max_size=20), st.sampled_from(["cross-site", "same-site", "Same-Origin"])))
def test_any_other_site_is_refused(site):
    """What a browser marks as sent by another site is refused, though it were signed."""
    if site in ("same-origin", "none"):
        return
    assert "pages of other sites" in str(refused(*request(**{"sec-fetch-site": site})))


@pytest.mark.parametrize("headers", [{"origin": f"http://{HOST}"}, {"sec-fetch-site": "none"}])
def test_what_the_engine_itself_has_sent_is_no_other_site(headers):
    """A link that a user opens and the engine's own origin need a signature, and no more."""
    admit(*request(**headers))


@pytest.mark.parametrize("asked", ["method", "headers", "private-network"])
def test_preflights_are_refused(asked):
    """OPTIONS, and each question of CORS by any method."""
    assert "no CORS preflight" in str(refused(*request("OPTIONS")))
    assert "no CORS preflight" in str(refused(*request(**{f"Access-Control-Request-{asked}": "x"})))


@pytest.mark.parametrize("target", [f"http://{HOST}/", "http://evil.example/", "*", "", "x", "/a#b", "/\xe9"])
def test_an_engine_is_no_proxy(target):
    """A target that is no path is refused."""
    with pytest.raises(Refusal, match="must be a path"):
        WALLS.admit("GET", target, [(b"host", HOST.encode())])


# --- The signature's wall


@pytest.mark.parametrize("service", ["sqs", "s3", "lambda", "states", "sts"])
@pytest.mark.parametrize(
    "target", ["/", "/a%20b//../c~+%2F", "/?b=2&a=1&a=0", "/?uploads", "/a?x=%2B%20y&z=a%2Fb"]
)
def test_what_botocore_signs_is_served(service, target):
    """For any service and any target that a client sends."""
    admit(*request(target=target, service=service))


@given(
    st.binary(max_size=200),
    st.dictionaries(st.from_regex(r"x-amz-[a-z]{1,9}", fullmatch=True), st.text("aé \t~", min_size=1)),
)
def test_any_body_and_headers_that_are_signed_are_served(body, headers):
    """Spaces, bytes that are no text, and headers in UTF-8 included."""
    admit(*request(body=body, **headers), body=body)


OTHER = "LABOTHER/20261130/us-east-1/s3/aws4_request"


@pytest.mark.parametrize("way", ["header", "before", "query", "spelled", "older", "older, spelled"])
def test_a_request_names_one_signer(way):
    """Where an engine may read another access key than the guard, no signature of its sender's helps."""
    if way in ("header", "before"):
        method, target, headers = request()
        kind, _, rest = headers["Authorization"].partition(" ")
        first = f"Credential={OTHER}, " if way == "header" else f"X Credential={OTHER}, "
        headers["Authorization"] = f"{kind} {first}{rest}"
        assert refused(method, target, headers).code == "IncompleteSignature"
        return
    more = {
        "query": f"X-Amz-Credential={OTHER}",
        "spelled": f"x-amz-credential={OTHER}",
        "older": "AWSAccessKeyId=LABOTHER",
    }.get(way)
    headers = {"host": HOST}
    if way == "older, spelled":  # boto3 writes such a header into the query
        made = AWSRequest("GET", f"http://{HOST}/b/k", {"x-amz-credential": OTHER})
    else:
        made = AWSRequest("GET", f"http://{HOST}/b/k?{more}")
    signer = Signer(KEYS.access_key, KEYS.secret_key)
    older = way.startswith("older")
    (HmacV1QueryAuth(signer) if older else S3SigV4QueryAuth(signer, "s3", "us-east-1")).add_auth(made)
    target = made.url.removeprefix(f"http://{HOST}")
    assert refused("GET", target, headers).code in ("IncompleteSignature", "SignatureDoesNotMatch")


def altered():
    """The signed request, with one signed part changed each time."""
    method, target, headers = request(**{"x-amz-target": "AmazonSQS.CreateQueue"})
    yield "method", ("PUT", target, headers, BODY)
    yield "path", (method, "/other?a=1&b=%20", headers, BODY)
    yield "query", (method, "/path?a=2&b=%20", headers, BODY)
    yield "query, more", (method, target + "&c=", headers, BODY)
    yield "body", (method, target, headers, BODY + b" ")
    yield "no body", (method, target, headers, b"")
    yield "host", (method, target, headers | {"host": f"localhost:{PORT}"}, BODY)
    for name, value in (
        ("content-type", "text/plain"),
        ("x-amz-target", "AmazonSQS.DeleteQueue"),
        ("X-Amz-Date", (datetime.now(UTC) + timedelta(seconds=30)).strftime("%Y%m%dT%H%M%SZ")),
    ):
        yield name, (method, target, headers | {name: value}, BODY)
    yield "x-amz- that is not signed", (method, target, headers | {"x-amz-acl": "public-read"}, BODY)
    authorization = headers["Authorization"]
    last = "0" if authorization[-1] != "0" else "1"
    yield "signature", (method, target, headers | {"Authorization": authorization[:-1] + last}, BODY)
    for part, other in (
        ("us-east-1", "us-east-2"),
        ("/sqs/", "/sns/"),
        ("x-amz-target", "x-amz-other"),
        (";x-amz-target", ""),
        ("host;", ""),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("aws4_request", "aws5_request"),
        ("Signature=", "Signature=é"),
    ):
        changed = other.join(authorization.rsplit(part, 1))
        yield f"{part} to {other}", (method, target, headers | {"Authorization": changed}, BODY)


@pytest.mark.parametrize("change", [name for name, _ in altered()])
def test_a_request_that_was_altered_is_refused(change):
    """Each part that is signed, and each x-amz- header that is not."""
    made, told = dict(altered()), ("SignatureDoesNotMatch", "IncompleteSignature")
    assert refused(*made[change]).code in told


def test_a_key_of_the_engine_needs_its_secret():
    """The right access key with another secret is refused, and told as that."""
    other = Guard(PORT, {KEYS.access_key: "other"}.get)
    assert "is not that of this request by this key's secret" in str(refused(*request(), walls=other))


def test_an_unknown_key_is_refused_before_the_body():
    """`admit`, which sees the head alone, refuses it, and says how to get the key."""
    method, target, headers = request()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    with pytest.raises(Refusal, match=re.escape(HOW)):
        Guard(PORT, {}.get).admit(method, target, raw)


def test_a_request_has_exactly_one_signature():
    """None, two headers, and a header beside a presigned query are refused."""
    method, target, headers = request()
    unsigned = {name: value for name, value in headers.items() if name != "Authorization"}
    assert refused(method, target, unsigned).code == "MissingAuthenticationToken"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    twice = [*raw, (b"authorization", headers["Authorization"].encode())]
    with pytest.raises(Refusal, match="exactly one signature"):
        WALLS.admit(method, target, twice)
    for query in ("X-Amz-Signature=0", "Signature=0"):
        assert "exactly one signature" in str(refused(method, f"{target}&{query}", headers))


@pytest.mark.parametrize("minutes", [-16, 16])
def test_an_old_signature_is_worth_nothing(minutes, monkeypatch):
    """A quarter of an hour is the most that clocks may differ."""
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
    made = request()
    assert refused(*made).code == "RequestExpired"
    moment -= timedelta(minutes=minutes / 2)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
    admit(*request())


@pytest.mark.parametrize("date", ["", "20261399T000000Z", "2026-11-30", "20261130T000000"])
def test_a_date_that_is_none_is_refused(date):
    """Damaged dates are refused in a sentence."""
    method, target, headers = request()
    assert refused(method, target, headers | {"X-Amz-Date": date}).code == "IncompleteSignature"


@given(st.text(max_size=80))
def test_no_authorization_breaks_the_guard(text):
    """Whatever stands there is refused, in a sentence that is not long."""
    method, target, headers = request()
    refusal = refused(method, target, headers | {"Authorization": text})
    assert len(str(refusal)) < 500


@pytest.mark.parametrize("hashed", ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"])
def test_a_body_that_is_not_signed_needs_a_signed_head(hashed):
    """S3's uploads whose signature does not cover the body are served; with another head they are not."""
    method, target, headers = request("PUT", service="s3", **{"X-Amz-Content-SHA256": hashed})
    admit(method, target, headers, body=b"anything")
    assert refused(method, "/other", headers).code == "SignatureDoesNotMatch"


def test_the_hash_that_is_signed_is_that_of_the_body():
    """S3 names the body's hash in a header: another body is refused."""
    named = {"X-Amz-Content-SHA256": hashlib.sha256(BODY).hexdigest()}
    made = request("PUT", service="s3", **named)
    admit(*made)
    assert refused(*made, body=BODY + b"x").code == "XAmzContentSHA256Mismatch"
    assert refused(*made[:2], made[2] | {"X-Amz-Content-SHA256": "0" * 64}).code == "SignatureDoesNotMatch"


def presigner(version):
    """A client of S3 that presigns URLs by this version of the signature, as boto3 names it."""
    return boto3.client(
        "s3",
        "us-east-1",
        endpoint_url=f"http://{HOST}",
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=KEYS.secret_key,
        config=Config(signature_version=version),
    )


def presigned(version, **options):
    url = presigner(version).generate_presigned_url("get_object", {"Bucket": "b", "Key": "a é"}, **options)
    return f"{urlsplit(url).path}?{urlsplit(url).query}"


@pytest.mark.parametrize("version", ["s3v4", None])
def test_a_presigned_url_is_served_until_it_expires(version):
    """In both versions; with another method, path, expiry or signature it is not, nor afterwards."""
    target, headers = presigned(version), {"host": HOST}
    admit("GET", target, headers)
    assert refused("PUT", target, headers)
    assert refused("GET", target.replace("/b/", "/c/"), headers)
    expires = "X-Amz-Expires=3600" if version else "Expires="
    assert refused("GET", target.replace(expires, expires[:-1] + "5" if version else "Expires=9"), headers)
    name = "X-Amz-Signature=" if version else "&Signature="
    assert refused("GET", re.sub(f"{name}..", f"{name}00", target), headers)
    old, valid = presigned(version, ExpiresIn=1), time.time() + 1
    while time.time() < valid + 1:  # the version of the older kind counts whole seconds
        time.sleep(0.1)
    assert "valid now" in str(told := refused("GET", old, headers)) or "has expired" in str(told)


@pytest.mark.parametrize(
    "more",
    ["Action=CreateQueue&QueueName=q", "action=ListUsers", "X-Amz-Credential=x/20260101/us-east-1/iam/a"],
)
@pytest.mark.parametrize("version", [None, "s3v4"])
def test_a_presigned_url_names_no_other_call(version, more):
    """What is appended to a presigned URL is refused: an emulator would route by it to another service."""
    target, headers = presigned(version), {"host": HOST}
    admit("GET", target, headers)
    assert refused("GET", f"{target}&{more}", headers)


@pytest.mark.parametrize("version", [None, "s3v4"])
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "Application/X-WWW-form-urlencoded; charset=utf-8"},
        {"content-type": "Multipart/form-data; boundary=x"},
        {"content-encoding": "aws-chunked"},
        {"content-encoding": "gzip, AWS-chunked"},
    ],
)
def test_the_body_of_a_presigned_url_names_no_call(version, headers):
    """A body that no signature covers is no form and ends with no headers: an emulator would obey them."""
    with pytest.raises(Refusal, match="a presigned URL of S3 takes no"):
        admit("GET", presigned(version), {"host": HOST} | headers)


@pytest.mark.parametrize(
    "name", ["x-amz-decoded-content-length", "X-Amz-Content-SHA256"], ids=["length", "hash"]
)
def test_a_presigned_url_takes_no_chunks_though_it_was_made_for_them(name):
    """The holder of the URL writes the headers at the end of the chunks."""
    made = AWSRequest("PUT", f"http://{HOST}/b/k", {name: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"})
    S3SigV4QueryAuth(Signer(KEYS.access_key, KEYS.secret_key), "s3", "us-east-1").add_auth(made)
    target = made.url.removeprefix(f"http://{HOST}")
    with pytest.raises(Refusal, match="takes no chunks"):
        admit("PUT", target, {"host": HOST} | dict(made.headers.items()))


def presigned_v2(operation, **parameters):
    """A target that boto3 presigns by the older signature."""
    url = presigner("s3").generate_presigned_url(operation, {"Bucket": "b", "Key": "k"} | parameters)
    return url.removeprefix(f"http://{HOST}")


def reread():
    """Targets whose older signature another request has, too, with method and the target that was signed."""
    get = presigned_v2("get_object")
    for name in ("acl", "tagging", "uploadId", "x-amz-acl"):
        yield f"encoded {name}", "GET", get, f"{get}&%{ord(name[0]):x}{name[1:]}=x"
    copy = presigned_v2("copy_object", CopySource={"Bucket": "b", "Key": "k"})
    yield "another source first", "PUT", copy, copy.replace("?", "?x-amz-copy-source=secret%2Fk&")
    part = presigned_v2("upload_part", UploadId="u", PartNumber=1)
    both = part.replace("uploadId=u&", "").replace("partNumber=1", "partNumber=1%26uploadId%3Du")
    yield "a value for two", "PUT", part, both
    put = presigned_v2("put_object", Metadata={"a": "1", "b": "2"})
    lines = put.replace("x-amz-meta-b=2&", "").replace("x-amz-meta-a=1", "x-amz-meta-a=1%0Ax-amz-meta-b:2")
    yield "a line for two", "PUT", put, lines
    named = presigned_v2("get_object", ResponseContentDisposition="a+b")
    yield "a plus sign, which is read as a space", "GET", named, named.replace("%2B", "+")


@pytest.mark.parametrize("way", [way for way, *_ in reread()])
def test_an_older_signature_is_that_of_one_request(way):
    """No other request has the signature of a presigned URL, by encoding, repeating or joining its parts."""
    method, signed, other = {way: rest for way, *rest in reread()}[way]
    assert signed != other
    admit(method, signed, {"host": HOST})
    assert refused(method, other, {"host": HOST}).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("service", ["s3", "sqs"])
def test_a_plus_sign_in_a_query_is_what_the_engines_read(service):
    """It is a space: a signature for a plus sign, sent as %2B, is not one for it."""
    method, target, headers = request(target="/?a=%2B", service=service)
    admit(method, target, headers)
    assert refused(method, "/?a=+", headers).code == "SignatureDoesNotMatch"
    admit("POST", "/?a=+", request(target="/?a=%20", service=service)[2])


def test_right_presigned_urls_of_the_older_kind_are_served():
    """A listing, metadata that boto3 writes into the query, and a bucket, which is signed with a slash."""
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{HOST}",
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=KEYS.secret_key,
        region_name="us-east-1",
    )
    for method, operation, parameters in (
        ("GET", "list_objects_v2", {"Bucket": "b", "Prefix": "p/"}),
        ("PUT", "put_object", {"Bucket": "b", "Key": "k", "Metadata": {"who": "me"}}),
    ):
        url = client.generate_presigned_url(operation, parameters)
        admit(method, url.removeprefix(f"http://{HOST}"), {"host": HOST})


@pytest.mark.parametrize("seconds", ["0", "-1", "604801", "x", "9" * 30])
def test_a_presigned_url_lasts_a_week_at_most(seconds):
    """Any other number of seconds is refused, though it were signed."""
    made = AWSRequest("GET", f"http://{HOST}/b/k")
    signer = Signer(KEYS.access_key, KEYS.secret_key)
    S3SigV4QueryAuth(signer, "s3", "us-east-1", expires=seconds).add_auth(made)
    refusal = refused("GET", made.url.removeprefix(f"http://{HOST}"), {"host": HOST})
    assert "X-Amz-Expires" in str(refusal)


# --- With any credentials


def test_any_credentials_open_the_signatures_wall_alone():
    """Calls of AWS are served unsigned; control endpoints and pages are refused as ever."""
    walls = Guard(PORT, {}.get, any_credentials=True)
    admit("POST", "/", {"host": HOST}, walls=walls)
    admit(*request(), walls=walls)
    for path in (
        "/_ministack/reset",
        "//_localstack/health",
        "/%5Flocalstack/health",
        "/health",
        "/_aws/sqs/messages",
    ):
        assert refused("POST", path, {"host": HOST}, walls=walls).code == "MissingAuthenticationToken"
    for header in ({"host": "evil.example:4566"}, {"host": HOST, "origin": "null"}):
        assert refused("POST", "/", header, walls=walls).code == "AccessDenied"


# --- Both engines


@pytest.fixture(scope="module", params=["embedded", "localstack"])
def server(request):
    """A server of each kind."""
    kind = {"embedded": embedded, "localstack": localstack}[request.param]
    if kind is localstack and not localstack.installed(localstack.Server.home):
        pytest.skip("LocalStack is not installed; `./lab engine start localstack` does that")
    started = kind.Server.start()
    yield started
    started.stop()


@pytest.fixture
def engine(server):
    return connect(server.engine, endpoint=server.endpoint_url)


def call(server, method="GET", target="/", headers=None, body=None):
    """What a raw request is answered: status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        lines = {"Host": f"127.0.0.1:{server.port}"} | (headers or {})
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in lines.items():
            for one in value if isinstance(value, list) else [value]:
                connection.putheader(name, one)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def signed(server, method, path):
    """The headers of a signed request to the server."""
    return server.credentials.sign(method, f"{server.endpoint_url}{path}")


BY_PATH = Config(s3={"addressing_style": "path"})
FOREIGN = {
    "host": {"Host": "evil.example"},
    "rebound host": {"Host": "evil.example:{port}"},
    "bucket": {"Host": "bucket.localhost:{port}"},
    "other port": {"Host": "127.0.0.1:1"},
    "origin": {"Origin": "http://evil.example"},
    "file": {"Origin": "null"},
    "other port's origin": {"Origin": "http://127.0.0.1:8888"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "preflight": {"Access-Control-Request-Method": "POST"},
    "websocket": {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    },
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/health-of-a-bucket/key"])
def test_pages_are_refused(server, kind, path):
    """Whatever a page can send is refused with 403, though it were signed, and no header opens the answer."""
    headers = {name: value.format(port=server.port) for name, value in FOREIGN[kind].items()}
    status, answered, body = call(server, "GET", path, signed(server, "GET", path) | headers)
    assert status == 403
    assert [name for name in answered if name.lower().startswith("access-control-")] == []
    if kind != "websocket" or server.engine == "localstack":
        assert "engine" in json.loads(body)["message"]


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
@pytest.mark.parametrize(
    "path",
    ["/_ministack/reset", "/_ministack/config", "/_localstack/health", "/_ministack/health", "/health", "/"],
)
def test_nothing_is_served_unsigned(server, method, path):
    """No method and no path, the control endpoints and the health check included."""
    status, answered, _ = call(server, method, path, body=b"{}" if method in ("POST", "PUT") else None)
    assert status == 403
    assert [name for name in answered if name.lower().startswith("access-control-")] == []


def test_no_answer_opens_itself_to_pages(server, engine):
    """What is served has no CORS header either, even where a bucket is configured to have them."""
    s3 = engine.client("s3")
    s3.create_bucket(Bucket="open")
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}
    s3.put_bucket_cors(Bucket="open", CORSConfiguration={"CORSRules": [rule]})
    s3.put_object(Bucket="open", Key="k", Body=b"x")
    here = f"http://localhost:{server.port}"  # the only one of its names that LocalStack takes for its own
    own = {"Origin": here, "Host": here.removeprefix("http://")}
    keys = {"aws_access_key_id": server.credentials.access_key}
    keys["aws_secret_access_key"] = server.credentials.secret_key
    named = boto3.client("s3", local.REGION, endpoint_url=here, config=BY_PATH, **keys)
    url = urlsplit(named.generate_presigned_url("get_object", {"Bucket": "open", "Key": "k"}))
    health = f"/_{'ministack' if server.engine == 'embedded' else 'localstack'}/health"
    signature = server.credentials.sign("GET", f"{here}{health}")
    for path, headers in ((f"{url.path}?{url.query}", {}), (health, signature)):
        status, answered, _ = call(server, "GET", path, headers | own)
        assert status == 200
        assert [name for name in answered if name.lower().startswith("access-control-")] == []


def test_a_reset_by_a_stranger_wipes_nothing(server, engine):
    """What is there is there afterwards."""
    engine.client("sqs").create_queue(QueueName="kept")
    for path in ("/_ministack/reset", "/_localstack/state/reset"):
        assert call(server, "POST", path)[0] == 403
    assert engine.client("sqs").get_queue_url(QueueName="kept")


def test_a_refusal_comes_before_the_body(server):
    """The answer is there though the body that was announced is not."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", "1000000")
        connection.putheader("Origin", "http://evil.example")
        connection.endheaders()
        assert connection.getresponse().status == 403


def test_a_large_body_that_is_refused_is_told_why(server):
    """A client that sends all before it reads gets the sentence, and no broken connection."""
    stranger = client(server, "sqs", Credentials("test", "test"))
    with pytest.raises(ClientError, match="is not one of this engine's"):
        stranger.send_message(QueueUrl=f"{server.endpoint_url}/0/q", MessageBody="x" * 3_000_000)


def test_an_absolute_target_is_refused(server):
    """An engine is no proxy."""
    status, _, _ = call(server, "GET", f"http://127.0.0.1:{server.port}/", signed(server, "GET", "/"))
    assert status == 403


def client(server, service, keys, **config):
    """Plain boto3."""
    return boto3.client(
        service,
        local.REGION,
        endpoint_url=server.endpoint_url,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(**config),
    )


SERVICES = {
    "cloudformation": "list_stacks",
    "events": "list_rules",
    "iam": "list_roles",
    "lambda": "list_functions",
    "logs": "describe_log_groups",
    "s3": "list_buckets",
    "sqs": "list_queues",
    "stepfunctions": "list_state_machines",
    "sts": "get_caller_identity",
}
ONLY_EMBEDDED = {"cloudwatch": "list_metrics", "dynamodb": "list_tables", "pipes": "list_pipes"}


@pytest.mark.parametrize("service", SERVICES | ONLY_EMBEDDED)
def test_plain_boto3_needs_the_credentials(server, service):
    """With them each service answers; a wrong secret, another key and none are refused in a sentence."""
    if service in ONLY_EMBEDDED and server.engine != "embedded":
        pytest.skip("the lab does not use it there")
    operation, keys = (SERVICES | ONLY_EMBEDDED)[service], server.credentials
    getattr(client(server, service, keys), operation)()
    for wrong in (
        Credentials(keys.access_key, "test"),
        Credentials("test", "test"),
        Credentials("000000000000", keys.secret_key),
        Credentials("test", keys.secret_key),
    ):
        with pytest.raises(ClientError, match=re.escape(HOW)) as refused:
            getattr(client(server, service, wrong), operation)()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_objects_go_to_and_fro(server):
    """Whole, streamed, in parts, by name and by presigned URL, with every kind of key."""
    s3 = client(server, "s3", server.credentials)
    s3.create_bucket(Bucket="guarded")
    data = bytes(range(256)) * 40_000
    for key in ("plain", "a b/ü+~//x", "(dots)/../x"):
        s3.put_object(Bucket="guarded", Key=key, Body=b"x", Metadata={"who": "me  too"})
        assert s3.get_object(Bucket="guarded", Key=key)["Body"].read() == b"x"
    s3.upload_fileobj(io.BytesIO(data), "guarded", "streamed")  # in parts, as it is larger than 8 MB
    into = io.BytesIO()
    s3.download_fileobj("guarded", "streamed", into)
    assert into.getvalue() == data
    assert "a b/ü+~//x" in [
        one["Key"] for one in s3.list_objects_v2(Bucket="guarded", Prefix="a b/")["Contents"]
    ]
    for version in (None, "s3v4"):
        presigner = client(server, "s3", server.credentials, signature_version=version)
        url = presigner.generate_presigned_url("get_object", {"Bucket": "guarded", "Key": "plain"})
        assert DIRECT.open(url).read() == b"x"
        url = presigner.generate_presigned_url("put_object", {"Bucket": "guarded", "Key": "put"})
        DIRECT.open(urllib.request.Request(url, b"by url", method="PUT", headers={"Content-Type": ""}))
        assert s3.get_object(Bucket="guarded", Key="put")["Body"].read() == b"by url"


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_who_holds_a_presigned_url_calls_nothing_else(server, engine, version):
    """By headers behind AWS's chunks, by a form of parts, and by another name of a sub-resource."""
    presigner = client(server, "s3", server.credentials, signature_version=version)
    url = urlsplit(presigner.generate_presigned_url("put_object", {"Bucket": "none", "Key": "k"}))
    target = f"{url.path}?{url.query}"
    trailer = b"x-amz-target:AmazonSQS.CreateQueue\r\ncontent-type:application/x-amz-json-1.0\r\n"
    queue = b'{"QueueName": "by-trailer"}'
    chunks = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(queue), queue, trailer)
    form = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("Action", "CreateUser"), ("UserName", "by-form"), ("Version", "2010-05-08"))
    )
    parts = f"{form}--x--\r\n".encode()
    for headers, body in (
        ({"Content-Encoding": "aws-chunked"}, chunks),
        ({"Content-Type": "multipart/form-data; boundary=x"}, parts),
    ):
        assert call(server, "PUT", target, headers, body)[0] == 403
    assert call(server, "PUT", f"{target}&%61cl", {"x-amz-acl": "private"})[0] == 403
    assert "by-trailer" not in str(engine.client("sqs").list_queues())
    assert "by-form" not in str(engine.client("iam").list_users())


HANDLER = """
import boto3
def handler(event, context):
    boto3.client("sqs").create_queue(QueueName=event["queue"])
    return len(event["data"])
"""


def package():
    """A function's code."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("index.py", HANDLER)
    return code.getvalue()


def test_a_function_calls_the_engine(server):
    """Lambda takes a large body, and its worker signs with the engine's credentials by itself."""
    functions, code = client(server, "lambda", server.credentials), package()
    functions.create_function(
        FunctionName="caller",
        Runtime="python3.11",
        Handler="index.handler",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": code},
        Timeout=60,
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="caller", WaiterConfig={"Delay": 1})
    event = {"queue": "made-by-a-function", "data": "x" * 5_000_000}
    answer = functions.invoke(FunctionName="caller", Payload=json.dumps(event))
    assert "FunctionError" not in answer
    assert json.loads(answer["Payload"].read()) == 5_000_000
    assert client(server, "sqs", server.credentials).get_queue_url(QueueName="made-by-a-function")
    location = functions.get_function(FunctionName="caller")["Code"]["Location"]
    assert DIRECT.open(location).read() == code


def test_keys_that_the_engine_has_issued_are_good(server, engine):
    """A user's access key and the session of a role work with their secrets, and with no other."""
    iam = engine.client("iam")
    iam.create_user(UserName="guarded")
    made = iam.create_access_key(UserName="guarded")["AccessKey"]
    user = Credentials(made["AccessKeyId"], made["SecretAccessKey"])
    assert client(server, "sqs", user).list_queues()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(server, "sqs", Credentials(user.access_key, "other")).list_queues()
    iam.update_access_key(UserName="guarded", AccessKeyId=user.access_key, Status="Inactive")
    with pytest.raises(ClientError, match="is not one of this engine's"):
        client(server, "sqs", user).list_queues()
    trust = {"Version": "2012-10-17", "Statement": []}
    role = iam.create_role(RoleName="guarded", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    session = engine.client("sts").assume_role(RoleArn=role, RoleSessionName="guarded")["Credentials"]
    assumed = boto3.Session(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
    assert assumed.client("sqs", local.REGION, endpoint_url=server.endpoint_url).list_queues()
    assumed = boto3.Session(session["AccessKeyId"], "other", session["SessionToken"])
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        assumed.client("sqs", local.REGION, endpoint_url=server.endpoint_url).list_queues()


# --- How the credentials travel


def test_only_the_user_can_read_the_credentials(server):
    """The file has mode 0600, in a folder of mode 0700, and holds what the server serves."""
    file = Path(server.directory) / local.CREDENTIALS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert server.credentials.port == server.port


def test_each_server_has_credentials_of_its_own():
    """No two are alike, and the secret has the strength of a key."""
    made = [Credentials.generate(PORT) for _ in range(100)]
    assert len({one.access_key for one in made}) == len({one.secret_key for one in made}) == 100
    assert min(len(one.secret_key) for one in made) >= 40
    assert KEYS.secret_key not in repr(KEYS)


def test_credentials_are_found_by_port_alone_for_this_machine(server, monkeypatch):
    """By the environment or in the server's folder; never for another port, and never for another machine."""
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert local.credentials_for(f"http://{name}:{server.port}/path") == server.credentials
    for url in (
        f"http://127.0.0.1:{server.port + 1}",
        f"http://evil.example:{server.port}",
        f"http://127.0.0.1.evil.example:{server.port}",
        f"http://10.0.0.1:{server.port}",
        "http://127.0.0.1:x",
    ):
        assert local.credentials_for(url) is None
    for name, value in KEYS.variables().items():
        monkeypatch.setenv(name, value)
    assert local.credentials_for(f"http://{HOST}") == KEYS
    assert local.credentials_for(server.endpoint_url) == server.credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    assert local.credentials_for(f"http://{HOST}") is None


def test_the_users_own_keys_go_to_no_emulator(monkeypatch, server):
    """An engine of the lab's gets its own key, and any other endpoint dummy ones."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-user")
    monkeypatch.setattr(local.Local, "answers_at", lambda *_: True)
    mine = connect(server.engine, endpoint=server.endpoint_url)
    assert mine.client("sqs")._request_signer._credentials.access_key == server.credentials.access_key
    other = connect("embedded", endpoint="http://127.0.0.1:9")
    assert other.credentials is None
    assert other.client("sqs")._request_signer._credentials.access_key == local.DUMMY["AWS_ACCESS_KEY_ID"]
    assert other.shared() == {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


def test_a_file_of_another_user_is_not_believed(server, tmp_path, monkeypatch):
    """Credentials in a folder that somebody else has made are not taken, nor those behind a link."""
    folder = tmp_path / "concurrency-lab-planted"
    folder.mkdir()
    planted = local.store(folder, server.port)
    monkeypatch.setattr(local, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(local, "for_sockets", lambda: str(tmp_path))
    assert local.credentials_for(server.endpoint_url) == planted
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert local.credentials_for(server.endpoint_url) is None
    monkeypatch.undo()
    (folder / local.CREDENTIALS).rename(folder / "behind")
    (folder / local.CREDENTIALS).symlink_to(folder / "behind")
    with pytest.raises(EngineError, match="holds no credentials"):
        local.stored(folder)


@pytest.mark.parametrize("variable", local.ENDPOINT_VARIABLES)
@pytest.mark.parametrize("kind", ["embedded", "endpoint"])
def test_an_endpoint_variable_is_enough(variable, kind):
    """Another process that knows only where an engine is finds its credentials."""
    server = embedded.Server.start()
    try:
        url = (
            server.endpoint_url if variable == "AWS_ENDPOINT_URL" else server.endpoint_url.partition("://")[2]
        )
        program = f"from helpers.engines import connect; print(connect({kind!r}).client('sqs').list_queues())"
        bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {variable: url}
        done = subprocess.run(
            [sys.executable, "-c", program], env=bare, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        server.stop()


def test_a_pipe_in_another_folder_keeps_nobody_waiting(tmp_path, monkeypatch):
    """What lies where credentials are looked for and is no file is passed over."""
    folder = tmp_path / "concurrency-lab-planted"
    folder.mkdir()
    os.mkfifo(folder / local.CREDENTIALS)
    monkeypatch.setattr(local, "for_sockets", lambda: str(tmp_path))
    assert local.credentials_for("http://127.0.0.1:9") is None
    with pytest.raises(EngineError, match="holds no credentials"):
        local.stored(folder)


def test_keys_of_a_former_engine_hide_no_new_one(monkeypatch):
    """An engine starts and is found, though the environment has the keys of one that had its port."""
    first = embedded.Server.start()
    old = first.credentials
    first.stop()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", old.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", old.secret_key)
    server = embedded.Server.start(first.port)
    try:
        assert local.credentials_for(server.endpoint_url) == server.credentials
    finally:
        server.stop()


def test_an_engine_whose_key_is_not_known_here_is_told_as_that(server, monkeypatch, tmp_path):
    """Another user's engine is not "no engine": the message says how one gets the key."""
    monkeypatch.setattr(local, "credentials_for", lambda url: None)
    with pytest.raises(EngineError, match=re.escape(HOW)):
        connect(server.engine, endpoint=server.endpoint_url)


def test_the_lock_that_is_shown_opens(tmp_path, monkeypatch, capsys):
    """`engine start` says how to get the credentials; what `engine env` prints makes plain boto3 work."""
    from test_security import lab

    monkeypatch.setattr(local, "KEPT", tmp_path)
    for name in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert lab("engine", "env") == 2
    assert "start one with `./lab engine start`" in capsys.readouterr().err
    assert lab("engine", "start") == 0
    try:
        assert 'eval "$(./lab engine env)"' in capsys.readouterr().out
        assert lab("engine", "status") == 0
        assert "its own credentials only" in capsys.readouterr().out
        assert lab("engine", "env") == 0
        line = capsys.readouterr().out
        words = shlex.split(line)
        assert words[0] == "export"
        program = (
            "import boto3; print(boto3.client('sqs').list_queues()['ResponseMetadata']['HTTPStatusCode'])"
        )
        token = "AWS_SESSION_TOKEN=of-the-user; export AWS_SESSION_TOKEN; unset AWS_PROFILE\n"
        shell = f"{token}{line}\n{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=120)
        assert done.stdout == "200\n", done.stderr
    finally:
        lab("engine", "stop")


def test_a_shell_that_names_an_engine_that_was_stopped_gets_out(tmp_path, monkeypatch, capsys):
    """`engine stop` says what to unset, and each command after it; what it says makes the next one work."""
    from test_security import lab

    monkeypatch.setattr(local, "KEPT", tmp_path)
    for name in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert lab("engine", "start") == 0
    assert lab("engine", "env") == 0
    exported = capsys.readouterr().out.rpartition("export ")[2]
    variables = dict(word.split("=", 1) for word in shlex.split(exported))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert lab("engine", "stop") == 0
    assert f"this shell still names it: unset {' '.join(variables)}\n" in capsys.readouterr().out
    assert lab("deploy", "sqs_limited") == 2
    assert "`unset AWS_ENDPOINT_URL` and the lab finds or starts one" in capsys.readouterr().err
    for name in variables:
        monkeypatch.delenv(name)
    with connect("embedded") as engine:
        assert engine.client("sqs").list_queues()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_any_credentials_are_served_where_that_is_said(tmp_path, monkeypatch, capsys):
    """--any-credentials warns, serves dummy keys, keeps pages and control endpoints out; status tells."""
    from test_security import lab

    monkeypatch.setattr(local, "KEPT", tmp_path)
    assert lab("engine", "start", "--any-credentials") == 0
    try:
        assert "every user and program of this machine" in capsys.readouterr().out
        server = embedded.Server.kept()
        assert client(server, "sqs", Credentials("test", "test")).list_queues()
        assert connect("embedded", endpoint=server.endpoint_url).client("sqs").list_queues()
        assert call(server, "GET", "/", {"Origin": "null"})[0] == 403
        assert call(server, "POST", "/_ministack/reset")[0] == 403
        assert lab("engine", "status") == 0
        assert "any credentials" in capsys.readouterr().out
    finally:
        lab("engine", "stop")
    assert lab("engine", "start", "localstack", "--docker", "--any-credentials") == 2
    assert "leave it out" in capsys.readouterr().err


def test_the_variable_of_a_user_opens_no_engine(monkeypatch):
    """LAB_ANY_CREDENTIALS in the environment changes nothing: only the option does."""
    monkeypatch.setenv("LAB_ANY_CREDENTIALS", "1")
    server = embedded.Server.start()
    try:
        with pytest.raises(ClientError, match="is not one of this engine's"):
            client(server, "sqs", Credentials("test", "test")).list_queues()
    finally:
        server.stop()


def test_the_guard_knows_nothing_of_the_lab():
    """guard.py imports the standard library and botocore alone, as the programs load it by its path."""
    source = Path(guard.__file__).read_text()
    found = set(re.findall(r"^(?:from|import) (\w+)", source, re.M))
    assert found - set(sys.stdlib_module_names) == {"botocore"}


def test_many_callers_at_once_are_told_apart(server, engine):
    """Requests with good and with bad signatures, at the same time, get each its own answer."""
    good, bad = (client(server, "sqs", keys) for keys in (server.credentials, Credentials("test", "test")))
    wrong = []

    def ask(number):
        for _ in range(20):
            try:
                (good if number % 2 else bad).list_queues()
                served = True
            except ClientError:
                served = False
            if served != bool(number % 2):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
