"""Where the slices lie: the geometry of a stack, and the flat lattices on which fields are evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triage_node.domain import Float32Array, Float64Array

# The middle of the stack above the middle of the head: the vertex is farther from it than the skull base.
_STACK_CENTRE_Z_MM = 12.0
# OpenBLAS uses one thread for fewer multiplications than this (GEMM_MULTITHREAD_THRESHOLD 4 times 65536).
_SINGLE_THREAD_PRODUCTS = 262_000


@dataclass(frozen=True, kw_only=True)
class SliceGeometry:
    """A stack of slices, sorted from feet to head; LPS mm (PS3.3 C.7.6.2.1.1)."""

    positions_mm: Float64Array
    """(slices, 3) float64, ImagePositionPatient: centre of the first pixel of each slice."""
    orientation: Float64Array
    """(2, 3) float64, ImageOrientationPatient: along a row (to higher columns), along a column."""
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    """(between rows, between columns)."""
    thickness_mm: float
    """SliceThickness: each slice is an average over it."""

    @property
    def normal(self) -> Float64Array:
        """(3,) float64, unit vector along the slice normal."""
        return np.asarray(np.cross(self.orientation[0], self.orientation[1]), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """A flat lattice of points: origin + i * row_step + j * column_step, mm."""

    origin_mm: Float64Array
    row_step_mm: Float64Array
    """From one row to the next."""
    column_step_mm: Float64Array
    """From one column to the next."""
    rows: int
    columns: int

    def points(self) -> tuple[Float32Array, Float32Array, Float32Array]:
        """x, y and z of every point, each (rows, columns) float32, mm."""
        i = np.arange(self.rows, dtype=np.float32)[:, None]
        j = np.arange(self.columns, dtype=np.float32)[None, :]
        o, r, c = (v.astype(np.float32) for v in (self.origin_mm, self.row_step_mm, self.column_step_mm))
        return (o[0] + i * r[0] + j * c[0], o[1] + i * r[1] + j * c[1], o[2] + i * r[2] + j * c[2])

    def moved(self, rotation: Float64Array, centre_mm: Float64Array) -> Lattice:
        """The same lattice in a frame turned by `rotation` (3, 3) about `centre_mm`."""
        return Lattice(
            origin_mm=rotation @ (self.origin_mm - centre_mm),
            row_step_mm=rotation @ self.row_step_mm,
            column_step_mm=rotation @ self.column_step_mm,
            rows=self.rows,
            columns=self.columns,
        )


def axial_geometry(
    *,
    slices: int = 32,
    spacing_mm: float | Sequence[float] = 5.0,
    tilt_deg: float = 0.0,
    rows: int = 512,
    columns: int = 512,
    pixel_spacing_mm: float = 0.45,
    thickness_mm: float = 5.0,
) -> SliceGeometry:
    """An axial stack over the head, from foot to vertex.

    `spacing_mm` is the table feed: one number, or `slices - 1` numbers. With a gantry tilt the planes are pitched
    about the left-right axis while the table moves along z, so the stack does not run along the slice normal.
    """
    steps = np.full(slices - 1, spacing_mm) if isinstance(spacing_mm, int | float) else np.asarray(spacing_mm, float)
    if steps.shape != (slices - 1,):
        raise ValueError(f"{slices} slices need {slices - 1} spacings")
    z = np.concatenate([[0.0], np.cumsum(steps)])
    z += _STACK_CENTRE_Z_MM - z[-1] / 2
    tilt = math.radians(tilt_deg)
    along_row = np.array([1.0, 0.0, 0.0])
    along_column = np.array([0.0, math.cos(tilt), math.sin(tilt)])
    corner = -pixel_spacing_mm * ((columns - 1) / 2 * along_row + (rows - 1) / 2 * along_column)
    return SliceGeometry(
        positions_mm=corner + z[:, None] * np.array([0.0, 0.0, 1.0]),
        orientation=np.stack([along_row, along_column]),
        rows=rows,
        columns=columns,
        pixel_spacing_mm=(pixel_spacing_mm, pixel_spacing_mm),
        thickness_mm=thickness_mm,
    )


def slice_lattice(geometry: SliceGeometry, index: int, *, above_mm: float = 0.0) -> Lattice:
    """The pixel centres of one slice, moved `above_mm` along the normal; LPS mm."""
    return Lattice(
        origin_mm=geometry.positions_mm[index] + above_mm * geometry.normal,
        row_step_mm=geometry.orientation[1] * geometry.pixel_spacing_mm[0],
        column_step_mm=geometry.orientation[0] * geometry.pixel_spacing_mm[1],
        rows=geometry.rows,
        columns=geometry.columns,
    )


@dataclass(frozen=True, kw_only=True)
class Refiner:
    """Brings smooth fields from a coarse lattice to a fine one: separable Catmull-Rom, as two matrix products."""

    by_row: Float32Array
    by_column: Float32Array
    row_factor: float
    column_factor: float

    @classmethod
    def for_lattice(cls, fine: Lattice, *, coarse_mm: float) -> Refiner:
        """For lattices of this shape and spacing; the coarse one has about `coarse_mm` between points."""
        row_factor = max(1.0, coarse_mm / float(np.linalg.norm(fine.row_step_mm)))
        column_factor = max(1.0, coarse_mm / float(np.linalg.norm(fine.column_step_mm)))
        return cls(
            by_row=_catmull_rom(fine.rows, row_factor),
            by_column=np.ascontiguousarray(_catmull_rom(fine.columns, column_factor).T),
            row_factor=row_factor,
            column_factor=column_factor,
        )

    def coarse(self, fine: Lattice) -> Lattice:
        """The coarse lattice under `fine`: one point beyond each border, for the cubic."""
        row_step, column_step = fine.row_step_mm * self.row_factor, fine.column_step_mm * self.column_factor
        return Lattice(
            origin_mm=fine.origin_mm - row_step - column_step,
            row_step_mm=row_step,
            column_step_mm=column_step,
            rows=self.by_row.shape[1],
            columns=self.by_column.shape[0],
        )

    def refine(self, field: Float32Array) -> Float32Array:
        """(coarse rows, coarse columns) to (rows, columns), float32."""
        return product(self.by_row, product(field, self.by_column))


def product(a: Float32Array, b: Float32Array) -> Float32Array:
    """Matrix product in blocks of rows, each too small for the BLAS to wake other threads.

    On a busy machine, waiting for those threads made it fifty times slower.
    """
    block = max(1, _SINGLE_THREAD_PRODUCTS // (a.shape[1] * b.shape[1]))
    result = np.empty((a.shape[0], b.shape[1]), np.float32)
    for start in range(0, a.shape[0], block):
        np.matmul(a[start : start + block], b, out=result[start : start + block])
    return result


def _catmull_rom(fine: int, factor: float) -> Float32Array:
    """(fine, coarse) interpolation weights; coarse point k lies at fine index (k - 1) * factor."""
    at = np.arange(fine) / factor
    cell = np.floor(at).astype(int)
    t = at - cell
    weights = np.zeros((fine, int(cell[-1]) + 4), dtype=np.float32)
    taps = (
        0.5 * (-t + 2 * t**2 - t**3),
        0.5 * (2 - 5 * t**2 + 3 * t**3),
        0.5 * (t + 4 * t**2 - 3 * t**3),
        0.5 * (-(t**2) + t**3),
    )
    for k, tap in enumerate(taps):
        weights[np.arange(fine), cell + k] = tap
    return weights
