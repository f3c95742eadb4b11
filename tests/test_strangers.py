"""Text of strangers: whatever a name holds, it reaches a terminal, a page, a figure and a table as text."""

import ast
import contextlib
import csv
import io
import itertools
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import synthetic  # its profile: a slow machine is no failing law
import typer
from bs4 import BeautifulSoup
from hypothesis import example, given
from hypothesis import strategies as st
from test_observe import ARN, Aws, chained, event
from typer.testing import CliRunner

from helpers import cli, graph, observe, plots
from helpers.console import Bar, say, walled
from helpers.errors import LabError, shown
from helpers.exercises import telling
from helpers.experiment import Experiment
from helpers.formatting import caption, markdown, markup, plain, to_csv, to_text
from helpers.site import building, pages

ROOT = Path(__file__).parents[1]
CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
HOSTILE = [
    f"{CLIPBOARD}\x1b]0;title\x1b\\\x1b[2J\x1b[8mhidden",
    "\x9b2J\x9d0;title\x9c\x85\x7f\x00\b\r\n\t\v\f",
    "abc\u202egnp.exe\u202c \u2066x\u2069 \u200b\u200d\ufeff\u2028\u2029\u00ad\U000e0041",
    "half \ud83d of a pair \udcff \ufffe\uffff",
    "Pay $\\frac$ now $x$ $$",
    "</td></title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;",
    "a|b\n\n# c `d` [e](javascript:alert(1)) *f* _g_ ~~h~~ ![i](j) <k> $l$ http://m",
    "=cmd|'/c calc'!A0",
    "x;=1+1\t=2",
    "[bold red]x[/] \\N \\G {0} %s {{ x }} {% y %}",
]
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(
        st.sampled_from(
            "\x00\x07\b\t\n\r\x1b\x7f\x85\x9b\u202e\u2066\u200b\u2028\ud800<>&\"'=+-@;,|$\\`[]ab0 "
        )
    ),
    st.text(st.characters(exclude_categories=())),
)


def unsafe(text: str, keep: str = "") -> list[str]:
    """The characters of a text that are controls, change directions, have no width, or are half of one."""
    return [
        character
        for character in text
        if character not in keep
        and (
            unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(character)
            in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
            or character in "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u061c\ufffe\uffff"
        )
    ]


# --- One line of text ---


@given(texts)
@example("".join(map(chr, range(0x3000))))
def test_plain_text_has_nothing_that_acts(text):
    """No control, direction, surrogate or character without width is left; what is plain stays itself."""
    assert unsafe(plain(text)) == []
    assert plain(text) == plain(plain(text))
    assert plain(text) == plain(text).encode().decode()


def test_plain_text_stays_as_it_is():
    """Letters of every script, signs, spaces and emoji without joiners are not escaped."""
    for text in (
        "Grüße, 日本語, עברית, العربية, हिन्दी",
        "✓ → 5 µs ± 2 %",
        "🙂 ❤️ 👍🏽",
        "non\u00a0breaking",
        "",
    ):
        assert text == plain(text)
    assert plain("a\x1b[2J\u202eb\n\ud800") == "a\\x1b[2J\\u202eb\\n\\ud800"
    assert plain("a\nb\r", keep="\n") == "a\nb\\r"


@given(texts)
def test_an_error_of_the_lab_is_one_line_of_plain_text(text):
    """Whatever value, file or answer it quotes, by its repr or not."""
    for told in (
        str(LabError(f"{text}: is none; give one")),
        shown(text),
        shown([text]),
        shown(pd.Series([plain(text)])),
    ):
        assert unsafe(told) == []


# --- A terminal ---


class Ways:
    """The ways in which a program prints, each of which tries to bring a text to the terminal."""

    def plain_print(text):
        print(text)
        print("a", text, sep=text, end=text, file=sys.stderr)

    def write(text):
        sys.stdout.write(text)
        sys.stdout.writelines([text, text])
        sys.stderr.write(text)

    def echo(text):
        typer.echo(text)
        typer.secho(text.replace("\x1b", "\x9b"), err=True)

    def say(text):
        say(text)
        say(text, err=True)

    def log(text):
        logging.lastResort.handle(logging.LogRecord(text, logging.ERROR, text, 1, text, (), None))

    def fail(text):
        raise RuntimeError(text)

    def refuse(text):
        raise LabError(text)

    def misuse(text):
        raise typer.BadParameter(text)

    def interact(text):
        with contextlib.suppress(typer.Abort):
            typer.confirm(text, err=True)

    def bar(text):
        for _ in Bar([1], desc=text, postfix=text, unit=text):
            pass
        with Bar(total=2, leave=False) as outer, Bar(total=1, desc=text) as inner:
            inner.set_postfix_str(text)
            inner.set_postfix({text: text})
            outer.update()


WAYS = [name for name in vars(Ways) if not name.startswith("_")]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_text_acts_on_the_terminal(way, monkeypatch):
    """However a command prints, from Python or by a library, there are lines of plain text and no more."""
    app = typer.Typer(cls=cli.Walled)
    chosen = []

    @app.command()
    def command():
        getattr(Ways, way)(chosen[-1])

    @app.command()
    def other():
        pass

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["lab", "command"])

    def ran(text):
        chosen.append(text)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.suppress(SystemExit),
        ):
            cli.main()
        return out.getvalue() + err.getvalue()

    @given(texts)
    def law(text):
        printed = ran(text)
        if way == "bar":  # it moves the cursor, and only so
            printed = printed.replace("\x1b[A", "").replace("\r", "")
        assert unsafe(printed, keep="\n") == []

    law()
    assert "title" in ran(HOSTILE[0])


def test_a_usage_error_quotes_the_arguments_as_text(monkeypatch, capsys):
    """Arguments may be file names that a shell has put there; the message is not coloured by them either."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    for arguments in (
        ["\x1b[8mx"],
        ["observe", "a", "\x1b]0;b\x07"],
        ["observe", "--\x1b[2J"],
    ):
        monkeypatch.setattr(sys, "argv", ["lab", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        printed = capsys.readouterr()
        assert unsafe(printed.out + printed.err, keep="\n") == []
        assert "\\x" in printed.err


PROGRAM = f"""
import logging, sys, threading, warnings
from helpers import cli
TEXT = {"".join(HOSTILE)!a}

@cli.app.command()
def hostile():
    def fail():
        raise ValueError(TEXT)
    print(TEXT)
    warnings.warn(TEXT)
    logging.getLogger(TEXT).error(TEXT)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    fail()

sys.argv = ["lab", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(("arguments", "status"), [(["hostile"], 1), (["--help"], 0), (["run", "--help"], 0)])
def test_a_terminal_is_sent_lines_of_plain_text(arguments, status):
    """A program of its own in a terminal, warnings, threads, tracebacks and help included, even where colour
    is asked for."""
    here, there = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "FORCE_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, stdout=there, stderr=there, env=environment, cwd=ROOT)
    os.close(there)
    printed = b""
    with contextlib.suppress(OSError):  # which is how a terminal says that nobody writes any more
        while read := os.read(here, 65536):
            printed += read
    os.close(here)
    assert status == process.wait()
    assert unsafe(printed.decode().replace("\r\n", "\n"), keep="\n") == []
    assert (b"\\x1b" in printed) == (arguments == ["hostile"])
    assert ("ValueError" in printed.decode()) == (arguments == ["hostile"])


def test_the_wall_leaves_json_as_it_is():
    """One JSON object on standard output is read back as the same values."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), walled():
        typer.echo(json.dumps(HOSTILE))
    assert json.loads(out.getvalue()) == HOSTILE


def test_the_wall_has_no_way_around_it():
    """Neither a buffer of bytes nor another layer of it; errors of encoding stay those of the stream."""
    out = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
    with contextlib.redirect_stdout(out), walled():
        assert not hasattr(sys.stdout, "buffer")
        first = sys.stdout
        with walled():
            assert first is sys.stdout
        with pytest.raises(TypeError):
            sys.stdout.write(b"\x1b[2J")
        assert (sys.stdout.encoding, sys.stdout.errors) == ("ascii", "backslashreplace")
        print("é\x1b")
    assert out is not sys.stdout
    out.flush()
    assert out.buffer.getvalue() == b"\\xe9\\x1b\n"


PROGRAMS = ("embedded_server/", "localstack_server/", "fleet_worker.py", "fleet.py", "graph.py")
"""Programs, whose output is a log or a protocol, and the two that talk to one."""


def test_only_the_console_prints():
    """No module of the lab writes to a terminal but by `console` and, within its wall, the commands' echo.

    A print elsewhere would be plain on the command line, but not in a notebook or a program.
    """
    found = set()
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        name = path.relative_to(ROOT / "helpers").as_posix()
        if (
            name in ("console.py", "jupyter/server.py")
            or name.endswith(PROGRAMS[2:])
            or any(part in name for part in PROGRAMS[:2])
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                words.append(node.func.id)
            if isinstance(node, ast.Import | ast.ImportFrom):
                words += [getattr(node, "module", None) or "", *(one.name for one in node.names)]
            bad = {
                "print",
                "tqdm",
                "sys.stdout",
                "sys.stderr",
                "sys.__stdout__",
                "sys.__stderr__",
                "os.write",
                "secho",
            }
            found |= {(name, word) for word in words if word in bad}
            if not name.startswith(("cli", "commands/")):
                found |= {(name, word) for word in words if word == "typer"}
    assert {("cli.py", "sys.stdout"), ("cli.py", "sys.stderr")} == found  # which sets how they encode


# --- A page ---


@given(texts)
def test_markup_is_text_of_xml(text):
    """In an element and in an attribute, any XML parser reads the plain text back."""
    read = ElementTree.fromstring(f'<a b="{markup(text)}">{markup(text)}</a>')
    assert plain(text) == (read.text or "") == read.get("b")
    soup = BeautifulSoup(f"<p>{markup(text)}</p>", "html.parser")
    assert plain(text) == soup.p.get_text()


@given(texts)
@example("1. x")
def test_markdown_is_text(text):
    """Within a sentence and in a table, a page of it shows the plain text, and has no element of its own."""
    source = f"# T\n\nIs {markdown(text)} it.\n\n| a | b |\n|---|---|\n| {markdown(text)} | z |\n"
    soup = BeautifulSoup(pages.of_markdown("a.html", "a.md", source, building.place).body, "html.parser")
    expected = " ".join(plain(text).split())
    assert " ".join(f"Is {expected} it.".split()) == " ".join(soup.p.get_text().split())
    assert [expected, "z"] == [" ".join(cell.get_text().split()) for cell in soup.find_all("td")]
    assert set() == {tag.name for tag in soup.find_all()} - {
        *("h1", "p", "div", "table", "thead", "tbody", "tr", "th", "td")
    }


@given(texts)
def test_a_page_holds_no_character_that_acts(text):
    """Whatever its cells have printed, with the colours of a traceback or without."""
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[
            nbformat.v4.new_output("stream", text=f"\x1b[31mred\x1b[0m {text}"),
            nbformat.v4.new_output("error", ename=text, evalue=text, traceback=[f"\x1b[1m{text}"]),
            nbformat.v4.new_output("display_data", data={"text/plain": text}),
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    html, _ = pages._exporter(True).from_notebook_node(notebook)
    page = pages.whole(pages.of_html("a.html", text, html, lambda _: None))
    assert unsafe(page, keep="\n\t") == []
    assert "ansi-red" in page
    body = BeautifulSoup(page, "html.parser").main
    assert body.find_all(["script", "img", "k"]) == []


@given(texts)
def test_the_outcome_of_an_exercise_is_text(text):
    """Its title and its sentence."""
    soup = BeautifulSoup(telling.page("wrong", text, text), "html.parser")
    assert {"div", "b", "span"} == {tag.name for tag in soup.find_all()}
    assert plain(text) in soup.get_text()


# --- A table ---


@given(st.lists(texts, min_size=1), st.data())
def test_a_spreadsheet_finds_no_formula(cells, data):
    """No cell begins one, whether lines are split at commas, semicolons or tabs; each is text in one line."""
    table = pd.DataFrame({"run": range(len(cells)), "error": list(map(plain, cells))})
    written = to_csv(table)
    assert unsafe(written, keep="\n") == []
    for separator in ",;\t":
        rows = list(csv.reader(io.StringIO(written), delimiter=separator))
        assert separator != "," or 1 + len(cells) == len(rows)
        for row in rows:
            for cell in row:
                number = cell.replace("-", "", 1).replace("+", "", 1).replace(".", "", 1).isdecimal()
                assert number or not cell.strip(' "').startswith(("=", "+", "-", "@"))
    assert [f"{n}" for n in range(len(cells))] == [row[0] for row in csv.reader(io.StringIO(written))][1:]


def test_numbers_of_a_table_stay_numbers():
    """Negative ones, missing ones and such as are text, in the types in which they were."""
    table = pd.DataFrame(
        {
            "float": [-1.5, None, 1e-9],
            "int": [-1, 0, 2**60],
            "rate": pd.array([-2.5, None, 1], "Float64"),
            "beat": pd.array([None, -1, 3], "Int64"),
            "text": ["-1", "+.5", "-1e-5"],
            "is": [True, False, True],
        }
    )
    read = pd.read_csv(io.StringIO(to_csv(table)))
    for name in table:
        expected = pd.to_numeric(table[name]).astype(float).tolist()
        assert repr(expected) == repr(read[name].astype(float).tolist())
    formulas = pd.DataFrame({"a": ["=1+1", " @x", "-x", "\N{FULLWIDTH EQUALS SIGN}1", "-1-1"]})
    assert list(pd.read_csv(io.StringIO(to_csv(formulas)))["a"]) == [
        "'=1+1",
        " '@x",
        "'-x",
        "'\N{FULLWIDTH EQUALS SIGN}1",
        "'-1-1",
    ]


def test_a_table_of_text_is_a_line_a_row():
    """Its heads and its cells are plain."""
    told = to_text(pd.DataFrame({"a\x1b": ["b\n\x1b[2J", None], "n": [0.123456, None]}))
    assert [line.split() for line in told.splitlines()] == [["a\\x1b", "n"], ["b\\n\\x1b[2J", "0.1235"], []]


# --- A figure ---

LOOKS = {
    "states": lambda text: plots.states(
        pd.DataFrame(
            {
                "state": [plain(text), "b"],
                "attempts": 1,
                "p50_waiting": 0.1,
                "p50_service": 1.0,
                "p95_total": 2.0,
            }
        )
    ),
    "workers": lambda text: plots.workers([(text, TRACE), ("b", TRACE)]),
    "backlog": lambda text: plots.backlog([(text, TRACE), ("b", TRACE)]),
}
TRACE = synthetic.make_trace(Experiment(4, siphon_share=1.0, limited_seconds=0.1))


@pytest.mark.parametrize("look", LOOKS)
def test_a_name_in_a_figure_is_no_formula(look, monkeypatch):
    """It is drawn as it is written, dollars and all, and in one line that leaves room for the figure."""
    monkeypatch.setattr(plt, "draw_if_interactive", lambda: None)
    for text in HOSTILE:
        ax = LOOKS[look](text)
        legend = ax.get_legend().get_texts()
        written = [tick.get_text() for tick in [*ax.get_yticklabels(), *legend]]
        ax.figure.canvas.draw()
        plt.close(ax.figure)
        assert any(one.startswith(caption(text)) for one in written)
        assert all(len(one) <= 50 for one in written)


# --- An observation ---


def definition(names):
    """A state machine in which one state of each name follows the other."""
    following = dict(itertools.pairwise(names))
    return {
        "StartAt": names[0],
        "States": {
            name: {"Type": "Pass"} | ({"Next": following[name]} if name in following else {"End": True})
            for name in names
        },
    }


@pytest.mark.parametrize("text", [*HOSTILE, *("".join(HOSTILE),)])
def test_an_observation_of_any_names_is_text(text, tmp_path, monkeypatch):
    """Its sentences, its tables on a terminal, its files and its graph, whatever states, children, errors,
    causes and statuses are called; as JSON its values are what the engine told."""
    events = chained(
        event("ExecutionStarted", 0),
        event("PassStateEntered", 1, name=text),
        event("PassStateExited", 2, name=text),
        event("TaskStateEntered", 3, name="b"),
        event("LambdaFunctionScheduled", 3, resource=text),
        event("LambdaFunctionFailed", 4, error=text, cause=text),
        event("ExecutionFailed", 5, error=text, cause=text),
    )
    aws = Aws({"monday": events}, ListMapRuns=lambda _: {"mapRuns": []})
    described = aws.answer("DescribeExecution", {}) | {
        "status": "FAILED",
        "name": text,
        "error": text,
        "cause": text,
    }
    aws.others["DescribeExecution"] = lambda _: described
    monkeypatch.setattr(cli.Place, "running", lambda self: contextlib.nullcontext(aws))
    ran = CliRunner().invoke(cli.app, ["observe", ARN, "--out", str(tmp_path)], catch_exceptions=False)
    assert ran.exit_code == 0
    assert unsafe(ran.stdout + ran.stderr, keep="\n") == []
    assert f"It ended with {plain(text)}: {plain(text)}." in ran.stdout
    as_json = CliRunner().invoke(cli.app, ["observe", ARN, "--json", "--out", str(tmp_path)])
    told = json.loads(as_json.stdout)
    assert f"{text}: {text}" == told["error"]
    encodable = text.encode(errors="backslashreplace").decode()
    assert [encodable, "b"] == [row["state"] for row in told["states"]]
    assert told == json.loads((tmp_path / "observation.json").read_text())
    assert {"timeline.png", "latency.png", "states.png"} <= {path.name for path in tmp_path.iterdir()}
    seen = observe.execution(aws, ARN, progress=False)
    if encodable == text:
        picture = graph(definition([text, "b"]), coloured_by=seen)
        assert unsafe(picture.svg, keep="\n") == []
        root = ElementTree.fromstring(picture.svg)
        assert plain(text) in [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
        assert picture.png


def test_a_hostile_execution_is_observed(engine, tmp_path, monkeypatch):
    """On an engine: states, a cause and an execution that were made to act on whoever looks at them."""
    names = HOSTILE[:3] + HOSTILE[4:]
    machine = definition(names)
    machine["States"][names[-1]] = {"Type": "Fail", "Error": HOSTILE[0], "Cause": HOSTILE[5] + HOSTILE[2]}
    client = engine.client("stepfunctions")
    created = client.create_state_machine(
        name="strangers", definition=json.dumps(machine), roleArn="arn:aws:iam::000000000000:role/any"
    )
    arn = client.start_execution(stateMachineArn=created["stateMachineArn"])["executionArn"]
    while client.describe_execution(executionArn=arn)["status"] == "RUNNING":
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)
    ran = CliRunner().invoke(cli.app, ["observe", arn, "--out", str(tmp_path)], catch_exceptions=False)
    client.delete_state_machine(stateMachineArn=created["stateMachineArn"])
    assert ran.exit_code == 0
    assert unsafe(ran.stdout + ran.stderr, keep="\n") == []
    assert "\\x1b]52;c;" in ran.stdout
