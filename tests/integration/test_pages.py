"""The pages as people use them: a real Chromium over a running node with a study of every end.

One of each subtype, one without blood, one that is not analysed and one that failed, read by a bundle that finds all
five (tests.bands). The node keeps its rows in PostgreSQL, those of other tests in SQLite.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.bands import write_band_bundle, write_head
from tests.browser import chromium, visit, visitor, without_scripts
from tests.node import Node, running_node
from tests.postgres import Cluster
from tests.report_cases import write_ct
from triage_node.testing import DemoPacs

SENT = (
    "none", "slice", "poison", "intraventricular", "subarachnoid", "subdural", "intraparenchymal", "epidural"
)  # fmt: skip
"""The patients, in the order of their studies' ids, from 1 on."""
SAID = {
    "subdural": ("STAT", "Subdural, 40 mL, right"),
    "intraparenchymal": ("STAT", "Intraparenchymal, 17 mL, right"),
    "epidural": ("STAT", "Epidural, 32 mL, left"),
    "intraventricular": ("HIGH", "Intraventricular, 0.9 mL, midline"),
    "subarachnoid": ("HIGH", "Subarachnoid, 0.8 mL, left"),
    "slice": ("Not analysed", "Not analysed: too few slices to cover a head"),
    "poison": ("Failed", "The analysis failed (InferenceError)"),
    "none": ("Routine", "No hemorrhage detected"),
}
"""What their rows say, in reading order."""
LATE = f"#study-{len(SENT) + 1}"
"""The row of a study that comes while somebody looks at the list."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each patient, and one more: late."""
    folder = tmp_path_factory.mktemp("cases")
    for name in set(SENT) - {"slice"}:
        write_head(folder / name, name=name, blood=None if name == "none" else name)
    for number, name in enumerate(("slice", "late"), start=1):
        uids = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        elements = uids | {"SOPInstanceUID": f"1.2.{number}.1.1", "PatientName": name}
        write_ct(folder / name, slices=1, elements=elements)
    return folder


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, cases: Path, postgresql: Cluster) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    bundle = write_band_bundle(folder / "bundle")
    with (
        DemoPacs(folder / "pacs") as pacs,
        running_node(
            folder / "node",
            destinations={"PACS": pacs.port},
            bundle=bundle,
            attempts=1,
            database=postgresql.empty(),
        ) as started,
    ):
        for name in SENT:
            started.send(cases / name)
        started.wait_for(lambda: sum(started.status()["outcomes"].values()) == len(SENT), what="all results")
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def context(browser: Browser, node: Node) -> Iterator[BrowserContext]:
    with visitor(browser, node, viewport={"width": 1010, "height": 420}) as opened:
        yield opened


def row_of(name: str) -> str:
    return f"#study-{SENT.index(name) + 1}"


def greenish(screenshot: bytes) -> int:
    """Pixels of the colour of subdural blood."""
    red, green, blue = np.asarray(Image.open(BytesIO(screenshot)).convert("RGB"), np.int16).transpose(2, 0, 1)
    return int(np.count_nonzero((green - red > 60) & (blue - red > 40)))


def test_the_link_of_the_command_lets_in_to_a_list_that_says_what_to_read_first(node: Node, browser: Browser) -> None:
    command = [sys.executable, "-m", "triage_node", "link", "--config", str(node.config_path)]
    link = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.strip()
    page = browser.new_page()
    page.goto(link)
    expect(page).to_have_title("(3) Worklist")
    order = [f"#{row.get_attribute('id')}" for row in page.locator("tbody tr").all()]
    assert [row for row in order if row != LATE] == [row_of(name) for name in SAID]
    for name, (flag, finding) in SAID.items():
        expect(page.locator(row_of(name)).locator(".flag")).to_have_text(flag)
        expect(page.locator(row_of(name)).locator(".finding")).to_have_text(finding)
        expect(page.locator(row_of(name)).locator(".patient a")).to_have_text(name)
        expect(page.locator(row_of(name)).locator(".delivery")).to_have_text("in pacs")
    page.context.close()


def test_the_urgent_study_opens_with_its_picture_its_slices_and_its_segments(context: BrowserContext) -> None:
    page, watched = visit(context, "/")
    held: list[Route] = []
    looked = Event()
    # the slices may come before anybody has looked at the picture
    page.route("**/ct.nii.gz", lambda route: route.continue_() if looked.is_set() else held.append(route))
    page.locator("tbody tr").first.locator("a.open").click()
    expect(page.locator("#picture")).to_be_visible()
    looked.set()  # to take the rule back would answer what it holds, at times before us
    for route in held:
        route.continue_()
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


def test_a_reader_acknowledges_disagrees_and_marks_as_read(node: Node, context: BrowserContext) -> None:
    with without_scripts(context, node) as page:
        _read(page)


def _read(page: Page) -> None:
    page.goto(f"/study/{SENT.index('subdural') + 1}")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".acts")).to_contain_text("seen by this-machine")
    subdural = page.get_by_role("form", name="Subdural: is it present?")
    subdural.get_by_label("Comment on Subdural").fill("motion, <b>not</b> blood")
    subdural.get_by_role("button", name="no").click()
    expect(page.locator(".lines").first).to_contain_text("subdural not present (disagrees)")
    expect(page.locator("q")).to_have_text("motion, <b>not</b> blood")
    page.get_by_role("button", name="Mark as read").click()
    page.goto("/")
    expect(page.locator(row_of("epidural"))).to_be_visible()
    expect(page.locator(row_of("subdural"))).to_have_count(0)
    page.goto("/?read=true")
    page.locator(row_of("subdural")).locator("a.open").click()
    page.get_by_role("button", name="Not read").click()
    expect(page.get_by_role("button", name="Mark as read")).to_be_visible()


def test_a_new_study_appears_while_another_row_keeps_its_focus(
    node: Node, context: BrowserContext, cases: Path
) -> None:
    page, watched = visit(context, "/")
    row = page.locator(row_of("none"))
    link = row.locator("a.open")
    link.focus()
    row.evaluate("row => { row.marked = true; }")
    node.send(cases / "late")
    expect(page.locator(LATE).locator(".flag")).to_have_text("Not analysed")
    expect(link).to_be_focused()
    assert row.evaluate("row => row.marked"), "an unchanged row stays what it was"
    page.keyboard.press("k")
    expect(link).not_to_be_focused()
    assert watched.faults == []


@pytest.mark.parametrize("path", ["/", f"/study/{SENT.index('subdural') + 1}", f"/study/{SENT.index('poison') + 1}"])
def test_pages_are_accessible_in_the_light_and_in_the_dark_and_no_wider_than_a_phone(
    context: BrowserContext, path: str
) -> None:
    context.route("**/ct.nii.gz", lambda route: route.abort())  # the picture stays, which saves half a minute
    page, watched = visit(context, path)
    assert watched.serious() == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.unroute("**/ct.nii.gz")


def test_the_worklist_reads_without_scripts(node: Node, context: BrowserContext) -> None:
    with without_scripts(context, node) as page:
        page.goto("/")
        expect(page.locator("tbody .flag").first).to_have_text("STAT")
        page.get_by_label("Show").select_option("ROUTINE")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("tbody .flag").first).to_have_text("Routine")
        assert page.url.endswith("/?show=ROUTINE")
