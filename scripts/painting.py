"""Lumps of blood painted into a real head CT, for the probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triage_node.domain import Volume

LEAST_BRAIN_MM2 = 3000.0

Image2d = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Lump:
    """A bleed about a place in one slice."""

    row: int
    column: int
    radius_mm: float
    density_hu: float
    oedema_hu: float
    stretch: float
    turn: float
    ragged_mm: Image2d
    """(rows, columns): how much nearer or farther its edge is."""


def deep_brain(head: Volume, index: int) -> Image2d | None:
    """(rows, columns) bool: brain 6 mm and more from all else; None where there is little."""
    hu = head.hu[index]
    brain = ndimage.binary_opening((hu > 15) & (hu < 60), iterations=2)
    filled = ndimage.binary_fill_holes(hu > 250) & (hu < 250)
    brain &= filled  # no muscle of the face or the neck
    if brain.sum() * np.prod(head.pixel_spacing_mm) < LEAST_BRAIN_MM2:
        return None
    deep = ndimage.binary_erosion(brain, iterations=round(6 / head.pixel_spacing_mm[0]))
    return deep if deep.any() else None


def some_lump(head: Volume, brain: Image2d, rng: np.random.Generator) -> Lump:
    row, column = rng.choice(np.argwhere(brain))
    ragged = ndimage.gaussian_filter(rng.normal(size=head.hu.shape[1:]), 5.5 / head.pixel_spacing_mm[0])
    return Lump(
        row=row,
        column=column,
        radius_mm=rng.uniform(5, 18),
        density_hu=rng.uniform(50, 72),
        oedema_hu=rng.uniform(0, 8),
        stretch=rng.uniform(0.75, 1.33),
        turn=rng.uniform(0, np.pi),
        ragged_mm=1.5 * ragged / ragged.std(),
    )


def bled(hu: Image2d, lump: Lump, away_mm: float, spacing_mm: tuple[float, float]) -> tuple[Image2d, Image2d]:
    """A slice so far from the middle of the lump, with it, and (rows, columns) bool where it is."""
    rows_mm = (np.arange(hu.shape[0])[:, None] - lump.row) * spacing_mm[0]
    columns_mm = (np.arange(hu.shape[1])[None, :] - lump.column) * spacing_mm[1]
    one = rows_mm * np.cos(lump.turn) + columns_mm * np.sin(lump.turn)
    other = columns_mm * np.cos(lump.turn) - rows_mm * np.sin(lump.turn)
    from_middle_mm = np.sqrt((one * lump.stretch) ** 2 + (other / lump.stretch) ** 2 + away_mm**2) + lump.ragged_mm
    soft = (hu > -20) & (hu < 70)
    blood = soft * np.clip((lump.radius_mm - from_middle_mm) / 1.5 + 0.5, 0, 1)
    around = soft * (from_middle_mm > lump.radius_mm) * np.clip((lump.radius_mm + 7 - from_middle_mm) / 7, 0, 1)
    noise = hu - ndimage.uniform_filter(hu, 5)
    with_oedema = hu - lump.oedema_hu * around
    return with_oedema + blood * (lump.density_hu + noise - with_oedema), blood > 0.5
