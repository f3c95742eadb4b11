"""Which engine a command runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from helpers.engines import ENGINES, Engine, connect, embedded
from helpers.engines.local import named_endpoint
from helpers.errors import EngineError

EngineName = Annotated[str, typer.Option("--engine", help=f"Where to run: {', '.join(sorted(ENGINES))}.")]


@contextmanager
def shared(name: str) -> Iterator[Engine]:
    """An engine that the processes started in the block find as AWS_ENDPOINT_URL."""
    with connect(name) as engine:
        before = os.environ.get("AWS_ENDPOINT_URL")
        os.environ["AWS_ENDPOINT_URL"] = engine.endpoint_url
        try:
            yield engine
        finally:
            if before is None:
                del os.environ["AWS_ENDPOINT_URL"]
            else:
                os.environ["AWS_ENDPOINT_URL"] = before


@contextmanager
def running(name: str) -> Iterator[Engine]:
    """An engine that lives on after the command: what is deployed on one's own would vanish with it."""
    if name == embedded.Embedded.name and not named_endpoint() and not embedded.Server.kept():
        raise EngineError("no embedded engine is running; start one with `./lab engine start`")
    with connect(name) as engine:
        yield engine
