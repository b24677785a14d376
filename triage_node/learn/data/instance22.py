"""INSTANCE 2022: NIfTI volumes with masks of blood of whatever kind."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from triage_node.learn.data.case import Entry, Loaded, wrong_layout
from triage_node.learn.data.pairs import mask_of, nifti_files, require_mask, stem
from triage_node.learn.data.truth import told_by_blood
from triage_node.learn.evaluation.nifti import nifti_labels, nifti_volume

_EXPECTED: Final = "INSTANCE 2022: train_2/data/001.nii.gz ... and train_2/label/001.nii.gz ... (or images and labels)"
_FOLDERS: Final = (("data", "label"), ("images", "labels"))


def find(root: Path) -> list[Entry]:
    """One entry a volume, each a patient, in `root` or its train_2."""
    folder = root / "train_2" if (root / "train_2").is_dir() else root
    for of_images, of_masks in _FOLDERS:
        images, masks = nifti_files(folder / of_images), folder / of_masks
        if images and masks.is_dir():
            return [
                Entry(
                    name=image.relative_to(root).as_posix(),
                    patient=stem(image),
                    files=(image,),
                    mask=mask_of(image, masks),
                )
                for image in images
            ]
    raise wrong_layout(root, _EXPECTED)


def load(entry: Entry) -> Loaded:
    """Only "any" is told; the truth is known where there is no blood."""
    [image] = entry.files
    mask, volume = require_mask(entry), nifti_volume(image)
    return told_by_blood(volume, nifti_labels(mask, volume) > 0)
