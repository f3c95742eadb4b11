"""The guard before LocalStack's gateway: who may call, and the keys that the engine itself hands out.

It stands in Twisted's request, before LocalStack sees one, so that websockets and LocalStack's own endpoints
are behind it, too. LocalStack's calls to itself do not pass it: IN_MEMORY_CLIENT keeps them in the process.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from localstack import config
from localstack.services.lambda_.invocation import lambda_models
from rolo.serving import twisted
from twisted.web import http


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
SECRET = os.environ["AWS_SECRET_ACCESS_KEY"]
OWN = {os.environ["AWS_ACCESS_KEY_ID"]: SECRET, config.INTERNAL_RESOURCE_ACCOUNT: SECRET}
"""The engine's own access key, and the one by which LocalStack presigns links to functions' code."""


def secret_of(access_key: str) -> str | None:
    """Return the secret of an access key: the engine's own, or one that IAM or STS has made since."""
    if secret := OWN.get(access_key):
        return secret
    if sts := sys.modules.get("moto.sts.models"):
        for backend in list(sts.sts_backends.values()):
            for partition in list(backend.values()):
                if role := partition.get_assumed_role_from_access_key(access_key):
                    return str(role.secret_access_key)
    if iam := sys.modules.get("moto.iam.models"):
        for backend in list(iam.iam_backends.values()):
            for partition in list(backend.values()):
                key = partition.access_keys.get(access_key)
                if key and key.status == "Active":
                    return str(key.secret_access_key)
    return None


class GuardedRequest(twisted.TwistedRequestAdapter):  # type: ignore[misc]
    """A request that is refused by its head, or once its body has come, unless the guard admits it."""

    walls = guard.Guard(
        int(os.environ["GATEWAY_LISTEN"].rpartition(":")[2]),
        secret_of,
        os.environ["LAB_ANY_CREDENTIALS"] == "1",
    )
    refused = False

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return every line of the request's head."""
        return twisted.to_flat_header_list(self.requestHeaders)  # type: ignore[no-any-return]

    def gotLength(self, length: int | None) -> None:
        """Check the head, which is all that has been read by now."""
        super().gotLength(length)
        try:
            method, target = self.channel._command.decode("latin-1"), self.channel._path.decode("latin-1")
            if self.requestHeaders.hasHeader(b"upgrade"):
                raise guard.Refusal("AccessDenied", "websocket: this engine serves none; call it by HTTP")
            self.signature = self.walls.admit(method, target, self.raw_headers())
        except guard.Refusal as refusal:
            self.refused = True
            headers, body = refusal.answer(self.raw_headers())
            lines = [b"HTTP/1.1 403 Forbidden", *(b": ".join(line) for line in headers), b"connection: close"]
            body = b"" if method == "HEAD" else body
            self.channel.transport.write(b"\r\n".join([*lines, b"", body]))
            self.requestHeaders.removeHeader(b"expect")  # no body is wanted any more

    def handleContentChunk(self, data: bytes) -> None:
        """Throw away the body of a refused request, so that its sender reads the refusal."""
        if not self.refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Serve the request, or end the connection of a refused one."""
        if self.refused:
            self.channel.loseConnection()
        else:
            super().requestReceived(command, path, version)

    def process(self) -> None:
        """Check the body."""
        if self.signature.needs_body:
            self.content.seek(0)
            body = self.content.read()
            self.content.seek(0)
            try:
                self.signature.verify(body)
            except guard.Refusal as refusal:
                headers, answer = refusal.answer(self.raw_headers())
                self.setResponseCode(refusal.status)
                for name, value in headers:
                    self.setHeader(name, value)
                self.write(answer)
                self.finish()
                return
        super().process()

    def write(self, data: bytes) -> None:
        """Leave out the headers by which LocalStack lets pages of other sites read its answers."""
        if not self.startedWriting:
            for name, _ in list(self.responseHeaders.getAllRawHeaders()):
                if name.lower().startswith(b"access-control-"):
                    self.responseHeaders.removeHeader(name)
        super().write(data)


def correct() -> None:
    """Put the guard before LocalStack's gateway."""
    http.H2_ENABLED = False  # its requests come by another way
    lambda_models.INTERNAL_AWS_SECRET_ACCESS_KEY = SECRET  # LocalStack's is public, and the same everywhere
    twisted.TwistedRequestAdapter = GuardedRequest
