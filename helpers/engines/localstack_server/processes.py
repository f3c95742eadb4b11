"""Lambda functions in processes of this machine, for a LocalStack that has no Docker.

LocalStack runs functions by a runtime executor, which is a plugin (LAMBDA_RUNTIME_EXECUTOR names one of
the namespace localstack.lambda.runtime_executor); its own starts containers. This one starts worker.py in the
function's code folder: one process for each execution environment. LocalStack assigns environments, keeps
them warm and stops them as before.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from localstack import config
from localstack.services.lambda_.invocation import runtime_executor
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from plux import PluginFinder, PluginSpecResolver

WORKER = str(Path(__file__).with_name("worker.py"))
HOST = "127.0.0.1"
INIT_SECONDS = 60
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""The engine's own credentials, with which a function signs its calls of the engine."""


class ProcessRuntimeExecutor(runtime_executor.RuntimeExecutor):  # type: ignore[misc]
    """An execution environment that is a process; what it says is read back from its log file."""

    process: subprocess.Popen[bytes] | None = None

    def start(self, env_vars: dict[str, Any]) -> None:
        """Start the process and wait until it has imported the handler."""
        self.environment = {key: str(value) for key, value in env_vars.items()} | {
            name: os.environ[name] for name in KEYS if name in os.environ
        }
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the environment
        self._start()

    def _start(self) -> None:
        code = self.function_version.config.code
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-u", WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                cwd=code.get_unzipped_code_location(),
                env={name: os.environ[name] for name in ("PATH", "TMPDIR")} | self.environment,
            )
        self.answers = self.channel.makefile()
        self.channel.settimeout(INIT_SECONDS)
        if failed := self._answer(self.process, "init").get("error"):
            self.stop()
            raise StatusErrorException("the function did not start", payload=json.dumps(failed).encode())

    def _answer(self, process: subprocess.Popen[bytes], request_id: str) -> dict[str, Any]:
        """What the process answers; that it ended, when it does not."""
        if line := self.answers.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        message = f"RequestId: {request_id} Error: Runtime exited with status {process.wait()}"
        return {"error": {"errorMessage": message, "errorType": "Runtime.ExitError"}}

    def stop(self) -> None:
        """Kill the process."""
        if self.process:
            self.answers.close()
            self.channel.close()
            self.process.kill()
            self.process.wait()
            self.process = None

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """Hand the event over and wait for the answer, no longer than the function's timeout.

        A process that timed out or ended is gone; the next call finds a new one in this environment, as
        Lambda resets one.
        """
        if not self.process:
            self._start()
        assert self.process
        request_id, seconds = payload["invoke-id"], self.function_version.config.timeout
        said = self._size()
        self.channel.settimeout(seconds)
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; so its answer says
                self.channel.sendall(json.dumps(payload).encode() + b"\n")
            answer = self._answer(self.process, request_id)
        except TimeoutError:
            message = f"{request_id} Task timed out after {seconds}.00 seconds"
            answer = {"error": {"errorMessage": message, "errorType": "Sandbox.Timedout"}}
            self.stop()
        if self.process and self.process.poll() is not None:
            self.stop()
        failed = "error" in answer
        return InvocationResult(
            request_id,
            json.dumps(answer["error"]).encode() if failed else answer["result"].encode(),
            is_error=failed,
            logs=f"START RequestId: {request_id}\n{self._said(said)}END RequestId: {request_id}\n",
        )

    def _size(self) -> int:
        return os.fstat(self.log.fileno()).st_size

    def _said(self, since: int) -> str:
        """What the environment has said after its first `since` bytes."""
        return os.pread(self.log.fileno(), self._size() - since, since).decode(errors="replace")

    def get_logs(self) -> str:
        """All that the environment has said so far."""
        return self._said(0)

    def get_address(self) -> str:
        """Where the process runs."""
        return HOST

    def get_endpoint_from_executor(self) -> str:
        """The host at which the process finds LocalStack."""
        return HOST

    def get_runtime_endpoint(self) -> str:
        """None: the process answers over its own channel."""
        return ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unpack the code; refuse what is not Python."""
        runtime = function_version.config.runtime
        if not (runtime or "").startswith("python"):
            raise runtime_executor.LambdaRuntimeException(
                f"runtime {runtime}: only Python runs without Docker"
            )
        function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing is left of a version but its code, which LocalStack removes."""


class ProcessesPlugin(RuntimeExecutorPlugin):  # type: ignore[misc]
    """What the executor is called in LAMBDA_RUNTIME_EXECUTOR."""

    name = "processes"

    def load(self, *_: Any, **__: Any) -> type[ProcessRuntimeExecutor]:
        """The executor's class."""
        return ProcessRuntimeExecutor


class Finder(PluginFinder):  # type: ignore[misc]
    """Finds this plugin, where entry points of installed packages find LocalStack's own."""

    def find_plugins(self) -> list[Any]:
        """The one that there is."""
        return [PluginSpecResolver().resolve(ProcessesPlugin)]


def register() -> None:
    """Have LocalStack run functions by this executor."""
    runtime_executor.EXECUTOR_PLUGIN_MANAGER.finder = Finder()
    config.LAMBDA_RUNTIME_EXECUTOR = ProcessesPlugin.name
