"""Boxes round what is seen on one slice: the same in the SR and in the key image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triage_node.domain import SUBTYPES, Prediction, SeenBox

MIN_BOX_MM2: Final = 15.0
"""Smaller islands of a finding get no box of their own, unless they are all there is on the slice."""
MAX_BOXES: Final = 3
"""Per finding on one slice."""
_NEIGHBOURS: Final = np.ones((3, 3), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Whole pixels of an image, as the image-relative coordinates of its outer edges.

    0\\0 is the corner of the first pixel, 0.5\\0.5 its centre (PS3.3 C.18.6.1.1).
    """

    left: int
    top: int
    right: int
    bottom: int


def boxes_on(prediction: Prediction, subtype: str, index: int, pixel_mm2: float) -> tuple[Box, ...]:
    """Of a subtype on slice `index`: round what is segmented; where nothing is, those that the model draws itself."""
    if prediction.mask is not None and (region := prediction.mask[index] == label_value(subtype)).any():
        return boxes(region, pixel_mm2)
    drawn = [box for box in prediction.boxes or () if (box.slice_index, box.subtype) == (index, subtype)]
    return tuple(_whole(box) for box in drawn[:MAX_BOXES])


def label_value(subtype: str) -> int:
    """Value of a subtype in Prediction.mask."""
    return SUBTYPES.index(subtype) + 1


def boxes(region: NDArray[np.bool_], pixel_mm2: float) -> tuple[Box, ...]:
    """Round the largest islands of a (rows, columns) region, the largest first; none for an empty one."""
    islands, count = ndimage.label(region, structure=_NEIGHBOURS)
    areas = np.bincount(islands.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")
    large = [i for i in order if areas[i] * pixel_mm2 >= MIN_BOX_MM2] or order[:1].tolist()
    found = ndimage.find_objects(islands)
    return tuple(_box(*found[i]) for i in large[:MAX_BOXES])


def _whole(box: SeenBox) -> Box:
    """The pixels that it touches."""
    return Box(
        left=math.floor(box.left),
        top=math.floor(box.top),
        right=math.ceil(box.right),
        bottom=math.ceil(box.bottom),
    )


def _box(rows: slice, columns: slice) -> Box:
    return Box(left=columns.start, top=rows.start, right=columns.stop, bottom=rows.stop)
