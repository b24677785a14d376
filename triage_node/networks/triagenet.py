"""The flagship: a 2.5-D multi-task network in plain torch. The choices are in TriageNetConfig.

Built on what was measured with the U-Net (docs/lab-notebook.md): patches of `patch_px` (space to depth), added skips,
batch norm. New here:
- a slice comes with the brain window of the neighbour below and of the one above, so that a rim of bone, which runs on,
  can be told from a subdural, which ends;
- blood inside the brain and its spaces and blood outside the brain have a head each, so that one weak class cannot
  spoil the other, and the space inside the skull is told apart from what surrounds it;
- at the deepest level, cheap depthwise kernels as wide as the head bring the other side of the head into view.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.networks.findings import Findings, mean_and_max, peak_log_odds, pooled_log_odds

INTRA_AXIAL: Final = ("intraparenchymal", "intraventricular", "subarachnoid")
"""Classes 1 to 3 of the intra head; 0 is none of them."""
EXTRA_AXIAL: Final = ("epidural", "subdural")
"""Classes 1 and 2 of the extra head; 0 is none of them."""
_NONE_LOGIT: Final = 4.0
"""Of "none" in an untrained network."""
_SUBDURAL: Final = 1 + SUBTYPES.index("subdural")


@dataclass(frozen=True, kw_only=True)
class TriageNetConfig:
    """The choices."""

    windows: int = 3
    """Of the slice itself; the neighbours below and above add a channel each."""
    patch_px: int = 2
    base_width: int = 32
    """Channels of the first level; doubled at each further one."""
    levels: int = 4
    context_blocks: int = 2
    """At the deepest level."""
    context_kernel_px: int = 7
    """There one pixel is 16 of the image."""
    slice_classes: int = 6
    """domain.CLASSES."""
    head_width: int = 64
    mask_vote: float = 0.0
    """What the log odds of the surest place in the mask count beside those of the slice head, once it is trained: on
    a real head the head alone was surer of more that is no blood (measured: docs/lab-notebook.md)."""

    @property
    def in_channels(self) -> int:
        """Windows of the slice, then the first window of both neighbours."""
        return self.windows + 2

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of it."""
        return int(self.patch_px * 2 ** (self.levels - 1))


class TriageLogits(NamedTuple):
    """All heads, for training; n images of size x size."""

    intra: Tensor
    """(n, 4, size, size): none and INTRA_AXIAL."""
    extra: Tensor
    """(n, 3, size, size): none and EXTRA_AXIAL; means something inside the skull only."""
    intracranial: Tensor
    """(n, size, size): inside the skull, whatever is there."""
    slices: Tensor
    """(n, 6): CLASSES."""
    chronic: Tensor
    """(n,): subdural blood of the slice is chronic."""


class TriageNet(nn.Module):
    """(n, windows + 2, size, size) in 0..1 to TriageLogits. Give the slice itself where it has no neighbour."""

    def __init__(self, config: TriageNetConfig) -> None:
        super().__init__()
        widths = [config.base_width * 2**level for level in range(config.levels)]
        patch_pixels = config.patch_px**2
        pixel_logits = (1 + len(INTRA_AXIAL)) + (1 + len(EXTRA_AXIAL)) + 1
        evidence = 2 * (1 + len(SUBTYPES))
        self.config = config
        self.encoder = nn.ModuleList(
            [_Block(config.in_channels * patch_pixels, widths[0])]
            + [_Block(shallow, deep) for shallow, deep in pairwise(widths)]
        )
        self.context = nn.Sequential(
            *[_ContextBlock(widths[-1], config.context_kernel_px) for _ in range(config.context_blocks)]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(deep, shallow, 1) for shallow, deep in pairwise(widths))
        self.decoder = nn.ModuleList(_Block(width, width) for width in widths[:-1])
        self.pixels = nn.Conv2d(widths[0], pixel_logits * patch_pixels, 1)
        _expect_nothing(self.pixels, patch_pixels)
        self.slice_head = nn.Sequential(
            nn.Linear(2 * widths[-1] + evidence, config.head_width),
            nn.ReLU(),
            nn.Linear(config.head_width, config.slice_classes),
        )
        self.slice_evidence = nn.Linear(evidence, config.slice_classes)
        self.chronic_head = nn.Sequential(
            nn.Linear(widths[0] + evidence, config.head_width), nn.ReLU(), nn.Linear(config.head_width, 1)
        )

    @property
    def input_groups(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Of the weights that see several groups of channels: how wide those are, and how many inputs follow them."""
        evidence = self.slice_evidence.in_features
        shallow, deep = self.config.base_width, self.config.base_width * 2 ** (self.config.levels - 1)
        return {
            "slice_head.0.weight": ((deep, deep), evidence),
            "chronic_head.0.weight": ((shallow,), evidence),
        }

    def forward(self, images: Tensor) -> TriageLogits:
        """The logits of every head."""
        features = self._encode(functional.pixel_unshuffle(images, self.config.patch_px))
        shallow, deep = self._decode(features), features[-1]
        pixels = functional.pixel_shuffle(self.pixels(shallow), self.config.patch_px).float()
        intra, extra, intracranial = torch.split(pixels, [1 + len(INTRA_AXIAL), 1 + len(EXTRA_AXIAL), 1], dim=1)
        probabilities = pixel_probabilities(intra, extra, intracranial[:, 0])
        evidence = pooled_log_odds(probabilities).to(deep.dtype)
        subdural = functional.avg_pool2d(probabilities[:, _SUBDURAL : _SUBDURAL + 1], self.config.patch_px)
        slices: Tensor = self.slice_head(torch.cat([mean_and_max(deep), evidence], dim=1))
        chronic: Tensor = self.chronic_head(torch.cat([_mean_where(shallow, subdural), evidence], dim=1))
        return TriageLogits(
            intra=intra,
            extra=extra,
            intracranial=intracranial[:, 0],
            slices=(slices + self.slice_evidence(evidence)).float(),
            chronic=chronic[:, 0].float(),
        )

    def findings(self, images: Tensor) -> Findings:
        """What inference uses; see pixel_probabilities for how the heads become six classes."""
        logits = self(images)
        pixels = pixel_probabilities(logits.intra, logits.extra, logits.intracranial)
        return Findings(
            pixels=pixels,
            slices=logits.slices + self.config.mask_vote * peak_log_odds(pixels),
            chronic=logits.chronic,
        )

    def _encode(self, image: Tensor) -> list[Tensor]:
        features = [self.encoder[0](image)]
        for block in self.encoder[1:]:
            features.append(block(functional.max_pool2d(features[-1], 2)))
        features[-1] = self.context(features[-1])
        return features

    def _decode(self, features: list[Tensor]) -> Tensor:
        image = features[-1]
        for level in reversed(range(len(self.decoder))):
            image = functional.interpolate(self.lateral[level](image), scale_factor=2.0, mode="nearest")
            image = self.decoder[level](image + features[level])
        return image


def pixel_probabilities(intra: Tensor, extra: Tensor, intracranial: Tensor) -> Tensor:
    """Logits of the three pixel heads to (n, 6, size, size) float32 probabilities of background and SUBTYPES, sum 1.

    With i = softmax(intra), e = softmax(extra), c = sigmoid(intracranial):
        intra-axial class k    i[k]
        extra-axial class k    i[none] * c * e[k]
        background             i[none] * (1 - c * (1 - e[none]))
    Extra-axial blood is only seen inside the skull, and where the intra head sees nothing.
    """
    inside, outside = torch.softmax(intra.float(), dim=1), torch.softmax(extra.float(), dim=1)
    room = inside[:, 0] * torch.sigmoid(intracranial.float())
    found = {name: inside[:, 1 + k] for k, name in enumerate(INTRA_AXIAL)}
    found |= {name: room * outside[:, 1 + k] for k, name in enumerate(EXTRA_AXIAL)}
    background = inside[:, 0] - room * (1 - outside[:, 0])
    return torch.stack([background, *(found[name] for name in SUBTYPES)], dim=1)


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


class _ContextBlock(nn.Module):
    """A wide depthwise kernel, then channels mixed, as a residual: the sight of the whole head for little work."""

    def __init__(self, width: int, kernel_px: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, kernel_px, padding=kernel_px // 2, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.narrow(functional.relu(self.widen(self.norm(self.look(image)))))
        return functional.relu(image + seen)


@torch.no_grad()
def _expect_nothing(pixels: nn.Conv2d, patch_pixels: int) -> None:
    """Most pixels are not blood: to begin there saves the first hundred steps."""
    assert pixels.bias is not None
    for none in (0, 1 + len(INTRA_AXIAL)):
        pixels.bias[none * patch_pixels : (none + 1) * patch_pixels] += _NONE_LOGIT


def _mean_where(features: Tensor, weights: Tensor) -> Tensor:
    """(n, channels, h, w) features to their (n, channels) mean under (n, 1, h, w) weights."""
    weights = weights.to(features.dtype) + 1e-4
    return (features * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
