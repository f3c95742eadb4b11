"""The static site: whole, readable without a network, on a phone and in the dark, honest about failures."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import base64
import fcntl
import json
import os
import pickle
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browsing import visit
from bs4 import BeautifulSoup
from nbformat.v4 import new_output
from typer.testing import CliRunner

from helpers import cli, notebooks, site
from helpers.errors import LabError
from helpers.formatting import plain
from helpers.site import building, pages

ROOT = Path(__file__).parents[1]
PNG = base64.b64encode((ROOT / "docs/figures/predict_ramp.png").read_bytes()).decode()
LOOK = "*Look*: the `line` is [busy](https://example.com) workers."
GUIDES = sorted(ROOT.glob("infra/**/README.md"))
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = {
    "model_name": "ImageModel",
    "state": {"format": "png"},
    "buffers": [{"data": PNG, "path": ["value"]}],
}


def outputs() -> list[Any]:
    """One output of each kind that the notebooks have."""
    reading = {notebooks.READING: {"name": "x", "value": 1, "unit": "s"}, "text/plain": "<x>: 1 s"}
    table = "<table border='1'><thead><tr><th></th><th>USD</th></tr></thead><tbody></tbody></table>"
    shown = [reading, {"image/png": PNG, "text/plain": "<Figure>"}, {"text/html": table}]
    shown += [{WIDGET: {"model_id": "a"}, "text/plain": "VBox(…)"}]
    return [new_output("stream", text="said\n"), *(new_output("display_data", data=data) for data in shown)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that executed 00 and failed in 01."""
    folder = tmp_path_factory.mktemp("run")
    first, second = (nbformat.read(path, as_version=4) for path in notebooks.discover()[:2])
    results = []
    for path, notebook in zip(notebooks.discover(), (first, second), strict=False):
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 1):
            cell.execution_count = number
        if notebook is first:
            notebook.cells.insert(notebook.cells.index(code[2]), nbformat.v4.new_markdown_cell(LOOK))
            code[2].outputs = outputs()
            notebook.metadata["widgets"] = {
                "application/vnd.jupyter.widget-state+json": {"state": {"a": STATE}, "version_major": 2}
            }
        else:
            code[3].outputs = [
                new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
            ]
        error = (4, "ValueError: no") if notebook is second else (None, None)
        told = {"name": path.stem, "path": path.name, "ok": notebook is first, "seconds": 1.0}
        results.append(told | {"cell": error[0], "error": error[1]})
        nbformat.write(notebook, folder / path.name)
    report = {"started": "2026-11-26T01:00:00+00:00", "finished": None, "versions": {"ministack": "1"}}
    (folder / "results.json").write_text(json.dumps(report | {"engine": "embedded", "results": results}))
    return folder


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, site.Built]:
    """The site of that run, and what is said of it: built once, by the first of the tests' processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out, kept = base / "site", base / "site.pickle"
    with (base / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(site.build(run, out)))
    return out, pickle.loads(kept.read_bytes())


@pytest.fixture
def folder(built: tuple[Path, site.Built]) -> Path:
    return built[0]


def read(folder: Path) -> list[Path]:
    """The pages that a reader is led to: all but the sources' and most of the API's."""
    here = [folder / "index.html", *sorted((folder / "notebooks").glob("*.html"))]
    here += [*sorted((folder / "docs").glob("*.html")), *sorted((folder / "infra").rglob("README.html"))]
    here += [folder / f"{name}.html" for name in ("README", "CONTRIBUTING", "SECURITY", "api/helpers")]
    return [*here, folder / "api/helpers/metrics.html", folder / "helpers/metrics.py.html"]


# --- What is there -------------------------------------------------------------------------------------


def test_every_link_leads_somewhere_and_nothing_is_fetched(built: tuple[Path, site.Built]) -> None:
    """No dead link in any page; addresses elsewhere are https, and listed; nothing needs Jekyll."""
    folder, told = built
    assert () == told.checked.dead
    assert len(list(folder.rglob("*.html"))) == told.checked.pages
    assert list(told.checked.external) == (folder / "links.txt").read_text().splitlines()
    assert [] == [address for address in told.checked.external if not address.startswith("https://")]
    assert (folder / ".nojekyll").exists()


def test_everything_that_is_to_be_read_has_a_page(folder: Path) -> None:
    """Each notebook, document, guide and public module, and the file that each module was made of."""
    wanted = {f"notebooks/{path.stem}.html" for path in notebooks.discover()}
    documents = [*ROOT.glob("docs/*.md"), *GUIDES]
    wanted |= {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in documents}
    for name in ("metrics", "engines/base", "simulation/quotas", "sweep", "errors"):
        wanted |= {f"api/helpers/{name}.html", f"helpers/{name}.py.html"}
    assert set() == {name for name in wanted if not (folder / name).is_file()}
    assert not (folder / "api/helpers/cli.html").exists()


def test_pages_lead_on_in_their_order(folder: Path) -> None:
    """The course first, one notebook after the other; each page of it lists all of them, and its sections."""
    page = (folder / "notebooks/01_sqs_limits_concurrency.html").read_text()
    assert ["00_start_here.html"] == re.findall(r'rel="prev" href="([^"]+)"', page)
    assert ["02_distributed_map.html"] == re.findall(r'rel="next" href="([^"]+)"', page)
    listed = re.findall(r'<li><a href="(\d\d_[^"]+)"', page)
    assert [f"{path.stem}.html" for path in notebooks.discover()] == listed
    assert 1 == page.count('aria-current="page"')
    assert '<li><a href="#choosing-the-limit">Choosing the limit</a></li>' in page
    assert "01_sqs_limits_concurrency.html" in (folder / "index.html").read_text()


def test_the_first_page_says_what_was_run(folder: Path) -> None:
    """The README's beginning, the table of the course, on which engine it ran and how many passed."""
    page = (folder / "index.html").read_text()
    assert "executed on 2026-11-26 on the embedded engine (ministack 1): 1 of 2 notebooks passed" in page
    assert "you will be able to" in page
    assert 10 < page.count("<figcaption>")


def test_cells_are_shown_as_they_were_executed(folder: Path) -> None:
    """What was printed, each reading as text, figures, tables; a widget as its picture and a sentence."""
    page = (folder / "notebooks/00_start_here.html").read_text()
    assert '<pre class="out" tabindex="0">said\n</pre>' in page
    assert '<p class="reading">&lt;x&gt;: 1 s</p>' in page
    assert 2 == page.count(f'src="data:image/png;base64,{PNG}"')
    assert 1 == page.count("Sliders stand here")
    assert "VBox" not in page
    assert '<span class="count">In [3]</span>' in page
    assert re.search(r'<div aria-label="Table" class="wide" [^>]*><table><thead>', page)


def test_a_figure_is_described_by_what_the_lesson_says_of_it(folder: Path) -> None:
    """In place of a figure stands the heading above it and what to look at, without marks."""
    page = (folder / "notebooks/00_start_here.html").read_text()
    assert 2 == page.count('alt="Choose an engine. the line is busy workers."')


def test_solutions_are_collapsed(folder: Path) -> None:
    """Each solution can be opened; what is asked for stands open."""
    page = (folder / "notebooks/00_start_here.html").read_text()
    solutions = re.findall(
        r'<details class="solution"><summary>Solution</summary>(.*?)</details>', page, re.S
    )
    cells = nbformat.read(notebooks.discover()[0], as_version=4).cells
    tagged = [cell for cell in cells if "solution" in cell.metadata.get("tags", [])]
    assert len(tagged) == len(solutions)
    assert all("solve" in solution for solution in solutions)


def test_a_failure_is_shown_and_told(built: tuple[Path, site.Built]) -> None:
    """A notebook that failed says so above, with its cell, and leads there; one that did not run, too."""
    folder, told = built
    page = (folder / "notebooks/01_sqs_limits_concurrency.html").read_text()
    assert ("01_sqs_limits_concurrency: In [4] ValueError: no",) == told.failed
    assert 'This notebook failed.</b> <a href="#failed">In [4] ValueError: no</a>' in page
    assert 1 == page.count('id="failed"')
    assert "This notebook failed" not in (folder / "notebooks/00_start_here.html").read_text()
    assert "was not executed for this site" in (folder / "notebooks/02_distributed_map.html").read_text()
    assert "was not executed" not in page


def test_pages_say_nothing_of_the_machine(folder: Path) -> None:
    """Where the clone lies is nobody's business: a site is the same wherever it was built."""
    assert [] == [path for path in folder.rglob("*.html") if str(ROOT) in path.read_text()]


def test_pages_can_be_heard(folder: Path) -> None:
    """Of each page: its language, one first heading, no level left out, a text for each figure."""
    for path in folder.rglob("*.html"):
        page = path.read_text()
        levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", page)]
        assert '<html lang="en">' in page
        assert (1, 1) == (levels[0], levels.count(1)), path
        assert [] == [pair for pair in pairwise(levels) if pair[1] > pair[0] + 1], path
        images = re.findall(r"<img [^>]*>", page)
        assert [] == [image[:80] for image in images if not re.search(r'alt="[^"]{8,}"', image)], path
        assert page.count("<table") == len(re.findall(r"<table.*?<th[ >]", page, re.S)), path


# --- Links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "told"),
    [
        ('<a href="missing.html">x</a>', "missing.html leads to no file"),
        ('<a href="../outside.txt">x</a>', "outside.txt leads to no file"),
        ('<a href=".">x</a>', ". leads to no file"),
        ('<a href="other.html#nowhere">x</a>', "other.html#nowhere leads to no anchor"),
        ('<a href="#nowhere">x</a>', "#nowhere leads to no anchor"),
        ('<a href="http://example.com">x</a>', "http://example.com is not https"),
        ('<a href="//example.com">x</a>', "//example.com is not https"),
        ('<a href="javascript:alert(1)">x</a>', "is not https"),
        ('<img src="https://example.com/a.png">', "img fetches https://example.com/a.png from elsewhere"),
        ('<script src="https://example.com/a.js"></script>', "script fetches"),
        ('<link rel="stylesheet" href="https://example.com/a.css">', "link fetches"),
        ("<style>@import 'a.css';</style>", "a style fetches"),
        ("<style>p { background: url(https://example.com/a.png) }</style>", "a style fetches"),
        ('<p id="a"></p><p id="a"></p>', "two elements have the id 'a'"),
    ],
)
def test_each_kind_of_bad_link_is_found(tmp_path: Path, html: str, told: str) -> None:
    """One page, one fault, one sentence, which names the page; without it there is none."""
    (tmp_path / "outside.txt").touch()
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "other.html").write_text('<p id="here">x</p>')
    good = '<a href="other.html#here">a</a><a href="https://example.com">b</a><img src="data:image/png,">'
    (folder / "one.html").write_text(good)
    assert ((), ("https://example.com",)) == (site.check(folder).dead, site.check(folder).external)
    (folder / "one.html").write_text(good + html)
    [sentence] = site.check(folder).dead
    assert sentence.startswith("one.html: ")
    assert told in sentence


def test_links_are_followed_from_where_the_file_is() -> None:
    """A link into the repository leads to the page of that file, relative to the page it stands on."""
    html = '<a href="../docs/a.md#b">1</a><a href="x.ipynb">2</a><img src="../y%20z.png"><a href="#c">3</a>'
    page = pages.of_html("notebooks/n.html", "notebooks/n.ipynb", html, building.place)
    assert ["../docs/a.html#b", "x.html", "../y%20z.png", "#c"] == re.findall(
        r'(?:href|src)="(.*?)"', page.body
    )


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("docs/engines.md", "docs/engines.html"),
        ("notebooks/00.ipynb", "notebooks/00.html"),
        ("docs/figures/a.png", "docs/figures/a.png"),
        ("helpers/cost.py", "helpers/cost.py.html"),
        ("LICENSE", "LICENSE.html"),
        (".github/workflows/ci.yml", "dot-github/workflows/ci.yml.html"),
    ],
)
def test_a_file_has_one_place_in_the_site(path: str, page: str) -> None:
    """Documents and notebooks are pages, pictures themselves, all else its text; nothing is hidden."""
    assert page == building.place(path)


@pytest.mark.parametrize("link", ["../../../etc/hostname", "/etc/hostname"])
def test_files_of_others_are_never_published(tmp_path: Path, link: str) -> None:
    """A link out of the repository stays dead, whatever is there."""
    made = building._Site(tmp_path / "out")
    page = pages.of_html("docs/a.html", "docs/a.md", f'<h1>x</h1><a href="{link}">x</a>', made.place)
    made.write(page, ())
    made.write_needed(())
    assert ["docs/a.html"] == [path.relative_to(tmp_path / "out").as_posix() for path in written(tmp_path)]
    assert 1 == len(site.check(tmp_path / "out").dead)


def written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_headings_have_github_s_anchors() -> None:
    """As the README's own links name them; of two alike the second is numbered."""
    html = "<h1>On a <code>real</code> account?</h1><h2>What's in x_y-z</h2><h2>What's in x_y-z</h2>"
    page = pages.of_html("a.html", "a.md", html, building.place)
    ids = re.findall(r'<h\d id="(.*?)"', page.body)
    assert ["on-a-real-account", "whats-in-x_y-z", "whats-in-x_y-z-1"] == ids
    assert ids[1:] == [name for name, _ in page.sections]


# --- Formulas ------------------------------------------------------------------------------------------


def test_formulas_are_mathml() -> None:
    """Which browsers show by themselves: no script, no font from elsewhere."""
    page = pages.of_markdown("a.html", "a.md", "# Law\n\nLittle says $L = \\lambda W$.\n", building.place)
    assert ["L", "=", "λ", "W"] == re.findall(r"<m[io]>(.*?)</m[io]>", page.body)


def test_money_is_no_formula() -> None:
    """Dollars before numbers are dollars, as many as there may be in a sentence; in code they are code."""
    text = "It costs $25 per million, $0.40 for a queue, $n$ times `$$.Task.Token` and http://127.0.0.1:1"
    page = pages.of_markdown("a.html", "a.md", f"# Costs\n\n{text}\n", building.place)
    assert "It costs $25 per million, $0.40 for a queue, " in page.body
    assert "<mi>n</mi></mrow></math> times <code>$$.Task.Token</code>" in page.body
    assert "<a href" not in page.body  # nor is an address that is spoken of a link


# --- The command ---------------------------------------------------------------------------------------


def told(dead: tuple[str, ...] = (), failed: tuple[str, ...] = ()) -> site.Built:
    return site.Built(site.Checked(3, dead, ("https://example.com",)), failed)


@pytest.mark.parametrize(
    ("built", "status"),
    [(told(), 0), (told(dead=("a.html: x leads to no file",)), 1), (told(failed=("01: In [4] no",)), 1)],
)
def test_lab_site_fails_for_a_dead_link_and_a_failed_notebook(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: site.Built, status: int
) -> None:
    """What is wrong is named on stderr, one sentence each; the site is written all the same."""
    monkeypatch.setattr(site, "build", lambda run, out: built)
    ran = CliRunner().invoke(cli.app, ["site", "--run", str(tmp_path), "--out", str(tmp_path / "out")])
    assert status == ran.exit_code
    assert "3 pages, 1 addresses elsewhere" in ran.stdout
    assert [*built.failed, *built.checked.dead] == ran.stderr.splitlines()


def test_lab_site_executes_what_lab_run_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Any
) -> None:
    """Without --run, all notebooks are executed first, on the default engine, into a folder of runs/."""
    seen: list[Any] = []
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)
    monkeypatch.setattr("helpers.commands.publishing.RUNS", tmp_path)
    monkeypatch.setattr(notebooks, "run", lambda *given, progress: seen.append(given))
    monkeypatch.setattr(site, "build", lambda run, out: seen.append((run, out)) or told())
    assert 0 == CliRunner().invoke(cli.app, ["site"]).exit_code
    [(paths, ran_in, parameters), (run, out)] = seen
    assert (notebooks.discover(), {"engine": "embedded"}) == (paths, parameters)
    assert ran_in == run
    assert (tmp_path, tmp_path) == (run.parent, out.parent)
    assert out.name == f"site-{run.name}"


def test_what_is_no_run_or_no_empty_folder_is_refused(run: Path, tmp_path: Path) -> None:
    """Before anything is written: a folder without results, and one that holds something already."""
    with pytest.raises(LabError, match=r"has no results.json; give the folder"):
        site.build(tmp_path, tmp_path / "out")
    (tmp_path / "mine").touch()
    with pytest.raises(LabError, match="is not empty; remove it"):
        site.build(run, tmp_path)
    assert ["mine"] == [path.name for path in tmp_path.iterdir()]


def test_without_a_clone_there_is_no_site(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has no documents to make it of, and says so."""
    monkeypatch.setattr(building, "ROOT", tmp_path)
    with pytest.raises(LabError, match=r"has no README\.md"):
        site.build(run, tmp_path / "out")


def test_the_page_of_a_run_stands_alone(tmp_path: Path) -> None:
    """Links to notebooks of the same run lead to their pages; what is elsewhere in the repository is text."""
    text = "# One\n\n[there](two.ipynb#x), [not there](three.ipynb), [code](../helpers/cost.py)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    page = site.alone(tmp_path / "one.ipynb", {"ok": True}, others=["one", "two"])
    assert '<a href="two.html#x">there</a>, not there, code' in page
    assert {"data:,", "two.html#x", "#content"} == set(re.findall(r'href="([^"]+)"', page))
    assert "<nav" not in page


# --- The glossary --------------------------------------------------------------------------------------

TERMS = re.split(r"^### ", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.partition("\n")[0])
def test_a_term_is_explained_sourced_and_met(term: str) -> None:
    """Each has a unit and a source, and is met in the notebook that it names, in these very words."""
    name = term.partition("\n")[0]
    explained, unit, source, met = re.fullmatch(
        r"(.+) \*Unit:\* (.+)\. \*Source:\* (.+)\. \*Met in\* \[\d\d\]\(\.\./(.+)\)\.\s*(?:## .*\s*)?",
        term.partition("\n")[2],
    ).groups()  # type: ignore[union-attr]
    assert explained
    assert unit
    assert re.search(r"https://|\.\./helpers/|\.\./infra/", source)
    cells = nbformat.read(ROOT / met, as_version=4).cells
    assert name.lower() in " ".join(cell.source for cell in cells).lower().replace("_", " ")


def test_terms_stand_in_their_order() -> None:
    """Each of the two lists is alphabetical, and no term is in both."""
    parts = re.split(r"^## .*", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)[1:]
    lists = [[name.lower() for name in re.findall(r"^### (.*)", part, re.MULTILINE)] for part in parts]
    assert [sorted(names) for names in lists] == lists
    assert len(TERMS) == len({*lists[0], *lists[1]})


# --- In a browser --------------------------------------------------------------------------------------

LOOKED_AT = """() => {
  const shown = (element) => getComputedStyle(element).opacity !== "0";
  const luminance = (rgb) => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > .5) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !shown(element) || element.closest(".out.html, noscript")) continue;
    const both = [numbers(getComputedStyle(element).color), ground(element)].map(luminance);
    if ((Math.max(...both) + .05) / (Math.min(...both) + .05) < 4.5)
      faint.add(element.outerHTML.slice(0, 80));
  }
  return {
    faint: [...faint].slice(0, 5),
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    empty: [...document.images].filter((one) => !one.complete || !one.naturalWidth).map((one) => one.alt),
  };
}"""


@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_is_legible(browser: Any, folder: Path, width: int) -> None:
    """On a phone and on a desk, dark and light: nothing wider than the page, every figure there, contrast of
    at least 4.5 for all text, no error, and no request to anywhere."""
    size = {"width": width, "height": 800}
    with visit(browser, (folder / "index.html").as_uri(), viewport=size) as page:
        for path in read(folder):
            page.goto(path.as_uri())
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                seen = page.evaluate(LOOKED_AT)
                assert {"faint": [], "wider": 0, "empty": []} == seen, f"{path}, {scheme}"


def test_a_reader_can_go_through_the_course(browser: Any, folder: Path) -> None:
    """From the first page by the link to the next through every notebook, in order."""
    with visit(browser, (folder / "index.html").as_uri()) as page:
        for notebook in notebooks.discover():
            page.click("a[rel=next]")
            page.wait_for_url(f"**/notebooks/{notebook.stem}.html")
            assert page.locator("nav [aria-current]").inner_text().startswith(notebook.stem[:2])


def test_a_phone_has_the_contents_behind_a_button(browser: Any, folder: Path) -> None:
    """The contents open, lead to a page and to its sections, and are closed again."""
    with visit(
        browser, (folder / "index.html").as_uri(), viewport={"width": 360, "height": 800}, has_touch=True
    ) as page:
        assert not page.locator("nav").is_visible()
        page.tap("text=Contents")
        page.tap("nav >> text=01 SQS limits")
        page.wait_for_url("**/01_sqs_limits_concurrency.html")
        assert not page.locator("nav").is_visible()
        page.tap("text=Contents")
        page.tap("nav >> text=Choosing the limit")
        page.wait_for_url("**#choosing-the-limit")
        assert not page.locator("nav").is_visible()


def test_the_switch_between_dark_and_light_is_remembered(browser: Any, folder: Path) -> None:
    """A choice outlives the page, outweighs the system's, and is that of all pages that are open."""
    with visit(browser, (folder / "index.html").as_uri(), color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.click("text=Dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.click("a[rel=next]")
        page.wait_for_url("**/00_start_here.html")
        page.wait_for_function(f"{ground} === '{dark}'")
        other = page.context.new_page()
        other.goto((folder / "index.html").as_uri())
        assert dark == other.evaluate(ground)
        page.click("text=Light")
        assert light == page.evaluate(ground)
        other.wait_for_function(f"{ground} === '{light}'")
        assert "Dark" == other.inner_text("#theme")


def test_the_keyboard_suffices(browser: Any, folder: Path) -> None:
    """The first Tab shows a way past the contents, and what has the focus is framed."""
    with visit(browser, (folder / "docs/engines.html").as_uri()) as page:
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        assert "Skip to the text" == skip.inner_text()
        assert 0 <= skip.bounding_box()["x"]
        assert "3px" == skip.evaluate("element => getComputedStyle(element).outlineWidth")
        page.keyboard.press("Enter")
        assert "content" == page.evaluate("document.activeElement.id")


# --- A run that somebody else made ---------------------------------------------------------------------


def changed(run: Path, folder: Path, **fields: Any) -> Path:
    """A copy of the run whose results have these fields; `...` takes one away."""
    shutil.copytree(run, folder)
    report = json.loads((run / "results.json").read_text()) | fields
    kept = {name: value for name, value in report.items() if value is not ...}
    (folder / "results.json").write_text(json.dumps(kept))
    return folder


def test_what_results_say_is_text(run: Path, tmp_path: Path) -> None:
    """Engine, versions, dates and errors are shown as they are written: no element, link or formula."""
    nasty = "<script>alert(1)</script>[a](javascript:b)`c`\n\n# d $e$ \x1b[2J\u202e"
    given = changed(run, tmp_path / "run", engine=nasty, versions={nasty: nasty}, finished=nasty)
    page = building._index(building._results(given / "results.json"), [("Course", [])], building.place)
    soup = BeautifulSoup(pages.whole(page), "html.parser").main
    [told] = [p for p in soup.find_all("p") if p.get_text().startswith("What you see was executed on")]
    assert [] == told.find_all()
    assert f"on the {plain(nasty)} engine ({plain(nasty)} {plain(nasty)})" in told.get_text()
    failed = building._told({"ok": False, "cell": 1, "error": nasty})
    assert ["p", "b", "a"] == [tag.name for tag in BeautifulSoup(failed, "html.parser").find_all()]
    assert f"In [1] {plain(nasty)}" in BeautifulSoup(failed, "html.parser").get_text()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"versions": ...}, "versions is missing"),
        ({"versions": ["ministack"]}, "versions is ['ministack']"),
        ({"engine": 5}, "engine is 5"),
        ({"started": None}, "started is None"),
        ({"finished": ["x"]}, "finished is ['x']"),
        ({"results": {}}, "results is {}"),
        ({"results": [5]}, "results[0]: 5 is no JSON object"),
        ({"results": [{"name": "00_start_here", "cell": None}]}, "results[0]: ok is missing"),
        ({"results": [{"name": "x", "ok": "yes", "cell": None, "error": None}]}, "results[0]: ok is 'yes'"),
    ],
)
def test_foreign_results_are_refused_by_file_and_field(
    run: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """A field that is not there or of another type: named with the file, and nothing is written."""
    given = changed(run, tmp_path / "run", **fields)
    with pytest.raises(LabError, match=re.escape(f"{given / 'results.json'}: {said}; give the folder")):
        site.build(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"[" * 100_000])
def test_damaged_results_are_refused(run: Path, tmp_path: Path, content: bytes) -> None:
    """What is no JSON object, whatever it is."""
    given = changed(run, tmp_path / "run")
    (given / "results.json").write_bytes(content)
    with pytest.raises(LabError, match=re.escape(str(given / "results.json"))):
        site.build(given, tmp_path / "out")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"[]"])
def test_a_run_that_lacks_a_notebook_is_refused(run: Path, tmp_path: Path, content: bytes | None) -> None:
    """A notebook that the results name and that is not there, or is none, is named."""
    given = changed(run, tmp_path / "run")
    file = given / notebooks.discover()[0].name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LabError, match=re.escape(f"{file}: not readable as a notebook")):
        site.build(given, tmp_path / "out")
