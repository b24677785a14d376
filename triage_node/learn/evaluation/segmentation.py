"""A DICOM Segmentation object (PS3.3 A.51, BINARY) as a mask on the slices of a Volume."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from triage_node.domain import CLASSES, SUBTYPES, UInt8Array, Volume
from triage_node.elements import READ_ERRORS
from triage_node.errors import UsageError

_SAME_PLACE_MM: Final = 0.1


def seg_mask(path: Path, volume: Volume, meaning: Mapping[int, str] | None) -> UInt8Array:
    """(slices, rows, columns) uint8, 1 + index in SUBTYPES, from a SEG with a frame for each slice and segment.

    `meaning` gives the class of a segment number; without it the Segment Label must name a subtype. Frames are matched
    by their place in the patient. Raises UsageError for what is no such SEG or lies elsewhere.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote element values, which may be patient data
            dataset = dcmread(path)
            if dataset.SOPClassUID != SegmentationStorage or dataset.SegmentationType != "BINARY":
                raise UsageError(f"{path.name}: is no binary DICOM Segmentation")
            return _mask(dataset, volume, meaning or _named(dataset))
    except READ_ERRORS as error:
        raise UsageError(f"{path.name}: cannot be read as DICOM Segmentation") from error


def _named(dataset: Dataset) -> dict[int, str]:
    def subtype(label: str) -> str:
        named = [name for name in SUBTYPES if name in label.lower()]
        if len(named) != 1:
            raise UsageError("a segment's label names no subtype; say with --mask-labels what its number means")
        return named[0]

    return {int(segment.SegmentNumber): subtype(str(segment.SegmentLabel)) for segment in dataset.SegmentSequence}


def _mask(dataset: Dataset, volume: Volume, meaning: Mapping[int, str]) -> UInt8Array:
    mask = np.zeros(volume.hu.shape, np.uint8)
    frames = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    if frames[0].shape != mask[0].shape:
        raise UsageError("the segmentation has other rows and columns than the image")
    for frame, (number, index) in zip(frames, _places(dataset, volume), strict=True):
        if number not in meaning:
            raise UsageError(f"the segmentation holds segment {number}; say with --mask-labels what it means")
        mask[index][frame > 0] = max(1, CLASSES.index(meaning[number]))
    return mask


def _places(dataset: Dataset, volume: Volume) -> Iterator[tuple[int, int]]:
    """Segment number and slice of each frame."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:

        def macro(keyword: str, groups: Dataset = groups) -> Dataset:
            found: Dataset = (groups if keyword in groups else shared)[keyword].value[0]
            return found

        orientation = np.array(macro("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        position = np.array(macro("PlanePositionSequence").ImagePositionPatient, float)
        away_mm = np.linalg.norm(volume.positions_mm - position, axis=1)
        if away_mm.min() > _SAME_PLACE_MM or not np.allclose(orientation, volume.orientation, atol=1e-3):
            raise UsageError("a frame of the segmentation does not lie on a slice of the image")
        yield int(macro("SegmentIdentificationSequence").ReferencedSegmentNumber), int(away_mm.argmin())
