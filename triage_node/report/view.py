"""What the node's own pages show of a series: a picture of its key slice, and CT and mask as small NIfTI files.

Nothing in them names anyone. They are for looking at, not for measuring: thin slices are averaged, the air around the
head is cut off, and slices lie evenly one over the other as the scanner made them, whatever the tilt.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from io import BytesIO
from typing import Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triage_node.domain import Decision, Float64Array, Int16Array, Location, Prediction, UInt8Array, Volume
from triage_node.report.findings import key_slices, reported_findings
from triage_node.report.key_image import slice_picture, view_of

SLICES_AT_MOST: Final = 72
THUMBNAIL_PX: Final = 112
_AIR_HU: Final = -300
"""Below it is air, round the head or in it; its noise is flattened, which halves the files."""
_MARGIN_PX: Final = 4

PICTURE, THUMBNAIL, CT, MASK, ABOUT = "picture.png", "thumbnail.png", "ct.nii.gz", "mask.nii.gz", "about.json"
PLAIN = "plain.png"
"""Names of the files."""


def build_view(
    volume: Volume, prediction: Prediction, decision: Decision, locations: Mapping[str, Location]
) -> dict[str, bytes]:
    """The files, by name. about.json: slices of the series to each slice of the NIfTI files, and the key slice.

    The mask has the labels of Prediction.mask; it is missing where the bundle gives none, and empty for a negative, as
    in every other result.
    """
    findings = reported_findings(volume, prediction, decision, locations)
    shown = key_slices(prediction, findings)[0]
    picture = slice_picture(volume, prediction, findings, shown)
    per = -(-len(volume.hu) // SLICES_AT_MOST)
    rows, columns = _head(volume.hu)
    files = {
        PICTURE: _png(picture),
        THUMBNAIL: _png(picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)),
        CT: _nifti(_averaged(volume.hu[:, rows, columns], per), volume, per),
        ABOUT: json.dumps({"slices": len(volume.hu), "per": per, "shown": shown}).encode(),
    }
    if prediction.mask is not None:
        mask = prediction.mask if decision.suspected else np.zeros_like(prediction.mask)
        files[MASK] = _nifti(_strongest(mask[:, rows, columns], per), volume, per)
    return files


def build_picture_view(volume: Volume, prediction: Prediction, decision: Decision) -> dict[str, bytes]:
    """The files, by name, of a picture (picture.picture_volume): with the findings outlined, and plain."""
    findings = reported_findings(volume, prediction, decision, {})
    return {
        PICTURE: _png(slice_picture(volume, prediction, findings, 0)),
        PLAIN: _png(slice_picture(volume, prediction, (), 0)),
    }


# ---------------------------------------------------------------- steps


def _head(hu: Int16Array) -> tuple[slice, slice]:
    """Rows and columns that the head fills on any slice, with a margin; all where there is no head."""
    filled = np.max(hu, axis=0) > _AIR_HU
    return _extent(np.max(filled, axis=1)), _extent(np.max(filled, axis=0))


def _extent(filled: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(filled)
    first, last = (int(places[0]), int(places[-1])) if len(places) else (0, len(filled) - 1)
    return slice(max(0, first - _MARGIN_PX), last + 1 + _MARGIN_PX)


def _averaged(hu: Int16Array, per: int) -> Int16Array:
    """Groups of `per` slices."""
    starts = np.arange(0, len(hu), per)
    means = [hu[start : start + per].mean(axis=0) if per > 1 else hu[start] for start in starts]
    averaged = np.stack(means)
    return np.where(averaged < _AIR_HU, -1000, averaged).astype(np.int16)


def _strongest(mask: UInt8Array, per: int) -> UInt8Array:
    """Groups of `per` slices: a label that is anywhere in the group is shown, the highest where there are several."""
    return np.stack([mask[start : start + per].max(axis=0) for start in range(0, len(mask), per)])


def _nifti(slices: NDArray[np.generic], volume: Volume, per: int) -> bytes:
    """(slices, rows, columns), feet to head -> NIfTI, x to the right, y to the front, z to the head; gzip."""
    turn = view_of(volume)
    upright = np.stack([turn.apply(each) for each in slices])
    spacing_mm = volume.pixel_spacing_mm[::-1] if turn.transpose else volume.pixel_spacing_mm
    step_mm = float(np.median(_distances_mm(volume))) * per if len(volume.hu) > 1 else 1.0
    # upright: columns run from the patient's right to the left, rows from front to back
    voxels = upright[:, ::-1, ::-1].transpose(2, 1, 0)
    affine = np.diag([spacing_mm[1], spacing_mm[0], step_mm, 1.0])
    image = nibabel.Nifti1Image(voxels, affine)  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), compresslevel=1)


def _distances_mm(volume: Volume) -> Float64Array:
    distances_mm: Float64Array = np.linalg.norm(np.diff(volume.positions_mm, axis=0), axis=1)
    return distances_mm


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
