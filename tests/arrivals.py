"""C-STORE requests for tests, as the listener hands them to `admit`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from triage_node.domain import ReceivedObject

PREFIX = 144
"""Preamble, DICM and the group length element of a PS3.10 file."""


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The moment it shows."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Turn it on."""
        self.now += timedelta(seconds=seconds)


def received(image: Dataset, *, association: str = "a1") -> ReceivedObject:
    """The request that a sender of this image would make."""
    if not hasattr(image, "file_meta"):
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    length = PREFIX + int.from_bytes(data[140:144], "little")
    return ReceivedObject(
        sop_uid=str(image.SOPInstanceUID),
        sop_class_uid=str(image.SOPClassUID),
        transfer_syntax_uid=str(image.file_meta.TransferSyntaxUID),
        header=data[:length],
        dataset=data[length:],
        calling_ae="CT1",
        source_address="127.0.0.1",
        association=association,
    )
