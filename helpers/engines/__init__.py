"""Where experiments run: `connect` gives an engine by name."""

from __future__ import annotations

from helpers.engines.base import Engine
from helpers.engines.embedded import Embedded
from helpers.engines.simulated import Simulated
from helpers.errors import EngineError

__all__ = ["ENGINES", "Engine", "connect"]

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Embedded, Simulated)}


def connect(name: str) -> Engine:
    """Connect to an engine by its name in ENGINES; use the result as a context manager.

    Raises EngineError when the name is unknown, or the engine is not to be had.
    """
    if name not in ENGINES:
        raise EngineError(f"engine {name!r}: not known; choose one of {', '.join(sorted(ENGINES))}")
    return ENGINES[name]()
