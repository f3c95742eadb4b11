"""The API reference: a page of every public module, from its docstrings, by pdoc."""

# mypy: allow-untyped-calls

import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup

from helpers.site.pages import TEMPLATES, Page, relative

__all__ = ["pages"]

PRIVATE = ["cli", "commands", "engines.tied", "fleet_worker", "merging", "site"]
"""Programs, the command line and this site: nobody imports them."""
FIELD = re.compile(r"\n(?=[a-z_]+(, [a-z_]+)*: )")
"""Where the line of a docstring begins that says what a parameter or a column is."""


def pages(root: Path) -> Iterator[Page]:
    """The pages, `helpers` first; their links are those of the site already."""
    import pdoc

    import helpers

    pdoc.render.configure(
        docformat="markdown",
        include_undocumented=False,
        search=False,
        show_source=False,
        template_directory=TEMPLATES,
    )
    known = [module.name for module in pkgutil.walk_packages(helpers.__path__, "helpers.")]
    private = tuple(f"helpers.{name}" for name in PRIVATE)
    public = ["helpers", *(name for name in known if not name.startswith(private))]
    modules = {name: pdoc.doc.Module.from_name(name) for name in public}
    for name, module in modules.items():
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of annotations that are good for mypy only, such as pd.Series[bool]
            html = pdoc.render.html_module(module, modules).replace(f"{root}/", "")
        path = f"api/{name.replace('.', '/')}.html"
        soup = BeautifulSoup(html, "html.parser")
        for paragraph in soup.select(".docstring p"):
            listed = FIELD.sub("<br>", str(paragraph))
            paragraph.replace_with(BeautifulSoup(listed, "html.parser"))
        for heading in soup.select(".inherited > h5"):
            heading.name = "p"  # of the fifth level, with none above it
        if text := soup.find("main"):
            text.name = "div"  # the page around it is the main one
        origin = Path(str(module.source_file)).relative_to(root).as_posix()
        link = soup.new_tag("a", href=relative(path, f"{origin}.html"))
        link.string = origin
        if title := soup.find("h1"):
            title.insert_after(link)
        first = module.docstring.partition("\n")[0]
        found = [str(element["id"]) for element in soup.find_all("section", id=True)]
        sections = tuple((one, one) for one in found)
        for pre in soup.find_all("pre"):
            pre["tabindex"] = "0"
        yield Page(path, origin, name.removeprefix("helpers."), str(soup), first, sections)
