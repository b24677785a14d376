"""Stored values to Hounsfield units: int16 whatever the file holds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array

from triage_node.assemble.headers import READ_ERRORS, Header
from triage_node.domain import Int16Array, NotAnalyzedReason
from triage_node.errors import NotSuitable

AIR_HU: Final = -1024
"""What padding becomes; nothing in a patient is less dense than air (-1000) and its noise floor in 12 bits."""
HIGHEST_HU: Final = 32767
"""Upper end of int16; extended-scale metal (up to 30,710) still fits."""


def require_rescale(headers: tuple[Header, ...]) -> None:
    """Raise NotSuitable(NO_RESCALE) unless every slice maps to HU (PS3.3 C.8.2.1, C.11.1.1.2)."""
    for header in headers:
        if not header.number("RescaleSlope") or header.number("RescaleIntercept") is None:
            raise NotSuitable(NotAnalyzedReason.NO_RESCALE, "Rescale slope or intercept is missing.")
        if header.text("RescaleType").upper() not in ("", "HU"):
            raise NotSuitable(NotAnalyzedReason.NO_RESCALE, "The rescale type is not HU.")


def stack_hounsfield(headers: tuple[Header, ...]) -> Int16Array:
    """(slices, rows, columns) int16, HU; padding and everything below AIR_HU is AIR_HU.

    Raises NotSuitable(UNREADABLE).
    """
    first = hounsfield(headers[0])
    hu = np.empty((len(headers), *first.shape), dtype=np.int16)
    hu[0] = first
    for index, header in enumerate(headers[1:], start=1):
        hu[index] = _require_shape(hounsfield(header), first.shape)
    return hu


def hounsfield(header: Header) -> Int16Array:
    """(rows, columns) int16, HU of one slice, rescaled with its own slope and intercept.

    No presentation LUT: MONOCHROME1 only says how to show the values. Raises NotSuitable(UNREADABLE).
    """
    stored = _stored_values(header)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    hu = _rescale(stored, 1.0 if slope is None else slope, intercept or 0.0)
    hu[_padding(stored, header)] = AIR_HU
    return hu


def _stored_values(header: Header) -> NDArray[Any]:
    try:
        image = dcmread(header.path)
        stored = pixel_array(image, raw=True, view_only=True)  # view_only: rescaling copies anyway
    except READ_ERRORS as error:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "The pixel data of a slice cannot be decoded.") from error
    if not image.file_meta.TransferSyntaxUID.is_encapsulated:
        _require_length(len(image.PixelData), stored)
    return _require_shape(stored, (int(header.number("Rows") or 0), int(header.number("Columns") or 0)))


def _require_shape(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if values.shape != shape:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "A slice does not have the matrix that its header says.")
    return values


def _require_length(length: int, stored: NDArray[Any]) -> None:
    """Padding after the pixels is common; a whole row too much means that the matrix is wrong and the image sheared."""
    if length >= stored.nbytes + stored.nbytes // stored.shape[0]:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "A slice holds more pixels than its header says.")


def _rescale(stored: NDArray[Any], slope: float, intercept: float) -> Int16Array:
    if slope == 1.0 and intercept.is_integer():
        values: NDArray[Any] = stored.astype(np.int32) + np.int32(intercept)
    else:
        values = np.rint(stored * slope + intercept)
    hu: Int16Array = np.clip(values, AIR_HU, HIGHEST_HU).astype(np.int16)
    return hu


def _padding(stored: NDArray[Any], header: Header) -> NDArray[np.bool_]:
    """Where the slice has no data (PS3.3 C.7.5.1.1.2): PixelPaddingValue up to or down to PixelPaddingRangeLimit."""
    value = _as_stored(header.number("PixelPaddingValue"), stored.dtype)
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = _as_stored(header.number("PixelPaddingRangeLimit"), stored.dtype)
    ends = (value, value if limit is None else limit)
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: float | None, dtype: np.dtype[Any]) -> int | None:
    """A padding value in the number range of the pixels: 63536 is -2000 where a writer guessed US."""
    if value is None:
        return None
    bits = 8 * dtype.itemsize
    wrapped = int(value) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dtype.kind == "i" and wrapped >> (bits - 1) else wrapped
