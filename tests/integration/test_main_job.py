"""The main job: `triage-node serve`, dcmtk's storescu as the scanner, Orthanc as the PACS."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.node import Node, running_node
from tests.orthanc import Orthanc, running_orthanc
from tests.tools import real_head_ct
from triage_node.peers import Peer, send_folder
from triage_node.simulate import write_case
from triage_node.store import board


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp("node"), destinations={"ORTHANC": orthanc.dicom_port}) as running:
        yield running


def outcome_of(node: Node, folder: Path) -> dict[str, Any]:
    """Send a series, wait for its end, return its result.json."""
    series_uid = str(dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).SeriesInstanceUID)
    node.send(folder)
    node.wait_for(lambda: board.result_of(node.database, series_uid) is not None, what="a result")
    result = board.result_of(node.database, series_uid)
    assert result is not None
    sent = {"SENT", "CANCELLED"}
    node.wait_for(lambda: set(node.status()["outbox"].get("orthanc", {})) <= sent, what="delivery")
    return result


def in_study(orthanc: Orthanc, study_uid: str) -> list[dict[str, Any]]:
    return [tags for tags in orthanc.instances() if tags["StudyInstanceUID"] == study_uid]


def test_the_real_tilted_head_ct_ends_analyzed_with_its_results_in_the_same_study(node: Node, orthanc: Orthanc) -> None:
    folder = real_head_ct()
    original = dcmread(folder / "01.dcm", stop_before_pixels=True)
    result = outcome_of(node, folder)
    assert result["outcome"] == "ANALYZED"
    assert any("tilt" in warning for warning in result["warnings"])
    assert len(result["slices"]) == 28
    stored = in_study(orthanc, str(original.StudyInstanceUID))
    assert "SR" in {tags["Modality"] for tags in stored}
    assert {tags["SOPInstanceUID"] for tags in stored} == {made["sop_uid"] for made in result["objects"]}
    for tags in stored:
        assert tags.get("PatientID", "") == str(original.get("PatientID", ""))
        assert tags.get("PatientName", "") == str(original.get("PatientName", ""))
        assert tags["SeriesInstanceUID"] != str(original.SeriesInstanceUID)
        assert tags["SeriesDescription"].startswith(f"AI {result['priority']}")


def test_a_simulated_subdural_is_flagged_in_the_pacs(node: Node, orthanc: Orthanc, tmp_path: Path) -> None:
    case = write_case(tmp_path, subtype="SDH", seed=7, created_at=datetime.now(UTC))
    result = outcome_of(node, case / "dicom")
    assert result["outcome"] == "ANALYZED"
    assert result["priority"] in ("STAT", "HIGH")
    assert result["probabilities"]["any"] >= 0.5
    stored = in_study(orthanc, result["study_uid"])
    assert {tags["Modality"] for tags in stored} == {"SEG", "SR", "OT"}
    assert all("ICH suspected" in tags["SeriesDescription"] for tags in stored)


def test_two_associations_at_once_and_every_image_twice_give_the_mask_of_the_files(node: Node, tmp_path: Path) -> None:
    case = write_case(tmp_path, subtype="EDH", seed=7, created_at=datetime.now(UTC))
    files = sorted((case / "dicom").glob("*.dcm"))
    with ThreadPoolExecutor() as associations:
        for halves in (files[::2], files[1::2], files[::-1]):
            associations.submit(send_files, node, halves)
    series_uid = str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
    node.wait_for(lambda: board.result_of(node.database, series_uid) is not None, what="a result")
    received = board.result_of(node.database, series_uid)
    assert received is not None
    command = [sys.executable, "-m", "triage_node", "analyze", str(case / "dicom"), "--out", str(tmp_path), "--json"]
    on_files = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    for key in ("outcome", "priority", "probabilities", "volumes_ml", "slices", "warnings"):
        assert received[key] == on_files[key], key
    assert mask_of(received, node.config.node.data_dir) == mask_of(on_files, Path())


def send_files(node: Node, files: list[Path]) -> None:
    peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=node.port())
    assert not send_folder(files, peer=peer, calling_ae="CT1").failed


def mask_of(result: dict[str, Any], folder: Path) -> bytes:
    (seg,) = (made for made in result["objects"] if made["kind"] == "SEG")
    pixels: bytes = dcmread(folder / seg["path"]).PixelData
    return pixels


def test_what_cannot_be_analysed_says_so_in_the_pacs(node: Node, orthanc: Orthanc, tmp_path: Path) -> None:
    case = write_case(tmp_path, subtype="NONE", seed=3, created_at=datetime.now(UTC))
    for path in sorted((case / "dicom").glob("*.dcm"))[5:]:
        path.unlink()
    result = outcome_of(node, case / "dicom")
    assert (result["outcome"], result["reason"], result["priority"]) == ("NOT_ANALYZED", "TOO_FEW_SLICES", "NONE")
    stored = in_study(orthanc, result["study_uid"])
    assert stored
    assert all("not analysed" in tags["SeriesDescription"] for tags in stored)


def test_results_that_come_back_are_recognised_and_answered_by_nothing(
    node: Node, orthanc: Orthanc, tmp_path: Path
) -> None:
    case = write_case(tmp_path / "case", subtype="IPH", seed=11, created_at=datetime.now(UTC))
    result = outcome_of(node, case / "dicom")
    before = node.status()
    back = tmp_path / "back"
    back.mkdir()
    for made in result["objects"]:
        path = node.config.node.data_dir / made["path"]
        (back / path.name).write_bytes(path.read_bytes())
    node.send(back)
    after = node.status()
    assert after["objects"].get("OWN", 0) - before["objects"].get("OWN", 0) == len(result["objects"])
    assert after["series"] == before["series"]


def test_the_status_shows_the_node_and_no_identity_and_its_page_needs_a_session(node: Node) -> None:
    node.wait_for(lambda: len(node.status()["roles"]) == 4, what="all roles")
    assert {role["kind"] for role in node.status()["roles"]} == {"listen", "work", "deliver", "web"}
    assert "Simulated" not in json.dumps(node.status())
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{node.port('web')}/status.json", timeout=10)


def test_no_identity_is_in_the_log(node: Node, tmp_path: Path) -> None:
    case = write_case(tmp_path, subtype="NONE", seed=4, created_at=datetime.now(UTC))
    planted = tmp_path / "planted"
    planted.mkdir()
    for path in (case / "dicom").glob("*.dcm"):
        image = dcmread(path)
        image.PatientName, image.PatientID, image.AccessionNumber = "SENTINEL^NAME", "SENTINEL-ID", "SENTINEL-ACC"
        image.save_as(planted / path.name)
    result = outcome_of(node, planted)
    assert result["outcome"] == "ANALYZED"
    assert "SENTINEL" not in node.log
    assert result["study_uid"] not in node.log
