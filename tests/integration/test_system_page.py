"""The administrator's page in a real Chromium: a refused caller appears, a dead letter is sent again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser import chromium, visit, visitor, without_scripts
from tests.node import Node, running_node
from tests.report_cases import write_ct
from tests.tools import require_tool
from triage_node.testing import DemoPacs

REFUSED = 0xA900  # data set does not match SOP class: hopeless, so the first try is the last


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPacs]:
    with DemoPacs(tmp_path_factory.mktemp("pacs"), statuses=[REFUSED, REFUSED]) as started:
        yield started


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: DemoPacs) -> Iterator[Node]:
    """A node that could not send the two objects of its only result: a slice that is not analysed."""
    folder = tmp_path_factory.mktemp("node")
    write_ct(folder / "dicom", slices=1, elements={"PatientName": "SENTINEL^NAME"})
    with running_node(folder, destinations={"PACS": pacs.port}) as started:
        started.send(folder / "dicom")
        started.wait_for(lambda: len(started.status()["dead_letters"]) == 2, what="two dead letters")
        yield started


@pytest.fixture(scope="module")
def context(node: Node) -> Iterator[BrowserContext]:
    """A browser that is let in."""
    with chromium() as browser, visitor(browser, node) as opened:
        yield opened


def test_a_refused_caller_appears_with_its_line_while_the_page_keeps_place_and_focus(
    node: Node, context: BrowserContext
) -> None:
    page, watched = visit(context, "/system")
    expect(page.locator("#refusals")).to_contain_text("None.")
    expect(page.locator("#processes tbody tr")).to_have_count(4)
    page.set_viewport_size({"width": 900, "height": 300})
    disk = page.locator("#disk")
    disk.evaluate("element => { element.marked = true; element.scrollIntoView(); }")
    link = page.get_by_role("link", name="Worklist")
    link.evaluate("element => element.focus({ preventScroll: true })")
    place = page.evaluate("scrollY")
    stranger = [require_tool("echoscu"), "-aet", "<b>BOO</b>", "-aec", "TRIAGE", "127.0.0.1", str(node.port())]
    assert subprocess.run(stranger, check=False, capture_output=True, timeout=20).returncode != 0
    expect(page.locator("#refusals tbody th")).to_contain_text("<b>BOO</b>")
    advice = f'add to {node.config_path}: [[source]] ae_title = "<b>BOO</b>" hosts = ["127.0.0.1"]'
    expect(page.locator("#refusals code")).to_have_text(advice)
    expect(link).to_be_focused()
    assert (page.evaluate("scrollY"), disk.evaluate("element => element.marked")) == (place, True)
    assert place > 0
    assert watched.faults == []


def test_a_dead_letter_is_sent_again_by_its_button(node: Node, pacs: DemoPacs, context: BrowserContext) -> None:
    page, watched = visit(context, "/system")
    letters = page.locator("#letters tbody tr")
    expect(letters).to_have_count(2)
    expect(letters.first).to_contain_text("answered 0xA900")
    expect(page.locator("#destinations tbody tr")).to_contain_text("some results will not be sent again by themselves")
    assert "SENTINEL" not in page.content()
    colleague, _ = visit(context, "/system")
    other = colleague.locator("#letters tbody tr").last.get_by_role("button", name="Send again")
    other.focus()
    letters.first.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("status")).to_have_text("One dead letter will be sent again.")
    assert len(pacs.wait_for(bool, 30)) == 1
    expect(letters).to_have_count(1)
    expect(colleague.locator("#letters tbody tr")).to_have_count(1)
    expect(other).to_be_focused()
    page.get_by_role("button", name="Send all again").click()
    pacs.wait_for(lambda held: len(held) == 2, 30)
    expect(page.locator("#letters")).to_contain_text("None: every result was sent or is on its way.")
    expect(page.locator("#destinations tbody tr")).to_contain_text("everything is there")  # without loading it again
    assert watched.faults == []


def test_the_page_reads_without_scripts(node: Node, context: BrowserContext) -> None:
    with without_scripts(context, node) as page:
        page.goto("/system")
        expect(page.locator("#processes")).to_contain_text(f"port {node.port()}, AE title TRIAGE")


@pytest.mark.parametrize("path", ["/system", "/figures", "/login", "/nowhere"])
def test_pages_are_accessible_in_the_light_and_in_the_dark(context: BrowserContext, path: str) -> None:
    _, watched = visit(context, path)
    assert watched.serious() == []
