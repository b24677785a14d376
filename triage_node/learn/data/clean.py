"""Corrupt and repeated images of a data set: found and told, never deleted. `triage-node clean`.

Repeated: the same pixels again, anywhere. Nearly repeated: the same picture in another size, compression or brightness,
in another patient, where it would lie on both sides of a split; within a patient neighbouring slices are alike.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from triage_node.assemble.headers import read_headers
from triage_node.assemble.pixels import each_hounsfield
from triage_node.domain import Float32Array, UInt8Array
from triage_node.errors import NotSuitable, TriageNodeError, UsageError
from triage_node.learn.data import LAYOUTS
from triage_node.learn.evaluation.nifti import nifti_volume
from triage_node.learn.evaluation.volumes import dicom_files
from triage_node.picture import WHITE_HU, read_picture

PLAIN_FOLDER: Final = "folder"
"""Instead of a layout: every file with one of ENDINGS; DICOM files of one folder are of one patient, others are not."""
_PICTURES: Final = (".png", ".jpg", ".jpeg")
ENDINGS: Final = (*_PICTURES, ".dcm", ".nii", ".nii.gz")
_THUMB_PX: Final = 16
_ALIKE: Final = 0.985
"""Correlation of two thumbnails. Measured on 90 simulated slices of 10 heads: copies as JPEG (quality 30), in half or
one and a half times the size, or brighter, from 0.990 on; slices of different heads up to 0.873, neighbours 0.964.
Near the vertex, where there is little to see, simulated heads reached 0.987."""
_LEAST_CONTRAST_GREY: Final = 6.0
"""Standard deviation of a thumbnail, below which it shows too little to be told from others (air, the vertex)."""
_COMPARED_AT_ONCE: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One image that should be looked at."""

    kind: str
    """unreadable, constant, repeated or nearly repeated."""
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}: {self.detail}"


def find_faults(layout: str, root: Path) -> Iterator[Fault]:
    """Of every image of a layout of LAYOUTS, or of PLAIN_FOLDER; those that nearly repeat others last.

    Raises UsageError where `root` is laid out otherwise.
    """
    seen = _Seen()
    for path, patient in tqdm(_files(layout, root), desc="images", unit="file", delay=2):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        try:
            for part, image in _images(path):
                yield from seen.faults(name + part, patient, image)
        except TriageNodeError as error:
            yield Fault(kind="unreadable", name=name, detail=_reason(error, path))
    yield from seen.near_faults()


# ---------------------------------------------------------------- files


def _files(layout: str, root: Path) -> list[tuple[Path, str]]:
    """(file, patient) of every image, in the order of their names."""
    if layout != PLAIN_FOLDER:
        return [
            (path, entry.patient)
            for entry in LAYOUTS[layout].find(root)
            for file in entry.files
            for path in (dicom_files(file) if file.is_dir() else [file])
        ]
    found = sorted(path for path in root.rglob("*") if path.name.lower().endswith(ENDINGS) and path.is_file())
    if not found:
        raise UsageError(f"{root}: no image ({', '.join(ENDINGS)}) in this folder")
    return [(path, (path.parent if path.suffix.lower() == ".dcm" else path).as_posix()) for path in found]


def _images(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """(which of the file, (rows, columns) pixels) of each image of a file."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        for number, hu in enumerate(nifti_volume(path).hu, start=1):
            yield f", slice {number} from the feet", hu
    elif path.name.lower().endswith(_PICTURES):
        yield "", read_picture(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote element values, which may be patient data
            headers = read_headers([path])
            images = list(each_hounsfield(headers))
        for index, hu in images:
            yield (f", frame {headers[index].frame_number}" if headers[index].frame_number else ""), hu


def _reason(error: TriageNodeError, path: Path) -> str:
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    return error.detail if isinstance(error, NotSuitable) else str(error)


# ---------------------------------------------------------------- images


@dataclass(kw_only=True)
class _Seen:
    """What is remembered of the images so far."""

    exact: dict[bytes, str] = field(default_factory=dict)
    """Name by hash of the pixels."""
    names: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    thumbs: list[UInt8Array] = field(default_factory=list)
    """Of the images in `names`: those that differ from all before, and show enough."""

    def faults(self, name: str, patient: str, image: NDArray[Any]) -> Iterator[Fault]:
        """Constant, or repeated exactly."""
        if image.min() == image.max():
            yield Fault(kind="constant", name=name, detail=f"every pixel is {image.flat[0]}")
            return
        digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).digest()
        if (first := self.exact.setdefault(digest, name)) != name:
            yield Fault(kind="repeated", name=name, detail=f"the same pixels as {first}")
            return
        thumb = _thumb(image)
        if thumb.std() >= _LEAST_CONTRAST_GREY:
            self.names.append(name)
            self.patients.append(patient)
            self.thumbs.append(thumb)

    def near_faults(self) -> Iterator[Fault]:
        """Images that look like one of another patient before them."""
        if not self.thumbs:
            return
        units = _unit_vectors(np.stack(self.thumbs))
        patients = np.unique(self.patients, return_inverse=True)[1]
        for start in range(0, len(units), _COMPARED_AT_ONCE):
            stop = min(start + _COMPARED_AT_ONCE, len(units))
            alike = units[start:stop] @ units[:stop].T >= _ALIKE
            alike &= (patients[start:stop, None] != patients[:stop]) & np.tri(stop - start, stop, start - 1, dtype=bool)
            for row in np.flatnonzero(alike.any(axis=1)):
                first = self.names[int(alike[row].argmax())]
                yield Fault(kind="nearly repeated", name=self.names[start + row], detail=f"looks like {first}")


def _thumb(image: NDArray[Any]) -> UInt8Array:
    """(16, 16) uint8: grey as it is, HU through the brain window."""
    grey = image if image.dtype == np.uint8 else np.clip(image * (255.0 / WHITE_HU), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX))


def _unit_vectors(thumbs: UInt8Array) -> Float32Array:
    """(images, pixels) float32 whose products are correlations."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), np.float32)
