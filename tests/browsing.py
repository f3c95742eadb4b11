"""Pages as they are seen in a real browser: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from helpers.commands.keeping import BROWSERS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MISSING = (
    f"no {', '.join(BROWSERS)} is on PATH; `apt-get install chromium` brings one "
    "(LAB_TEST_BROWSER=1 makes its absence a failure)"
)
ARGUMENTS = [
    *["--disable-gpu", "--disable-quic", "--disable-background-networking"],
    *["--disable-component-update", "--disable-sync", "--no-first-run"],
    # What asks for another machine shall fail, also where there is a network.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
HERE = {"127.0.0.1", "localhost", None}
"""The hosts of this machine; None is that of what has none, such as a file or data."""
GIVE_UP_SECONDS = 300
"""When a page that does not show what it should is given up: only a page that is broken takes so long."""


def executable() -> str | None:
    """The path of the system's Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def launched(arguments: list[str]) -> Iterator["Browser"]:
    """Start the system's Chromium, windowless; where there is none skip, or fail with LAB_TEST_BROWSER=1.

    Args:
        arguments: The browser's own, on its command line.
    """
    found = executable()
    if not found:
        (pytest.fail if os.environ.get("LAB_TEST_BROWSER") else pytest.skip)(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox, as Playwright does unless told otherwise: root can have none.
        started = playwright.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()


# Not for the session: as long as it is there, its thread has a running event loop, and others need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium, to which no other machine is there."""
    with launched(ARGUMENTS) as started:
        yield started


@contextmanager
def visit(browser: "Browser", url: str, allowed: tuple[str, ...] = (), **options: Any) -> Iterator["Page"]:
    """A page in a context of its own (its options: `Browser.new_context`), closed at the end.

    Fails, at the end, if it had anything to complain about: an error on the console, one that nobody caught,
    a request that failed or was refused, or any request to another machine. What contains a text of `allowed`
    is no complaint, unless it left this machine.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(1_000 * GIVE_UP_SECONDS)
    page = context.new_page()
    complaints: list[str] = []
    away: list[str] = []

    def asked(url: str) -> None:
        if urlsplit(url).hostname not in HERE:
            away.append(url)

    context.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda socket: asked(socket.url))
    context.on("weberror", lambda error: complaints.append(f"uncaught: {error.error}"))
    context.on(
        "console",
        lambda message: (
            complaints.append(f"console: {message.text} ({message.location.get('url')})")
            if message.type == "error"
            else None
        ),
    )
    context.on(
        "requestfailed",
        lambda request: complaints.append(f"failed: {request.method} {request.url} ({request.failure})"),
    )
    context.on(
        "response",
        lambda response: (
            complaints.append(f"answered {response.status}: {response.request.method} {response.url}")
            if response.status >= 400
            else None
        ),
    )
    try:
        page.goto(url)
        yield page
        assert away == []
        assert [told for told in complaints if not any(part in told for part in allowed)] == []
    finally:
        context.close()
