"""What is made small, one loss for each head of a network; and how surely blood was seen, for mining.

The flagship has TriageLogits, the networks of the comparison have Logits, of which each fills what it has. Slices
without a mask teach what their labels say of them, and nothing about pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.learn.augment import Views
from triage_node.learn.box_loss import box_loss
from triage_node.learn.pool import Known, slice_targets
from triage_node.networks.findings import Logits
from triage_node.networks.triagenet import EXTRA_AXIAL, INTRA_AXIAL, TriageLogits, pixel_probabilities
from triage_node.transforms import Grid

_BAND_MM: Final = 4.0
"""The extra head learns inside the skull and so far outside it; beyond, the intracranial channel rules it out."""
_SUBDURAL: Final = SUBTYPES.index("subdural")


@dataclass(frozen=True, kw_only=True)
class ClassWeights:
    """Of the cross-entropy of pixels, beside 1 for none; ventricular blood at 5 swallowed parenchymal blood
    (measured)."""

    epidural: float = 3.0
    intraparenchymal: float = 3.0
    intraventricular: float = 2.5
    subarachnoid: float = 4.0
    subdural: float = 4.0


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each loss counts in the sum, by its name in `losses`; and how some of them count."""

    intra: float = 1.0
    extra: float = 1.0
    pixels: float = 1.0
    """Of the networks of the comparison, in place of intra and extra."""
    dice: float = 0.5
    foreground: float = 0.5
    slices: float = 0.75
    boxes: float = 1.0
    intracranial: float = 0.2
    chronic: float = 0.2
    class_weights: ClassWeights = field(default_factory=ClassWeights)
    focal_gamma: float = 0.0
    """Of pixels and slices: what is sure already counts (1 - p)^gamma (Lin et al. 2017); 0 for plain cross-entropy."""
    miss_cost: float = 1.0
    """Of a slice: what a missed class costs, beside 1 for a false alarm."""


AnyLogits = TriageLogits | Logits


def losses(logits: AnyLogits, views: Views, known: Known, grid: Grid, weights: LossWeights) -> dict[str, Tensor]:
    """Each loss by the name of its weight."""
    truth = _truth(views, known, grid)
    if isinstance(logits, TriageLogits):
        return _of_flagship(logits, truth, grid, weights)
    return _of_compared(logits, truth, weights)


def total(parts: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum."""
    return torch.stack([getattr(weights, name) * loss for name, loss in parts.items()]).sum()


@torch.no_grad()
def blood_seen(logits: AnyLogits) -> Tensor:
    """(n,): the highest probability of any blood in each image, over 3 x 3 pixels; else what is said of the slice."""
    if isinstance(logits, TriageLogits):
        background = pixel_probabilities(logits.intra, logits.extra, logits.intracranial)[:, :1]
    elif logits.pixels is not None:
        background = torch.softmax(logits.pixels, dim=1)[:, :1]
    else:
        return torch.sigmoid(logits.slices[:, 0])
    return functional.avg_pool2d(1 - background, 3, stride=1).amax(dim=(1, 2, 3))


@torch.no_grad()
def accuracy(logits: AnyLogits, views: Views, known: Known, grid: Grid) -> float:
    """Share of the slices of which it is known whether they show blood that are told right; nan where none is."""
    truth = _truth(views, known, grid)
    right = (logits.slices[:, 0] > 0) == (truth.slices[:, 0] > 0)
    return float(right[truth.said[:, 0] > 0].float().mean())


# ---------------------------------------------------------------- the truth


class _Truth(NamedTuple):
    """What n images are compared with."""

    labels: Tensor
    """(n, size, size) int64; blood of unknown kind counts as none."""
    told: Tensor
    """(n, size, size) float32: 1 where a mask tells which blood it is or that it is none."""
    blood: Tensor
    """(n, 1, size, size) float32: blood of any kind."""
    masked: Tensor
    """(n, 1, 1, 1) float32: 1 where there is a mask."""
    inside: Tensor
    """(n, size, size) bool: within the skull."""
    slices: Tensor
    """(n, 6) float32: CLASSES."""
    said: Tensor
    """(n, 6) float32: 1 where that is known."""
    chronic: Tensor


def _truth(views: Views, known: Known, grid: Grid) -> _Truth:
    masked, told = known.masked, ~known.labels.isnan()
    unknown_kind = views.truth > len(SUBTYPES)
    seen, sayable = slice_targets(views.truth, grid.spacing_mm)
    return _Truth(
        labels=torch.where(unknown_kind, 0, views.truth),
        told=(~unknown_kind & masked.view(-1, 1, 1)).float(),
        blood=(views.truth > 0).float().unsqueeze(1),
        masked=masked.float().view(-1, 1, 1, 1),
        inside=(views.depth_mm > 0) | (views.truth > 0),
        slices=torch.where(told, known.labels, seen),
        said=torch.where(told, 1.0, sayable * masked.unsqueeze(1)),
        chronic=known.chronic,
    )


# ---------------------------------------------------------------- networks


def _of_flagship(logits: TriageLogits, truth: _Truth, grid: Grid, weights: LossWeights) -> dict[str, Tensor]:
    band_px = round(_BAND_MM / grid.spacing_mm)
    wide = functional.max_pool2d(truth.inside.float().unsqueeze(1), 2 * band_px + 1, stride=1, padding=band_px)[:, 0]
    probabilities = pixel_probabilities(logits.intra, logits.extra, logits.intracranial)
    return {
        "intra": _cross_entropy(logits.intra, truth, INTRA_AXIAL, truth.told, weights),
        "extra": _cross_entropy(logits.extra, truth, EXTRA_AXIAL, truth.told * wide, weights),
        **_dice_losses(probabilities, truth),
        "slices": _slice_loss(logits.slices, truth, weights),
        "intracranial": functional.binary_cross_entropy_with_logits(logits.intracranial, truth.inside.float()),
        "chronic": _chronic_loss(logits.chronic, truth),
    }


def _of_compared(logits: Logits, truth: _Truth, weights: LossWeights) -> dict[str, Tensor]:
    parts = {"slices": _slice_loss(logits.slices, truth, weights)}
    if logits.pixels is not None:
        parts["pixels"] = _cross_entropy(logits.pixels, truth, SUBTYPES, truth.told, weights)
        parts |= _dice_losses(torch.softmax(logits.pixels, dim=1), truth)
    if logits.chronic is not None:
        parts["chronic"] = _chronic_loss(logits.chronic, truth)
    if logits.boxes is not None:
        parts["boxes"] = box_loss(logits.boxes, truth.labels, truth.told.amin(dim=(1, 2)))
    return parts


# ---------------------------------------------------------------- heads


def _cross_entropy(
    logits: Tensor, truth: _Truth, classes: tuple[str, ...], where: Tensor, weights: LossWeights
) -> Tensor:
    """Of one head, whose class 0 is everything but `classes`; the mean over `where` by the weights of the classes."""
    own = [0] + [1 + classes.index(name) if name in classes else 0 for name in SUBTYPES]
    counts = [1.0] + [getattr(weights.class_weights, name) for name in classes]
    target = torch.tensor(own, device=logits.device)[truth.labels]
    counted = where * torch.tensor(counts, device=logits.device)[target]
    each = functional.cross_entropy(logits, target, reduction="none")
    return (_focal(each, weights) * counted).sum() / counted.sum().clamp(min=1.0)


def _slice_loss(logits: Tensor, truth: _Truth, weights: LossWeights) -> Tensor:
    cost = 1 + (weights.miss_cost - 1) * truth.slices
    each = functional.binary_cross_entropy_with_logits(logits, truth.slices, reduction="none")
    return (_focal(each, weights) * cost * truth.said).mean()


def _focal(entropy: Tensor, weights: LossWeights) -> Tensor:
    """exp(-entropy) is the probability of the truth."""
    if not weights.focal_gamma:
        return entropy
    return entropy * (1 - torch.exp(-entropy)) ** weights.focal_gamma


def _dice_losses(probabilities: Tensor, truth: _Truth) -> dict[str, Tensor]:
    """Of the subtypes, where they are told, and of any blood; of slices with a mask."""
    one_hot = functional.one_hot(truth.labels, 1 + len(SUBTYPES)).movedim(-1, 1).float()
    told = truth.told.unsqueeze(1)
    return {
        "dice": _dice_loss(probabilities[:, 1:] * told, one_hot[:, 1:] * told),
        "foreground": _dice_loss((1 - probabilities[:, :1]) * truth.masked, truth.blood * truth.masked),
    }


def _dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice over the batch, averaged over the classes that are present in it."""
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    sizes = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both + 1) / (sizes + 1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def _chronic_loss(logits: Tensor, truth: _Truth) -> Tensor:
    """Only where the slice shows subdural blood of known age."""
    known = truth.slices[:, 1 + _SUBDURAL] * (~truth.chronic.isnan())
    each = functional.binary_cross_entropy_with_logits(logits, truth.chronic.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1.0)
