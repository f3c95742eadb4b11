"""The simulated engine: runs experiments in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from helpers.engines.base import Engine, Run
from helpers.errors import EngineError
from helpers.experiment import Experiment
from helpers.simulation.model import simulate
from helpers.simulation.quotas import AWS_US_EAST_1, Quotas
from helpers.trace import Trace

if TYPE_CHECKING:
    from helpers.live_figure import Progress


class Simulated(Engine):
    """An engine without clients or stacks: `run` simulates under these quotas."""

    name = "simulated"
    endpoint_url = ""

    def __init__(self, quotas: Quotas = AWS_US_EAST_1) -> None:
        super().__init__()
        self.quotas = quotas

    def _new_client(self, service: str) -> NoReturn:
        raise EngineError(
            f"client {service!r}: the simulated engine has no services; use run(), or another engine"
        )

    def run(self, experiment: Experiment, progress: Progress = True) -> Trace:
        """Simulate the experiment; there is no progress to show, but a LiveFigure shows how it ended."""
        from helpers.live_figure import LiveFigure

        trace = simulate(experiment, self.quotas)
        if isinstance(progress, LiveFigure):
            with progress.following(experiment, [], []):
                progress.end(trace)
        return trace

    @contextlib.contextmanager
    def bench(self) -> Iterator[Run]:
        """Yield `run`: nothing is deployed."""
        yield self.run
