"""The space inside the skull of a real head, estimated from its pixels: simulated heads know theirs.

Training needs it (extra-axial blood lies inside the skull, and how deep), and so does a network that is to see the
brain alone. Slice by slice: what bone encloses. Where the skull is open, as at its base, the inner part of the head
stands in.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triage_node.domain import Float32Array

_BONE_HU: Final = 180.0
_WHITE_HU: Final = 77.0
"""Bone in a picture, which has nothing above 80 (triage_node.picture)."""
_AIR_HU: Final = -1024.0
_TISSUE_HU: Final = -200.0
_GREY_HU: Final = 4.0
"""Tissue in a picture, where air and fat are 0."""
_GAP_MM: Final = 5.0
"""Sutures, foramina and thin bone are closed up to this."""
_NECK_MM: Final = 4.0
"""What hangs on the inside by a narrower neck is another space."""
_WALL_MM: Final = 13.0
"""Scalp and bone, where the skull is open."""
_LEAST_SHARE: Final = 0.5
"""Of the inner part of the head, that bone must enclose."""


def inside_skull(hu: Float32Array, spacing_mm: float) -> NDArray[np.bool_]:
    """(slices, size, size) HU, or grey as HU of pictures, to a mask of that shape."""
    is_picture = hu.max(initial=_AIR_HU) <= _BONE_HU
    bone_hu, tissue_hu = (_WHITE_HU, _GREY_HU) if is_picture else (_BONE_HU, _TISSUE_HU)
    return np.stack([_inside(image, bone_hu, tissue_hu, spacing_mm) for image in hu])


def depth_mm(inside: NDArray[np.bool_], spacing_mm: float) -> Float32Array:
    """(slices, size, size) bool to float32: how far inside each pixel lies, half a pixel at the edge; 0 outside."""
    depths = [ndimage.distance_transform_edt(image) * spacing_mm - spacing_mm / 2 for image in inside]
    clipped: Float32Array = np.clip(np.stack(depths), 0, None).astype(np.float32)
    return clipped


def without_skull(hu: Float32Array, spacing_mm: float) -> Float32Array:
    """The brain and what bleeds around it alone, air elsewhere."""
    return np.where(inside_skull(hu, spacing_mm), hu, np.float32(_AIR_HU))


def _inside(image: Float32Array, bone_hu: float, tissue_hu: float, spacing_mm: float) -> NDArray[np.bool_]:
    head = ndimage.binary_fill_holes(_largest(image > tissue_hu))
    core = _eroded(head, _WALL_MM / spacing_mm)
    closed = _eroded(_dilated(image > bone_hu, _GAP_MM / 2 / spacing_mm), _GAP_MM / 2 / spacing_mm)
    enclosed = ndimage.binary_fill_holes(closed) & ~(image > bone_hu)
    opened = _largest(_eroded(enclosed, _NECK_MM / 2 / spacing_mm))
    found = _dilated(opened, _NECK_MM / 2 / spacing_mm) & enclosed
    if np.count_nonzero(found & core) >= _LEAST_SHARE * np.count_nonzero(core):
        return np.asarray(found)
    return np.asarray(core & (image > tissue_hu) & (image <= bone_hu))


def _dilated(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius_px) if mask.any() else mask


def _eroded(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    return np.asarray(ndimage.distance_transform_edt(mask) > radius_px)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
