"""The source slices as highdicom needs to see them: geometry and references, without identity."""

from __future__ import annotations

from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from triage_node.domain import Volume
from triage_node.report.instance import Context, read_header

_REFERENCES: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def source_slices(volume: Volume, context: Context) -> tuple[Dataset, ...]:
    """One data set per slice of the volume, in its order.

    highdicom refuses what old scanners leave out (Type 2 attributes) or spell freely (PatientSex), so it gets
    only what its templates use; identity is copied to the finished object by `instance.finish`.
    """
    return tuple(_slice(volume, index, context) for index in range(len(volume.paths)))


def _slice(volume: Volume, index: int, context: Context) -> Dataset:
    header = read_header(volume.paths[index])
    seen = Dataset()
    for keyword in _REFERENCES:
        setattr(seen, keyword, str(header[keyword].value))
    seen.Modality = "CT"
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(seen, keyword, "")
    for keyword in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(seen, keyword, None)
    seen.FrameOfReferenceUID = str(header.get("FrameOfReferenceUID") or context.uids.frame_of_reference())
    seen.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or None
    _, seen.Rows, seen.Columns = (int(size) for size in volume.hu.shape)
    seen.PixelSpacing = _decimal(volume.pixel_spacing_mm)
    seen.ImageOrientationPatient = _decimal(volume.orientation.ravel())
    seen.ImagePositionPatient = _decimal(volume.positions_mm[index])
    seen.SliceThickness = _thickness(header) or _decimal([float(np.median(volume.weights_mm))])[0]
    if header.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if header.get(keyword):
                setattr(seen, keyword, header[keyword].value)
    return seen


def _thickness(header: Dataset) -> DSfloat | None:
    """SliceThickness, unless it is absent, zero or no number ("N/A" was seen)."""
    try:
        return _decimal([float(header.SliceThickness)])[0] if float(header.SliceThickness) > 0 else None
    except (AttributeError, TypeError, ValueError):
        return None


def _decimal(values: object) -> list[DSfloat]:
    """Numbers as Decimal Strings of at most 16 characters."""
    return [DSfloat(float(value), auto_format=True) for value in np.asarray(values, dtype=np.float64)]
