"""LocalStack and endpoints of one's own: found, kept, refused, and held to the same laws."""

import importlib.util
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from processes import gone

from helpers import Experiment, checks, live, stack
from helpers.commands import keeping
from helpers.engines import connect, embedded, local, localstack
from helpers.errors import EngineError

needs_localstack = pytest.mark.skipif(
    not (localstack.installed(localstack.Server.home) or os.environ.get("LAB_TEST_LOCALSTACK")),
    reason="LocalStack is not installed; `./lab engine start localstack` or LAB_TEST_LOCALSTACK=1 does it",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Each test has its own notes of kept engines, and no endpoint in its environment."""
    for variable in (*local.ENDPOINT_VARIABLES, "LOCALSTACK_VERSION", "LOCALSTACK_AUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(local, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(localstack, "DEFAULT_URL", "http://127.0.0.1:9")


@pytest.fixture
def docker(monkeypatch, tmp_path):
    """A `docker` that notes its arguments and port and ends with DOCKER_EXIT, in place of a real one."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    note = f'echo "$LOCALSTACK_PORT $*" >>{tmp_path}/calls'
    program.write_text(f"#!/bin/sh\n{note}\necho no daemon >&2\nexit ${{DOCKER_EXIT:-0}}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


@pytest.fixture(scope="module")
def server():
    """One LocalStack for the tests that use it."""
    started = localstack.Server.start()
    yield started
    started.stop()


@pytest.fixture
def localstack_engine(server):
    return connect("localstack", endpoint=server.endpoint_url)


# Options and endpoints


def test_options_go_to_the_engine_that_takes_them():
    """`connect` hands options on, leaves out those that are None, and names one that an engine has not."""
    with pytest.raises(EngineError, match=r"profile='work': the localstack engine.*takes endpoint"):
        connect("localstack", profile="work")
    with connect("simulated", endpoint=None, quotas=None) as engine:
        assert engine.name == "simulated"
        assert engine.shared() == {}


@pytest.mark.parametrize("name", ["embedded", "localstack", "endpoint"])
def test_an_endpoint_where_nothing_answers_is_named(name):
    """Each local engine names the URL that it was given when nothing answers there."""
    with pytest.raises(EngineError, match=re.escape("endpoint='http://127.0.0.1:9'")):
        connect(name, endpoint="http://127.0.0.1:9")


def test_an_endpoint_is_called_without_tls():
    """An endpoint that is no http URL is refused before it is called."""
    with pytest.raises(EngineError, match="must be http://"):
        connect("endpoint", endpoint="https://127.0.0.1:9")


def test_an_own_endpoint_needs_a_url():
    """The engine `endpoint` without a URL says how to give one."""
    with pytest.raises(EngineError, match="--endpoint"):
        connect("endpoint")


def test_any_emulator_is_an_endpoint(engine, monkeypatch):
    """What speaks AWS's API at a URL is used, and other processes find it by the environment."""
    given = connect("endpoint", endpoint=engine.endpoint_url)
    assert given.shared() == {"AWS_ENDPOINT_URL": engine.endpoint_url} | engine.credentials.variables()
    for variable, value in given.shared().items():
        monkeypatch.setenv(variable, value)
    found = connect("endpoint")
    assert found.endpoint_url == given.endpoint_url
    url = given.client("sqs").create_queue(QueueName="own-endpoint")["QueueUrl"]
    assert url in found.client("sqs").list_queues(QueueNamePrefix="own-")["QueueUrls"]


def test_ministack_is_no_localstack(engine):
    """The embedded engine answers LocalStack's health check, too, and is not taken for one."""
    assert local.answer(f"{engine.endpoint_url}/_localstack/health")
    with pytest.raises(EngineError, match="no localstack engine answers"):
        connect("localstack", endpoint=engine.endpoint_url)


def test_a_localstack_at_its_default_port_is_found(monkeypatch):
    """What tells its release at localhost:4566 is used, and its release is told."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/_localstack/health" else 404)
            self.end_headers()
            self.wfile.write(b'{"services": {}, "edition": "community", "version": "4.9.2"}')

        def log_message(self, *_):
            pass

    web = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    monkeypatch.setattr(localstack, "DEFAULT_URL", f"http://127.0.0.1:{web.server_port}")
    try:
        with connect("localstack") as engine:
            assert engine.endpoint_url == localstack.DEFAULT_URL
            assert engine.versions()["localstack"] == "4.9.2"
    finally:
        web.shutdown()
        web.server_close()


def test_without_any_localstack_both_remedies_are_told():
    """Where none runs, the error says how to start one without Docker and with it."""
    with pytest.raises(EngineError, match=r"engine start localstack.*compose.yaml"):
        connect("localstack")


# Keeping


def test_engines_are_kept_apart():
    """A note of one engine says nothing of another."""
    local.KEPT.mkdir()
    note = {"pid": os.getpid(), "port": 1, "directory": "/nonexistent"}
    embedded.Server.note().write_text(json.dumps(note))
    assert localstack.Server.kept() is None
    assert embedded.Server.note().exists()


@pytest.mark.parametrize(
    ("name", "docker", "told"), [("aws", False, "'aws': not one"), ("embedded", True, "needs no Docker")]
)
def test_only_the_labs_engines_are_started(name, docker, told):
    """An engine that the lab does not start, or not in Docker, is refused by name."""
    with pytest.raises(EngineError, match=told):
        keeping.start(name, docker=docker)


def test_a_port_in_use_is_refused_before_anything_starts(monkeypatch):
    """Starting LocalStack on a taken port names it; nothing is installed, started or noted."""
    monkeypatch.setattr(localstack, "install", lambda home: pytest.fail("was installed"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port}"):
            localstack.Server.keep(port)
    assert not localstack.Server.note().exists()


# Installing


def test_every_package_is_pinned():
    """The requirements name one release of each package, LocalStack's the one that the lab is written for."""
    lines = localstack.REQUIREMENTS.read_text().splitlines()
    wanted = [line.rstrip("\\ ") for line in lines if not line.startswith(("#", " "))]
    assert f"localstack-core[runtime]=={localstack.RELEASE}" in wanted
    assert len(wanted) > 100


def test_another_python_is_refused(monkeypatch, tmp_path):
    """On a Python that LocalStack does not run on, the error names those it does, and both ways out."""
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    with pytest.raises(EngineError, match=r"3\.14.*3\.11, 3\.12, 3\.13.*LAB_PYTHON.*--docker"):
        localstack.install(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_failed_installation_leaves_nothing(monkeypatch, tmp_path, tool):
    """When the installer fails, its words are told and the half-made environment is removed."""
    fake = tmp_path / tool
    fake.write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"\necho no registry >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(localstack.shutil, "which", lambda name: str(fake) if tool == "uv" else None)
    monkeypatch.setattr(sys, "executable", str(fake))
    home = tmp_path / "lab" / "home"
    with pytest.raises(EngineError, match=r"could not be installed[\s\S]*no registry"):
        localstack.install(home)
    assert not home.exists()
    assert not localstack.installed(home)


def test_an_environment_of_other_requirements_is_not_installed(monkeypatch, tmp_path):
    """Only an environment that was made, to the end, from the requirements as they are counts."""
    assert not localstack.installed(tmp_path)
    (tmp_path / "lab-stamp").write_text(localstack.REQUIREMENTS.read_text())
    assert localstack.installed(tmp_path)
    other = tmp_path / "other.txt"
    other.write_text("localstack-core==0.0.0\n")
    monkeypatch.setattr(localstack, "REQUIREMENTS", other)
    assert not localstack.installed(tmp_path)


# Docker


def test_compose_is_safe_and_explicit():
    """The image has an explicit release, the port is on loopback, and what is mounted is there."""
    service = yaml.safe_load(localstack.COMPOSE.read_text())["services"]["localstack"]
    assert service["image"] == f"localstack/localstack:${{LOCALSTACK_VERSION:-{localstack.RELEASE}}}"
    assert [port.split(":")[0] for port in service["ports"]] == ["127.0.0.1"]
    assert "LOCALSTACK_AUTH_TOKEN" in service["environment"]
    files = [mount.split(":")[0] for mount in service["volumes"]]
    assert [name for name in files if name.startswith(".") and not (localstack.INFRA / name).is_file()] == []
    assert "/var/run/docker.sock" in files


def test_docker_is_told_to_start_and_stop(docker):
    """`--docker` runs compose on the lab's file, with the port; stopping removes what it made."""
    keeping.start("localstack", port=4570, docker=True)
    keeping.stop("localstack", docker=True)
    assert docker() == [
        f"4570 compose --file {localstack.COMPOSE} up --detach --wait",
        f" compose --file {localstack.COMPOSE} down --volumes",
    ]


def test_without_docker_the_way_without_is_told(monkeypatch, tmp_path):
    """`--docker` where there is none says where to get it and that LocalStack runs without."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"docker: not found.*leave --docker out"):
        keeping.start("localstack", docker=True)


def test_what_docker_says_is_told(docker, monkeypatch):
    """When compose fails, its words and both remedies are in the error."""
    monkeypatch.setenv("DOCKER_EXIT", "1")
    with pytest.raises(EngineError, match=r"docker info[\s\S]*no daemon"):
        keeping.start("localstack", docker=True)


@pytest.mark.parametrize("version", ["2026.3.0", "latest"])
def test_a_licensed_image_needs_a_token(docker, monkeypatch, version):
    """An image that needs an account is not started without a token, and is with one."""
    monkeypatch.setenv("LOCALSTACK_VERSION", version)
    with pytest.raises(EngineError, match=rf"LOCALSTACK_VERSION={version}.*LOCALSTACK_AUTH_TOKEN"):
        keeping.start("localstack", docker=True)
    assert docker() == []
    monkeypatch.setenv("LOCALSTACK_AUTH_TOKEN", "a-token")
    keeping.start("localstack", docker=True)
    assert len(docker()) == 1


def test_results_come_in_the_output_where_they_cannot_be_written():
    """Without a ResultWriter a workflow is the same but for that."""
    machines = [stack.template("combined", there)["Resources"]["StateMachine"] for there in (True, False)]
    written, returned = (json.loads(machine["Properties"]["DefinitionString"]) for machine in machines)
    assert written["States"]["MapItems"].pop("ResultWriter")
    assert written == returned


# LocalStack itself


@needs_localstack
def test_listens_on_loopback_only(server):
    """No socket of LocalStack's listens elsewhere than on 127.0.0.1."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    listening = [
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert ("127.0.0.1", server.port) in listening
    assert {"127.0.0.1"} == {ip for ip, _ in listening}


@needs_localstack
def test_writes_into_its_own_folder_only(server, localstack_engine):
    """Its caches, state, buckets and temporary files lie in the folder that goes with it, not elsewhere."""
    environment = psutil.Process(server.pid).environ()
    assert {environment[name] for name in ("HOME", "TMPDIR", "FILESYSTEM_ROOT")} == {server.directory}
    assert not [value for name, value in environment.items() if name.startswith("AWS_") and "/" in value]
    s3 = localstack_engine.client("s3")
    s3.create_bucket(Bucket="own-folder")
    s3.put_object(Bucket="own-folder", Key="key", Body=b"body")
    assert list(Path(server.directory).rglob("own-folder"))


PARENT = """
import time
from helpers.engines import localstack
server = localstack.Server.start()
print(server.pid, server.directory, flush=True)
time.sleep(600)
"""


@needs_localstack
def test_no_orphan_is_left_when_the_parent_is_killed():
    """A LocalStack that is not kept ends with the process that started it, its folder too."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, folder = parent.stdout.readline().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(int(pid))
    give_up = time.monotonic() + 120
    while Path(folder).exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not Path(folder).exists()


EXPERIMENT = Experiment(
    12,
    siphon_share=0.5,
    map_concurrency=6,
    worker_concurrency=2,
    limited_seconds=0.3,
    direct_seconds=0.05,
    failure_rate=0.2,
    redelivery_seconds=1,
    consumer="fleet",
    seed=3,
)


@needs_localstack
def test_the_same_experiment_keeps_the_same_laws(engine, localstack_engine):
    """On the embedded engine and on LocalStack: every law holds, with the same items, lanes and outcomes."""
    traces = [place.run(EXPERIMENT, progress=False) for place in (engine, localstack_engine)]
    for trace in traces:
        checks.verify(trace)
    ours, theirs = (trace.items[["item", "lane", "attempts", "outcome"]] for trace in traces)
    assert ours.equals(theirs)
    assert [trace.engine for trace in traces] == ["embedded", "localstack"]


@needs_localstack
def test_an_answer_may_come_at_once(localstack_engine):
    """A task with a heartbeat hears an answer however soon after the message it comes."""
    sqs, sfn = localstack_engine.client("sqs"), localstack_engine.client("stepfunctions")
    clocks = {"Consumer": "fleet", "TimeoutSeconds": 60, "HeartbeatSeconds": 20}
    with stack.deploy(localstack_engine, "task_token", clocks) as deployed, ThreadPoolExecutor(40) as pool:

        def answer_one(_: int) -> None:
            url = deployed.outputs["QueueUrl"]
            [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
            sfn.send_task_success(taskToken=json.loads(message["Body"])["token"], output='"soon"')

        answers = pool.map(answer_one, range(20))
        arns = list(pool.map(lambda n: deployed.start({"item": {"item": n}}), range(20)))
        list(answers)
        ended = [json.loads(live.wait(deployed, arn, progress=False)["output"]) for arn in arns]
    assert {"answered"} == {end["outcome"] for end in ended}


HANDLER = """
import os, sys, time

def handler(event, context):
    print("seen", event["do"], flush=True)
    if event["do"] == "sleep":
        time.sleep(60)
    if event["do"] == "exit":
        os._exit(3)
    if event["do"] == "raise":
        raise KeyError("bad")
    return {"pid": os.getpid(), "left": context.get_remaining_time_in_millis()}
"""


@pytest.fixture
def call(localstack_engine):
    """A function of HANDLER with a timeout of 2 s, called with what it is to do: (error or None, answer)."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.py", HANDLER)
    functions, name = localstack_engine.client("lambda"), f"test-{uuid.uuid4().hex[:8]}"
    functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/test",
        Handler="index.handler",
        Timeout=2,
        Code={"ZipFile": archive.getvalue()},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName=name)

    def invoke(do: str):
        answer = functions.invoke(FunctionName=name, Payload=json.dumps({"do": do}))
        return answer.get("FunctionError"), json.load(answer["Payload"])

    yield invoke
    functions.delete_function(FunctionName=name)


@needs_localstack
def test_a_function_is_a_process_that_is_kept_warm(call):
    """Calls one after another run in one process, which ends with its function."""
    error, first = call("return")
    assert error is None
    assert 0 < first["left"] <= 2000
    assert call("return")[1]["pid"] == first["pid"]
    assert psutil.pid_exists(first["pid"])


@needs_localstack
@pytest.mark.parametrize(
    ("do", "kind"), [("sleep", "Sandbox.Timedout"), ("exit", "Runtime.ExitError"), ("raise", "KeyError")]
)
def test_a_function_that_fails_says_how(call, do, kind):
    """A timeout, an exit and an exception are errors of their own kind; the next call is answered.

    Only a process that raised an exception is there to answer it: the others have ended.
    """
    before = call("return")[1]["pid"]
    error, answer = call(do)
    assert error
    assert answer["errorType"] == kind
    assert (do == "raise") or gone(before)
    error, after = call("return")
    assert error is None
    assert (do == "raise") == (after["pid"] == before)


@pytest.mark.parametrize(
    "line",
    [
        "print(FORGED)",
        "os.write(0, FORGED.encode())",
        "subprocess.run(['sh', '-c', 'echo forged >&0'])",
        "assert sys.stdin.read() == ''; assert subprocess.check_output(['cat']) == b''",
        "os.fork() or 'forged'",
        "if not ctypes.PyDLL(None).fork(): return 'forged'\n    os.wait()",
        "[stream.close() for stream in (sys.stdin, sys.stdout, sys.stderr)]",
        "'gone' in globals() or globals().update(gone=os.closerange(0, 3))",
        "raise KeyError(sys.stderr.close())",
    ],
)
def test_a_process_answers_over_a_channel_of_its_own(tmp_path, monkeypatch, line):
    """What a handler prints, reads, closes or forks changes no answer; a child process gets no channel."""
    code = 'import ctypes, os, subprocess, sys\nFORGED = \'{"result": "forged"}\\n\'\n'
    (tmp_path / "index.py").write_text(f"{code}def handler(event, context):\n    {line}\n    return event\n")
    names = ("FUNCTION_NAME", "FUNCTION_VERSION", "LOG_GROUP_NAME", "LOG_STREAM_NAME", "FUNCTION_MEMORY_SIZE")
    environment = {f"AWS_LAMBDA_{name}": "x" for name in names} | {"AWS_LAMBDA_FUNCTION_TIMEOUT": "9"}
    function = SimpleNamespace(
        config=SimpleNamespace(code=SimpleNamespace(get_unzipped_code_location=lambda: tmp_path), timeout=30)
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ran = executor().ProcessRuntimeExecutor()
    ran.function_version = function
    ran.start(environment | {"_HANDLER": "index.handler"})
    try:
        for n in range(3):
            event = {"invoke-id": "i", "invoked-function-arn": "arn", "payload": json.dumps(n)}
            answer = ran.invoke(event)
            if "raise" in line:
                assert json.loads(answer.payload)["errorType"] in ("KeyError", "ValueError")
            else:
                assert (answer.is_error, json.loads(answer.payload)) == (False, n)
    finally:
        ran.stop()


def executor():
    """processes.py, which runs in LocalStack's Python, with stand-ins for what it imports from there."""
    stand_in = SimpleNamespace(
        RuntimeExecutor=object,
        InvocationResult=lambda *given, **named: SimpleNamespace(payload=given[1], **named),
    )
    invocation = "localstack.services.lambda_.invocation"
    modules = {
        "localstack": SimpleNamespace(config=None),
        "localstack.services": None,
        "localstack.services.lambda_": None,
        invocation: SimpleNamespace(runtime_executor=stand_in),
        f"{invocation}.executor_endpoint": SimpleNamespace(StatusErrorException=RuntimeError),
        f"{invocation}.lambda_models": SimpleNamespace(
            FunctionVersion=object, InvocationResult=stand_in.InvocationResult
        ),
        f"{invocation}.plugins": SimpleNamespace(RuntimeExecutorPlugin=object),
        "plux": SimpleNamespace(PluginFinder=object, PluginSpecResolver=object),
    }
    path = Path(localstack.Server.program) / "processes.py"
    spec = importlib.util.spec_from_file_location("processes_of_localstack", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, content in modules.items():
            patch.setitem(sys.modules, name, content or SimpleNamespace(__path__=[]))
        spec.loader.exec_module(module)
    return module
