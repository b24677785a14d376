"""Storage commitment as a provider: a source is told what the node keeps, and nothing is promised that may go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, evt

from tests import ct
from tests.arrivals import Clock, received
from tests.orthanc import running_orthanc
from tests.tools import free_port
from triage_node import config
from triage_node.admit import Admission, no_step
from triage_node.errors import ConfigError
from triage_node.peers import STORAGE_COMMITMENT
from triage_node.peers.association import CallingAE
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.promising import note_request, report_promises
from triage_node.receive import Listener
from triage_node.spool import Spool
from triage_node.store import promises
from triage_node.store.database import Database, open_database
from triage_node.testing import serve

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WELL_KNOWN = "1.2.840.10008.1.20.1.1"


@dataclass
class Scanner:
    """What takes the reports: its own SCP, in this process."""

    reports: list[tuple[str, int, Dataset]] = field(default_factory=list)
    status: int = 0x0000

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        """Keep who said what."""
        if self.status == 0x0000:
            self.reports.append((event.assoc.requestor.ae_title, event.event_type, event.event_information))
        return self.status, None

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """While it is up."""
        ae = AE(ae_title="CT1")
        ae.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
        try:
            serve(ae, [(evt.EVT_N_EVENT_REPORT, self.on_report)], port=port)
            yield
        finally:
            ae.shutdown()


class Site:
    """A node that keeps what it gets for good."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        clock: Clock,
        *,
        report_port: int,
        asks: bool = True,
        ae_title: str = "CT1",
        listen_on: int = 0,
    ) -> None:
        to = f"127.0.0.1:{report_port}" if asks else ""
        self.source = config.Source(ae_title=ae_title, hosts=["127.0.0.1"], commitment_to=to)
        self.parts = Parts(
            config=config.Config(
                node=config.Node(host="127.0.0.1", port=listen_on, data_dir=folder / "spool"),
                delivery=config.Delivery(backoff_s=4.0, timeout_s=10.0, commitment_attempts=2),
                sources=(self.source,),
            ),
            database=database,
            spool=Spool(folder / "spool"),
            clock=clock,
            step=no_step,
        )
        self.clock = clock
        self.admission = Admission(spool=self.parts.spool, database=database, clock=clock)
        self.listener = Listener(
            config=self.parts.config,
            admit=self.admission.admit,
            released=lambda _: None,
            asked=lambda calling_ae, request: note_request(self.parts, calling_ae, request),
        )
        self.port = self.listener.start()

    def close(self) -> None:
        """Stop listening; the database goes on."""
        self.listener.stop()

    def ask(self, *references: tuple[str, str], action: int = 1, transaction: str = "2.25.77") -> int:
        """As the scanner does; returns the status."""
        ae = CallingAE(ae_title="CT1")
        ae.add_requested_context(STORAGE_COMMITMENT)
        association = ae.associate("127.0.0.1", self.port, ae_title="TRIAGE")
        assert association.is_established
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = []
        for sop_class_uid, sop_uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_uid
            request.ReferencedSOPSequence.append(item)
        status, _ = association.send_n_action(request, action, STORAGE_COMMITMENT, WELL_KNOWN)
        association.release()
        return int(status.Status)

    def report(self, after_s: float = 2.0) -> bool:
        """What the deliver role does over and over."""
        self.clock.advance(after_s)
        return report_promises(self.parts, self.source)


def reference(image: Dataset) -> tuple[str, str]:
    return str(image.SOPClassUID), str(image.SOPInstanceUID)


def images(site: Site, count: int) -> list[Dataset]:
    made = ct.head([5.0 * number for number in range(count)], matrix=16)
    for image in made:
        site.admission.admit(received(image))
    return made


def reasons(report: Dataset) -> dict[str, int]:
    return {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in report.FailedSOPSequence}


def test_a_source_is_told_what_is_kept_and_what_is_not(tmp_path: Path, database: Database) -> None:
    scanner, port = Scanner(), free_port()
    with scanner.listening(port), closing(Site(tmp_path, database, Clock(), report_port=port)) as site:
        kept, twice, gone = images(site, 3)
        twice.PatientComments = "other bytes"
        site.admission.admit(received(twice))
        site.parts.spool.object_path(str(gone.SOPInstanceUID)).unlink()
        never = (str(CTImageStorage), generate_uid())
        other_class = (str(MRImageStorage), str(images(site, 1)[0].SOPInstanceUID))
        asked = [reference(kept), reference(twice), reference(gone), never, other_class]
        assert site.ask(*asked) == 0x0000
        assert not site.report(after_s=0.1)  # the answer goes first
        assert site.report()
        [(calling_ae, event_type, report)] = scanner.reports
        assert (calling_ae, event_type, report.TransactionUID) == ("TRIAGE", 2, "2.25.77")
        assert [str(item.ReferencedSOPInstanceUID) for item in report.ReferencedSOPSequence] == [kept.SOPInstanceUID]
        assert reasons(report) == {
            str(twice.SOPInstanceUID): 0x0110,
            str(gone.SOPInstanceUID): 0x0112,
            never[1]: 0x0112,
            other_class[1]: 0x0119,
        }
        assert not site.report(after_s=10_000)

        assert site.ask(reference(kept)) == 0x0000  # the same transaction again: told again
        assert site.report()
        assert [event_type for _, event_type, _ in scanner.reports] == [2, 1]
        assert "FailedSOPSequence" not in scanner.reports[-1][2]


def test_orthanc_asks_and_understands_the_answer(tmp_path: Path) -> None:
    port = free_port()
    modalities = {"triage": ["TRIAGE", "127.0.0.1", port]}
    with (
        running_orthanc(tmp_path / "orthanc", modalities=modalities) as orthanc,
        closing(open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")) as database,
        closing(
            Site(
                tmp_path,
                database,
                Clock(),
                report_port=orthanc.dicom_port,
                ae_title="ORTHANC",
                listen_on=port,
            )
        ) as site,
    ):
        (kept,) = images(site, 1)
        never = (str(CTImageStorage), generate_uid())
        instances = [
            {"SOPClassUID": sop_class_uid, "SOPInstanceUID": sop_uid}
            for sop_class_uid, sop_uid in (reference(kept), never)
        ]
        asked = orthanc.post(
            "/modalities/triage/storage-commitment", json.dumps({"DicomInstances": instances}).encode()
        )
        assert site.report()
        answer = orthanc.get(asked["Path"])
        assert answer["Status"] == "Failure"  # not of all
        assert [each["SOPInstanceUID"] for each in answer["Success"]] == [str(kept.SOPInstanceUID)]
        assert [(each["SOPInstanceUID"], each["FailureReason"]) for each in answer["Failures"]] == [(never[1], 0x0112)]


def test_a_source_that_is_away_is_told_when_it_is_back_whatever_was_restarted(tmp_path: Path) -> None:
    scanner, port, clock = Scanner(), free_port(), Clock()
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    with closing(open_database(url)) as database, closing(Site(tmp_path, database, clock, report_port=port)) as site:
        asked = [reference(image) for image in images(site, 2)]
        assert site.ask(*asked) == 0x0000
        assert site.report()
        assert not site.report(after_s=1)
    with (
        scanner.listening(port),
        closing(open_database(url)) as database,
        closing(Site(tmp_path, database, clock, report_port=port)) as site,
    ):
        assert site.report(after_s=4)
        [(_, event_type, report)] = scanner.reports
        assert event_type == 1
        assert [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in report.ReferencedSOPSequence
        ] == asked


def test_a_report_that_is_never_taken_is_given_up_and_the_log_says_so(
    tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    scanner, port = Scanner(status=0x0110), free_port()
    with scanner.listening(port), closing(Site(tmp_path, database, Clock(), report_port=port)) as site:
        site.ask((str(CTImageStorage), "1.2.3"))
        assert site.report()
        assert site.report(after_s=4)
        assert not site.report(after_s=10_000)
    assert "answered 0x0110 to a storage commitment report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("references", "action", "status"),
    [([], 1, 0x0115), ([("1.2", "1" * 65)], 1, 0x0115), ([("1.2", "1.2.3")], 2, 0x0123)],
    ids=["nothing", "no UID", "another action"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_request_that_makes_no_sense_is_answered_so(
    tmp_path: Path, references: list[tuple[str, str]], action: int, status: int
) -> None:
    with (
        closing(open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")) as database,
        closing(Site(tmp_path, database, Clock(), report_port=1)) as site,
    ):
        assert site.ask(*references, action=action) == status
        assert not site.report()


def test_a_source_that_may_not_ask_is_offered_nothing(tmp_path: Path) -> None:
    with (
        closing(open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")) as database,
        closing(Site(tmp_path, database, Clock(), report_port=1, asks=False)) as site,
    ):
        ae = CallingAE(ae_title="CT1")
        ae.add_requested_context(STORAGE_COMMITMENT)
        association = ae.associate("127.0.0.1", site.port, ae_title="TRIAGE")
        assert [str(each.abstract_syntax) for each in association.rejected_contexts] == [STORAGE_COMMITMENT]


def test_a_request_that_comes_again_while_its_report_is_under_way_is_answered_again(tmp_path: Path) -> None:
    scanner, port = Scanner(), free_port()
    with (
        closing(open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")) as database,
        closing(Site(tmp_path, database, Clock(), report_port=port)) as site,
    ):
        (kept,) = images(site, 1)
        assert site.ask(reference(kept)) == 0x0000
        site.clock.advance(2)
        under_way = promises.next_due(database, "CT1", now=site.clock(), again_at=site.clock() + timedelta(seconds=60))
        assert under_way is not None
        site.clock.advance(1)
        assert site.ask(reference(kept)) == 0x0000
        promises.note(database, under_way, report_at=None)
        with scanner.listening(port):
            assert site.report()
        assert len(scanner.reports) == 1


def test_one_name_cannot_be_answered_at_two_places(tmp_path: Path) -> None:
    path = tmp_path / "triage-node.toml"
    asking = '[[source]]\nae_title = "CT1"\nhosts = ["10.1.2.{n}"]\ncommitment_to = "10.1.2.{n}:104"\n'
    path.write_text(asking.format(n=3) + asking.format(n=4) + "[retention]\nimages_days = 0\nfree_mb = 0\n")
    with pytest.raises(ConfigError, match=r"triage-node.toml:8: .*write the same commitment_to"):
        config.load(path)


@pytest.mark.parametrize("retention", ["", "[retention]\nimages_days = 0\n", "[retention]\nfree_mb = 0\n"])
def test_nothing_is_promised_that_retention_may_remove(tmp_path: Path, retention: str) -> None:
    path = tmp_path / "triage-node.toml"
    asking = '[[source]]\nae_title = "CT1"\nhosts = ["10.1.2.3"]\ncommitment_to = "10.1.2.3:104"\n'
    path.write_text(asking + retention)
    with pytest.raises(ConfigError, match=r"triage-node.toml:4: a commitment is to keep images for good"):
        config.load(path)


def test_the_example_of_the_guide_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/channels/proof.md").read_text()
    path = tmp_path / "triage-node.toml"
    path.write_text(page.split("<!-- example: provider -->\n```toml\n")[1].split("```")[0])
    [source] = config.load(path).sources
    assert source.commitment_peer == ("CT1", "10.1.2.7", 104)
