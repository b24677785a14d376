"""What a reader makes of a data set: entries, found without decoding an image, and one entry with pixels and truth."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import CLASSES, Float32Array, UInt8Array, Volume
from triage_node.errors import UsageError

BoolArray = NDArray[np.bool_]
LabelRow = tuple[float, ...]
"""In the order of CLASSES: 1, 0, or nan where it is not known."""
_ENDINGS: Final = (".nii.gz", ".nii", ".dcm", ".csv", ".png", ".jpg", ".jpeg", ".zip", ".txt")
NOT_KNOWN: Final[LabelRow] = (math.nan,) * len(CLASSES)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One series or picture of a data set."""

    name: str
    """Relative to the root."""
    patient: str
    """What splits go by: no patient lies in two parts."""
    files: tuple[Path, ...]
    """The DICOM files of a series, or one NIfTI file or picture."""
    mask: Path | None = None
    mask_tells_kinds: bool = True
    """Whether labels of the mask are kinds of blood, for a layout that has both."""
    labels: tuple[LabelRow, ...] = ()
    """What the tables of the data set say of each file, or of each slice of the file in its own order."""
    series_labels: LabelRow = NOT_KNOWN
    """What they say of the whole."""

    @property
    def has_blood(self) -> bool | None:
        """As far as the tables tell; None where they do not."""
        told = {row[0] for row in self.labels} | {self.series_labels[0]}
        if 1.0 in told:
            return True
        is_negative = self.series_labels[0] == 0.0 or (self.labels and all(row[0] == 0.0 for row in self.labels))
        return False if is_negative else None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One entry with its pixels and all that is known of them."""

    volume: Volume
    labels: Float32Array
    """(slices, 6) float32 in the order of CLASSES: 1, 0, or nan where it is not known."""
    series_labels: Float32Array
    """(6,) float32, the same of the whole series."""
    truth: UInt8Array | None
    """(slices, rows, columns) uint8: 0, or 1 + index in SUBTYPES. Only the slices of `known` mean anything; None where
    there are none."""
    known: BoolArray
    """(slices,) bool: where `truth` tells the kind of every pixel."""
    blood: BoolArray | None
    """(slices, rows, columns) bool: blood of whatever kind, as drawn; None where nothing was drawn."""
    told: tuple[str, ...]
    """The classes that labels and truth speak of."""


class Layout(Protocol):
    """A reader: a module with these two functions."""

    def find(self, root: Path) -> list[Entry]:
        """All entries in the order of their names. Raises UsageError where `root` is laid out otherwise."""
        ...

    def load(self, entry: Entry) -> Loaded:
        """Raises UsageError or NotSuitable, with the reason, where the entry cannot be read."""
        ...


def wrong_layout(root: Path, expected: str) -> UsageError:
    """What was expected, and what `root` holds: counts only, since names of folders may be names of people."""
    return UsageError(f"{root}: expected {expected}; found {_contents(root)}")


def _contents(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    children = list(root.iterdir())
    endings = Counter(_ending(child.name.lower()) for child in children if child.is_file())
    told = [
        f"{sum(child.is_dir() for child in children)} folder(s)",
        *(f"{n} x {end}" for end, n in endings.most_common(4)),
    ]
    return ", ".join(told) if children else "an empty folder"


def _ending(name: str) -> str:
    return next((ending for ending in _ENDINGS if name.endswith(ending)), "another ending")
