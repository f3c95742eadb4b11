"""Fixtures for all tests: one embedded engine for the whole session."""

import os
import signal
import sys
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import settings

from helpers.engines import Engine, connect, local
from helpers.experiment import Experiment
from helpers.simulation import simulate

# Another half of them is drawn in the next run.
settings.register_profile("lab", settings(), max_examples=50)
settings.load_profile("lab")
pytest_plugins = ["browsing"]  # its fixture `browser`
pytest.register_assert_rewrite("tests.faults")  # so that what was expected and what was there is told


def pytest_configure(config: pytest.Config) -> None:
    """What holds for all processes of the suite.

    The simulation is compiled once, and so is each module, even where Python is told to keep no such files:
    hundreds of processes would do it for themselves. What a shell starts in the background ignores SIGINT,
    and so would all that tests start and interrupt.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", 0):
        simulate(Experiment(1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `long` comes first in each process, so that none has the last of them to itself.

    pytest-xdist's `worksteal` gives each process a piece of the list, and what it has begun is its own.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    size = -(-len(items) // processes)
    pieces = [long[process::processes] for process in range(processes)]
    for piece in pieces:
        piece += islice(others, size - len(piece))
    items[:] = [item for piece in pieces for item in piece]


@pytest.fixture
def own_engine(engine: Engine) -> Iterator[Engine]:
    """An embedded engine of the test's own, whose threads and processes no other test starts."""
    with connect("embedded") as connected:
        yield connected


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An embedded engine of the session's own, whatever the environment names or the user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in local.ENDPOINT_VARIABLES:
            patch.delenv(variable, raising=False)
        patch.setattr(local, "KEPT", tmp_path_factory.mktemp("kept"))
        with connect("embedded") as connected:
            yield connected
