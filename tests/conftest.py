"""Fixtures for all tests: one embedded engine for the whole session."""

import pytest

from helpers.engines import Engine, connect


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An embedded engine of the session's own, whatever the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        with connect("embedded") as connected:
            yield connected
