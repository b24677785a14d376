"""Windows and resampling, shared by infer and learn: the network sees the same pixels in both. numpy only.

A slice goes to the network grid and a result comes back by the same separable map, `R @ slice @ C.T`, where R and C are
small matrices made from millimetres, so that pixel spacing, not pixel count, decides. The grid is centred on the head
and always shows it the same way round: rows run to posterior, columns to the patient's left (LPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import Float32Array, Float64Array, Int16Array, Volume

WINDOWS_HU: Final = ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))
"""(centre, width) of the three network channels: brain, subdural, bone."""
PADDING_HU: Final = -1024.0
"""What lies outside an image: air (domain.Volume)."""
_TISSUE_HU: Final = -200.0
"""Skin, fat, brain and bone lie above it; air, foam and most head holders below."""
_EDGE_FRACTION: Final = 0.02
"""Share of the tissue that may lie beyond either edge of the head box: cables, holder, letters."""


# ---------------------------------------------------------------- windows


def windowed(hu: NDArray[np.floating] | Int16Array, windows_hu: Sequence[tuple[float, float]]) -> Float32Array:
    """HU of any shape (..., rows, columns) to channels (..., windows, rows, columns) float32 in 0..1."""
    channels = [(np.asarray(hu, np.float32) - (centre - width / 2)) / width for centre, width in windows_hu]
    stacked: Float32Array = np.clip(np.stack(channels, axis=-3), 0.0, 1.0, dtype=np.float32)
    return stacked


# ---------------------------------------------------------------- one axis


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Equally spaced pixel centres along one image direction; a negative step runs backwards."""

    count: int
    start_mm: float
    step_mm: float

    @property
    def centres_mm(self) -> Float64Array:
        """(count,) float64."""
        return self.start_mm + self.step_mm * np.arange(self.count, dtype=np.float64)


def resampling_matrix(source: Axis, target: Axis) -> Float32Array:
    """(target.count, source.count) float32: linear when enlarging, a triangle of one target pixel when shrinking.

    Rows sum to 1; a target pixel outside the source gets a row of zeros.
    """
    support_mm = max(abs(source.step_mm), abs(target.step_mm))
    distance_mm = np.abs(target.centres_mm[:, None] - source.centres_mm[None, :])
    weights = np.clip(1.0 - distance_mm / support_mm, 0.0, None)
    inside = distance_mm.min(axis=1) <= abs(source.step_mm) / 2 + 1e-9
    total = weights.sum(axis=1, keepdims=True)
    matrix: Float32Array = np.where(inside[:, None], weights / np.maximum(total, 1e-9), 0.0).astype(np.float32)
    return matrix


# ---------------------------------------------------------------- the network grid on a volume


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The square pixel grid that a network works on."""

    size_px: int
    spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the network grid lies on the slices of one volume: in-plane mm from the first pixel centre."""

    transposed: bool
    """Whether the slices are turned about their diagonal first: the patient lies on a side."""
    native_rows: Axis
    native_columns: Axis
    grid_rows: tuple[Axis, ...]
    """One for each slice: under gantry tilt the head wanders through the image."""
    grid_columns: tuple[Axis, ...]


def place_grid(volume: Volume, grid: Grid) -> Placement:
    """Centre the grid on the head in every slice, rows to posterior and columns to the left of the patient."""
    transposed = bool(abs(volume.orientation[0, 0]) < abs(volume.orientation[0, 1]))
    turn = -1 if transposed else 1
    (along_rows, along_columns), (row_mm, column_mm) = volume.orientation[::turn], volume.pixel_spacing_mm[::turn]
    rows, columns = volume.hu.shape[1:][::turn]
    centres_mm = _head_centres_mm(volume)[:, ::turn]
    down = 1.0 if along_columns[1] >= 0 else -1.0
    across = 1.0 if along_rows[0] >= 0 else -1.0
    return Placement(
        transposed=transposed,
        native_rows=Axis(count=rows, start_mm=0.0, step_mm=row_mm),
        native_columns=Axis(count=columns, start_mm=0.0, step_mm=column_mm),
        grid_rows=tuple(_centred(grid, centre, down) for centre in centres_mm[:, 0]),
        grid_columns=tuple(_centred(grid, centre, across) for centre in centres_mm[:, 1]),
    )


def to_grid(hu: Int16Array, placement: Placement) -> Float32Array:
    """(slices, rows, columns) HU to (slices, size, size) float32 HU on the network grid; air outside the image."""
    out = []
    for index, native in enumerate(hu):
        image = native.T if placement.transposed else native
        along_rows = resampling_matrix(placement.native_rows, placement.grid_rows[index])
        along_columns = resampling_matrix(placement.native_columns, placement.grid_columns[index])
        out.append(along_rows @ (image.astype(np.float32) - PADDING_HU) @ along_columns.T + PADDING_HU)
    return np.stack(out).astype(np.float32)


def from_grid(images: Float32Array, placement: Placement, index: int) -> Float32Array:
    """(channels, size, size) on the grid of slice `index` to (channels, rows, columns) float32; 0 outside the grid."""
    along_rows = resampling_matrix(placement.grid_rows[index], placement.native_rows)
    along_columns = resampling_matrix(placement.grid_columns[index], placement.native_columns)
    native = (along_rows @ images @ along_columns.T).astype(np.float32)
    return native.swapaxes(1, 2) if placement.transposed else native


def _centred(grid: Grid, centre_mm: float, direction: float) -> Axis:
    half_mm = (grid.size_px - 1) / 2 * grid.spacing_mm
    return Axis(count=grid.size_px, start_mm=centre_mm - direction * half_mm, step_mm=direction * grid.spacing_mm)


# ---------------------------------------------------------------- where the head is


def _head_centres_mm(volume: Volume) -> Float64Array:
    """(slices, 2) float64, in-plane mm of the middle of the head along rows and columns.

    A straight line through the middles of the single slices, weighted by their tissue: it follows the drift that
    gantry tilt brings, and slices of vertex or air do not pull it.
    """
    tissue = volume.hu > _TISSUE_HU
    areas = tissue.sum(axis=(1, 2)).astype(np.float64)
    along_mm = np.cumsum(volume.weights_mm) - volume.weights_mm / 2
    middles_mm = np.stack(
        [
            _middles(tissue.sum(axis=2)) * volume.pixel_spacing_mm[0],
            _middles(tissue.sum(axis=1)) * volume.pixel_spacing_mm[1],
        ],
        axis=1,
    )
    return np.stack([_line_through(along_mm, middles_mm[:, axis], areas) for axis in (0, 1)], axis=1)


def _middles(profiles: NDArray[np.integer]) -> Float64Array:
    """(slices, pixels) tissue counts to (slices,) middle pixel between the edges of the head."""
    share = np.cumsum(profiles, axis=1, dtype=np.float64)
    total = np.maximum(share[:, -1:], 1.0)
    first = np.argmax(share >= _EDGE_FRACTION * total, axis=1)
    last = np.argmax(share >= (1 - _EDGE_FRACTION) * total, axis=1)
    empty = share[:, -1] == 0
    middles: Float64Array = np.where(empty, (profiles.shape[1] - 1) / 2, (first + last) / 2)
    return middles


def _line_through(along_mm: Float64Array, values_mm: Float64Array, weights: Float64Array) -> Float64Array:
    if weights.sum() == 0:
        return values_mm
    mean_at = np.average(along_mm, weights=weights)
    mean_value = np.average(values_mm, weights=weights)
    spread = np.average((along_mm - mean_at) ** 2, weights=weights)
    slope = np.average((along_mm - mean_at) * (values_mm - mean_value), weights=weights) / spread if spread > 0 else 0.0
    line: Float64Array = mean_value + slope * (along_mm - mean_at)
    return line
