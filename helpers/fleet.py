"""A fleet of long-polling workers on this machine, running the same handler as the Lambda worker.

It plays the part that containers or servers play on AWS: each worker takes messages itself, so the
number of workers is the limit. `Fleet` starts processes of helpers/fleet_worker.py; they end with the
process that started them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from helpers.errors import StackError
from helpers.formatting import plain
from helpers.recorder import Recorder
from helpers.resources import acquiring, lacking
from helpers.stack import INFRA, Stack

PROGRAM = Path(__file__).with_name("fleet_worker.py")
HANDLER = INFRA / "sqs_limited" / "functions" / "worker" / "index.py"
WORKERS_PER_PROCESS = 25
"""Threads that one interpreter can drive without getting in each other's way."""
ERROR_CHARACTERS = 300
"""Characters of a process's last line that an error shows."""
RECEIVE_LIMIT = 10
"""Messages that one ReceiveMessage or DeleteMessageBatch takes at most (SQS quotas, 2026-11-24)."""


class Fleet:
    """`workers` long-polling workers on the stack's queue, or on its activity, where it has that.

    A context manager, running once entered.

    lines: what the handlers have printed so far, one JSON text an element.
    """

    def __init__(self, stack: Stack, workers: int, batch_size: int) -> None:
        if batch_size > RECEIVE_LIMIT:
            raise StackError(
                f"batch_size={batch_size}: a fleet's worker receives at most {RECEIVE_LIMIT} messages at "
                "once; use a smaller batch, or consumer='lambda'"
            )
        self.lines: Recorder[str] = Recorder()
        self._environment = stack.engine.fleet_environment() | {
            # Of an activity it is the state that waits before it tries again.
            "REDELIVERY_SECONDS": str(stack.parameters.get("RedeliverySeconds", 0)),
        }
        if "ActivityArn" in stack.outputs:
            source = {"activity_arn": stack.outputs["ActivityArn"]}
        else:
            source = {"queue_url": stack.outputs["QueueUrl"]}
        self._settings = [
            {
                "handler": str(HANDLER),
                **source,
                "first": first,
                "workers": min(WORKERS_PER_PROCESS, workers - first),
                "batch_size": batch_size,
            }
            for first in range(0, workers, WORKERS_PER_PROCESS)
        ]
        self._processes: list[subprocess.Popen[str]] = []
        self._errors: IO[str] | None = None
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            for settings in self._settings:
                with acquiring("the fleet", StackError):
                    self._errors = self._errors or tempfile.TemporaryFile("a+", errors="replace")
                    process = subprocess.Popen(
                        [sys.executable, "-P", str(PROGRAM)],  # not as a module: it needs none of the lab
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=self._errors,
                        env=self._environment,
                        text=True,
                        start_new_session=True,  # Ctrl-C is for the process that runs the experiment
                    )
                self._processes.append(process)
                assert process.stdin
                with contextlib.suppress(BrokenPipeError):  # it has ended, which its first line tells
                    process.stdin.write(json.dumps(settings) + "\n")
                    process.stdin.flush()
            for process in self._processes:
                assert process.stdout
                if process.stdout.readline() != "ready\n":
                    raise StackError(
                        f"the fleet: a worker process did not start ({self._why(process)}); look whether the "
                        "engine answers, or use fewer workers"
                    )
                self._readers.append(threading.Thread(target=self._read, args=(process.stdout,), daemon=True))
                self._readers[-1].start()
        except BaseException:
            self.close()
            raise
        return self

    def _read(self, output: Any) -> None:
        for line in iter(output.readline, ""):
            self.lines.append(line.rstrip("\n"))

    def check(self) -> None:
        """Raise StackError when one of its processes has ended: fewer work than the experiment says."""
        for settings, process in zip(self._settings, self._processes, strict=True):
            if process.poll() is not None:
                raise StackError(
                    f"the fleet: a process of {settings['workers']} of its workers ended in the middle "
                    f"({self._why(process)}); look whether something killed it, such as a lack of memory, "
                    "and run it again"
                )

    def _why(self, process: subprocess.Popen[str]) -> str:
        """Return how a process has ended: what it lacked, else its last words, and its status."""
        status = f"status {process.wait()}"
        assert self._errors
        self._errors.seek(0)
        said = self._errors.read().strip()
        last = said.rpartition("\n")[2][:ERROR_CHARACTERS]
        return lacking(said) or (f"{status}: {last}" if last else status)

    def close(self) -> None:
        """End the workers at once; a message in their hands comes back after the visibility timeout."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._processes:
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            process.stdout.close()
        self._processes = []
        if self._errors:
            self._errors.seek(0)
            sys.stderr.write(plain(self._errors.read(), keep="\n"))
            self._errors.close()
            self._errors = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
