"""A plain sequential CNN of 4,009,931 parameters at 192 px, in plain torch.

The report that it stands for gives the count and not the layers. These are ours that have it: five convolutions, each
halved by pooling, and one dense layer that holds nearly all of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from triage_node.networks.findings import Findings, Logits, findings_of


@dataclass(frozen=True, kw_only=True)
class PlainCnnConfig:
    """The choices."""

    in_channels: int = 3
    widths: tuple[int, ...] = (16, 64, 64, 64, 64)
    pooled_px: int = 6
    """Side of what the dense layer sees: at 192 px all of the deepest features."""
    dense_width: int = 1683
    dropout: float = 0.5
    slice_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return int(2 ** len(self.widths))


class PlainCnn(nn.Module):
    """(n, in_channels, size, size) to slice logits."""

    def __init__(self, config: PlainCnnConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for before, after in pairwise([config.in_channels, *config.widths]):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(config.pooled_px),
            nn.Flatten(),
            nn.Linear(config.widths[-1] * config.pooled_px**2, config.dense_width),
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
