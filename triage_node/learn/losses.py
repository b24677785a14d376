"""What is made small: one loss for each head of TriageNet, and how surely blood was seen, for mining."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.learn.augment import Views
from triage_node.learn.pool import slice_targets
from triage_node.networks.triagenet import EXTRA_AXIAL, INTRA_AXIAL, TriageLogits, pixel_probabilities
from triage_node.transforms import Grid

CLASS_WEIGHTS: Final = {
    "epidural": 3.0,
    "intraparenchymal": 3.0,
    "intraventricular": 2.5,
    "subarachnoid": 4.0,
    "subdural": 4.0,
}
"""Cross-entropy weights beside 1 for none; ventricular blood at 5 swallowed parenchymal blood (measured)."""
_BAND_MM: Final = 4.0
"""The extra head learns inside the skull and so far outside it; beyond, the intracranial channel rules it out."""
_SUBDURAL: Final = SUBTYPES.index("subdural")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What each loss counts in the sum, by its name in `losses`."""

    intra: float = 1.0
    extra: float = 1.0
    dice: float = 0.5
    foreground: float = 0.5
    slices: float = 0.75
    intracranial: float = 0.2
    chronic: float = 0.2


def losses(logits: TriageLogits, views: Views, chronic: Tensor, grid: Grid) -> dict[str, Tensor]:
    """Each loss by the name of its weight. `chronic`: (n,) 1, 0, or nan where the head has no subdural blood."""
    truth = views.truth
    inside = (views.depth_mm > 0) | (truth > 0)
    band_px = round(_BAND_MM / grid.spacing_mm)
    near = functional.max_pool2d(inside.float().unsqueeze(1), 2 * band_px + 1, stride=1, padding=band_px)[:, 0]
    probabilities = pixel_probabilities(logits.intra, logits.extra, logits.intracranial)
    one_hot = functional.one_hot(truth, 1 + len(SUBTYPES)).movedim(-1, 1).float()
    targets, said = slice_targets(truth, grid.spacing_mm)
    return {
        "intra": _cross_entropy(logits.intra, truth, INTRA_AXIAL, torch.ones_like(near)),
        "extra": _cross_entropy(logits.extra, truth, EXTRA_AXIAL, near),
        "dice": _dice_loss(probabilities[:, 1:], one_hot[:, 1:]),
        "foreground": _dice_loss(1 - probabilities[:, :1], 1 - one_hot[:, :1]),
        "slices": functional.binary_cross_entropy_with_logits(logits.slices, targets, weight=said),
        "intracranial": functional.binary_cross_entropy_with_logits(logits.intracranial, inside.float()),
        "chronic": _chronic_loss(logits.chronic, chronic, targets[:, 1 + _SUBDURAL]),
    }


def total(parts: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum."""
    return torch.stack([weight * parts[name] for name, weight in asdict(weights).items()]).sum()


@torch.no_grad()
def blood_seen(logits: TriageLogits) -> Tensor:
    """(n,): the highest probability of any blood in each image, over 3 x 3 pixels."""
    background = pixel_probabilities(logits.intra, logits.extra, logits.intracranial)[:, :1]
    return functional.avg_pool2d(1 - background, 3, stride=1).amax(dim=(1, 2, 3))


def _cross_entropy(logits: Tensor, truth: Tensor, classes: tuple[str, ...], where: Tensor) -> Tensor:
    """Of one head, whose class 0 is everything but `classes`; the mean over `where` by the weights of the classes."""
    own = [0] + [1 + classes.index(name) if name in classes else 0 for name in SUBTYPES]
    weights = torch.tensor([1.0] + [CLASS_WEIGHTS[name] for name in classes], device=truth.device)
    target = torch.tensor(own, device=truth.device)[truth]
    counted = where * weights[target]
    each = functional.cross_entropy(logits, target, reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1.0)


def _dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice over the batch, averaged over the classes that are present in it."""
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    sizes = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both + 1) / (sizes + 1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def _chronic_loss(logits: Tensor, chronic: Tensor, subdural: Tensor) -> Tensor:
    """Only where the slice shows subdural blood of known age."""
    known = subdural * (~chronic.isnan())
    each = functional.binary_cross_entropy_with_logits(logits, chronic.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1.0)
