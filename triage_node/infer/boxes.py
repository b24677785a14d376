"""Boxes of the network on its grid -> boxes on the native slices. numpy only."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import numpy as np

from triage_node.domain import SUBTYPES, Float32Array, SeenBox
from triage_node.infer.bundle import Bundle
from triage_node.transforms import Axis, Placement

_SAME: Final = 0.4
"""Two boxes of one subtype whose overlap is more than this share of their union are one; the surer one is kept."""


def native_boxes(
    boxes: Float32Array, placement: Placement, shown: Container[str], bundle: Bundle
) -> tuple[SeenBox, ...]:
    """(slabs, k, 4 + 5) as in answer.Answer to boxes on every slice of a slab, the surest first.

    Of the subtypes `shown`, as in the mask.
    """
    names = [name for name in bundle.outputs_subtypes if name in shown]
    kept = {
        (slab, name): _distinct(said[:, :4], said[:, 4 + SUBTYPES.index(name)], bundle.box_min_probability)
        for slab, said in enumerate(boxes)
        for name in names
    }
    found = [
        _native(edges, probability, name, placement, index)
        for index, slab in enumerate(placement.slab_of)
        for name in names
        for edges, probability in kept[int(slab), name]
    ]
    inside = [box for box in found if box.right > box.left and box.bottom > box.top]
    return tuple(sorted(inside, key=lambda box: -box.probability))


def _distinct(edges: Float32Array, probabilities: Float32Array, least: float) -> list[tuple[Float32Array, float]]:
    """(k, 4) and (k,): those from `least` on, without the less sure ones of each place."""
    kept: list[tuple[Float32Array, float]] = []
    for place in np.argsort(-probabilities, kind="stable"):
        if probabilities[place] < least:
            break
        if all(_overlap(edges[place], other) <= _SAME for other, _ in kept):
            kept.append((edges[place], min(1.0, float(probabilities[place]))))
    return kept


def _overlap(one: Float32Array, other: Float32Array) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.clip(sides, 0, None)))
    either = sum(float(np.prod(np.clip(box[2:] - box[:2], 0, None))) for box in (one, other)) - both
    return both / either if either > 0 else 1.0


def _native(edges: Float32Array, probability: float, subtype: str, placement: Placement, index: int) -> SeenBox:
    """Shares of the grid to pixels of slice `index`."""
    across = _pixels(edges[[0, 2]], placement.grid_columns[index], placement.native_columns)
    down = _pixels(edges[[1, 3]], placement.grid_rows[index], placement.native_rows)
    if placement.transposed:
        across, down = down, across
    return SeenBox(
        slice_index=index,
        subtype=subtype,
        probability=probability,
        left=across[0],
        top=down[0],
        right=across[1],
        bottom=down[1],
    )


def _pixels(shares: Float32Array, grid: Axis, native: Axis) -> tuple[float, float]:
    """Two edges along one direction, the lower first, inside the image."""
    on_grid = shares.astype(np.float64) * grid.count - 0.5
    edges = (grid.start_mm + grid.step_mm * on_grid - native.start_mm) / native.step_mm + 0.5
    low, high = np.clip(np.sort(edges), 0.0, native.count)
    return float(low), float(high)
