"""Bad input through a running node: each has a clear outcome, the sender's bytes are kept, the node goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MultiFrameGrayscaleByteSecondaryCaptureImageStorage, generate_uid

from tests import ct
from tests.node import Node, running_node
from triage_node.peers import OutgoingObject, Peer, StoreResult, store
from triage_node.spool import Spool, dataset_sha256
from triage_node.store import board
from triage_node.store.receipts import Receipt, receipts
from triage_node.testing import DemoPacs


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPacs]:
    with DemoPacs(tmp_path_factory.mktemp("pacs")) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: DemoPacs) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp("node"), destinations={"PACS": pacs.port}) as running:
        yield running


def send(node: Node, paths: list[Path], *, announced_uid: str | None = None) -> list[StoreResult]:
    """Send files as they are; `announced_uid` is the SOP Instance UID of the command where it is to be another one."""
    objects = []
    for path in paths:
        if announced_uid:
            _announce(path, announced_uid)
        meta = read_file_meta_info(path)
        objects.append(
            OutgoingObject(
                path=path,
                sop_class_uid=str(meta.MediaStorageSOPClassUID),
                sop_uid=str(meta.MediaStorageSOPInstanceUID),
                transfer_syntax_uid=str(meta.TransferSyntaxUID),
            )
        )
    results: list[StoreResult] = []
    peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=node.port())
    store(peer, calling_ae="CT1", objects=objects, timeout_s=30, on_result=results.append)
    return results


def _announce(path: Path, uid: str) -> None:
    """pynetdicom announces what File Meta Information says."""
    image = dcmread(path)
    image.file_meta.MediaStorageSOPInstanceUID = uid
    image.save_as(path, enforce_file_format=False, overwrite=True)


def kept(node: Node, path: Path, sop_uid: str) -> bool:
    """Whether the node has the bytes of a file."""
    return dataset_sha256(Spool(node.config.node.data_dir).object_path(sop_uid)) == dataset_sha256(path)


def receipt(node: Node, sop_uid: str) -> Receipt | None:
    return next(receipts(node.database, sop_uid=sop_uid), None)


def without_pixels(image: Dataset) -> None:
    del image.PixelData


def truncated(image: Dataset) -> None:
    image.PixelData = image.PixelData[: len(image.PixelData) // 2]


def absurdly_large(image: Dataset) -> None:
    image.Rows = image.Columns = 65535


def without_scale(image: Dataset) -> None:
    del image.RescaleSlope


@pytest.mark.parametrize(
    ("spoil", "images", "reason"),
    [
        (without_pixels, 20, "UNREADABLE"),
        (truncated, 20, "UNREADABLE"),
        (absurdly_large, 20, "UNREADABLE"),
        (without_scale, 20, "NO_RESCALE"),
        (lambda _: None, 1, "TOO_FEW_SLICES"),
    ],
)
def test_a_series_that_cannot_be_analysed_says_why_in_the_pacs_and_is_kept(
    node: Node, pacs: DemoPacs, tmp_path: Path, spoil: Callable[[Dataset], None], images: int, reason: str
) -> None:
    series = ct.head()[:images]
    for image in series:
        spoil(image)
    paths = ct.save(series, tmp_path)
    assert [result.status for result in send(node, paths)] == [0x0000] * images
    series_uid, study_uid = str(series[0].SeriesInstanceUID), str(series[0].StudyInstanceUID)
    node.wait_for(lambda: board.result_of(node.database, series_uid) is not None, what="an outcome")
    stored = pacs.wait_for(lambda objects: sum(one.study_uid == study_uid for one in objects) == 2, 60)
    said = {one.series_description for one in stored if one.study_uid == study_uid}
    assert said == {"AI NONE: not analysed"}
    result = board.result_of(node.database, series_uid)
    assert result is not None
    assert (result["outcome"], result["reason"], result["priority"]) == ("NOT_ANALYZED", reason, "NONE")
    for path, image in zip(paths, series, strict=True):
        assert kept(node, path, str(image.SOPInstanceUID))


def test_an_object_of_130_mb_that_is_no_ct_is_stored_and_ignored(node: Node, tmp_path: Path) -> None:
    huge = ct.head([0.0])[0]
    huge.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    huge.Modality, huge.NumberOfFrames, huge.Rows, huge.Columns = "OT", 1300, 250, 200
    huge.BitsAllocated = huge.BitsStored = 16
    huge.PixelData = bytes(130_000_000)
    (path,) = ct.save([huge], tmp_path)
    (result,) = send(node, [path])
    assert result.status == 0x0000
    assert kept(node, path, str(huge.SOPInstanceUID))
    noted = receipt(node, str(huge.SOPInstanceUID))
    assert noted is not None
    assert noted.outcome == "IGNORED"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of pydicom in the sender
def test_a_uid_with_a_path_in_it_leads_nowhere_out_of_the_spool(node: Node, tmp_path: Path) -> None:
    image = ct.head([0.0])[0]
    uid, as_long = "../../../escaped", "1.2.3.4.5.6.7.89"
    image.SOPInstanceUID = as_long
    (path,) = ct.save([image], tmp_path)
    path.write_bytes(path.read_bytes().replace(as_long.encode(), uid.encode()))
    (result,) = send(node, [path])
    assert result.status == 0x0000
    assert kept(node, path, uid)
    assert not list(node.folder.rglob("escaped*"))


def test_a_data_set_with_another_uid_than_its_command_is_a900_and_not_kept(node: Node, tmp_path: Path) -> None:
    image = ct.head([0.0])[0]
    announced = generate_uid()
    (result,) = send(node, ct.save([image], tmp_path), announced_uid=announced)
    assert result.status == 0xA900
    node.wait_for(lambda: receipt(node, announced) is not None, what="the refusal in the ledger")
    told = receipt(node, announced)
    assert told is not None
    assert told.outcome == "REFUSED"
    assert receipt(node, str(image.SOPInstanceUID)) is None


def test_a_disk_below_its_watermark_refuses_and_what_is_there_goes_on(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs, running_node(tmp_path / "node", destinations={"PACS": pacs.port}) as node:
        series = ct.head()
        paths = ct.save(series, tmp_path / "series")
        assert {result.status for result in send(node, paths)} == {0x0000}
        pacs.wait_for(lambda objects: any(one.modality == "SR" for one in objects), 90)
        text = node.config_path.read_text().replace("min_free_mb = 100", "min_free_mb = 100000000")
        node.config_path.write_text(text)
        node.restart()
        results = send(node, ct.save(ct.head(), tmp_path / "other"))
        assert all(result.error is not None and result.error.retryable for result in results)
        assert "images cannot be stored now" in node.log
        assert all(kept(node, path, str(image.SOPInstanceUID)) for path, image in zip(paths, series, strict=True))
