"""Put the site together: which pages there are, in which order, and what each is made of."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import notebooks
from helpers.errors import LabError, shown
from helpers.files import write_whole
from helpers.formatting import markup
from helpers.site import links, pages, reference
from helpers.site.pages import Page

__all__ = ["Built", "alone", "build"]

ROOT = Path(__file__).parents[2]
COURSE = "The notebooks"
"""The section of the README with the table of the course."""
LISTING = "index"
"""What the page of a folder is called."""
LINKS = "links.txt"
"""The site's file that lists the addresses outside of it."""
FIGURE = re.compile(r"!\[([^\]]*)\]\((docs/figures/[^)]+)\)")


Groups = Sequence[tuple[str, Sequence[Page]]]


@dataclass(frozen=True)
class Built:
    """What was built: `checked` are its links, `failed` tells each notebook that failed, cell and error."""

    checked: links.Checked
    failed: tuple[str, ...]


def build(run: Path, out: Path) -> Built:
    """Write the site of a run's executed notebooks, and of the repository's documents, into `out`.

    run: the folder of a `lab run`. A notebook that it did not execute has no outputs, and says so.

    Raises LabError where there is no such run, no clone of the repository around it, or `out` is not empty,
    and FileError where there is no room.
    """
    if not (run / notebooks.RESULTS).is_file():
        raise LabError(f"run {run}: has no {notebooks.RESULTS}; give the folder of a `./lab run`")
    if not (ROOT / "README.md").is_file():
        raise LabError(f"{ROOT}: has no README.md, and the site is made of its documents; use a clone")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LabError(f"out {out}: is not empty; remove it, or give another folder by --out")
    report = _results(run / notebooks.RESULTS)
    results = {result["name"]: result for result in report["results"]}
    site = _Site(out)
    course = [_notebook(run, path, results.get(path.stem), site.place) for path in notebooks.discover()]
    documents = [_document(path, site.place) for path in sorted((ROOT / "docs").glob("*.md"))]
    guides = [
        _document(path, site.place)
        for path in [ROOT / "infra/README.md", *sorted(ROOT.glob("infra/*/README.md"))]
    ]
    readme, *project = [
        _document(ROOT / f"{name}.md", site.place) for name in ("README", "CONTRIBUTING", "SECURITY")
    ]
    api = list(reference.pages(ROOT))
    groups = [
        ("Course", course),
        ("Tables and guides", documents),
        ("Workflows", guides),
        ("The project", [replace(readme, title="README"), *project]),
    ]
    groups[0] = ("Course", [_index(report, groups, site.place), *course])
    short = [*groups, ("API", [replace(api[0], title="API reference")])]
    for page in (page for _, listed in groups for page in listed):
        site.write(page, short)
    for page in api:
        site.write(page, [*groups, ("API", api)])
        site.needed.add(page.origin)
    site.write_needed(short)
    write_whole(out / ".nojekyll", "")
    checked = links.check(out)
    write_whole(out / LINKS, "".join(f"{address}\n" for address in checked.external))
    return Built(checked, tuple(_failure(result) for result in results.values() if not result["ok"]))


REPORT = {"started": str, "finished": str | None, "engine": str | None, "versions": dict, "results": list}
"""The fields of a results file that the site shows, with their types."""
RESULT = {"name": str, "ok": bool, "cell": int | None, "error": str | None}
"""The fields of each notebook in it, with their types."""


def _results(file: Path) -> dict[str, Any]:
    """Read the results of a run. Raises LabError for a file that no `lab run` has written."""
    try:
        report: Any = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _foreign(file, f"not readable as JSON ({error})") from error
    _check(file, report, REPORT)
    for number, result in enumerate(report["results"]):
        _check(file, result, RESULT, f"results[{number}]: ")
    return dict(report)


def _check(file: Path, given: Any, fields: Mapping[str, Any], where: str = "") -> None:
    """Raise LabError for what is no JSON object with these fields, each of its type."""
    if not isinstance(given, dict):
        raise _foreign(file, f"{where}{shown(given)} is no JSON object")
    for name, kind in fields.items():
        if not isinstance(given.get(name, ...), kind):
            told = f"is {shown(given[name])}" if name in given else "is missing"
            raise _foreign(file, f"{where}{name} {told}")


def _foreign(file: Path, reason: str) -> LabError:
    return LabError(f"{file}: {reason}; give the folder of a whole `./lab run`, or run it again")


def alone(executed: Path, result: Mapping[str, Any], others: Collection[str] = (), code: bool = True) -> str:
    """The HTML page of one executed notebook by itself, for the folder that it is in.

    result: its fields of a `notebooks.Result`. others: names of notebooks whose pages are beside it; other
    links into the repository are text. code: whether it shows the cells' sources.
    """
    beside = {f"notebooks/{name}.ipynb": f"notebooks/{name}.html" for name in others}
    return pages.whole(
        pages.of_notebook(executed, notebooks.cells_of(executed), beside.get, _told(result), code)
    )


def place(path: str) -> str:
    """The path in the site of a file or folder of the repository.

    A picture is itself, whatever else is a page. No part of it is hidden, for publishers leave those out.
    """
    path = re.sub(r"(^|/)\.", r"\1dot-", path)
    name, _, kind = path.rpartition(".")
    if kind in ("md", "ipynb"):
        return f"{name}.html"
    return path if kind in ("png", "svg") else f"{path}.html"


class _Site:
    """The site's folder, and what of the repository its pages lead to (`needed`) beyond what is written."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.needed: set[str] = set()
        self.written: set[str] = set()

    def place(self, path: str) -> str:
        """As `place`; what is there has to be written, then, unless it is not the repository's."""
        if path.startswith(("..", "/")):
            return place(path)  # where nothing is: the link is dead
        if (ROOT / path).is_dir():
            path = f"{path}/README.md" if (ROOT / path / "README.md").is_file() else f"{path}/{LISTING}"
        self.needed.add(path)
        return place(path)

    def write(self, page: Page, navigation: Groups) -> None:
        write_whole(self.out / page.path, pages.whole(page, navigation))
        self.written.add(page.path)

    def write_needed(self, navigation: Groups) -> None:
        """What the pages lead to, and what that leads to: pictures as they are, texts as pages."""
        while missing := sorted(path for path in self.needed if place(path) not in self.written):
            for path in missing:
                file, where = ROOT / path, place(path)
                self.written.add(where)
                if file.name == LISTING:
                    self.write(_listing(path, self.place), navigation)
                elif not file.is_file():
                    continue  # and the link is dead
                elif where == path:
                    write_whole(self.out / where, file.read_bytes())
                else:
                    self.write(pages.of_text(where, path, file.read_text()), navigation)


def _notebook(run: Path, path: Path, result: Mapping[str, Any] | None, lead: pages.Place) -> Page:
    """A notebook as it was executed, or as it is where it was not; its title is short, with its number."""
    executed = path if result is None else run / path.name
    try:
        cells = notebooks.cells_of(executed)
    except Exception as error:  # nbformat has many for what is no notebook, or is not there
        raise _foreign(executed, f"not readable as a notebook ({error})") from error
    page = pages.of_notebook(executed, cells, lead, _told(result))
    return replace(page, title=f"{path.stem[:2]} {page.title.partition(':')[0]}")


def _told(result: Mapping[str, Any] | None) -> str:
    """What a reader has to know of how the notebook ran, as HTML."""
    if result is None:
        return '<p class="note">This notebook was not executed for this site: it has no outputs here.</p>'
    if result["ok"]:
        return ""
    return (
        f'<p class="failed"><b>This notebook failed.</b> <a href="#failed">{markup(_where(result))}</a></p>'
    )


def _where(result: Mapping[str, Any]) -> str:
    cell = "" if result["cell"] is None else f"In [{result['cell']}] "
    return f"{cell}{result['error']}"


def _failure(result: Mapping[str, Any]) -> str:
    return f"{result['name']}: {_where(result)}"


def _document(path: Path, lead: pages.Place) -> Page:
    """One of the repository's documents."""
    origin = path.relative_to(ROOT).as_posix()
    return pages.of_markdown(place(origin), origin, path.read_text(), lead)


def _listing(path: str, lead: pages.Place) -> Page:
    """The files of a folder that is linked to and has no README."""
    folder = (ROOT / path).parent
    names = sorted(one.name for one in folder.iterdir() if not one.name.startswith(("__pycache__", ".")))
    items = "".join(f'<li><a href="{markup(name)}">{markup(name)}</a></li>' for name in names)
    return pages.of_html(
        place(path), path, f"<h1>{markup(path.rpartition('/')[0])}</h1><ul>{items}</ul>", lead
    )


def _index(report: Mapping[str, Any], groups: Groups, lead: pages.Place) -> Page:
    """The first page: the README's beginning, its table of the course and its figures, what else is here."""
    readme = (ROOT / "README.md").read_text()
    intro, *parts = re.split(r"^## ", readme, flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    if COURSE not in sections:
        raise LabError(f"README.md: has no section {COURSE!r}, which the site's first page shows; restore it")
    passed = sum(result["ok"] for result in report["results"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    when = (report["finished"] or report["started"])[:10]
    executed = (
        f"What you see was executed on {when} on the {report['engine']} engine ({versions}): "
        f"{passed} of {len(report['results'])} notebooks passed."
    )
    paragraph = f"<p>{markup(executed)}</p>"  # its names are text, not Markdown
    shown = set(FIGURE.findall(intro))
    figures = "\n".join(
        f'<figure><a href="{path}"><img src="{path}" alt="{markup(alt)}"></a>'
        f"<figcaption>{markup(alt)}</figcaption></figure>"
        for alt, path in FIGURE.findall(readme)
        if (alt, path) not in shown
    )
    listed = [f"- [{page.title}]({page.origin}): {page.about}" for _, some in groups[1:] for page in some]
    text = [
        *[intro, f"## {COURSE}", paragraph, sections[COURSE], "## Figures"],
        *[f'<div class="gallery">\n{figures}\n</div>', "## Also here", "\n".join(listed)],
    ]
    return replace(pages.of_markdown("index.html", "README.md", "\n\n".join(text), lead), title="Overview")
