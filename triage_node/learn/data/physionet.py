"""PhysioNet CT-ICH 1.3.1: NIfTI volumes, masks of blood of whatever kind, kinds by slice in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from triage_node.domain import Float32Array, Int64Array
from triage_node.errors import UsageError
from triage_node.learn.data.case import NOT_KNOWN, Entry, LabelRow, Loaded, wrong_layout
from triage_node.learn.data.pairs import mask_of, nifti_files, require_mask, stem
from triage_node.learn.data.tables import read_ct_ich
from triage_node.learn.data.truth import told_by_blood
from triage_node.learn.evaluation.nifti import nifti_turned, nifti_values, nifti_volume

_EXPECTED: Final = (
    "PhysioNet CT-ICH 1.3.1: ct_scans/049.nii ..., masks/049.nii ... and hemorrhage_diagnosis_raw_ct.csv beside them"
)


def find(root: Path) -> list[Entry]:
    """One entry a scan; a slice without a line in the table is not known."""
    images, table = nifti_files(root / "ct_scans"), root / "hemorrhage_diagnosis_raw_ct.csv"
    if not images or not table.is_file() or not (root / "masks").is_dir():
        raise wrong_layout(root, _EXPECTED)
    diagnoses = read_ct_ich(table)
    return [
        Entry(
            name=image.relative_to(root).as_posix(),
            patient=stem(image),
            files=(image,),
            mask=mask_of(image, root / "masks"),
            labels=_rows(diagnoses.get(stem(image), {})),
        )
        for image in images
    ]


def load(entry: Entry) -> Loaded:
    """Mask and table go with the image by voxel index and slice number, as in the script that comes with the data."""
    [image] = entry.files
    mask, volume = require_mask(entry), nifti_volume(image)
    drawn = nifti_values(mask)
    blood = nifti_turned(image, drawn > np.max(drawn) / 2)  # 0 and 255, or nearly so
    return told_by_blood(volume, blood, _labels(entry, _stored_slices(image)))


def _rows(diagnoses: dict[int, LabelRow]) -> tuple[LabelRow, ...]:
    """Slice number n is row n - 1."""
    if diagnoses and min(diagnoses) < 1:
        raise UsageError("the slice numbers of the table are expected to begin with 1")
    return tuple(diagnoses.get(number, NOT_KNOWN) for number in range(1, 1 + max(diagnoses, default=0)))


def _stored_slices(image: Path) -> Int64Array:
    """(slices,) int64: the index in the file of each slice of the volume."""
    shape = nifti_values(image).shape
    indices = nifti_turned(image, np.broadcast_to(np.arange(shape[2]), shape))
    if (indices != indices[:, :1, :1]).any():
        raise UsageError(f"{image.name}: its slices are not axial")
    return np.asarray(indices[:, 0, 0], np.int64)


def _labels(entry: Entry, stored: Int64Array) -> Float32Array:
    if len(entry.labels) > len(stored):
        raise UsageError(f"{entry.name}: {len(stored)} slices, and the table goes up to {len(entry.labels)}")
    rows = [*entry.labels, *[NOT_KNOWN] * (len(stored) - len(entry.labels))]
    return np.array(rows, np.float32)[stored]
