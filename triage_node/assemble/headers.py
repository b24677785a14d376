"""Read the header elements that decide what a file is. No name, ID or date of birth is ever read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from triage_node.assemble.frames import FUNCTIONAL_GROUPS, frame_elements, is_multi_frame
from triage_node.domain import Float64Array, NotAnalyzedReason
from triage_node.elements import READ_ERRORS
from triage_node.errors import NotSuitable

ELEMENTS: Final = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientAge", "ImageType", "NumberOfFrames",
    "SamplesPerPixel", "InstanceNumber",
    "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns",
    "SliceThickness", "ConvolutionKernel", "AcquisitionNumber", "GantryDetectorTilt", "KVP",
    "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime", "StudyDate", "StudyTime",
    "TimezoneOffsetFromUTC", "BodyPartExamined", "SeriesDescription", "ProtocolName", "StudyDescription",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "WindowCenter", "WindowWidth",
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "LossyImageCompression",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "StackID",
)  # fmt: skip
"""All that is read of a file before its pixels: no name, ID or date of birth is among them."""

ORTHONORMAL_TOLERANCE: Final = 0.01
"""Direction cosines are printed with as few as three digits; a larger error is no orientation at all."""
FARTHEST_MM: Final = 1e5
"""No scanner room is 100 m long; what lies further away is no position."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What one image, or one frame of a multi-frame image, says of itself, before its pixels are read."""

    path: Path
    frame_number: int | None
    """Of the frame in its file, from 1; None for a single-frame image."""
    elements: Dataset
    """The elements of ELEMENTS that it has."""
    orientation: Float64Array | None
    """(2, 3) float64, ImageOrientationPatient, LPS; None where absent or unusable."""
    position_mm: Float64Array | None
    """(3,) float64, ImagePositionPatient, LPS mm; None where absent or unusable."""
    spacing_mm: tuple[float, float] | None
    """PixelSpacing: (between rows, between columns), mm."""

    @property
    def sop_uid(self) -> str:
        """SOPInstanceUID."""
        return self.text("SOPInstanceUID")

    @cached_property
    def normal(self) -> Float64Array:
        """(3,) float64, unit vector along the slice normal, towards the head (LPS +z)."""
        assert self.orientation is not None
        normal = np.cross(self.orientation[0], self.orientation[1])
        towards_head: Float64Array = normal / np.linalg.norm(normal) * (1.0 if normal[2] >= 0 else -1.0)
        return towards_head

    @cached_property
    def depth_mm(self) -> float:
        """Distance of the slice from the origin along `normal`, mm: grows from feet to head."""
        assert self.position_mm is not None
        return float(self.position_mm @ self.normal)

    def text(self, keyword: str) -> str:
        """First value of an element as stripped text; "" where absent or unreadable."""
        values = self._values(keyword)
        return str(values[0]).strip() if values else ""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values of an element as stripped text."""
        return tuple(str(value).strip() for value in self._values(keyword))

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values of an element as finite numbers; empty where one of them is not."""
        return _finite(self._values(keyword))

    def number(self, keyword: str) -> float | None:
        """First value of an element as a finite number; None where there is none."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def _values(self, keyword: str) -> list[Any]:
        return _values(self.elements, keyword)


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """Headers of all images and frames, in an order that does not depend on the order of `paths`.

    Raises NotSuitable(UNREADABLE) for a file that is not DICOM or ends too early, NotSuitable(NO_GEOMETRY) for a
    multi-frame image that does not describe its frames.
    """
    headers = [header for path in paths for header in _read_headers(path)]
    return sorted(headers, key=lambda header: (header.sop_uid, str(header.path), header.frame_number or 0))


def taken_at(header: Header, zone: tzinfo | None) -> datetime | None:
    """When the image was acquired, else when its series or study began; None where the header has no date.

    A date without a time counts as its last second. Times without an offset are taken to be in `zone`.
    """
    return acquired_at(header, zone) or _first_moment(header, zone, _date_and_time(header, "Series", "Study"))


def acquired_at(header: Header, zone: tzinfo | None) -> datetime | None:
    """When the image was acquired; None where the header does not say. Zones as in `taken_at`."""
    return _first_moment(header, zone, (header.text("AcquisitionDateTime"), *_date_and_time(header, "Acquisition")))


def _date_and_time(header: Header, *levels: str) -> tuple[str, ...]:
    dates = ((header.text(f"{level}Date"), header.text(f"{level}Time")) for level in levels)
    return tuple(date + time for date, time in dates if date)


def _first_moment(header: Header, zone: tzinfo | None, texts: Sequence[str]) -> datetime | None:
    zone = _offset(header.text("TimezoneOffsetFromUTC")) or zone or UTC
    return next((found for text in texts if (found := _moment(text, zone)) is not None), None)


def _read_headers(path: Path) -> list[Header]:
    """One for a single-frame image, one for each frame of another."""
    try:
        image = dcmread(path, stop_before_pixels=True, specific_tags=[*ELEMENTS, *FUNCTIONAL_GROUPS])
        if not is_multi_frame(image):
            return [_header(path, image, None)]
        frames = frame_elements(image, frozenset(ELEMENTS))
        return [_header(path, elements, number) for number, elements in enumerate(frames, start=1)]
    except READ_ERRORS as error:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "A file of the series cannot be read as DICOM.") from error


def _header(path: Path, elements: Dataset, frame_number: int | None) -> Header:
    return Header(
        path=path,
        frame_number=frame_number,
        elements=elements,
        orientation=_orientation(_finite(_values(elements, "ImageOrientationPatient"))),
        position_mm=_position(_finite(_values(elements, "ImagePositionPatient"))),
        spacing_mm=_spacing(_finite(_values(elements, "PixelSpacing"))),
    )


def _values(elements: Dataset, keyword: str) -> list[Any]:
    try:
        value = elements.get(keyword)
    except READ_ERRORS:  # a value that its VR does not allow, such as DS "n/a", counts as absent
        return []
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else list(value)


def _finite(values: list[Any]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (ValueError, TypeError):
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


def _position(numbers: tuple[float, ...]) -> Float64Array | None:
    return np.array(numbers) if len(numbers) == 3 and max(map(abs, numbers)) < FARTHEST_MM else None


def _spacing(numbers: tuple[float, ...]) -> tuple[float, float] | None:
    return (numbers[0], numbers[1]) if len(numbers) == 2 and 0 < min(numbers) <= max(numbers) < FARTHEST_MM else None


def _orientation(numbers: tuple[float, ...]) -> Float64Array | None:
    if len(numbers) != 6:
        return None
    rows = np.array(numbers).reshape(2, 3)
    return rows if np.allclose(rows @ rows.T, np.eye(2), atol=ORTHONORMAL_TOLERANCE) else None


def _offset(text: str) -> tzinfo | None:
    try:
        return datetime.strptime(text, "%z").tzinfo
    except ValueError:
        return None


def _moment(text: str, zone: tzinfo) -> datetime | None:
    """A DICOM DT, or DA followed by TM (PS3.5 6.2), as an aware datetime."""
    digits, sign, offset = text, "", ""
    for mark in "+-":
        if mark in text:
            digits, sign, offset = text.partition(mark)
    digits = digits.partition(".")[0].replace(":", "").strip()
    try:
        day = datetime.strptime(digits[:8], "%Y%m%d").replace(tzinfo=_offset(sign + offset) or zone)
    except ValueError:
        return None
    try:
        return day + timedelta(
            hours=int(digits[8:10]), minutes=int(digits[10:12] or 59), seconds=int(digits[12:14] or 59)
        )
    except ValueError:
        return day + timedelta(days=1, seconds=-1)
