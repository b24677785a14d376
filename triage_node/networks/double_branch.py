"""A double-branch CNN: a detector for each kind of blood, and two classifiers whose word is fused, in plain torch.

One branch looks closely (small kernels, high resolution), the other far (strided, wide kernels). Each has a classifier
of the slice; what both say is averaged with learned weights. On the joined features every kind of blood, chronic
subdural among them, has a small detector of its own, which says where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.networks.findings import Findings, Logits, findings_of, mean_and_max

_STRIDE: Final = 16
_SUBDURAL: Final = SUBTYPES.index("subdural")


@dataclass(frozen=True, kw_only=True)
class DoubleBranchConfig:
    """The choices."""

    in_channels: int = 3
    width: int = 32
    detector_width: int = 32
    dropout: float = 0.2
    slice_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return _STRIDE


class DoubleBranch(nn.Module):
    """(n, in_channels, size, size) to pixel, slice and chronic logits."""

    def __init__(self, config: DoubleBranchConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.near = nn.Sequential(
            _conv(config.in_channels, width, 3, 2), _conv(width, 2 * width, 3, 2), _conv(2 * width, 2 * width, 3, 1)
        )
        self.near_deep = nn.Sequential(_conv(2 * width, 4 * width, 3, 2), _conv(4 * width, 4 * width, 3, 2))
        self.far = nn.Sequential(
            _conv(config.in_channels, width, 7, 4), _conv(width, 2 * width, 5, 2), _conv(2 * width, 4 * width, 5, 2)
        )
        self.classifiers = nn.ModuleList(_classifier(4 * width, config) for _ in range(2))
        self.trust = nn.Parameter(torch.zeros(2, config.slice_classes))
        joined = 2 * width + 4 * width
        kinds = len(SUBTYPES) + 1
        self.detectors = nn.ModuleList(_detector(joined, config.detector_width) for _ in range(kinds))

    def forward(self, images: Tensor) -> Logits:
        """Logits of pixels, slices and chronic subdural blood."""
        close = self.near(images)
        branches = [self.near_deep(close), self.far(images)]
        said = torch.stack(
            [classifier(mean_and_max(deep)) for classifier, deep in zip(self.classifiers, branches, strict=True)]
        )
        slices = (torch.softmax(self.trust, dim=0).unsqueeze(1) * said).sum(dim=0)
        wide = functional.interpolate(branches[1], size=close.shape[2:], mode="nearest")
        joined = torch.cat([close, wide], dim=1)
        seen = torch.cat([detector(joined) for detector in self.detectors], dim=1).float()
        blood, old = seen[:, :-1], seen[:, -1]
        pixels = torch.cat([torch.zeros_like(blood[:, :1]), blood], dim=1)
        where = torch.sigmoid(blood[:, _SUBDURAL]) + 1e-4
        return Logits(
            slices=slices.float(),
            pixels=functional.interpolate(pixels, size=images.shape[2:], mode="bilinear", align_corners=False),
            chronic=(old * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)),
        )

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))


def _classifier(channels: int, config: DoubleBranchConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * channels, 64), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(64, config.slice_classes)
    )


def _detector(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(_conv(in_channels, width, 3, 1), nn.Conv2d(width, 1, 1))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
