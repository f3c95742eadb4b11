"""Cliffs say what they are: too small a machine, what runs out, and engines that hang or are none."""

import errno
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import EndpointConnectionError
from processes import gone

from helpers import Experiment, connect, live
from helpers.engines import embedded, local, machine, watching
from helpers.engines.answering import ask, why_not
from helpers.errors import EngineError, FileError, LabError, StackError
from helpers.fleet import Fleet
from helpers.resources import acquiring, lacking

GIB = 2**30
ROOMY = machine.Room(memory=math.inf, tasks=math.inf, files=math.inf, calls=math.inf, cores=math.inf)
MANY = Experiment(2000, siphon_share=1, worker_concurrency=1000)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Each test has its own notes of kept engines, and no endpoint in its environment."""
    monkeypatch.setattr(local, "KEPT", tmp_path / "kept")
    for variable in (*local.ENDPOINT_VARIABLES, machine.OVERCOMMIT):
        monkeypatch.delenv(variable, raising=False)


# --- What this machine can hold


@pytest.mark.parametrize(
    ("room", "told"),
    [
        ({"memory": 16 * GIB}, "31.0 GB of memory"),
        ({"tasks": 3000}, "6,000 processes and threads"),
        ({"files": 1024}, "10,000 open files and sockets in the engine"),
        ({"calls": 1000}, "1,000 open files and sockets in this process"),
        ({"cores": 2}, "150 s to start on 2 processors"),
    ],
)
def test_more_workers_than_the_machine_holds_are_refused(room, told):
    """Whichever resource is short, the refusal names it, and the most workers for which it suffices."""
    short = replace(ROOMY, **room)
    with pytest.raises(EngineError) as refused:
        machine.check(MANY, machine.ENVIRONMENT, room=short)
    message = str(refused.value)
    assert told in message
    assert "./lab predict" in message
    assert f"{machine.OVERCOMMIT}=1" in message
    fits = int(message.split("room for worker_concurrency=")[1].split(".")[0])
    machine.check(replace(MANY, worker_concurrency=fits), machine.ENVIRONMENT, room=short)
    with pytest.raises(EngineError):
        machine.check(replace(MANY, worker_concurrency=fits + 1), machine.ENVIRONMENT, room=short)


def test_only_the_workers_that_will_be_there_count(monkeypatch):
    """There are no more workers than items, none for AWS but a fleet's, and a fleet shares processes."""
    small = replace(ROOMY, memory=2 * GIB)
    machine.check(replace(MANY, items=20), machine.ENVIRONMENT, room=small)
    machine.check(MANY, None, room=small)
    machine.check(MANY, machine.ENVIRONMENT, warm=1000, room=small)
    fleet = replace(MANY, consumer="fleet")
    machine.check(fleet, machine.ENVIRONMENT, room=small)
    with pytest.raises(EngineError, match=r"40 worker processes need 1\.5 GB"):
        machine.check(fleet, None, room=replace(ROOMY, memory=GIB))
    long = Experiment(2000, siphon_share=0, direct_seconds=5.0, map_concurrency=500)
    with pytest.raises(EngineError, match="lower map_concurrency"):
        machine.check(long, machine.ENVIRONMENT, room=small)
    machine.check(replace(long, direct_seconds=0.05), machine.ENVIRONMENT, room=small)
    monkeypatch.setenv(machine.OVERCOMMIT, "1")
    machine.check(MANY, machine.ENVIRONMENT, room=small)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_deployed(engine, monkeypatch):
    """`Engine.run` on a machine without room raises, and has deployed no stack."""
    monkeypatch.setattr(machine, "left", lambda: replace(ROOMY, memory=GIB))
    before = engine.client("cloudformation").list_stacks()["StackSummaries"]
    with pytest.raises(EngineError, match="worker_concurrency=1000"):
        engine.run(MANY, progress=False)
    assert before == engine.client("cloudformation").list_stacks()["StackSummaries"]


def test_room_is_that_of_the_container(monkeypatch, tmp_path):
    """The limits of memory, processes and processors of control groups count, of both versions."""
    for version, files in {
        "v2": {
            "proc/self/cgroup": "0::/box/inner\n",
            "sys/fs/cgroup/box/memory.max": str(3 * GIB),
            "sys/fs/cgroup/box/memory.current": str(2 * GIB),
            "sys/fs/cgroup/box/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
            "sys/fs/cgroup/box/inner/memory.max": "max",
            "sys/fs/cgroup/box/inner/pids.max": "100",
            "sys/fs/cgroup/box/inner/pids.current": "60",
            "sys/fs/cgroup/box/inner/cpu.max": "50000 100000",
        },
        "v1": {
            "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n2:pids:/box\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB // 2}\n",
            "sys/fs/cgroup/pids/box/pids.max": "100",
            "sys/fs/cgroup/pids/box/pids.current": "60",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        },
    }.items():
        root = tmp_path / version
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        monkeypatch.setattr(machine, "ROOT", root)
        room = machine.left()
        assert (room.memory, room.tasks, room.cores) == (1.5 * GIB, 40, 0.5), version


# --- Resources that run out


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "close other programs"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "ulimit -v"),
        (errno.ENOSPC, "full; make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "read-only"),
    ],
)
def test_what_ran_out_is_named_with_its_remedy(monkeypatch, number, told):
    """An engine and a fleet that the system refuses to start say in one line what is lacking."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(EngineError, match=told) as failed:
        embedded.Server.start()
    assert "\n" not in str(failed.value)
    before = set(Path(local.for_sockets()).glob(f"{local.FOLDER}*"))
    with pytest.raises(EngineError, match=told):
        embedded.Server.start()
    assert set(Path(local.for_sockets()).glob(f"{local.FOLDER}*")) <= before


def test_the_reason_is_found_wherever_it_is():
    """It may be the error itself, its cause, what botocore keeps, a program's text, or no lack at all."""
    full = OSError(errno.EMFILE, "Too many open files")
    wrapped = RuntimeError("no connection")
    wrapped.__cause__ = full
    hidden = EndpointConnectionError(endpoint_url="http://127.0.0.1:1", error=wrapped)
    for error in (full, wrapped, hidden, "Traceback\nOSError: [Errno 24] Too many open files: 'x'"):
        assert "ulimit -n" in str(lacking(error))
    assert "ulimit -u" in str(lacking(RuntimeError("can't start new thread")))
    assert "memory" in str(lacking(MemoryError()))
    assert lacking(ValueError("Invalid")) is None
    assert lacking("SyntaxError: invalid") is None
    with pytest.raises(ValueError, match="other"), acquiring("it", EngineError):
        raise ValueError("other")


STARVED = """
import resource, sys
from helpers.engines import embedded
resource.setrlimit(resource.{limit}, ({soft}, {hard}))
try:
    embedded.Server.start().stop()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("limit", "soft", "hard", "told"),
    [
        ("RLIMIT_NOFILE", 6, 6, "ulimit -n"),
        ("RLIMIT_AS", 300_000_000, 300_000_000, "ulimit -v"),
    ],
)
def test_an_engine_under_a_limit_says_which(limit, soft, hard, told):
    """With too few descriptors or too small an address space the error is one line with the remedy."""
    code = STARVED.format(limit=limit, soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("EngineError"), done.stdout + done.stderr
    assert told in done.stdout
    assert done.stdout.count("\n") == 1


def test_an_engine_that_dies_of_a_lack_says_which(monkeypatch, tmp_path):
    """What the engine's own process ran out of, as its log tells, is the reason that it did not come up."""
    program = tmp_path / "dies.py"
    program.write_text("raise OSError(28, 'No space left on device')\n")
    monkeypatch.setattr(embedded.Server, "program", str(program))
    with pytest.raises(EngineError, match=r"did not come up.*full; make room") as failed:
        embedded.Server.start()
    assert "\n" not in str(failed.value)


def test_a_caller_without_descriptors_is_no_dead_engine(engine, monkeypatch):
    """Where a socket cannot be opened the error says so, and never that the engine has ended."""
    with connect("embedded", endpoint=engine.endpoint_url) as connected:
        sqs = connected.client("sqs")

        def refuse(*_, **__):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(local, "GONE_SECONDS", 0.0)
        with monkeypatch.context() as starved:
            starved.setattr(socket, "socket", refuse)
            with pytest.raises(local.EngineGone) as failed:
                sqs.list_queues()
        assert "ulimit -n" in str(failed.value)
        assert "has ended" not in str(failed.value)
        sqs.list_queues()


def test_a_fleet_that_does_not_start_says_why(engine, monkeypatch, tmp_path):
    """The last words of a worker process are in the error."""
    broken = tmp_path / "index.py"
    broken.write_text("raise OSError(28, 'No space left on device')\n")
    monkeypatch.setattr("helpers.fleet.HANDLER", broken)
    stack = type("Stack", (), {"engine": engine, "parameters": {}, "outputs": {"QueueUrl": "http://x"}})()
    with pytest.raises(StackError, match="make room") as failed, Fleet(stack, 1, 1):
        pass
    assert "\n" not in str(failed.value)
    broken.write_text("raise ValueError('not this one')\n")
    with pytest.raises(StackError, match="ValueError: not this one"), Fleet(stack, 1, 1):
        pass


# --- One kept engine


KEEP = """
import sys
from pathlib import Path
from helpers.engines import embedded, local
from helpers.errors import LabError
local.KEPT = Path(sys.argv[1])
try:
    print("started", embedded.Server.keep().pid)
except LabError as error:
    print("told", error)
"""


def test_engines_started_at_once_are_one():
    """Of three that start one at the same time, one does; the others are told where it is."""
    command = [sys.executable, "-c", KEEP, str(local.KEPT)]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        said = [start.communicate(timeout=180)[0] for start in starts]
        pids = [int(line.split()[1]) for line in said if line.startswith("started")]
        kept = embedded.Server.kept()
        assert kept
        assert [kept.pid] == pids
        assert sum(f"pid {kept.pid}: the embedded engine is kept already" in line for line in said) == 2
    finally:
        for line in said:
            if line.startswith("started"):
                with suppress(ProcessLookupError):
                    os.killpg(int(line.split()[1]), signal.SIGKILL)
        embedded.Server.unkeep()


def test_a_stop_waits_for_a_start(monkeypatch):
    """While an engine is being started, stopping waits and then stops it; status says there is none yet."""
    started, go = threading.Event(), threading.Event()

    def start(*_, **__):
        started.set()
        go.wait(30)
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", Fake.program])
        return Fake(process.pid, 1, str(local.KEPT / f"{local.FOLDER}x"))

    class Fake(embedded.Server):
        engine = "fake"
        program = "this-is-a-fake-engine"

        def stop(self):
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(Fake, "start", start)
    stopped = []
    starting = threading.Thread(target=Fake.keep)
    starting.start()
    assert started.wait(30)
    stopping = threading.Thread(target=lambda: stopped.append(Fake.unkeep()))
    stopping.start()
    assert Fake.kept() is None
    assert stopped == []
    go.set()
    starting.join(30)
    stopping.join(30)
    [one] = stopped
    assert one
    assert gone(one.pid)
    assert not Fake.note().exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_an_engine_that_cannot_be_noted_is_stopped(monkeypatch, number):
    """In a checkout that is full or read-only `start` says so, and no engine is left running."""
    servers = []
    start = embedded.Server.start.__func__

    def noted(cls, *given, **named):
        servers.append(start(cls, *given, **named))
        return servers[-1]

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(embedded.Server, "start", classmethod(noted))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileError, match=os.strerror(number)):
        embedded.Server.keep()
    [server] = servers
    assert gone(server.pid)
    assert not Path(server.directory).exists()


def test_a_read_only_checkout_starts_nothing(monkeypatch):
    """Where not even a lock can be made, nothing is started."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    started = []
    monkeypatch.setattr(embedded.Server, "start", classmethod(lambda *_, **__: started.append(1)))
    with monkeypatch.context() as starved:
        starved.setattr(os, "open", refuse)
        with pytest.raises(FileError, match="Read-only"):
            embedded.Server.keep()
    assert started == []


def test_a_lock_follows_no_link(tmp_path):
    """A link in place of the lock is refused, and what it points to is not touched."""
    precious = tmp_path / "precious"
    precious.write_text("all of it")
    local.KEPT.mkdir()
    embedded.Server._lock().symlink_to(precious)
    with pytest.raises(FileError):
        embedded.Server.keep()
    assert precious.read_text() == "all of it"


# --- What is no engine


def _garbage(client):
    client.sendall(bytes(range(256)) * 10)


def _silent(client):
    client.recv(1000)
    client.recv(1000)


def _tls(client):
    client.recv(1000)
    client.sendall(b"\x15\x03\x01\x00\x02\x02\x46")


def _banner(client):
    client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    client.recv(1000)


def _dripping(client):
    with suppress(OSError):
        while True:
            client.sendall(b"x")
            time.sleep(0.05)


def _endless(client):
    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    _dripping(client)


@contextmanager
def talking(talk):
    """A server on 127.0.0.1 that talks to each of its clients like this; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=one, args=(client,), daemon=True).start()

        def one(client):
            with client, suppress(OSError):
                talk(client)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("name", ["embedded", "localstack", "endpoint"])
@pytest.mark.parametrize(
    ("talk", "told"),
    [
        (_garbage, "speaks no HTTP"),
        (_silent, "does not answer within"),
        (_tls, "speaks no HTTP"),
        (_banner, "speaks no HTTP; it says 'SSH-2.0-OpenSSH_9.6'"),
        (_dripping, "does not answer within"),
        (_endless, "does not answer within"),
        (socket.socket.close, "closes the connection without an answer"),
    ],
)
def test_what_speaks_no_http_is_no_engine(monkeypatch, name, talk, told):
    """Whatever listens at an endpoint, the error comes soon and says in one sentence what is there."""
    monkeypatch.setattr(ask, "__defaults__", (0.5, None))
    with talking(talk) as url:
        began = time.monotonic()
        with pytest.raises(EngineError) as refused:
            connect(name, endpoint=url)
    assert url in str(refused.value)
    assert told in str(refused.value)
    assert str(refused.value).isprintable()
    assert time.monotonic() - began < 30


def test_another_web_server_is_named_by_its_status(engine):
    """An HTTP server that is not the engine is told by its status."""

    def web(client):
        client.recv(1000)
        client.sendall(b"HTTP/1.0 418 Teapot\r\n\r\nshort and stout")

    with talking(web) as url:
        assert why_not(url) == "another server answers, with status 418"
        with pytest.raises(EngineError, match="status 418"):
            connect("embedded", endpoint=url)
        assert connect("endpoint", endpoint=url).endpoint_url == url


# --- Engines that hang


@pytest.fixture
def own():
    """An embedded engine of the test's own, which may be stopped and continued."""
    server = embedded.Server.start()
    yield server
    server.stop()


def test_an_engine_that_hangs_is_told_while_calls_wait(own, monkeypatch):
    """A call under way fails, as does the next at once; once the engine goes on, calls succeed again."""
    monkeypatch.setattr(watching, "PROBE_SECONDS", 0.5)
    with connect("embedded", endpoint=own.endpoint_url) as engine:
        sqs = engine.client("sqs")
        url = sqs.create_queue(QueueName="waiting")["QueueUrl"]
        failures = []

        def wait():
            try:
                while True:
                    sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)
            except local.EngineGone as gone:
                failures.append(str(gone))

        waiting = threading.Thread(target=wait)
        waiting.start()
        os.kill(own.pid, signal.SIGSTOP)
        waiting.join(60)
        assert len(failures) == 1
        assert f"kill -CONT {own.pid}" in failures[0]
        with pytest.raises(local.EngineGone, match="no longer answers"):
            sqs.list_queues()
        os.kill(own.pid, signal.SIGCONT)
        give_up = time.monotonic() + 60
        while engine._watch.silent:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert url in sqs.list_queues()["QueueUrls"]


def test_a_short_pause_is_no_hang(own, monkeypatch):
    """A call outlasts an engine that is stopped for less than the patience, and gets its answer."""
    monkeypatch.setattr(watching, "STOPPED_PROBES", 10_000)
    monkeypatch.setattr(watching, "IDLE_PROBES", 10_000)
    monkeypatch.setattr(watching, "PROBE_SECONDS", 0.2)
    with connect("embedded", endpoint=own.endpoint_url) as engine:
        sqs = engine.client("sqs")
        url = sqs.create_queue(QueueName="waiting")["QueueUrl"]
        os.kill(own.pid, signal.SIGSTOP)
        probed = threading.Event()
        verdict = engine._watch._verdict
        monkeypatch.setattr(
            engine._watch, "_verdict", lambda *given: (given[1] > 2 and probed.set()) or verdict(*given)
        )
        threading.Thread(target=lambda: probed.wait(60) and os.kill(own.pid, signal.SIGCONT)).start()
        assert [url] == sqs.list_queues()["QueueUrls"]
        assert probed.is_set()


def test_what_works_or_is_not_known_gets_more_patience():
    """Idle for 10 s counts as hung; with processor time, 2 minutes; an unknown process, 30 s."""
    watch = watching.Watch("embedded", "http://127.0.0.1:1", "/", ())
    me = psutil.Process()
    assert watch._verdict(me, watching.BUSY_PROBES - 1, idle=0) is None
    assert watch._verdict(me, watching.BUSY_PROBES, idle=0)
    assert watch._verdict(me, watching.IDLE_PROBES, idle=watching.IDLE_PROBES)
    assert watch._verdict(None, watching.UNKNOWN_PROBES - 1, idle=watching.UNKNOWN_PROBES - 1) is None
    assert watch._verdict(None, watching.UNKNOWN_PROBES, idle=watching.UNKNOWN_PROBES)


def test_a_run_on_an_engine_that_hangs_fails_with_the_reason(own, monkeypatch):
    """A run whose engine is stopped in the middle ends with the sentence, not after a timeout."""
    monkeypatch.setattr(watching, "PROBE_SECONDS", 0.5)
    with connect("embedded", endpoint=own.endpoint_url) as engine:

        def stop_in_the_middle(*given, **named):
            os.kill(own.pid, signal.SIGSTOP)
            return wait(*given, **named)

        wait = live.wait
        monkeypatch.setattr(live, "wait", stop_in_the_middle)
        monkeypatch.setattr(live, "salvage", lambda *_: None)
        with pytest.raises((LabError, local.EngineGone), match="no longer answers"):
            engine.run(Experiment(4, siphon_share=0.5, worker_concurrency=2), progress=False)


def test_a_kept_engine_that_hangs_is_named_and_can_be_stopped():
    """Connecting and status say that its process is stopped; `stop` ends it all the same."""
    server = embedded.Server.keep()
    try:
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=f"kill -CONT {server.pid}"):
            connect("embedded")
        code = f"""
import sys
from pathlib import Path
from helpers import cli
from helpers.engines import local
local.KEPT = Path({str(local.KEPT)!r})
sys.argv = ["lab", "engine", "status"]
cli.main()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert f"kill -CONT {server.pid}" in done.stderr
    finally:
        assert server == embedded.Server.unkeep()
    assert gone(server.pid)
