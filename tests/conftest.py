"""Fixtures for all tests: one embedded engine for the whole session."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from helpers.engines import Engine, connect, local

# Another half of them is drawn in the next run.
settings.register_profile("lab", settings(), max_examples=50)
settings.load_profile("lab")
pytest_plugins = ["browsing"]  # its fixture `browser`
pytest.register_assert_rewrite("tests.faults")  # so that what was expected and what was there is told


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An embedded engine of the session's own, whatever the environment names or the user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in local.ENDPOINT_VARIABLES:
            patch.delenv(variable, raising=False)
        patch.setattr(local, "KEPT", tmp_path_factory.mktemp("kept"))
        with connect("embedded") as connected:
            yield connected
