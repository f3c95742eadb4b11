"""The house's own rules, held by the tools that know them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "--no-error-summary")],
    ids=" ".join,
)
def test_code_and_notebooks_are_clean(command):
    """Linter, formatter and strict types have nothing to say."""
    ran = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
