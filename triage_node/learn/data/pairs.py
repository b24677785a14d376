"""NIfTI images in one folder, their masks under the same names in another."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from triage_node.errors import UsageError
from triage_node.learn.data.case import Entry

_ENDINGS: Final = (".nii.gz", ".nii")


def nifti_files(folder: Path) -> list[Path]:
    """In the order of their names; empty where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(_ENDINGS))


def stem(path: Path) -> str:
    """The name without .nii or .nii.gz."""
    return next((path.name.removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending)), path.name)


def mask_of(image: Path, masks: Path) -> Path | None:
    """The mask of `image` in the folder `masks`; None where there is none."""
    return next((path for ending in _ENDINGS if (path := masks / (stem(image) + ending)).is_file()), None)


def require_mask(entry: Entry) -> Path:
    """UsageError for an entry without one."""
    if entry.mask is None:
        raise UsageError("no mask of this name")
    return entry.mask
