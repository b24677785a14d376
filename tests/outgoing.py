"""A node that has only results to deliver: real spool, database, listener and PACS; only the clock is ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from pydicom.uid import SegmentationStorage

from tests.arrivals import Clock
from tests.integration.tiny import write_ct
from triage_node import config
from triage_node.admit import no_step
from triage_node.deliver.dicom import DicomDestination
from triage_node.domain import Instance, InstanceOutcome, ObjectKind, Outcome, Priority, Proof, ResultObject
from triage_node.pipeline.committing import note_report, request_commitment
from triage_node.pipeline.delivering import deliver_next
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.reading_back import read_back
from triage_node.receive import Listener
from triage_node.spool import Spool
from triage_node.store import board, claims, ledger
from triage_node.store.database import open_database
from triage_node.store.publication import Publication, Report, publish
from triage_node.store.schema import outbox

SERIES = count(1)


class Sender:
    """Publishes results and sends them to one destination."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        ae_title: str = "PACS",
        commitment: bool = True,
        find: str = "",
        listen_on: int = 0,
        hold_s: float = 5.0,
        **delivery: object,
    ) -> None:
        self.folder = folder
        self.clock = Clock()
        self.table = config.Destination(
            name="pacs", ae_title=ae_title, host="127.0.0.1", port=port, commitment=commitment and not find, find=find
        )
        self.config = config.Config(
            node=config.Node(host="127.0.0.1", port=listen_on, data_dir=folder / "spool"),
            delivery=config.Delivery(**{"backoff_s": 4.0, "timeout_s": 10.0, **delivery}),  # type: ignore[arg-type]
            destinations=(self.table,),
        )
        self.parts = Parts(
            config=self.config,
            database=open_database(f"sqlite:///{folder / 'db.sqlite3'}"),
            spool=Spool(folder / "spool"),
            clock=self.clock,
            step=no_step,
        )
        self.destination = DicomDestination(
            self.table, calling_ae="TRIAGE", timeout_s=self.config.delivery.timeout_s, hold_s=hold_s
        )
        self.listener = Listener(
            config=self.config,
            admit=lambda _: 0,
            released=lambda _: None,
            reported=lambda report, names: note_report(self.parts, report, names),
        )
        self.port = self.listener.start()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.stop()
        self.parts.database.close()

    def publish(
        self,
        *,
        priority: Priority = Priority.STAT,
        classes: Sequence[str] = (SegmentationStorage, SegmentationStorage),
        series: str | None = None,
        made: Sequence[ResultObject] = (),
        send: Container[str] | None = None,
    ) -> list[str]:
        """A revision with one object of each class, or with what was `made`; returns the SOP Instance UIDs of those
        that go to the destination: of the kinds to `send`, else of all."""
        database, number = self.parts.database, next(SERIES)
        series = series or f"1.2.{number}"
        ledger.record(database, [ledger.Arrived(instance=_image(number, series, self.clock))])
        for waiting in claims.receiving(database):
            claims.set_ready(database, waiting, "test", self.clock())
        held = claims.claim(database, now=self.clock(), lease_s=60)
        assert held is not None
        objects = [self._kept(each, f"{number}-{index}") for index, each in enumerate(made)] or [
            self._object(sop_class, f"{number}-{index}", study_uid=f"{series}.0")
            for index, sop_class in enumerate(classes)
        ]
        sent = [made.sop_uid for made, _ in objects if send is None or made.kind in send]
        report = Report(
            outcome=Outcome.ANALYZED,
            reason=None,
            detail="said",
            priority=priority,
            result={},
            objects=objects,
            deliveries=[(sop_uid, "pacs") for sop_uid in sent],
            not_before=self.clock(),
        )
        assert publish(database, held, report, now=self.clock()) is Publication.PUBLISHED
        return sent

    def deliver(self) -> int:
        """Send what is due."""
        return deliver_next(self.parts, self.destination)

    def ask(self, after_s: float = 2.0) -> bool:
        """Ask whether it arrived, of what is due some time later."""
        self.clock.advance(after_s)
        ask = read_back if self.destination.proof is Proof.FOUND else request_commitment
        return ask(self.parts, self.destination)

    def states(self) -> Counter[str]:
        """Of the outbox rows."""
        with self.parts.database.reading() as connection:
            return Counter(connection.execute(sa.select(outbox.c.state)).scalars())

    def revisions(self) -> dict[str, int]:
        """Number of revisions by state."""
        counted: dict[str, int] = board.status(self.parts.database, now=self.clock())["series"]
        return counted

    def letters(self) -> list[str]:
        """What the dead letters say."""
        return [letter["error"] for letter in board.status(self.parts.database, now=self.clock())["dead_letters"]]

    def _kept(self, made: ResultObject, name: str) -> tuple[ResultObject, str]:
        relative = f"results/{name}.dcm"
        path = self.parts.spool.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.data)
        return made, relative

    def _object(self, sop_class: str, name: str, *, study_uid: str) -> tuple[ResultObject, str]:
        relative = f"results/{name}.dcm"
        path = self.parts.spool.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        written = write_ct(path, sop_class_uid=sop_class, study_uid=study_uid, series_uid="2.25.1")
        made = ResultObject(
            kind=ObjectKind.SEG,
            sop_class_uid=sop_class,
            sop_uid=written.sop_uid,
            series_uid="2.25.1",
            transfer_syntax_uid=written.transfer_syntax_uid,
            data=path.read_bytes(),
        )
        return made, relative


def _image(number: int, series: str, clock: Clock) -> Instance:
    return Instance(
        sop_uid=f"1.2.3.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_uid=f"{series}.0",
        series_uid=series,
        modality="CT",
        sha256="0" * 64,
        size_bytes=1,
        position_mm=None,
        normal=None,
        calling_ae="CT1",
        source_address="127.0.0.1",
        association="a1",
        received_at=clock() + timedelta(0),
        outcome=InstanceOutcome.SERIES,
    )
