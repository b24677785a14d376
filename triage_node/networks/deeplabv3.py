"""DeepLabV3 (Chen et al. 2017) in plain torch, two branches: atrous pyramid for pixels, pooled features for slices.

The trunk is a ResNet-18 whose last two stages keep the resolution of 1/8 and widen their kernels instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage_node.networks.findings import Findings, Logits, findings_of, mean_and_max

_STRIDE: Final = 8


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Config:
    """The choices."""

    in_channels: int = 3
    width: int = 32
    """Channels of the first stage; doubled at each further one."""
    rates: tuple[int, ...] = (6, 12, 18)
    """Dilations of the pyramid."""
    pyramid_width: int = 128
    dropout: float = 0.2
    segmentation_classes: int = 6
    slice_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return _STRIDE


class DeepLabV3(nn.Module):
    """(n, in_channels, size, size) to pixel and slice logits."""

    def __init__(self, config: DeepLabV3Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.enter = nn.Sequential(
            nn.Conv2d(config.in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages = [(width, width, 1, 1), (width, 2 * width, 2, 1), (2 * width, 4 * width, 1, 2)]
        stages += [(4 * width, 8 * width, 1, 4)]
        self.trunk = nn.Sequential(*[_Stage(*stage) for stage in stages])
        self.pyramid = _Pyramid(8 * width, config.pyramid_width, config.rates)
        self.pixels = nn.Sequential(
            nn.Dropout(config.dropout), nn.Conv2d(config.pyramid_width, config.segmentation_classes, 1)
        )
        self.slices = nn.Sequential(
            nn.Linear(16 * width, 64), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(64, config.slice_classes)
        )

    def forward(self, images: Tensor) -> Logits:
        """Logits of pixels and slices."""
        deep = self.trunk(self.enter(images))
        coarse = self.pixels(self.pyramid(deep)).float()
        pixels = functional.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False)
        return Logits(slices=self.slices(mean_and_max(deep)).float(), pixels=pixels)

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))


class _Pyramid(nn.Module):
    """Kernels of several widths and the mean of the image, side by side."""

    def __init__(self, in_channels: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(in_channels, width, 1, 1, 1)])
        self.branches.extend(_conv(in_channels, width, 3, 1, rate) for rate in rates)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, width, 1), nn.ReLU())
        self.project = _conv(width * (2 + len(rates)), width, 1, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        whole = self.image(image).expand(-1, -1, *image.shape[2:])
        joined: Tensor = self.project(torch.cat([*(branch(image) for branch in self.branches), whole], dim=1))
        return joined


class _Stage(nn.Module):
    """Two residual blocks."""

    def __init__(self, in_channels: int, width: int, stride: int, rate: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_Residual(in_channels, width, stride, rate), _Residual(width, width, 1, rate))

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.blocks(image)
        return out


class _Residual(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int, rate: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, width, 3, stride, rate)
        self.second = nn.Conv2d(width, width, 3, padding=rate, dilation=rate, bias=False)
        self.norm = nn.BatchNorm2d(width)
        changes = stride > 1 or in_channels != width
        self.short = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False) if changes else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.short(image) + self.norm(self.second(self.first(image))))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, rate: int) -> nn.Sequential:
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
