"""Where experiments run: `connect` gives an engine by name."""

from __future__ import annotations

import inspect
from typing import Any

from helpers.engines.aws import Aws
from helpers.engines.base import Engine
from helpers.engines.embedded import Embedded
from helpers.engines.endpoint import Endpoint
from helpers.engines.localstack import LocalStack
from helpers.engines.simulated import Simulated
from helpers.errors import EngineError

__all__ = ["ENGINES", "Engine", "connect"]

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Aws, Embedded, Endpoint, LocalStack, Simulated)
}


def connect(name: str, **options: Any) -> Engine:
    """Connect to an engine by its name in ENGINES; use the result as a context manager.

    options: what the engine's class takes; None counts as not given. Raises EngineError when the name is
    unknown, the engine has no such option, or it is not to be had.
    """
    if name not in ENGINES:
        raise EngineError(f"engine {name!r}: not known; choose one of {', '.join(sorted(ENGINES))}")
    given = {option: value for option, value in options.items() if value is not None}
    taken = inspect.signature(ENGINES[name]).parameters
    for option, value in given.items():
        if option not in taken:
            raise EngineError(
                f"{option}={value!r}: the {name} engine has no such option; "
                f"it takes {', '.join(taken) or 'none'}"
            )
    return ENGINES[name](**given)
