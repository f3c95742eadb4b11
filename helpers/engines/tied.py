"""Runs a program that is tied to its parent: `python tied.py PROGRAM`.

When the parent closes our standard input, even by dying, the program's process group ends and its folder,
LAB_ENGINE_DIR, goes. Imports none of the lab: another Python may run it.
"""

import os
import runpy
import shutil
import signal
import sys
import threading


def watch() -> None:
    """Wait for the end of standard input, then end everything."""
    while sys.stdin.buffer.read(1024):
        pass
    shutil.rmtree(os.environ["LAB_ENGINE_DIR"], ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
