"""What tests see of other processes."""

import time

import psutil

GONE_SECONDS = 120


def gone(pid: int) -> bool:
    """Whether the process has ended, waiting up to GONE_SECONDS; a zombie has."""
    give_up = time.monotonic() + GONE_SECONDS
    try:
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass
    return True
