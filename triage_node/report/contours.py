"""The outline of a region as polylines, and the region that polylines enclose.

In pixels of the image, column before row: 0\\0 is the corner of the first pixel, 0.5\\0.5 its centre (PS3.3 C.10.5,
unit PIXEL).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import Float64Array

_STEPS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""(columns, rows) of a step to the right, down, to the left, up."""


def outlines(region: NDArray[np.bool_]) -> list[Float64Array]:
    """Closed polylines, (points, 2) each, round the islands and the holes of a (rows, columns) region.

    They go through the middles of the pixel edges between inside and outside: nowhere farther than half a pixel from
    the edge, and the centre of every pixel is on its side of the line.
    """
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    edges, following = _edges(region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    middles = edges[:, :2] + np.array(_STEPS)[edges[:, 2]] / 2 + (columns[0], rows[0])
    return [_without_needless(middles[loop]) for loop in _loops(following)]


def enclosed(polylines: Sequence[Float64Array], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(rows, columns): the pixels whose centres are enclosed by an odd number of polylines, closed all together."""
    crossed = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    for line in polylines:
        np.add.at(crossed, _crossings(line[:-1], line[1:]), 1)
    inside: NDArray[np.bool_] = crossed.cumsum(axis=1)[:, :-1] % 2 == 1
    return inside


# ---------------------------------------------------------------- steps


def _edges(region: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[int]]:
    """Pixel edges between inside and outside as (column, row, direction), clockwise round the inside, and the index of
    the edge that follows each.

    Where two pixels of the region only touch at a corner, the outline stays with its pixel.
    """
    padded = np.pad(region, 1)
    inside = padded[1:-1, 1:-1]
    above, right, below, left = padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2]
    starts_at = ((0, 0), (1, 0), (1, 1), (0, 1))  # the corner of the pixel where the edge to that side begins
    found = []
    for direction, beside in enumerate((above, right, below, left)):
        rows, columns = np.nonzero(inside & ~beside)
        column, row = starts_at[direction]
        found.append(np.column_stack([columns + column, rows + row, np.full(len(rows), direction)]))
    edges = np.concatenate(found)
    number = np.full((4, region.shape[0] + 1, region.shape[1] + 1), -1)
    number[edges[:, 2], edges[:, 1], edges[:, 0]] = np.arange(len(edges))
    columns, rows = (edges[:, :2] + np.array(_STEPS)[edges[:, 2]]).T
    turns = [number[(edges[:, 2] + turn) % 4, rows, columns] for turn in (1, 0, 3)]  # right, straight on, left
    following = np.where(turns[0] >= 0, turns[0], np.where(turns[1] >= 0, turns[1], turns[2]))
    return edges, following.tolist()


def _loops(following: list[int]) -> list[list[int]]:
    """Indices of the edges of each closed line."""
    seen = [False] * len(following)
    loops = []
    for start in range(len(following)):
        loop, edge = [], start
        while not seen[edge]:
            seen[edge] = True
            loop.append(edge)
            edge = following[edge]
        if loop:
            loops.append(loop)
    return loops


def _without_needless(points: Float64Array) -> Float64Array:
    """A closed line without the points that lie on a straight one, its first point repeated at the end."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.concatenate([kept, kept[:1]])


def _crossings(starts: Float64Array, ends: Float64Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, column) of the first pixel centre to the right of each place where a segment crosses a row of centres."""
    first, last = (np.ceil(of(starts[:, 1], ends[:, 1]) - 0.5).astype(np.int64) for of in (np.minimum, np.maximum))
    rows_of = last - first
    segment = np.repeat(np.arange(len(starts)), rows_of)
    row = np.arange(len(segment)) - np.repeat(rows_of.cumsum() - rows_of, rows_of) + first[segment]
    (x, y), (to_x, to_y) = starts[segment].T, ends[segment].T
    column = np.ceil(x + (row + 0.5 - y) * (to_x - x) / (to_y - y) - 0.5).astype(np.int64)
    return row, column
