"""Execute the notebooks with papermill, strictly: what did not run to its end did not pass."""

# mypy: allow-untyped-calls
# (nbformat, papermill and nbconvert carry no annotations)

import ast
import atexit
import base64
import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import math
import numbers
import os
import platform
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from helpers import budget
from helpers.console import Bar, say
from helpers.errors import FileError, LabError, NotebookError
from helpers.exercises.telling import EXERCISE, UNATTENDED
from helpers.files import NO_ROOM, for_sockets, unwritten, write_whole
from helpers.formatting import markup, plain
from helpers.resources import lacking
from helpers.values import literal

# papermill, nbformat and nbconvert take a second to import, and every kernel imports this module for
# `reading`: so the functions that need them import them.

__all__ = ["Result", "accept", "discover", "execute", "parameters_of", "reading", "report", "resolve", "run"]

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
READING = "application/vnd.concurrency-lab.reading+json"
RESULTS = "results.json"
"""The file in a run's folder that says what became of each notebook."""

REFUSED_TAGS = {
    "raises-exception": "the run fails all the same; catch the exception and assert what it says",
    "injected-parameters": "the values of an earlier run would override the defaults; delete that cell",
}


@dataclass(frozen=True)
class Result:
    """What became of one notebook.

    `path` is the executed notebook, `seconds` how long it took, kernel included. `cell` is the number that
    Jupyter shows beside the cell that failed (In [cell] of the executed notebook), `error` the exception's
    name and message; both are None for a notebook that passed. `readings` maps a name to
    {"value", "unit"} (of a name recorded twice, the later one), `figures` counts the PNG images. `usd` is
    what it would cost on AWS at most, as far as a ledger tells (see `budget`). `exercises` maps the name of
    each exercise to what its check said in the cell of that tag, {"exercise": state, "solution": state}:
    "unanswered", "wrong", "right", or None where it said nothing.
    """

    name: str
    path: Path
    seconds: float
    ok: bool
    cell: int | None
    error: str | None
    readings: dict[str, dict[str, Any]]
    figures: int
    usd: float
    exercises: dict[str, dict[str, str | None]]

    @property
    def failure(self) -> str:
        """What failed, after the number of the cell where one was executed."""
        return f"cell {self.cell}: {self.error}" if self.cell is not None else str(self.error)

    @property
    def solved(self) -> bool:
        """Whether each exercise is unanswered or right, and its solution right."""
        return all(
            told["exercise"] in ("unanswered", "right") and told["solution"] == "right"
            for told in self.exercises.values()
        )


def reading(name: str, value: float, unit: str) -> None:
    """Print "name: value unit", and keep the reading in the executed notebook and in results.json.

    Raises NotebookError for a value that is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise NotebookError(f"reading {name!r} is {value!r}: a reading is a finite number; record that one")
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    sentence = f"{name}: {number:.6g} {unit}" if isinstance(number, float) else f"{name}: {number} {unit}"
    sentence = plain(sentence)
    if get_ipython() is None:
        say(sentence)
    else:
        record = {"name": name, "value": number, "unit": unit}
        display({"text/plain": sentence, READING: record}, raw=True)


def discover() -> list[Path]:
    """The notebooks of the lab, in their order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def resolve(names: Iterable[str]) -> list[Path]:
    """The notebooks with these names, in the order given; all of them where no name is given.

    A name is a notebook's name, its file, or the beginning of one name only, such as "04".
    Raises NotebookError for a name that is none of these.
    """
    known = {path.stem: path for path in discover()}
    chosen: dict[str, Path] = {}
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matches = [stem] if stem in known else [other for other in known if other.startswith(stem)]
        if len(matches) != 1:
            problem = f"begins several names ({', '.join(matches)})" if matches else "is no notebook"
            raise NotebookError(f"{name!r} {problem}; choose one of: {', '.join(known) or 'none is there'}")
        chosen[matches[0]] = known[matches[0]]
    return list(chosen.values()) or list(known.values())


def parameters_of(path: Path) -> dict[str, str]:
    """The names in the notebook's cell tagged `parameters`, each with the source text of its default.

    Raises NotebookError for a notebook that the lab does not execute: not readable, not exactly one such
    cell, that cell not plain Python, or a cell with a tag in REFUSED_TAGS.
    """
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        raise NotebookError(f"{path}: not readable as a notebook ({error}); restore it") from error
    for tag, reason in REFUSED_TAGS.items():
        if any(tag in cell.metadata.get("tags", []) for cell in cells):
            raise NotebookError(f"{path.name}: a cell is tagged {tag!r}: {reason}")
    tagged = [cell.source for cell in _code(cells) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{path.name}: {len(tagged)} code cells are tagged 'parameters': tag exactly one")
    # Not papermill.inspect_notebook: it reads line by line and loses a line that has a second "=".
    try:
        statements = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise NotebookError(f"{path.name}: the parameters cell must be plain Python: {error}") from error
    found: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            default = ast.get_source_segment(tagged[0], statement.value) or ""
            found.update({target.id: default for target in targets if isinstance(target, ast.Name)})
    return found


def usd_of(path: Path, scale: str) -> float:
    """What the notebook costs on AWS at most at this scale, as its metadata declare it: lab.usd (US dollars).

    Raises NotebookError for a notebook that does not say so.
    """
    import nbformat

    declared = nbformat.read(path, as_version=4).metadata.get("lab", {}).get("usd", {})
    if scale not in declared:
        raise NotebookError(
            f"{path.name}, scale={scale!r}: its metadata have no lab.usd of that scale, what it costs on AWS "
            f"at most; choose one of {', '.join(declared) or 'none'}, or declare it"
        )
    return float(declared[scale])


def execute(
    path: Path,
    out_dir: Path,
    parameters: Mapping[str, Any],
    progress: bool,
    cell_timeout_seconds: int = 1800,
) -> Result:
    """Execute one notebook in its own folder and save it, executed, in `out_dir`.

    A notebook that fails is a Result with ok=False, whatever made it fail. Raises NotebookError, before
    anything is executed, for a notebook or a parameter that the lab refuses (see `run`), and FileError where
    there is no room for what was executed.
    """
    [values] = accept([path], parameters)
    saved = out_dir.resolve() / path.name
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.unlink(missing_ok=True)  # where it is a link, what it leads to is not ours to write
    from papermill.exceptions import PapermillExecutionError

    begun, spent = time.monotonic(), _spent()
    index, error = None, None
    try:
        _execute(path.resolve(), saved, values, progress, cell_timeout_seconds)
    except PapermillExecutionError as failure:
        index, error = failure.cell_index, _sentence(failure)
    except FileError:
        raise
    except Exception as failure:  # before the first cell: the kernel did not start
        error = _not_executed(failure)
    return _result(saved, time.monotonic() - begun, index, error, _spent() - spent)


def run(paths: Sequence[Path], out_dir: Path, parameters: Mapping[str, Any], progress: bool) -> list[Result]:
    """Execute the notebooks in order; each goes to `out_dir`/NAME.ipynb, with results.json and index.html.

    Both files are renewed after every notebook. Each notebook gets those of the parameters that it has;
    text for one whose default is not text is read as a Python literal. A KeyboardInterrupt or SystemExit, as
    `lab` makes of SIGTERM, stops the kernel, keeps what there is and is raised again.

    Raises NotebookError, before anything is executed, for a notebook that the lab refuses, a parameter
    that no chosen notebook has, and a value of another type than the default's, and FileError where there is
    no room for the results.
    """
    accepted = accept(paths, parameters)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("papermill", "ministack", "boto3")},
        "engine": parameters.get("engine"),
    }
    results: list[Result] = []
    for path, values in zip(paths, accepted, strict=True):
        begun, spent = time.monotonic(), _spent()
        try:
            results.append(execute(path, out_dir, values, progress))
        except (KeyboardInterrupt, SystemExit) as stopped:
            saved, seconds = out_dir.resolve() / path.name, time.monotonic() - begun
            if saved.exists():
                at, error = (
                    _last_started(cells_of(saved)),
                    f"{type(stopped).__name__}: stopped before its end",
                )
                results.append(_result(saved, seconds, at, error, _spent() - spent))
            _report(out_dir, report, results, [path.stem for path in paths])
            raise
        if len(results) == len(paths):
            report["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        _report(out_dir, report, results, [path.stem for path in paths])
    return results


def report(path: Path, out_dir: Path, parameters: Mapping[str, Any], progress: bool) -> Result:
    """Execute the notebook without its cells tagged `lesson`: what it says of its parameters' data.

    Writes report.ipynb, report.html (without the code) and figure-1.png and on into `out_dir`. Raises
    NotebookError as `run` does; a notebook that fails is a Result with ok=False.
    """
    import nbformat

    from helpers.site import alone

    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "lesson" not in cell.metadata.get("tags", [])]
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        nbformat.write(notebook, Path(folder, "report.ipynb"))
        result = execute(Path(folder, "report.ipynb"), out_dir, parameters, progress)
    write_whole(out_dir / "report.html", alone(result.path, dataclasses.asdict(result), code=False))
    for number, png in enumerate(_figures(_outputs(cells_of(result.path))), 1):
        write_whole(out_dir / f"figure-{number}.png", base64.b64decode(png))
    return result


def table_of_exercises(results: Iterable[Result]) -> list[str]:
    """What the check of each exercise said in its own cell and in its solution, as lines of text."""
    rows = [
        (name, told["exercise"] or "said nothing", told["solution"] or "said nothing")
        for result in results
        for name, told in result.exercises.items()
    ]
    return [
        f"{name:15}{own:14}{solution}"
        for name, own, solution in [("exercise", "as it is", "solution"), *rows]
    ]


# --- Before: what is refused ---------------------------------------------------------------------------


def accept(paths: Sequence[Path], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each notebook, the parameters that it has, of the type that it wants.

    Raises NotebookError for a notebook that the lab refuses, a parameter that none of them has, and a value
    of another type than the default's.
    """
    defaults = [parameters_of(path) for path in paths]
    known = sorted(set().union(*defaults))
    for name in parameters:
        if name not in known:
            raise NotebookError(
                f"{name!r} is no parameter of {', '.join(path.stem for path in paths)}; "
                f"choose from: {', '.join(known) or 'none is there'}"
            )
    return [
        {name: _typed(name, value, default[name]) for name, value in parameters.items() if name in default}
        for default in defaults
    ]


def _typed(name: str, given: Any, default: str) -> Any:
    """The value, read as a literal where it is text and the default is not; refused if of another type."""
    try:
        model = ast.literal_eval(default)
    except (ValueError, TypeError):
        model = None  # computed, so of any type, as it is where the default is None
    value = given
    if isinstance(given, str) and not isinstance(model, str):
        try:
            value = literal(given)
        except LabError as error:
            raise NotebookError(f"{name}: {error}") from error
    wanted = type(model)
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if isinstance(value, float) and not math.isfinite(value):
        raise NotebookError(
            f"{name}={given!r}: {name} takes a finite value of its default's type, {wanted.__name__}; "
            f"give one like {default}"
        )
    if model is not None and not fits:
        raise NotebookError(
            f"{name}={given!r}: {name} takes a value of its default's type, {wanted.__name__}; "
            f"give one like {default}"
        )
    return value


# --- During: one kernel --------------------------------------------------------------------------------


class _Kernel(AsyncKernelManager):
    """The interpreter that runs the lab, whatever kernels are installed for other Pythons."""

    @property
    def kernel_spec(self) -> KernelSpec:
        inherited = os.environ.get("PYTHONPATH")
        return KernelSpec(
            argv=[
                *(sys.executable, "-P", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
                # A kernel without the extension would lose the exceptions of threads: it must not start.
                *(f"--ext={__name__}", "--InteractiveShellApp.reraise_ipython_extension_failures=True"),
                # The notebook's folder comes last, see `load_ipython_extension`: nothing in it is taken for a
                # module of the lab's or of an installed package.
                "--InteractiveShellApp.ignore_cwd=True",
                # Else one kernel in ten reports the interrupt that every shutdown begins with as an error.
                "--IPKernelApp.log_level=CRITICAL",
            ],
            env={
                # The same helpers as in this process, though the kernel starts in the notebooks' folder.
                "PYTHONPATH": os.pathsep.join([str(ROOT), *([inherited] if inherited else [])]),
                # A backend inherited from the caller, such as Agg, would leave the notebooks without figures.
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                UNATTENDED: "1",
            },
            language="python",
            display_name="Python 3",
        )


def load_ipython_extension(shell: Any) -> None:
    """In the kernel: log each thread's exception, with the cell that started the thread, beside the sockets.

    What the thread prints is lost once its cell has ended; the file is not. And `exit` fails its cell.
    """
    from ipykernel.connect import get_connection_file

    # ipykernel 7 closes its output while the thread that ends the kernel may still flush it: one kernel in
    # ten hung there until it was killed. The last registered runs first, so this runs before that closing.
    atexit.register(shell.kernel.control_thread.join, 2)
    log = Path(get_connection_file()).with_suffix(".threads")
    start, report = threading.Thread.start, threading.excepthook
    cells_begun = 0

    def begin(info: Any) -> None:
        nonlocal cells_begun
        cells_begun += 1

    def start_in_cell(self: threading.Thread) -> None:
        self.cell = getattr(threading.current_thread(), "cell", cells_begun)  # type: ignore[attr-defined]
        start(self)

    def keep(args: threading.ExceptHookArgs) -> None:
        report(args)
        if args.exc_type is not SystemExit:
            lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
            failure = [
                getattr(args.thread, "cell", cells_begun),
                args.exc_type.__name__,
                str(args.exc_value),
                lines,
            ]
            with log.open("a") as file:
                file.write(json.dumps(failure) + "\n")

    def ask_exit() -> None:
        # The kernel would end, and be found dead before what it has said of the cell is read.
        raise SystemExit("exit or quit")

    sys.path.append("")
    shell.ask_exit = ask_exit
    threading.Thread.start = start_in_cell  # type: ignore[method-assign]
    threading.excepthook = keep
    shell.events.register("pre_run_cell", begin)


def _execute(path: Path, saved: Path, values: dict[str, Any], progress: bool, timeout_seconds: int) -> None:
    """Have papermill execute the notebook; a cell that fails, in any way, is a PapermillExecutionError."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook, raise_for_execution_errors
    from papermill.iorw import load_notebook_node
    from traitlets.config import Config

    # What it warns of, `accept` refuses; the rest is that it cannot read a default with "=" in it.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    cells: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="lab-", dir=for_sockets()) as folder:
        log = Path(folder, "k.threads")

        def guard(cell: Any, cell_index: int, execute_reply: Any) -> None:
            """After each cell: make an error of what papermill would let pass."""
            for output in cell.outputs:
                if output.output_type == "error" and output.ename == "SystemExit":
                    # papermill takes SystemExit 0 for the end of a notebook that passed
                    output.evalue = f"{output.evalue}: a cell must not end the notebook".removeprefix(": ")
            _mark_threads(log, cells)
            bar.update()
            if any(output.output_type == "error" for one in _code(cells) for output in one.outputs):
                raise CellExecutionError("", "", "")

        bar = Bar(desc=path.stem, unit="cell", disable=not progress)

        def begin(notebook: Any) -> None:
            cells.extend(notebook.cells)
            bar.reset(len(_code(cells)))

        manager = {
            "transport": "ipc",  # kernels that start at the same time race for TCP ports
            "connection_file": f"{folder}/k.json",
            "shutdown_wait_time": 20,  # s: half of it for what outlives the last cell, half after SIGTERM
        }
        try:
            notebook = execute_notebook(
                _literal(path),
                _literal(saved),
                values,
                kernel_name="python3",
                language="python",
                progress_bar=False,  # its own shows what a cell asks it to, whatever that does to a terminal
                execution_timeout=timeout_seconds,
                kernel_manager_class=_Kernel,
                config=Config(KernelManager=manager),
                resources={"metadata": {"path": str(path.parent)}},
                iopub_timeout=60,  # a busy machine may deliver a large figure later than the default of 4 s
                on_notebook_start=begin,
                on_cell_executed=guard,
            )
            # Threads that outlived the last cell have ended with the kernel.
            _mark_threads(log, notebook.cells)
            if skipped := [cell for cell in _code(notebook.cells) if cell.execution_count is None]:
                _mark(skipped[0], "CellNotRun", "the notebook ended without this cell")
        except PapermillExecutionError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise unwritten(saved, error) from error
            notebook = load_notebook_node(str(saved))
            index = _last_started(notebook.cells)
            if index is None:
                raise
            message = str(error).partition("\n")[0]
            if isinstance(error, DeadKernelError):
                message = "the kernel ended while this cell ran (os._exit, a crash, or too little memory)"
            _mark(notebook.cells[index], type(error).__name__, message)
        finally:
            bar.close()
            _end_kernel(folder)
    raise_for_execution_errors(notebook, str(saved))


def _literal(path: Path) -> str:
    """The path as papermill wants it, which takes braces for places to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _code(cells: Sequence[Any]) -> list[Any]:
    """The cells that Jupyter numbers."""
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def _last_started(cells: Sequence[Any]) -> int | None:
    started = [at for at, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    return started[-1] if started else None


def _mark(cell: Any, name: str, message: str, lines: Sequence[str] = ()) -> None:
    """Put an error first in the outputs of the cell: the one that papermill reports and a reader sees."""
    import nbformat

    trace = list(lines) or [f"{name}: {message}"]
    cell.outputs.insert(0, nbformat.v4.new_output("error", ename=name, evalue=message, traceback=trace))


def _mark_threads(log: Path, cells: Sequence[Any]) -> None:
    """Mark the cells whose threads failed."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # The last line has no end while a thread of the kernel writes it: it is there after the next cell.
    failures = [json.loads(line) for line in lines if line.endswith("\n")]
    code = _code(cells)
    for number, name, message, lines in failures:
        _mark(code[max(0, min(number, len(code)) - 1)], name, f"{message} (in a thread)".strip(), lines)


def _end_kernel(folder: str) -> None:
    """Kill the kernel whose connection file is in the folder, if an interrupt has left it running."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in argument for argument in child.cmdline()):
                child.kill()
                child.wait()


# --- After: what is kept -------------------------------------------------------------------------------


def _sentence(failure: Any) -> str:
    """The exception's name and message; of an assert without a message, its source line."""
    message = failure.evalue
    if not message:
        shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(failure.traceback))
        message = "".join(re.findall(r"^-+> \d+ (.*)$", shown, re.MULTILINE)[-1:]).strip()
    return f"{failure.ename}: {message}" if message else str(failure.ename)


def _not_executed(failure: Exception) -> str:
    """Return why a notebook could not be executed, and what to do about it."""
    # An error of ZeroMQ is no OSError, and names what ran out all the same.
    if reason := lacking(failure) or lacking(str(failure)):
        return f"the notebook could not be executed, as {reason}"
    return (
        f"the notebook could not be executed ({type(failure).__name__}: {failure}); look at what its kernel "
        "has printed, and at `./lab doctor`"
    )


def _spent() -> float:
    """The sum of the ledger (US dollars)."""
    return math.fsum(entry["usd"] for entry in budget.noted())


def _result(saved: Path, seconds: float, index: int | None, error: str | None, usd: float) -> Result:
    """Read the executed notebook back; `index` is the place of the failed cell in it, counted from 0."""
    cells = cells_of(saved)
    outputs = _outputs(cells)
    readings = [data[READING] for data in outputs if _is_reading(data)]
    return Result(
        name=saved.stem,
        path=saved,
        seconds=round(seconds, 3),
        ok=error is None,
        cell=None if index is None else len(_code(cells[: index + 1])),
        error=error,
        readings={one["name"]: {"value": one["value"], "unit": one["unit"]} for one in readings},
        figures=len(_figures(outputs)),
        usd=round(usd, 6),
        exercises=_exercises(cells),
    )


def _is_reading(data: Mapping[str, Any]) -> bool:
    """Whether what a cell displayed is what `reading` displays; other code may use its media type."""
    one = data.get(READING)
    return (
        isinstance(one, Mapping)
        and one.keys() == {"name", "value", "unit"}
        and all(type(one[name]) is str for name in ("name", "unit"))
        and type(one["value"]) in (int, float)
        and math.isfinite(one["value"])
    )


def _exercises(cells: Sequence[Any]) -> dict[str, dict[str, str | None]]:
    """What the checks in these cells said, see Result."""
    found: dict[str, dict[str, str | None]] = {}
    for tag in ("exercise", "solution"):
        for cell in (one for one in _code(cells) if tag in one.metadata.get("tags", [])):
            asked = re.findall(r"""(?<![.\w])check\(\s*["']([^"']+)""", cell.source)
            told = {
                data[EXERCISE]["name"]: data[EXERCISE]["state"]
                for data in _outputs([cell])
                if EXERCISE in data
            }
            for name in [*asked, *told]:
                found.setdefault(name, {"exercise": None, "solution": None})[tag] = told.get(name)
    return found


def cells_of(saved: Path) -> list[Any]:
    """The cells of an executed notebook, without those that papermill adds to point at an error."""
    import nbformat
    from papermill.execute import remove_error_markers

    return list(remove_error_markers(nbformat.read(saved, as_version=4)).cells)


def _outputs(cells: Sequence[Any]) -> list[Any]:
    """What these cells displayed, each by media type."""
    return [out.data for cell in _code(cells) for out in cell.outputs if "data" in out]


def _figures(outputs: Sequence[Any]) -> list[str]:
    """The PNG images among what was displayed, in base64."""
    return [data["image/png"].replace("\n", "") for data in outputs if "image/png" in data]


def _report(
    out_dir: Path, report: Mapping[str, Any], results: Sequence[Result], others: Sequence[str]
) -> None:
    """Renew results.json, the last notebook's page, which links to the others of the run, and index.html."""
    listed = [dataclasses.asdict(result) | {"path": result.path.name} for result in results]
    write_whole(out_dir / RESULTS, json.dumps({**report, "results": listed}, indent=2) + "\n")
    if results:
        from helpers.site import alone

        page = alone(results[-1].path, listed[-1], others=others)
        write_whole(results[-1].path.with_suffix(".html"), page)
    write_whole(out_dir / "index.html", _index(report, results))


_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8886 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
pre { margin: 0; font-size: .875rem; white-space: pre-wrap; overflow-wrap: anywhere }
img { max-width: 100%; height: auto; background: #fff; border-radius: .25rem; margin: .5rem 0 }
"""


def _index(report: Mapping[str, Any], results: Sequence[Result]) -> str:
    """One page without references to other hosts: a table of the notebooks, and all their figures."""
    rows, sections = [], []
    for result in results:
        name, link = markup(result.name), markup(quote(result.path.with_suffix(".html").name))
        where = "" if result.cell is None else f"In [{result.cell}] "
        error = markup(where + (result.error or ""), keep="\n")
        rows.append(
            f'<tr><td><a href="{link}">{name}</a></td><td>{"passed" if result.ok else "<b>failed</b>"}</td>'
            f'<td class="number">{result.seconds:.1f}</td>'
            f"<td><pre>{error}</pre></td></tr>"
        )
        outputs = _outputs(cells_of(result.path))
        figures = _figures(outputs)
        readings = [f"<li>{markup(data.get('text/plain', ''))}</li>" for data in outputs if _is_reading(data)]
        if figures or readings:
            sections.append(f"<h2>{name}</h2>" + (f"<ul>{''.join(readings)}</ul>" if readings else ""))
            sections += [
                f'<img src="data:image/png;base64,{markup(png)}" alt="Figure {number} of {name}">'
                for number, png in enumerate(figures, 1)
            ]
    passed = sum(result.ok for result in results)
    state = f"finished {report['finished']}" if report["finished"] else "not finished"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Concurrency Lab: {passed} of {len(results)} passed</title>
<style>{_STYLE}</style>
<h1>{passed} of {len(results)} notebooks passed</h1>
<p>Started {markup(report["started"])}, {markup(state)}. {markup(versions)}.</p>
<div class="wide"><table>
<tr><th>notebook</th><th>result</th><th>time (s)</th><th>error</th></tr>
{"".join(rows)}
</table></div>
{"".join(sections)}
</html>
"""
