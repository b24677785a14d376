"""What every network says of a slice, and the pooling that slice heads share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Findings(NamedTuple):
    """Of n images of size x size."""

    pixels: Tensor
    """(n, 6, size, size) float32 probabilities of background and SUBTYPES; they sum to 1."""
    slices: Tensor
    """(n, 6) float32 logits of CLASSES."""
    chronic: Tensor | None
    """(n,) float32 logits that subdural blood there is chronic, not acute; None where the network does not say."""


def mean_and_max(features: Tensor) -> Tensor:
    """(n, channels, h, w) to (n, 2 * channels)."""
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def pooled_log_odds(probabilities: Tensor) -> Tensor:
    """(n, classes, h, w) to (n, 2 * classes): mean and, slightly smoothed, greatest probability of each class, as log
    odds of order 1. Among hundreds of deep features they must reach the slice logits directly (measured)."""
    peak = functional.avg_pool2d(probabilities, 3, stride=1).amax(dim=(2, 3))
    pooled = torch.cat([probabilities.mean(dim=(2, 3)), peak], dim=1)
    return torch.logit(pooled, eps=1e-4) / 4
