"""Whose study it is and who ordered it, as the header of one of its images says.

For the worklist, and for destinations that must know whose result they are told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from triage_node.domain import Order, Patient
from triage_node.elements import READ_ERRORS

_PATIENT: Final[Mapping[str, tuple[str, int]]] = {
    "patient_name": ("PatientName", 400),
    "patient_id": ("PatientID", 64),
    "birth_date": ("PatientBirthDate", 16),
    "sex": ("PatientSex", 16),
    "accession_number": ("AccessionNumber", 64),
    "description": ("StudyDescription", 400),
}
_ORDER: Final[Mapping[str, tuple[str, int]]] = {
    "issuer_of_patient_id": ("IssuerOfPatientID", 64),
    "referring_physician": ("ReferringPhysicianName", 400),
    "placer_order_number": ("PlacerOrderNumberImagingServiceRequest", 64),
}
"""Element and length kept. Senders write more than the standard allows (PS3.5 6.2): 10 kB of a name were seen."""
_WHEN: Final = ("StudyDate", "StudyTime", "TimezoneOffsetFromUTC")


def read_identity(path: Path) -> tuple[Patient, Order] | None:
    """Of a DICOM file. None where it cannot be read: that never stops a result."""
    keywords = [keyword for keyword, _ in (*_PATIENT.values(), *_ORDER.values())]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", *keywords, *_WHEN])
        return Patient(**texts(header, _PATIENT)), _order(header)
    except READ_ERRORS:
        return None


def _order(header: Dataset) -> Order:
    """Empty where it cannot be read: that must not cost whose result it is."""
    try:
        return Order(**texts(header, _ORDER), study_at=_study_at(header))
    except READ_ERRORS:
        return Order()


def texts(header: Dataset, wanted: Mapping[str, tuple[str, int]]) -> dict[str, str | None]:
    """Elements as text by name, each (keyword, length kept); None for what is empty. Raises READ_ERRORS."""
    return {name: _text(header.get(keyword), most) for name, (keyword, most) in wanted.items()}


def _text(value: object, most: int) -> str | None:
    """One line, printable; None for nothing."""
    whole = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")
    text = " ".join("".join(c if c.isprintable() else " " for c in whole).split())
    return text[:most] or None


def _study_at(header: Dataset) -> str | None:
    """StudyDate and StudyTime with their offset from UTC, else that of this machine; the date alone without a time.

    None before 1900: that is nobody's study, and strftime does not fill up years.
    """
    date, time, offset = (_text(header.get(keyword), 32) or "" for keyword in _WHEN)
    clock = (re.sub(r"[^0-9].*", "", time.replace(":", "")) + "000000")[:6]
    with suppress(ValueError, OverflowError):  # OverflowError: local time of the year 9999
        day = datetime.strptime(date.replace(".", "").replace("-", ""), "%Y%m%d")  # noqa: DTZ007 - a date has no zone
        if day.year < 1900:
            return None
        if not time:
            return f"{day:%Y%m%d}"
        moment = datetime.strptime(f"{day:%Y%m%d}{clock}", "%Y%m%d%H%M%S")  # noqa: DTZ007 - its zone comes next
        return f"{moment:%Y%m%d%H%M%S}{offset}" if re.fullmatch(r"[+-]\d{4}", offset) else _local(moment)
    return None


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y%m%d%H%M%S%z")
