"""Runs a program that is tied to its parent: `python tied.py PROGRAM`.

When the parent closes our standard input, even by dying, the program's process group ends and its folder,
LAB_ENGINE_DIR, goes. Imports none of the lab: another Python may run it.
"""

import os
import runpy
import subprocess
import sys
import threading

# A process of its own: what still runs would put files into a folder that goes first.
END = """
import os, shutil, signal, sys, time
os.killpg(int(sys.argv[1]), signal.SIGKILL)
for _ in range(100):
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    if not os.path.exists(sys.argv[2]):
        break
    time.sleep(0.05)
"""


def watch() -> None:
    """Wait for the end of standard input, then end everything."""
    while sys.stdin.buffer.read(1024):
        pass
    of = [str(os.getpgid(0)), os.environ["LAB_ENGINE_DIR"]]
    subprocess.Popen([sys.executable, "-P", "-c", END, *of], cwd="/", start_new_session=True)


if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
