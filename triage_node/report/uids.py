"""Result UIDs: a pure function of what a result is, so that a retry or a rebuilt row can never make a second one."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from triage_node.domain import MessageKind, ObjectKind

NAMESPACE: Final = UUID("6f1d4c1e-63a5-4e0c-9d43-0b7f2f6f5a11")
"""Of every UID this software issues. Never change it: objects already sent would get a second UID."""

IMPLEMENTATION_CLASS_UID: Final = f"2.25.{uuid5(NAMESPACE, 'implementation').int}"
"""Of File Meta Information in the objects that we write (PS3.10 7.1)."""


@dataclass(frozen=True, kw_only=True)
class ResultUids:
    """The UIDs of one revision of one series' results: "2.25." and a UUID as one integer (PS3.5 B.2).

    `node` is the scope that issues them (unique per installation), `series_uid` the received series.
    """

    node: str
    series_uid: str
    revision: int

    def sop(self, kind: ObjectKind | MessageKind, index: int = 0) -> str:
        """SOPInstanceUID of the `index`-th object of a kind."""
        return self._uid(str(self.revision), kind.value, str(index))

    def series(self, kind: ObjectKind | MessageKind) -> str:
        """SeriesInstanceUID of all objects of a kind: a new one in each revision."""
        return self._uid(str(self.revision), kind.value, "series")

    def tracking(self, label: str) -> str:
        """Tracking UID of a region (PS3.3 C.8.20.4): the same in every revision of the series."""
        return self._uid("tracking", label)

    def filler_number(self) -> str:
        """What systems that take no DICOM know the result of the series by, in every revision: 20 characters."""
        return sha256(self._uid("filler number").encode()).hexdigest()[:20].upper()

    def dimension_organization(self) -> str:
        """DimensionOrganizationUID of the segmentation (PS3.3 C.7.6.17)."""
        return self._uid(str(self.revision), "dimensions")

    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID for a series whose images, against the standard, carry none."""
        return self._uid("frame of reference")

    def stand_in(self, sop_uid: str, frame_number: int) -> str:
        """SOPInstanceUID of a frame while objects are built of it; in none of them when they are done."""
        return self._uid(str(self.revision), "frame", sop_uid, str(frame_number))

    def device(self) -> str:
        """Device Observer UID of the node (PS3.16 TID 1004)."""
        return f"2.25.{uuid5(NAMESPACE, f'device|{self.node}').int}"

    def _uid(self, *parts: str) -> str:
        return f"2.25.{uuid5(NAMESPACE, '|'.join((self.node, self.series_uid, *parts))).int}"
