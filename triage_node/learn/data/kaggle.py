"""CT-ICH as pictures (PhysioNet 1.0.0 to 1.2.0, and its copies on Kaggle): JPEG slices and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from triage_node.domain import UInt8Array
from triage_node.errors import UsageError
from triage_node.learn.data.case import NOT_KNOWN, BoolArray, Entry, Loaded, wrong_layout
from triage_node.learn.data.tables import read_ct_ich
from triage_node.learn.data.truth import told_by_blood, told_by_table
from triage_node.picture import picture_mask, picture_volume, read_picture

_EXPECTED: Final = (
    "CT-ICH as pictures: Patients_CT/049/brain/1.jpg ..., masks as 1_HGE_Seg.jpg, and hemorrhage_diagnosis.csv beside "
    "Patients_CT"
)
_MASK_ENDING: Final = "_HGE_Seg"
_LEAST_WHITE: Final = 64
"""A mask whose lightest pixel is darker is an empty one with the noise of its compression."""


def find(root: Path) -> list[Entry]:
    """One entry a picture of the brain window; those of the bone window are passed over."""
    table = root / "hemorrhage_diagnosis.csv"
    pictures = [path for path in (root / "Patients_CT").glob("*/brain/*.jpg") if path.stem.isdigit()]
    if not pictures or not table.is_file():
        raise wrong_layout(root, _EXPECTED)
    diagnoses = read_ct_ich(table)
    return [
        Entry(
            name=path.relative_to(root).as_posix(),
            patient=(patient := path.parts[-3]),
            files=(path,),
            mask=mask if (mask := path.with_stem(path.stem + _MASK_ENDING)).is_file() else None,
            labels=(diagnoses.get(patient, {}).get(int(path.stem), NOT_KNOWN),),
        )
        for path in sorted(pictures, key=lambda path: (path.parts[-3], int(path.stem)))
    ]


def load(entry: Entry) -> Loaded:
    """A volume of one slice, HU and millimetres made up as for every picture (triage_node/picture.py)."""
    [path] = entry.files
    grey = read_picture(path)
    volume, labels = picture_volume(grey), np.array(entry.labels, np.float32)
    if entry.mask is None:
        return told_by_table(volume, labels)
    mask = read_picture(entry.mask)
    if mask.shape != grey.shape:
        raise UsageError(f"{entry.name}: the mask has another size than the picture")
    return told_by_blood(volume, picture_mask(white(mask), grey), labels)


def white(grey: UInt8Array) -> BoolArray:
    """(rows, columns) bool: the light part of a grey mask, by Otsu's threshold (IEEE Trans. SMC 9, 1979)."""
    try:
        from skimage.filters import threshold_otsu
    except ImportError as error:
        raise UsageError("grey masks need scikit-image: pip install 'triage-node[train]'") from error
    if grey.max() < _LEAST_WHITE:
        return np.zeros(grey.shape, np.bool_)
    return np.asarray(grey > threshold_otsu(grey), np.bool_)
