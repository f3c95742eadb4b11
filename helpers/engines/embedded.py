"""The embedded engine: a ministack server on this machine, started and ended by the lab.

`connect("embedded")` uses the one that is named or kept (see `helpers.engines.local`), else its own.
"""

from __future__ import annotations

import atexit
import os
from importlib.metadata import version
from pathlib import Path

from helpers.engines import local, machine
from helpers.engines.guard import Credentials

OPERATOR_POLICY = Path(__file__).parents[2] / "infra" / "operator.policy.json"
"""The rights of the person or role that runs the lab, as an IAM policy."""
BOUNDARY_POLICY = OPERATOR_POLICY.with_name("boundary.policy.json")
"""The bounds of what the roles in the lab's stacks may do, as an IAM policy."""
ROOT = "root.json"
"""The file in an enforcing server's folder that holds the credentials of the account's root."""
WORKER_THREADS = 2048
"""Requests that the server handles at once; each running worker and each long poll holds one."""


class Server(local.Server):
    """A ministack process."""

    engine = "embedded"
    program = str(Path(__file__).with_name("embedded_server"))
    start_seconds = 60

    @classmethod
    def environment(cls, port: int, directory: str) -> dict[str, str]:
        """ministack's settings."""
        return {
            "BIND_HOST": local.HOST,  # its default is every interface
            "GATEWAY_PORT": str(port),
            # AWS's default; ministack's own follows this machine's memory.
            "LAMBDA_ACCOUNT_CONCURRENCY": os.environ.get("LAMBDA_ACCOUNT_CONCURRENCY", "1000"),
            "LAMBDA_WARM_TTL_SECONDS": "3600",
            "LOG_LEVEL": "WARNING",
            # Else glibc gives each of many threads an arena, and keeps its memory.
            "MALLOC_ARENA_MAX": "2",
            "MINISTACK_WORKER_THREADS": str(WORKER_THREADS),
            "PERSIST_STATE": "0",
        }

    @classmethod
    def healthy(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether a ministack answers at this endpoint, called with these credentials."""
        return local.answer(f"{endpoint_url}/_ministack/health", credentials) is not None


class EnforcingServer(Server):
    """A ministack process that enforces IAM; the lab's clients are a user with OPERATOR_POLICY and no more.

    The account has the policy that bounds the roles of the lab's stacks.

    What it checks and what it does not is said in infra/README.md.
    """

    @classmethod
    def environment(cls, port: int, directory: str) -> dict[str, str]:
        """ministack's settings, and who the lab's clients are."""
        operator, root = local.stored(Path(directory)), local.store(Path(directory), port, ROOT)
        return super().environment(port, directory) | {
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": root.access_key,
            "AWS_SECRET_ACCESS_KEY": root.secret_key,
            "LAB_OPERATOR_KEY": operator.access_key,
            "LAB_OPERATOR_SECRET": operator.secret_key,
            "LAB_OPERATOR_POLICY": OPERATOR_POLICY.read_text(),
            "LAB_BOUNDARY_POLICY": BOUNDARY_POLICY.read_text(),
        }

    @property
    def root(self) -> Credentials:
        """The credentials of the account's root, who may do everything."""
        return local.stored(Path(self.directory), ROOT)


class Embedded(local.Local):
    """An engine on this machine; see the module's text for which server it uses."""

    name = "embedded"
    server = Server
    environment = machine.ENVIRONMENT
    health = "/_ministack/health"
    remedy = (
        "`unset AWS_ENDPOINT_URL` and the lab finds or starts one, or `./lab engine start` and then "
        '`eval "$(./lab engine env)"`'
    )
    _own: Server | None = None

    def _fall_back(self) -> str:
        self._own = Server.start()
        atexit.register(self.close)
        return self._own.endpoint_url

    def versions(self) -> dict[str, str]:
        """The versions of what a measurement depends on, ministack's included."""
        return super().versions() | {"ministack": version("ministack")}

    def close(self) -> None:
        """Stop the server if this object started it."""
        if self._own:
            atexit.unregister(self.close)
            self._own.stop()
            self._own = None
