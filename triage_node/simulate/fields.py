"""Implicit functions and smooth random fields: the vocabulary in which the simulated head is written.

Distances are in mm, negative inside; arrays are float32 of any common shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from triage_node.domain import Float32Array, Float64Array
from triage_node.simulate.geometry import Lattice, product

Point = tuple[float, float, float]
Points = tuple[Float32Array, Float32Array, Float32Array]


@dataclass(frozen=True, kw_only=True)
class WaveField:
    """A smooth random field of physical points: a sum of plane waves, mean 0, standard deviation 1.

    On a lattice a plane wave is an outer product, so the whole field is one matrix product, exact in any geometry.
    """

    vectors: Float64Array
    """(waves, 3), radians per mm."""
    phases: Float64Array
    """(waves,), radians."""

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, wavelength_mm: float, spread: float = 0.3, waves: int = 40
    ) -> WaveField:
        """Isotropic, wavelengths within about `spread` (relative) of `wavelength_mm`."""
        directions = rng.normal(size=(waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = 2 * math.pi / (wavelength_mm * rng.uniform(1 - spread, 1 + spread, size=(waves, 1)))
        return cls(vectors=directions * lengths, phases=rng.uniform(0, 2 * math.pi, waves))

    def on(self, lattice: Lattice) -> Float32Array:
        """(rows, columns) float32."""
        i = np.arange(lattice.rows)[:, None] * (self.vectors @ lattice.row_step_mm)[None, :]
        j = np.arange(lattice.columns)[:, None] * (self.vectors @ lattice.column_step_mm)[None, :]
        i += self.vectors @ lattice.origin_mm + self.phases
        along_rows = np.concatenate([np.cos(i), -np.sin(i)], axis=1).astype(np.float32)
        along_columns = np.concatenate([np.cos(j), np.sin(j)], axis=1).astype(np.float32)
        return np.float32(math.sqrt(2 / len(self.phases))) * product(along_rows, np.ascontiguousarray(along_columns.T))


def ellipsoid(p: Points, centre: Point, radii: Point) -> Float32Array:
    """Distance to an ellipsoid, exact to first order at its surface."""
    scaled = [(a - np.float32(c)) / np.float32(r) for a, c, r in zip(p, centre, radii, strict=True)]
    k0 = np.sqrt(sum(s * s for s in scaled) + np.float32(1e-6))
    k1 = np.sqrt(sum((s / np.float32(r)) ** 2 for s, r in zip(scaled, radii, strict=True)) + np.float32(1e-9))
    return np.asarray(k0 * (k0 - 1) / k1, dtype=np.float32)


def capsule(p: Points, start: Point, end: Point, radius: float, end_radius: float | None = None) -> Float32Array:
    """Distance to a rod with round ends, whose radius may change along it."""
    axis = [e - s for s, e in zip(start, end, strict=True)]
    length2 = sum(a * a for a in axis)
    rel = [a - np.float32(s) for a, s in zip(p, start, strict=True)]
    t = np.clip(sum(r * np.float32(a / length2) for r, a in zip(rel, axis, strict=True)), 0, 1)
    gap2 = sum((r - t * np.float32(a)) ** 2 for r, a in zip(rel, axis, strict=True))
    widening = (radius if end_radius is None else end_radius) - radius
    return np.asarray(np.sqrt(gap2) - (np.float32(radius) + t * np.float32(widening)), dtype=np.float32)


def chain(p: Points, knots: Sequence[tuple[Point, float]]) -> Float32Array:
    """Distance to a string of capsules through (point, radius) knots."""
    rods = [capsule(p, a, b, ra, rb) for (a, ra), (b, rb) in pairwise(knots)]
    return join(*rods, softness_mm=3.0)


def join(*distances: Float32Array, softness_mm: float = 0.0) -> Float32Array:
    """Union; with `softness_mm` the seam is rounded (polynomial smooth minimum)."""
    result = distances[0]
    for other in distances[1:]:
        joined = np.minimum(result, other)
        if softness_mm:
            near = np.maximum(np.float32(softness_mm) - np.abs(result - other), 0)
            joined -= near * near * np.float32(0.25 / softness_mm)
        result = joined
    return result


def cut(distance: Float32Array, away: Float32Array, *, softness_mm: float = 0.0) -> Float32Array:
    """What of `distance` is not inside `away`."""
    return -join(-distance, away, softness_mm=softness_mm)


def share(distance: Float32Array, *, edge_mm: float = 1.0) -> Float32Array:
    """How much of a point lies inside, 0..1: a linear edge `edge_mm` wide."""
    return np.asarray(np.clip(np.float32(0.5) - distance * np.float32(1 / edge_mm), 0, 1), np.float32)


def mix(hu: Float32Array, other: Float32Array | np.float32 | float, amount: Float32Array) -> Float32Array:
    """`hu` with `amount` (0..1) of it replaced by `other`."""
    return hu + (np.asarray(other, dtype=np.float32) - hu) * amount
