"""Whether each link of a site leads somewhere, and nothing of it comes from elsewhere."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Checked", "check"]

LINKING = {"href", "src", "poster", "data", "action", "srcset"}
"""Attributes that name another file."""
OUTSIDE = re.compile(r"@import|url\(\s*['\"]?(?!data:)")
"""In a style: what would be fetched."""


@dataclass(frozen=True)
class Checked:
    """What a site's links come to: `pages` counts them, `dead` says of each bad link where it stands and why.

    `external` are the addresses outside of the site, each once, in order.
    """

    pages: int
    dead: tuple[str, ...]
    external: tuple[str, ...]


PLAIN = re.compile(r'<span class="[^"]*">|</span>')
"""Of coloured code: by far the most elements of a page, and none of them links."""


class _Links(HTMLParser):
    """The ids of one document, what it links to, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []  # the element, and the address
        self.styles = False
        self.fetched: list[str] = []
        self.feed(PLAIN.sub("", text))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.styles = tag == "style"
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in LINKING:
                self.links.append((tag, value or ""))

    def handle_endtag(self, tag: str) -> None:
        self.styles = False

    def handle_data(self, data: str) -> None:
        if self.styles:
            self.fetched += OUTSIDE.findall(data)


def check(folder: Path) -> Checked:
    """Follow every link of every page in the folder.

    One is good if it leads to a file of the folder, and to an anchor that is there, or is an https link to
    elsewhere. What a page shows or runs must not come from elsewhere, and an id must not be there twice.
    """
    pages = {path: _Links(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    root, dead, external = folder.resolve(), [], set()
    for path, page in pages.items():
        here = path.relative_to(folder).as_posix()
        dead += [f"{here}: a style fetches from elsewhere ({told})" for told in page.fetched]
        dead += [f"{here}: two elements have the id {one!r}" for one in sorted(_twice(page.ids))]
        for tag, address in page.links:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                external.add(address)
                if tag != "a":
                    dead.append(f"{here}: {tag} fetches {address} from elsewhere")
                elif parts.scheme != "https":
                    dead.append(f"{here}: {address} is not https")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.is_relative_to(root) or not target.is_file():
                dead.append(f"{here}: {address or 'an empty link'} leads to no file of the site")
            elif parts.fragment and target.suffix == ".html":
                there = pages[folder / target.relative_to(root)]
                if unquote(parts.fragment) not in there.ids:
                    dead.append(f"{here}: {address} leads to no anchor")
    return Checked(len(pages), tuple(dead), tuple(sorted(external)))


def _twice(ids: list[str]) -> set[str]:
    return {one for one in ids if ids.count(one) > 1} if len(ids) > len(set(ids)) else set()
