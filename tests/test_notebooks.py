"""helpers.notebooks: nothing that did not run to its end passes, and everything that ran is kept."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from helpers import notebooks
from helpers.checks import LawBroken
from helpers.drills import until
from helpers.errors import NotebookError
from helpers.notebooks import READING, execute, parameters_of, reading, resolve, run

PARAMETERS = "items = 2  # items in the map"
LAW = ("limits", 7, 1.5, "3 workers at once, and 2 are allowed")


def write(
    folder: Path,
    *cells: str,
    name: str = "one",
    parameters: str | None = PARAMETERS,
    tags: tuple[str, ...] = (),
) -> Path:
    """A notebook: a title, the parameters, and these cells, the last of them with these tags."""
    v4 = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {name}")])
    if parameters is not None:
        notebook.cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    notebook.cells[-1].metadata.setdefault("tags", []).extend(tags)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def kernels(process: psutil.Process | None = None) -> list[psutil.Process]:
    """The kernels that this process has started and that still run."""
    return [
        child
        for child in (process or psutil.Process()).children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and any("ipykernel" in part for part in child.cmdline())
    ]


@pytest.fixture(autouse=True)
def _no_kernel_is_left() -> Iterator[None]:
    """However a notebook ends, its kernel ends with it."""
    yield
    assert [] == kernels()


def text_of(path: Path) -> str:
    """What the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


# --- Which notebooks -----------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lab's notebooks, for the time of a test."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    for name in ("04_together", "00_start", "01_sqs", "01_sns"):
        write(tmp_path, name=name)
    return tmp_path


def test_discover_lists_the_notebooks_in_order(shelf: Path) -> None:
    """The walkthrough's order is that of the names; what is no notebook is not in it."""
    (shelf / "notes.md").touch()
    assert ["00_start", "01_sns", "01_sqs", "04_together"] == [path.stem for path in notebooks.discover()]


@pytest.mark.parametrize(
    "name", ["04_together", "04_together.ipynb", "notebooks/04_together.ipynb", "04", "04_to"]
)
def test_resolve_takes_a_name_a_file_or_a_beginning(shelf: Path, name: str) -> None:
    """A notebook is named as a reader would name it."""
    assert [shelf / "04_together.ipynb"] == resolve([name])


def test_resolve_keeps_the_order_given_and_each_notebook_once(shelf: Path) -> None:
    """Named twice is executed once; no name at all means all of them."""
    assert ["04_together", "00_start"] == [path.stem for path in resolve(["04", "00", "04_together"])]
    assert notebooks.discover() == resolve([])


@pytest.mark.parametrize("name", ["9", "together", "01", "", "."])
def test_resolve_refuses_what_names_no_single_notebook(shelf: Path, name: str) -> None:
    """An unknown or ambiguous name is refused with the names that there are."""
    with pytest.raises(NotebookError, match="00_start, 01_sns, 01_sqs, 04_together"):
        resolve([name])


@pytest.mark.parametrize("path", notebooks.discover(), ids=lambda path: path.stem)
def test_the_labs_own_notebooks_are_accepted(path: Path) -> None:
    """Every notebook of the lab is one that the lab executes."""
    parameters_of(path)


# --- Parameters: refused before anything is executed ---------------------------------------------------


def test_parameters_are_names_with_the_source_of_their_defaults(tmp_path: Path) -> None:
    """Every assignment in the parameters cell is a parameter, whatever else stands on its line."""
    source = """\
        items: int = 200  # items (n == 200)
        label = "a=b"
        values = [
            1,
            2,
        ]
        seconds = lognormal(mean=0.5, sigma=1)
        print("not a parameter")
    """
    assert {
        "items": "200",
        "label": '"a=b"',
        "values": "[\n    1,\n    2,\n]",
        "seconds": "lognormal(mean=0.5, sigma=1)",
    } == parameters_of(write(tmp_path, parameters=textwrap.dedent(source)))


def test_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    """papermill would put the values first, where the notebook's own assignments override them."""
    path = write(tmp_path, "items = 2", "assert items == 2", parameters=None)
    with pytest.raises(NotebookError, match="0 code cells are tagged 'parameters'"):
        run([path], tmp_path / "out", {"items": 5}, progress=False)
    assert not (tmp_path / "out").exists()


def test_notebook_with_two_parameters_cells_is_refused(tmp_path: Path) -> None:
    """papermill would put the values between the two, and the second would override them."""
    path = write(tmp_path, "items = 3", tags=("parameters",))
    with pytest.raises(NotebookError, match="2 code cells are tagged 'parameters'"):
        execute(path, tmp_path / "out", {}, progress=False)


@pytest.mark.parametrize("tag", ["raises-exception", "injected-parameters"])
def test_tags_that_would_deceive_are_refused(tmp_path: Path, tag: str) -> None:
    """A tag that promises what papermill does not do is refused with the remedy."""
    path = write(tmp_path, "1 / 0", tags=(tag,))
    with pytest.raises(NotebookError, match=notebooks.REFUSED_TAGS[tag]):
        run([path], tmp_path / "out", {}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_what_is_no_notebook_is_refused(tmp_path: Path, content: str) -> None:
    """A damaged file is refused by name."""
    (tmp_path / "bad.ipynb").write_text(content)
    with pytest.raises(NotebookError, match=r"bad\.ipynb"):
        parameters_of(tmp_path / "bad.ipynb")


def test_parameters_cell_must_be_plain_python(tmp_path: Path) -> None:
    """What cannot be read cannot be checked."""
    with pytest.raises(NotebookError, match="plain Python"):
        parameters_of(write(tmp_path, parameters="%time items = 2"))


def test_unknown_parameter_is_refused(tmp_path: Path) -> None:
    """papermill only logs a line, and the notebook runs with its defaults."""
    paths = [write(tmp_path), write(tmp_path, name="two", parameters="seconds = 0.5")]
    with pytest.raises(
        NotebookError, match="'itmes' is no parameter of one, two; choose from: items, seconds"
    ):
        run(paths, tmp_path / "out", {"items": 5, "itmes": 5}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        ("2", 5, 5),
        ("2", "5", 5),
        ("-2", "-5", -5),
        ("0.5", "2", 2),
        ("0.5", 0.25, 0.25),
        ("True", "False", False),
        ('"embedded"', "aws", "aws"),
        ('"embedded"', "5", "5"),
        ("None", "30", 30),
        ("None", "thirty", "thirty"),
        ("[1, 2]", "[3]", [3]),
        ("lognormal(1, 2)", "0.5", 0.5),
        ("60 * 30", 5, 5),
    ],
)
def test_value_takes_the_type_of_the_default(default: str, given: Any, expected: Any) -> None:
    """Text, as from a command line, is read as the default's type; where that has none, as a literal."""
    actual = notebooks._typed("p", given, default)
    assert (type(expected), expected) == (type(actual), actual)


@pytest.mark.parametrize(
    ("default", "given"),
    [
        ("2", "abc"),
        ("2", 2.5),
        ("2", "2.5"),
        ("2", True),
        ("2", None),
        ("0.5", "nan"),
        ("0.5", True),
        ("True", 1),
        ("True", "yes"),
        ('"embedded"', 5),
        ('"embedded"', None),
        ("[1, 2]", "3"),
    ],
)
def test_value_of_another_type_is_refused(tmp_path: Path, default: str, given: Any) -> None:
    """A wrong type is refused with the value, the rule and an example, and nothing is executed."""
    path = write(tmp_path, parameters=f"p = {default}")
    with pytest.raises(NotebookError) as refused:
        run([path], tmp_path / "out", {"p": given}, progress=False)
    for part in (f"p={given!r}", "type", default):
        assert part in str(refused.value)
    assert not (tmp_path / "out").exists()


# --- The kernel ----------------------------------------------------------------------------------------


def test_kernel_is_this_interpreter_in_the_notebooks_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kernelspec, backend and temporary folder there are: this Python and lab, ipc, figures."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    foreign = {"argv": ["false", "{connection_file}"], "display_name": "foreign", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(foreign))
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    folder = tmp_path / "note {books}"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.chdir(tmp_path)
    path = write(
        folder,
        """\
        import json, os, sys
        from ipykernel.connect import get_connection_info
        import helpers.notebooks
        transport = json.loads(get_connection_info())["transport"]
        print(json.dumps([sys.executable, os.getcwd(), transport, helpers.notebooks.__file__, items]))
        """,
        """\
        import matplotlib.pyplot as plt
        plt.plot([1, 2])
        plt.show()
        """,
    )
    result = execute(path, Path("out {here}"), {"items": "5"}, progress=False)
    assert (True, None, None, 1) == (result.ok, result.cell, result.error, result.figures)
    assert tmp_path / "out {here}" / "one.ipynb" == result.path
    assert [sys.executable, str(folder), "ipc", notebooks.__file__, 5] == json.loads(text_of(result.path))
    assert str(tmp_path) == os.getcwd()


def test_kernel_that_does_not_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel no cell has failed, but the notebook has; a kernel without the guard is no kernel."""
    monkeypatch.setattr(notebooks, "__name__", "helpers.no_such_extension")
    result = execute(write(tmp_path), tmp_path / "out", {}, progress=False)
    assert (False, None) == (result.ok, result.cell)
    assert "Kernel died" in result.failure
    assert "./lab doctor" in result.failure
    assert result.path.exists()


@pytest.mark.parametrize("kind", [OSError, zmq.ZMQError])
def test_what_ran_out_before_the_first_cell_is_named_with_its_remedy(tmp_path, monkeypatch, kind) -> None:
    """A notebook whose kernel gets no descriptor says so in one line, and names no cell."""

    def refuse(*_: object, **__: object) -> None:
        raise kind(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(AsyncKernelManager, "start_kernel", refuse)
    result = execute(write(tmp_path), tmp_path / "out", {}, progress=False)
    assert result.failure.startswith("the notebook could not be executed, as this process may open no more")
    assert "`ulimit -n`" in result.failure


def test_notebook_gets_the_parameters_that_it_has(tmp_path: Path) -> None:
    """A parameter of one notebook does not reach another one."""
    paths = [
        write(tmp_path, "assert (items, 'seconds' in globals()) == (5, False)"),
        write(tmp_path, "assert seconds == 0.25", name="two", parameters="seconds = 0.5"),
    ]
    results = run(paths, tmp_path / "out", {"items": 5, "seconds": "0.25"}, progress=False)
    assert [None, None] == [result.error for result in results]


# --- Failures: each names its cell ---------------------------------------------------------------------


FAILURES = [
    ("{}['key']", "KeyError: 'key'"),
    (f"from helpers.checks import LawBroken\nraise LawBroken{LAW}", f"LawBroken: {LawBroken(*LAW)}"),
    ("ratio = 0.2\nassert ratio < 0.1", "AssertionError: assert ratio < 0.1"),
    ("%%capture\nassert False, 'hidden'", "AssertionError: hidden"),
    ("import sys\nsys.exit(2)", "SystemExit: 2: a cell must not end the notebook"),
]
ENDS = [
    ("import sys\nsys.exit(0)\nassert False", "SystemExit: 0: a cell must not end the notebook"),
    ("raise SystemExit", "SystemExit: a cell must not end the notebook"),
    ("exit", "SystemExit: exit or quit: a cell must not end the notebook"),
    ("quit()", "SystemExit: exit or quit: a cell must not end the notebook"),
]


@pytest.mark.parametrize(
    ("cell", "error", "last"),
    [(*failure, False) for failure in FAILURES + ENDS] + [(*end, True) for end in ENDS],
)
def test_failed_cell_is_named_with_its_error(tmp_path: Path, cell: str, error: str, last: bool) -> None:
    """A cell that fails, or ends the kernel, fails the notebook, in the middle and at its end."""
    path = write(tmp_path, "print('before')", cell, *([] if last else ["print('after')"]))
    result = execute(path, tmp_path / "out", {}, progress=False)
    assert (False, 3, error) == (result.ok, result.cell, result.error)
    assert "before\n" == text_of(result.path)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (["thread.start(); thread.join()", "print('after')"], 3),
        (["thread.start()", "thread.join()", "print('after')"], 3),
        (["outer.start()", "go.set(); outer.join(); thread.join()", "print('after')"], 3),
        (["1", "thread.start()"], 4),
    ],
    ids=["joined", "later", "by a thread", "after the last cell"],
)
def test_exception_in_a_thread_fails_the_cell_that_started_it(
    tmp_path: Path, cells: list[str], named: int
) -> None:
    """A background thread's exception is an error, whenever it comes and though its cell succeeded."""
    setting = """\
        import threading, time
        thread = threading.Thread(target=lambda: (time.sleep(0.2), [][1]))
        go = threading.Event()
        outer = threading.Thread(target=lambda: (go.wait(), thread.start()))
    """
    result = execute(write(tmp_path, setting, *cells), tmp_path / "out", {}, progress=False)
    assert (False, named) == (result.ok, result.cell)
    assert "IndexError: list index out of range (in a thread)" == result.error
    assert "after" not in text_of(result.path)


def test_thread_that_ends_itself_is_no_failure(tmp_path: Path) -> None:
    """SystemExit ends a thread quietly, as in any Python program."""
    cell = "import sys, threading\nthread = threading.Thread(target=sys.exit)\nthread.start()\nthread.join()"
    assert execute(write(tmp_path, cell), tmp_path / "out", {}, progress=False).ok


def test_cell_that_was_not_run_is_a_failure(tmp_path: Path) -> None:
    """A notebook passes only if all of its cells ran; an empty cell is none."""
    path = write(tmp_path, "", "1", "assert False", tags=("skip-execution",))
    result = execute(path, tmp_path / "out", {}, progress=False)
    assert (False, 3) == (result.ok, result.cell)
    assert "CellNotRun: the notebook ended without this cell" == result.error


def test_dead_kernel_is_a_failure_that_names_the_cell(tmp_path: Path) -> None:
    """A kernel that dies takes its notebook's success with it, whatever status it ended with."""
    path = write(tmp_path, "print('before', flush=True)", "import os\nos._exit(0)", "print('after')")
    result = execute(path, tmp_path / "out", {}, progress=False)
    assert (False, 3) == (result.ok, result.cell)
    assert "DeadKernelError: the kernel ended while this cell ran" in (result.error or "")
    assert "before\n" == text_of(result.path)


def test_cell_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    """A cell has a limit, after which it is interrupted: its `finally` still runs."""
    cell = "import pathlib, time\ntry:\n    time.sleep(600)\nfinally:\n    pathlib.Path('left').touch()"
    result = execute(write(tmp_path, "1", cell), tmp_path / "out", {}, progress=False, cell_timeout_seconds=3)
    assert (False, 3) == (result.ok, result.cell)
    assert "CellTimeoutError" in (result.error or "")
    assert "after 3 seconds" in (result.error or "")
    assert (tmp_path / "left").exists()


# --- Interrupts ----------------------------------------------------------------------------------------


def test_interrupt_keeps_what_was_executed_and_stops_the_kernel(tmp_path: Path) -> None:
    """Ctrl-C ends the run, not the record: the cell can clean up, and results.json tells how far it came."""
    cell = """\
        import pathlib, time
        try:
            pathlib.Path("begun").touch()
            time.sleep(600)
        finally:
            pathlib.Path("left").touch()
    """
    write(tmp_path, "print('done')")
    write(tmp_path, "print('before')", cell, name="two")
    write(tmp_path, "print('never')", name="three")
    program = """\
        from pathlib import Path
        from helpers.notebooks import run
        try:
            run([Path("one.ipynb"), Path("two.ipynb"), Path("three.ipynb")], Path("out"), {}, progress=False)
        except KeyboardInterrupt:
            import psutil
            print("interrupted", [child.cmdline() for child in psutil.Process().children()])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        until((tmp_path / "begun").exists, "the cell's beginning", 60)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert "interrupted []\n" == out
    assert (tmp_path / "left").exists()
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [("one", True, None), ("two", False, 3)] == [
        (result["name"], result["ok"], result["cell"]) for result in report["results"]
    ]
    assert (None, "KeyboardInterrupt: stopped before its end") == (
        report["finished"],
        report["results"][1]["error"],
    )
    assert "before\n" == text_of(tmp_path / "out" / "two.ipynb")
    assert "KeyboardInterrupt" in (tmp_path / "out" / "index.html").read_text()


def test_interrupt_while_the_kernel_starts_leaves_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nbclient ends the kernel after an error in its start, but not after an interrupt."""

    async def interrupted(*_: object, **__: object) -> None:
        assert 1 == len(kernels())
        raise KeyboardInterrupt

    monkeypatch.setattr(AsyncKernelClient, "wait_for_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([write(tmp_path)], tmp_path / "out", {}, progress=False)
    assert [] == kernels()
    [result] = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert (False, None) == (result["ok"], result["cell"])


# --- What is kept --------------------------------------------------------------------------------------


def test_run_reports_after_every_notebook(tmp_path: Path) -> None:
    """results.json and the page exist as soon as there is a result, and a failure does not end the run."""
    look = """\
        import json, pathlib
        report = json.loads(pathlib.Path("out/results.json").read_text())
        assert [one["name"] for one in report["results"]] == ["one"]
        assert report["finished"] is None
        assert "one" in pathlib.Path("out/index.html").read_text()
        from helpers.notebooks import reading
        reading("makespan", 12.5, "s")
    """
    paths = [
        write(tmp_path, "assert '<script>' == 1", parameters="engine = 'embedded'"),
        write(tmp_path, look, name="two"),
    ]
    results = run(paths, tmp_path / "out", {"engine": "simulated"}, progress=False)
    assert [False, True] == [result.ok for result in results]
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "simulated" == report["engine"]
    assert {"python", "papermill", "ministack", "boto3"} == set(report["versions"])
    assert report["started"] <= report["finished"]
    assert {"makespan": {"value": 12.5, "unit": "s"}} == report["results"][1]["readings"]
    assert ["one.ipynb", "two.ipynb"] == [one["path"] for one in report["results"]]
    assert ["index", "one", "two"] == sorted(p.stem for p in (tmp_path / "out").glob("*.html"))
    assert [] == list((tmp_path / "out").glob("*.partial"))


def test_page_holds_the_figures_and_escapes_the_text(tmp_path: Path) -> None:
    """index.html needs no other file and no network, and shows text as text."""
    plot = """\
        import matplotlib.pyplot as plt
        from helpers.notebooks import reading
        for _ in range(2):
            plt.plot([1, 2])
            plt.show()
        reading("<b>load</b>", 2, "items")
        assert 1 > 2, "<script>alert(1)</script> & more"
    """
    [result] = run([write(tmp_path, plot, name="a & b")], tmp_path / "out", {}, progress=False)
    page = (tmp_path / "out" / "index.html").read_text()
    assert (2, 2) == (result.figures, page.count('<img src="data:image/png;base64,iVBOR'))
    assert "In [2] AssertionError: &lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "&lt;b&gt;load&lt;/b&gt;: 2 items" in page
    assert 'href="a%20%26%20b.html"' in page
    for foreign in ("<script", "http:", "https:", "@import"):
        assert foreign not in page
    assert 'name="viewport"' in page
    assert "color-scheme: light dark" in page


def test_readings_are_printed_and_kept(tmp_path: Path) -> None:
    """A reading is a sentence for the reader and a number for the record; the later of one name counts."""
    cell = """\
        import numpy as np
        from helpers.notebooks import reading
        reading("items", np.int64(10**12), "items")
        reading("makespan", 1, "s")
        reading("makespan", np.float64(2) / 3, "s")
    """
    result = execute(write(tmp_path, cell), tmp_path / "out", {}, progress=False)
    assert {
        "items": {"value": 10**12, "unit": "items"},
        "makespan": {"value": 2 / 3, "unit": "s"},
    } == result.readings
    outputs = nbformat.read(result.path, as_version=4).cells[-1].outputs
    assert "makespan: 0.666667 s" == outputs[-1].data["text/plain"]


def test_what_only_looks_like_a_reading_is_none(tmp_path: Path) -> None:
    """Text that a cell or its child process prints is no reading, nor is another use of the media type."""
    cell = f"""\
        import subprocess
        from IPython.display import display
        from helpers.notebooks import reading
        line = '{{"{READING}": {{"name": "forged", "value": 1, "unit": "s"}}}}'
        print(line)
        subprocess.run(["echo", line])
        for other in ("text", [1], {{}}, {{"name": "x", "value": True, "unit": "s"}}, {{"name": []}}):
            display({{"text/plain": "other", "{READING}": other}}, raw=True)
        reading("right", 1, "s")
    """
    [result] = run([write(tmp_path, cell)], tmp_path / "out", {}, progress=False)
    assert (None, {"right": {"value": 1, "unit": "s"}}) == (result.error, result.readings)


def test_reading_outside_of_a_notebook_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence appears wherever the code runs."""
    reading("utilisation", 0.5, "of the workers")
    assert "utilisation: 0.5 of the workers\n" == capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "5", None, np.float64("nan")])
def test_reading_is_a_finite_number(value: Any) -> None:
    """What is no number is no reading."""
    with pytest.raises(NotebookError, match="finite number"):
        reading("makespan", value, "s")


def test_progress_is_shown_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The bar carries the notebook's name; stdout stays clean."""
    execute(write(tmp_path, "print('printed')"), tmp_path / "out", {}, progress=True)
    out, err = capfd.readouterr()
    assert "" == out
    assert "one: 100%" in err


def test_report_leaves_the_lesson_out(tmp_path: Path) -> None:
    """Cells tagged `lesson` are not executed; a page without code and each figure as a file come out."""
    figure = "import matplotlib.pyplot as plt; plt.plot([1]); plt.show()"
    lesson = 'raise ValueError("only in the lesson")'
    path = write(tmp_path, 'print("so many:", items)', figure, lesson, tags=("lesson",))
    assert not execute(path, tmp_path / "whole", {}, progress=False).ok
    result = notebooks.report(path, tmp_path / "out", {"items": 7}, progress=False)
    assert (None, True, 1) == (result.error, result.ok, result.figures)
    assert {"report.ipynb", "report.html", "figure-1.png"} == {p.name for p in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "figure-1.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "so many: 7" in page
    assert "print(" not in page


def test_report_that_fails_is_kept_and_says_where(tmp_path: Path) -> None:
    """As for any notebook: the cell and its error, and a page to read them in."""
    result = notebooks.report(write(tmp_path, "1 / 0"), tmp_path / "out", {}, progress=False)
    assert (False, 2, "ZeroDivisionError: division by zero") == (result.ok, result.cell, result.error)
    assert "ZeroDivisionError" in (tmp_path / "out" / "report.html").read_text()
