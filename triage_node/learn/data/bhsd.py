"""BHSD, the Brain Hemorrhage Segmentation Dataset: NIfTI volumes with masks of all five kinds.

Labels are 1 epidural, 2 intraparenchymal, 3 intraventricular, 4 subarachnoid, 5 subdural (dataset.json of its authors),
which are ours too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from triage_node.domain import SUBTYPES
from triage_node.errors import UsageError
from triage_node.learn.data.case import Entry, Loaded, wrong_layout
from triage_node.learn.data.pairs import mask_of, nifti_files, require_mask, stem
from triage_node.learn.data.truth import told_by_kinds
from triage_node.learn.evaluation.nifti import nifti_labels, nifti_volume

_EXPECTED: Final = 'BHSD: label_192/images/*.nii.gz and, under the same names, "label_192/ground truths/*.nii.gz"'
_NAME: Final = re.compile(r"(ID_[0-9a-f]+)_ID_[0-9a-f]+")
"""PatientID and StudyInstanceUID of RSNA 2019; some patients are there twice."""


def find(root: Path) -> list[Entry]:
    """One entry a volume, in `root` or its label_192; the unlabelled ones are passed over."""
    folder = root / "label_192" if (root / "label_192").is_dir() else root
    images, masks = nifti_files(folder / "images"), folder / "ground truths"
    if not images or not masks.is_dir():
        raise wrong_layout(root, _EXPECTED)
    return [
        Entry(
            name=image.relative_to(root).as_posix(),
            patient=_patient(stem(image)),
            files=(image,),
            mask=mask_of(image, masks),
        )
        for image in images
    ]


def load(entry: Entry) -> Loaded:
    """Raises UsageError where the mask holds another label."""
    [image] = entry.files
    mask, volume = require_mask(entry), nifti_volume(image)
    labels = nifti_labels(mask, volume)
    if labels.min() < 0 or labels.max() > len(SUBTYPES):
        raise UsageError(f"{entry.name}: the mask holds a label other than 0 to {len(SUBTYPES)}")
    return told_by_kinds(volume, labels.astype(np.uint8))


def _patient(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match[1] if match else name
