"""A node without processes for tests: real spool, database and PACS; only the clock is ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from tests import ct
from tests.arrivals import Clock, received
from triage_node import config
from triage_node.admit import Admission, no_step
from triage_node.deliver.dicom import DicomDestination
from triage_node.pipeline.completing import complete_series
from triage_node.pipeline.delivering import deliver_next
from triage_node.pipeline.parts import Parts
from triage_node.spool import Spool
from triage_node.store import board
from triage_node.store.database import open_database
from triage_node.testing import DemoPacs


class Site:
    """A node without processes, and its PACS."""

    NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
    """tests.ct dates its images on that day."""

    def __init__(
        self, folder: Path, pacs: DemoPacs, *, others: Sequence[config.AnyDestination] = (), **series: Any
    ) -> None:
        self.clock = Clock()
        self.clock.now = self.NOW
        self.pacs = pacs
        destination = config.Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port)
        self.config = self.settings(destination, *others, **series)
        database = open_database(f"sqlite:///{folder / 'db.sqlite3'}")
        self.parts = Parts(
            config=self.config, database=database, spool=Spool(folder / "spool"), clock=self.clock, step=no_step
        )
        self.admission = Admission(spool=self.parts.spool, database=database, clock=self.clock)
        self.destination = DicomDestination(destination, calling_ae="TRIAGE", timeout_s=10)

    @staticmethod
    def settings(*destinations: config.AnyDestination, **series: Any) -> config.Config:
        """Nothing waits; a notice comes after a minute."""
        return config.Config(
            series=config.Series(settle_s=0, notice_after_s=60, **series),
            delivery=config.Delivery(backoff_s=4),
            work=config.Work(attempts=1),
            sources=(config.Source(ae_title="CT1", hosts=["127.0.0.1"]),),
            destinations=destinations,
        )

    def receive(self, *depths_mm: float) -> str:
        """A series over one association, to its end; returns its UID."""
        series_uid = self.admit(ct.head(depths_mm or ct.EVEN_MM))
        self.admission.released("a1")
        self.clock.advance(20)
        assert complete_series(self.parts) == 1
        return series_uid

    def admit(self, images: Sequence[Dataset]) -> str:
        """Images come in; returns the UID of their series."""
        for image in images:
            self.admission.admit(received(image))
        return str(images[0].SeriesInstanceUID)

    def complete(self) -> None:
        """Every series has been quiet for long enough."""
        self.clock.advance(20)
        complete_series(self.parts)

    def deliver(self) -> int:
        """Send what is due."""
        return deliver_next(self.parts, self.destination)

    def status(self) -> dict[str, Any]:
        """What `triage-node status` shows."""
        return board.status(self.parts.database, now=self.clock())

    def result(self, series_uid: str) -> dict[str, Any]:
        """The published result."""
        found = board.result_of(self.parts.database, series_uid)
        assert found is not None
        return found

    def close(self) -> None:
        """Give everything back."""
        self.parts.database.close()
