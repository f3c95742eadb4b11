"""What SECURITY.md promises: where the lab listens, what it tells, where it writes, what it executes."""

import ast
import contextlib
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import boto3
import nbformat
import psutil
import pytest
import yaml

from helpers import cli, notebooks, stack, sweep, values
from helpers.commands import keeping
from helpers.engines import aws, connect, local, localstack
from helpers.engines.embedded import Server
from helpers.errors import EngineError, LabError, SweepError
from helpers.experiment import Experiment

ROOT = Path(__file__).parents[1]
PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDACCESSKEY",
    "AWS_SECRET_ACCESS_KEY": "plantedSECRETkey/K7MDENG/bPxRfiCY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzPlantedSESSIONtoken",
    "AWS_PROFILE": "planted-profile",
    "LOCALSTACK_AUTH_TOKEN": "ls-PlantedAUTHtoken",
    "HTTPS_PROXY": "http://someone:plantedPASSWORD@127.0.0.1:9",
    "HTTP_PROXY": "http://someone:plantedPASSWORD@127.0.0.1:9",
    "GITHUB_TOKEN": "ghp_plantedGITHUBtoken",
    "DATABASE_URL": "postgres://someone:plantedPASSWORD@db/x",
}
PROFILE = (
    "[planted-profile]\naws_access_key_id = AKIAPLANTEDINPROFILE\naws_secret_access_key = plantedINprofile\n"
)
TEXTS = [PLANTED[name] for name in PLANTED if name.startswith("AWS_") or name.endswith("TOKEN")]
TEXTS += ["plantedPASSWORD", "AKIAPLANTEDINPROFILE", "plantedINprofile"]


def planted_in(text: str | bytes) -> list[str]:
    """The planted texts that are in this one."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    return [secret for secret in TEXTS if secret.encode() in data]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Watched:
    """What the processes below this one were given and where they listened, looked at until closed."""

    def __init__(self) -> None:
        self.environments: dict[str, set[str]] = {"engine": set(), "workers": set(), "fleet": set()}
        self.listening: set[tuple[str, str]] = set()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self) -> None:
        while not self.ended.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    line = " ".join(process.cmdline())
                    kind = next((kind for kind, part in KINDS.items() if part in line), None)
                    if kind:
                        self.environments[kind].add(json.dumps(process.environ()))
                        self.listening |= {(kind, at) for at in listening(process)}

    def close(self) -> None:
        self.ended.set()
        self.thread.join()


KINDS = {"workers": "forkserver", "fleet": "fleet_worker.py", "engine": "embedded_server"}


def listening(process: psutil.Process) -> set[str]:
    """The addresses at which a process listens."""
    return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}


NOTEBOOK = """
import json
from pathlib import Path
from helpers import Experiment, checks, connect, live, observe, stack

lab = connect(engine)
tokens = set()
def tokens_of(arn):
    sfn = lab.client("stepfunctions")
    for run in sfn.list_map_runs(executionArn=arn)["mapRuns"]:
        for child in sfn.list_executions(mapRunArn=run["mapRunArn"])["executions"]:
            for event in sfn.get_execution_history(executionArn=child["executionArn"])["events"]:
                sent = json.loads(event.get("taskScheduledEventDetails", {}).get("parameters", "{}"))
                if "MessageBody" in sent:
                    tokens.add(sent["MessageBody"]["token"])
"""
RUN = """
few = Experiment(8, siphon_share=0.5, worker_concurrency=2, direct_seconds=0.01, limited_seconds=0.02,
                 consumer="CONSUMER")
with stack.deploy(lab, "combined", stack.parameters(few)) as deployed:
    trace = live.run(deployed, few, progress=False)
    checks.verify(trace)
    trace.save(Path(out, "CONSUMER.parquet"))
    arn = lab.client("stepfunctions").list_executions(
        stateMachineArn=deployed.outputs["StateMachineArn"])["executions"][0]["executionArn"]
    tokens_of(arn)
    groups = [deployed.outputs[name] for name in ("ProcessLogGroup", "WorkerLogGroup")]
    logs = [lab.client("logs").filter_log_events(logGroupName=group)["events"] for group in groups]
    Path(out).with_name("logs-CONSUMER.json").write_text(json.dumps(logs))
    observe.execution(lab, arn, progress=False).save(Path(out, "observed-CONSUMER"))
Path(out).with_name("tokens.json").write_text(json.dumps(sorted(tokens)))
"""
FAILS = """
lab.client("stepfunctions").describe_execution(executionArn="arn:aws:states:us-east-1:0:execution:a:b")
"""


def notebook(folder: Path, *cells: str, name: str = "00_planted") -> Path:
    v4 = nbformat.v4
    parameters = v4.new_code_cell('engine: str = "embedded"  # where\nout: str = ""  # folder')
    parameters.metadata["tags"] = ["parameters"]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=[parameters, *map(v4.new_code_cell, cells)]), path)
    return path


def lab(*arguments: str) -> int:
    """The exit code of `lab` with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lab", *arguments])
        patch.setattr(cli.signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            sys.exit(cli.main())
    return ended.value.code or 0


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run, a failing one, a sweep and an engine of its own, in an environment full of planted secrets."""
    place = tmp_path_factory.mktemp("planted")
    out = place / "out"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as ending:
        for name in local.ENDPOINT_VARIABLES:
            patch.delenv(name, raising=False)
        for name, text in PLANTED.items():
            patch.setenv(name, text)
        (place / "credentials").write_text(PROFILE)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(place / "credentials"))
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # which another test may have made, without the profile
        patch.setattr(local, "KEPT", place / "kept")
        runs = [RUN.replace("CONSUMER", consumer) for consumer in ("lambda", "fleet")]
        notebook(place / "notebooks", NOTEBOOK, *runs, FAILS)
        watched = Watched()
        ending.callback(watched.close)
        server = Server.start()
        ending.callback(server.stop)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        ending.enter_context(contextlib.redirect_stdout(said))
        ending.enter_context(contextlib.redirect_stderr(said))
        with pytest.MonkeyPatch.context() as shelf:
            shelf.setattr(notebooks, "NOTEBOOKS", place / "notebooks")
            code = lab("run", "-p", f"out={out}", "--out", str(out))
        grid = ["--set", "items=4", "--set", "worker_concurrency=2", "--repetitions", "1"]
        swept = lab("sweep", *grid, "--set", "limited_seconds=0.02", "--out", str(out / "sweep"))
        yield SimpleNamespace(
            code=code,
            swept=swept,
            out=out,
            place=place,
            said=said.getvalue(),
            watched=watched,
            server=server,
            tokens=json.loads((place / "tokens.json").read_text()),
            endpoint=connect("embedded"),
        )


# --- Where it listens


def test_the_engine_and_all_below_it_listen_on_loopback_only(planted):
    """Engine, Lambda workers and fleets: no socket of theirs can be reached from another machine."""
    kinds = {kind for kind, _ in planted.watched.listening}
    assert "engine" in kinds
    assert {"127.0.0.1"} == {address for _, address in planted.watched.listening}
    tree = [psutil.Process(planted.server.pid), *psutil.Process(planted.server.pid).children(recursive=True)]
    assert {"127.0.0.1"} == set().union(*map(listening, tree))


def test_localstack_listens_on_loopback_only():
    """Without Docker by its own settings, with Docker by the ports that are published."""
    settings = localstack.Server.environment(4566, "/nowhere")
    assert settings["GATEWAY_LISTEN"] == "127.0.0.1:4566"
    assert settings["DNS_ADDRESS"] == "0"
    services = yaml.safe_load(localstack.COMPOSE.read_text())["services"]
    ports = [port for service in services.values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert all("network_mode" not in service for service in services.values())


def command_of_open(monkeypatch) -> list[str]:
    """What `lab open` starts."""
    started = []
    engine = SimpleNamespace(endpoint_url="", shared=lambda: {}, budget_usd=None)
    monkeypatch.setattr("helpers.commands.places.connect", lambda *_, **__: contextlib.nullcontext(engine))
    monkeypatch.setattr("helpers.commands.places.Place.connect", lambda _: contextlib.nullcontext(engine))
    with monkeypatch.context() as patch:
        server = SimpleNamespace(pid=0, wait=lambda *_: 0, terminate=lambda: None)
        patch.setattr(
            subprocess,
            "Popen",
            lambda command, **_: started.append(command) or contextlib.nullcontext(server),
        )
        assert lab("open") == 0
    return started[0]


def test_jupyter_wants_its_token(monkeypatch, tmp_path):
    """`lab open` starts it on 127.0.0.1, with a token; nothing that it is told opens it to others."""
    command = command_of_open(monkeypatch)
    assert "--ServerApp.ip=127.0.0.1" in command
    told = " ".join(command)
    for opened in (
        "token=",
        "password",
        "allow_origin",
        "allow_remote_access",
        "disable_check_xsrf",
        "0.0.0.0",
    ):
        assert opened not in told
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "jupyter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        give_up = time.monotonic() + 60
        address = re.compile(rf"http://127\.0\.0\.1:{port}/lab\?token=(\w+)")
        while not ((found := address.search(log.read_text())) and listening(psutil.Process(process.pid))):
            assert time.monotonic() < give_up, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}/api/contents"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with pytest.raises(urllib.error.HTTPError) as refused:
            direct.open(url, timeout=30)
        assert refused.value.code == 403
        with direct.open(f"{url}?token={found[1]}", timeout=30) as answered:
            assert answered.status == 200
        assert {"127.0.0.1"} == listening(psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


# --- What it tells nobody


def test_the_planted_runs_took_place(planted):
    """The notebook fails where it should, in its last cell; the sweep succeeds; a token a limited item."""
    assert (planted.code, planted.swept) == (1, 0), planted.said
    [result] = json.loads((planted.out / "results.json").read_text())["results"]
    assert "ExecutionDoesNotExist" in result["error"]
    limited = (Experiment(8).plan()["lane"] == "limited").sum()
    assert len(planted.tokens) == 2 * limited > 0
    assert {"lambda.parquet", "fleet.parquet", "index.html", "ledger.jsonl"} <= set(files(planted.out))
    assert {"sweep/report.html", "observed-lambda/observation.json"} <= set(files(planted.out))


def test_no_file_and_no_output_has_a_credential(planted):
    """Neither what is written nor what is printed, nor the engine's folder with its log."""
    written = files(planted.out) | files(Path(planted.server.directory))
    assert {name: found for name, data in written.items() if (found := planted_in(data))} == {}
    assert planted_in(planted.said) == []


def test_no_process_of_a_local_engine_is_given_a_credential(planted):
    """The engine, its workers and a fleet have the engine's own keys, and none of the other variables."""
    own = planted.server.credentials.variables()
    for kind, environments in planted.watched.environments.items():
        assert environments, kind
        for environment in map(json.loads, environments):
            assert planted_in(json.dumps(environment)) == []
            # Another engine of this session's has keys of its own.
            assert environment.get("AWS_ACCESS_KEY_ID", "LAB").startswith("LAB")
            assert set() == {name for name in PLANTED if environment.get(name)} - set(own)


def test_a_function_sees_no_credential(planted):
    """What a handler on the embedded engine finds in its environment."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("index.py", "import os\ndef handler(event, context): return dict(os.environ)")
    client = planted.endpoint.client("lambda")
    client.create_function(
        FunctionName="curious",
        Runtime="python3.13",
        Handler="index.handler",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": package.getvalue()},
    )
    environment = json.load(client.invoke(FunctionName="curious")["Payload"])
    client.delete_function(FunctionName="curious")
    assert "AWS_LAMBDA_FUNCTION_NAME" in environment
    assert planted_in(json.dumps(environment)) == []


def test_no_file_and_no_output_has_a_task_token(planted):
    """Who holds a token may answer its task: neither traces, reports and observations nor logs have one."""
    written = files(planted.out) | {"said": planted.said.encode()}
    written |= {"log": (Path(planted.server.directory) / "engine.log").read_bytes()}
    written |= {path.name: path.read_bytes() for path in planted.place.glob("logs-*.json")}
    assert b"attempt_ended" in written["logs-lambda.json"]
    found = [name for name, data in written.items() for token in planted.tokens if token.encode() in data]
    assert found == []


def test_errors_of_an_account_have_no_credential(tmp_path, monkeypatch, capsys):
    """What `--engine aws` is refused with, and says, names profile and region and nothing secret."""
    for name, text in PLANTED.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(aws.CONFIRMED, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[profile planted-profile]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert lab("destroy", "--all", "--engine", "aws") == 2
    told = capsys.readouterr()
    assert "no answer" in told.err
    assert planted_in(told.out + told.err) == ["planted-profile"] or planted_in(told.out + told.err) == []


def test_only_the_user_may_read_an_engines_folder(planted):
    """It holds the functions' code, their logs and the buckets."""
    assert stat.S_IMODE(Path(planted.server.directory).stat().st_mode) == 0o700


# --- Where it writes


NAMES = ["..", "../x", "../../x", "/x", "x/../../y", "a\nb", "..\\x", "~", "$HOME", "x\0y", "."]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(name, tmp_path, monkeypatch):
    """Notebooks, workflows, engines and parameters that are paths: refused, and nothing is written."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for make in (
        lambda: notebooks.resolve([name]),
        lambda: stack.template(name),
        lambda: connect(name),
        lambda: keeping._server(name),
        lambda: stack.check("combined", {name: 1}),
    ):
        with pytest.raises(LabError):
            make()
    assert files(tmp_path) == {}


@pytest.mark.parametrize("folder", ["out", "../out", "a/../out", "out\n2", "~", "ö <b>"])
def test_what_is_written_stays_below_the_folder_that_was_named(folder, tmp_path, monkeypatch):
    """Results of a notebook of any name, and a prediction: where --out says, as the shell would read it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    arguments = ["predict", "--items", "5", "--repetitions", "1", "--out", folder]
    assert lab(*arguments) == 0
    wanted = Path(os.path.normpath(inside / folder))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(path.is_relative_to(wanted) for path in written)


def test_a_link_that_lies_in_the_folder_is_replaced_not_followed(tmp_path, monkeypatch):
    """A link where a result goes, such as in a folder that others may write to, leads nowhere."""
    target, out = tmp_path / "precious", tmp_path / "out"
    target.write_text("mine")
    out.mkdir()
    source = notebook(
        tmp_path / "notebooks", "import matplotlib.pyplot as plt; plt.plot([1]); plt.show()", name="one"
    )
    results = ["one.ipynb", "one.html", "index.html", "results.json"]
    reported = ["report.ipynb", "report.html", "figure-1.png", "table.csv"]
    for name in results + reported + ["ledger.jsonl"]:
        (out / name).symlink_to(target)
    assert notebooks.run([source], out, {}, progress=False)[0].ok
    assert notebooks.report(source, out, {}, progress=False).ok
    assert target.read_text() == "mine"
    assert not any((out / name).is_symlink() for name in results + reported[:3])


@pytest.mark.parametrize(
    "note",
    [
        {"pid": 4_000_000, "port": 1, "directory": "FOLDER"},
        {"pid": 4_000_000, "port": 1, "directory": "FOLDER/concurrency-lab-x/.."},
        {"pid": 4_000_000, "port": 1, "directory": "concurrency-lab-x"},
        {"pid": -1, "port": 1, "directory": "FOLDER/concurrency-lab-x"},
        {"pid": "1", "port": 1, "directory": "FOLDER/concurrency-lab-x"},
        {"pid": True, "port": 1, "directory": "FOLDER/concurrency-lab-x"},
        {"pid": 1, "port": 1, "directory": None},
        [1],
        "x",
    ],
)
def test_a_note_of_a_kept_engine_names_no_other_folder(note, tmp_path, monkeypatch):
    """Where its process is gone, its folder is removed: a note that names another folder is refused."""
    monkeypatch.setattr(local, "KEPT", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    (folder / "concurrency-lab-x").mkdir(parents=True)
    (folder / "file").touch()
    Server.note().write_text(json.dumps(note).replace("FOLDER", str(folder)))
    with pytest.raises(EngineError, match="not a note of a kept engine"):
        Server.kept()
    assert (folder / "file").exists()
    assert (folder / "concurrency-lab-x").exists()


# --- What a page shows

SCRIPT = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Elements(HTMLParser):
    """The elements of a page that run something, but for those of nbconvert's own template."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if named.get("src") == "x" or any(name.startswith("on") for name in named):
            self.found.append(f"{tag} {named}")
        self.script = tag == "script"

    def handle_data(self, data):
        if getattr(self, "script", False) and data.startswith("alert("):
            self.found.append(data)


def test_the_parser_of_these_tests_finds_what_is_planted():
    """A page that shows it raw has both."""
    assert len(Elements(f"<p>{SCRIPT}</p>").found) == 2
    assert Elements("<p>&lt;script&gt;alert(1)</p>").found == []


def test_pages_show_text_as_text(tmp_path):
    """Names, parameters, errors of cells and of threads, and readings: nothing of them is an element."""
    name = SCRIPT.rpartition("</script>")[2]  # no file's name has a slash
    code = f"""
    from helpers.notebooks import reading
    print({SCRIPT!r})
    reading({SCRIPT!r}, 1, {SCRIPT!r})
    class Shown(Exception):
        def _repr_html_(self): return {SCRIPT!r}
    raise Shown({SCRIPT!r})
    """
    thread = f"import threading\ndef f(): raise ValueError({SCRIPT!r})\n"
    thread += "t = threading.Thread(target=f); t.start(); t.join()"
    cells = ["\n".join(line[4:] for line in code.splitlines()), thread]
    paths = [notebook(tmp_path / "notebooks", cell, name=f"{n}{name}") for n, cell in enumerate(cells)]
    out = tmp_path / "out"
    results = notebooks.run(paths, out, {"out": SCRIPT}, progress=False)
    assert [result.ok for result in results] == [False, False]
    pages = sorted(out.glob("*.html"))
    assert len(pages) == 3
    for page in pages:
        assert Elements(page.read_text()).found == [], page.name


def test_a_foreign_sweep_shows_nothing_of_its_own(tmp_path):
    """A sweep's folder that somebody sends may say what it will: settings that are none are refused."""
    traces = tmp_path / "traces"
    traces.mkdir()
    experiment = Experiment(3).to_dict() | {"consumer": SCRIPT}
    (tmp_path / "plan.json").write_text(json.dumps({"settings": [experiment], "repetitions": 1}))
    for told in (
        {"experiment": experiment, "error": "no"},
        {"experiment": [], "error": "no"},
        {"error": "no"},
        ["x"],
    ):
        (traces / "s000-r00.json").write_text(json.dumps(told))
        with pytest.raises(SweepError, match="s000-r00"):
            sweep.table(tmp_path)
    (traces / "s000-r00.json").write_text("{")
    with pytest.raises(SweepError, match="s000-r00"):
        sweep.table(tmp_path)


def test_a_sweeps_report_shows_errors_as_text(tmp_path):
    """What a run failed with is text in report.html, whatever it says."""
    settings = (Experiment(3), Experiment(4))
    (tmp_path / "traces").mkdir()
    (tmp_path / "plan.json").write_text(json.dumps(sweep.Sweep(settings, 1).to_dict()))
    for number, experiment in enumerate(settings):
        told = {"experiment": experiment.to_dict(), "error": SCRIPT}
        (tmp_path / "traces" / f"s{number:03d}-r00.json").write_text(json.dumps(told))
    [path] = notebooks.resolve([cli.REPORT])
    given = {"engine": "embedded", "sweep_folder": str(tmp_path), "limits": "usd<1", "objective": "makespan"}
    assert notebooks.report(path, tmp_path, given, progress=False).ok
    page = (tmp_path / "report.html").read_text()
    assert "alert(1)" in page
    assert Elements(page).found == []


# --- What it executes

EXECUTES = {
    "eval": set(),
    "exec": set(),
    "compile": set(),
    "__import__": set(),
    "pickle": set(),
    "shelve": set(),
    "dill": set(),
    # Between the interpreter and itself: a copy of data in memory.
    "marshal": {"helpers/engines/embedded_server/scale.py"},
    # The server's own program and ministack's own worker, by their paths.
    "runpy": {"helpers/engines/embedded_server/scale.py", "helpers/engines/tied.py"},
    "os.system": set(),
    "os.popen": set(),
    "shell": set(),
    # With loaders that are SafeLoaders, for the lab's own templates and for values that users write.
    "yaml.load": {"helpers/stack.py", "helpers/values.py"},
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    # Names of the lab's own modules' parameters, for typer.
    "eval_str": {"helpers/commands/places.py"},
    # The workers' handlers, by their paths in infra/, and the guard, by its path beside the programs.
    "exec_module": {
        "helpers/fleet_worker.py",
        "helpers/engines/embedded_server/walls.py",
        "helpers/engines/localstack_server/walls.py",
    },
}
"""What makes code of data or runs a shell, and the files that may use it."""


def executed(tree: ast.AST) -> set[str]:
    """Which of EXECUTES a program uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found |= {*names, getattr(node, "module", "") or ""}
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found |= {called, called.rpartition(".")[2] if called.endswith("exec_module") else called}
            found |= {word.arg for word in node.keywords if word.arg in ("shell", "eval_str")}
    return found & set(EXECUTES)


def test_no_text_is_executed():
    """No eval, pickle, shell or YAML that makes objects, but where it is named here with its reason."""
    used: dict[str, set[str]] = {name: set() for name in EXECUTES}
    for folder in ("helpers", "infra"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in executed(ast.parse(path.read_text())):
                used[name].add(str(path.relative_to(ROOT)))
    assert used == EXECUTES


@pytest.mark.parametrize("loader", [stack._Loader, values._Loader])
def test_the_labs_loaders_make_no_objects(loader):
    """CloudFormation's short tags, and decimal numbers, are all that they add to a safe loader."""
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getpid []", loader)
