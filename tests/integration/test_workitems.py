"""The node as a UPS SCP: worklist clients query its results, the flagged ones first, claim them and end them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom.dataset import Dataset

from tests.arrivals import Clock
from tests.node import kill
from tests.studies import arrive, end, found
from tests.together import together
from tests.told import ToldSite, example
from tests.ups import Client, calling
from triage_node.admit import no_step
from triage_node.config import Config, Destination, Node, Source, UpsDestination, load
from triage_node.domain import Patient, Priority
from triage_node.errors import DeliveryError
from triage_node.peers import Peer
from triage_node.peers.association import CallingAE
from triage_node.peers.ups import PULL, QUERY, WATCH, UpsAssociation
from triage_node.peers.workitem import dataset, performed
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.workitems import NodeWorklist
from triage_node.receive import Listener
from triage_node.spool import Spool
from triage_node.store import opinions, worklist
from triage_node.store.database import open_database
from triage_node.testing import DemoPacs, DemoUps

OURS, OTHER = "1.2.3", "1.2.4"


class Ward:
    """A node with results, and its listener."""

    def __init__(self, folder: Path, parts: Parts) -> None:
        self.parts = parts
        guide = folder / "guide.toml"
        guide.write_text(example("worklist", "ups").replace("10.20.0.30", "127.0.0.1"))
        sources = (*load(guide).sources, Source(ae_title="CT1", hosts=["127.0.0.1"]))
        settings = Config(node=Node(host="127.0.0.1", port=0, min_free_mb=0), sources=sources)
        self.listener = Listener(
            config=settings, admit=lambda _: 0, released=lambda _: None, worklist=NodeWorklist(parts)
        )
        self.port = self.listener.start()

    def publish(
        self, priority: Priority = Priority.STAT, *, study: str = "1.2.1", images: int = 1, name: str = ""
    ) -> str:
        """A series, or more images of it, to its published end; returns its UID."""
        database, clock = self.parts.database, cast(Clock, self.parts.clock)
        series_uid = arrive(database, clock, study, images=images)
        patient = Patient(patient_name=f"{name}^X", accession_number=f"ACC{name}")
        end(database, clock, series_uid, found(priority), patient=patient, to=["pacs"])
        clock.advance(60)
        return series_uid

    def read(self, *, user: str | None = "ann") -> None:
        """As the page does it."""
        opinions.mark_read(self.parts.database, 1, user=user, now=self.parts.clock())

    def row(self) -> worklist.Row:
        """What the page shows of the first study."""
        found = worklist.row(self.parts.database, 1)
        assert found is not None
        return found


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    database = open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    pacs = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    settings = Config(destinations=(pacs,))
    parts = Parts(config=settings, database=database, spool=Spool(tmp_path), clock=Clock(), step=no_step)
    opened = Ward(tmp_path, parts)
    yield opened
    opened.listener.stop()
    database.close()


def done() -> list[Dataset]:
    """What a reader says was performed."""
    at = Clock()()
    said = performed(study_uid="1.2", station="READER", retrieve_ae="PACS", outputs=[], began_at=at, at=at)
    return list(said.UnifiedProcedureStepPerformedProcedureSequence)


def values(found: Sequence[Dataset], keyword: str) -> list[str]:
    return [str(each.get(keyword)) for each in found]


def only(client: Client, **keys: Any) -> Dataset:
    (found,) = client.find(**keys)
    return found


def test_a_query_returns_flagged_studies_first_and_the_oldest_of_each(ward: Ward) -> None:
    for number, (name, priority) in enumerate(zip("ABCD", ("ROUTINE", "STAT", "HIGH", "STAT"), strict=True)):
        ward.publish(Priority(priority), study=f"1.2.{number}", name=name)
    with calling(ward.port) as client:
        everything = client.find()
        assert values(everything, "PatientName") == ["B^X", "D^X", "C^X", "A^X"]
        assert values(everything, "ScheduledProcedureStepPriority") == ["HIGH", "HIGH", "MEDIUM", "LOW"]
        page = worklist.page(ward.parts.database, worklist.Wanted())
        assert values(everything, "PatientName") == [row.patient.patient_name for row in page.rows]
        for model in (PULL, WATCH, QUERY):
            high = client.find(model=model, ScheduledProcedureStepPriority="HIGH", ProcedureStepState="SCHEDULED")
            assert values(high, "PatientName") == ["B^X", "D^X"]
        assert client.find(ProcedureStepState="COMPLETED") == []
        assert values(client.find(PatientName="c*"), "PatientName") == ["C^X"]
        assert client.find(WorklistLabel="another list") == []
        asked = [dataset(AccessionNumber="ACCD", StudyInstanceUID=None)]
        assert values(client.find(ReferencedRequestSequence=asked), "PatientName") == ["D^X"]
        assert client.find(ScheduledProcedureStepStartDateTime="20260102-") == []
        assert len(client.find(ScheduledProcedureStepStartDateTime="20260101-")) == 4
        assert "InputInformationSequence" not in everything[0]


def test_a_workitem_says_all_there_is(ward: Ward) -> None:
    series_uid = ward.publish(images=3)
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        status, whole = client.get(uid, model=WATCH)
        assert status == 0x0000
        referred = {
            each.ReferencedSOPInstanceUID
            for item in whole.InputInformationSequence
            for each in item.ReferencedSOPSequence
        }
        assert referred == {*(f"{series_uid}.{number}" for number in (1, 2, 3)), f"{series_uid}.9.1"}
        assert {item.DICOMRetrievalSequence[0].RetrieveAETitle for item in whole.InputInformationSequence} == {"PACS"}
        assert whole.CommentsOnTheScheduledProcedureStep.startswith("said ")
        assert "TransactionUID" not in whole
        status, some = client.get(uid, "ProcedureStepState", "TransactionUID")
        assert some.ProcedureStepState == "SCHEDULED"
        assert "PatientName" not in some
        assert client.get("1.2.999")[0] == 0xC307


def test_a_claim_is_one_reader_s_until_it_is_completed_and_then_the_study_is_read(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        assert client.change(uid, "COMPLETED", OURS) == 0xC310
        assert client.set(uid, OURS) == 0xC310
        assert client.change(uid, "SCHEDULED", OURS) == 0xC303
        assert client.change(uid, "ASLEEP", OURS) == 0x0115
        assert client.change(uid, "IN PROGRESS", "") == 0xC301
        assert client.change("1.2.999", "IN PROGRESS", OURS) == 0xC307
        assert client.change(uid, "IN PROGRESS", OURS) == 0x0000
        assert ward.row().acknowledged_by == "READER (UPS)"
        assert client.change(uid, "IN PROGRESS", OTHER) == 0xC302
        assert client.change(uid, "COMPLETED", OTHER) == 0xC301
        assert client.set(uid, OTHER, UnifiedProcedureStepPerformedProcedureSequence=done()) == 0xC301
        assert client.change(uid, "COMPLETED", OURS) == 0xC304
        assert client.set(uid, OURS, UnifiedProcedureStepPerformedProcedureSequence=done()) == 0x0000
        assert client.set(uid, OURS, ScheduledProcedureStepPriority="LOW") == 0x0001
        assert only(client, ProcedureStepState="IN PROGRESS").ScheduledProcedureStepPriority == "HIGH"
        assert client.change(uid, "COMPLETED", OURS) == 0x0000
        assert client.change(uid, "COMPLETED", OURS) == 0xB306
        assert client.change(uid, "CANCELED", OURS) == 0xC300
        assert client.set(uid, OURS, UnifiedProcedureStepPerformedProcedureSequence=done()) == 0xC300
        (step,) = client.get(uid)[1].UnifiedProcedureStepPerformedProcedureSequence
        assert step.PerformedStationNameCodeSequence[0].CodeValue == "READER"
        assert client.find(ProcedureStepState="SCHEDULED") == []
    assert ward.row().read_by == "READER (UPS)"
    assert worklist.page(ward.parts.database, worklist.Wanted()).total == 0


def test_a_claim_that_is_given_up_leaves_the_study_on_the_list(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        assert client.change(uid, "IN PROGRESS", OURS) == 0x0000
        assert client.change(uid, "CANCELED", OTHER) == 0xC301
        assert client.change(uid, "CANCELED", OURS) == 0x0000
        assert client.change(uid, "CANCELED", OURS) == 0xB304
        again = only(client, ProcedureStepState="SCHEDULED").SOPInstanceUID
        assert again != uid
        assert client.change(again, "IN PROGRESS", OTHER) == 0x0000
    assert ward.row().read_at is None


def test_a_revision_takes_the_workitem_from_whoever_has_it_and_offers_another(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        assert client.change(uid, "IN PROGRESS", OURS) == 0x0000
        ward.publish(Priority.ROUTINE)
        new = only(client, ProcedureStepState="SCHEDULED")
        assert new.ScheduledProcedureStepPriority == "LOW"
        assert only(client, ProcedureStepState="CANCELED").SOPInstanceUID == uid
        assert client.change(uid, "COMPLETED", OURS) == 0xC300
        (progress,) = client.get(uid)[1].ProcedureStepProgressInformationSequence
        assert progress.ReasonForCancellation.startswith("superseded")


def test_what_is_read_on_the_page_is_completed_and_comes_back_with_it(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        ward.read()
        whole = client.get(uid)[1]
        assert whole.ProcedureStepState == "COMPLETED"
        assert whole.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence
        assert client.change(uid, "IN PROGRESS", OURS) == 0xC300
        ward.read(user=None)
        assert only(client, ProcedureStepState="SCHEDULED").SOPInstanceUID == uid


def test_nobody_is_asked_to_cancel_and_nobody_is_told_of_events(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
        assert client.act(uid, 2) == 0xC313
        client.change(uid, "IN PROGRESS", OURS)
        assert client.act(uid, 2) == 0xC312
        assert client.act("1.2.999", 2) == 0xC307
        ward.read()
        assert client.act(uid, 2) == 0xC311
        assert [client.act(uid, kind, ReceivingAE="READER", DeletionLock="FALSE") for kind in (3, 4, 5)] == [0xC315] * 3
        assert client.act(uid, 9) == 0x0123


def test_of_readers_who_claim_at_the_same_moment_one_has_it(ward: Ward) -> None:
    ward.publish()
    with calling(ward.port) as one, calling(ward.port) as two:
        uid = only(one).SOPInstanceUID
        answers = together(lambda: one.change(uid, "IN PROGRESS", OURS), lambda: two.change(uid, "IN PROGRESS", OTHER))
    assert sorted(answers) == [0x0000, 0xC302]


def test_clients_in_processes_of_their_own_see_one_list(ward: Ward) -> None:
    ward.publish(Priority.ROUTINE)
    ward.publish(study="1.2.2")

    def ask(*words: str) -> Any:
        command = [sys.executable, "-m", "tests.ups", str(ward.port), *words]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)

    (first, priority), (_, last) = ask("find")
    assert [priority, last] == ["HIGH", "LOW"]
    assert ask("IN PROGRESS", first, OURS) == 0x0000
    assert ask("IN PROGRESS", first, OTHER) == 0xC302
    assert len(ask("find")) == 1


def test_a_source_that_may_not_query_is_not_told(ward: Ward) -> None:
    ward.publish()
    ae = CallingAE(ae_title="CT1")
    for sop_class in (PULL, WATCH, QUERY, "1.2.840.10008.1.1"):
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", ward.port, ae_title="TRIAGE")
    assert [context.abstract_syntax for context in association.accepted_contexts] == ["1.2.840.10008.1.1"]
    association.release()


def test_our_scu_performs_a_workitem_of_our_scp(ward: Ward) -> None:
    ward.publish()
    node = Peer(ae_title="TRIAGE", host="127.0.0.1", port=ward.port)
    with calling(ward.port) as client:
        uid = only(client).SOPInstanceUID
    step = dataset(UnifiedProcedureStepPerformedProcedureSequence=done())
    with UpsAssociation(node, calling_ae="READER", timeout_s=10, needs=PULL) as ups:
        assert ups.complete(uid, OURS, step)
        assert ups.complete(uid, OURS, step)
    with pytest.raises(DeliveryError, match="does not accept UPS Push"):
        UpsAssociation(node, calling_ae="READER", timeout_s=10)
    assert ward.row().read_at is not None


def test_what_is_completed_here_is_completed_at_the_worklist_of_the_hospital(tmp_path: Path) -> None:
    """One result, one UID, one state: here, on the page and there."""
    with DemoPacs(tmp_path / "pacs") as pacs, DemoUps() as ups:
        there = UpsDestination(name="worklist", ae_title="WORKLIST", host="127.0.0.1", port=ups.port)
        site = ToldSite(tmp_path, pacs, there)
        site.publish()
        site.send("worklist")
        ward = Ward(tmp_path, site.parts)
        with calling(ward.port) as client:
            uid = only(client).SOPInstanceUID
            assert list(ups.workitems) == [uid]
            client.change(uid, "IN PROGRESS", OURS)
            client.set(uid, OURS, UnifiedProcedureStepPerformedProcedureSequence=done())
            client.change(uid, "COMPLETED", OURS)
        site.send("worklist")
        assert ups.states() == ["COMPLETED"]
        assert ward.row().priority == Priority.STAT
        ward.listener.stop()
        site.close()


SETTINGS = """\
[node]
host = "127.0.0.1"
port = 0
data_dir = "spool"
database = "sqlite:///{folder}/db.sqlite3"
min_free_mb = 0
"""


def test_a_claim_outlives_a_listener_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "triage-node.toml"
    reader = example("worklist", "ups").replace("10.20.0.30", "127.0.0.1")
    path.write_text(SETTINGS.format(folder=tmp_path) + reader)
    with DemoPacs(tmp_path / "pacs") as pacs:
        site = ToldSite(tmp_path, pacs, max_study_age_h=0)
        site.clock.now = datetime.now(UTC)
        site.publish()
        with listening(path) as port, calling(port) as client:
            uid = only(client).SOPInstanceUID
            assert client.change(uid, "IN PROGRESS", OURS) == 0x0000
        with listening(path) as port, calling(port) as client:
            assert client.change(uid, "IN PROGRESS", OTHER) == 0xC302
            assert client.set(uid, OURS, UnifiedProcedureStepPerformedProcedureSequence=done()) == 0x0000
            assert client.change(uid, "COMPLETED", OURS) == 0x0000
        row = worklist.row(site.parts.database, 1)
        assert row is not None
        assert row.read_by == "READER (UPS)"
        site.close()


@contextmanager
def listening(path: Path) -> Iterator[int]:
    """The listen role as a process, killed in the end; its port."""
    words = [sys.executable, "-m", "triage_node", "listen", "--config", str(path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        events = map(json.loads, process.stderr)
        yield next(event["port"] for event in events if event["event"] == "listening")
    finally:
        kill(process)  # type: ignore[arg-type]
        process.stderr.close()
