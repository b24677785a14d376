"""`triage-node ledger --reconcile`: what a source has of a day, and the node has not."""

from __future__ import annotations

import errno
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt

from tests import ct
from tests.arrivals import Clock
from tests.finding import Answers, find_scp, match
from tests.orthanc import running_orthanc
from tests.tools import free_port, require_tool
from triage_node import cli, config
from triage_node.admit import Admission
from triage_node.domain import ReceivedObject
from triage_node.errors import DeliveryError
from triage_node.log import ref
from triage_node.peers import Peer, echo, send_folder
from triage_node.receive import Listener
from triage_node.service.refusals import ObjectRefusals
from triage_node.spool import Spool
from triage_node.store.database import open_database

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

DAY = "20260301"
SETTINGS = """\
[node]
host = "127.0.0.1"
port = 0
data_dir = "data"

[[source]]
ae_title = "CT1"
hosts = ["127.0.0.1"]

[[source]]
ae_title = "ORTHANC"
hosts = ["127.0.0.1"]
find = "ORTHANC@127.0.0.1:{port}"

[[destination]]
name = "pacs"
ae_title = "QR"
host = "127.0.0.1"
port = {port}
find = "127.0.0.1:{port}"
"""
QR = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QR {storage} RW (200, 1024mb) ANY
AETable END
"""


def series(folder: Path, *, study: str, day: str = DAY, modality: str = "CT", images: int = 3) -> list[Dataset]:
    """A small series as files in a folder of its own."""
    made = ct.head([5.0 * number for number in range(images)], matrix=16)
    for image in made:
        image.StudyInstanceUID, image.StudyDate, image.Modality = study, day, modality
        image.PatientID = f"PLANTED-{study[-20:]}"
    ct.save(made, folder)
    return made


class Receiving:
    """A node that receives: listener, admission and ledger, of a configuration file."""

    def __init__(self, folder: Path, find_port: int) -> None:
        self.config_path = folder / "triage-node.toml"
        self.config_path.write_text(SETTINGS.format(port=find_port))
        self.config = config.load(self.config_path)
        self.database = open_database(self.config.database_url)
        self.clock = Clock()
        self.refusals = ObjectRefusals(self.clock)
        self.no_room_for: set[str] = set()
        self.admission = Admission(spool=Spool(self.config.node.data_dir), database=self.database, clock=self.clock)
        self.listener = Listener(
            config=self.config, admit=self._admit, released=lambda _: None, not_taken=self.refusals.note
        )
        self.peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=self.listener.start())

    def send(self, *folders: Path) -> None:
        """From a scanner."""
        send_folder(list(folders), peer=self.peer, calling_ae="CT1")
        self.refusals.write(self.database)

    def reconcile(self, source: str = "ORTHANC", *words: str) -> int:
        """As an administrator types it; returns the exit status."""
        return cli.main(["ledger", "--reconcile", source, "--day", DAY, *words, "--config", str(self.config_path)])

    def close(self) -> None:
        """Give everything back."""
        self.listener.stop()
        self.database.close()

    def _admit(self, received: ReceivedObject) -> int:
        if received.sop_uid in self.no_room_for:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.admission.admit(received)


@pytest.fixture
def receiving(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Receiving]:
    """A node whose source may be started at the port of `find`."""
    with closing(Receiving(tmp_path, free_port())) as node:
        yield node


def test_three_of_five_series_arrived_and_the_two_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside them: an image that was refused, an MR series and a CT of another day."""
    first, second, other = (generate_uid() for _ in range(3))
    made = [series(tmp_path / f"s{number}", study=first if number < 3 else second) for number in range(5)]
    series(tmp_path / "mr", study=second, modality="MR")
    series(tmp_path / "before", study=other, day="20260228")
    folders = [tmp_path / f"s{number}" for number in range(5)]
    with running_orthanc(tmp_path / "orthanc", modalities={"triage": ["TRIAGE", "127.0.0.1", 1]}) as orthanc:
        peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
        assert send_folder([*folders, tmp_path / "mr", tmp_path / "before"], peer=peer, calling_ae="CT1").sent == 21
        with closing(Receiving(tmp_path, orthanc.dicom_port)) as node:
            refused = str(made[0][1].SOPInstanceUID)
            node.no_room_for.add(refused)
            node.send(folders[0], folders[1], folders[3])
            assert node.reconcile("ORTHANC", "--json") == 1
            out, err = capsys.readouterr()
            found = {line["sop_uid"]: line for line in map(json.loads, out.splitlines())}
            missing = {str(image.SOPInstanceUID) for images in (made[2], made[4]) for image in images}
            assert {uid for uid, line in found.items() if line["outcome"] == "MISSING"} == missing
            assert {uid for uid, line in found.items() if line["outcome"] == "REFUSED"} == {refused}
            assert found[refused]["reason"] == "0xA700 No space left on device"
            assert found[str(made[4][0].SOPInstanceUID)]["study_uid"] == second
            told = [line for line in err.splitlines() if line.startswith("series ")]
            assert {line.split(":")[0] for line in told} == {
                f"series {ref(str(made[number][0].SeriesInstanceUID))} of study {ref(study)}"
                for number, study in ((0, first), (2, first), (4, second))
            }
            assert "ORTHANC, 20260301: 5 CT series, 15 at the source, 8 received, 7 missing, 1 of these refused" in err
            assert "Planted" not in out + err
            assert "PLANTED" not in out + err

            node.no_room_for.clear()
            node.send(*folders)
            assert node.reconcile() == 0
            out, err = capsys.readouterr()
            assert out == ""
            assert "15 received, 0 missing, 0 of these refused" in err
            cli.main(["ledger", "--config", str(node.config_path)])
            assert "REFUSED" not in capsys.readouterr().out  # it was taken in the end


@contextmanager
def dcmqrscp(folder: Path) -> Iterator[Peer]:
    """dcmtk's archive, which knows fewer keys than Orthanc; AE title QR."""
    storage = folder / "QR"
    storage.mkdir(parents=True)
    port = free_port()
    (folder / "qr.cfg").write_text(QR.format(port=port, storage=storage))
    process = subprocess.Popen([require_tool("dcmqrscp"), "-c", str(folder / "qr.cfg")], stderr=subprocess.DEVNULL)
    peer = Peer(ae_title="QR", host="127.0.0.1", port=port)
    try:
        _await(peer)
        yield peer
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await(peer: Peer) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return echo(peer, calling_ae="TRIAGE", timeout_s=5)
        except DeliveryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_dcmtk_s_archive_is_asked_and_a_destination_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It passes over Modalities in Study and names no number of images: nothing may depend on either."""
    study = generate_uid()
    arrived, absent = (series(tmp_path / name, study=study) for name in ("arrived", "absent"))
    series(tmp_path / "mr", study=generate_uid(), modality="MR")
    with dcmqrscp(tmp_path / "qr") as peer, closing(Receiving(tmp_path, peer.port)) as node:
        folders = [tmp_path / name for name in ("arrived", "absent", "mr")]
        assert send_folder(folders, peer=peer, calling_ae="CT1").sent == 9
        node.send(tmp_path / "arrived")
        assert node.reconcile("pacs") == 1
        out, err = capsys.readouterr()
        assert {line.split("\t")[2] for line in out.splitlines()} == {str(image.SOPInstanceUID) for image in absent}
        assert "QR, 20260301: 2 CT series, 6 at the source, 3 received, 3 missing, 0 of these refused" in err
        assert not {str(image.SOPInstanceUID) for image in arrived} & set(out.split("\t"))


def test_the_ledger_names_what_was_refused_and_what_came_with_other_bytes(
    tmp_path: Path, receiving: Receiving, capsys: pytest.CaptureFixture[str]
) -> None:
    images = series(tmp_path / "s", study=generate_uid())
    receiving.no_room_for.add(str(images[0].SOPInstanceUID))
    receiving.send(tmp_path / "s")
    images[1].PatientComments = "another one"
    ct.save(images[1:2], tmp_path / "other")
    receiving.clock.advance(60)
    receiving.send(tmp_path / "other")
    cli.main(["ledger", "--json", "--config", str(receiving.config_path)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"received')]
    assert [(line["outcome"], line["reason"]) for line in sorted(lines, key=lambda line: str(line["outcome"]))] == [
        ("QUARANTINED", "the same SOP Instance UID came with other bytes; the first stays"),
        ("RECEIVING", None),
        ("RECEIVING", None),
        ("REFUSED", "0xA700 No space left on device"),
    ]
    assert lines[-1]["outcome"] == "QUARANTINED"  # in the order of arrival


@pytest.mark.parametrize("at_image_level", ["refused", "half of them"])
def test_a_source_that_does_not_name_its_images_is_compared_by_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_image_level: str
) -> None:
    images = series(tmp_path / "s", study=generate_uid())
    study_uid, series_uid = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)

    def on_find(event: evt.Event) -> Answers:
        level = event.identifier.QueryRetrieveLevel
        if level == "IMAGE" and at_image_level == "refused":
            yield 0xC000, None
            return
        elements = {
            "STUDY": {"StudyInstanceUID": study_uid},
            "SERIES": {"SeriesInstanceUID": series_uid, "NumberOfSeriesRelatedInstances": 5},
            "IMAGE": {"SOPInstanceUID": str(images[0].SOPInstanceUID)},
        }
        yield match(level, **elements[level])
        yield 0x0000, None

    with find_scp(on_find) as port, closing(Receiving(tmp_path, port)) as node:
        node.send(tmp_path / "s")
        assert node.reconcile() == 1
        [line] = capsys.readouterr().out.splitlines()
        assert line.split("\t")[2:7] == [
            *("-", series_uid, study_uid, "MISSING"),
            "2 image(s); which ones ORTHANC does not say",
        ]


def test_what_cannot_be_asked_is_one_clear_line(receiving: Receiving, capsys: pytest.CaptureFixture[str]) -> None:
    assert receiving.reconcile() == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert receiving.reconcile("CT1") == 1
    assert '"CT1" cannot be asked what it has; those that can: pacs, ORTHANC' in capsys.readouterr().err
    assert cli.main(["ledger", "--day", DAY, "--config", str(receiving.config_path)]) == 1
    assert "go together" in capsys.readouterr().err
