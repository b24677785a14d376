"""NIfTI images and masks as Volumes. NIfTI is RAS (x to the right), the node LPS."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from triage_node.domain import Float64Array, Int16Array, Volume
from triage_node.errors import UsageError
from triage_node.transforms import PADDING_HU

_RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_SHEAR_DEG: Final = 0.5
"""From here on slices would shift by half a pixel and more in 50 mm."""
_GRID_TOLERANCE: Final = 0.25
"""Of a voxel: mask and image are on the same grid."""
_LEAST_VOXEL_MM3: Final = 1e-6
_READ_ERRORS: Final = (OSError, ValueError, EOFError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file as it is: voxels (i, j, k) and where they are."""

    values: NDArray[Any]
    to_lps: Float64Array
    """(4, 4) float64: voxel index to LPS mm."""


def nifti_volume(path: Path) -> Volume:
    """A CT in HU, its voxels turned and mirrored, not resampled: feet to head, rows to posterior, columns to the left.

    Raises UsageError for what is no three-dimensional image with an orientation, and for a sheared one.
    """
    stored = _read(path)
    axes = stored.to_lps[:3, :3]
    steps_mm = np.linalg.norm(axes, axis=0)
    directions = axes / steps_mm
    _require_no_shear(directions)
    order, signs = _upright(directions)
    turned = _turned(stored.values, order, signs)
    corner = np.array([0.0, 0.0, 0.0, 1.0])
    for axis, sign in zip(order, signs, strict=True):
        corner[axis] = 0.0 if sign > 0 else stored.values.shape[axis] - 1
    along_slices, along_rows, along_columns = (
        sign * directions[:, axis] for axis, sign in zip(order, signs, strict=True)
    )
    first_mm, step_mm = (stored.to_lps @ corner)[:3], float(steps_mm[order[0]])
    return Volume(
        hu=_hounsfield(turned),
        sop_uids=(),
        paths=(),
        positions_mm=first_mm + step_mm * np.arange(len(turned))[:, None] * along_slices,
        orientation=np.stack([along_columns, along_rows]),
        pixel_spacing_mm=(float(steps_mm[order[1]]), float(steps_mm[order[2]])),
        weights_mm=np.full(len(turned), step_mm),
        tilt_deg=0.0,
        header={},
    )


def nifti_labels(path: Path, volume: Volume) -> NDArray[np.int64]:
    """(slices, rows, columns) int64 label of each pixel of `volume`, from a mask whose voxels are those of the image.

    Raises UsageError where they are not, or the mask holds other than whole numbers.
    """
    stored = _read(path)
    if not np.isfinite(stored.values).all() or not np.array_equal(np.rint(stored.values), stored.values):
        raise UsageError(f"{path.name}: holds other than whole numbers, so it is no mask")
    turned = _on_grid_of(volume, stored.values.astype(np.int64), np.linalg.inv(stored.to_lps))
    if turned is None:
        raise UsageError(f"{path.name}: the mask is not on the grid of the image")
    return turned


def nifti_values(path: Path) -> NDArray[Any]:
    """(i, j, k) of any number type: the voxels as they are stored. UsageError as for `nifti_volume`."""
    return _read(path).values


def nifti_turned(image: Path, values: NDArray[Any]) -> NDArray[Any]:
    """(slices, rows, columns): `values` by voxel index of `image`, turned as `nifti_volume` turns its own.

    For masks that go with their image by index, whatever their header says. Raises UsageError for another shape.
    """
    stored = _read(image)
    if values.shape != stored.values.shape:
        raise UsageError(f"{image.name}: {stored.values.shape} voxels, and its mask has {values.shape}")
    axes = stored.to_lps[:3, :3]
    return _turned(values, *_upright(axes / np.linalg.norm(axes, axis=0)))


# ---------------------------------------------------------------- reading


def _read(path: Path) -> Stored:
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is one too
            raise UsageError(f"{path.name}: is no NIfTI file")
        values = np.asarray(image.dataobj)
    except (*_READ_ERRORS, ImageFileError, HeaderDataError) as error:
        raise UsageError(f"{path.name}: cannot be read as NIfTI") from error
    values = values.reshape(values.shape[:3]) if values.ndim > 3 and set(values.shape[3:]) == {1} else values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "iuf":
        raise UsageError(f"{path.name}: is no stack of grey slices: {values.shape}, {values.dtype}")
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise UsageError(f"{path.name}: has no orientation (sform and qform are unset)")
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < _LEAST_VOXEL_MM3:
        raise UsageError(f"{path.name}: its affine gives the voxels no size")
    return Stored(values=values, to_lps=_RAS_TO_LPS @ affine)


def _hounsfield(values: NDArray[Any]) -> Int16Array:
    known = np.nan_to_num(values.astype(np.float32), nan=PADDING_HU)
    hu: Int16Array = np.rint(np.clip(known, PADDING_HU, np.iinfo(np.int16).max)).astype(np.int16)
    return hu


# ---------------------------------------------------------------- axes


def _require_no_shear(directions: Float64Array) -> None:
    cosines = np.abs(directions.T @ directions - np.eye(3))
    shear_deg = float(np.degrees(np.arcsin(min(1.0, cosines.max()))))
    if shear_deg > _SHEAR_DEG:
        raise UsageError(
            f"the axes of the image are {shear_deg:.1f} degrees off a right angle (gantry tilt); give the DICOM series"
        )


def _upright(directions: Float64Array) -> tuple[tuple[int, int, int], list[float]]:
    """Voxel axes along z, y and x, and the sign that makes each run to the head, to posterior and to the left."""
    order = _axes_by_direction(directions)
    signs = [
        1.0 if directions[direction, axis] >= 0 else -1.0 for direction, axis in zip((2, 1, 0), order, strict=True)
    ]
    return order, signs


def _axes_by_direction(directions: Float64Array) -> tuple[int, int, int]:
    """Which voxel axis runs along z, y and x, as far as one does."""
    along_z = int(np.abs(directions[2]).argmax())
    others = [axis for axis in range(3) if axis != along_z]
    along_y = max(others, key=lambda axis: abs(directions[1, axis]))
    return along_z, along_y, 3 - along_z - along_y


def _turned(values: NDArray[Any], order: tuple[int, ...], signs: list[float]) -> NDArray[Any]:
    turned = values.transpose(order)
    return turned[tuple(slice(None, None, 1 if sign > 0 else -1) for sign in signs)]


def _on_grid_of(volume: Volume, values: NDArray[np.int64], to_index: NDArray[np.floating]) -> NDArray[np.int64] | None:
    """`values` turned so that they lie on the pixels of `volume`; None where no turn does that.

    `to_index` (4, 4) brings LPS mm to an index of `values`. Slices may be tilted, not unevenly spaced.
    """
    slices, rows, columns = volume.hu.shape
    row_step, column_step = volume.orientation[::-1] * np.array(volume.pixel_spacing_mm)[:, None]
    first = _indices(volume.positions_mm, to_index)
    last = _indices(volume.positions_mm + (rows - 1) * row_step + (columns - 1) * column_step, to_index)
    along_i, along_j = to_index[:3, :3] @ row_step, to_index[:3, :3] @ column_step
    along_k = (first[-1] - first[0]) / (slices - 1) if slices > 1 else np.cross(along_i, along_j)
    turn = np.rint(np.stack([along_k, along_i, along_j]))
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None
    order = tuple(int(axis) for axis in np.abs(turn).argmax(axis=1))
    turned = _turned(values, order, [float(row.sum()) for row in turn])
    if turned.shape != volume.hu.shape:
        return None
    corner = np.where(turn.sum(axis=0) < 0, np.array(values.shape) - 1, 0)
    expected = corner + np.arange(slices)[:, None] * turn[0]
    off = max(
        np.abs(first - expected).max(),
        np.abs(last - expected - (rows - 1) * turn[1] - (columns - 1) * turn[2]).max(),
    )
    return turned if off <= _GRID_TOLERANCE else None


def _indices(points_mm: Float64Array, to_index: NDArray[np.floating]) -> Float64Array:
    """(points, 3) LPS mm to (points, 3) voxel indices."""
    indices: Float64Array = points_mm @ to_index[:3, :3].T + to_index[:3, 3]
    return indices
