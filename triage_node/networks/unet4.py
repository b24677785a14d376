"""The U-Net of Ronneberger et al. 2015 with four levels: two convolutions each, skips concatenated, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage_node.networks.findings import Findings, Logits, findings_of, slices_from_pixels


@dataclass(frozen=True, kw_only=True)
class UNet4Config:
    """The choices."""

    in_channels: int = 3
    base_width: int = 32
    """Channels of the first level; doubled at each of the four below."""
    levels: int = 4
    dropout: float = 0.2
    """At the deepest level."""
    segmentation_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return int(2**self.levels)


class UNet4(nn.Module):
    """(n, in_channels, size, size) to pixel logits; a slice is what its pixels are."""

    def __init__(self, config: UNet4Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_width * 2**level for level in range(config.levels + 1)]
        self.down = nn.ModuleList(
            _convolutions(before, after) for before, after in pairwise([config.in_channels, *widths])
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for shallow, deep in pairwise(widths))
        self.join = nn.ModuleList(_convolutions(2 * width, width) for width in widths[:-1])
        self.dropout = nn.Dropout2d(config.dropout)
        self.pixels = nn.Conv2d(widths[0], config.segmentation_classes, 1)

    def forward(self, images: Tensor) -> Logits:
        """Logits of pixels, and of slices from them."""
        skips = [self.down[0](images)]
        for block in self.down[1:]:
            skips.append(block(functional.max_pool2d(skips[-1], 2)))
        image = self.dropout(skips.pop())
        for level in reversed(range(len(self.join))):
            image = self.join[level](torch.cat([skips[level], self.up[level](image)], dim=1))
        pixels = self.pixels(image).float()
        return Logits(slices=slices_from_pixels(pixels), pixels=pixels)

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))


def _convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
