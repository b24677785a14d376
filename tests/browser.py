"""A real Chromium (Debian's), driven by Playwright."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.node import Node
from tests.tools import require_tool
from triage_node.store import access

PATIENCE_MS: Final = 60_000
"""WebGL2 without a graphics card, beside other tests, takes its time."""
expect.set_options(timeout=PATIENCE_MS)

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-angle=swiftshader",  # WebGL2 without a graphics card
    "--enable-unsafe-swiftshader",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_tool("chromium"), args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visitor(browser: Browser, node: Node, **options: Any) -> Iterator[BrowserContext]:
    """Somebody whom a one-time link let in."""
    with browser.new_context(base_url=f"http://127.0.0.1:{node.port('web')}", **options) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"/enter?key={access.make_link(node.database, now=datetime.now(UTC))}")
        page.close()
        yield context


@contextmanager
def without_scripts(context: BrowserContext, node: Node) -> Iterator[Page]:
    """A page of the same visitor in a browser that runs no scripts."""
    assert context.browser is not None
    base_url = f"http://127.0.0.1:{node.port('web')}"
    with context.browser.new_context(java_script_enabled=False, base_url=base_url) as without:
        without.set_default_timeout(PATIENCE_MS)
        without.add_cookies(context.cookies())  # type: ignore[arg-type]
        yield without.new_page()


def visit(context: BrowserContext, path: str) -> tuple[Page, Watched]:
    """A new page, watched from its first byte on."""
    page = context.new_page()
    watched = Watched(page)
    page.goto(path)
    return page, watched


class Watched:
    """A page whose console must stay clean: no error of a script, nothing that the content security policy stopped."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)

    def serious(self) -> list[dict[str, Any]]:
        """What axe-core finds that is serious or critical, WCAG 2 AA, in the light or in the dark."""
        # evaluated by the debugger: the page's own policy admits no such script
        self.page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        return [*self._serious("light"), *self._serious("dark")]

    def _serious(self, scheme: str) -> list[dict[str, Any]]:
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        told = self.page.evaluate(
            "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}).then(r => r.violations)"
        )
        return [
            {"id": each["id"], "in": scheme, "at": json.dumps([node["target"] for node in each["nodes"]][:3])}
            for each in told
            if each["impact"] in ("serious", "critical")
        ]
