"""The guard before ministack: who may call, and the keys that the engine itself hands out.

It runs in the event loop, before ministack sees a request. The answers carry no CORS headers.
"""

import hmac
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[..., Any]


def load_guard() -> Any:
    """Load guard.py, which lies beside this program, without the lab around it."""
    spec = importlib.util.spec_from_file_location("guard", Path(__file__).parents[1] / "guard.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["guard"] = module  # where its dataclasses look their names up
    spec.loader.exec_module(module)
    return module


guard = load_guard()


class Issued:
    """The access keys that are valid here: the engine's own, and those that IAM and STS have made since.

    Args:
        iam: ministack's IAM.
        sts: ministack's STS.
    """

    def __init__(self, iam: Any, sts: Any) -> None:
        self.iam, self.sts = iam, sts
        self.own = {os.environ["AWS_ACCESS_KEY_ID"]: os.environ["AWS_SECRET_ACCESS_KEY"]}

    def secret_of(self, access_key: str) -> str | None:
        """Return the secret of an access key, or None for one that is unknown, inactive or expired."""
        if secret := self.own.get(access_key):
            return secret
        if session := self.sts._sessions.get(access_key):
            expired = time.time() > session.get("Expiration", float("inf"))
            return None if expired else str(session["SecretAccessKey"])
        for (_, key), made in self.iam._access_keys.to_dict().items():
            if key == access_key and made["Status"] == "Active":
                return str(made["SecretAccessKey"])
        return None


def guarded(app: Step, walls: Any) -> Step:
    """Let only those requests through that the guard admits.

    Args:
        app: ministack as an ASGI application.
        walls: The guard.
    """

    async def corrected(scope: dict[str, Any], receive: Step, send: Step) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise guard.Refusal("AccessDenied", "websocket: this engine serves none; call it by HTTP")
            query = scope["query_string"]
            target = scope["raw_path"] + (b"?" + query if query else b"")
            signature = walls.admit(scope["method"], target.decode("latin-1"), scope["headers"])
            if signature.needs_body:
                receive = await whole_body(receive, signature)
        except guard.Refusal as refusal:
            if scope["type"] == "http":
                await refuse(scope, send, refusal)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        await app(scope, receive, without_cors(send))

    return corrected


async def whole_body(receive: Step, signature: Any) -> Step:
    """Read the body, verify it, and return a `receive` that gives it once more."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break  # the client has gone: ministack is told so
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    else:
        body = b"".join(parts)
        signature.verify(body)
        message = {"type": "http.request", "body": body, "more_body": False}
    messages = [message]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return again


async def refuse(scope: dict[str, Any], send: Step, refusal: Any) -> None:
    """Answer with the refusal; hypercorn then closes the connection of a body that was not read."""
    headers, body = refusal.answer(scope["headers"])
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body})


def without_cors(send: Step) -> Step:
    """Leave out the headers by which ministack lets pages of other sites read its answers."""

    async def corrected(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", [])
            kept = [
                (name, value) for name, value in headers if not name.lower().startswith(b"access-control-")
            ]
            message = {**message, "headers": kept}
        await send(message)

    return corrected


def own_keys(_config: dict[str, Any]) -> dict[str, str]:
    """A Lambda worker signs with the engine's key; ministack would give it the number of the account."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {name: os.environ[name] for name in names} | {"AWS_SESSION_TOKEN": ""}


def secret_sessions(sts: Any, call: Step) -> Step:
    """The session of a function's role has a secret of its own; ministack derives it from public names."""
    key = os.urandom(32)

    def corrected(config: dict[str, Any]) -> dict[str, str]:
        given: dict[str, str] = call(config)
        secret = hmac.digest(key, given["AWS_SECRET_ACCESS_KEY"].encode(), "sha256").hex()
        sts._sessions[given["AWS_ACCESS_KEY_ID"]]["SecretAccessKey"] = secret
        return given | {"AWS_SECRET_ACCESS_KEY": secret}

    return corrected


def presigned(make: Step, method: str) -> Step:
    """A link to one of ministack's own endpoints is presigned, as those of AWS are.

    Args:
        make: Returns the link.
        method: The HTTP method by which it is used.
    """

    def corrected(*given: Any) -> Any:
        keys = guard.Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        return keys.presign(method, make(*given).partition("?")[0])

    return corrected


def correct() -> None:
    """Put the guard before ministack."""
    from ministack import app
    from ministack.core import lambda_runtime
    from ministack.services import iam, lambda_svc, sts
    from ministack.services.cloudformation import custom_resource, wait_conditions

    given = secret_sessions(sts, lambda_runtime.execution_credentials) if app.AUTH else own_keys
    lambda_runtime.execution_credentials = lambda_svc.execution_credentials = given
    lambda_svc._presigned_code_url = presigned(lambda_svc._presigned_code_url, "GET")
    lambda_svc._layer_content_url = presigned(lambda_svc._layer_content_url, "GET")
    custom_resource._response_url = presigned(custom_resource._response_url, "PUT")
    wait_conditions.handle_url = presigned(wait_conditions.handle_url, "PUT")
    any_credentials = os.environ["LAB_ANY_CREDENTIALS"] == "1"
    walls = guard.Guard(int(os.environ["GATEWAY_PORT"]), Issued(iam, sts).secret_of, any_credentials)
    app.app = guarded(app.app, walls)
