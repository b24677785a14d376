"""What a box head learns: the boxes round the bleeds of a mask, cell by cell (Redmon et al. 2016)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES, UInt8Array

_LEAST_PX: Final = 6
"""Smaller pieces have no box."""
_EMPTY_COST: Final = 0.5
"""Of the objectness of cells without a bleed: nearly all of them."""
_EDGES_COST: Final = 5.0


def box_loss(cells: Tensor, labels: Tensor, told: Tensor) -> Tensor:
    """(n, BOX_CHANNELS, rows, columns) logits against (n, size, size) labels; where `told` (n,) is 0 nothing is said.

    Objectness of every cell, and place and subtype of those in which the middle of a bleed lies.
    """
    wanted, holds = (part.to(cells.device) for part in _targets(labels.cpu().numpy().astype(np.uint8), cells.shape[2:]))
    asked = told.view(-1, 1, 1)
    objectness = functional.binary_cross_entropy_with_logits(cells[:, 0], holds, reduction="none")
    objectness = (objectness * asked * torch.where(holds > 0, 1.0, _EMPTY_COST)).sum() / asked.sum().clamp(min=1)
    found = (holds * asked) > 0
    if not found.any():
        return objectness
    said, truth = cells.movedim(1, -1)[found], wanted[found]
    edges = functional.smooth_l1_loss(torch.sigmoid(said[:, 1:5]), truth[:, :4])
    subtype = functional.cross_entropy(said[:, 5:], truth[:, 4].long())
    return objectness + _EDGES_COST * edges + subtype


def _targets(labels: UInt8Array, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """(n, rows, columns, 5) middle within the cell, size as shares of the image, subtype; (n, rows, columns) 1 or 0.

    Of two bleeds with their middle in one cell the larger one counts.
    """
    rows, columns = shape
    wanted, holds = np.zeros((len(labels), rows, columns, 5), np.float32), np.zeros((len(labels), rows, columns))
    for index, image in enumerate(labels):
        for subtype, down, across in _bleeds(image):
            middle_y, middle_x = (sum(edges) / 2 for edges in (down, across))
            row, column = int(middle_y * rows), int(middle_x * columns)
            place = (middle_x * columns - column, middle_y * rows - row)
            wanted[index, row, column] = *place, across[1] - across[0], down[1] - down[0], subtype
            holds[index, row, column] = 1
    return torch.from_numpy(wanted), torch.from_numpy(holds.astype(np.float32))


Edges = tuple[float, float]


def _bleeds(image: UInt8Array) -> list[tuple[int, Edges, Edges]]:
    """Index in SUBTYPES, (top, bottom) and (left, right) as shares of the image of every piece, the largest last."""
    found = []
    for subtype in range(len(SUBTYPES)):
        pieces, _ = ndimage.label(image == 1 + subtype)
        for label, part in enumerate(ndimage.find_objects(pieces), start=1):
            area = int(np.count_nonzero(pieces[part] == label))
            if area >= _LEAST_PX:
                down, across = ((p.start / size, p.stop / size) for p, size in zip(part, image.shape, strict=True))
                found.append((area, subtype, down, across))
    return [(subtype, down, across) for _, subtype, down, across in sorted(found)]
