"""The CSV files of data sets."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import UsageError
from triage_node.learn.data.case import NOT_KNOWN, LabelRow

CT_ICH_COLUMNS: Final = (
    "PatientNumber", "SliceNumber",
    "Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural", "No_Hemorrhage",
)  # fmt: skip
"""Of hemorrhage_diagnosis_raw_ct.csv (1.3.1) and hemorrhage_diagnosis.csv (1.0.0)."""
_BITS: Final = {"0": 0.0, "1": 1.0}


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(where it stands, values by column) of each line; raises UsageError where one of `columns` is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            names = [name.strip() for name in lines.fieldnames or ()]
            missing = [column for column in columns if column not in names]
            if missing:
                raise UsageError(f"{path}: no column {', '.join(missing)}; found {', '.join(names) or 'an empty file'}")
            lines.fieldnames = names
            for line in lines:
                yield f"{path}, line {lines.line_num}", {name: (line[name] or "").strip() for name in columns}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV in UTF-8") from error


def read_bit(text: str, where: str) -> float:
    """0 or 1; raises UsageError for anything else."""
    if text not in _BITS:
        raise UsageError(f"{where}: 0 or 1 is expected")
    return _BITS[text]


def read_ct_ich(path: Path) -> dict[str, dict[int, LabelRow]]:
    """By patient, as in the names of files (three digits), and slice number, from 1.

    A line that denies hemorrhage and names a kind says nothing; one that tells hemorrhage and names no kind leaves the
    kinds unknown. Empty lines are passed over.
    """
    found: dict[str, dict[int, LabelRow]] = {}
    for where, row in read_rows(path, CT_ICH_COLUMNS):
        if not row["PatientNumber"]:
            continue
        try:
            patient, number = int(float(row["PatientNumber"])), int(float(row["SliceNumber"]))
        except ValueError as error:
            raise UsageError(f"{where}: PatientNumber and SliceNumber are expected to be numbers") from error
        slices = found.setdefault(f"{patient:03d}", {})
        if number in slices:
            raise UsageError(f"{where}: slice {number} of this patient stands there twice")
        slices[number] = _diagnosis({name: read_bit(row[name], where) for name in CT_ICH_COLUMNS[2:]})
    return found


def _diagnosis(bits: Mapping[str, float]) -> LabelRow:
    kinds = tuple(bits[name.capitalize()] for name in SUBTYPES)
    if bits["No_Hemorrhage"]:
        return NOT_KNOWN if any(kinds) else (0.0,) * len(CLASSES)
    return (1.0, *(kinds if any(kinds) else (math.nan,) * len(SUBTYPES)))
