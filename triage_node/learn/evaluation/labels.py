"""The labels of a data set: a CSV file with a line for each picture or series."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import UsageError

_VALUES: Mapping[str, bool | None] = {"0": False, "1": True, "": None}


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is known of one file."""

    name: str
    """As the CSV file has it: relative to the root."""
    path: Path
    classes: Mapping[str, bool | None]
    """By class; None where it is not known."""
    patient: str | None = None
    """Whose it is, where the CSV has a column `patient`."""


def read_labels(path: Path, root: Path) -> list[Label]:
    """The lines of a CSV file with the header `file,any` and, as far as they are known, the subtypes: 0, 1 or empty.

    Other columns are passed over. Where a subtype is 1, "any" is; where "any" is 0, the subtypes that have a column
    are. A column `patient` is kept. Raises UsageError, with the line, for anything else, and for a file outside `root`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            labels = list(_labels(csv.DictReader(file), path, root.resolve()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV in UTF-8") from error
    if not labels:
        raise UsageError(f"{path}: no line under the header")
    return labels


def _labels(lines: csv.DictReader[str], path: Path, root: Path) -> Iterator[Label]:
    columns = [column.strip().lower() for column in lines.fieldnames or ()]
    missing = [column for column in ("file", "any") if column not in columns]
    if missing:
        raise UsageError(
            f"{path}: no column {' and '.join(missing)}; the header must be file,any[,{','.join(SUBTYPES)}]"
        )
    lines.fieldnames = columns
    seen: set[str] = set()
    for line in lines:
        where = f"{path}, line {lines.line_num}"
        name = (line["file"] or "").strip()
        if not name or name in seen:
            raise UsageError(f"{where}: {'the file is named twice' if name else 'no file is named'}")
        seen.add(name)
        found = (root / name).resolve()
        if not found.is_relative_to(root):
            raise UsageError(f"{where}: the file lies outside the root folder; give paths relative to it")
        patient = (line.get("patient") or "").strip() or None
        yield Label(name=name, path=found, classes=_classes(line, where), patient=patient)


def _classes(line: Mapping[str, str | None], where: str) -> Mapping[str, bool | None]:
    told = {name: _value((line.get(name) or "").strip(), name, where) for name in CLASSES}
    if any(told[name] for name in SUBTYPES):
        if told["any"] is False:
            raise UsageError(f"{where}: any is 0, and a subtype is 1")
        told["any"] = True
    if told["any"] is False:
        told |= {name: False for name in SUBTYPES if name in line}
    return told


def _value(text: str, name: str, where: str) -> bool | None:
    if text not in _VALUES:
        raise UsageError(f"{where}: {name} must be 0, 1 or empty")
    return _VALUES[text]
