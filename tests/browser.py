"""A real Chromium (Debian's), driven by Playwright."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.tools import require_tool

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


class Watched:
    """A page whose console must stay clean: no error of a script, nothing that the content security policy stopped."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)

    def serious(self, axe: str) -> list[dict[str, Any]]:
        """What axe-core finds that is serious or critical, WCAG 2 AA."""
        # evaluated by the debugger: the page's own policy admits no such script
        self.page.evaluate(axe)
        told = self.page.evaluate(
            "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}).then(r => r.violations)"
        )
        return [
            {"id": each["id"], "help": each["help"], "at": json.dumps([node["target"] for node in each["nodes"]][:3])}
            for each in told
            if each["impact"] in ("serious", "critical")
        ]
