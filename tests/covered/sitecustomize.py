"""Traces what a process runs of helpers/, if LAB_COVERAGE names the data file; imported by Python first."""

import atexit
import os
import threading
from pathlib import Path

if os.environ.get("LAB_COVERAGE"):
    import coverage

    root = Path(__file__).parents[2]
    # By absolute paths: kernels and command lines are run from other folders.
    tracer = coverage.Coverage(
        data_file=os.environ["LAB_COVERAGE"],
        data_suffix=True,
        config_file=str(root / "pyproject.toml"),
        source=[str(root / "helpers")],
    )
    tracer.start()
    over = threading.Event()

    def save() -> None:
        """Engines and workers are killed: what they ran is saved every second."""
        while not over.wait(1.0):
            tracer.save()

    def finish() -> None:
        over.set()
        saver.join()
        tracer.stop()
        tracer.save()

    saver = threading.Thread(target=save, daemon=True, name="coverage")
    saver.start()
    atexit.register(finish)
