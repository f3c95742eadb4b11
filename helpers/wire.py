"""Faults on the wire: throttled, failed, slow and cut calls, between clients or workers and an engine.

The proxy is microburst, which answers as the service itself would: SDKs see AWS's own error codes and
statuses, and retry as they do there. Of microburst only the proxy is served, not its control plane, and the
engine's guard stands before it, too: see `Walls`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from types import TracebackType
from typing import Any, Self

import aiohttp
import pandas as pd
from aiohttp import web
from microburst.core.pipeline import Microburst
from microburst.forward import Upstream
from yarl import URL

from helpers.engines import connect
from helpers.engines.base import Engine
from helpers.engines.guard import SIGNED_HOST, Credentials, Fields, Guard, Pages, Refusal
from helpers.engines.local import HOST, Local
from helpers.errors import EngineError
from helpers.stack import Stack

THROTTLED = {
    "cloudformation": "Throttling",
    "lambda": "TooManyRequestsException",
    "logs": "ThrottlingException",
    "s3": "SlowDown",
    "sqs": "RequestThrottled",
    "stepfunctions": "ThrottlingException",
}
"""The code by which each service refuses a call that comes too soon (their API references, 2026-11-25)."""
WRITTEN_FOR = "0.10.0"
"""The release of microburst whose upstream session `Wire` replaces; pyproject.toml pins the same."""
KINDS = ("throttled", "failed", "slow", "reset", "unanswered")
BODY = web.RequestKey("body", bytes)
"""Where the walls keep the body of a request that they have read."""
CHANGE_SECONDS = 10
"""How long the proxy may take to start or to end."""


@dataclass(frozen=True)
class Fault:
    """What happens to a share of the calls.

    kind: `throttled`, refused with the service's own code; `failed`, refused with status 500; `slow`, delayed
    by `seconds`; `reset`, the connection is cut before the engine sees the call; `unanswered`, it is cut
    where the answer's body begins, so that the caller cannot know what was done. rate: the share, from 0 to
    1. service: as boto3 names its client, `stepfunctions`, `sqs`, `lambda`, `s3`, `logs` or `cloudformation`;
    None for all of these. operation: such as `SendTaskSuccess`, None for all. Raises EngineError for anything
    else.
    """

    kind: str
    rate: float
    service: str | None = None
    operation: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no fault."""
        for name, value, good, rule in (
            ("kind", self.kind, self.kind in KINDS, f"must be one of {', '.join(KINDS)}"),
            ("rate", self.rate, 0 <= self.rate <= 1, "must be a share from 0 to 1"),
            (
                "service",
                self.service,
                self.service in (None, *THROTTLED),
                f"must be one of {', '.join(THROTTLED)}",
            ),
            ("seconds", self.seconds, 0 <= self.seconds < inf, "must be at least 0, and finite"),
        ):
            if not good:
                raise EngineError(f"{name}={value!r}: {rule}")

    def _rules(self) -> list[dict[str, Any]]:
        """The fault as microburst's rules, one a service."""
        return [
            {"service": service, "operation": self.operation, "probability": self.rate}
            | self._effect(service)
            for service in ([self.service] if self.service else THROTTLED)
        ]

    def _effect(self, service: str) -> dict[str, Any]:
        match self.kind:
            case "throttled":
                error = {"code": THROTTLED[service], "message": "Rate exceeded"}
                # microburst qualifies SQS's code, so that SDKs know the throttling by its status only.
                return {"error": error | ({"status": 503} if service == "sqs" else {})}
            case "failed":
                return {"error": {"code": "InternalFailure", "status": 500}}
            case "slow":
                return {"latency": 1000 * self.seconds}
            case "reset":
                return {"reset": True}
        return {"response": {"abort_bytes": 0}}


class Walls:
    """The guard before the proxy: the same walls as before the engine, at the proxy's own port.

    They refuse a request before microburst sees it, so that a stranger causes no fault either. A request is
    checked as its caller signed it, for the proxy's address; the engine checks it once more, by the host that
    `Onward` names. The calls of a role's session on an engine that enforces IAM are refused: only the engine
    knows their secrets. An engine without credentials of the lab's gets the wall against pages alone.

    Args:
        port: The proxy's port.
        credentials: Those of the engine, if it has any.
    """

    def __init__(self, port: int, credentials: Credentials | None) -> None:
        self._pages = Pages(port)
        self._guard: Guard | None = None
        if credentials:
            self._guard = Guard(port, {credentials.access_key: credentials.secret_key}.get)

    @web.middleware
    async def guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse a request, or hand it to the proxy; aiohttp calls this once it has read the headers."""
        try:
            await self._check(request)
        except Refusal as refusal:
            headers, body = refusal.answer(request.raw_headers)
            named = {name.decode(): value.decode() for name, value in headers}
            return web.Response(status=refusal.status, headers=named, body=body)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _check(self, request: web.Request) -> None:
        if not self._guard:
            self._pages.check(request.method, request.raw_path, Fields(request.raw_headers))
            return
        signature = self._guard.admit(request.method, request.raw_path, request.raw_headers)
        if signature.needs_body:
            body = await request.read()
            signature.verify(body)
            request[BODY] = body


class Onward(Upstream):  # type: ignore[misc]
    """The way from the proxy to the engine."""

    async def relay(self, request: web.Request, body: bytes | None, *more: Any, **named: Any) -> Any:
        """Send a request on, with its body though the walls have read it."""
        return await super().relay(request, request.get(BODY) if body is None else body, *more, **named)

    def _outbound_headers(self, request: web.Request) -> dict[str, str]:
        headers: dict[str, str] = super()._outbound_headers(request)
        return headers | {SIGNED_HOST: request.headers["Host"]}


class Session:
    """An HTTP client that sends a path as it came: aiohttp's own would encode it anew, which S3's signature
    does not allow.
    """

    def __init__(self) -> None:
        # aiohttp's default of 100 connections is used up by the long polls of a fleet.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, skip_auto_headers=["Content-Type"]
        )
        self.close = self._client.close

    async def request(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        """Send a request; the options are those of aiohttp."""
        return await self._client.request(method, URL(url, encoded=True), **options)


async def _without_cors(request: web.Request, response: web.StreamResponse) -> None:
    """Leave out the headers by which an engine lets pages of other sites read its answers."""
    for name in [name for name in response.headers if name.lower().startswith("access-control-")]:
        del response.headers[name]


class Wire:
    """A proxy on 127.0.0.1 between callers and an engine; a context manager, running once entered.

    faults: of those that fit a call the first that strikes does. endpoint_url: where it answers. engine: the
    same engine through the proxy: its clients, runs and fleets. Raises EngineError for an engine that does
    not answer at one endpoint: AWS itself, where a service has each its own, and the simulator. Raises it,
    too, where another release of microburst is installed than `WRITTEN_FOR`.
    """

    engine: Engine
    endpoint_url: str

    def __init__(self, engine: Engine, *faults: Fault) -> None:
        if not isinstance(engine, Local):
            raise EngineError(
                f"engine {engine.name!r}: has no single endpoint that a proxy could stand before; use an "
                "engine on this machine"
            )
        if (found := version("microburst")) != WRITTEN_FOR:
            raise EngineError(
                f"microburst {found} is installed, but the proxy is written for {WRITTEN_FOR}: install "
                f"microburst=={WRITTEN_FOR}, or bring helpers/wire.py and its tests up to the new release"
            )
        self._before = engine
        self._faults = faults
        self._proxy = Microburst(engine.endpoint_url, resign=False, fired_capacity=100_000)
        self._proxy.upstream = Onward(engine.endpoint_url, stats=self._proxy.stats)
        self._credentials = engine.credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._runner: web.AppRunner | None = None

    def change(self, *faults: Fault) -> None:
        """Do these faults from now on, in place of the former ones; none ends them."""
        self._faults = faults
        rules = [rule for fault in faults for rule in fault._rules()]
        self._loop.call_soon_threadsafe(self._proxy.engine.set_rules, rules)

    def fired(self) -> pd.DataFrame:
        """The faults done so far: time (epoch s), service, operation, fault (as microburst calls it)."""
        fired = self._proxy.fired.copy()  # in one step: the proxy's thread appends to it
        events = [(event.ts, event.service, event.operation, event.action) for event in fired]
        return pd.DataFrame(events, columns=["time", "service", "operation", "fault"])

    def put_before(self, stack: Stack, output: str = "WorkerFunction") -> None:
        """Let the calls of a deployed function (the output that names it) pass the proxy.

        Its environments start anew. The function must run where 127.0.0.1 is this machine.
        """
        functions = stack.engine.client("lambda")
        name = stack.outputs[output]
        environment = functions.get_function_configuration(FunctionName=name).get("Environment", {})
        variables = environment.get("Variables", {}) | {
            f"AWS_ENDPOINT_URL_{service}": self.endpoint_url for service in ("SFN", "SQS", "S3")
        }
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
        functions.get_waiter("function_updated_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": stack.engine.poll_seconds}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.endpoint_url = self._soon(self._start())
            self.engine = connect(
                self._before.name, endpoint=self.endpoint_url, credentials=self._credentials
            )
            self.change(*self._faults)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the proxy; calls on their way are cut."""
        try:
            if self._runner:
                self._soon(self._runner.cleanup())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(self) -> str:
        listening = [socket.create_server((HOST, 0))]
        port = listening[0].getsockname()[1]
        try:  # what `localhost` may mean first, and so must not be another user's
            listening.append(socket.create_server(("::1", port), family=socket.AF_INET6))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # no IPv6 here
                listening[0].close()
                raise
        walls = Walls(port, self._credentials)
        app = web.Application(middlewares=[walls.guarded], client_max_size=0)  # 0: as the engine, no limit
        app.on_startup.append(self._proxy.start)
        app.on_cleanup.append(self._proxy.stop)
        app.on_response_prepare.append(_without_cors)
        app.router.add_route("*", "/{tail:.*}", self._proxy.handle_proxy)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            auto_decompress=False,  # a body is signed, and sent on, as it came
        )
        await self._runner.setup()
        await self._proxy.upstream.session.close()
        self._proxy.upstream.session = Session()
        for one in listening:
            await web.SockSite(self._runner, one).start()
        # By name: of an address microburst would ask for seconds which of all AWS's services it belongs to.
        return f"http://localhost:{port}"

    def _soon(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CHANGE_SECONDS)
