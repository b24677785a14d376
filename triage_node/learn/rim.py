"""Brightness under the inner table: HU by depth from bone, of real and of simulated heads, in one table and one figure.

A bright rim of partial volume, dura and cortex along the inner table is what a network takes for subdural and epidural
blood; where simulation agrees with real heads here, it can learn the difference (measured: docs/lab-notebook.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage

from triage_node.domain import Float32Array, UInt8Array, Volume
from triage_node.transforms import Grid, place_grid, to_grid

_BONE_HU: Final = 250
_FORAMEN_MM: Final = 18.0
"""Gaps of the skull up to this width are closed before its inside is filled."""
_AIR_HU: Final = -100
PROFILE_GRID: Final = Grid(size_px=220, spacing_mm=0.99)
DEPTHS_MM: Final = tuple(range(11))
"""Edges of the depth bins: 0-1, 1-2 ... 9-10 mm."""
PERCENTILES: Final = (10, 50, 90)
_ABOVE_BASE: Final = 0.42
"""Share of the stack, by slices from the feet, that is left out: neck and skull base."""
_LEAST_INSIDE: Final = 0.7
"""Of the widest slice. Above, slices cut the vault aslant and the rim grows (of the real head from 140 HU in the first
millimetre to 190 at the vertex); stacks differ in how much of that they hold, and heads are compared at one level."""


def rim_profile(volume: Volume, truth: UInt8Array | None = None) -> Float32Array:
    """(slices, depths, percentiles) float32: HU in each depth bin of the slices of the lower vault without blood.

    Slices of the lower 42 % of the stack, those that show less than 70 % of the widest inside of the skull above them,
    and those that `truth` calls bloody, are left out.
    """
    hu = to_grid(volume.hu, place_grid(volume, PROFILE_GRID))[round(_ABOVE_BASE * len(volume.hu)) :]
    bloodless = np.ones(len(hu), bool) if truth is None else ~truth[-len(hu) :].any(axis=(1, 2))
    depths_mm = [_depth_mm(image, PROFILE_GRID.spacing_mm) for image in hu]
    inside = np.array([np.count_nonzero(depth) for depth in depths_mm])
    chosen = np.flatnonzero(bloodless & (inside >= _LEAST_INSIDE * inside.max()) & (inside > 0))
    profiles = [_slice_profile(hu[k], depths_mm[k]) for k in chosen]
    found = [profile for profile in profiles if profile is not None]
    return np.stack(found) if found else np.zeros((0, len(DEPTHS_MM) - 1, len(PERCENTILES)), np.float32)


def median_profile(profiles: Sequence[Float32Array]) -> Float32Array:
    """(depths, percentiles): median over all slices of all heads."""
    return np.asarray(np.median(np.concatenate(list(profiles)), axis=0), np.float32)


def plot_profiles(real: Float32Array, simulated: Float32Array, path: Path) -> None:
    """One figure: real (solid) and simulated (dashed), 10th, 50th and 90th percentile. Needs the `train` extra."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    middles = np.asarray(DEPTHS_MM[:-1]) + 0.5
    for k, percentile in enumerate(PERCENTILES):
        (line,) = axes.plot(middles, real[:, k], label=f"real, {percentile}th percentile")
        axes.plot(middles, simulated[:, k], "--", color=line.get_color(), label=f"simulated, {percentile}th percentile")
    axes.set(
        xlabel="depth below the inner table, mm", ylabel="HU", ylim=(0, 250), title="Under the inner table, lower vault"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _slice_profile(hu: Float32Array, depth: Float32Array) -> Float32Array | None:
    bins = [hu[(depth > low) & (depth <= high)] for low, high in pairwise(DEPTHS_MM)]
    if any(len(values) < 20 for values in bins):
        return None
    return np.asarray([np.percentile(values, PERCENTILES) for values in bins], np.float32)


def _depth_mm(hu: Float32Array, spacing_mm: float) -> Float32Array:
    """(rows, columns) HU to the distance from bone inside the skull; 0 in bone, in air and outside."""
    bone = hu > _BONE_HU
    reach = ndimage.distance_transform_edt(~bone, sampling=spacing_mm) <= _FORAMEN_MM / 2
    closed = reach & ~(ndimage.distance_transform_edt(reach, sampling=spacing_mm) <= _FORAMEN_MM / 2)
    inside = ndimage.binary_fill_holes(closed | bone) & ~bone & (hu > _AIR_HU)
    distance: Float32Array = np.where(inside, ndimage.distance_transform_edt(~bone, sampling=spacing_mm), 0.0)
    return distance.astype(np.float32)
