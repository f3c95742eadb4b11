"""In a real browser: JupyterLab as `lab open` starts it, used as a learner would."""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import browsing
import nbformat
import psutil
import pytest
from browsing import GIVE_UP_SECONDS, visit
from colours import luminance
from processes import gone

from helpers import notebooks, stack
from helpers.cli import JUPYTER
from helpers.drills import until
from helpers.engines import local

pytestmark = pytest.mark.timeout(2 * GIVE_UP_SECONDS)
ROOT = Path(__file__).parents[1]
SCREENSHOTS = os.environ.get("LAB_TEST_SCREENSHOTS")
"""The folder for pictures of what the tests see; none are taken without."""
STARTING = ("/api/kernels?",)
"""What Jupyter answers with status 500 at a moment of a kernel's start, and is asked again.

Its server lists a kernel before it has noted when that was last active (jupyter_server 2, list_kernels).
"""
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
VIEW = {"viewport": {"width": 1280, "height": 960}}
STEP_SECONDS = 90
"""How long each step of closing may take: only one that never comes takes so long."""
CONTRAST = 4.5
"""The least ratio of luminances at which text is legible, by WCAG 2.2, 1.4.3."""


def picture(page, name: str) -> None:
    """Keep what is seen now, where pictures are asked for."""
    if SCREENSHOTS:
        page.wait_for_timeout(500)  # what moves has come to rest
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


class Opened:
    """A `lab open` that runs, with copies of the notebooks."""

    def __init__(self, place: Path, *options: str) -> None:
        self.notebooks, self.temporary = place / "notebooks", place / "temporary"
        self.temporary.mkdir()
        shutil.copytree(notebooks.NOTEBOOKS, self.notebooks)
        self._log = place / "log"
        own = {name: value for name, value in os.environ.items() if name not in local.ENDPOINT_VARIABLES}
        own |= {"TMPDIR": str(self.temporary)}
        own |= {f"JUPYTER_{kind}_DIR": str(place / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "helpers.cli",
                "open",
                *options,
                "--",
                str(self.notebooks),
                "--no-browser",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
            env=own,
            cwd=ROOT,
        )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def url(self) -> str:
        """Where it tells that it is, with its token; without what was open before."""
        found = re.compile(r"http://127\.0\.0\.1:\d+/lab\?token=\w+")
        until(lambda: found.search(self.said) or self.process.poll() is not None, "its address")
        told = found.search(self.said)
        assert told, self.said
        return f"{told[0]}&reset"


@contextlib.contextmanager
def lab_open(place: Path, *options: str) -> Iterator[Opened]:
    """A `lab open` that ends with the block, by Ctrl-C if it has not; nothing of it stays."""
    opened = Opened(place, *options)
    everything = []
    try:
        yield opened
        if opened.process.poll() is None:
            everything = psutil.Process(opened.process.pid).children(recursive=True)
    finally:
        if opened.process.poll() is None:
            opened.process.send_signal(signal.SIGINT)
        opened.process.wait(GIVE_UP_SECONDS)
    assert [process for process in everything if not gone(process.pid)] == []
    assert sorted(opened.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def jupyterlab(browser, tmp_path_factory) -> Iterator[Opened]:
    with lab_open(tmp_path_factory.mktemp("jupyterlab")) as opened:
        yield opened


class Notebook:
    """A notebook that was opened by a double click on its file, with its kernel ready."""

    def __init__(self, page, path: Path) -> None:
        self.page, self.path = page, path
        self.sources = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        page.locator(".jp-DirListing-item", has_text=path.name).dblclick()
        page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        # Cells far below are drawn when there is time.
        page.wait_for_function(
            "([cells, count]) => document.querySelectorAll(cells).length == count",
            arg=[f"{PANEL} .jp-CodeCell", len(self.sources)],
        )

    def menu(self, *names: str) -> None:
        labels = self.page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel")
        for name in names:
            labels.filter(has_text=re.compile(f"^{name}$")).click()

    def cell(self, text: str):
        """The first code cell that has this text."""
        return self.page.locator(f"{PANEL} .jp-CodeCell", has_text=text).first

    def run(self, text: str, instead: str = "") -> None:
        """Click into a cell, put what is given in place of what is there, and run it by Shift-Enter."""
        self.cell(text).locator(".jp-InputArea-editor").click()
        if instead:
            self.page.keyboard.press("Control+a")
            self.page.keyboard.insert_text(instead)
        self.page.keyboard.press("Shift+Enter")

    def watched(self) -> Callable[[], list[int]]:
        """What tells, later, in which code cells one output has shown several pictures, one after another."""
        self.page.evaluate(
            """cells => {
                window.shown = new Map()
                new MutationObserver(() => document.querySelectorAll(cells).forEach((cell, at) =>
                    cell.querySelectorAll(".jp-OutputArea-child").forEach((output, place) => {
                        const key = `${at} ${place}`, image = output.querySelector("img")
                        if (!window.shown.has(key)) window.shown.set(key, new Set())
                        if (image) window.shown.get(key).add(image.src)
                    })
                )).observe(document.body, {subtree: true, childList: true, attributeFilter: ["src"]})
            }""",
            f"{PANEL} .jp-CodeCell",
        )
        several = "[...shown].filter(([_, images]) => images.size > 1).map(([key]) => parseInt(key))"
        return lambda: sorted(set(self.page.evaluate(several)))

    def finished(self) -> None:
        """Wait until the last cell was run, or something red is there: a warning, or a cell that failed."""
        self.page.wait_for_function(
            """([red, prompts]) => document.querySelector(red)
            || /[0-9]/.test([...document.querySelectorAll(prompts)].at(-1).textContent)""",
            arg=[
                f"{PANEL} [data-mime-type='application/vnd.jupyter.stderr']",
                f"{PANEL} .jp-CodeCell .jp-InputPrompt",
            ],
        )

    def saved(self) -> list[nbformat.NotebookNode]:
        """Its code cells, as they are in the file after Ctrl-S."""
        with self.page.expect_response(lambda response: response.request.method == "PUT") as answer:
            self.page.keyboard.press("Control+s")
        assert answer.value.ok
        return [cell for cell in nbformat.read(self.path, 4).cells if cell.cell_type == "code"]

    def figures(self) -> int:
        """How many figures are seen."""
        shown = "images => images.filter(image => image.naturalWidth > 0).length"
        return self.page.eval_on_selector_all(f"{PANEL} .jp-OutputArea-output img", shown)


def follow(page, steps: dict[str, Callable[[], bool]], about: Callable[[], str]) -> None:
    """Wait for one step after another; the first that does not happen fails, with what is known about it."""
    for step, has_happened in steps.items():
        give_up = time.monotonic() + STEP_SECONDS
        while not has_happened():
            assert time.monotonic() < give_up, f"{step}: not within {STEP_SECONDS} s\n{about()}"
            page.wait_for_timeout(100)  # in which its events are heard


def contrast(text) -> float:
    """The ratio of luminances (1 to 21) of a text and of what is behind it, as WCAG 2.2 defines both."""
    found = text.evaluate(
        """element => {
            const colours = [getComputedStyle(element).color]
            for (; element; element = element.parentElement)
                colours.push(getComputedStyle(element).backgroundColor)
            return colours
        }"""
    )
    front, *layers = [[*map(float, re.findall(r"[\d.]+", colour)), 1.0][:4] for colour in found]
    behind = next(layer for layer in layers if layer[3] == 1)
    front = [front[3] * own + (1 - front[3]) * under for own, under in zip(front, behind, strict=True)]
    darker, lighter = sorted(luminance([part / 255 for part in colour[:3]]) for colour in (front, behind))
    return (lighter + 0.05) / (darker + 0.05)


def outputs_of(cells: list[nbformat.NotebookNode]) -> Counter[str]:
    """How often each kind of output is there: streams by their name, figures as "figure"."""
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = Counter(output.get("name", output.output_type) for output in outputs)
    media = [{kind.split("/")[0] for kind in output.get("data", {})} for output in outputs]
    return kinds | Counter({"figure": sum("image" in one for one in media)})


@pytest.fixture
def site(tmp_path) -> Iterator[str]:
    """The URL of a site of one page, whose text is `tmp_path / "index.html"`."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "favicon.ico").touch()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


@pytest.mark.parametrize(
    ("script", "event", "complaint"),
    [
        ("console.error('bad day')", "console", "bad day"),
        ("throw new Error('by nobody')", "pageerror", "by nobody"),
        ("fetch('/missing')", "response", "answered 404"),
        ("fetch('http://127.0.0.1:9/')", "requestfailed", "127.0.0.1:9"),
        ("fetch('http://example.com/news')", "requestfailed", "example.com/news"),
        ("new WebSocket('ws://example.com/socket')", "websocket", "example.com/socket"),
    ],
)
def test_what_goes_wrong_on_a_page_fails_its_visit(browser, site, tmp_path, script, event, complaint):
    """An error on the console or caught by nobody, a refused or failed request, one to another machine."""
    (tmp_path / "index.html").write_text(f'<button onclick="{script}">fail</button>')
    with (
        pytest.raises(AssertionError, match=complaint),
        visit(browser, site) as page,
        page.expect_event(event),
    ):
        page.click("button")


def test_a_page_without_faults_passes_its_visit(browser, site, tmp_path):
    """What is printed, and errors that are allowed, are no fault."""
    (tmp_path / "index.html").write_text("<p>text</p><script>console.error('old news')</script>")
    with visit(browser, site, allowed=("old news",)) as page:
        assert page.inner_text("p") == "text"


def test_without_a_browser_the_remedy_is_told(monkeypatch, tmp_path):
    """Where there is no Chromium, tests that need one say how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browsing.executable() is None
    assert "apt-get install chromium" in browsing.MISSING


def test_jupyterlab_asks_no_other_machine(browser, jupyterlab):
    """Neither for news and newer releases, nor for extensions, and it does not ask whether it may."""
    with visit(browser, jupyterlab.url(), STARTING) as page:
        page.locator(".jp-DirListing-item").first.wait_for()
        told = json.loads(page.locator("#jupyter-config-data").text_content() or "")
        assert "@jupyterlab/apputils-extension:announcements" in told["disabledExtensions"]
        assert told["extensionManager"]["name"] == "read-only"


@pytest.mark.parametrize("name", ["01_sqs_limits_concurrency", "04_putting_it_together"])
def test_a_notebook_runs_to_its_end(browser, jupyterlab, name):
    """Run All Cells: every cell is run, none fails or warns, all figures are seen, and live ones move."""
    with visit(browser, jupyterlab.url(), STARTING, **VIEW) as page:
        notebook = Notebook(page, jupyterlab.notebooks / f"{name}.ipynb")
        redrawn = notebook.watched()
        notebook.menu("Run", "Run All Cells")
        notebook.finished()
        cells = notebook.saved()
        assert list(range(1, len(cells) + 1)) == [cell.execution_count for cell in cells]
        outputs = outputs_of(cells)
        assert (outputs["error"], outputs["stderr"]) == (0, 0)
        assert outputs["figure"] == notebook.figures() > 0
        live = [at for at, cell in enumerate(cells) if "LiveFigure()" in cell.source]
        assert live == redrawn()
        figure = page.locator(f"{PANEL} .jp-OutputArea-output img").first
        for _ in range(2):  # what is drawn above it on the way moves it once more
            figure.scroll_into_view_if_needed()
            picture(page, name)


def test_a_moved_slider_draws_a_new_figure(browser, jupyterlab):
    """The explorer answers to the keyboard: other numbers, another figure, and nothing red."""
    with visit(browser, jupyterlab.url(), STARTING, **VIEW) as page:
        notebook = Notebook(page, jupyterlab.notebooks / "06_predict_at_scale.ipynb")
        for text in ("import explore", "scale: str", "AWS = ", "first = Experiment", "explore(first)"):
            notebook.run(text)
        cell = notebook.cell("explore(first)")
        figure, numbers = cell.locator("img"), cell.locator(".widget-html-content")
        slider = cell.locator(".widget-slider", has_text="worker_concurrency").locator("[role=slider]")
        figure.wait_for()
        figure.scroll_into_view_if_needed()
        picture(page, "06_before")
        before = figure.get_attribute("src"), numbers.inner_text()
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "([cell, src, text]) => cell.querySelector('img').src != src "
            "&& cell.querySelector('img').naturalWidth > 0 "
            "&& cell.querySelector('.widget-html-content').innerText != text",
            arg=[cell.element_handle(), *before],
        )
        assert (
            slider.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]")
            .locator(".widget-readout")
            .inner_text()
            == "10"
        )
        picture(page, "06_after")
        assert cell.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0


def test_an_exercise_answers_at_once(browser, jupyterlab):
    """What it says of no answer, a wrong and a right one can be read, in the light theme and in the dark."""
    with visit(browser, jupyterlab.url(), STARTING, **VIEW) as page:
        notebook = Notebook(page, jupyterlab.notebooks / "00_start_here.ipynb")
        notebook.menu("Run", "Run All Cells")
        notebook.finished()
        ask = 'check("00.2", answer);'
        message = notebook.cell(ask).locator(".jp-RenderedHTMLCommon > div")
        for theme in ("Light", "Dark"):
            notebook.menu("Settings", "Theme", f"JupyterLab {theme}")
            page.locator(f"body[data-jp-theme-name='JupyterLab {theme}']").wait_for(state="attached")
            for answer, told in (("...", "not answered yet"), ("2.0", "not yet"), ("1.0", "right")):
                notebook.run(ask, f"answer = {answer}\n{ask}")
                message.get_by_text(f"Exercise 00.2: {told}.").wait_for()
                assert contrast(message) >= CONTRAST
                picture(page, f"00_{theme}_{told}")


def test_a_jupyterlab_that_hangs_is_killed(tmp_path):
    """Ctrl-C ends `lab open` and all that it started, even when JupyterLab no longer hears a signal."""
    with lab_open(tmp_path) as opened:
        assert opened.url()
        [server] = [
            child
            for child in psutil.Process(opened.process.pid).children()
            if str(JUPYTER / "server.py") in child.cmdline()
        ]
        server.suspend()
    assert "it is killed with its kernels" in opened.said


def test_closing_waits_for_no_answer(tmp_path):
    """File, Shut Down ends JupyterLab also while it reads a folder for somebody."""
    with lab_open(tmp_path) as opened:
        for number in range(3_000):
            (opened.notebooks / f"{number}.txt").touch()
        address = urlsplit(opened.url())

        def ask(method: str, path: str) -> None:
            request = urllib.request.Request(
                f"http://{address.netloc}/api/{path}?{address.query}", method=method
            )
            with contextlib.suppress(ConnectionError, http.client.HTTPException):  # it may end unanswered
                urllib.request.urlopen(request, timeout=GIVE_UP_SECONDS).read()

        def listens() -> bool:
            with socket.socket() as asking:
                return asking.connect_ex((address.hostname, address.port)) == 0

        until(listens, "JupyterLab listens, which it does after it has said where")
        reader = threading.Thread(target=ask, args=("GET", "contents"))
        reader.start()
        reader.join(0.5)
        ask("POST", "shutdown")
        opened.process.wait(STEP_SECONDS)
        reader.join()
    assert opened.process.returncode == 0
    assert "Shutting down on /api/shutdown request" in opened.said


def test_closing_leaves_nothing(browser, engine, tmp_path):
    """File, Shut Down ends JupyterLab, its kernels and the lab, and what a notebook left is destroyed."""
    with lab_open(tmp_path, "--endpoint", engine.endpoint_url) as opened:
        left = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        )
        deploy = (
            'from helpers import connect, stack; stack.deploy(connect("embedded"), "sqs_limited", {}).name'
        )
        left.cells = [nbformat.v4.new_code_cell(deploy)]
        nbformat.write(left, opened.notebooks / "left.ipynb")
        # What asks a server that has gone is told so, as is what asked it to go.
        gone_by = ("ERR_CONNECTION_REFUSED", "WebSocket", "/api/shutdown")
        with visit(browser, opened.url(), allowed=(*gone_by, *STARTING)) as page:
            notebook = Notebook(page, opened.notebooks / "left.ipynb")
            notebook.menu("Run", "Run All Cells")
            notebook.finished()
            [deployed] = [
                name for name in stack.deployed(engine) if name in notebook.cell("deploy").inner_text()
            ]
            everything = psutil.Process(opened.process.pid).children(recursive=True)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(f"{request.method} {urlsplit(request.url).path}"))
            notebook.menu("File", "Shut Down")
            page.locator(".jp-Dialog").get_by_role("button", name="Shut Down").click()
            steps = {
                "the dialog closes": lambda: page.locator(".jp-Dialog").count() == 0,
                "the session is ended": lambda: any("DELETE /api/sessions/" in one for one in asked),
                "the server is asked to end": lambda: "POST /api/shutdown" in asked,
                "the server begins to end": lambda: "Shutting down on /api/shutdown request" in opened.said,
                "`lab open` ends": lambda: opened.process.poll() is not None,
            }
            follow(page, steps, lambda: f"asked since the click: {asked}\n{opened.said}")
    assert [process for process in everything if not gone(process.pid)] == []
    assert opened.process.returncode == 0
    assert f"destroyed {deployed}, which was left" in opened.said
    assert deployed not in stack.deployed(engine)
