"""What is to happen later, however much of it there is: one thread, and a heap ordered by time."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

_loop = asyncio.new_event_loop()
threading.Thread(target=_loop.run_forever, daemon=True, name="clocks").start()


def after(seconds: float, call: Callable[..., Any], *given: Any) -> Callable[[], None]:
    """Call it once so many seconds have passed, with the caller's context variables. It must not block.

    Returns what calls it off: until then, all that it was given stays in memory.
    """
    clock: list[asyncio.TimerHandle] = []
    _loop.call_soon_threadsafe(lambda: clock.append(_loop.call_later(seconds, call, *given)))

    def call_off() -> None:
        _loop.call_soon_threadsafe(lambda: clock[0].cancel())

    return call_off
