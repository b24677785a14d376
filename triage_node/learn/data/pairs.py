"""NIfTI images in one folder, their masks under the same names in another."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from triage_node.errors import UsageError

_ENDINGS: Final = (".nii.gz", ".nii")


def nifti_files(folder: Path) -> list[Path]:
    """In the order of their names; empty where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(_ENDINGS))


def stem(path: Path) -> str:
    """The name without .nii or .nii.gz."""
    return next((path.name.removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending)), path.name)


def mask_of(image: Path, masks: Path) -> Path:
    """The mask of `image` in the folder `masks`; raises UsageError where there is none."""
    found = next((path for ending in _ENDINGS if (path := masks / (stem(image) + ending)).is_file()), None)
    if found is None:
        raise UsageError(f"{image}: no mask of this name in {masks}")
    return found
