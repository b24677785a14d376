"""A folder of PNG and JPEG pictures with labels.csv, our own layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from triage_node.domain import CLASSES
from triage_node.learn.data.case import Entry, LabelRow, Loaded, wrong_layout
from triage_node.learn.data.truth import told_by_table
from triage_node.learn.evaluation.labels import read_labels
from triage_node.picture import picture_volume, read_picture

TABLE: Final = "labels.csv"
_EXPECTED: Final = (
    f"PNG or JPEG pictures and {TABLE} with the header file,any[,epidural,...][,patient], paths relative to the folder"
)


def find(root: Path) -> list[Entry]:
    """One entry a line of labels.csv. Without its column `patient`, every picture is a patient of its own."""
    if not (root / TABLE).is_file():
        raise wrong_layout(root, _EXPECTED)
    return [
        Entry(
            name=label.name,
            patient=label.patient or label.name,
            files=(label.path,),
            labels=(label_row(label.classes),),
        )
        for label in read_labels(root / TABLE, root)
    ]


def load(entry: Entry) -> Loaded:
    """A volume of one slice, HU and millimetres made up (triage_node/picture.py)."""
    [path] = entry.files
    return told_by_table(picture_volume(read_picture(path)), np.array(entry.labels, np.float32))


def label_row(classes: Mapping[str, bool | None]) -> LabelRow:
    """1, 0, or nan, in the order of CLASSES; without blood, no kind of it is there."""
    if classes["any"] is False:
        return (0.0,) * len(CLASSES)
    return tuple(math.nan if (told := classes[name]) is None else float(told) for name in CLASSES)
