"""A small 2-D U-Net with a slice head, in plain torch. The choices are in UNetConfig.

Pixels enter as patches of `patch_px` x `patch_px` (space to depth): the first level, the dearest on a CPU, runs at a
quarter of the pixels. Skips are added, not concatenated, which halves the decoder. The slice head sees the pooled deep
features and the pooled segmentation probabilities; the latter also reach its logits directly, as log odds, since among
hundreds of deep features they were hardly noticed (measured: docs/lab-notebook.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage_node.networks.findings import Findings, mean_and_max, pooled_log_odds


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The choices."""

    in_channels: int = 3
    patch_px: int = 2
    base_width: int = 32
    """Channels of the first level; doubled at each further one."""
    levels: int = 4
    segmentation_classes: int = 6
    """Background and domain.SUBTYPES."""
    slice_classes: int = 6
    """domain.CLASSES."""
    head_width: int = 64

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return int(self.patch_px * 2 ** (self.levels - 1))


class UNet(nn.Module):
    """(batch, in_channels, size, size) in 0..1 to segmentation and slice logits."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths = [config.base_width * 2**level for level in range(config.levels)]
        patch_pixels = config.patch_px**2
        self.config = config
        self.encoder = nn.ModuleList(
            [_Block(config.in_channels * patch_pixels, widths[0])]
            + [_Block(shallow, deep) for shallow, deep in pairwise(widths)]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoder = nn.ModuleList(_Block(width, width) for width in widths[:-1])
        self.segmentation = nn.Conv2d(widths[0], config.segmentation_classes * patch_pixels, 1)
        evidence = 2 * config.segmentation_classes
        self.slice_head = nn.Sequential(
            nn.Linear(2 * widths[-1] + evidence, config.head_width),
            nn.ReLU(),
            nn.Linear(config.head_width, config.slice_classes),
        )
        self.slice_evidence = nn.Linear(evidence, config.slice_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ((batch, segmentation_classes, size, size), (batch, slice_classes)) logits."""
        features = self._encode(functional.pixel_unshuffle(images, self.config.patch_px))
        deep = features[-1]
        segmentation = functional.pixel_shuffle(self.segmentation(self._decode(features)), self.config.patch_px)
        evidence = pooled_log_odds(torch.softmax(segmentation.float(), dim=1)).to(segmentation.dtype)
        slices: Tensor = self.slice_head(torch.cat([mean_and_max(deep), evidence], dim=1))
        return segmentation, slices + self.slice_evidence(evidence)

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        segmentation, slices = self(images)
        return Findings(pixels=torch.softmax(segmentation.float(), dim=1), slices=slices.float(), chronic=None)

    def _encode(self, image: Tensor) -> list[Tensor]:
        features = [self.encoder[0](image)]
        for block in self.encoder[1:]:
            features.append(block(functional.max_pool2d(features[-1], 2)))
        return features

    def _decode(self, features: list[Tensor]) -> Tensor:
        image = features[-1]
        for level in reversed(range(len(self.decoder))):
            image = functional.interpolate(self.lateral[level](image), scale_factor=2.0, mode="nearest")
            image = self.decoder[level](image + features[level])
        return image


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm; the second is a residual."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.enter_norm = nn.BatchNorm2d(out_channels)
        self.refine = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.refine_norm = nn.BatchNorm2d(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        entered = functional.relu(self.enter_norm(self.enter(image)))
        return functional.relu(entered + self.refine_norm(self.refine(entered)))
