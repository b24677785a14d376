"""Windows, slabs and resampling, shared by infer and learn: the network sees the same pixels in both. No torch.

A slice goes to the network grid and a result comes back by the same separable map, `R @ slice @ C.T`, where R and C are
sparse matrices made from millimetres, so that pixel spacing, not pixel count, decides. The grid is centred on the head
and always shows it the same way round: rows run to posterior, columns to the patient's left (LPS). Thin slices are
averaged to slabs on that grid, so that a head which wanders through a tilted stack stays sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from triage_node.domain import Float32Array, Float64Array, Int16Array, Int64Array, Volume

WINDOWS_HU: Final = ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))
"""(centre, width) of the three network channels: brain, subdural, bone."""
WINDOW_SETS: Final = {"brain": WINDOWS_HU[0], "subdural": WINDOWS_HU[1], "stroke": (40.0, 40.0), "bone": WINDOWS_HU[2]}
"""(centre, width) by the name that an experiment knows it by."""
PADDING_HU: Final = -1024.0
"""What lies outside an image: air (domain.Volume)."""
_TISSUE_HU: Final = -200.0
"""Skin, fat, brain and bone lie above it; air, foam and most head holders below."""
_EDGE_FRACTION: Final = 0.02
"""Share of the tissue that may lie beyond either edge of the head box: cables, holder, letters."""
_SLAB_TOLERANCE: Final = 0.9
"""A slab may be this much thinner: gantry tilt makes 2.3 mm along the normal of 2.5 mm of table."""
_ROUNDING_PX: Final = 1e-9
_NEIGHBOUR_REACH: Final = 2.0
"""A neighbour lies at most this many times `neighbour_mm` away."""


# ---------------------------------------------------------------- windows


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """How HU become what a network sees. Equalising and stretching need scikit-image, and so does who serves them."""

    windows_hu: tuple[tuple[float, float], ...] = WINDOWS_HU
    """(centre, width) of each channel."""
    sigmoid: bool = False
    """Soft windows, 1/255 and 254/255 at their ends, in place of straight lines between hard ends."""
    stretched: bool = False
    """Each channel of each slice from its 2nd to its 98th percentile."""
    equalised: bool = False
    """The histogram of each channel of each slice made flat."""
    brain_only: bool = False
    """The skull and what lies outside it removed first (triage_node.skull)."""
    at_most_hu: float = np.inf
    """What is denser counts as this before slices are resampled. Bone is 15 times as dense as blood: averaged with it,
    3 mm of blood under the vault come out as white as the bone (measured)."""

    @property
    def plain(self) -> bool:
        """Nothing but windows with hard ends."""
        return not (self.sigmoid or self.stretched or self.equalised or self.brain_only)


def windowed(
    hu: NDArray[np.floating] | Int16Array, windows_hu: Sequence[tuple[float, float]], *, sigmoid: bool = False
) -> Float32Array:
    """HU of any shape (..., rows, columns) to channels (..., windows, rows, columns) float32 in 0..1."""
    values = np.asarray(hu, np.float32)
    if sigmoid:
        steep = [2 * np.log(254.0) / width for _, width in windows_hu]
        soft = [expit((values - centre) * np.float32(k)) for (centre, _), k in zip(windows_hu, steep, strict=True)]
        return np.asarray(np.stack(soft, axis=-3), np.float32)
    stacked = np.stack([(values - (centre - width / 2)) / width for centre, width in windows_hu], axis=-3)
    return np.clip(stacked, 0.0, 1.0, out=stacked)


def channels_of(hu: NDArray[np.floating], appearance: Appearance, windows: int | None = None) -> Float32Array:
    """(slices, size, size) HU, its skull already removed where it is to be, to (slices, windows, size, size) in 0..1.

    The first `windows` of the appearance, or all of them.
    """
    images = windowed(hu, appearance.windows_hu[:windows], sigmoid=appearance.sigmoid)
    if not (appearance.stretched or appearance.equalised):
        return images
    from skimage import exposure

    for image in images.reshape(-1, *images.shape[-2:]):
        if appearance.stretched:
            low, high = np.percentile(image, (2, 98))
            image[:] = exposure.rescale_intensity(image, (low, max(high, low + 1e-3)), (0.0, 1.0))
        if appearance.equalised:
            image[:] = exposure.equalize_hist(image)
    return images


def network_images(
    hu: Float32Array, chosen: slice, appearance: Appearance, neighbours: Int64Array | None = None
) -> Float32Array:
    """What a network sees of `chosen` out of `hu` (slices, size, size) HU: (chosen, channels, size, size) float32.

    The channels are the windows; with `neighbours` (of `neighbour_indices`) also the first window of the neighbour
    below and of the one above.
    """
    images = channels_of(hu[chosen], appearance)
    if neighbours is None:
        return images
    below, above = (channels_of(hu[neighbours[chosen, side]], appearance, windows=1) for side in (0, 1))
    return np.concatenate([images, below, above], axis=-3)


# ---------------------------------------------------------------- slabs and neighbours


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a network sees of the slices around one."""

    neighbours: bool = False
    """Whether it sees the neighbour below and the one above."""
    neighbour_mm: float = 5.0
    slab_mm: float = 2.5
    """Consecutive thinner slices are averaged to slabs of this thickness; 0 for none."""


SINGLE_SLICES: Final = Stack(slab_mm=0.0)
"""Every slice by itself, as it is."""


def slabs_of(weights_mm: Float64Array, slab_mm: float) -> Int64Array:
    """(slices,) int64: in which slab each slice lies. Consecutive slices make one until it is `slab_mm` thick.

    `weights_mm` as in domain.Volume. What is left over at the end goes to the last slab.
    """
    slabs = np.zeros(len(weights_mm), np.int64)
    slab, thickness_mm = 0, 0.0
    for index, weight_mm in enumerate(weights_mm):
        if index and thickness_mm >= _SLAB_TOLERANCE * slab_mm:
            slab, thickness_mm = slab + 1, 0.0
        slabs[index] = slab
        thickness_mm += weight_mm
    if slab and thickness_mm < _SLAB_TOLERANCE * slab_mm:
        slabs[slabs == slab] = slab - 1
    return slabs


def neighbour_indices(along_mm: Float64Array, neighbour_mm: float) -> Int64Array:
    """(slices, 2) int64: the slice below and the one above each, nearest to `neighbour_mm` away along the normal.

    `along_mm` are the positions, rising (feet to head). A slice without such a neighbour within twice the distance has
    itself for one.
    """
    own = np.arange(len(along_mm))
    away_mm = along_mm[None, :] - along_mm[:, None]
    found = []
    for side_mm in (-away_mm, away_mm):
        eligible = (side_mm > 0) & (side_mm <= _NEIGHBOUR_REACH * neighbour_mm)
        nearest = np.where(eligible, np.abs(side_mm - neighbour_mm), np.inf).argmin(axis=1)
        found.append(np.where(eligible.any(axis=1), nearest, own))
    return np.stack(found, axis=1)


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

    def part(self, pixels: slice) -> Axis:
        """Some consecutive pixels of it."""
        start_mm = self.start_mm + pixels.start * self.step_mm
        return Axis(count=max(0, pixels.stop - pixels.start), start_mm=start_mm, step_mm=self.step_mm)


def resampling_matrix(source: Axis, target: Axis) -> csr_array:
    """(target.count, source.count) float32, sparse: linear when enlarging, a triangle of a target pixel when shrinking.

    Rows sum to 1; a target pixel outside the source gets a row of zeros.
    """
    reach_px = max(1.0, abs(target.step_mm / source.step_mm))
    at_px = (target.centres_mm - source.start_mm) / source.step_mm
    taps = np.ceil(at_px - reach_px)[:, None] + np.arange(int(2 * reach_px) + 1)
    weights = np.clip(1.0 - np.abs(taps - at_px[:, None]) / reach_px, 0.0, None)
    weights[(taps < 0) | (taps >= source.count)] = 0.0
    inside = (at_px >= -0.5 - _ROUNDING_PX) & (at_px <= source.count - 0.5 + _ROUNDING_PX)
    weights *= inside[:, None] / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    columns = np.clip(taps, 0, source.count - 1).astype(np.int32)
    starts = np.arange(0, columns.size + 1, columns.shape[1], dtype=np.int32)
    return csr_array((weights.astype(np.float32).ravel(), columns.ravel(), starts), shape=(target.count, source.count))


def _mapped(along_rows: csr_array, image: Float32Array, along_columns: csr_array) -> Float32Array:
    """`along_rows @ image @ along_columns.T`."""
    mapped: Float32Array = (along_columns @ np.ascontiguousarray((along_rows @ image).T)).T
    return mapped


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
    weights_mm: Float64Array
    """(slices,) float64, as in domain.Volume: how much each counts in its slab."""
    slab_of: Int64Array
    """(slices,) int64: the slab in which each slice lies, from 0; what the network sees and says is by slab."""
    slab_along_mm: Float64Array
    """(slabs,) float64: middle of each slab along the normal, rising."""


def place_grid(volume: Volume, grid: Grid, slab_mm: float = 0.0) -> Placement:
    """Centre the grid on the head in every slice, rows to posterior and columns to the left of the patient.

    Thinner slices make slabs of `slab_mm`; by default every slice is one.
    """
    transposed = bool(abs(volume.orientation[0, 0]) < abs(volume.orientation[0, 1]))
    turn = -1 if transposed else 1
    (along_rows, along_columns), (row_mm, column_mm) = volume.orientation[::turn], volume.pixel_spacing_mm[::turn]
    rows, columns = volume.hu.shape[1:][::turn]
    centres_mm = _head_centres_mm(volume)[:, ::turn]
    down = 1.0 if along_columns[1] >= 0 else -1.0
    across = 1.0 if along_rows[0] >= 0 else -1.0
    slab_of = slabs_of(volume.weights_mm, slab_mm)
    return Placement(
        transposed=transposed,
        native_rows=Axis(count=rows, start_mm=0.0, step_mm=row_mm),
        native_columns=Axis(count=columns, start_mm=0.0, step_mm=column_mm),
        grid_rows=tuple(_centred(grid, centre, down) for centre in centres_mm[:, 0]),
        grid_columns=tuple(_centred(grid, centre, across) for centre in centres_mm[:, 1]),
        weights_mm=volume.weights_mm,
        slab_of=slab_of,
        slab_along_mm=_slab_means(volume.positions_mm @ volume.normal, volume.weights_mm, slab_of),
    )


def to_grid(hu: Int16Array, placement: Placement, at_most_hu: float = np.inf) -> Float32Array:
    """(slices, rows, columns) HU to (slabs, size, size) float32 HU on the network grid; air outside the image.

    What is denser than `at_most_hu` counts as that.
    """
    size_px = placement.grid_rows[0].count
    out = np.zeros((len(placement.slab_along_mm), size_px, size_px), np.float32)
    shares = placement.weights_mm / np.bincount(placement.slab_of, placement.weights_mm)[placement.slab_of]
    for index, native in enumerate(hu):
        image = np.subtract(native.T if placement.transposed else native, PADDING_HU, dtype=np.float32)
        if np.isfinite(at_most_hu):
            np.minimum(image, np.float32(at_most_hu - PADDING_HU), out=image)
        along_rows = resampling_matrix(placement.native_rows, placement.grid_rows[index])
        along_columns = resampling_matrix(placement.native_columns, placement.grid_columns[index])
        out[placement.slab_of[index]] += np.float32(shares[index]) * _mapped(along_rows, image, along_columns)
    out += np.float32(PADDING_HU)
    return out


def from_grid(
    images: Float32Array, placement: Placement, index: int, box: tuple[slice, slice] | None = None
) -> Float32Array:
    """(channels, size, size) on the grid of slice `index` to (channels, rows, columns) float32; 0 outside the grid.

    `box` (of `native_box`) is the part of the slice that is wanted; by default all.
    """
    native_rows, native_columns = placement.native_rows, placement.native_columns
    if box is not None:
        rows, columns = box[::-1] if placement.transposed else box
        native_rows, native_columns = native_rows.part(rows), native_columns.part(columns)
    along_rows = resampling_matrix(placement.grid_rows[index], native_rows)
    along_columns = resampling_matrix(placement.grid_columns[index], native_columns)
    native = np.stack([_mapped(along_rows, image, along_columns) for image in images])
    return native.swapaxes(1, 2) if placement.transposed else native


def between_grids(images: Float32Array, source: Grid, target: Grid) -> Float32Array:
    """(..., size, size) on one grid to another whose middle lies in the same place; 0 outside the first."""
    if source == target:
        return images
    along = resampling_matrix(_centred(source, 0.0, 1.0), _centred(target, 0.0, 1.0))
    moved = [_mapped(along, image, along) for image in images.reshape(-1, source.size_px, source.size_px)]
    return np.stack(moved).reshape(*images.shape[:-2], target.size_px, target.size_px)


def native_box(chosen: NDArray[np.bool_], placement: Placement, index: int) -> tuple[slice, slice]:
    """Rows and columns of slice `index` that hold all of its pixels which (size, size) `chosen` on its grid reaches.

    At least one pixel must be chosen.
    """
    rows = _reached(np.flatnonzero(chosen.any(axis=1)), placement.grid_rows[index], placement.native_rows)
    columns = _reached(np.flatnonzero(chosen.any(axis=0)), placement.grid_columns[index], placement.native_columns)
    return (columns, rows) if placement.transposed else (rows, columns)


def _reached(chosen: Int64Array, grid: Axis, native: Axis) -> slice:
    """The native pixels of one axis that a resampling from the chosen grid pixels touches."""
    ends_mm = np.sort(grid.centres_mm[chosen[[0, -1]]])
    reach_mm = max(abs(grid.step_mm), abs(native.step_mm))
    first, last = np.sort((ends_mm + np.array([-reach_mm, reach_mm]) - native.start_mm) / native.step_mm)
    return slice(max(0, int(np.floor(first))), max(0, min(native.count, int(np.ceil(last)) + 1)))


def _slab_means(values: Float64Array, weights: Float64Array, slab_of: Int64Array) -> Float64Array:
    means: Float64Array = np.bincount(slab_of, values * weights) / np.bincount(slab_of, weights)
    return means


def _centred(grid: Grid, centre_mm: float, direction: float) -> Axis:
    half_mm = (grid.size_px - 1) / 2 * grid.spacing_mm
    return Axis(count=grid.size_px, start_mm=centre_mm - direction * half_mm, step_mm=direction * grid.spacing_mm)


# ---------------------------------------------------------------- where the head is


def _head_centres_mm(volume: Volume) -> Float64Array:
    """(slices, 2) float64, in-plane mm of the middle of the head along rows and columns.

    A straight line through the middles of the single slices, weighted by their tissue: it follows the drift that
    gantry tilt brings, and slices of vertex or air do not pull it.
    """
    profiles = [_tissue_profiles(image) for image in volume.hu]
    down, across = (np.stack([profile[axis] for profile in profiles]) for axis in (0, 1))
    areas = down.sum(axis=1, dtype=np.float64)
    along_mm = np.cumsum(volume.weights_mm) - volume.weights_mm / 2
    middles_mm = np.stack(
        [_middles(down) * volume.pixel_spacing_mm[0], _middles(across) * volume.pixel_spacing_mm[1]], axis=1
    )
    return np.stack([_line_through(along_mm, middles_mm[:, axis], areas) for axis in (0, 1)], axis=1)


def _tissue_profiles(image: Int16Array) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Tissue pixels of each row and of each column; slice by slice, within the processor's cache."""
    tissue = (image > _TISSUE_HU).view(np.uint8)
    return tissue.sum(axis=1, dtype=np.uint32), tissue.sum(axis=0, dtype=np.uint32)


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
