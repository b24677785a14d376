"""The pages as people use them: a real Chromium over a running node with simulated studies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser import Watched, chromium
from tests.node import Node, running_node
from tests.report_cases import write_ct
from triage_node.simulate import write_case

PATIENCE_MS = 60_000
"""WebGL2 without a graphics card, beside other tests, takes its time."""
expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Pages:
    """A running node and a browser that is let in."""

    node: Node
    context: BrowserContext
    address: str

    def open(self, path: str = "/") -> Watched:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        watched = Watched(page)
        page.goto(self.address + path)
        return watched


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated studies, a subdural and a head without blood; and single slices, which are not analysed."""
    folder = tmp_path_factory.mktemp("cases")
    for name, subtype, seed in (("bleed", "SDH", 5), ("none", "NONE", 7)):
        write_case(folder / name, subtype=subtype, seed=seed, created_at=datetime.now(UTC))
    for number, name in enumerate(("part", "late"), start=1):
        uids = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        write_ct(folder / name / "dicom", slices=1, elements=uids | {"SOPInstanceUID": f"1.2.{number}.1.1"})
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, cases: Path, browser: Browser) -> Iterator[Pages]:
    with running_node(tmp_path_factory.mktemp("node"), destinations={}) as node:
        for name in ("none", "bleed", "part"):
            node.send(cases / name / "dicom")
        node.wait_for(lambda: sum(node.status()["outcomes"].values()) == 3, what="three results")
        context = browser.new_context(viewport={"width": 1010, "height": 420})
        link = subprocess.run(
            [sys.executable, "-m", "triage_node", "link", "--config", str(node.config_path)],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        ).stdout.strip()
        page = context.new_page()
        page.goto(link)
        expect(page).to_have_title("(1) Worklist")
        page.close()
        yield Pages(node=node, context=context, address=link.partition("/enter")[0])
        context.close()


@pytest.fixture
def without_scripts(pages: Pages, browser: Browser) -> Iterator[BrowserContext]:
    """The same user in a browser that runs no scripts: all but the slices is there, too."""
    with browser.new_context(java_script_enabled=False) as context:
        context.add_cookies(pages.context.cookies())  # type: ignore[arg-type]
        yield context


def greenish(screenshot: bytes) -> int:
    """Pixels of the colour of subdural blood."""
    red, green, blue = np.asarray(Image.open(BytesIO(screenshot)).convert("RGB"), np.int16).transpose(2, 0, 1)
    return int(np.count_nonzero((green - red > 60) & (blue - red > 40)))


def test_the_urgent_study_is_first_and_opens_with_its_picture_its_slices_and_its_segments(pages: Pages) -> None:
    watched = pages.open()
    page = watched.page
    expect(page.locator("tbody tr").first).to_have_id("study-2")
    expect(page.locator("#study-2 .flag")).to_have_text("STAT")
    expect(page.locator("#study-2 .finding")).to_contain_text("Subdural")
    expect(page.locator("#study-3 .finding")).to_have_text("Not analysed: too few slices to cover a head")
    expect(page.locator("tbody tr").last.locator(".flag")).to_have_text("Routine")
    page.locator("tbody tr").first.locator("a.open").click()
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("body[data-viewer=ready]")).to_be_visible()
    canvas, at = page.locator("#canvas"), page.locator("#slice")
    assert greenish(canvas.screenshot()) > 50
    page.get_by_label("Subdural", exact=True).uncheck()
    assert greenish(canvas.screenshot()) == 0
    shown = int(at.input_value())
    canvas.hover()
    page.mouse.wheel(0, 100)
    expect(at).to_have_value(str(shown + 1))
    canvas.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(at).to_have_value(str(shown - 1))
    page.locator("#strip").click(position={"x": 2, "y": 10})
    expect(at).to_have_value("0")
    page.locator("#window").select_option(label="bone")
    expect(page.locator("#levels")).to_have_text("-800 to 2000 HU")
    assert watched.faults == []


def test_a_reader_acknowledges_disagrees_and_marks_as_read(pages: Pages, without_scripts: BrowserContext) -> None:
    page = without_scripts.new_page()
    page.goto(pages.address + "/study/2")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".acts")).to_contain_text("seen by this-machine")
    subdural = page.get_by_role("form", name="Subdural: is it present?")
    subdural.get_by_label("Comment on Subdural").fill("motion, <b>not</b> blood")
    subdural.get_by_role("button", name="no").click()
    expect(page.locator(".lines").first).to_contain_text("subdural not present (disagrees)")
    expect(page.locator("q")).to_have_text("motion, <b>not</b> blood")
    page.get_by_role("button", name="Mark as read").click()
    page.goto(pages.address + "/")
    expect(page.locator("#study-1")).to_be_visible()
    expect(page.locator("#study-2")).to_have_count(0)
    page.goto(pages.address + "/?read=true")
    page.locator("#open-2").click()
    page.get_by_role("button", name="Not read").click()
    expect(page.get_by_role("button", name="Mark as read")).to_be_visible()


def test_a_new_study_appears_while_another_row_keeps_its_focus(pages: Pages, cases: Path) -> None:
    watched = pages.open()
    page = watched.page
    link = page.locator("#open-1")
    link.focus()
    page.evaluate("() => { document.querySelector('#study-1').marked = true; }")
    pages.node.send(cases / "late" / "dicom")
    expect(page.locator("#study-4 .flag")).to_have_text("Not analysed")
    expect(link).to_be_focused()
    assert page.evaluate("() => document.querySelector('#study-1').marked"), "an unchanged row stays what it was"
    page.keyboard.press("k")
    assert page.evaluate("() => document.activeElement.id") != "open-1"
    assert watched.faults == []


@pytest.mark.parametrize("path", ["/", "/study/2"])
def test_pages_are_accessible_in_the_light_and_in_the_dark(pages: Pages, path: str) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    pages.context.route("**/ct.nii.gz", lambda route: route.abort())  # the picture stays, which saves half a minute
    watched = pages.open(path)
    watched.page.emulate_media(color_scheme="light")
    assert watched.serious(axe) == []
    watched.page.emulate_media(color_scheme="dark")
    assert watched.serious(axe) == []
    pages.context.unroute("**/ct.nii.gz")


def test_the_worklist_reads_without_scripts(pages: Pages, without_scripts: BrowserContext) -> None:
    page = without_scripts.new_page()
    page.goto(pages.address + "/")
    expect(page.locator("tbody .flag").first).to_have_text("STAT")
    page.get_by_label("Show").select_option("ROUTINE")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody .flag").first).to_have_text("Routine")
    assert page.url.endswith("/?show=ROUTINE")
