"""CT files to send to a server that is measured."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

UID_ROOT = "1.2.826.0.1.3680043.10.1"


class Images:
    """CT files to send, with UIDs that no round before had."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count, self._round = folder, count, 0
        self._placeholder = _uid(0, 0)
        self._template = _template(self._placeholder)

    def fresh(self, parts: int) -> list[Path]:
        """`parts` folders that share the images of a new series."""
        self._round += 1
        folders = [self._folder / str(part) for part in range(parts)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        for old in self._folder.glob("*/*.dcm"):
            old.unlink()
        series = self._template.replace(_uid(0, 1).encode(), _uid(self._round, 1).encode())
        for number in range(self._count):
            uid = _uid(self._round, number + 2).encode()
            path = folders[number % parts] / f"{number:04d}.dcm"
            path.write_bytes(series.replace(self._placeholder.encode(), uid))
        return folders


def _uid(number: int, image: int) -> str:
    # all of one length, so that they can be exchanged in the encoded file; no two runs share one
    return f"{UID_ROOT}.{_RUN:019d}.{10000 + number}.{100000 + image}"


_RUN = time.time_ns()


def _template(sop_uid: str) -> bytes:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, UID(sop_uid)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{_uid(0, 1)}.1", _uid(0, 1)
    image.PatientID, image.PatientName, image.Modality = "BENCH", "Bench^Mark", "CT"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.StudyDate, image.StudyTime, image.BodyPartExamined = "20260101", "120000", "HEAD"
    image.ImagePositionPatient, image.ImageOrientationPatient = [-120, -120, 5], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness, image.KVP = [0.47, 0.47], 5, 120
    image.RescaleSlope, image.RescaleIntercept, image.SamplesPerPixel = 1, -1024, 1
    image.PhotometricInterpretation, image.Rows, image.Columns = "MONOCHROME2", 512, 512
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = np.random.default_rng(1).integers(0, 4096, (512, 512), np.uint16).tobytes()
    with tempfile.TemporaryFile() as file:
        image.save_as(file, enforce_file_format=True)
        file.seek(0)
        return file.read()
