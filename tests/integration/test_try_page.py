"""Try it, as people use it: a real Chromium over a running node; what is tried stays where it is."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import BrowserContext, Route, expect
from pydicom import dcmread

from tests import ct
from tests.browser import chromium, visit, visitor, without_scripts
from tests.node import Node, running_node
from tests.uploads import zipped
from triage_node.simulate import write_case
from triage_node.store.schema import instance, outbox, result, revision, series, study

DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  const event = new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""

LISTEN = """() => {
  sessionStorage.heard = "";
  new MutationObserver(() => {
    const said = [...document.querySelectorAll("[role=status]")].map((each) => each.textContent.trim()).join();
    if (!sessionStorage.heard.endsWith(said)) sessionStorage.heard += "|" + said;
  }).observe(document.getElementById("give"), { subtree: true, childList: true, characterData: true });
}"""
"""What a screen reader would say of the form."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A simulated subdural bleed, from feet to head."""
    folder = tmp_path_factory.mktemp("case")
    write_case(folder, subtype="SDH", seed=5, created_at=datetime.now(UTC))
    images = folder.rglob("*.dcm")
    return sorted(images, key=lambda path: dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


@pytest.fixture(scope="module")
def archive(case: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "DOE^JANE.zip"
    path.write_bytes(zipped({f"a/{image.name}": image.read_bytes() for image in case} | {"README": b"text"}))
    return path


@pytest.fixture(scope="module")
def picture(case: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice in a brain window, with a white ball in the brain that nobody could miss."""
    image = dcmread(case[len(case) // 2])
    hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    head = np.argwhere(hu > -200).mean(axis=0)
    rows, columns = np.indices(hu.shape)
    hu[np.hypot(rows - head[0], columns - head[1] + 50) < 35] = 68
    path = tmp_path_factory.mktemp("picture") / "slice.png"
    Image.fromarray(np.clip(hu / 80 * 255, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp("node"), "web", "work", destinations={}) as started:
        yield started


@pytest.fixture(scope="module")
def context(node: Node) -> Iterator[BrowserContext]:
    """A browser that is let in."""
    with chromium() as browser, visitor(browser, node, viewport={"width": 1010, "height": 420}) as opened:
        yield opened


def colored(screenshot: bytes) -> int:
    """Pixels that are not grey."""
    return int(np.count_nonzero(np.ptp(np.asarray(Image.open(BytesIO(screenshot)).convert("RGB")), axis=2) > 60))


def their_rows(node: Node) -> int:
    with node.database.reading() as connection:
        tables = (instance, series, revision, result, outbox, study)
        return sum(connection.execute(sa.select(sa.func.count()).select_from(each)).scalar_one() for each in tables)


def test_a_dropped_zip_ends_as_slices_with_their_segments_and_in_no_ledger(
    node: Node, context: BrowserContext, archive: Path
) -> None:
    page, _ = visit(context, "/try")
    slices: list[str] = []

    def note(route: Route) -> None:
        slices.append(route.request.url)
        route.abort()  # to draw them without a graphics card takes half a minute: test_pages.py does, same viewer

    page.route("**/*.nii.gz", note)
    page.evaluate(DROP, [archive.name, base64.b64encode(archive.read_bytes()).decode()])
    expect(page.locator("#trial, .verdict")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("Subdural")
    expect(page.locator(".flag")).to_have_text("STAT")
    expect(page.locator("header.study")).to_contain_text("32 CT images")
    expect(page.locator("header.study")).to_contain_text("1 file was no CT image")
    expect(page.locator("#nothing")).to_be_visible()
    assert colored(page.locator("#picture").screenshot()) > 50, "what is suspected, outlined"
    assert {address.rpartition("/")[2] for address in slices} == {"ct.nii.gz", "mask.nii.gz"}
    assert all(page.request.get(address).ok for address in slices)
    assert their_rows(node) == 0
    assert "DOE" not in node.log
    page.get_by_role("button", name="Remove").click()
    expect(page).to_have_title("Try it")


def test_a_folder_is_dropped_by_mouse_and_its_way_is_announced_in_tenths(
    context: BrowserContext, tmp_path: Path
) -> None:
    ct.save(ct.head(), tmp_path / "DOE^JANE" / "series")
    for number in range(120):  # a browser lists a hundred at a time
        (tmp_path / "DOE^JANE" / f"{number}.txt").write_bytes(b"text")
    page, watched = visit(context, "/try")
    page.evaluate(LISTEN)
    debugger = context.new_cdp_session(page)
    debugger.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    debugger.send("Network.emulateNetworkConditions", slow)
    page.locator("#drop").scroll_into_view_if_needed()
    box = page.locator("#drop").bounding_box()
    assert box is not None
    dropped = {"items": [], "files": [str(tmp_path / "DOE^JANE")], "dragOperationsMask": 1}
    with page.expect_navigation(url="**/try/*"):
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"x": box["x"] + 9, "y": box["y"] + 9}
            debugger.send("Input.dispatchDragEvent", {"type": kind, "data": dropped, **place})
    expect(page.locator("#trial, header.study").first).to_contain_text("20 CT images")
    expect(page.locator("#trial, header.study").first).to_contain_text("120 files were no CT images")
    heard = page.evaluate("sessionStorage.heard").split("|")
    tenths = [f"{share} % sent" for share in range(0, 100, 10)]
    assert [said for said in heard if said in tenths]
    assert set(heard) <= {"", *tenths, "being unpacked and looked through"}
    assert watched.faults == []


def test_a_picture_is_shown_outlined_with_its_caution_and_without_volumes(
    node: Node, context: BrowserContext, picture: Path
) -> None:
    page, watched = visit(context, "/try")
    page.get_by_label("A zip, DICOM files or one picture").set_input_files(picture)
    page.get_by_role("button", name="Try it").click()
    expect(page.locator(".verdict")).to_contain_text("hemorrhage suspected")
    expect(page.locator("p.warning")).to_contain_text("Made from a picture")
    volumes = page.locator(".findings tbody td:nth-of-type(2)")
    assert set(volumes.all_inner_texts()) == {"unknown"}
    stage = page.locator(".stage")
    assert colored(stage.screenshot()) > 50
    page.get_by_label("outlined").uncheck()
    expect(page.locator("img.without")).to_be_visible()
    assert colored(stage.screenshot()) == 0
    assert their_rows(node) == 0
    assert watched.faults == []


def test_what_is_no_ct_is_refused_in_plain_words_and_can_be_chosen_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    page, _ = visit(context, "/try")
    (tmp_path / "some/folder").mkdir(parents=True)
    (tmp_path / "some/folder/notes.zip").write_bytes(zipped({"a.dcm": b"text", "b.txt": b"text"}))
    page.get_by_label("or a folder").set_input_files(tmp_path / "some")
    page.get_by_role("button", name="Try it").click()
    expect(page.get_by_role("alert")).to_have_text("None of the 2 files is a DICOM CT image, PNG or JPEG.")
    expect(page.get_by_role("button", name="Try it")).to_be_enabled()


def test_all_of_it_works_without_scripts_and_is_accessible(node: Node, context: BrowserContext, archive: Path) -> None:
    with without_scripts(context, node) as page:
        page.goto("/try")
        page.get_by_role("button", name="Try it").click()
        expect(page.get_by_role("alert")).to_have_text("No file was chosen.")
        page.get_by_label("A zip, DICOM files or one picture").set_input_files(archive)
        page.get_by_role("button", name="Try it").click()
        expect(page.locator(".verdict")).to_contain_text("Subdural")
        expect(page.locator("#picture")).to_be_visible()
        address = page.url
    context.route("**/ct.nii.gz", lambda route: route.abort())  # the picture stays, which saves half a minute
    for path in ("/try", address):
        _, watched = visit(context, path)
        assert watched.serious() == []
    context.unroute("**/ct.nii.gz")
