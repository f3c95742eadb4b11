"""Run the suite, or a part of it, and report which lines of helpers/ no test reaches; exit 1 below the limit.

    .venv/bin/python -m tests.covered [arguments of pytest]

The limit and what is left out stand in pyproject.toml, [tool.coverage].
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[2]


def main() -> int:
    """The worse of the tests' status and the report's."""
    with tempfile.TemporaryDirectory(prefix="lab-covered-") as folder:
        data = Path(folder) / "data"
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        told = {"LAB_COVERAGE": str(data), "PYTHONPATH": os.pathsep.join(paths)}
        tests = subprocess.run(
            [sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, env=os.environ | told
        ).returncode
        whole = coverage.Coverage(data_file=str(data))
        whole.combine([folder])
        reached = whole.report()
    limit = whole.get_option("report:fail_under")
    print(f"{reached:.1f} % of the lines of helpers/ are reached; at least {limit} % must be")
    return tests or int(reached < float(str(limit)))


sys.exit(main())
