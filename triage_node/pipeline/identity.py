"""Whose study it is, as the header of one of its images says: for the worklist, the only place that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydicom import dcmread

from triage_node.domain import Patient
from triage_node.elements import READ_ERRORS

_KEYWORDS: Final[Mapping[str, tuple[str, int]]] = {
    "patient_name": ("PatientName", 400),
    "patient_id": ("PatientID", 64),
    "birth_date": ("PatientBirthDate", 16),
    "sex": ("PatientSex", 16),
    "accession_number": ("AccessionNumber", 64),
    "description": ("StudyDescription", 400),
}
"""Element and length kept. Senders write more than the standard allows (PS3.5 6.2): 10 kB of a name were seen."""


def patient_of(path: Path) -> Patient | None:
    """Of a DICOM file. None where it cannot be read: that never stops a result."""
    wanted = ["SpecificCharacterSet", *(keyword for keyword, _ in _KEYWORDS.values())]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        texts = {name: _text(header.get(keyword), most) for name, (keyword, most) in _KEYWORDS.items()}
    except READ_ERRORS:
        return None
    return Patient(**texts)


def _text(value: object, most: int) -> str | None:
    """One line, printable; None for nothing."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value or "")).split())
    return text[:most] or None
