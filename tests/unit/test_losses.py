"""What is made small: what is known counts, what is not known does not; an experiment sets the price of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.learn.augment import Views
from triage_node.learn.box_loss import box_loss
from triage_node.learn.dataset import UNKNOWN_KIND
from triage_node.learn.losses import ClassWeights, LossWeights, blood_seen, losses
from triage_node.learn.pool import Known
from triage_node.networks.findings import BOX_CHANNELS, Logits, boxes_of
from triage_node.networks.triagenet import TriageLogits
from triage_node.transforms import Grid

SIZE = 32
GRID = Grid(size_px=SIZE, spacing_mm=4.0)
SUBDURAL = 1 + SUBTYPES.index("subdural")
PLAIN = LossWeights()


def views(truth: torch.Tensor) -> Views:
    return Views(images=torch.zeros(len(truth), 5, SIZE, SIZE), truth=truth, depth_mm=torch.ones(truth.shape))


def masked(count: int = 1) -> Known:
    unknown = torch.full((count, 6), torch.nan)
    return Known(chronic=unknown[:, 0], labels=unknown, masked=torch.ones(count, dtype=torch.bool))


def labelled(**values: float) -> Known:
    """One slice without a mask."""
    labels = torch.tensor([[values.get(name, torch.nan) for name in CLASSES]])
    return Known(chronic=torch.tensor([torch.nan]), labels=labels, masked=torch.tensor([False]))


def subdural_truth(label: int = SUBDURAL) -> torch.Tensor:
    truth = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
    truth[:, 8:14, 4:20] = label
    return truth


def logits_for(truth: torch.Tensor, sure: float = 12.0, *, slices: torch.Tensor | None = None) -> Logits:
    """Pixels that say the truth, and slices that do."""
    pixels = torch.nn.functional.one_hot(truth.clamp(max=len(SUBTYPES)), 6).movedim(-1, 1) * 2 * sure - sure
    present = torch.stack([(truth == label).flatten(1).any(dim=1) for label in range(1, 6)], dim=1)
    said = torch.cat([present.any(dim=1, keepdim=True), present], dim=1) * 2.0 * sure - sure
    return Logits(slices=said if slices is None else slices, pixels=pixels.float())


def flagship_logits(label: int, truth: torch.Tensor, sure: float = 12.0) -> TriageLogits:
    """An extra head that says `label` (1 epidural, 2 subdural) where the truth is blood."""
    extra = torch.full((1, 3, SIZE, SIZE), -sure)
    extra[:, 0], extra[:, label] = torch.where(truth > 0, -sure, sure), torch.where(truth > 0, sure, -sure)
    intra = torch.full((1, 4, SIZE, SIZE), -sure)
    intra[:, 0] = sure
    return TriageLogits(
        intra=intra,
        extra=extra,
        intracranial=torch.full((1, SIZE, SIZE), sure),
        slices=torch.zeros(1, 6),
        chronic=torch.zeros(1),
    )


def test_the_truth_costs_nearly_nothing_and_the_contrary_much() -> None:
    truth = subdural_truth()
    right = losses(logits_for(truth), views(truth), masked(), GRID, PLAIN)
    wrong = losses(logits_for(truth, sure=-12.0), views(truth), masked(), GRID, PLAIN)
    assert set(right) == {"slices", "pixels", "dice", "foreground"}
    assert all(float(loss) < 0.01 for loss in right.values())
    assert all(float(loss) > 0.5 for loss in wrong.values())


def test_a_slice_without_a_mask_says_nothing_of_its_pixels() -> None:
    truth = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
    said = logits_for(subdural_truth(), slices=torch.tensor([[9.0, -9, -9, -9, -9, 9.0]]))
    parts = losses(said, views(truth), labelled(any=1.0, subdural=1.0), GRID, PLAIN)
    assert parts["pixels"] == parts["dice"] == parts["foreground"] == 0
    assert parts["slices"] < 0.01
    against = losses(said, views(truth), labelled(any=0.0), GRID, PLAIN)
    assert against["slices"] == pytest.approx(9 / 6, abs=0.01)  # only "any" is known


def test_blood_of_unknown_kind_is_blood_whatever_it_is_called() -> None:
    truth = subdural_truth(UNKNOWN_KIND)
    for label in (1, SUBDURAL):
        said = logits_for(subdural_truth(label), slices=torch.tensor([[9.0, 0, 0, 0, 0, 0]]))
        parts = losses(said, views(truth), masked(), GRID, PLAIN)
        assert max(float(parts[name]) for name in ("pixels", "dice", "foreground")) < 0.01
        assert parts["slices"] < 0.01  # no subtype is ruled out
        flagship = losses(flagship_logits({1: 1, SUBDURAL: 2}[label], truth), views(truth), masked(), GRID, PLAIN)
        assert max(float(flagship[name]) for name in ("intra", "extra", "dice", "foreground")) < 0.01
    unseen = losses(logits_for(torch.zeros_like(truth)), views(truth), masked(), GRID, PLAIN)
    assert unseen["foreground"] > 0.5


def test_what_is_told_of_a_slice_comes_before_what_its_mask_shows() -> None:
    """Blood of two kinds, of which a mask of blood tells only where, and a table which."""
    truth = subdural_truth(UNKNOWN_KIND)
    table = torch.tensor([[1.0, 0, 1, 0, 0, 1]])
    known = masked()._replace(labels=table)
    said = logits_for(subdural_truth(), slices=18.0 * table - 9)
    assert losses(said, views(truth), known, GRID, PLAIN)["slices"] < 0.01
    said = logits_for(subdural_truth(), slices=9 - 18.0 * table)
    assert losses(said, views(truth), known, GRID, PLAIN)["slices"] == pytest.approx(9, abs=0.01)


def test_a_missed_class_costs_what_the_experiment_says() -> None:
    truth = subdural_truth()
    silent = logits_for(truth, slices=torch.full((1, 6), -6.0))
    price, dearer = (
        losses(silent, views(truth), masked(), GRID, weights)["slices"] for weights in (PLAIN, LossWeights(miss_cost=3))
    )
    assert dearer == pytest.approx(3 * float(price), rel=0.01)
    empty = torch.zeros_like(truth)
    alarm = logits_for(empty, slices=torch.full((1, 6), 6.0))
    same = [losses(alarm, views(empty), masked(), GRID, each)["slices"] for each in (PLAIN, LossWeights(miss_cost=3))]
    assert same[0] == same[1]


def test_a_focal_loss_leaves_out_what_is_sure_already() -> None:
    truth = subdural_truth()
    for sure, share in ((1.5, 0.01), (-6.0, 0.98)):
        said = logits_for(truth, sure=sure)
        plain, focal = (
            losses(said, views(truth), masked(), GRID, weights) for weights in (PLAIN, LossWeights(focal_gamma=2.0))
        )
        for name in ("pixels", "slices"):
            ratio = float(focal[name] / plain[name])
            assert ratio < max(0.1, share) if sure > 0 else ratio > share


def test_a_class_that_weighs_more_costs_more() -> None:
    truth = subdural_truth()
    blind = logits_for(torch.zeros_like(truth))
    light, heavy = (
        losses(blind, views(truth), masked(), GRID, replace(PLAIN, class_weights=ClassWeights(subdural=weight)))
        for weight in (1.0, 30.0)
    )
    assert heavy["pixels"] > 3 * light["pixels"]


def test_hard_negatives_are_found_by_what_is_said_of_pixels_or_of_the_slice() -> None:
    seen = blood_seen(logits_for(subdural_truth()))
    assert seen > 0.99
    assert blood_seen(Logits(slices=torch.zeros(1, 6))) == 0.5


# ---------------------------------------------------------------- boxes


def cells_for(labels: np.ndarray, rows: int = 4) -> torch.Tensor:
    """Learn the boxes of one image by heart."""
    cells = torch.zeros(1, BOX_CHANNELS, rows, rows, requires_grad=True)
    optimizer = torch.optim.Adam([cells], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        box_loss(cells, torch.from_numpy(labels).long()[None], torch.ones(1)).backward()
        optimizer.step()
    return cells.detach()


def test_boxes_are_learnt_where_the_bleeds_are() -> None:
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[2:8, 4:20], labels[24:30, 25:31], labels[16, 1] = SUBDURAL, 1, SUBDURAL  # one pixel is too small
    found = boxes_of(cells_for(labels))[0]
    kept = found[found[:, 4:].amax(dim=1) > 0.5]
    by_subtype = {int(box[4:].argmax()): box[:4] * SIZE for box in kept}
    assert set(by_subtype) == {SUBDURAL - 1, 0}
    assert len(kept) == 2
    torch.testing.assert_close(by_subtype[SUBDURAL - 1], torch.tensor([4.0, 2, 20, 8]), atol=0.6, rtol=0)
    torch.testing.assert_close(by_subtype[0], torch.tensor([25.0, 24, 31, 30]), atol=0.6, rtol=0)


def test_where_nothing_is_told_boxes_cost_nothing() -> None:
    cells = torch.full((1, BOX_CHANNELS, 4, 4), 5.0)
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
    assert box_loss(cells, labels, torch.zeros(1)) == 0
    assert box_loss(cells, labels, torch.ones(1)) > 1
