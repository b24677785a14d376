"""What a scanner makes of a head: kernel, noise, beam hardening, streaks, rings, motion, holder, field of view.

Everything is drawn once per examination; the same head in the same scanner differs between slices only by its noise.
Ranges are those of head protocols as published by vendors and seen on real head CT; the rare ones say how rare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from triage_node.domain import Float32Array
from triage_node.simulate.geometry import Lattice

_USUAL_THICKNESS_MM: Final = 5.0
_BONE_HU: Final = 300.0
# The vault alone puts up to this much bone (at 1000 HU above it) on either side; its hardening is corrected for.
_CORRECTED_BONE_MM: Final = 22.0
_METAL_REACH_MM: Final = 5.0
PADDING_HU: Final = -1024


@dataclass(frozen=True, kw_only=True)
class Metal:
    """A filling, clip or coil, and the rays around it."""

    site: tuple[float, float, float]
    """Scanner frame, mm."""
    radius_mm: float
    streak_hu: float
    """Near the metal; falls off with distance."""
    rays: tuple[tuple[float, float], ...]
    """(rays around the circle, phase)."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What the head lies in: curved shells behind it, with or without foam between."""

    kind: str
    """arc, double or table."""
    radius_mm: float
    hu: float
    foam_hu: float
    """-1000 for none."""
    centre_mm: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How one simulated examination was taken."""

    blur_mm: float
    """Standard deviation of the kernel: 0.3 to 1.0."""
    sharpen: float
    """Edge enhancement, 0 to 0.45; bone kernels (4 %) to 1.2: overshoot at the inner table."""
    sharpen_mm: float
    noise_hu: float
    """Standard deviation in the middle of the head: 1.2 to 7, 7 % to 13, at 5 mm; more in thinner slices."""
    noise_grain_mm: float
    noise_hollow: float
    """Share of its coarse part taken out of the noise, 0 to 0.8: filtered back-projection is fine-grained."""
    offset_hu: float
    """Calibration, standard deviation 1.5."""
    gain: float
    cupping_hu: float
    """Darker (or, below zero, brighter) towards the middle: -3 to 14."""
    hardening_hu: float
    """Darkening between dense bones, per 10 mm of bone beyond the vault's: 0 to 8 (the Hounsfield bar)."""
    starvation: float
    """Streaks in the same places, likewise, in units of the noise: 0 to 0.5."""
    streak_hu: float
    """Faint bands across the head, in 35 %."""
    streak_angle: float
    streak_mm: float
    rings: tuple[tuple[float, float], ...]
    """(radius mm, HU), in 3 %."""
    motion_mm: float
    """Double contours, in 6 %."""
    motion_phase: float
    metal: tuple[Metal, ...]
    """Fillings in 25 %, a clip or coil in 1.5 %."""
    holder: Holder | None
    circle: bool
    """Padding outside the reconstruction circle, in 30 %."""

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, noise_hu: float | None, thickness_mm: float = _USUAL_THICKNESS_MM
    ) -> Scanner:
        """A scanner as they are; `noise_hu` fixes its noise (standard deviation), else thin slices have more."""
        usual = float(rng.uniform(1.2, 7)) if rng.random() < 0.93 else float(rng.uniform(7, 13))
        fewer_photons = min(1.8, math.sqrt(_USUAL_THICKNESS_MM / thickness_mm))
        sharpen, sharpen_mm = _draw_sharpening(rng)
        return cls(
            blur_mm=rng.uniform(0.25, 0.95),
            sharpen=sharpen,
            sharpen_mm=sharpen_mm,
            noise_hu=usual * max(0.85, fewer_photons) if noise_hu is None else noise_hu,
            noise_grain_mm=rng.uniform(0.3, 0.9) if rng.random() < 0.85 else rng.uniform(0.9, 1.4),
            noise_hollow=rng.uniform(0, 0.8),
            offset_hu=rng.normal(0, 1.5),
            gain=rng.normal(1, 0.003),
            cupping_hu=rng.uniform(-3, 9) if rng.random() < 0.85 else rng.uniform(9, 14),
            hardening_hu=rng.uniform(0, 8),
            starvation=rng.uniform(0, 0.5),
            streak_hu=rng.uniform(1, 7) if rng.random() < 0.35 else 0.0,
            streak_angle=rng.normal(0, 0.35),
            streak_mm=rng.uniform(8, 30),
            rings=_draw_rings(rng) if rng.random() < 0.03 else (),
            motion_mm=rng.uniform(1, 4) if rng.random() < 0.06 else 0.0,
            motion_phase=rng.uniform(0, 2 * math.pi),
            metal=_draw_metal(rng),
            holder=_draw_holder(rng) if rng.random() < 0.7 else None,
            circle=bool(rng.random() < 0.3),
        )


def _draw_sharpening(rng: np.random.Generator) -> tuple[float, float]:
    kind = rng.random()
    if kind < 0.6:
        return 0.0, 1.0
    return float(rng.uniform(0.05, 0.45) if kind < 0.96 else rng.uniform(0.5, 1.2)), float(rng.uniform(0.6, 1.3))


def _draw_rings(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    return tuple((float(rng.uniform(8, 80)), float(rng.uniform(2, 7))) for _ in range(int(rng.integers(1, 4))))


def _draw_metal(rng: np.random.Generator) -> tuple[Metal, ...]:
    sites = []
    if rng.random() < 0.25:
        side = rng.choice([-1.0, 1.0])
        sites.append((float(side * rng.uniform(8, 26)), rng.uniform(-84, -50), rng.uniform(-84, -66)))
    if rng.random() < 0.015:
        sites.append((rng.normal(0, 18), rng.normal(-12, 12), rng.normal(-16, 8)))
    return tuple(
        Metal(
            site=site,
            radius_mm=rng.uniform(1.5, 4),
            streak_hu=rng.uniform(60, 400),
            rays=tuple((float(rng.integers(3, 22)), rng.uniform(0, 2 * math.pi)) for _ in range(8)),
        )
        for site in sites
    )


def _draw_holder(rng: np.random.Generator) -> Holder:
    return Holder(
        kind=str(rng.choice(["arc", "double", "table"], p=[0.5, 0.35, 0.15])),
        radius_mm=rng.uniform(100, 125),
        hu=rng.uniform(-400, 300),
        foam_hu=rng.uniform(-985, -880) if rng.random() < 0.4 else -1000.0,
        centre_mm=(rng.normal(0, 5), rng.normal(0, 5)),
    )


# ---------------------------------------------------------------- one slice


def acquire(
    hu: Float32Array, depth: Float32Array, lattice: Lattice, scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """One averaged slice as the scanner shows it; `depth` mm below the inner table, `lattice` in the scanner frame."""
    pixel_mm = (float(np.linalg.norm(lattice.row_step_mm)), float(np.linalg.norm(lattice.column_step_mm)))
    x, y, z = lattice.points()
    height = float(z[len(z) // 2, 0])
    inside = (depth > 0).astype(np.float32)
    hu = _with_holder(hu, x, y, scanner.holder)
    shadow = _between_bones(hu, pixel_mm[1]) * inside
    hu = np.asarray(hu - scanner.cupping_hu * np.clip(depth / 55, 0, 1), np.float32)
    starved = np.float32(scanner.starvation * scanner.noise_hu) * _per_row(hu.shape[0], rng)
    hu = _with_streaks(hu - shadow * (scanner.hardening_hu + starved), x, y, inside, scanner)
    for metal in scanner.metal:
        hu = _with_metal(hu, x, y, height, metal)
    hu = _moved(hu, height, pixel_mm, scanner)
    hu = _through_kernel(np.asarray(hu, np.float32), pixel_mm, scanner)
    hu = (hu + np.float32(1000)) * np.float32(scanner.gain) - np.float32(1000 - scanner.offset_hu)
    hu = hu + _noise(hu.shape, pixel_mm, scanner, rng) * (0.75 + 0.25 * np.clip(depth / 30, -1, 1) + 0.2 * shadow)
    return _reconstructed(np.asarray(hu, np.float32), x, y, pixel_mm, scanner)


def _between_bones(hu: Float32Array, column_mm: float) -> Float32Array:
    """How much bone beyond the vault's lies on both sides along the row, in units of 10 mm; 0 to 3."""
    bone_mm = np.clip((hu - _BONE_HU) * np.float32(column_mm / 1000), 0, np.float32(1.5 * column_mm))
    left = np.cumsum(bone_mm, axis=1)
    both = np.minimum(left, left[:, -1:] - left) - np.float32(_CORRECTED_BONE_MM)
    return np.asarray(ndimage.uniform_filter1d(np.clip(both / 10, 0, 3), 5, axis=0), np.float32)


def _per_row(rows: int, rng: np.random.Generator) -> Float32Array:
    return rng.standard_normal((rows, 1), dtype=np.float32)


def _with_streaks(
    hu: Float32Array, x: Float32Array, y: Float32Array, inside: Float32Array, scanner: Scanner
) -> Float32Array:
    """Faint bands across the head."""
    if not scanner.streak_hu:
        return hu
    across = x * np.float32(math.sin(scanner.streak_angle)) + y * np.float32(math.cos(scanner.streak_angle))
    bands = np.sin(across * np.float32(2 * math.pi / scanner.streak_mm))
    bands += np.sin(across * np.float32(3.7 / scanner.streak_mm) + 1)
    return np.asarray(hu + np.float32(scanner.streak_hu * 0.5) * bands * inside, np.float32)


def _with_metal(hu: Float32Array, x: Float32Array, y: Float32Array, height: float, metal: Metal) -> Float32Array:
    """The metal itself and a star of rays, in the slices that it reaches."""
    away = (height - metal.site[2]) / _METAL_REACH_MM
    if abs(away) > 2.5:
        return hu
    dx, dy = x - np.float32(metal.site[0]), y - np.float32(metal.site[1])
    radius = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx)
    star = np.zeros_like(hu)
    for number, phase in metal.rays:
        star += np.sin(angle * np.float32(number) + np.float32(phase))
    star *= np.float32(metal.streak_hu * math.exp(-(away**2)) / 3) / (1 + (radius / 14) ** 1.5)
    hu = np.asarray(hu + np.where(hu > -700, star, 0.3 * star), np.float32)
    return np.where((radius < metal.radius_mm) & (abs(away) < 0.6), np.float32(3071), hu)


def _moved(hu: Float32Array, height: float, pixel_mm: tuple[float, float], scanner: Scanner) -> Float32Array:
    """The head seen twice: in some slices more than in others."""
    moved_mm = scanner.motion_mm * max(0.0, math.sin(height / 14 + scanner.motion_phase))
    if moved_mm < 0.3:
        return hu
    shift = (moved_mm / pixel_mm[0] * 0.6, moved_mm / pixel_mm[1])
    return np.asarray(0.65 * hu + 0.35 * ndimage.shift(hu, shift, order=1, mode="nearest"), np.float32)


def _through_kernel(hu: Float32Array, pixel_mm: tuple[float, float], scanner: Scanner) -> Float32Array:
    blurred = ndimage.gaussian_filter(hu, [scanner.blur_mm / mm for mm in pixel_mm], truncate=3.0)
    if scanner.sharpen:
        coarse = ndimage.gaussian_filter(blurred, [scanner.sharpen_mm / mm for mm in pixel_mm], truncate=3.0)
        blurred = blurred + np.float32(scanner.sharpen) * (blurred - coarse)
    return np.asarray(blurred, np.float32)


def _noise(
    shape: tuple[int, ...], pixel_mm: tuple[float, float], scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """Grainy noise of standard deviation `noise_hu`, whatever the pixel size."""
    if scanner.noise_hu <= 0:
        return np.zeros(shape, np.float32)
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = [scanner.noise_grain_mm / mm for mm in pixel_mm]
    grain = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    if scanner.noise_hollow:
        coarse = ndimage.gaussian_filter(grain, [2 * s for s in sigma], mode="wrap", truncate=2.5)
        grain -= np.float32(scanner.noise_hollow) * coarse
    return np.asarray(grain * np.float32(scanner.noise_hu / max(float(grain.std()), 1e-6)), np.float32)


def _reconstructed(
    hu: Float32Array, x: Float32Array, y: Float32Array, pixel_mm: tuple[float, float], scanner: Scanner
) -> Float32Array:
    """Rings about the middle of the field of view, and padding outside its circle."""
    if not scanner.rings and not scanner.circle:
        return hu
    radius = np.hypot(x - np.float32(x.mean()), y - np.float32(y.mean()))
    for ring_mm, ring_hu in scanner.rings:
        hu = hu + np.float32(ring_hu) * np.exp(-(((radius - np.float32(ring_mm)) / 0.9) ** 2))
    if scanner.circle:
        half = 0.5 * min(hu.shape[0] * pixel_mm[0], hu.shape[1] * pixel_mm[1])
        hu = np.where(radius > half, np.float32(PADDING_HU), hu)
    return np.asarray(hu, np.float32)


def _with_holder(hu: Float32Array, x: Float32Array, y: Float32Array, holder: Holder | None) -> Float32Array:
    """Thin shells under the head, foam inside them: seen in air only."""
    if holder is None:
        return hu
    x, y = x - np.float32(holder.centre_mm[0]), y - np.float32(holder.centre_mm[1])
    radius = np.hypot(x, y * np.float32(0.92))
    behind = (y > 20) & (hu < -700)
    if holder.foam_hu > -1000:
        hu = np.where(behind & (radius < holder.radius_mm), np.maximum(hu, np.float32(holder.foam_hu)), hu)
    if holder.kind == "table":
        solid = (np.abs(y - holder.radius_mm) < 1.4) | (np.abs(y - holder.radius_mm - 9) < 1.0)
    else:
        solid = np.abs(radius - holder.radius_mm) < 1.4
        if holder.kind == "double":
            solid |= np.abs(radius - holder.radius_mm - 9) < 1.0
    return np.where(solid & behind, np.float32(holder.hu), hu)
