"""In a real browser: pages of other sites reach neither an engine on this machine nor the fault proxy.

Each page tries what a page can: requests that need no preflight and requests that do, forms, images, scripts,
beacons, frames, sockets and streams. What an attempt did is looked up in the engine by the lab's own client.
"""

import base64
import http.server
import io
import threading
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import GIVE_UP_SECONDS

from helpers.engines import Engine, connect, local, localstack
from helpers.wire import Fault, Wire

pytestmark = pytest.mark.timeout(2 * GIVE_UP_SECONDS)
FOREIGN = "foreign.test"
"""A name that the browser resolves to this machine, as a name does whose owner rebinds it."""
UNWALLED = "LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights"
"""Walls of Chromium's own that other browsers and older releases do not have."""
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as archive:
    archive.writestr("index.py", "def handler(event, context):\n    open(event['mark'], 'w').close()\n")
CODE = ARCHIVE.getvalue()
ROLE = "arn:aws:iam::000000000000:role/any"
ATTEMPTS = """async ([engine, archive, name, marks]) => {
    const read = {}, functions = `${engine}/2015-03-31/functions`
    const made = by => JSON.stringify({FunctionName: `${name}-${by}`, Runtime: "python3.13", Role: "ROLE",
        Handler: "index.handler", Code: {ZipFile: archive}})
    const gone = by => new URLSearchParams({Action: "DeleteQueue",
        QueueUrl: `${engine}/000000000000/${name}-${by}`})
    const told = (ok, text) => ok || text === "" ? text : `refused: ${text}`
    const answer = async (url, options) => {
        const response = await fetch(url, options)
        return told(response.ok, await response.text())
    }
    const posted = (body, more) => ({method: "POST", body, ...more})
    const json = {headers: {"Content-Type": "application/json"}}
    const ended = (element, ...events) => new Promise(resolve => {
        events.forEach(event => element.addEventListener(event, resolve, {once: true}))
        if (!element.isConnected) document.documentElement.append(element)
    })
    const html = "http://www.w3.org/1999/xhtml"  // an engine's answer in XML may be the page
    const element = (tag, more) => Object.assign(document.createElementNS(html, tag), more)
    const framed = more => { const frame = element("iframe", more); return [frame, ended(frame, "load")] }
    const submitted = async (action, enctype, fields) => {
        const target = `frame-${Math.random()}`, [, blank] = framed({name: target})
        await blank
        const form = element("form", {method: "post", action, enctype, target})
        for (const [name, value] of fields) form.append(element("input", {name, value}))
        const done = ended(document.querySelector(`[name="${target}"]`), "load")
        document.documentElement.append(form)
        form.submit()
        await done
    }
    const attempts = {
        "post": async () => await answer(functions, posted(made("post")))
            + await answer(`${functions}/${name}-post/invocations`,
                posted(JSON.stringify({mark: marks.post}))),
        "no-cors": async () => await answer(functions, posted(made("no-cors"), {mode: "no-cors"}))
            + await answer(`${functions}/${name}-no-cors/invocations`,
                posted(JSON.stringify({mark: marks["no-cors"]}), {mode: "no-cors"})),
        "json": () => answer(functions, posted(made("json"), json)),
        "target": () => answer(`${engine}/`, posted(JSON.stringify({QueueName: `${name}-target-made`}),
            {headers: {"Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": "AmazonSQS.CreateQueue"}})),
        "credentials": () => answer(`${engine}/`, {credentials: "include"}),
        "xhr": () => new Promise((resolve, reject) => {
            const request = new XMLHttpRequest()
            request.open("POST", functions)
            request.onload = () => resolve(told(request.status < 400, request.responseText))
            request.onerror = reject
            request.send(made("xhr"))
        }),
        "delete": () => answer(`${engine}/${name}-bucket/deleted`, {method: "DELETE"}),
        "put": () => answer(`${engine}/${name}-bucket/put`, {method: "PUT", body: "put"}),
        "query": () => answer(`${engine}/`, posted(gone("query"))),
        "buckets": () => answer(`${engine}/`),
        "object": () => answer(`${engine}/${name}-bucket/object`),
        "queue": () => answer(`${engine}/`, posted(new URLSearchParams(
            {Action: "ReceiveMessage", QueueUrl: `${engine}/000000000000/${name}-letters`}))),
        "code": () => answer(`${functions}/${name}-victim`),
        "ministack": () => answer(`${engine}/_ministack/health`),
        "localstack": () => answer(`${engine}/_localstack/health`),
        "microburst": () => answer(`${engine}/_microburst/health`),
        "rules": () => answer(`${engine}/_microburst/rules`, posted("[]")),
        "form": () => submitted(`${engine}/`, "application/x-www-form-urlencoded", gone("form")),
        "text form": () => {
            const [before, after] = made("form").replace(/}$/, ', "Description": "#"}').split("#")
            return submitted(functions, "text/plain", [[before, after]])
        },
        "image": () => ended(element("img", {src: `${engine}/?${gone("image")}`}), "load", "error"),
        "script": () => ended(element("script", {src: `${engine}/?${gone("script")}`}), "load", "error"),
        "style": () => ended(element("link", {rel: "stylesheet", href: `${engine}/?${gone("style")}`}),
            "load", "error"),
        "frame": async () => {
            const [frame, loaded] = framed({src: `${engine}/${name}-bucket/object`})
            await loaded
            const text = frame.contentDocument && frame.contentDocument.body.innerText
            return text && told(text.includes(name), text)
        },
        "socket": () => new Promise(resolve => {
            const socket = new WebSocket(engine.replace("http", "ws"))
            socket.onopen = () => { socket.close(); resolve("open") }
            socket.onerror = () => resolve(null)
        }),
        "stream": () => new Promise(resolve => {
            const stream = new EventSource(`${engine}/_microburst/fired/stream`)
            stream.onopen = () => { stream.close(); resolve("open") }
            stream.onerror = () => { stream.close(); resolve(null) }
        }),
    }
    for (const [by, attempt] of Object.entries(attempts))
        try { read[by] = await attempt() } catch { read[by] = null }
    return Object.entries(read).filter(([, text]) => typeof text === "string" && text !== "")
}""".replace("ROLE", ROLE)
"""What a page tries; returns what it could read, by attempt."""
BEACON = "([url, body]) => navigator.sendBeacon(url, body)"
RESETS = """async engine => {
    for (const path of ["_ministack/reset", "_localstack/state/reset"])
        await fetch(`${engine}/${path}`, {method: "POST", mode: "no-cors"}).catch(() => 0)
}"""
QUEUES = ("query", "form", "image", "script", "style")
"""The attempts that delete a queue, each one of its own."""


@pytest.fixture(scope="module")
def rebinding() -> Iterator[Any]:
    """The system's Chromium, to which FOREIGN is this machine."""
    rules = f"MAP {FOREIGN} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    kept = [argument for argument in browsing.ARGUMENTS if "resolver" not in argument]
    arguments = [*kept, f"--host-resolver-rules={rules}", f"--disable-features={UNWALLED}"]
    with browsing.launched(arguments) as started:
        yield started


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[None]:
    """No endpoint in the environment, and no engine that is kept."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in local.ENDPOINT_VARIABLES:
            patch.delenv(variable, raising=False)
        patch.setattr(local, "KEPT", tmp_path_factory.mktemp("kept"))
        yield


@pytest.fixture(scope="module", params=["embedded", "proxy", "localstack"])
def target(request, alone) -> Iterator[Engine]:
    """An engine of this module's own, as the lab's clients call it; also through the proxy."""
    with ExitStack() as stack:
        if request.param == "localstack":
            if not localstack.installed(localstack.Server.home):
                pytest.skip("LocalStack is not installed; `./lab engine start localstack` installs it")
            started = localstack.Server.start()
            stack.callback(started.stop)
            yield connect("localstack", endpoint=started.endpoint_url)
            return
        engine = stack.enter_context(connect("embedded"))
        if request.param == "proxy":
            wire = stack.enter_context(Wire(engine, Fault("failed", 1.0, "sqs", "PurgeQueue")))
            engine = wire.engine
        yield engine


@pytest.fixture
def origin(request, target, tmp_path) -> Iterator[str]:
    """The URL of a page of another site: on disk, of another port, of another name, or of a rebound name."""
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>hostile</title>")
    port = target.endpoint_url.rsplit(":", 1)[1]
    if request.param == "disk":
        yield page.as_uri()
    elif request.param == "rebound":  # the engine's own answer is a page of this origin
        yield f"http://{FOREIGN}:{port}/"
    else:
        handler = partial(Quiet, directory=tmp_path)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            host = {"port": "127.0.0.1", "name": FOREIGN}[request.param]
            yield f"http://{host}:{server.server_port}/page.html"
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def plant(engine: Engine, name: str) -> None:
    """Put queues, objects and a function into the engine, all of this name, with a secret in each."""
    sqs, s3 = engine.client("sqs"), engine.client("s3")
    for by in QUEUES:
        sqs.create_queue(QueueName=f"{name}-{by}")
    letters = sqs.create_queue(QueueName=f"{name}-letters")["QueueUrl"]
    sqs.send_message(QueueUrl=letters, MessageBody=f"secret-{name}")
    s3.create_bucket(Bucket=f"{name}-bucket")
    for key in ("object", "deleted"):
        text = f"secret-{name}".encode()
        s3.put_object(Bucket=f"{name}-bucket", Key=key, Body=text, ContentType="text/plain")
    engine.client("lambda").create_function(
        FunctionName=f"{name}-victim",
        Runtime="python3.13",
        Role=ROLE,
        Handler="index.handler",
        Code={"ZipFile": CODE},
        Description=f"secret-{name}",
    )


def found(engine: Engine, name: str) -> set[str]:
    """Look up functions, queues with their messages, visible and not, and objects of this name."""
    sqs, s3 = engine.client("sqs"), engine.client("s3")
    functions = engine.client("lambda").list_functions()["Functions"]
    there = {f"function {one['FunctionName']}" for one in functions if one["FunctionName"].startswith(name)}
    counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    for url in sqs.list_queues(QueueNamePrefix=name).get("QueueUrls", []):
        told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]
        there.add(f"queue {url.rsplit('/', 1)[1]} {' '.join(told[count] for count in counts)}")
    if f"{name}-bucket" in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        listed = s3.list_objects_v2(Bucket=f"{name}-bucket").get("Contents", [])
        there |= {f"object {item['Key']}" for item in listed}
    return there


@pytest.mark.parametrize("origin", ["disk", "port", "name", "rebound"], indirect=True)
def test_a_page_of_another_site_does_and_reads_nothing(rebinding, target, origin, tmp_path):
    """No function is made or run, nothing is deleted, read or reset, whatever the page tries.

    A page of a rebound name, which is of the engine's origin to the browser, reads refusals and no more.
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    plant(target, name)
    before = found(target, name)
    marks = {by: str(tmp_path / by) for by in ("post", "no-cors")}
    rebound = origin.startswith(f"http://{FOREIGN}") and origin.endswith("/")
    engine = origin.rstrip("/") if rebound else target.endpoint_url
    code = base64.b64encode(CODE).decode()
    context = rebinding.new_context()
    context.set_default_timeout(1_000 * GIVE_UP_SECONDS)
    try:
        page = context.new_page()
        page.goto(origin)
        read = dict(page.evaluate(ATTEMPTS, [engine, code, name, marks]))
        body = (
            f'{{"FunctionName": "{name}-beacon", "Runtime": "python3.13", "Role": "{ROLE}", '
            f'"Handler": "index.handler", "Code": {{"ZipFile": "{code}"}}}}'
        )
        with page.expect_event("response", lambda response: "beacon" in response.url):
            assert page.evaluate(BEACON, [f"{engine}/2015-03-31/functions?by=beacon", body])
        if rebound:
            read = {by: text for by, text in read.items() if not text.startswith("refused: ")}
        after = found(target, name)
        page.evaluate(RESETS, engine)
        happened = {
            "read": sorted(read),
            "run": sorted(by for by, mark in marks.items() if Path(mark).exists()),
            "changed": sorted(before ^ after),
            "reset": sorted(after ^ found(target, name)),
        }
        assert happened == {"read": [], "run": [], "changed": [], "reset": []}
    finally:
        context.close()
