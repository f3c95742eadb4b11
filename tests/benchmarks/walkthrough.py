"""How long the quick walkthrough takes once the lab is set up: `python -m tests.benchmarks.walkthrough`.

Runs `./lab run` as a user does, REPETITIONS times, into a folder that is removed. Prints one JSON
object: seconds in all, and of each notebook.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPETITIONS = 3


def main() -> None:
    """Time whole processes, the engine's start and end included."""
    totals: list[float] = []
    notebooks: dict[str, list[float]] = {}
    for _ in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            command = [sys.executable, "-m", "helpers.cli", "run", "--out", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            totals.append(round(time.perf_counter() - began, 1))
            for result in json.loads((Path(folder) / "results.json").read_text())["results"]:
                notebooks.setdefault(result["name"], []).append(round(result["seconds"], 1))
    print(
        json.dumps(
            {
                "median_seconds": statistics.median(totals),
                "seconds": totals,
                "notebooks": notebooks,
                "cores": os.cpu_count(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
