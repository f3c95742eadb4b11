"""In a real browser: JupyterLab as `lab open` starts it, used as a learner would."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial

import browsing
import pytest
from browsing import visit


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
