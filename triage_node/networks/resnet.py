"""The residual networks of the comparison in plain torch: ResNet-18, ResNet-50 and ResNet-50 V2, from scratch.

He et al. 2016: V1 adds before the last activation, V2 normalises and activates before every convolution. The trunk
gives features at 1/32 of the image; classifiers pool them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from triage_node.networks.findings import Findings, Logits, findings_of

_BLOCKS: Final = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet50v2": (3, 4, 6, 3)}
_STRIDE: Final = 32


@dataclass(frozen=True, kw_only=True)
class ResNet18Config:
    """The choices."""

    in_channels: int = 3
    width: int = 64
    slice_classes: int = 6
    dropout: float = 0.2

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return _STRIDE


@dataclass(frozen=True, kw_only=True)
class ResNet50Config(ResNet18Config):
    """The choices; the same as those of ResNet-18."""


class Trunk(nn.Module):
    """(n, in_channels, size, size) to (n, `out_channels`, size / 32, size / 32)."""

    def __init__(self, kind: str, in_channels: int, width: int) -> None:
        super().__init__()
        block = _BLOCK_OF[kind]
        self.enter = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        channels = width
        for level, count in enumerate(_BLOCKS[kind]):
            for number in range(count):
                stride = 2 if level and not number else 1
                stages.append(block(channels, width * 2**level, stride))
                channels = width * 2**level * block.EXPANSION
        self.stages = nn.Sequential(*stages)
        self.leave = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if kind == "resnet50v2" else nn.Identity()
        self.out_channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """The deep features."""
        features: Tensor = self.leave(self.stages(self.enter(images)))
        return features


class _Classifier(nn.Module):
    """A trunk, pooled, and one linear layer."""

    def __init__(self, kind: str, config: ResNet18Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(kind, config.in_channels, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.slices = nn.Linear(self.trunk.out_channels, config.slice_classes)

    def forward(self, images: Tensor) -> Logits:
        """Logits of the slices only."""
        pooled = self.trunk(images).mean(dim=(2, 3))
        return Logits(slices=self.slices(self.dropout(pooled)).float())

    def findings(self, images: Tensor) -> Findings:
        """What inference uses."""
        return findings_of(self(images))


class ResNet18(_Classifier):
    """Slice classifier."""

    def __init__(self, config: ResNet18Config) -> None:
        super().__init__("resnet18", config)


class ResNet50(_Classifier):
    """Slice classifier."""

    def __init__(self, config: ResNet50Config) -> None:
        super().__init__("resnet50", config)


class _Basic(nn.Module):
    """Two 3x3 convolutions."""

    EXPANSION: Final = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(in_channels, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3, 1),
            nn.BatchNorm2d(width),
        )
        self.short = _shortcut(in_channels, width, stride)

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.body(image) + self.short(image))


class _Bottleneck(nn.Module):
    """Narrow, look, widen."""

    EXPANSION: Final = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * self.EXPANSION
        self.body = nn.Sequential(
            _conv(in_channels, width, 1, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, wide, 1, 1),
            nn.BatchNorm2d(wide),
        )
        self.short = _shortcut(in_channels, wide, stride)

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.body(image) + self.short(image))


class _BottleneckV2(nn.Module):
    """The same, normalised and activated first; what is added is never activated."""

    EXPANSION: Final = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * self.EXPANSION
        self.first = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.body = nn.Sequential(
            _conv(in_channels, width, 1, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, wide, 1, 1),
        )
        changes = stride > 1 or in_channels != wide
        self.short = _conv(in_channels, wide, 1, stride) if changes else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        ready = self.first(image)
        kept: Tensor = image if isinstance(self.short, nn.Identity) else self.short(ready)
        changed: Tensor = self.body(ready)
        return kept + changed


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


_BLOCK_OF: Final[Mapping[str, type[_Basic] | type[_Bottleneck] | type[_BottleneckV2]]] = {
    "resnet18": _Basic,
    "resnet50": _Bottleneck,
    "resnet50v2": _BottleneckV2,
}
