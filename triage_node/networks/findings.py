"""What every network says of a slice, and the pooling that slice heads share."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES

BOX_CHANNELS: Final = 5 + len(SUBTYPES)
"""Of a box cell: objectness, the middle across and down, width and height, and the logits of SUBTYPES."""


class Findings(NamedTuple):
    """Of n images of size x size. What a network does not say is None."""

    slices: Tensor
    """(n, 6) float32 logits of CLASSES."""
    pixels: Tensor | None = None
    """(n, 6, size, size) float32 probabilities of background and SUBTYPES; they sum to 1."""
    chronic: Tensor | None = None
    """(n,) float32 logits that subdural blood there is chronic, not acute."""
    boxes: Tensor | None = None
    """(n, cells, 4 + 5) float32: left, top, right and bottom as shares of the image, then the probability that a bleed
    of each of SUBTYPES lies in it."""


class Logits(NamedTuple):
    """What the networks of the comparison give for training; None where one has no such head."""

    slices: Tensor
    """(n, 6): CLASSES."""
    pixels: Tensor | None = None
    """(n, 6, size, size): background and SUBTYPES."""
    chronic: Tensor | None = None
    """(n,)."""
    boxes: Tensor | None = None
    """(n, BOX_CHANNELS, rows, columns) of a grid of cells over the image."""


def findings_of(logits: Logits) -> Findings:
    """What inference uses."""
    pixels, boxes = logits.pixels, logits.boxes
    return Findings(
        slices=logits.slices.float(),
        pixels=None if pixels is None else torch.softmax(pixels.float(), dim=1),
        chronic=None if logits.chronic is None else logits.chronic.float(),
        boxes=None if boxes is None else boxes_of(boxes.float()),
    )


def boxes_of(cells: Tensor) -> Tensor:
    """(n, BOX_CHANNELS, rows, columns) logits to (n, rows * columns, 9): see Findings.boxes.

    A middle lies in its cell; width and height are shares of the image (Redmon et al. 2016, with sigmoids).
    """
    _, _, rows, columns = cells.shape
    at_x = torch.arange(columns, device=cells.device).view(1, 1, -1)
    at_y = torch.arange(rows, device=cells.device).view(1, -1, 1)
    x = (torch.sigmoid(cells[:, 1]) + at_x) / columns
    y = (torch.sigmoid(cells[:, 2]) + at_y) / rows
    width, height = torch.sigmoid(cells[:, 3]), torch.sigmoid(cells[:, 4])
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1).clamp(0.0, 1.0)
    classes = torch.sigmoid(cells[:, :1]) * torch.softmax(cells[:, 5:], dim=1)
    return torch.cat([corners, classes], dim=1).flatten(2).transpose(1, 2)


def mean_and_max(features: Tensor) -> Tensor:
    """(n, channels, h, w) to (n, 2 * channels)."""
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def pooled_log_odds(probabilities: Tensor) -> Tensor:
    """(n, classes, h, w) to (n, 2 * classes): mean and, slightly smoothed, greatest probability of each class, as log
    odds of order 1. Among hundreds of deep features they must reach the slice logits directly (measured)."""
    peak = functional.avg_pool2d(probabilities, 3, stride=1).amax(dim=(2, 3))
    pooled = torch.cat([probabilities.mean(dim=(2, 3)), peak], dim=1)
    return torch.logit(pooled, eps=1e-4) / 4


def slices_from_pixels(pixels: Tensor) -> Tensor:
    """(n, 6, h, w) pixel logits to (n, 6) slice logits of CLASSES: the greatest probability over 3 x 3 pixels."""
    return peak_log_odds(torch.softmax(pixels, dim=1))


def peak_log_odds(probabilities: Tensor) -> Tensor:
    """(n, 6, h, w) of background and SUBTYPES to (n, 6) log odds of CLASSES at the surest place, over 3 x 3 pixels."""
    blood = torch.cat([1 - probabilities[:, :1], probabilities[:, 1:]], dim=1)
    return torch.logit(functional.avg_pool2d(blood, 3, stride=1).amax(dim=(2, 3)), eps=1e-4)
