"""The house's own rules, held by the tools that know them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.stack import INFRA

ROOT = Path(__file__).parents[1]
VALIDATOR = Path(__file__).with_name("asl_validator")
"""The npm package asl-validator: which one, and what it needs, by hash."""


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "--no-error-summary")],
    ids=" ".join,
)
def test_code_and_notebooks_are_clean(command):
    """Linter, formatter and strict types have nothing to say."""
    ran = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed; it comes with Node.js")
def test_the_states_language_knows_every_definition(tmp_path):
    """Every definition fits the schema of the Amazon States Language, its paths and ARNs included."""
    shutil.copytree(VALIDATOR, tmp_path, dirs_exist_ok=True)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    definitions = sorted(INFRA.glob("*/statemachine/*.asl.json"))
    given = [word for path in definitions for word in ("--json-path", str(path))]
    command = [str(tmp_path / "node_modules" / ".bin" / "asl-validator"), *given]
    ran = subprocess.run(command, capture_output=True, text=True)
    valid = [line for line in ran.stdout.splitlines() if line.endswith("is valid")]
    assert (ran.returncode, len(valid)) == (0, len(definitions)), ran.stdout + ran.stderr
