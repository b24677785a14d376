"""Bytes -> spool + row + status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, EncapsulatedPDFStorage, ImplicitVRLittleEndian

from tests import ct
from tests.arrivals import Clock, received
from triage_node.admit import Admission, rebuild
from triage_node.errors import RejectedObject
from triage_node.spool import Spool
from triage_node.store import board, claims
from triage_node.store.database import Database, open_database
from triage_node.store.schema import instance


class Node:
    """A spool, a database and an admission, without a network."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.spool = Spool(root / "spool")
        self.database: Database = open_database(f"sqlite:///{root / 'db.sqlite3'}")
        self.admission = Admission(spool=self.spool, database=self.database, clock=self.clock)

    def counts(self) -> dict[str, int]:
        objects: dict[str, int] = board.status(self.database, now=self.clock())["objects"]
        return objects


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.database.close()


def test_an_admitted_image_is_on_disk_and_in_the_ledger(node: Node) -> None:
    image = received(ct.head([0.0])[0])
    assert node.admission.admit(image) == 0x0000
    assert node.spool.object_path(image.sop_uid).exists()
    assert node.counts() == {"SERIES": 1}


def test_geometry_is_noted_along_the_normal(node: Node) -> None:
    for image in ct.head([-5.0, 0.0, 5.0], tilt_deg=18):
        node.admission.admit(received(image))
    (waiting,) = claims.receiving(node.database)
    positions = sorted(claims.positions_mm(node.database, waiting.series_uid))
    assert positions[1] - positions[0] == pytest.approx(5.0, abs=1e-3)
    assert waiting.images == 3


def test_the_same_image_again_is_success_and_one_row(node: Node) -> None:
    image = received(ct.head([0.0])[0])
    assert [node.admission.admit(image) for _ in range(3)] == [0, 0, 0]
    assert node.counts() == {"SERIES": 1}


def test_other_bytes_under_the_same_uid_are_success_and_noted(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    original = ct.head([0.0])[0]
    node.admission.admit(received(original))
    original.PatientName = "Other^Name"
    assert node.admission.admit(received(original)) == 0
    assert board.status(node.database, now=node.clock())["quarantined"] == 1
    assert node.counts() == {"SERIES": 1}
    assert "other bytes" in capsys.readouterr().err


def test_a_data_set_that_is_not_the_one_announced_is_a900(node: Node) -> None:
    image = received(ct.head([0.0])[0])
    with pytest.raises(RejectedObject) as caught:
        node.admission.admit(replace(image, sop_uid="1.2.3"))
    assert caught.value.status == 0xA900
    assert list(node.spool.objects()) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("bytes_sent", [b"", b"\xff" * 40, b"PatientName=Secret"])
def test_what_is_no_data_set_is_c000_and_its_content_is_not_quoted(node: Node, bytes_sent: bytes) -> None:
    image = received(ct.head([0.0])[0])
    with pytest.raises(RejectedObject) as caught:
        node.admission.admit(replace(image, dataset=bytes_sent))
    assert caught.value.status in (0xC000, 0xA900)
    assert "Secret" not in str(caught.value)


def test_an_object_that_is_no_ct_is_kept_and_ignored(node: Node) -> None:
    document = ct.head([0.0])[0]
    document.SOPClassUID = EncapsulatedPDFStorage
    document.Modality = "DOC"
    assert node.admission.admit(received(document)) == 0
    assert node.counts() == {"IGNORED": 1}
    assert claims.receiving(node.database) == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_identified_too(node: Node, syntax: str) -> None:
    (image,) = ct.head([0.0])
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    assert node.admission.admit(received(image)) == 0
    assert node.counts() == {"SERIES": 1}


def test_a_row_lost_between_rename_and_commit_is_rebuilt_from_the_spool(node: Node) -> None:
    images = [received(image) for image in ct.head()]
    for image in images:
        node.admission.admit(image)
    with node.database.transaction() as connection:
        connection.execute(sa.delete(instance).where(instance.c.sop_uid == images[3].sop_uid))
    assert node.admission.recover() == 1
    assert node.admission.recover() == 0
    assert node.counts() == {"SERIES": len(images)}


def test_a_lost_database_is_rebuilt_from_the_spool(node: Node, tmp_path: Path) -> None:
    images = ct.head()
    for image in images:
        node.admission.admit(received(image))
    fresh = open_database(f"sqlite:///{tmp_path / 'fresh.sqlite3'}")
    assert rebuild(node.spool, fresh) == len(images)
    (waiting,) = claims.receiving(fresh)
    assert waiting.images == len(images)
    fresh.close()


def test_a_database_that_refuses_is_no_success(node: Node) -> None:
    node.database.close()
    with node.database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE instance RENAME TO gone"))
    with pytest.raises(OSError, match="database"):
        node.admission.admit(received(ct.head([0.0])[0]))


def test_other_bytes_of_an_image_that_was_never_entered_enter_the_first(node: Node) -> None:
    original = ct.head([0.0])[0]
    node.spool.keep(received(original))  # as left behind by a database that refused its row
    original.PatientName = "Other^Name"
    assert node.admission.admit(received(original)) == 0
    assert node.counts() == {"SERIES": 1}
    assert len(claims.receiving(node.database)) == 1


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_uid_that_no_database_column_holds_is_c000(node: Node) -> None:
    image = ct.head([0.0])[0]
    image["SeriesInstanceUID"]._value = "1." + "2" * 70  # behind the back of pydicom, which would not write it
    with pytest.raises(RejectedObject, match="SeriesInstanceUID is longer") as refused:
        node.admission.admit(received(image))
    assert refused.value.status == 0xC000


def test_what_is_no_object_in_the_spool_keeps_no_listener_down(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    path = node.spool.keep(received(ct.head([0.0])[0])).path
    path.with_name(".rsync.dcm.Ab12").write_bytes(b"of a copy")
    path.with_name("00.dcm").write_bytes(b"truncated")
    assert node.admission.recover() == 1
    assert "a spooled file cannot be read" in capsys.readouterr().err
