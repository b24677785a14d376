"""Pixel probabilities on the network grid -> mask on the native slices. numpy and scipy only.

Probabilities, not labels, are resampled, and only where blood is likely. A pixel is blood where the probability of any
blood reaches the threshold of its likeliest subtype. A piece of extra-axial blood is all epidural or all subdural,
whichever most of it was taken for: one bleed lies on one side of the dura. A subtype that the series does not show
(series.shown_subtypes) has no mask, so that the volumes do not contradict the probabilities; specks below `speck_mm3`
are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triage_node.domain import SUBTYPES, Float32Array, Float64Array, UInt8Array, Volume
from triage_node.infer.bundle import Bundle
from triage_node.transforms import Placement, from_grid, native_box

_EPIDURAL: Final = 1 + SUBTYPES.index("epidural")
_SUBDURAL: Final = 1 + SUBTYPES.index("subdural")


def native_mask(probabilities: Float32Array, placement: Placement, volume: Volume, bundle: Bundle) -> UInt8Array:
    """(slabs, 6, size, size) pixel probabilities on the grid to a (slices, rows, columns) uint8 mask.

    As if the series showed every subtype that the bundle outputs; see `shown_only`.
    """
    mask = np.zeros(volume.hu.shape, np.uint8)
    thresholds = _thresholds(bundle)
    likely = [image[1:].sum(axis=0) >= thresholds.min() for image in probabilities]
    boxes = {
        index: native_box(likely[slab], placement, index)
        for index, slab in enumerate(placement.slab_of)
        if likely[slab].any()
    }
    for index, box in boxes.items():
        blood = from_grid(probabilities[placement.slab_of[index], 1:], placement, index, box)
        mask[index, *box] = _labels(blood, thresholds)
    if boxes:
        inside, weights_mm = mask[_around(boxes)], volume.weights_mm[_around(boxes)[0]]
        _name_layers(inside, weights_mm)
        _drop_specks(inside, weights_mm * math.prod(volume.pixel_spacing_mm), bundle.speck_mm3)
    return mask


def shown_only(mask: UInt8Array, shown: Container[str]) -> UInt8Array:
    """The mask of the subtypes `shown`."""
    kept = np.array([0, *(label if name in shown else 0 for label, name in enumerate(SUBTYPES, start=1))], np.uint8)
    if kept[1:].all():
        return mask
    return np.stack([np.take(kept, labels) for labels in mask])  # indices of a whole volume would take 8 bytes a pixel


def _thresholds(bundle: Bundle) -> Float64Array:
    """(5,) by subtype; infinite for one that the bundle does not output."""
    given = bundle.outputs_subtypes
    return np.array([bundle.mask_min_probability[name] if name in given else np.inf for name in SUBTYPES])


def _labels(blood: Float32Array, thresholds: Float64Array) -> UInt8Array:
    """(5, rows, columns) subtype probabilities to (rows, columns) labels."""
    likeliest = blood.argmax(axis=0)
    present = blood.sum(axis=0) >= thresholds[likeliest]
    labels: UInt8Array = np.where(present, likeliest + 1, 0).astype(np.uint8)
    return labels


def _around(boxes: Mapping[int, tuple[slice, slice]]) -> tuple[slice, slice, slice]:
    """Slices, rows and columns that hold all boxes, which are by slice."""
    rows, columns = zip(*boxes.values(), strict=True)
    return (
        slice(min(boxes), max(boxes) + 1),
        slice(min(part.start for part in rows), max(part.stop for part in rows)),
        slice(min(part.start for part in columns), max(part.stop for part in columns)),
    )


def _name_layers(mask: UInt8Array, weights_mm: Float64Array) -> None:
    """Give, in place, each connected piece of extra-axial blood the subtype of the larger part of its volume."""
    epidural = mask == _EPIDURAL
    pieces, count = ndimage.label(epidural | (mask == _SUBDURAL))
    if not count:
        return
    whole, of_it = _sizes(pieces, count, weights_mm), _sizes(pieces * epidural, count, weights_mm)
    names = np.where(of_it > whole / 2, _EPIDURAL, _SUBDURAL).astype(np.uint8)
    names[0] = 0
    np.copyto(mask, names[pieces], where=pieces > 0)


def _drop_specks(mask: UInt8Array, pixel_mm3: Float64Array, speck_mm3: float) -> None:
    """Clear, in place, connected pieces of blood (all subtypes together) below `speck_mm3`."""
    pieces, count = ndimage.label(mask)
    small = _sizes(pieces, count, pixel_mm3) < speck_mm3
    small[0] = False
    if small.any():
        mask[small[pieces]] = 0


def _sizes(pieces: NDArray[np.int32], count: int, pixel_sizes: Float64Array) -> Float64Array:
    """(count + 1,): how much each piece holds, where a pixel of slice i counts `pixel_sizes[i]`."""
    sizes = np.zeros(count + 1)
    for image, each in zip(pieces, pixel_sizes, strict=True):
        sizes += np.bincount(image.ravel(), minlength=count + 1) * each
    return sizes
