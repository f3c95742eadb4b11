"""The embedded engine's server process: the pinned ministack with AWS's behaviour put right.

`helpers.engines.embedded` starts this folder as a program of its own, which imports none of the lab.
Each correction is one function that wraps one of ministack's, for what the lessons rely on and the
emulator leaves out; each has its test in tests/test_embedded.py. They are written for one release,
so the server refuses to start on another.
"""

import os
import resource
import shutil
import signal
import sys
import threading
from importlib.metadata import version

import callbacks
import functions
import maps
import states

WRITTEN_FOR = "1.5.33"


def end_with_parent() -> None:
    """End this process and its Lambda workers when the parent closes our standard input, even by dying."""

    def watch() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        shutil.rmtree(os.environ["LAB_ENGINE_DIR"], ignore_errors=True)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def main() -> None:
    """Serve until killed. ministack reads its settings from the environment."""
    if (found := version("ministack")) != WRITTEN_FOR:
        raise SystemExit(
            f"ministack {found} is installed, but the embedded engine's corrections are written for "
            f"{WRITTEN_FOR}: install ministack=={WRITTEN_FOR}, or bring helpers/engines/embedded_server/ "
            "and its tests up to the new release"
        )
    # Three pipes a Lambda worker and a socket a request soon pass the usual soft limit of 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if "--watch-stdin" in sys.argv:
        end_with_parent()
    from ministack import app

    for corrections in (callbacks, maps, states, functions):
        corrections.correct()
    sys.argv = ["ministack"]
    app.main()


if __name__ == "__main__":
    main()
