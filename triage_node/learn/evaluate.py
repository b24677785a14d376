"""Figures on heads that no training saw, and the choice of calibration and thresholds.

Thresholds are chosen on one set of held-out simulated heads (and real heads known to be negative), figures are told
of another. All figures of simulated heads say how well simulation was learned, not how well patients are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, UInt8Array, Volume
from triage_node.infer.bundle import Bundle
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Examined, Predictor, native_mask
from triage_node.learn.dataset import EVALUATION_SEED, as_volume, draw_geometry, draw_head
from triage_node.learn.export import BundleSettings
from triage_node.learn.pool import PRESENT_MM2
from triage_node.networks import network_config

TUNING_SEED: Final = EVALUATION_SEED
TEST_SEED: Final = EVALUATION_SEED + 1_000_000
_SPECIFICITY: Final = 0.97
"""Of the slices without blood on tuning heads: a series has some 30 slices."""
_REAL_MARGIN: Final = 0.3
"""Logit units between the surest slice of a real negative and the operating point."""
_MASK_THRESHOLDS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One head and the truth."""

    volume: Volume
    truth: UInt8Array

    @property
    def areas_mm2(self) -> Float32Array:
        """(slices, 6) float32 in the order of CLASSES."""
        pixel_mm2 = self.volume.pixel_spacing_mm[0] * self.volume.pixel_spacing_mm[1]
        by_label = np.stack([(self.truth == label).sum(axis=(1, 2)) for label in range(1, 1 + len(SUBTYPES))], axis=1)
        areas = np.concatenate([by_label.sum(axis=1, keepdims=True), by_label], axis=1) * pixel_mm2
        return np.asarray(areas, np.float32)


def simulated_cases(folder: Path, *, first_seed: int, count: int) -> list[Case]:
    """Held-out simulated heads; rendered once and kept in `folder`, so that they stay the same."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    return [_simulated_case(folder, seed) for seed in tqdm(seeds, desc="held-out heads", unit="head")]


def negative_case(volume: Volume) -> Case:
    """A real head that is known to show no hemorrhage."""
    return Case(volume=volume, truth=np.zeros(volume.hu.shape, np.uint8))


# ---------------------------------------------------------------- figures


def evaluate(predictor: Predictor, cases: Sequence[Case]) -> dict[str, Any]:
    """Slice AUC, sensitivity and specificity, Dice and series figures by class. None where a class has no example."""
    predictions = [predictor.predict(case.volume) for case in tqdm(cases, desc="evaluating", unit="head")]
    slices = np.concatenate([prediction.slice_probabilities for prediction in predictions])
    areas = np.concatenate([case.areas_mm2 for case in cases])
    series = np.array([[prediction.probabilities[name] for name in CLASSES] for prediction in predictions], float)
    bled = np.array([(case.areas_mm2 >= PRESENT_MM2).any(axis=0) for case in cases])
    masks = [prediction.mask for prediction in predictions if prediction.mask is not None]
    return {
        "heads": len(cases),
        "slices": len(slices),
        "slices_with_blood": int((areas[:, 0] >= PRESENT_MM2).sum()),
        "slice": {name: _binary(slices[:, k], areas[:, k], PRESENT_MM2) for k, name in enumerate(CLASSES)},
        "series": {name: _binary(series[:, k], bled[:, k], 1) for k, name in enumerate(CLASSES)},
        "dice": _dice_by_class(masks, [case.truth for case in cases]),
    }


def evaluate_negative(predictor: Predictor, case: Case) -> dict[str, Any]:
    """What is falsely seen in a real head without hemorrhage."""
    prediction = predictor.predict(case.volume)
    ungated = volumes_ml(ungated_mask(predictor.examine(case.volume), case, predictor.bundle), case.volume)
    return {
        "slices": len(prediction.slice_probabilities),
        "probabilities": {name: _rounded(value) for name, value in prediction.probabilities.items()},
        "slices_at_or_above_0.5": int((prediction.slice_probabilities[:, 0] >= 0.5).sum()),
        "false_volume_ml": {name: _rounded(value) for name, value in prediction.volumes_ml.items()},
        "false_volume_without_series_gate_ml": {name: _rounded(value) for name, value in ungated.items()},
    }


def auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve by ranks; None where one kind is missing."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _binary(scores: NDArray[Any], amounts: NDArray[Any], present_from: float) -> dict[str, float | int | None]:
    """Amounts between 0 and `present_from` are left out: too small to say."""
    said = (amounts == 0) | (amounts >= present_from)
    positive, flagged = amounts[said] >= present_from, scores[said] >= 0.5
    return {
        "positives": int(positive.sum()),
        "auc": _rounded(auc(scores[said], positive)),
        "sensitivity": _rounded(float(flagged[positive].mean()) if positive.any() else None),
        "specificity": _rounded(float((~flagged[~positive]).mean()) if (~positive).any() else None),
    }


def _dice_by_class(masks: Iterable[UInt8Array], truths: Iterable[UInt8Array]) -> dict[str, float | None]:
    """Over all pixels of all heads; "any" without regard to subtype."""
    both, sizes = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for mask, truth in zip(masks, truths, strict=True):
        for k in range(len(CLASSES)):
            seen, true = (mask > 0, truth > 0) if k == 0 else (mask == k, truth == k)
            both[k] += np.count_nonzero(seen & true)
            sizes[k] += np.count_nonzero(seen) + np.count_nonzero(true)
    return {name: _rounded(2 * both[k] / sizes[k] if sizes[k] else None) for k, name in enumerate(CLASSES)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


# ---------------------------------------------------------------- operating points


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
        network=network_config(predictor.bundle.network_name, predictor.bundle.network_config),
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
    scores = []
    for threshold in tqdm(_MASK_THRESHOLDS, desc="mask thresholds"):
        tried = replace(bundle, mask_min_probability=dict.fromkeys(SUBTYPES, threshold))
        masks = (ungated_mask(raw, case, tried) for raw, case in zip(raws, tuning, strict=True))
        scores.append(_dice_by_class(masks, [case.truth for case in tuning]))
    return {name: _MASK_THRESHOLDS[int(np.argmax([score[name] or 0.0 for score in scores]))] for name in SUBTYPES}


def ungated_mask(raw: Examined, case: Case, bundle: Bundle) -> UInt8Array:
    """The mask as if every subtype were present in the series."""
    assert raw.pixel_probabilities is not None  # only bundles with a mask are tuned
    return native_mask(raw.pixel_probabilities, raw.placement, case.volume, dict.fromkeys(CLASSES, 1.0), bundle)


# ---------------------------------------------------------------- heads


def _simulated_case(folder: Path, seed: int) -> Case:
    kept = folder / f"head-{seed}"
    if not kept.exists():
        head, volume = draw_head(seed)
        part = folder / f"part-{seed}"
        part.mkdir(exist_ok=True)
        np.save(part / "hu.npy", head.hu)
        np.save(part / "truth.npy", head.truth)
        part.rename(kept)
        return Case(volume=volume, truth=head.truth)
    geometry = draw_geometry(np.random.default_rng(seed))
    return Case(volume=as_volume(np.load(kept / "hu.npy"), geometry), truth=np.load(kept / "truth.npy"))
