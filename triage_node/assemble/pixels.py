"""Stored values to Hounsfield units: int16 whatever the file holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels

from triage_node.assemble.codestreams import claimed_matrix
from triage_node.assemble.headers import Header
from triage_node.domain import Int16Array, NotAnalyzedReason
from triage_node.elements import READ_ERRORS
from triage_node.errors import NotSuitable

AIR_HU: Final = -1024
"""What padding becomes; nothing in a patient is less dense than air (-1000) and its noise floor in 12 bits."""
HIGHEST_HU: Final = 32767
"""Upper end of int16; extended-scale metal (up to 30,710) still fits."""
CT_BITS: Final = 16
MAX_MATRIX: Final = 4096
"""Rows and columns: CT has 512 to 2048; more is a broken header, and memory is taken by what it says."""
MAX_VOXELS: Final = 400_000_000
"""0.8 GB of HU: 1500 slices of 512 x 512, or 380 of 1024 x 1024; a head in 0.5 mm steps has 400."""


def require_rescale(headers: tuple[Header, ...]) -> None:
    """Raise NotSuitable(NO_RESCALE) unless every slice maps to HU (PS3.3 C.8.2.1, C.11.1.1.2)."""
    for header in headers:
        if not header.number("RescaleSlope") or header.number("RescaleIntercept") is None:
            raise NotSuitable(
                NotAnalyzedReason.NO_RESCALE,
                "The images carry no Hounsfield scale: rescale slope or intercept is missing.",
            )
        if header.text("RescaleType").upper() not in ("", "HU"):
            raise NotSuitable(
                NotAnalyzedReason.NO_RESCALE, "The header says that the pixel values are not Hounsfield units."
            )


def stack_hounsfield(headers: Sequence[Header]) -> Int16Array:
    """(slices, rows, columns) int16, HU; padding and everything below AIR_HU is AIR_HU.

    Raises NotSuitable(UNREADABLE).
    """
    _require_affordable(headers)
    slices = each_hounsfield(headers)
    _, first = next(slices)  # memory for all is taken once one of them is there
    hu = np.empty((len(headers), *first.shape), dtype=np.int16)
    hu[0] = first
    for index, values in slices:
        hu[index] = values
    return hu


def each_hounsfield(headers: Sequence[Header]) -> Iterator[tuple[int, Int16Array]]:
    """(index in `headers`, (rows, columns) int16 HU) of each slice, rescaled with its own slope and intercept.

    Every file is read once, and one frame decoded at a time. No presentation LUT: MONOCHROME1 only says how to show
    the values. Raises NotSuitable(UNREADABLE).
    """
    by_path: dict[Path, list[int]] = defaultdict(list)
    for index, header in enumerate(headers):
        by_path[header.path].append(index)
    for path, indices in by_path.items():
        frames = _stored_frames(path, [headers[index] for index in indices])
        for index, stored in zip(indices, frames, strict=True):
            yield index, _hounsfield(stored, headers[index])


def _stored_frames(path: Path, headers: Sequence[Header]) -> Iterator[NDArray[Any]]:
    """The stored values of these frames of one file; no memory is taken for what a header cannot mean."""
    for header in headers:
        _require_ct_pixels(header)
    try:
        image = dcmread(path)
        _require_size(image, _matrix(headers[0]))
        frames = iter_pixels(
            image,
            indices=[(header.frame_number or 1) - 1 for header in headers],
            raw=True,
            view_only=True,  # rescaling copies anyway
        )
        for header, stored in zip(headers, frames, strict=True):
            _require_same(stored.shape, _matrix(header))
            yield stored
    except BaseException as error:  # a Rust decoder panics on damaged data with what is no Exception; all else passes
        if not isinstance(error, READ_ERRORS) and type(error).__name__ != "PanicException":
            raise
        detail = "The pixel data of an image are incomplete or damaged."
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, detail) from error


def _require_ct_pixels(header: Header) -> None:
    """16 bits allocated (PS3.3 C.8.2.1), and a matrix that a CT can have."""
    if header.number("BitsAllocated") != CT_BITS:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, f"The pixels are not stored in {CT_BITS} bits, as a CT's are.")
    rows, columns = _matrix(header)
    if not (0 < rows <= MAX_MATRIX and 0 < columns <= MAX_MATRIX):
        detail = f"The header claims a matrix of {rows} x {columns} pixels, which no CT has."
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, detail)


def _require_affordable(headers: Sequence[Header]) -> None:
    _require_ct_pixels(headers[0])
    rows, columns = _matrix(headers[0])
    if len(headers) * rows * columns > MAX_VOXELS:
        detail = f"{len(headers)} slices of {rows} x {columns} pixels are more than can be analysed."
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, detail)


def _require_size(image: Dataset, matrix: tuple[int, int]) -> None:
    """Fails where the pixel data are not what the header says, before a decoder takes memory for them."""
    if "PixelData" not in image:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "An image has no pixel data.")
    frames = int(image.get("NumberOfFrames") or 1)
    if not image.file_meta.TransferSyntaxUID.is_encapsulated:
        # padding after the pixels is common; a whole row too much means a wrong matrix and a sheared image
        most = (matrix[0] * frames + 1) * matrix[1] * CT_BITS // 8
        if len(image.PixelData) >= most:
            raise NotSuitable(NotAnalyzedReason.UNREADABLE, "An image holds more pixels than its header says.")
        return
    offsets = image.get("ExtendedOffsetTable"), image.get("ExtendedOffsetTableLengths")
    for codestream in generate_frames(
        image.PixelData, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None
    ):
        _require_same(claimed_matrix(codestream) or matrix, matrix)


def _matrix(header: Header) -> tuple[int, int]:
    """(rows, columns); 0 where the header does not say."""
    return int(header.number("Rows") or 0), int(header.number("Columns") or 0)


def _require_same(found: tuple[int, ...], matrix: tuple[int, int]) -> None:
    if found != matrix:
        raise NotSuitable(NotAnalyzedReason.UNREADABLE, "An image does not have the matrix that its header says.")


def _hounsfield(stored: NDArray[Any], header: Header) -> Int16Array:
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    hu = _rescale(stored, 1.0 if slope is None else slope, intercept or 0.0)
    hu[_padding(stored, header)] = AIR_HU
    return hu


def _rescale(stored: NDArray[Any], slope: float, intercept: float) -> Int16Array:
    if slope == 1.0 and intercept.is_integer() and abs(intercept) <= HIGHEST_HU:
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
