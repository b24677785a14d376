"""ResNet-50 V2 that classifies the slice, with a one-stage box head after YOLO (Redmon et al. 2016), in plain torch.

Every cell of the deepest features (1/32 of the image) says whether the middle of a bleed lies in it, how the box around
it lies, and which subtype it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from triage_node.networks.findings import BOX_CHANNELS, Findings, Logits, findings_of
from triage_node.networks.resnet import Trunk


@dataclass(frozen=True, kw_only=True)
class ResNet50V2YoloConfig:
    """The choices."""

    in_channels: int = 3
    width: int = 32
    """64 in the paper."""
    dropout: float = 0.2
    slice_classes: int = 6

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return 32


class ResNet50V2Yolo(nn.Module):
    """(n, in_channels, size, size) to slice logits and boxes."""

    def __init__(self, config: ResNet50V2YoloConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk("resnet50v2", config.in_channels, config.width)
        deep = self.trunk.out_channels
        self.slices = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(deep, config.slice_classes))
        self.boxes = nn.Sequential(
            nn.Conv2d(deep, 128, 3, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, BOX_CHANNELS, 1),
        )

    def forward(self, images: Tensor) -> Logits:
        """Logits of slices and of box cells."""
        deep = self.trunk(images)
        return Logits(slices=self.slices(deep.mean(dim=(2, 3))).float(), boxes=self.boxes(deep).float())

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))
