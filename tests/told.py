"""A node whose destinations are told of results: real series, spool and database; the model says what the test says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests import ct
from tests.report_cases import mask_of, prediction_of
from tests.site import Site
from triage_node import config
from triage_node.deliver.channel import channel_of
from triage_node.domain import CLASSES, Prediction, Volume
from triage_node.errors import InferenceError
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.delivering import deliver_next
from triage_node.testing import DemoPacs

PATIENT = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "Müller^Jörg^^Dr",
    "PatientID": "MRN4711",
    "IssuerOfPatientID": "ST_ELSEWHERE",
    "PatientBirthDate": "19500102",
    "PatientSex": "M",
    "AccessionNumber": "ACC9",
    "ReferringPhysicianName": "Who^Doctor",
    "StudyDescription": "CT head",
    "TimezoneOffsetFromUTC": "+0100",
}


def example(name: str, guide: str) -> str:
    """A block of a page of docs/channels."""
    page = (Path(__file__).parents[1] / "docs" / "channels" / f"{guide}.md").read_text()
    return page.split(f"<!-- example: {name} -->\n```")[1].split("\n", 1)[1].split("```")[0]


class Says:
    """A model that sees what it is told to see."""

    def __init__(self, what: str) -> None:
        self._what = what

    def predict(self, volume: Volume) -> Prediction:
        """A subdural of 12 mL, one of 0.2 mL, nothing; or it fails."""
        if self._what == "fails":
            raise InferenceError("the model failed")
        if self._what == "negative":
            low = dict.fromkeys(CLASSES, 0.02)
            none = np.zeros(volume.hu.shape, dtype=np.uint8)
            return prediction_of(volume, none, probabilities=low, volumes_ml=dict.fromkeys(CLASSES, 0.0))
        if self._what == "small":
            small = dict.fromkeys(CLASSES, 0.0) | {"any": 0.2, "subdural": 0.2}
            return prediction_of(volume, mask_of(volume), volumes_ml=small)
        return prediction_of(volume, mask_of(volume))


class ToldSite(Site):
    """A node with a PACS and further destinations."""

    def __init__(self, folder: Path, pacs: DemoPacs, *others: config.AnyDestination, **series: Any) -> None:
        super().__init__(folder, pacs, others=others, **series)
        self.channels = {
            each.name: channel_of(each, self.config, clock=self.clock) for each in self.config.destinations
        }

    def publish(self, says: str = "positive", *, images: list[Dataset] | None = None, **elements: Any) -> str:
        """A series to its published end; returns its UID."""
        images = ct.head() if images is None else images
        for image in images:
            for keyword, value in (PATIENT | elements).items():
                setattr(image, keyword, value)
        series_uid = self.admit(images)
        self.complete()
        assert analyze_next(self.parts, Says(says))
        return series_uid

    def publish_damaged(self) -> None:
        """A series whose files cannot be read any more, to its published end, after the wait of a notice."""
        self.admit(ct.head())
        self.complete()
        for path in self.parts.spool.objects():
            path.write_bytes(b"damaged")
        assert analyze_next(self.parts, Says("positive"))
        self.clock.advance(61)

    def send(self, name: str) -> int:
        """Send all that is due for one destination; returns how many objects were tried."""
        tried = 0
        while some := deliver_next(self.parts, self.channels[name]):
            tried += some
        return tried

    def states(self, name: str) -> dict[str, int]:
        """Of its outbox rows."""
        counted: dict[str, int] = self.status()["outbox"].get(name, {})
        return counted

    def wait_for_states(self, timeout_s: float, **expected: set[str]) -> None:
        """Until the rows of each destination are in such states."""
        deadline = time.monotonic() + timeout_s
        while any(set(self.states(name)) != states for name, states in expected.items()):
            assert time.monotonic() < deadline, self.status()["outbox"]
            time.sleep(0.05)

    def letters(self) -> list[str]:
        """What the dead letters say."""
        return [letter["error"] for letter in self.status()["dead_letters"]]
