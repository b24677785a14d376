"""A node that serves, and all that it tells: Orthanc by C-STORE with storage commitment, Orthanc by STOW-RS, a RIS by
HL7, a pager, a UPS worklist, a worklist client that queries the node; wlmscpfs of dcmtk says what was ordered. The
model is thresholds of HU (tests.bands).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests import ct
from tests.bands import write_band_bundle, write_head
from tests.hook import Hook
from tests.integration.test_hl7 import field, observation, strict
from tests.integration.test_modality_worklist import item, wlmscpfs
from tests.node import Node, alive
from tests.orthanc import Orthanc, running_orthanc
from tests.tools import free_port
from tests.ups import calling
from triage_node.store import board
from triage_node.store.schema import outbox, result, revision
from triage_node.testing import DemoRis, DemoUps

WAIT_S: Final = 90.0
OBJECTS: Final = ("pacs", "archive")
TOLD: Final = ("ris", "pager", "worklist")
KILLS: Final = 8
DONE: Final = {False: {"SENT", "CANCELLED"}, True: {"CONFIRMED", "CANCELLED"}}
"""Of a row, by whether its destination commits."""
PEERS: Final = """
[modality_worklist]
ae_title = "WL"
host = "127.0.0.1"
port = {mwl}

[[source]]
ae_title = "READER"
hosts = ["127.0.0.1"]
worklist = true

[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs}
commitment = true

[[destination]]
name = "archive"
kind = "dicomweb"
url = "http://127.0.0.1:{archive}/dicom-web"

[[destination]]
name = "ris"
kind = "hl7"
host = "127.0.0.1"
port = {ris}

[[destination]]
name = "pager"
kind = "webhook"
url = "http://127.0.0.1:{pager}/"
secret = "env:PAGER_SECRET"

[[destination]]
name = "worklist"
kind = "ups"
ae_title = "WORKLIST"
host = "127.0.0.1"
port = {worklist}
"""


class Line:
    """What lies between the node and one destination. A context manager.

    It passes everything on, or is "down" (takes no connection), says "garbage", or takes what comes in "silence".
    """

    def __init__(self, to: int) -> None:
        self.state = "passes"
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._server.getsockname()[1])

    def __enter__(self) -> Line:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._connect, args=(caller, self.state), daemon=True).start()

    def _connect(self, caller: socket.socket, state: str) -> None:
        with caller, suppress(OSError):
            if state == "garbage":
                caller.sendall(os.urandom(2000))
            if state == "silence":
                while caller.recv(65536):
                    pass
            if state == "passes":
                with socket.create_connection(("127.0.0.1", self._to)) as called:
                    back = threading.Thread(target=_pump, args=(called, caller), daemon=True)
                    back.start()
                    _pump(caller, called)
                    back.join(WAIT_S)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65536):
            sink.sendall(some)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@dataclass(kw_only=True)
class Hospital:
    """The node and everybody around it."""

    folder: Path
    node: Node
    pacs: Orthanc
    archive: Orthanc
    ris: DemoRis
    pager: Hook
    ups: DemoUps
    lines: Mapping[str, Line]

    def send(self, name: str, *, blood: str | None, only: slice = slice(None)) -> str:
        """A head CT, or some of its images, from CT1; returns its Series Instance UID."""
        folder = self.folder / "sent" / f"{name}-{time.monotonic_ns()}"
        write_head(folder, name=name, blood=blood)
        return self.send_images(sorted(folder.glob("*.dcm"))[only])

    def send_images(self, paths: list[Path]) -> str:
        folder = self.folder / "sent" / f"some-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        for path in paths:
            image = dcmread(path)
            image.AccessionNumber, image.PatientID = "ACC9", "MRN4711"
            image.save_as(folder / path.name)
        self.node.send(folder)
        return str(image.SeriesInstanceUID)

    def wait_for_tries(self, destination: str, more: int) -> None:
        """Until something was tried so often again to be sent there."""
        wanted = self._tries(destination) + more
        self.node.wait_for(lambda: self._tries(destination) >= wanted, what=f"tries of {destination}", timeout_s=WAIT_S)

    def _tries(self, destination: str) -> int:
        query = sa.select(sa.func.sum(outbox.c.attempts)).where(outbox.c.destination == destination)
        with self.node.database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def wait(self, series_uid: str, number: int = 1, *, by: Collection[str] = (*OBJECTS, *TOLD)) -> None:
        """Until everybody, or some, have heard of a revision."""

        def heard() -> bool:
            rows = [row for row in self.rows(series_uid, number) if row["destination"] in by]
            heard_of_it = {row["destination"] for row in rows} == set(by)
            return heard_of_it and all(row["state"] in DONE[row["destination"] == "pacs"] for row in rows)

        self.node.wait_for(heard, what=f"revision {number} at everybody's", timeout_s=WAIT_S)

    def queried(self) -> list[str]:
        """The priorities that a worklist client finds, in its order."""
        with calling(self.node.port()) as client:
            return [str(each.ScheduledProcedureStepPriority) for each in client.find(ProcedureStepState="SCHEDULED")]

    def rows(self, series_uid: str, number: int) -> list[Mapping[str, Any]]:
        """Of the outbox, with when it was sent and when the result was published."""
        query = (
            sa.select(outbox, result.c.kind, revision.c.reported_at, revision.c.priority)
            .join(revision, revision.c.id == outbox.c.revision_id)
            .join(result, result.c.sop_uid == outbox.c.sop_uid)
            .where(revision.c.series_uid == series_uid, revision.c.revision == number)
        )
        with self.node.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def print_delays(self, series_uid: str, number: int = 1) -> None:
        """Seconds from the publication to the last object at each."""
        slowest: dict[str, float] = {}
        for row in self.rows(series_uid, number):
            if row["sent_at"] is not None:
                delay_s = (row["sent_at"] - row["reported_at"]).total_seconds()
                slowest[row["destination"]] = round(max(slowest.get(row["destination"], 0.0), delay_s), 2)
        print(f"revision {number}, seconds from the report to the last object:", slowest, flush=True)


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    monkeypatch.setenv("PAGER_SECRET", "a secret of the two of us")
    port = free_port()
    with ExitStack() as stack:
        known = {"triage": ["TRIAGE", "127.0.0.1", port]}
        pacs = stack.enter_context(running_orthanc(tmp_path / "pacs", known))
        archive = stack.enter_context(running_orthanc(tmp_path / "archive", dicomweb={}))
        ris, pager = stack.enter_context(DemoRis()), stack.enter_context(Hook())
        ups = stack.enter_context(DemoUps())
        ordered = item(PatientID="MRN4711", AccessionNumber="ACC9", IssuerOfPatientID="")
        mwl = stack.enter_context(wlmscpfs(tmp_path / "wl", ordered))
        ends = {"pacs": pacs.dicom_port, "archive": archive.http_port, "ris": ris.port, "pager": pager.port}
        ends["worklist"] = ups.port
        lines = {name: stack.enter_context(Line(to)) for name, to in ends.items()}
        peers = PEERS.format(mwl=mwl, **{name: line.port for name, line in lines.items()})
        settings = {"bundle": write_band_bundle(tmp_path / "bands"), "port": port, "timeout_s": 2.5, "more": peers}
        settings["backoff_cap_s"] = 0.4
        node = Node(tmp_path / "node", destinations={}, **settings)
        stack.callback(node.stop)
        node.start("serve")
        node.port()
        told = {"pacs": pacs, "archive": archive, "ris": ris, "pager": pager, "ups": ups}
        yield Hospital(folder=tmp_path, node=node, lines=lines, **told)


def test_a_positive_is_flagged_everywhere_a_negative_nowhere_and_a_revision_corrects_all(hospital: Hospital) -> None:
    flagged = hospital.send("FLAGGED^ANN", blood="subdural", only=slice(19))
    hospital.wait(flagged)
    hospital.print_delays(flagged)
    require_objects(hospital, flagged, 1)
    (message,) = map(strict, hospital.ris.messages)
    assert field(message, "TQ1", 9) == "S^STAT^HL70485"
    assert str(observation(message, "1386000")[8]) == "AA"
    assert field(message, "PV1", 3) == "ED^Bay 3"
    (told,) = hospital.pager.told
    assert (told.content["event"], told.content["priority"]) == ("result", "STAT")
    (workitem,) = hospital.ups.workitems.values()
    assert (workitem.ScheduledProcedureStepPriority, workitem.ProcedureStepState) == ("HIGH", "SCHEDULED")

    assert hospital.queried() == ["HIGH"]

    quiet = hospital.send("QUIET^BEA", blood=None)
    hospital.wait(quiet)
    hospital.print_delays(quiet)
    require_objects(hospital, quiet, 1)
    message = strict(hospital.ris.messages[-1])
    assert field(message, "TQ1", 9) == "R^Routine^HL70485"
    assert str(observation(message, "1386000")[8]) == "N"
    assert hospital.pager.told[-1].content["priority"] == "ROUTINE"
    assert list(hospital.ups.workitems.values())[-1].ScheduledProcedureStepPriority == "LOW"

    assert hospital.queried() == ["HIGH", "LOW"]

    hospital.send_images([late_and_poisoned(hospital)])
    hospital.wait(flagged, 2)
    hospital.print_delays(flagged, 2)
    require_objects(hospital, flagged, 2)
    message = strict(hospital.ris.messages[-1])
    assert [field(message, "TQ1", 9), field(message, "OBR", 25)] == ["R^Routine^HL70485", "C"]
    assert str(observation(message, "1386000")[5]) == "373121007^Not Evaluated^SCT"
    assert hospital.pager.told[-1].content["event"] == "failure"
    assert hospital.ups.states() == ["CANCELED", "SCHEDULED", "SCHEDULED"]
    assert hospital.queried() == ["LOW", "LOW"]


def test_a_sender_that_is_killed_again_and_again_sends_nothing_under_a_second_identity(hospital: Hospital) -> None:
    stacked = [hospital.send(f"PATIENT^{n}", blood=("subdural", "epidural", None)[n % 3]) for n in range(6)]
    for _ in range(KILLS):
        hospital.node.wait_for(lambda: is_sending(hospital.node), what="something under way", timeout_s=WAIT_S)
        for pid in senders(hospital.node):
            os.kill(pid, signal.SIGKILL)
        hospital.node.wait_for(lambda: bool(senders(hospital.node)), what="another sender", timeout_s=WAIT_S)
    for series_uid in stacked:
        hospital.wait(series_uid)
        require_objects(hospital, series_uid, 1)
    ids = [field(strict(message), "MSH", 10) for message in hospital.ris.messages]
    print(
        f"after {KILLS} kills: {len(ids)} messages, {len(hospital.pager.told)} calls", hospital.ups.requests, flush=True
    )
    assert len(set(ids)) == len(set(hospital.ris.messages)) == len(stacked)
    assert len({told.headers["X-Triage-Event-Id"] for told in hospital.pager.told}) == len(stacked)
    assert hospital.ups.states() == ["SCHEDULED"] * len(stacked)


@pytest.mark.parametrize("away", [*OBJECTS, *TOLD])
def test_who_is_away_or_talks_nonsense_holds_up_nobody_and_is_told_all_when_back(hospital: Hospital, away: str) -> None:
    others = {*OBJECTS, *TOLD} - {away}
    sent = []
    for fault, tries in (("down", 20), ("garbage", 5), ("silence", 3)):
        hospital.lines[away].state = fault
        sent.append(hospital.send(f"{fault}^X".upper(), blood="subdural"))
        hospital.wait(sent[-1], by=others)
        hospital.wait_for_tries(away, tries)
        waiting = {row["state"] for row in hospital.rows(sent[-1], 1) if row["destination"] == away}
        assert waiting <= {"PENDING", "SENDING"}
    hospital.lines[away].state = "passes"
    for series_uid in sent:
        hospital.wait(series_uid)
        require_objects(hospital, series_uid, 1)
    assert len({field(strict(message), "MSH", 10) for message in hospital.ris.messages}) == 3
    assert len({told.headers["X-Triage-Event-Id"] for told in hospital.pager.told}) == 3
    assert hospital.ups.states() == ["SCHEDULED"] * 3


# ---------------------------------------------------------------- steps


def require_objects(hospital: Hospital, series_uid: str, number: int) -> None:
    """Both archives hold each object of a revision, and no other of this study twice."""
    rows = [row for row in hospital.rows(series_uid, number) if row["destination"] in OBJECTS]
    for name, orthanc in (("pacs", hospital.pacs), ("archive", hospital.archive)):
        sent = {row["sop_uid"] for row in rows if row["destination"] == name}
        there = [tags["SOPInstanceUID"] for tags in orthanc.instances()]
        assert sent
        assert sent <= set(there)
        assert len(there) == len(set(there))


def late_and_poisoned(hospital: Hospital) -> Path:
    """The last image of the first series, in which the network sees what makes it say NaN."""
    first = sorted((hospital.folder / "sent").glob("FLAGGED*"))[0]
    path = sorted(first.glob("*.dcm"))[19]
    image: Dataset = dcmread(path)
    hu = ct.hu_of(image)
    rows, columns = (slice(size // 3, 2 * size // 3) for size in hu.shape)
    hu[rows, columns] = 102
    ct.set_hu(image, hu)
    image.save_as(path)
    return path


def is_sending(node: Node) -> bool:
    """Whether an object is under way to anybody."""
    under_way = sa.select(outbox.c.id).where(outbox.c.state == "SENDING").limit(1)
    with node.database.reading() as connection:
        return connection.execute(under_way).first() is not None


def senders(node: Node) -> list[int]:
    """Process ids of the live `deliver` role."""
    roles = board.roles(node.database, now=datetime.now(UTC))
    return [info.pid for info in roles if info.kind == "deliver" and alive(info.pid)]
