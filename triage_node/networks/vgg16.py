"""VGG-16 (Simonyan and Zisserman 2015) as a slice classifier, meant for 224 px, in plain torch.

Batch norm after every convolution, without which it does not start to learn from scratch in a small budget; one dense
layer instead of the two of 4096, which would hold nine tenths of all weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from torch import Tensor, nn

from triage_node.networks.findings import Findings, Logits, findings_of

_LEVELS: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions before each pooling: 13 convolutions."""


@dataclass(frozen=True, kw_only=True)
class Vgg16Config:
    """The choices."""

    in_channels: int = 3
    pooled_px: int = 7
    """Side of what the dense layer sees: at 224 px all of the deepest features."""
    dense_width: int = 256
    dropout: float = 0.5
    slice_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return int(2 ** len(_LEVELS))


class Vgg16(nn.Module):
    """(n, in_channels, size, size) to slice logits."""

    def __init__(self, config: Vgg16Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.in_channels, *(width for width, count in _LEVELS for _ in range(count))]
        ends = {sum(count for _, count in _LEVELS[: level + 1]) for level in range(len(_LEVELS))}
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in ends else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(config.pooled_px),
            nn.Flatten(),
            nn.Linear(widths[-1] * config.pooled_px**2, config.dense_width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.dense_width, config.slice_classes),
        )

    def forward(self, images: Tensor) -> Logits:
        """Logits of the slices only."""
        return Logits(slices=self.head(self.features(images)).float())

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))
