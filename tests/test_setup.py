"""`./lab`, environment.yml and the CI files: from a fresh clone to the command line."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import ast
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from helpers.drills import until
from helpers.engines.localstack import PYTHONS, RELEASE
from helpers.wire import WRITTEN_FOR

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TOOLS = ["sh", "cat", "cksum", "cp", "dirname", "mkdir", "mv", "readlink", "rm", "sed", "sleep"]
LOCKED = "--no-deps --require-hashes -r requirements.lock"
"""How an installer is called for what is locked; the lab itself follows."""

# Stands for a Python of some version. It makes a .venv of itself; its pip waits for the file "gate".
FAKE_PYTHON = """#!/bin/sh
echo "{name} $*" >>"{log}"
case "$*" in
    *version_info*) echo {version} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install"*)
        echo "Collecting everything"
        until [ -e "{gate}" ]; do sleep 0.02; done
        [ ! -e "{gate}/closed for good" ] || {{ echo "ERROR: No matching distribution" >&2; exit 1; }} ;;
    *"-m helpers.cli"*) PYTHONPATH="${{0%/.venv/*}}" exec "{real}" "$@" ;;
    *) exec "{real}" "$@" ;;
esac
"""

FAKE_UV = """#!/bin/sh
echo "uv $*" >>"{log}"
case "$*" in
    "venv "*) for folder in "$@"; do :; done; "{maker}" -m venv "$folder" ;;
esac
"""

# Says what it was given, and ends with the status that its first argument asks for.
FAKE_CLI = """
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "cli": __file__}))
sys.exit(int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdigit() else 0)
"""


class Clone:
    """A clone of the lab in a folder with a space in its path, on a machine whose programs are all fakes."""

    def __init__(self, place: Path) -> None:
        self.root = place / "a lab"
        self.bin, self.log, self.gate = place / "bin", place / "log", place / "gate"
        (self.root / "helpers").mkdir(parents=True)
        self.bin.mkdir()
        self.gate.mkdir()
        self.log.touch()
        for name in ("lab", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.root)
        (self.root / "helpers" / "__init__.py").touch()
        (self.root / "helpers" / "cli.py").write_text(FAKE_CLI)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "missing")
        self.stamp = self.root / ".venv" / "lab-stamp"

    def has(self, name: str, version: str) -> Path:
        """Put a Python of this name and version on PATH."""
        return self._program(name, FAKE_PYTHON, version=version)

    def has_uv(self, maker: Path) -> None:
        self._program("uv", FAKE_UV, maker=maker)

    def _program(self, name: str, text: str, **values: object) -> Path:
        program = self.bin / name
        places = {"name": name, "log": self.log, "gate": self.gate, "real": sys.executable}
        program.write_text(text.format(**places, **values))
        program.chmod(0o755)
        return program

    def start(self, *arguments: str, cwd: Path | None = None, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(self.root / "lab"), *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.bin), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        with self.start(*arguments, cwd=cwd, **variables) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self, *parts: str) -> list[str]:
        """The calls of fake programs that contain all the parts."""
        return [line for line in self.log.read_text().splitlines() if all(part in line for part in parts)]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture
def ready(clone: Clone) -> Clone:
    """A clone with Python 3.12, whose first call is over."""
    clone.has("python3", "3.12")
    assert 0 == clone.run().returncode
    return clone


def test_first_call_makes_the_environment_and_runs_the_command(clone: Clone, tmp_path: Path) -> None:
    """From any folder: arguments and folder reach the command, and stdout is the command's alone."""
    clone.has("python3", "3.12")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = clone.run("predict", "two words", "--json", cwd=elsewhere)
    assert {
        "arguments": ["predict", "two words", "--json"],
        "folder": str(elsewhere),
        "cli": str(clone.root / "helpers" / "cli.py"),
    } == json.loads(done.stdout)
    assert "making" in done.stderr
    assert "Python 3.12 and pip" in done.stderr
    assert "about two minutes" in done.stderr
    assert [f"python3 -m venv {clone.root}/.venv"] == clone.calls("-m venv")
    installed = [line.partition("-check ")[2] for line in clone.calls("-m pip install", "--quiet")]
    assert [LOCKED, "--no-deps --no-build-isolation -e ."] == installed


def test_status_of_the_command_is_the_status_of_the_call(ready: Clone) -> None:
    """`./lab` ends as its command ends."""
    assert 3 == ready.run("3").returncode


def test_second_call_installs_nothing(ready: Clone) -> None:
    """One environment serves until its list of packages changes; a new date of the file is no change."""
    (ready.root / "pyproject.toml").touch()
    done = ready.run("x")
    assert ("", 1) == (done.stderr, len(ready.calls(LOCKED)))


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_changed_list_of_packages_makes_the_environment_anew(ready: Clone, name: str) -> None:
    """What the lists say is what is installed, with nothing left of what they said before."""
    old = ready.root / ".venv" / "left over"
    old.touch()
    with (ready.root / name).open("a") as file:
        file.write("# one more\n")
    assert 0 == ready.run().returncode
    assert (2, False) == (len(ready.calls(LOCKED)), old.exists())
    assert "" == ready.run().stderr


def test_unlocked_is_the_newest_of_everything(ready: Clone) -> None:
    """LAB_UNLOCKED=1 makes an environment of the newest releases, a call without it a locked one again."""
    assert "" == ready.run(LAB_UNLOCKED="0").stderr
    assert "making" in ready.run(LAB_UNLOCKED="1").stderr
    assert (1, 1) == (len(ready.calls("-check -e .[test]")), len(ready.calls(LOCKED)))
    assert "" == ready.run(LAB_UNLOCKED="1").stderr
    assert "making" in ready.run().stderr
    assert 2 == len(ready.calls(LOCKED))


def test_half_made_environment_is_made_anew(ready: Clone) -> None:
    """An environment without a stamp, whoever made it, is not trusted and not built upon."""
    ready.stamp.unlink()
    old = ready.root / ".venv" / "left over"
    old.touch()
    assert 0 == ready.run().returncode
    assert (2, False) == (len(ready.calls(LOCKED)), old.exists())


def test_moved_folder_makes_the_environment_anew(ready: Clone) -> None:
    """An environment holds absolute paths: of a copied folder it would run the original's code."""
    copy = ready.root.parent / "a copy"
    shutil.copytree(ready.root, copy)
    ready.root = copy
    done = ready.run()
    assert "making" in done.stderr
    assert str(copy / "helpers" / "cli.py") == json.loads(done.stdout)["cli"]


@pytest.mark.parametrize("version", [None, "3.13"])
def test_python_that_has_changed_makes_the_environment_anew(ready: Clone, version: str | None) -> None:
    """An environment whose Python is gone or is another now, as after an upgrade, lacks its packages."""
    python = ready.root / ".venv" / "bin" / "python"
    python.unlink()
    if version:
        shutil.copy(ready.has("upgraded", version), python)
    assert "making" in ready.run().stderr


def test_failed_installation_is_shown_and_leaves_no_stamp(clone: Clone) -> None:
    """The installer's own message reaches the user, the call fails, and the next one starts anew."""
    clone.has("python3", "3.12")
    closed = clone.gate / "closed for good"
    closed.touch()
    done = clone.run()
    assert ("", False) == (done.stdout, clone.stamp.exists())
    assert 0 != done.returncode
    assert "ERROR: No matching distribution" in done.stderr
    closed.unlink()
    assert 0 == clone.run().returncode
    assert 2 == len(clone.calls("-m venv"))


def test_two_first_calls_at_once_install_once(clone: Clone) -> None:
    """The second call waits for the first, says so, and uses what the first made."""
    clone.has("python3", "3.12")
    clone.gate.rmdir()
    first = clone.start("first")
    until(lambda: clone.calls("pip install"), "the installer")
    second = clone.start("second")
    assert second.stderr
    assert "waiting" in second.stderr.readline()
    clone.gate.mkdir()
    results = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [["first"], ["second"]] == [json.loads(out)["arguments"] for out in results]
    assert (1, 1) == (len(clone.calls("-m venv")), len(clone.calls(LOCKED)))


def test_killed_call_does_not_block_the_next(clone: Clone) -> None:
    """A dead call's lock is free as soon as its installer has ended too, and its .venv is made anew."""
    clone.has("python3", "3.12")
    clone.gate.rmdir()
    killed = clone.start()
    until(lambda: clone.calls("pip install"), "the installer")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not clone.stamp.exists()
    following = clone.start()
    assert following.stderr
    assert "waiting" in following.stderr.readline()
    assert 1 == len(clone.calls("-m venv"))
    clone.gate.mkdir()  # lets the installer of the killed call end
    following.communicate(timeout=60)
    assert (0, 2) == (following.returncode, len(clone.calls("-m venv")))
    for stream in (killed.stdout, killed.stderr):
        assert stream
        stream.close()


def test_newest_python_that_runs_is_taken(clone: Clone) -> None:
    """A Python that is named but does not run, or is too old, is passed over."""
    (clone.bin / "python3.13").write_text("#!/bin/sh\nexit 127\n")
    (clone.bin / "python3.13").chmod(0o755)
    clone.has("python3", "3.9")
    clone.has("python3.12", "3.12")
    clone.has("python", "3.14")
    assert "Python 3.12 " in clone.run().stderr
    (clone.bin / "python3.12").unlink()
    clone.stamp.unlink()
    assert "Python 3.14 " in clone.run().stderr


@pytest.mark.parametrize(
    ("versions", "named"),
    [({}, "none"), ({"python3": "3.10", "python": "2.7"}, "python3 (3.10), python (2.7)")],
)
def test_no_python_is_an_error_with_a_remedy(clone: Clone, versions: dict[str, str], named: str) -> None:
    """Without a Python that is new enough: what was found, what is needed, what to do; nothing is made."""
    for name, version in versions.items():
        clone.has(name, version)
    done = clone.run()
    assert ("", False) == (done.stdout, (clone.root / ".venv").exists())
    assert 0 != done.returncode
    for part in ("3.11", f"run: {named}.", "https://www.python.org", "LAB_PYTHON"):
        assert part in done.stderr


def test_lab_python_overrides(ready: Clone, tmp_path: Path) -> None:
    """LAB_PYTHON is the Python that is taken, whatever else there is; another version, another .venv."""
    mine = ready.has("mine", "3.13")
    done = ready.run(LAB_PYTHON=str(mine))
    assert "Python 3.13 " in done.stderr
    assert "" == ready.run(LAB_PYTHON=str(mine)).stderr
    assert "" == ready.run().stderr
    old = ready.has("old", "3.10")
    done = ready.run(LAB_PYTHON=str(old))
    assert 0 != done.returncode
    assert f"{old} (3.10)" in done.stderr
    assert "python3.12" not in done.stderr


def test_uv_is_used_where_it_is_there(clone: Clone) -> None:
    """With uv on PATH, uv makes the environment and installs the same lock."""
    clone.has_uv(clone.has("python3", "3.12"))
    done = clone.run()
    assert 0 == done.returncode
    assert "Python 3.12 and uv" in done.stderr
    python = f"--python {clone.root}/.venv/bin/python"
    assert 1 == len(clone.calls("uv pip install", f"{python} {LOCKED}"))
    assert 1 == len(clone.calls("uv pip install", f"{python} --no-deps --no-build-isolation -e ."))
    assert [] == clone.calls("-m pip")
    assert "making" in clone.run(LAB_UNLOCKED="1").stderr
    assert 1 == len(clone.calls("uv pip install", f"{python} -e .[test]"))


def test_called_through_a_link(ready: Clone, tmp_path: Path) -> None:
    """A link to `lab`, relative or absolute, is `lab`."""
    (tmp_path / "absolute").symlink_to(ready.root / "lab")
    (tmp_path / "relative").symlink_to(Path("a lab") / "lab")
    for link in ("absolute", "relative"):
        done = subprocess.run(
            [tmp_path / link, "x"], env={"PATH": str(ready.bin)}, capture_output=True, text=True
        )
        assert ("", ["x"]) == (done.stderr, json.loads(done.stdout)["arguments"])


def test_helpers_where_the_caller_stands_are_not_the_labs(ready: Clone, tmp_path: Path) -> None:
    """The folder from which `lab` is called holds no code of the lab."""
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").touch()
    (tmp_path / "helpers" / "cli.py").write_text("raise SystemExit('the wrong one')")
    assert 0 == ready.run(cwd=tmp_path).returncode


def test_environment_yml_lists_no_packages_of_its_own() -> None:
    """The lock is the one list: conda brings Python, of the version that pyproject.toml asks for, and pip."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert [f"python{wanted}", "pip", {"pip": ["-r requirements.lock"]}] == environment["dependencies"]


# The lock and the bounds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
TESTS_OWN = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"]["test"]]
BACKEND = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
LOCK = ROOT / "requirements.lock"
BINDER = ROOT / ".binder" / "requirements.txt"
LOCALSTACK = ROOT / "infra" / "localstack-requirements.txt"
ENTRY = re.compile(r"([a-z0-9-]+)(?:\[[a-z,-]+\])?==([a-z0-9.]+)(?: ; ([^\\]+))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
COMMENT = ["# This file was autogenerated by uv via the following command:", "#    .ci/lock"]
MACHINES = [
    {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system}
    | {"os_name": "posix", "platform_python_implementation": "CPython", "implementation_name": "cpython"}
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system in ("linux", "darwin")
]


def entries(path: Path) -> list[tuple[str, str, str | None]]:
    """Name, version and marker of each package in a lock."""
    found = [ENTRY.fullmatch(line) for line in path.read_text().splitlines()]
    return [(one[1], one[2], one[3]) for one in found if one]


def locked(path: Path, machine: dict[str, str]) -> dict[str, str]:
    """The version of each package that a lock has for this machine."""
    there = [
        (name, version)
        for name, version, marker in entries(path)
        if marker is None or Marker(marker).evaluate(machine)
    ]
    assert len(there) == len(dict(there))
    return dict(there)


@pytest.mark.parametrize("path", [LOCK, BINDER, LOCALSTACK], ids=lambda path: path.name)
def test_a_lock_names_releases_and_hashes_and_nothing_else(path: Path) -> None:
    """Each package has one release and its hashes; no index, host, address or folder is named."""
    first, second, *lines = path.read_text().splitlines()
    assert COMMENT == [first, second]
    assert [] == [line for line in lines if not ENTRY.fullmatch(line) and not HASH.fullmatch(line)]
    # What follows an entry is a hash, and each hash but the last of an entry is continued.
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.endswith("\\") == bool(HASH.fullmatch(following)), line
    assert 90 < len(entries(path))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: " ".join([*machine.values()][:3:2]))
def test_lock_and_pyproject_agree(machine: dict[str, str]) -> None:
    """Every direct dependency is in the lock, within its bounds, for every Python and system there is."""
    everything, binder = locked(LOCK, machine), locked(BINDER, machine)
    for have, wanted in ((everything, DIRECT + TESTS_OWN + BACKEND), (binder, DIRECT + BACKEND)):
        found = {str(one): have.get(canonicalize_name(one.name)) for one in wanted}
        assert {} == {
            text: version
            for text, version in found.items()
            if version is None or version not in Requirement(text).specifier
        }
    assert {} == dict(binder.items() - everything.items())
    assert {"pytest", "mypy", "playwright"} <= everything.keys() - binder.keys()


def test_every_dependency_has_a_lower_bound() -> None:
    """Each direct dependency, the tests' and the build backend's too, has an oldest release that is held."""
    bounds = {str(one): {clause.operator for clause in one.specifier} for one in DIRECT + TESTS_OWN + BACKEND}
    assert [] == [text for text, operators in bounds.items() if not operators & {">=", "=="}]


def test_an_exact_or_upper_bound_has_its_reason_beside_it() -> None:
    """A bound that keeps newer releases out says why in its line."""
    held = [
        line
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if re.search(r'"[\w-]+.*(==|<)', line)
    ]
    assert [] == [line for line in held if not re.search(r'",\s+# \w', line)]
    assert 4 == len(held)


def test_what_is_patched_from_within_is_pinned_exactly() -> None:
    """A package whose private parts the lab replaces has one release, in pyproject.toml and in the code."""
    program = ast.parse((ROOT / "helpers" / "engines" / "embedded_server" / "__main__.py").read_text())
    [engine] = [
        ast.literal_eval(node.value)
        for node in program.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WRITTEN_FOR"
    ]
    exact = {one.name: str(one.specifier).removeprefix("==") for one in DIRECT if "==" in str(one.specifier)}
    assert engine | {"microburst": WRITTEN_FOR} == exact
    # LocalStack has an environment of its own, which is made of its lock.
    assert RELEASE in [version for name, version, _ in entries(LOCALSTACK) if name == "localstack-core"]


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [(["helpers", "infra", "notebooks"], DIRECT), (["tests"], DIRECT + TESTS_OWN)],
    ids=["lab", "tests"],
)
def test_what_is_imported_is_a_direct_dependency(folders: list[str], wanted: list[Requirement]) -> None:
    """A package that code imports is listed by its own name, so that it has a bound of its own."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if "localstack_server" not in path.parts]  # runs among LocalStack's
    own = {*sys.stdlib_module_names, "helpers", "infra", "notebooks", "tests"}
    own |= {path.stem for folder in ("helpers", "infra", "tests") for path in (ROOT / folder).rglob("*.py")}
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import():
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                case ast.ImportFrom(module=str(module), level=0):
                    imported.add(module.partition(".")[0])
    brings = packages_distributions()
    listed = {canonicalize_name(one.name) for one in wanted}
    unlisted = [
        name
        for name in sorted(imported - own)
        if not listed & {canonicalize_name(dist) for dist in brings.get(name, [])}
    ]
    assert [] == unlisted
    assert 10 < len(imported - own)


@pytest.mark.parametrize(
    "installer", [[sys.executable, "-m", "pip"], [find_uv_bin(), "pip"]], ids=["pip", "uv"]
)
def test_a_file_of_another_hash_is_refused(tmp_path: Path, installer: list[str]) -> None:
    """Called as `lab` calls it, an installer takes the file that was locked, byte for byte, and no other."""
    wheel = tmp_path / "ware-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("ware.py", "")
        file.writestr("ware-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ware\nVersion: 1.0\n")
        file.writestr(
            "ware-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("ware-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "requirements.lock").write_text(f"ware==1.0 \\\n    --hash=sha256:{digest}\n")

    def install(to: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*installer, "install", "--no-index", "--find-links", ".", "--target", to, *LOCKED.split()],
            cwd=tmp_path,
            env=os.environ
            | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_CACHE_DIR": f"cache of {to}"},
            capture_output=True,
            text=True,
        )

    done = install("right")
    assert (0, True) == (done.returncode, (tmp_path / "right" / "ware.py").exists()), done.stderr
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("ware_too.py", "")
    done = install("wrong")
    assert (1, False) == (done.returncode, (tmp_path / "wrong" / "ware.py").exists())
    assert re.search("(?i)do not match the hashes|hash mismatch", done.stderr), done.stderr
    assert digest in done.stderr


def test_what_is_installed_fits_together() -> None:
    """Each installed package has what it requires, in a release that it accepts."""
    ran = subprocess.run(
        [find_uv_bin(), "pip", "check", "--python", sys.executable], capture_output=True, text=True
    )
    assert 0 == ran.returncode, ran.stderr


def test_lab_asks_for_the_python_of_pyproject() -> None:
    """The Python that `lab` asks for is the one that pyproject.toml requires."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"needs Python {wanted.removeprefix('>=')} or newer" in (ROOT / "lab").read_text()


def ci_run(place: Path, status: int, browser: bool = True) -> "subprocess.CompletedProcess[str]":
    """.ci/run beside a `lab` that ends with this status, on a machine whose other programs are fakes."""
    programs = place / "bin"
    for folder in (place / ".ci", programs):
        folder.mkdir()
    shutil.copy(ROOT / ".ci" / "run", place / ".ci")
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or "missing")
    called = 'echo "$PWD $*"'
    fakes = {
        place / "lab": f"{called}\nexit {status}",
        programs / "apt-get": f'echo "apt-get $*"\nexit {status}',
    }
    if browser:
        fakes[programs / "google-chrome"] = called
    for path, text in fakes.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {"PATH": str(programs)}
    return subprocess.run([place / ".ci" / "run"], cwd="/", capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("status", [0, 1, 5])
def test_ci_run_ends_with_the_status_of_the_tests(tmp_path: Path, status: int) -> None:
    """Failed tests, and a suite without tests, fail the check, wherever it is called from."""
    done = ci_run(tmp_path, status)
    assert (status, f"{tmp_path} test\n") == (done.returncode, done.stdout)
    assert (status == 5) == ("no test was found" in done.stderr)
    assert "apt-get" not in done.stderr


@pytest.mark.parametrize("status", [0, 1])
def test_ci_run_brings_a_browser_where_there_is_none(tmp_path: Path, status: int) -> None:
    """Root installs Debian's; where that fails the tests run all the same."""
    done = ci_run(tmp_path, status, browser=False)
    assert (status, f"{tmp_path} test\n") == (done.returncode, done.stdout)
    wanted = ["apt-get -qq update", "apt-get -qq install --no-install-recommends chromium"]
    expected = wanted[: 2 - status] if os.geteuid() == 0 else []
    assert expected == [line for line in done.stderr.splitlines() if line.startswith("apt-get")]


def test_a_container_is_set_up_as_a_clone_is() -> None:
    """A development container has a Python that the lab runs on, and is made by the lab's own first call."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    version = container["image"].rpartition(":")[2]
    assert [int(part) for part in version.split(".")] >= [int(part) for part in wanted.strip(">=").split(".")]
    assert "./lab doctor" == container["postCreateCommand"]
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith("/.venv/bin/python")
    # Where JupyterLab listens unless it is told otherwise.
    assert [8888] == container["forwardPorts"]
    assert {"8888"} == set(container["portsAttributes"])


def test_binder_installs_what_pyproject_lists() -> None:
    """Binder has a Python that the lab runs on, the locked releases without the tests' own, and the lab."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    # repo2docker reads one folder, .binder where it is there: environment.yml above it has no effect.
    assert not (ROOT / "binder").exists()
    name, _, version = (ROOT / ".binder" / "runtime.txt").read_text().strip().partition("-")
    assert "python" == name
    assert [int(part) for part in version.split(".")] >= [int(part) for part in wanted.strip(">=").split(".")]
    # What requirements.txt holds, test_lock_and_pyproject_agree says.
    _, *commands = (ROOT / ".binder" / "postBuild").read_text().splitlines()
    commands = [line for line in commands if not line.startswith("#")]
    assert ["set -eu", "python -m pip install --no-deps --no-build-isolation -e ."] == commands
    named = {"requirements.txt", "runtime.txt", "postBuild"}
    assert named == {path.name for path in (ROOT / ".binder").iterdir()}


def test_workflow_runs_what_a_user_runs() -> None:
    """CI tests, executes the notebooks and checks settings, on each Python from the oldest on."""
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["lab"]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert ["./lab test", "./lab run"] == runs[:2]
    assert job["env"]["LAB_TEST_BROWSER"]  # no test of a browser is skipped
    assert [True] == ["./lab sweep" in run and "--check" in run for run in runs[2:]]
    assert PROJECT["project"]["requires-python"] == f">={job['strategy']['matrix']['python'][0]}"
    assert ["3.11", "3.12", "3.13", "3.14"] == job["strategy"]["matrix"]["python"]
    assert "LAB_UNLOCKED" not in job["env"]


def test_workflow_runs_localstack_where_it_runs() -> None:
    """LocalStack is tried on the Pythons that it was seen to run on, and on no other."""
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["localstack"]
    assert [f"{major}.{minor}" for major, minor in PYTHONS] == job["strategy"]["matrix"]["python"]


def test_workflow_tries_the_lowest_and_the_newest() -> None:
    """Pushes try the lowest releases of the bounds, each week the newest; both run the whole suite."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    lowest, newest = jobs["lowest"], jobs["newest"]
    # uv reads its resolution from the environment, and is there before `lab` looks for an installer.
    assert {"LAB_UNLOCKED": "1", "UV_RESOLUTION": "lowest-direct"}.items() <= lowest["env"].items()
    runs = [step["run"] for step in lowest["steps"] if "run" in step]
    assert ["python -m pip install uv", "./lab test"] == runs
    assert "github.event_name != 'schedule'" == lowest["if"]
    assert ("1", None) == (newest["env"]["LAB_UNLOCKED"], newest["env"].get("UV_RESOLUTION"))
    assert "./lab test" in [step.get("run") for step in newest["steps"]]
    assert "github.event_name == 'schedule'" == newest["if"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_caches_by_the_lock(path: Path) -> None:
    """What is kept between runs is kept for one lock; a job that is not locked keeps nothing."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            if "cache" in step.get("with", {}):
                assert "requirements.lock" in step["with"]["cache-dependency-path"].split()
                assert "LAB_UNLOCKED" not in job["env"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_only_read_and_runs_known_code(path: Path) -> None:
    """A job has a token that may read and no more; an action is named by the hash of its commit.

    A job that may publish the site may do nothing else, and runs no command and nothing of the repository.
    """
    workflow = yaml.safe_load(path.read_text())
    assert {"contents": "read"} == workflow["permissions"]
    assert "pull_request_target" not in workflow[True]  # which would give strangers' code a token that writes
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60
        if "permissions" in job:
            assert {"pages": "write", "id-token": "write"} == job["permissions"]
            assert [set()] == [{"run", "with"} & set(step) for step in job["steps"]]
            assert [True] == [step["uses"].startswith("actions/deploy-pages@") for step in job["steps"]]
        for step in job["steps"]:
            action, _, commit = step.get("uses", "run@" + 40 * "0").partition("@")
            assert re.fullmatch("[0-9a-f]{40}", commit), f"{name}: {action}"
            assert "${{" not in step.get("run", "")  # what others name, such as a branch, is never a command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_says_which_release_a_hash_is(path: Path) -> None:
    """Beside each hash stands the release, so that a reader can tell what is old."""
    used = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert [] == [line for line in used if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)]


def test_pages_publishes_what_lab_site_has_made() -> None:
    """On a push to main, whole, and only if no notebook failed and no link is dead."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())
    assert {"push": {"branches": ["main"]}} == workflow[True]
    assert workflow["concurrency"]["cancel-in-progress"] is False
    *_, build, upload = workflow["jobs"]["build"]["steps"]
    assert "./lab site --out runs/site" == build["run"]
    assert upload["uses"].startswith("actions/upload-pages-artifact@")
    assert {"path": "runs/site"} == upload["with"]
    assert "build" == workflow["jobs"]["publish"]["needs"]


def test_workflow_audits_what_is_installed() -> None:
    """On pushes and every week, exactly the installed packages, and none is passed over."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    triggers = workflow[True]  # YAML 1.1 takes the key `on` for a truth value
    assert {"push", "pull_request", "schedule"} == set(triggers)
    assert all(trigger["cron"].split()[4] in "0123456" for trigger in triggers["schedule"])
    assert "if" not in workflow["jobs"]["audit"]
    made, listed, _, audit = [step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step]
    assert made.startswith("./lab")
    assert "--python .venv/bin/python freeze" in listed
    assert {"--strict", "--no-deps"} <= set(audit.split())
    assert audit.split()[-1] == listed.split()[-1]


def test_workflow_measures_what_the_tests_reach() -> None:
    """Every week, by the command that fails below the limit."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["covered"]
    assert "github.event_name == 'schedule'" == job["if"]
    assert ".venv/bin/python -m tests.covered" == job["steps"][-1]["run"]
    limit = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["report"]["fail_under"]
    assert 95 == limit


@pytest.mark.parametrize("name", ["lab", ".ci/run", ".ci/lock", ".binder/postBuild"])
def test_scripts_are_executable(name: str) -> None:
    """A fresh clone runs without a chmod."""
    assert os.access(ROOT / name, os.X_OK)
