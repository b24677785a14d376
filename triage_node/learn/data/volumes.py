"""NIfTI files and folders of DICOM files, with masks or labels.csv: our own layout, that of `triage-node evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from triage_node.errors import UsageError
from triage_node.learn.data.case import NOT_KNOWN, Entry, Loaded, wrong_layout
from triage_node.learn.data.pairs import stem
from triage_node.learn.data.pictures import TABLE, label_row
from triage_node.learn.data.truth import by_slice, told_by_blood, told_by_kinds, told_by_table
from triage_node.learn.evaluation.judgement import Failure
from triage_node.learn.evaluation.labels import read_labels
from triage_node.learn.evaluation.volumes import (
    BLOOD,
    OWN_LABELS,
    Series,
    find_series,
    meaning_of,
    read_case,
    read_volume,
)

_EXPECTED: Final = (
    f"images/NAME.nii.gz or folders images/NAME/*.dcm, masks/NAME.nii.gz or *_mask beside them, and {TABLE} for series "
    "without a mask"
)


def find(root: Path) -> list[Entry]:
    """One entry a series. Its patient is told by labels.csv, else by the folder below images/, else by its own name."""
    labels = {label.path: label for label in read_labels(root / TABLE, root)} if (root / TABLE).is_file() else {}
    try:
        found = find_series(root)
    except UsageError as error:
        raise wrong_layout(root, _EXPECTED) from error
    if not labels and not any(series.mask for series in found):
        raise wrong_layout(root, _EXPECTED)
    unknown = sorted(set(labels) - {series.image.resolve() for series in found})
    if unknown:
        raise UsageError(
            f"{root / TABLE}: {len(unknown)} line(s) name no series here, the first {labels[unknown[0]].name}"
        )
    entries, only_blood = [], meaning_of(found) is BLOOD
    for series in found:
        label = labels.get(series.image.resolve())
        entries.append(
            Entry(
                name=series.name,
                patient=(label and label.patient) or _patient(series, root),
                files=(series.image,),
                mask=series.mask,
                mask_tells_kinds=not only_blood,
                series_labels=label_row(label.classes) if label else NOT_KNOWN,
            )
        )
    return entries


def load(entry: Entry) -> Loaded:
    """By the mask, or where there is none by the labels of the series."""
    [image] = entry.files
    if entry.mask is None:
        volume = read_volume(image)
        labels = by_slice(entry.series_labels, len(volume.hu))
        return told_by_table(volume, labels, np.array(entry.series_labels, np.float32))
    meaning = OWN_LABELS if entry.mask_tells_kinds else BLOOD
    case = read_case(Series(name=entry.name, image=image, mask=entry.mask), [], meaning)
    if isinstance(case, Failure):
        raise UsageError(case.reason)
    if not entry.mask_tells_kinds:
        return told_by_blood(case.volume, case.truth > 0)
    return told_by_kinds(case.volume, case.truth)


def _patient(series: Series, root: Path) -> str:
    images = root / "images"
    parts = series.image.relative_to(images if images.is_dir() else root).parts
    return parts[0] if len(parts) > 1 else stem(series.image)
