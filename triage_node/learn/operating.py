"""The choice of calibration and thresholds.

They are chosen on held-out simulated heads (and real heads known to be negative); figures are told of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from tqdm import tqdm

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.infer.bundle import Bundle
from triage_node.infer.predict import Examined, Predictor
from triage_node.learn.dataset import EVALUATION_SEED
from triage_node.learn.evaluation.heads import Case, ungated_mask
from triage_node.learn.evaluation.overlap import dice, pixel_counts
from triage_node.learn.export import BundleSettings
from triage_node.networks import UNetConfig

TUNING_SEED: Final = EVALUATION_SEED
_SPECIFICITY: Final = 0.97
"""Of the slices without blood on tuning heads: a series has some 30 slices."""
_REAL_MARGIN: Final = 0.3
"""Logit units between the surest slice of a real negative and the operating point."""
_MASK_THRESHOLDS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def choose_settings(predictor: Predictor, tuning: Sequence[Case], real_negatives: Sequence[Case]) -> BundleSettings:
    """Calibration and thresholds for the network of `predictor`, whose bundle must be uncalibrated.

    The slice logits are shifted so that no class passes 0.5 on more than 3 % of the tuning slices without blood, nor
    all classes together, nor any on a slice of a real negative. The mask threshold of a subtype is the one of the best
    Dice on the tuning heads.
    """
    raws = [predictor.examine(case.volume) for case in tqdm(tuning, desc="tuning", unit="head")]
    logits = np.concatenate([raw.logits for raw in raws])
    areas = np.concatenate([case.areas_mm2 for case in tuning])
    without_blood = logits[areas[:, 0] == 0]
    points = np.quantile(without_blood, _SPECIFICITY, axis=0)
    points += max(0.0, float(np.quantile((without_blood - points).max(axis=1), _SPECIFICITY)))  # "any" is the maximum
    for case in real_negatives:
        points = np.maximum(points, predictor.examine(case.volume).logits.max(axis=0) + _REAL_MARGIN)
    return BundleSettings(
        network=UNetConfig(**predictor.bundle.network_config),
        grid=predictor.bundle.grid,
        mask_min_probability=_best_mask_thresholds(predictor.bundle, tuning, raws),
        calibration={name: (1.0, round(-float(point), 3)) for name, point in zip(CLASSES, points, strict=True)},
        remarks=(
            f"Chosen on {len(tuning)} held-out simulated heads (seeds from {TUNING_SEED}): masks by best Dice;",
            f"calibration so that 0.5 is passed by {1 - _SPECIFICITY:.0%} of their slices without blood"
            + (
                f" and by no slice of {len(real_negatives)} real head(s) without hemorrhage." if real_negatives else "."
            ),
        ),
    )


def _best_mask_thresholds(bundle: Bundle, tuning: Sequence[Case], raws: Sequence[Examined]) -> dict[str, float]:
    """By subtype: of the best Dice over all pixels of all heads."""
    scores = []
    for threshold in tqdm(_MASK_THRESHOLDS, desc="mask thresholds"):
        tried = replace(bundle, mask_min_probability=dict.fromkeys(SUBTYPES, threshold))
        counts = [
            [pixel_counts(ungated_mask(raw, case, tried), case.truth, name) for name in SUBTYPES]
            for raw, case in zip(raws, tuning, strict=True)
        ]
        scores.append([dice(*of_all) or 0.0 for of_all in np.sum(counts, axis=0).tolist()])
    best = np.argmax(scores, axis=0)
    return {name: _MASK_THRESHOLDS[int(index)] for name, index in zip(SUBTYPES, best, strict=True)}
