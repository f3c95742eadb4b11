"""The command line: what it refuses, in one sentence, and how it ends."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from helpers import cli, notebooks
from helpers.commands import keeping
from helpers.engines import local
from helpers.simulation import UNLIMITED
from helpers.simulation.timeouts import HIGHEST
from helpers.trace import Trace


def lab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `lab` with these arguments, on no engine but what the environment names."""
    return called([sys.executable, "-m", "helpers.cli", *arguments], **environment)


def called(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in local.ENDPOINT_VARIABLES}
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--engine", "azure"], "'azure'"),
        (["run", "99_nothing"], "99_nothing"),
        (["run", "00", "-p", "colour=red"], "colour"),
        (["run", "00", "-p", "scale"], "KEY=VALUE"),
        (["deploy", "nothing"], "'nothing'"),
        (["deploy", "combined", "-p", "MaximumConcurrency=1"], "MaximumConcurrency=1"),
        (["deploy", "combined", "-p", "MaximumConcurrency=1001"], "MaximumConcurrency=1001"),
        (["deploy", "combined", "-p", "Nonsense=1"], "'Nonsense'"),
        (["observe", "monday"], "'monday': is no ARN"),
        (["observe", "arn:aws:sqs:us-east-1:000000000000:jobs"], "'sqs'"),
        (["observe", "arn:aws:states:us-east-1:000000000000:stateMachine:orders"], "list-executions"),
        (["sweep"], "--set"),
        (["sweep", "--set", "worker_concurrency=2"], "items"),
        (["sweep", "--set", "items=5", "--set", "colour=1"], "'colour'"),
        (["sweep", "--set", "items=5", "--set", "worker_concurrency="], "worker_concurrency"),
        (["sweep", "--set", "items=5", "--set", "worker_concurrency=1"], "worker_concurrency"),
        (["sweep", "--set", "items=5", "--engine", "azure"], "'azure'"),
        (["sweep", "--set", "items=5", "--resume"], "--out"),
        (["sweep", "--set", "items=5", "--repetitions", "0"], "repetitions=0"),
        (["sweep", "--set", "items=5", "--check", "colour<1"], "'colour'"),
        (["sweep", "--set", "items=5", "--under", "p95_sojourn"], "'p95_sojourn'"),
        (["sweep", "--set", "items=5", "--objective", "speed"], "speed"),
        (["sweep", "--grid", "/nowhere.yaml"], "/nowhere.yaml"),
        (["predict", "--items", "-5"], "items=-5"),
        (["predict", "--items", "5", "--set", "items=6"], "items: are given by --items"),
        (["predict", "--items", "5", "--set", "colour=1"], "'colour'"),
        (["predict", "--items", "5", "--set", "batch_size=1,2"], "batch_size=[1, 2]"),
        (["predict", "--items", "5", "--set", "batch_size=1", "--set", "batch_size=2"], "given twice"),
        (["predict", "--items", "5", "--set", "limited_seconds=.nan"], "limited_seconds=nan"),
        (["predict", "--items", "5", "--set", "limited_seconds=[1"], "not readable"),
        (["predict", "--items", "5", "--quotas", "mars"], "'mars'"),
        (["predict", "--items", "5", "--quota", "colour=1"], "'colour'"),
        (["predict", "--items", "5", "--quota", "task_burst=nan"], "task_burst=nan"),
        (["predict", "--items", "5", "--quota", "task_per_second=-1"], "task_per_second=-1"),
        (["predict", "--items", "5", "--quota", "mapping_limit=2"], "mapping_limit=2"),
        (["predict", "--items", "5", "--repetitions", "0"], "repetitions=0"),
        (["predict", "--items", "5", "--service-times", "/nowhere.parquet"], "/nowhere.parquet"),
        (["predict", "--items", "5", "--service-times", "/no\nwhere.parquet"], "/no\\nwhere.parquet"),
        (["tune", "--items", "5", "--objective", "speed"], "objective='speed'"),
        (["tune", "--items", "5", "--objective", "usd", "--under", "usd<2 and usd>3"], "contradict"),
        (["tune", "--items", "5", "--objective", "usd", "--under", "colour<2"], "'colour'"),
        (["tune", "--items", "5", "--objective", "usd", "--set", "worker_concurrency=1,2"], "concurrency=1"),
        (["tune", "--items", "5", "--objective", "usd", "--quota", "colour=2"], "'colour'"),
        (["tune", "--items", "5", "--objective", "usd", "--under", "makespan<0"], "makespan<0 (0 of"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, told, tmp_path, monkeypatch, capsys):
    """Exit 2, the value named on standard error and nothing printed, nothing written."""
    written = arguments[0] not in ("deploy", "observe") and "--resume" not in arguments
    out = ["--out", str(tmp_path / "out")] if written else []
    for variable in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["lab", *arguments, *out])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert told in printed.err
    assert "\n" not in printed.err.rstrip("\n").partition("error: ")[2]
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lab obs", ["observe"]),
        ("lab run 0", [path.stem for path in notebooks.discover()]),
        ("lab run --engine e", ["embedded", "endpoint"]),
        ("lab deploy ta", ["task_token"]),
        ("lab engine st", ["start", "stop", "status"]),
    ],
)
def test_the_shell_completes(line, offered):
    """A shell that asks as the script of --show-completion does is offered what there is."""
    asked = {"_LAB_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    ran = subprocess.run(
        [sys.executable, "-m", "helpers.cli"], env=os.environ | asked, capture_output=True, text=True
    )
    assert sorted(ran.stdout.split()) == sorted(offered)


def every_command() -> dict[str, TyperCommand]:
    """The commands by their names, such as "engine start"."""
    found, groups = {}, [("", get_command(cli.app))]
    for name, group in groups:  # which grows meanwhile
        for part, command in group.commands.items():
            whole = f"{name} {part}".strip()
            if isinstance(command, TyperGroup):
                groups.append((whole, command))
            else:
                found[whole] = command
    return found


COMMANDS = every_command()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example_that_can_be_called(name):
    """--help shows a call of that command, whose options are there and whose values have their types."""
    shown = CliRunner().invoke(cli.app, [*name.split(), "--help"]).stdout
    assert f"Example: ./lab {name}" in " ".join(shown.split())
    _, _, example = (COMMANDS[name].help or "").partition("Example: ./lab ")
    called = shlex.split(example.replace("\\\n", " "))
    assert name.split() == called[: len(name.split())]
    # Made, and not invoked.
    COMMANDS[name].make_context(name, called[len(name.split()) :], resilient_parsing=False)


BROKEN = """
from dataclasses import replace
from helpers import Experiment, checks
from synthetic import make_trace
trace = make_trace(Experiment(20))
checks.verify(trace)
checks.verify(replace(trace, items=trace.items.iloc[:-1]))
"""


def test_a_broken_law_ends_with_1_and_is_named(engine, tmp_path, monkeypatch, capsys):
    """`lab run` exits 1 and names notebook, cell and law."""
    parameters = nbformat.v4.new_code_cell('engine: str = "embedded"  # where')
    parameters.metadata["tags"] = ["parameters"]
    path = f"import sys\nsys.path.append({str(Path(__file__).parent)!r})"
    cells = [parameters, nbformat.v4.new_code_cell(path), nbformat.v4.new_code_cell(BROKEN)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "05_broken.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)
    monkeypatch.setattr(sys, "argv", ["lab", "run", "05", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    told = printed.out + printed.err
    assert "FAILED" in told
    assert "05_broken" in told
    assert "cell 4" in told  # of the executed notebook, whose second cell holds the given parameters
    assert "conservation" in told


def test_a_sweep_is_run_read_and_held_to_limits(engine, tmp_path):
    """`lab sweep` prints a row a setting and a recommendation, and keeps a row a run and a report.

    It exits 1 when a run breaks a limit, or when no setting keeps those of the recommendation."""
    listed = [{"items": 8, "limited_seconds": 0.05, "worker_concurrency": workers} for workers in (2, 4)]
    grid, folder = tmp_path / "grid.json", tmp_path / "out"
    grid.write_text(json.dumps(listed))
    where = {"AWS_ENDPOINT_URL": engine.endpoint_url}
    arguments = ["sweep", "--grid", str(grid), "--repetitions", "2", "--out", str(folder)]
    ran = lab(*arguments, "--check", "peak_workers<=4", "--under", "makespan<1000", **where)
    assert ran.returncode == 0, ran.stderr
    shown, said = ran.stdout.split("\n\n")
    assert len(shown.splitlines()) == 1 + 2
    assert said.startswith("Take worker_concurrency=")
    assert "makespan<1000 holds in every run" in said
    assert "--parameter-overrides Consumer=lambda" in said
    assert len((folder / "table.csv").read_text().splitlines()) == 1 + 4
    best = json.loads((folder / "recommendation.json").read_text())
    assert best["sentence"] in said
    assert best["sentence"] in (folder / "report.html").read_text()
    assert (folder / "figure-1.png").is_file()
    again = lab(*arguments, "--resume", "--check", "makespan<0", "--under", "makespan<0", **where)
    assert again.returncode == 1
    assert again.stderr.count("but must be <0") == 4
    assert "no setting keeps makespan<0 (0 of 2 settings" in again.stderr
    assert not (folder / "recommendation.json").exists()
    assert lab(*arguments, **where).returncode == 2


def test_an_execution_is_observed(engine, tmp_path):
    """`lab observe` prints what it comes to; with --json one object and nothing else; both keep files."""
    client, where = engine.client("stepfunctions"), {"AWS_ENDPOINT_URL": engine.endpoint_url}
    definition = json.dumps({"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}})
    role = "arn:aws:iam::000000000000:role/any"
    machine = client.create_state_machine(name="seen", definition=definition, roleArn=role)["stateMachineArn"]
    arn = client.start_execution(stateMachineArn=machine)["executionArn"]
    text = lab("observe", arn, "--out", str(tmp_path / "text"), **where)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("The execution ")
    ran = lab("observe", arn, "--json", "--out", str(tmp_path / "json"), **where)
    told = json.loads(ran.stdout)
    assert told["arn"] == arn
    for folder in ("text", "json"):
        kept = json.loads((tmp_path / folder / "observation.json").read_text())
        assert kept["arn"] == arn
        assert (tmp_path / folder / "states.png").is_file()
    refused = lab("observe", f"{arn}-not", **where)
    assert refused.returncode == 2
    assert "does not exist" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_run_is_predicted_in_words_and_in_json(tmp_path):
    """`lab predict` prints what a run would do; with --json one object and nothing else; --out keeps it.

    Its times may come from a trace; what --set gives goes before what was measured."""
    base = ["predict", "--items", "60", "--set", "worker_concurrency=5", "--repetitions", "2"]
    words = lab(*base, "--quota", "children_per_second=inf", "--out", str(tmp_path / "kept"))
    assert words.returncode == 0, words.stderr
    for told in ("makespan", "child dispatch rate", "No quota binds", "Next cliff", "Cost: $"):
        assert told in words.stdout
    for clock in HIGHEST:
        assert f"{clock}=" in words.stdout
    assert (tmp_path / "kept" / "timeline.png").is_file()
    kept = tmp_path / "kept" / "trace.parquet"
    measured = Trace.load(kept)
    ran = lab(*base, "--service-times", str(kept), "--set", "direct_seconds=3", "--json")
    told = json.loads(ran.stdout)
    assert told["experiment"]["direct_seconds"] == 3
    limited = measured.items[measured.items["lane"] == "limited"]
    times = (limited["service_end"] - limited["service_start"]).round(6)
    assert told["experiment"]["limited_seconds"]["values"] == sorted(times)
    assert told["quotas"]["children_per_second"] == 100
    assert told["numbers"]["makespan"]["median"] > 3


def test_settings_are_tuned_in_words_and_in_json(tmp_path):
    """`lab tune` prints the setting to take, why, what it would do and its parameters; --json one object."""
    base = ["tune", "--items", "60", "--objective", "makespan", "--set", "worker_concurrency=2,4"]
    base += ["--set", "map_concurrency=20", "--set", "batch_size=1", "--under", "peak_workers<=3"]
    words = lab(*base, "--out", str(tmp_path / "kept"))
    assert words.returncode == 0, words.stderr
    assert words.stdout.startswith("Take ")
    for told in ("peak_workers<=3 holds in every run", "--parameter-overrides", "makespan", "Next cliff"):
        assert told in words.stdout
    assert "MaximumConcurrency=2 " in words.stdout
    assert len((tmp_path / "kept" / "table.csv").read_text().splitlines()) > 3
    told = json.loads(lab(*base, "--json").stdout)
    assert told["experiment"]["worker_concurrency"] == 2
    assert told["parameters"]["TimeoutSeconds"] == told["experiment"]["task_timeout_seconds"]
    assert told["prediction"]["cliff"]["quota"] in words.stdout


KEPT_ELSEWHERE = """
import pathlib, sys
from helpers import cli
from helpers.engines import local
local.KEPT = pathlib.Path(sys.argv.pop(1))
cli.main()
"""


def test_the_engine_is_kept_deployed_to_and_stopped(tmp_path):
    """engine start, deploy, status, destroy and stop do what they say, across processes."""

    def lab(*arguments):
        """As above, where neither the user's engine is found nor is this one by other tests."""
        return called([sys.executable, "-c", KEPT_ELSEWHERE, str(tmp_path), *arguments])

    assert lab("engine", "status").returncode == 1
    assert "lab engine start" in lab("deploy", "combined").stderr
    try:
        assert lab("engine", "start").returncode == 0
        assert lab("engine", "start").returncode == 2
        assert lab("engine", "status").returncode == 0
        deployed = lab("deploy", "task_token", "-p", "TimeoutSeconds=60", "-p", "HeartbeatSeconds=30")
        assert deployed.stdout.startswith("concurrency-lab-task-token-")
        name = deployed.stdout.split()[0]
        assert lab("destroy", "concurrency-lab-nothing").returncode == 2
        assert f"destroy what? give names or --all; the lab's stacks here are {name}" in lab("destroy").stderr
        assert lab("destroy", name, "--all").returncode == 2
        assert lab("destroy", name).stdout == f"destroyed {name}\n"
        assert lab("destroy", "--all").stdout == "no stack is there\n"
    finally:
        assert lab("engine", "stop").returncode == 0
    assert lab("engine", "stop").stdout == "no embedded engine was running\n"


def test_doctor_finds_this_machine_well():
    """Where the tests run, nothing is missing."""
    ran = lab("doctor")
    assert ran.returncode == 0
    assert "MISSING" not in ran.stdout
    assert "ok       JupyterLab's kernel starts and has the lab" in ran.stdout


def test_doctor_tells_what_is_optional_with_its_remedy(monkeypatch, tmp_path):
    """Without Chromium, Node.js, Docker and an account nothing has failed."""
    monkeypatch.setattr(keeping, "_engine", lambda: "answers")
    monkeypatch.setattr(keeping, "_kernel", lambda: "starts")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = CliRunner().invoke(cli.app, ["doctor"])
    told = dict(line[9:].split(": ", 1) for line in ran.stdout.splitlines() if line.startswith("optional"))
    assert {"Docker", "Chromium", "Node.js with npm"} <= set(told)
    assert "`apt-get install chromium`" in told["Chromium"]
    assert "https://nodejs.org" in told["Node.js with npm"]
    assert ran.exit_code == 0


@pytest.mark.parametrize(
    ("python", "told"), [("/no/such/python", "does not start"), (sys.executable, "has not the lab")]
)
def test_doctor_finds_a_kernel_that_is_not_the_labs(monkeypatch, tmp_path, python, told):
    """Where another kernel is in front of the lab's, doctor says what is wrong and the remedy, and fails."""
    spec = tmp_path / "kernels" / keeping.KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    # As if the lab were not installed for that Python.
    argv.append("--IPKernelApp.exec_lines=import sys; sys.modules['helpers'] = None")
    spec.write_text(json.dumps({"argv": argv, "display_name": "another", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(keeping, "_engine", lambda: "answers")
    ran = CliRunner().invoke(cli.app, ["doctor"])
    [line] = [line for line in ran.stdout.splitlines() if line.startswith("MISSING")]
    assert line.startswith(f"MISSING  JupyterLab's kernel: {told}")
    assert line.endswith(keeping.MADE_ANEW)
    assert ran.exit_code == 1


def test_calibrated_quotas_are_used(tmp_path):
    """A prediction takes the file that calibrate writes; one that is no such file is refused."""
    file = tmp_path / "quotas.json"
    file.write_text(json.dumps(UNLIMITED.to_dict()))
    run = lab("predict", "--items", "20", "--quotas", str(file), "--json")
    assert json.loads(run.stdout)["quotas"]["children_per_second"] is None
    file.write_text("{")
    assert "not readable as JSON" in lab("predict", "--items", "20", "--quotas", str(file)).stderr
