"""A page: HTML made of a notebook, a Markdown text or a file, with the one template around it.

A page holds its style, its script and a notebook's figures in itself and asks for nothing from elsewhere, so
that it can be read from a disk, and be sent to somebody.
"""

# mypy: allow-untyped-calls
# (nbconvert and nbformat carry no annotations)

import functools
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import latex2mathml.converter
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from mistune import InlineParser
from mistune.plugins import import_plugin
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
    MathInlineParser,
)
from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import TextLexer, get_lexer_for_filename  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

from helpers.formatting import markup, plain

__all__ = ["Page", "Place", "of_html", "of_markdown", "of_notebook", "of_text", "slug", "whole"]

TEMPLATES = Path(__file__).parent / "templates"
SITE = "Concurrency Lab"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGETS = "application/vnd.jupyter.widget-state+json"
SLIDERS = "Sliders stand here, which need a running notebook: ./lab open"
MARKS = re.compile(r"[*`]|\[([^\]]*)\]\([^)]*\)")
"""Of Markdown: what an alternative text is better without."""


@dataclass(frozen=True)
class Page:
    """One page.

    `path` is its place in the site, `origin` the file of the repository that it was made of. `title` is its
    heading's text, `about` its first sentence. `body` is HTML, `sections` are the id and the text of each
    section.
    """

    path: str
    origin: str
    title: str
    body: str
    about: str = ""
    sections: Sequence[tuple[str, str]] = field(default=())


def slug(text: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


Place = Callable[[str], str | None]
"""The path in the site of a file or folder of the repository; None, where there is none, makes links text."""


def of_notebook(path: Path, cells: Sequence[Any], place: Place, note: str = "", code: bool = True) -> Page:
    """The page of a notebook's cells, as they were executed; `note` is HTML that stands above them.

    code: whether the cells' sources are shown, or what they gave only.
    """
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=_metadata(path))
    _describe(notebook)
    html, _ = _exporter(code).from_notebook_node(notebook)
    page = of_html(f"notebooks/{path.stem}.html", f"notebooks/{path.name}", note + html, place)
    return page if page.title else replace(page, title=path.stem)


def _metadata(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4).metadata


def of_markdown(path: str, origin: str, text: str, place: Place) -> Page:
    """The page of a Markdown text."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    html, _ = _exporter(True).from_notebook_node(notebook)
    return of_html(path, origin, html, place)


def of_text(path: str, origin: str, text: str) -> Page:
    """The page of any other file: its text, coloured where its language is known."""
    try:
        lexer = get_lexer_for_filename(origin)
    except ClassNotFound:
        lexer = TextLexer()
    shown = highlight(text, lexer, HtmlFormatter(nowrap=True))
    body = f'<h1>{markup(origin)}</h1>\n<div class="highlight"><pre tabindex="0">{shown}</pre></div>'
    return Page(path, origin, origin, body)


def of_html(path: str, origin: str, html: str, place: Place) -> Page:
    """The page of HTML: headings get anchors, tables and code a frame that they can be moved in.

    Links from `origin` into the repository become links within the site.
    """
    soup = BeautifulSoup(html, "html.parser")
    taken: dict[str, int] = {}
    sections: list[tuple[str, str]] = []
    for heading in soup.find_all(re.compile("^h[1-6]$")):
        text = " ".join(heading.get_text().split())
        name = slug(text) or "section"
        taken[name] = taken.get(name, -1) + 1
        heading["id"] = name = f"{name}-{taken[name]}" if taken[name] else name
        if heading.name == "h2":
            sections.append((name, text))
        if heading.name != "h1":
            anchor = soup.new_tag("a", href=f"#{name}", attrs={"class": "anchor"})
            anchor["aria-label"] = f"Link to {text}"
            anchor.string = "#"
            heading.append(anchor)
    for table in soup.find_all("table"):
        del table["border"]
        _framed(soup, table, "Table")
    for pre in soup.find_all("pre"):
        pre["tabindex"] = "0"  # so that the keyboard can move what is wider than the page
    for figure in soup.find_all("svg"):
        figure["role"] = "img"
    for attribute in ("href", "src"):
        for element in soup.select(f"[{attribute}]"):
            _lead(element, attribute, path, origin, place)
    if wrong := soup.find(class_="error"):
        wrong["id"] = "failed"
    title = soup.find("h1")
    first = next((p for p in soup.find_all("p") if p.get_text().strip() and not p.find("img")), None)
    about = re.split(r"(?<=[.:])\s", " ".join(first.get_text().split()))[0] if first else ""
    named = " ".join(title.get_text().split()) if title else ""
    return Page(path, origin, named, str(soup), about, tuple(sections))


def _framed(soup: BeautifulSoup, element: Tag, label: str) -> None:
    frame = soup.new_tag("div", attrs={"class": "wide", "role": "region", "tabindex": "0"})
    frame["aria-label"] = label
    element.wrap(frame)


def _lead(element: Tag, attribute: str, path: str, origin: str, place: Place) -> None:
    """Make a link into the repository lead to the site's page of that file."""
    parts = urlsplit(str(element[attribute]))
    if parts.scheme or parts.netloc or not parts.path:
        return
    found = place(posixpath.normpath(posixpath.join(posixpath.dirname(origin), unquote(parts.path))))
    if found is None:
        element.unwrap()
    else:
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        element[attribute] = quote(relative(path, found)) + fragment


def whole(page: Page, navigation: Sequence[tuple[str, Sequence[Page]]] = ()) -> str:
    """The page with everything around it: a whole HTML document, without any character that is not plain.

    navigation: groups of pages, in the order in which they are read; without any the page stands alone.
    """
    order = [one for _, pages in navigation for one in pages]
    at = next((at for at, one in enumerate(order) if one.path == page.path), None)
    rendered = (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            body=Markup(page.body),
            site=SITE,
            navigation=navigation,
            previous=order[at - 1] if at else None,
            following=order[at + 1] if at is not None and at + 1 < len(order) else None,
            relative=lambda path: relative(page.path, path),
        )
    )
    return plain(rendered, keep="\n\t")


def relative(start: str, end: str) -> str:
    """The link from one page of the site to another."""
    return posixpath.relpath(end, posixpath.dirname(start) or ".")


@functools.cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    for name in ("lab.css", "theme.js"):
        environment.globals[name.partition(".")[0]] = Markup((TEMPLATES / name).read_text())
    return environment


@functools.cache
def _exporter(code: bool) -> HTMLExporter:
    return _Exporter(
        template_name="base",
        template_file=str(TEMPLATES / "cells.html.j2"),
        exclude_input=not code,
        exclude_anchor_links=True,
    )


class _Exporter(HTMLExporter):
    """nbconvert's, but that it refers to nothing, and that dollars may be money."""

    def markdown2html(self, context: Any, source: str) -> str:
        renderer = _Renderer(escape=False, exclude_anchor_links=True)
        # Bare addresses stay text: one that speaks of http://127.0.0.1 does not send anybody there.
        plugins = [import_plugin(name) for name in ("strikethrough", "table", "task_lists")]
        return str(MarkdownWithMath(renderer, inline=_Inline(), plugins=plugins).render(source))

    markdown2html.jinja_pass_arg = HTMLExporter.markdown2html.jinja_pass_arg  # type: ignore[attr-defined]


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return str(latex2mathml.converter.convert(body))


class _Inline(MathInlineParser):
    """Formulas as Pandoc tells them from money: no space within the dollars, and no digit after them."""

    SPECIFICATION: ClassVar = MathInlineParser.SPECIFICATION | {
        "inline_math_tex": r"(?<![$\\])\$(?=[^\s$])(?P<math_inline_tex>[^$\n]*?)(?<=[^\s\\])\$(?![\d$])"
    }
    DEFAULT_RULES: ClassVar = ("inline_math_tex", *InlineParser.DEFAULT_RULES)


def _describe(notebook: Any) -> None:
    """Give each figure a text in place of it, and put a figure in the place of each widget.

    The text is the heading that stands nearest above, and what the lesson tells one to look at there.
    """
    heading = look = ""
    models = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if headings := re.findall(r"^#+ +(.*)$", cell.source, re.MULTILINE):
                heading, look = headings[-1], ""
            if found := re.search(r"^\*Look\*: *(.*)$", cell.source, re.MULTILINE):
                look = found[1]
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = {"text/plain": SLIDERS, **_drawn(models)}
            if "data" in output:
                output.metadata["alt"] = MARKS.sub(r"\1", f"{heading}. {look}" if look else heading)
                output.metadata["note"] = SLIDERS if output.data.get("text/plain") == SLIDERS else ""


def _drawn(models: Mapping[str, Any]) -> dict[str, str]:
    """The picture among a notebook's widgets, by its media type."""
    for model in models.values():
        if model.get("model_name") == "ImageModel":
            for buffer in model.get("buffers", []):
                return {f"image/{model['state'].get('format', 'png')}": buffer["data"]}
    return {}
