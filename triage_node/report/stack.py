"""The source slices as highdicom needs to see them: geometry and references, without identity.

highdicom wants one image per slice. A frame of a multi-frame image is shown to it as an image with a UID of its own,
which `refer_to_frames` replaces in what was built by the reference to the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from triage_node.domain import Volume
from triage_node.report.instance import Context, read_header

_REFERENCES: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class _StandIn(Dataset):
    """One frame as an image; Conversion Source Attributes (PS3.3 C.12.1) tell of which file it is which frame."""


def source_slices(volume: Volume, context: Context) -> tuple[Dataset, ...]:
    """One data set per slice of the volume, in its order.

    highdicom refuses what old scanners leave out (Type 2 attributes) or spell freely (PatientSex), so it gets
    only what its templates use; identity is copied to the finished object by `instance.finish`.
    """
    headers = {path: read_header(path) for path in dict.fromkeys(volume.paths)}
    return tuple(_slice(headers[path], volume, index, context) for index, path in enumerate(volume.paths))


def reference_of(image: Dataset) -> tuple[str, int | None]:
    """(SOP Instance UID, frame number) that one of `source_slices` stands for; None for the whole of a single image."""
    if not isinstance(image, _StandIn):
        return str(image.SOPInstanceUID), None
    (origin,) = image.ConversionSourceAttributesSequence
    return str(origin.ReferencedSOPInstanceUID), int(origin.ReferencedFrameNumber)


def refer_to_frames(made: Dataset, slices: Sequence[Dataset]) -> None:
    """In an object made of `slices`, refer to the frames themselves (PS3.3 table 10-3)."""
    origins = {
        str(image.SOPInstanceUID): image.ConversionSourceAttributesSequence[0]
        for image in slices
        if isinstance(image, _StandIn)
    }
    if origins:
        _replace_references(made, origins)


def _replace_references(parent: Dataset, origins: Mapping[str, Dataset]) -> None:
    for element in [element for element in parent if element.VR == "SQ"]:
        items = _referring_to_frames(element.value, origins)
        element.value = items
        for item in items:
            _replace_references(item, origins)
            if element.keyword == "ReferencedSeriesSequence":
                _name_whole_images(item)


def _referring_to_frames(items: Sequence[Dataset], origins: Mapping[str, Dataset]) -> list[Dataset]:
    """One item for each image, with the numbers of all its frames that were referred to."""
    kept: list[Dataset] = []
    by_image: dict[str, Dataset] = {}
    for item in items:
        origin = origins.get(str(item.get("ReferencedSOPInstanceUID")))
        if origin is None:
            kept.append(item)
        elif (first := by_image.get(origin.ReferencedSOPInstanceUID)) is not None:
            first.ReferencedFrameNumber = [*_listed(first.ReferencedFrameNumber), origin.ReferencedFrameNumber]
        else:
            by_image[origin.ReferencedSOPInstanceUID] = copy = deepcopy(item)  # highdicom shares items between lists
            for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedFrameNumber"):
                setattr(copy, keyword, origin[keyword].value)
            kept.append(copy)
    return kept


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, MultiValue) else [value]


def _name_whole_images(series: Dataset) -> None:
    """The list of what a series holds knows no frames (PS3.3 C.12.2, table C.17-3)."""
    for keyword in ("ReferencedInstanceSequence", "ReferencedSOPSequence"):
        for image in series.get(keyword, ()):
            image.pop("ReferencedFrameNumber", None)


def _slice(header: Dataset, volume: Volume, index: int, context: Context) -> Dataset:
    frame_number = volume.frame_number(index)
    seen = Dataset() if frame_number is None else _StandIn()
    for keyword in _REFERENCES:
        setattr(seen, keyword, str(header[keyword].value))
    if frame_number is not None:
        _stand_in_for_frame(seen, frame_number, context)
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
    seen.SliceThickness = (
        _thickness(_macro(header, frame_number, "PixelMeasuresSequence"))
        or _decimal([float(np.median(volume.weights_mm))])[0]
    )
    seen.SamplesPerPixel = 1
    _tell_rescale(seen, _macro(header, frame_number, "PixelValueTransformationSequence"))
    if header.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if header.get(keyword):
                setattr(seen, keyword, header[keyword].value)
    return seen


def _stand_in_for_frame(seen: Dataset, frame_number: int, context: Context) -> None:
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = seen.SOPClassUID, seen.SOPInstanceUID
    origin.ReferencedFrameNumber = frame_number
    seen.ConversionSourceAttributesSequence = [origin]
    seen.SOPClassUID = CTImageStorage
    seen.SOPInstanceUID = context.uids.stand_in(origin.ReferencedSOPInstanceUID, frame_number)


def _macro(header: Dataset, frame_number: int | None, keyword: str) -> Dataset:
    """What holds the attributes of a functional group: the header, or that group of the frame (PS3.3 C.7.6.16)."""
    if frame_number is None:
        return header
    groups = (header.PerFrameFunctionalGroupsSequence[frame_number - 1], *header.SharedFunctionalGroupsSequence)
    return next((group[keyword].value[0] for group in groups if group.get(keyword)), Dataset())


def _tell_rescale(seen: Dataset, told: Dataset) -> None:
    """From stored values to HU (PS3.3 C.11.1); an analysed image has it."""
    slope, intercept = told.get("RescaleSlope"), told.get("RescaleIntercept")
    seen.RescaleSlope, seen.RescaleIntercept = _decimal([1.0 if slope is None else slope, intercept or 0.0])


def _thickness(measures: Dataset) -> DSfloat | None:
    """SliceThickness, unless it is absent, zero or no number ("N/A" was seen)."""
    try:
        return _decimal([float(measures.SliceThickness)])[0] if float(measures.SliceThickness) > 0 else None
    except (AttributeError, TypeError, ValueError):
        return None


def _decimal(values: object) -> list[DSfloat]:
    """Numbers as Decimal Strings of at most 16 characters."""
    return [DSfloat(float(value), auto_format=True) for value in np.asarray(values, dtype=np.float64)]
