"""What every live engine offers: clients, a run of an Experiment, and a clean end."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from botocore.config import Config

from helpers import budget
from helpers.engines import behaviours, machine
from helpers.engines.pacing import Pacer
from helpers.experiment import Experiment
from helpers.trace import Trace

if TYPE_CHECKING:
    from helpers.live_figure import Progress

CALL_ATTEMPTS = 10
"""How often a call is made at most, while it is throttled or cut off."""
CLIENT_CONFIG = Config(
    retries={"mode": "standard", "max_attempts": CALL_ATTEMPTS},
    max_pool_connections=1000,  # wide: one connection for each concurrent caller
    read_timeout=900,
)


class Run(Protocol):
    """What runs an Experiment: `Engine.run`, and what `Engine.bench` yields."""

    def __call__(self, experiment: Experiment, progress: Progress = True) -> Trace:
        """Run it and return its trace."""


class Engine:
    """A place where experiments run. Use as a context manager, or `close` it."""

    name: ClassVar[str]
    clock_seconds: ClassVar[float]
    """How far the clocks that time one trace may disagree (seconds)."""
    poll_seconds: ClassVar[float]
    """How long to wait between two looks at something under way (seconds)."""

    log_seconds: ClassVar[float]
    """How long a function's logs may take until they can be read (seconds)."""

    settle_seconds: ClassVar[float] = 5.0
    """How long an updated state machine may still start executions of its old definition (seconds).

    "A few seconds", says the Step Functions developer guide, concepts-read-consistency, 2026-11-24.
    """
    paced: ClassVar[bool] = True
    """Whether AWS's quotas on API calls hold here."""
    environment: ClassVar[machine.Footprint | None] = None
    """The cost of a Lambda environment on this machine; None where the engine runs them elsewhere."""
    endpoint_url: str
    """Where the engine answers."""
    budget_usd: float | None = None
    """How much may be spent here, as estimated (US dollars); None where nothing has to be paid."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()  # boto3's sessions make one client at a time
        self._pacer = Pacer()

    def _new_client(self, service: str) -> Any:
        raise NotImplementedError

    def client(self, service: str) -> Any:
        """The boto3 client of an AWS service here, e.g. `client("sqs")`; threads may share it."""
        with self._making:
            if service not in self._clients:
                client = self._new_client(service)
                if self.paced:
                    self._pacer.pace(client)
                self._clients[service] = client
            return self._clients[service]

    def fleet_environment(self) -> dict[str, str]:
        """The environment in which a fleet process finds this engine with plain boto3."""
        raise NotImplementedError

    def shared(self) -> dict[str, str]:
        """The environment variables by which `connect` finds this same engine in another process."""
        return {}

    def flags(self) -> str:
        """The options of `./lab` that name this engine."""
        return f"--engine {self.name}"

    def lock_folder(self) -> Path:
        """Return the folder for locks that this user's processes share."""
        return Path(tempfile.gettempdir())

    def check_room(self, experiment: Experiment, warm: int = 0) -> None:
        """Raise EngineError when this machine cannot hold the experiment's workers.

        Args:
            experiment: The experiment that is about to run.
            warm: Lambda environments that run already, which it takes over or which end before it.
        """
        machine.check(experiment, self.environment, warm)

    def spend(self, what: str, usd: float, quietly: bool = False) -> None:
        """Note that something begins that costs so much at most on AWS (US dollars); see `budget.spend`.

        Raises BudgetError where the engine's budget does not allow it.
        """
        budget.spend(what, usd, self.budget_usd, quietly)

    def metrics(self, outputs: Mapping[str, str], began: float, ended: float) -> list[dict[str, Any]]:
        """What the engine itself measured of a run between these times (epoch s): rows of Trace.metrics.

        outputs: those of the run's stack. Times are epoch seconds.
        """
        return []

    def shows(self, behaviour: str) -> bool:
        """Whether this engine does what AWS documents, e.g. `shows("callbacks.heartbeat_expires")`.

        docs/engines.md lists the behaviours. Raises EngineError when the behaviour is not known.
        """
        return behaviours.shows(self.name, behaviour)

    def versions(self) -> dict[str, str]:
        """The versions of what a measurement depends on, by name."""
        return {name: version(name) for name in ("boto3", "concurrency-lab")}

    def run(self, experiment: Experiment, progress: Progress = True) -> Trace:
        """Deploy the combined workflow, run the experiment on it, destroy it, return the trace.

        progress: shown as a bar, not at all (False), or as a figure that follows the run (a LiveFigure).
        Raises LabError when the workflow cannot be deployed or does not end; what was deployed is
        destroyed in any case. When that fails or is interrupted, the trace is saved under runs/, naming the
        file, before the error goes on.
        """
        from helpers import live

        trace: Trace | None = None
        try:
            with self.bench() as run:
                trace = run(experiment, progress)
        except BaseException:
            if (measured := trace) is not None:
                live.salvage(lambda: measured)
            raise
        return trace

    @contextlib.contextmanager
    def bench(self) -> Iterator[Run]:
        """A context manager that yields a function like `run`, for one run after another.

        Where a trace means the same as on a new stack, a run takes over the stack of the last, with its
        parameters updated and its environments warm. At the end all is destroyed.
        """
        from helpers import live

        with live.bench(self) as run:
            yield run

    def close(self) -> None:
        """End what this engine started, if anything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
