"""Nothing in a working folder runs because the lab, or a child of it, imports a module by its name."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir
from nbformat.v4 import new_code_cell, new_notebook

from helpers import notebooks
from helpers.drills import until

ROOT = Path(__file__).parents[1]
MODULES = (
    *("pygraphviz", "jupyterlab", "jupyter_server", "jupyter_core", "jupyter_client", "ipykernel"),
    *("ipykernel_launcher", "IPython", "traitlets", "zmq", "tornado", "papermill", "nbclient", "nbformat"),
    *("nbconvert", "pytest", "_pytest", "venv", "pip", "fcntl", "json", "typing", "subprocess", "boto3"),
    *("botocore", "psutil", "typer", "helpers", "ministack", "matplotlib", "pandas", "numpy", "numba"),
    *("matplotlib_inline", "debugpy", "comm", "hypercorn", "runpy", "site", "tempfile", "asyncio", "socket"),
)


@pytest.fixture
def folder(tmp_path):
    """A working folder full of modules that note that they ran."""
    place = tmp_path / "work"
    place.mkdir()
    note = f"open({str(tmp_path / 'ran')!r}, 'a').write(__file__ + '\\n')\nraise SystemExit('planted')\n"
    for name in MODULES:
        (place / f"{name}.py").write_text(note)
    (place / "own.py").write_text("value = 42\n")
    return place


def ran(folder: Path) -> str:
    note = folder.parent / "ran"
    return note.read_text() if note.exists() else ""


def lab(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "helpers.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "command",
    [
        ["graph", "combined", "--out", "drawn.svg"],
        ["doctor"],
        ["test", "--co", "-q", "tests/test_queueing.py"],
        ["sweep", "--set", "items=2", "--repetitions", "1", "--out", "swept"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_runs_nothing_of_the_working_folder(folder, command):
    """Whatever modules lie where the command is given, it does what it does elsewhere."""
    done = lab(folder, *command)
    assert (done.returncode, ran(folder)) == (0, ""), done.stderr


def test_open_and_its_kernels_run_nothing_of_the_working_folder(folder):
    """Nor does JupyterLab, nor a kernel that it starts there, which may still import its own modules."""
    (folder / "one.ipynb").write_text(nbformat.writes(new_notebook()))
    command = [sys.executable, "-P", "-m", "helpers.cli", "open", "--", "--no-browser", "--port=0"]
    command += ["--IdentityProvider.token=t", str(folder)]
    log = folder.parent / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, stderr=output, stdout=output) as server,
    ):
        try:
            address = re.compile(r"(http://127\.0\.0\.1:\d+)/")
            until(lambda: ran(folder) or address.search(log.read_text()), "JupyterLab")
            assert ran(folder) == ""
            asked = {"name": "", "path": "one.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
            headers = {"Authorization": "token t", "Content-Type": "application/json"}
            url = address.search(log.read_text())[1] + "/api/sessions"
            request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
            kernel = json.load(urllib.request.urlopen(request, timeout=60))["kernel"]["id"]
            client = BlockingKernelClient(
                connection_file=str(Path(jupyter_runtime_dir(), f"kernel-{kernel}.json"))
            )
            client.load_connection_file()
            client.start_channels()
            client.execute("import own; assert own.value == 42")
            reply = client.get_shell_msg(timeout=60)
            client.stop_channels()
            assert (reply["content"]["status"], ran(folder)) == ("ok", "")
        finally:
            server.terminate()
    assert ran(folder) == ""


def test_a_notebook_may_import_its_own_modules_and_shadows_no_other(folder, tmp_path):
    """A module beside an executed notebook is found last: `own` is imported, a planted `pandas` is not."""
    cells = [
        new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}),
        new_code_cell(
            "import own, pandas\nfrom helpers import Experiment\nassert own.value == 42 and pandas.DataFrame"
        ),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "one.ipynb")
    result = notebooks.execute(folder / "one.ipynb", tmp_path / "out", {}, progress=False)
    assert (result.error, ran(folder)) == (None, "")


def test_the_script_makes_its_environment_without_the_working_folder(tmp_path, folder):
    """`lab` takes Python's own venv and fcntl for its .venv, whatever lies where it is called."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("lab", "requirements.lock"):
        shutil.copy(ROOT / name, clone)
    (clone / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    environment = {
        "PATH": "/usr/bin:/bin",
        "LAB_PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [str(clone / "lab")], cwd=folder, capture_output=True, text=True, env=environment, timeout=120
    )
    assert "the installer's message is above" in done.stderr
    assert ran(folder) == ""
    assert (clone / ".venv" / "bin" / "python").exists()
    assert "planted" not in done.stderr + os.fsdecode(done.stdout)
