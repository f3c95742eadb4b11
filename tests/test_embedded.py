"""The embedded engine: on loopback only, corrected where ministack differs, and gone when its user is."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from machines import ROLE
from processes import gone

from helpers.drills import until
from helpers.engines import connect, embedded, local
from helpers.errors import EngineError


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Each test has its own note of a kept engine, and no endpoint in its environment."""
    for variable in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(local, "KEPT", tmp_path)


@pytest.fixture(scope="module")
def server():
    """One server for the tests that only look at it."""
    started = embedded.Server.start()
    yield started
    started.stop()


@pytest.fixture
def engine(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    return connect("embedded")


def test_listens_on_loopback_only(server):
    """No connection reaches the engine but over 127.0.0.1."""
    process = psutil.Process(server.pid)
    listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {"127.0.0.1"} == set(listening)


def test_sees_no_credentials_of_the_user(monkeypatch):
    """The server's environment, which its Lambda workers inherit, holds dummy credentials only."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("AWS_PROFILE", "planted-profile")
    started = embedded.Server.start()
    try:
        environment = psutil.Process(started.pid).environ()
    finally:
        started.stop()
    assert not [value for value in environment.values() if "planted" in value]
    assert environment["AWS_ACCESS_KEY_ID"].startswith(f"LAB{started.port}")


def test_closing_ends_the_process_and_removes_its_folder():
    """After the context nothing of the engine is left: no process, no folder."""
    with connect("embedded") as own:
        assert own._own
        pid, folder = own._own.pid, Path(own._own.directory)
        assert folder.is_dir()
    assert gone(pid)
    assert not folder.exists()


def test_an_engine_that_was_killed_leaves_nothing_once_closed():
    """Its Lambda workers, busy ones too, and its folder go when the engine is closed."""
    with connect("embedded") as own:
        assert own._own
        folder = Path(own._own.directory)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("index.py", "import time\n\ndef handler(event, context):\n    time.sleep(600)\n")
        own.client("lambda").create_function(
            FunctionName="busy",
            Runtime="python3.13",
            Role=ROLE,
            Handler="index.handler",
            Timeout=900,
            Code={"ZipFile": archive.getvalue()},
        )
        own.client("lambda").invoke(FunctionName="busy", InvocationType="Event")
        server = psutil.Process(own._own.pid)
        # A worker is forked by a child of the server.
        workers = until(lambda: list({*server.children(recursive=True)} - {*server.children()}), "a worker")
        time.sleep(1)  # until the worker is in its handler
        server.kill()
    assert not psutil.wait_procs(workers, timeout=120)[1]
    assert not folder.exists()


PARENT = """
import sys, time
from helpers.engines import connect
engine = connect("embedded")
print(engine._own.pid, engine._own.directory, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_orphan_is_left_when_the_parent_ends(ending):
    """However the parent dies, killed included, the engine and its folder go with it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, folder = parent.stdout.readline().split()
    assert psutil.pid_exists(int(pid))
    parent.send_signal(ending)
    parent.wait()
    parent.stdout.close()
    assert gone(int(pid))
    until(lambda: not Path(folder).exists(), "the end of its folder")


def test_a_port_in_use_is_named():
    """Starting on a taken port says which, and starts nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port}"):
            embedded.Server.keep(port)
    assert embedded.Server.kept() is None


def test_a_kept_engine_is_found_used_and_stopped():
    """`keep` outlives its caller, `connect` uses it and leaves it running, `unkeep` ends it."""
    server = embedded.Server.keep()
    try:
        with pytest.raises(EngineError, match="kept already"):
            embedded.Server.keep()
        with connect("embedded") as attached:
            assert attached.endpoint_url == server.endpoint_url
        assert embedded.Server.kept() == server
    finally:
        embedded.Server.unkeep()
    assert gone(server.pid)
    assert embedded.Server.unkeep() is None


def test_a_stale_note_is_cleared():
    """A note whose process is gone, or belongs to another program, counts as no engine."""
    note = {"pid": os.getpid(), "port": 1, "directory": "/nonexistent/concurrency-lab-x"}
    embedded.Server.note().write_text(json.dumps(note))
    assert embedded.Server.kept() is None
    assert not embedded.Server.note().exists()


def test_a_note_that_is_no_note_is_named():
    """A damaged note is refused with its path and the remedy."""
    embedded.Server.note().write_text("{")
    with pytest.raises(EngineError, match="remove the file"):
        embedded.Server.kept()


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("LOCALSTACK_HOST", "127.0.0.1:9")]
)
def test_a_dead_endpoint_is_named(monkeypatch, variable, value):
    """An endpoint in the environment where nothing answers is an error that says so, not a hang."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError, match=re.escape(f"{variable}={value!r}")):
        connect("embedded")


@pytest.mark.parametrize("variable", local.ENDPOINT_VARIABLES)
def test_an_endpoint_in_the_environment_is_used(monkeypatch, server, variable):
    """Both conventions lead to the engine that they name, which stays up afterwards."""
    value = server.endpoint_url if variable == "AWS_ENDPOINT_URL" else f"127.0.0.1:{server.port}"
    monkeypatch.setenv(variable, value)
    with connect("embedded") as attached:
        assert attached.endpoint_url == server.endpoint_url
        attached.client("sqs").list_queues()
    assert embedded.Server.healthy(server.endpoint_url)


@pytest.mark.parametrize("package", ["ministack", "hypercorn"])
def test_another_release_is_refused(tmp_path, package):
    """The corrections are for one release of each package that they patch; on another nothing starts."""
    (tmp_path / f"{package}-0.0.1.dist-info").mkdir()
    (tmp_path / f"{package}-0.0.1.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 0.0.1\n")
    ran = subprocess.run(
        [sys.executable, embedded.Server.program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    wanted = version(package)
    told = f"{package} 0.0.1 is installed, but the embedded engine's corrections are written for {wanted}: "
    assert (1, told) == (ran.returncode, ran.stderr[: len(told)])
    assert f"install {package}=={wanted}" in ran.stderr


def test_unknown_engine_is_refused():
    """An unknown engine is named together with those there are."""
    with pytest.raises(EngineError, match=r"'azure'.*embedded"):
        connect("azure")
