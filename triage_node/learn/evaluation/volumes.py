"""CT series with masks in a folder: NIfTI or DICOM, one Case each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage_node.assemble import assemble
from triage_node.domain import CLASSES, SUBTYPES, UInt8Array, Volume
from triage_node.errors import TriageNodeError, UsageError
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.evaluation.judgement import Failure
from triage_node.learn.evaluation.labels import Label
from triage_node.learn.evaluation.nifti import nifti_labels, nifti_values, nifti_volume
from triage_node.learn.evaluation.segmentation import seg_mask

OWN_LABELS: Final[Mapping[int, str]] = {1 + index: name for index, name in enumerate(SUBTYPES)}
BLOOD: Final[Mapping[int, str]] = {1: "any"}
_NIFTI: Final = (".nii.gz", ".nii")
_DICOM: Final = (".dcm", ".ima")
_NO_DICOM: Final = (*_NIFTI, ".csv", ".json", ".png", ".jpg", ".txt")
_MASK_NAMES: Final = ("mask", "seg")
_MASK_ENDINGS: Final = tuple(f"_{name}" for name in _MASK_NAMES)
_AIR_HU: Final = -200


@dataclass(frozen=True, kw_only=True)
class Series:
    """One CT and its mask on disk."""

    name: str
    """Relative to the root."""
    image: Path
    """A NIfTI file, or a folder of DICOM files."""
    mask: Path | None


def find_series(root: Path) -> list[Series]:
    """In `root/images`, or in `root` where that is no folder: NIfTI files, and folders that hold DICOM files.

    The mask of NAME is NAME_mask or NAME_seg beside it, or NAME, NAME_mask or NAME_seg in root/masks, in the subfolder
    of the same name as that of the image, or mask or seg beside it where no other image is; its ending is .nii.gz,
    .nii, or .dcm (SEG). Raises UsageError where there is no series.
    """
    images = root / "images" if (root / "images").is_dir() else root
    if not images.is_dir():
        raise UsageError(f"{root}: no such folder")
    files = [path for path in images.rglob("*") if path.name.endswith(_NIFTI) and not _is_mask(path, root)]
    folders = {path.parent for path in images.rglob("*") if _is_dicom(path) and not _is_mask(path, root)}
    found = sorted([*files, *folders])
    if not found:
        raise UsageError(f"{root}: no NIfTI file (*.nii, *.nii.gz) and no folder of DICOM files")
    return [
        Series(name=path.relative_to(root).as_posix(), image=path, mask=_mask_of(path, images, root)) for path in found
    ]


def dicom_files(folder: Path) -> list[Path]:
    """Those of one folder in the order of their names: *.dcm, *.ima, and others with the preamble of PS3.10 7.1."""
    return sorted(path for path in folder.iterdir() if _is_dicom(path))


def meaning_of(found: Sequence[Series]) -> Mapping[int, str]:
    """What the labels of masks mean where nobody says. OWN_LABELS; where all masks are NIfTI and hold 1 alone, BLOOD.

    Reads masks until one says otherwise. What cannot be read says nothing here.
    """
    masks = [series.mask for series in found if series.mask is not None]
    if not all(mask.name.endswith(_NIFTI) for mask in masks):
        return OWN_LABELS
    labels: set[float] = set()
    for mask in masks:
        with suppress(UsageError):
            labels.update(np.unique(nifti_values(mask)).tolist())
        if labels - {0, 1}:
            return OWN_LABELS
    return BLOOD if 1 in labels else OWN_LABELS


def read_case(series: Series, labels: Sequence[Label], meaning: Mapping[int, str]) -> Case | Failure:
    """A series with its truth. `meaning` tells the class of each label of a mask (see `parse_mask_labels`).

    Without a mask it must be among `labels`, and only what they say of the series is known where it bled.
    """
    classes = next((label.classes for label in labels if label.path == series.image.resolve()), None)
    try:
        if series.mask is None and (classes is None or classes["any"] is None):
            raise UsageError("has no mask, and no line of the labels says any = 0 or 1")
        volume = read_volume(series.image)
        truth = _truth(series.mask, volume, meaning)
    except TriageNodeError as error:
        return Failure(name=series.name, reason=str(error))
    case = Case(
        name=series.name,
        volume=volume,
        truth=truth,
        told=CLASSES if series.mask is None else _told(meaning),
        note=None if volume.hu.min() < _AIR_HU else "no value below -200: no air, so perhaps no Hounsfield units",
    )
    if series.mask is None and classes is not None and classes["any"]:
        told = np.array([np.nan if (one := classes[name]) is None else one for name in CLASSES], np.float32)
        return replace(case, masked=np.zeros(len(truth), np.bool_), series_labels=told)
    return case


def read_volume(image: Path) -> Volume:
    """Of a NIfTI file or a folder of DICOM files. UsageError or NotSuitable where it cannot be read."""
    return assemble(dicom_files(image)) if image.is_dir() else nifti_volume(image)


def parse_mask_labels(text: str) -> dict[int, str]:
    """ "1=intraparenchymal,2=subdural" to {1: ...}; UsageError for another form, or "any" beside subtypes.

    "1=any" is a mask of blood of unknown kind: only "any" is compared then. Subtypes that are not named are not told.
    """
    try:
        meaning = {int(number): name.strip() for number, name in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f'"{text}" is no list of labels; write for example 1=intraparenchymal,2=subdural') from error
    unknown = sorted(set(meaning.values()) - set(CLASSES))
    if unknown or min(meaning) < 1:
        raise UsageError(f'"{text}": labels are from 1 on, and each is one of {", ".join(CLASSES)}')
    if "any" in meaning.values() and set(meaning.values()) != {"any"}:
        raise UsageError(f'"{text}": any cannot stand beside subtypes')
    return meaning


def _told(meaning: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(name for name in CLASSES if name == "any" or name in meaning.values())


# ---------------------------------------------------------------- files


def _stem(path: Path) -> str:
    if path.is_dir():
        return path.name
    return next((path.name.removesuffix(end) for end in (*_NIFTI, ".dcm") if path.name.endswith(end)), path.name)


def _is_dicom(path: Path) -> bool:
    name = path.name.lower()
    if name.endswith(_DICOM):
        return True
    if name.endswith(_NO_DICOM) or name == "dicomdir" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _is_mask(path: Path, root: Path) -> bool:
    stem = _stem(path)
    return stem in _MASK_NAMES or stem.endswith(_MASK_ENDINGS) or (root / "masks") in path.parents


def _is_alone(image: Path, root: Path) -> bool:
    """No other image lies in its folder."""
    others = (
        path for path in image.parent.iterdir() if path != image and (path.is_dir() or path.name.endswith(_NIFTI))
    )
    return all(_is_mask(path, root) for path in others)


def _mask_of(image: Path, images: Path, root: Path) -> Path | None:
    stem, masks = _stem(image), root / "masks" / image.relative_to(images).parent
    beside = [image.parent / f"{stem}{ending}" for ending in _MASK_ENDINGS]
    apart = [masks / f"{stem}{ending}" for ending in ("", *_MASK_ENDINGS)]
    plain = [image.parent / name for name in _MASK_NAMES] if _is_alone(image, root) else []
    places = (*beside, *apart, *plain)
    candidates = (place.with_name(place.name + end) for place in places for end in (*_NIFTI, ".dcm"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


# ---------------------------------------------------------------- truth


def _truth(mask: Path | None, volume: Volume, meaning: Mapping[int, str]) -> UInt8Array:
    if mask is None:
        return np.zeros(volume.hu.shape, np.uint8)
    if mask.suffix == ".dcm":
        return seg_mask(mask, volume, meaning if meaning is not OWN_LABELS else None)
    return _own_labels(nifti_labels(mask, volume), meaning)


def _own_labels(labels: NDArray[np.int64], meaning: Mapping[int, str]) -> UInt8Array:
    """Labels of a file to 1 + index in SUBTYPES; blood of unknown kind counts as 1."""
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *meaning})
    if unknown:
        raise UsageError(f"the mask holds label {unknown[0]}; say with --mask-labels what it means")
    truth = np.zeros(labels.shape, np.uint8)
    for number, name in meaning.items():
        truth[labels == number] = max(1, CLASSES.index(name))
    return truth
