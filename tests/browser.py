"""A real browser for tests of pages: Debian's Chromium through Playwright.

A `conftest.py` takes the fixtures by name: `from browser import browser, page`. The browser lives as long as a module of
tests and no longer, because Playwright's synchronous interface keeps an event loop running in the thread, which no
asynchronous test may meet: a module that uses these fixtures holds no asynchronous tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SLOW_MS = 60_000
expect.set_options(timeout=_SLOW_MS)  # five seconds otherwise, too few on a loaded machine


class OpenPage(Protocol):
    """Opens a page in a browser profile of its own."""

    def __call__(
        self, url: str | None = None, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> Page: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs the program chromium to open pages")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[OpenPage]:
    """A factory of pages. The test fails when one of them reports an error or asks anything of another machine."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def stays(url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in {"file", "data", "blob", "about"} or parts.hostname in _LOOPBACK

    def open_page(
        url: str | None = None, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
        )
        contexts.append(context)
        context.set_default_timeout(_SLOW_MS)
        # A request that would leave is counted and stopped: nothing goes out, whatever a page says.
        context.route(lambda asked: not stays(asked), lambda route: route.abort())
        context.on("request", lambda r: None if stays(r.url) else complaints.append(f"asks for {r.url}"))
        context.on("requestfailed", lambda r: complaints.append(f"cannot load {r.url}"))
        context.on("weberror", lambda e: complaints.append(f"script error: {e.error}"))
        context.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
        made = context.new_page()
        if url is not None:
            made.goto(url)
        return made

    yield open_page
    for context in contexts:
        context.close()
    if complaints:
        pytest.fail("the page: " + "; ".join(complaints))


def shaded_edges(page: Page, region: Locator) -> tuple[bool, bool]:
    """Whether a region that scrolls sideways shows at its left and at its right edge that there is more behind it."""
    region.scroll_into_view_if_needed()
    region.evaluate("element => { for (const inside of element.children) inside.style.visibility = 'hidden'; }")
    box = region.bounding_box()
    assert box is not None
    top, sides = max(box["y"], 0) + 4, (box["x"], box["x"] + box["width"] - 24)

    def seen() -> list[bytes]:
        return [page.screenshot(clip={"x": x, "y": top, "width": 24, "height": 12}) for x in sides]

    shown = seen()
    region.evaluate("element => { element.style.background = 'none'; }")
    plain = seen()
    region.evaluate("element => { element.style.background = ''; }")
    left, right = (one != other for one, other in zip(shown, plain, strict=True))
    return left, right


BROKEN_WORDS = """region => {
  const found = [], walk = document.createTreeWalker(region, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data;
    for (const word of text.matchAll(/[A-Za-z]{2,20}(?![A-Za-z])/g)) {
      if (/[A-Za-z]/.test(text[word.index - 1] || "")) { continue; }
      const range = document.createRange();
      range.setStart(walk.currentNode, word.index);
      range.setEnd(walk.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) { found.push(word[0]); }
    }
  }
  return found;
}"""
"""Run on an element: words of up to twenty letters in it that stand on two lines. This browser comes without hyphenation."""


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical on a page: rule, elements and reason, one line a rule."""
    # Without its preloading: it would ask for style sheets by script, which no page opened from a disk may.
    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: "
        + "; ".join(f"{' '.join(map(str, node['target']))} {node['failureSummary']}" for node in rule["nodes"][:5])
        for rule in found
        if rule["impact"] in {"serious", "critical"}
    ]
