"""CQ500 (qure.ai): studies of several DICOM series; three radiologists' reads of each study, no masks.

One series of each study is read: the one that the node would analyse (assemble/primary). The others are the same X-rays
reconstructed in another way; they would repeat the patient, and their reads are of the study, not of the series.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from triage_node.assemble import assemble
from triage_node.assemble.primary import preference, sketch
from triage_node.domain import SUBTYPE_ABBREVIATIONS
from triage_node.learn.data.case import NOT_KNOWN, Entry, LabelRow, Loaded, wrong_layout
from triage_node.learn.data.tables import read_bit, read_rows
from triage_node.learn.data.truth import by_slice, told_by_table

_EXPECTED: Final = (
    'CQ500: "CQ500CT0 CQ500CT0/Unknown Study/CT Plain/CT000000.dcm" ... and reads.csv with the columns name, R1:ICH, '
    "R1:IPH, ..., R3:SAH beside the studies"
)
_STUDY: Final = re.compile(r"CQ500-?CT-?(\d+)")
"""CQ500CT0 in folders, CQ500-CT-0 in reads.csv."""
_NOT_PLAIN: Final = re.compile(r"(?<!PRE )CONTRAST|CECT|ORAL|ANGIO|BONE|\bC\b")
"""Folders are named by the description of the series, which headers may have lost."""
_READERS: Final = ("R1", "R2", "R3")
_CATEGORIES: Final = ("ICH", *SUBTYPE_ABBREVIATIONS.values())
"""In the order of CLASSES."""


def find(root: Path) -> list[Entry]:
    """One entry a study: of its series, the one that the node would analyse, plain ones first."""
    table = root / "reads.csv"
    studies = _studies(root)
    if not studies or not table.is_file():
        raise wrong_layout(root, _EXPECTED)
    reads = read_majorities(table)
    entries = []
    for number in tqdm(sorted(studies), desc="studies", unit="study", delay=2):
        folder = _preferred(studies[number])
        entries.append(
            Entry(
                name=folder.relative_to(root).as_posix(),
                patient=f"CQ500CT{number}",
                files=tuple(studies[number][folder]),
                series_labels=reads.get(number, NOT_KNOWN),
            )
        )
    return entries


def load(entry: Entry) -> Loaded:
    """The series as the node assembles it; what the study has not, no slice has, and of the rest nothing is known."""
    volume = assemble(entry.files)
    series_labels = np.array(entry.series_labels, np.float32)
    return told_by_table(volume, by_slice(entry.series_labels, len(volume.hu)), series_labels)


def read_majorities(table: Path) -> dict[int, LabelRow]:
    """By number of the study: what two of the three radiologists say. Where a kind is there, so is hemorrhage."""
    columns = [f"{reader}:{category}" for reader in _READERS for category in _CATEGORIES]
    found = {}
    for where, row in read_rows(table, ("name", *columns)):
        study = _STUDY.search(row["name"])
        if study:
            found[int(study[1])] = _majority(row, where)
    return found


def _majority(row: Mapping[str, str], where: str) -> LabelRow:
    votes = [sum(read_bit(row[f"{reader}:{category}"], where) for reader in _READERS) for category in _CATEGORIES]
    kinds = [float(vote >= 2) for vote in votes[1:]]
    return (float(votes[0] >= 2 or any(kinds)), *kinds)


def _studies(root: Path) -> dict[int, dict[Path, list[Path]]]:
    """Files by study and folder."""
    studies: dict[int, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(root.rglob("*.dcm")):
        study = _STUDY.search(path.relative_to(root).as_posix())
        if study:
            studies[int(study[1])][path.parent].append(path)
    return studies


def _preferred(series: Mapping[Path, list[Path]]) -> Path:
    def rank(folder: Path) -> tuple[object, ...]:
        known = sketch(folder.name, series[folder])
        plain = not _NOT_PLAIN.search(folder.name.upper())
        return (known is not None, plain, preference(known) if known else (), folder.name)

    return max(series, key=rank)
