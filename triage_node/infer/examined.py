"""What networks say of one volume, and what several say together. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from triage_node.domain import CLASSES, Float32Array
from triage_node.infer.bundle import CHRONIC, Bundle, leading
from triage_node.transforms import Grid, Placement, between_grids

_MOST_SURE: Final = 15.0
"""Log-odds beyond which a member cannot outvote the others."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the network says of one volume, on its own grid. Classes that the bundle does not output mean nothing."""

    placement: Placement
    pixel_probabilities: Float32Array | None
    """(slabs, 6, size, size) float32: background and SUBTYPES; None where the bundle gives no mask. Of
    `placement.slab_of` each slice."""
    logits: Float32Array
    """(slices, 6) float32: CLASSES, not calibrated."""
    chronic: Float32Array | None
    """(slices,) float32 logits that subdural blood there is chronic; None where the bundle does not say."""
    boxes: Float32Array | None
    """(slabs, k, 9) float32 as in answer.Answer; None where the bundle draws none."""
    timings_s: dict[str, float]


def together(said: Sequence[Examined], bundle: Bundle) -> Examined:
    """The mean of what the members of an ensemble say, each of those that speak of it.

    Of slices and age, the mean of the calibrated log-odds; of pixels, of the probabilities; boxes of all of them, of
    which the surest round one place is kept later.
    """
    members = bundle.members
    placed = said[members.index(leading(members))]
    timings = {name: sum(one.timings_s[name] for one in said) for name in said[0].timings_s}
    return replace(
        placed,
        pixel_probabilities=_mean_pixels(said, members, bundle.grid) if bundle.outputs_mask else None,
        logits=_mean_logits(said, members),
        chronic=_mean_chronic(said, members) if bundle.outputs_chronic else None,
        boxes=_all_boxes(said, members, placed.placement, bundle.grid) if bundle.outputs_boxes else None,
        timings_s=timings,
    )


def _mean_pixels(said: Sequence[Examined], members: Sequence[Bundle], grid: Grid) -> Float32Array:
    """(slabs, 6, size, size) on `grid`; what lies outside that of a member is background."""
    parts = []
    for one, member in zip(said, members, strict=True):
        if one.pixel_probabilities is not None:
            pixels = between_grids(one.pixel_probabilities, member.grid, grid)
            if pixels is not one.pixel_probabilities:
                pixels[:, 0] = 1 - pixels[:, 1:].sum(axis=1)
            parts.append(pixels)
    mean: Float32Array = np.mean(parts, axis=0, dtype=np.float32)
    return mean


def _mean_logits(said: Sequence[Examined], members: Sequence[Bundle]) -> Float32Array:
    """(slices, 6); NaN in a class that no member speaks of."""
    total = np.zeros_like(said[0].logits)
    spoken = np.zeros(len(CLASSES), np.float32)
    for one, member in zip(said, members, strict=True):
        speaks = np.array([name in member.outputs_classes for name in CLASSES])
        slope, offset = np.array([member.calibration[name] for name in CLASSES], np.float32).T
        calibrated = np.clip(one.logits * slope + offset, -_MOST_SURE, _MOST_SURE)
        total[:, speaks] += calibrated[:, speaks]
        spoken += speaks
    mean: Float32Array = np.where(spoken > 0, total / np.maximum(spoken, 1), np.nan).astype(np.float32)
    return mean


def _mean_chronic(said: Sequence[Examined], members: Sequence[Bundle]) -> Float32Array:
    parts = []
    for one, member in zip(said, members, strict=True):
        if one.chronic is not None:
            slope, offset = member.calibration[CHRONIC]
            parts.append(np.clip(one.chronic * slope + offset, -_MOST_SURE, _MOST_SURE))
    mean: Float32Array = np.mean(parts, axis=0, dtype=np.float32)
    return mean


def _all_boxes(said: Sequence[Examined], members: Sequence[Bundle], placement: Placement, grid: Grid) -> Float32Array:
    """(slabs, k, 9) of `placement`, edges as shares of `grid`: all grids have the head in the middle."""
    first_of_slab = np.unique(placement.slab_of, return_index=True)[1]
    parts = []
    for one, member in zip(said, members, strict=True):
        if one.boxes is None:
            continue
        boxes = one.boxes[one.placement.slab_of[first_of_slab]].copy()
        wider = member.grid.size_px * member.grid.spacing_mm / (grid.size_px * grid.spacing_mm)
        boxes[..., :4] = np.clip(0.5 + (boxes[..., :4] - 0.5) * wider, 0.0, 1.0)
        parts.append(boxes)
    return np.concatenate(parts, axis=1)
