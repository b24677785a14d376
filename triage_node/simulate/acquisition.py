"""What a scanner makes of a head: blur, noise, cupping, streaks, motion, table, field of view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from triage_node.domain import Float32Array
from triage_node.simulate.geometry import Lattice


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How one simulated examination was taken."""

    blur_mm: float
    noise_hu: float
    noise_grain_mm: float
    cupping_hu: float
    streak_hu: float
    streak_angle: float
    streak_mm: float
    motion_mm: float
    holder_mm: float
    """Radius of the head holder; 0 for none."""
    holder_hu: float
    circle: bool
    """Padding outside the reconstruction circle."""

    @classmethod
    def random(cls, rng: np.random.Generator, *, noise_hu: float | None) -> Scanner:
        """A scanner as they are; `noise_hu` fixes its noise (standard deviation)."""
        usual = float(rng.uniform(1.2, 8)) if rng.random() < 0.88 else float(rng.uniform(8, 16))
        return cls(
            blur_mm=rng.uniform(0.3, 1.0),
            noise_hu=usual if noise_hu is None else noise_hu,
            noise_grain_mm=rng.uniform(0.3, 0.9),
            cupping_hu=rng.uniform(-3, 9),
            streak_hu=rng.uniform(1, 7) if rng.random() < 0.35 else 0.0,
            streak_angle=rng.normal(0, 0.35),
            streak_mm=rng.uniform(8, 30),
            motion_mm=rng.uniform(1, 4) if rng.random() < 0.06 else 0.0,
            holder_mm=rng.uniform(100, 125) if rng.random() < 0.6 else 0.0,
            holder_hu=rng.uniform(-300, 300),
            circle=bool(rng.random() < 0.3),
        )


def acquire(
    hu: Float32Array, depth: Float32Array, lattice: Lattice, scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """One averaged slice as the scanner shows it; `depth` mm below the inner table, `lattice` in the scanner frame."""
    row_mm, column_mm = (float(np.linalg.norm(s)) for s in (lattice.row_step_mm, lattice.column_step_mm))
    x, y, _ = lattice.points()
    inside = (depth > 0).astype(np.float32)
    hu = np.asarray(hu - scanner.cupping_hu * np.clip(depth / 55, 0, 1) * inside, np.float32)
    if scanner.streak_hu:
        across = x * math.sin(scanner.streak_angle) + y * math.cos(scanner.streak_angle)
        bands = np.sin(across * (2 * math.pi / scanner.streak_mm)) + np.sin(across * (3.7 / scanner.streak_mm) + 1)
        hu = np.asarray(hu + scanner.streak_hu * 0.5 * bands * inside, np.float32)
    hu = _with_holder(hu, x, y, scanner)
    if scanner.motion_mm:
        shift = (scanner.motion_mm / row_mm * 0.6, scanner.motion_mm / column_mm)
        hu = 0.65 * hu + 0.35 * ndimage.shift(hu, shift, order=1, mode="nearest")
    hu = ndimage.gaussian_filter(hu, (scanner.blur_mm / row_mm, scanner.blur_mm / column_mm))
    hu = hu + _noise(hu.shape, (row_mm, column_mm), scanner, rng)
    if scanner.circle:
        half = 0.5 * min(lattice.rows * row_mm, lattice.columns * column_mm)
        centre_x, centre_y = float(x.mean()), float(y.mean())
        hu = np.where((x - centre_x) ** 2 + (y - centre_y) ** 2 > half**2, np.float32(-1024), hu)
    return np.asarray(hu, np.float32)


def _with_holder(hu: Float32Array, x: Float32Array, y: Float32Array, scanner: Scanner) -> Float32Array:
    """A thin curved shell under the head: seen in air only."""
    if not scanner.holder_mm:
        return hu
    radius = np.hypot(x, y * 0.92)
    shell = (np.abs(radius - scanner.holder_mm) < 1.4) & (y > 20) & (hu < -700)
    return np.where(shell, np.float32(scanner.holder_hu), hu)


def _noise(
    shape: tuple[int, ...], pixel_mm: tuple[float, float], scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """Grainy noise of standard deviation `noise_hu`, whatever the pixel size."""
    if scanner.noise_hu <= 0:
        return np.zeros(shape, np.float32)
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = [scanner.noise_grain_mm / mm for mm in pixel_mm]
    grain = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    return np.asarray(grain * np.float32(scanner.noise_hu / max(float(grain.std()), 1e-6)), np.float32)
