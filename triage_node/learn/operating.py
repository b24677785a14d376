"""The choice of calibration, mask thresholds and series weights, on tuning series and on nothing else.

One real head without hemorrhage is no calibration set: none of this ever looks at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPES, Float32Array, Float64Array, UInt8Array
from triage_node.errors import UsageError
from triage_node.infer.bundle import Bundle, SeriesWeights
from triage_node.infer.mask import native_mask
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Examined, Predictor
from triage_node.infer.series import calibrated, highest_slices, logit, volume_evidence
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.evaluation.overlap import dice, pixel_counts
from triage_node.learn.export import BundleSettings

_BOX_THRESHOLDS: Final = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_MASK_THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_NEARLY: Final = 0.02
"""Less of Dice than this is given up for a truer volume."""
LEAST_ML: Final = 0.5
"""Smaller volumes say nothing of how well volume is measured."""
_FALSE_SHARE: Final = 0.02
"""Of slices and of series: see fit_classes."""
_FALSE_SLICES: Final = 0.03
"""Of the slices without blood, that may pass 0.5: each is shown to somebody for nothing. The series has its own 0.5."""
_LEAST_WEIGHT: Final = 0.001
"""A bundle with a slope of 0, which would silence its class, is refused."""
_DIGITS: Final = 3
_INTERVAL: Final = 0.9
_FEWEST: Final = 8
"""Heads with a subtype, for an interval of its own; else that of all blood."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the network said of one tuning series, and the truth, in numbers."""

    logits: Float32Array
    """(slices, 6) float32."""
    present: NDArray[np.bool_]
    """(slices, 6), as in Case; so is `absent`."""
    absent: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    """(6,), of the series; so is `nowhere`."""
    nowhere: NDArray[np.bool_]
    counts: NDArray[np.int64]
    """(thresholds, 5, 3): pixels in both masks, in the seen one, in the true one; 0 where there is no mask."""
    seen_ml: Float64Array
    """(thresholds, 6); 0 where there is no mask."""
    true_ml: Float64Array
    """(6,)."""
    boxes: Float32Array
    """(slices, 5) float32: of each subtype the highest probability of a box there; 0 where the network draws none."""


def choose_settings(
    predictor: Predictor, tuning: Iterable[Case], settings: BundleSettings, *, told_of: str
) -> BundleSettings:
    """`settings` with calibration and thresholds for the network of `predictor`, whose bundle must be uncalibrated.

    `told_of` says for people what the tuning series are.

    - Slice logits: logistic regression on whether the slice shows the class (Platt 1999), as if half of them did; then
      stricter, until at most 3 % of the slices without blood pass 0.5.
    - Mask threshold of a subtype: by Dice and volume over all pixels of all series; see _best_thresholds.
    - Box threshold: of the best F1, over all slices and subtypes.
    - Series: logistic regression on the highest slice and the volume, each class for itself, as if half had it.
    - Of either, a subtype is made stricter where it would raise false alarms; see fit_classes.
    - Volume interval: the middle 90 % of true over measured volume, where both are at least 0.5 mL.
    - Classes: those that some slices show and some do not; of another nobody can say how well it is told.

    UsageError where that is not even so of "any".
    """
    seen = [_seen(predictor, case) for case in tuning]
    classes = tuple(name for name in _tellable(seen) if name in settings.classes)
    calibration = _slice_calibration(seen)
    chosen = _best_thresholds(seen)
    bundle = replace(predictor.bundle, calibration={**predictor.bundle.calibration, **calibration})
    measured = [_at_thresholds(one, chosen) for one in seen]
    return replace(
        settings,
        classes=classes,
        calibration=calibration,
        mask_min_probability={name: _MASK_THRESHOLDS[index] for name, index in zip(SUBTYPES, chosen, strict=True)},
        series=_series_weights(seen, measured, bundle),
        volume_interval=_volume_intervals(seen, measured),
        box_min_probability=_best_box_threshold(seen),
        remarks=(
            f"Chosen on {len(seen)} series that were kept apart: {told_of}.",
            "Calibrated as if half of the slices, and half of the series, showed the class; stricter where more than "
            "3 % of the slices without blood, or 2 % of those without a subtype, would pass 0.5.",
        ),
    )


def _tellable(seen: Sequence[_Seen]) -> tuple[str, ...]:
    shown, without = np.zeros(len(CLASSES), bool), np.zeros(len(CLASSES), bool)
    for one in seen:
        shown |= one.present.any(axis=0)
        without |= one.absent.any(axis=0)
    if not (shown[0] and without[0]):
        raise UsageError(
            "calibration needs heads with slices that show hemorrhage, and slices that do not; name others"
        )
    return tuple(name for name, yes, no in zip(CLASSES, shown, without, strict=True) if yes and no)


# ---------------------------------------------------------------- what was seen


def _seen(predictor: Predictor, case: Case) -> _Seen:
    raw = predictor.examine(case.volume)
    counts = np.zeros((len(_MASK_THRESHOLDS), len(SUBTYPES), 3), np.int64)
    seen_ml = np.zeros((len(_MASK_THRESHOLDS), len(CLASSES)))
    for index, threshold in enumerate(_MASK_THRESHOLDS):
        if raw.pixel_probabilities is None:
            break
        tried = replace(predictor.bundle, mask_min_probability=dict.fromkeys(SUBTYPES, threshold))
        mask = native_mask(raw.pixel_probabilities, raw.placement, case.volume, tried)
        counts[index] = [_counts(mask, case, name) for name in SUBTYPES]
        seen_ml[index] = [volumes_ml(mask, case.volume)[name] for name in CLASSES]
    return _Seen(
        logits=raw.logits,
        present=case.present,
        absent=case.absent,
        shown=case.shown,
        nowhere=case.nowhere,
        counts=counts,
        seen_ml=seen_ml,
        true_ml=np.array([ml if _is_told(case, name) else np.nan for name, ml in case.volumes_ml.items()]),
        boxes=_box_peaks(raw),
    )


def _is_told(case: Case, name: str) -> bool:
    """Whether the truth tells of every pixel whether it is that."""
    return case.segmented and name in case.told


def _counts(mask: UInt8Array, case: Case, name: str) -> tuple[int, int, int]:
    return pixel_counts(mask, case.truth, name) if _is_told(case, name) else (0, 0, 0)


def _box_peaks(raw: Examined) -> Float32Array:
    if raw.boxes is None:
        return np.zeros((len(raw.logits), len(SUBTYPES)), np.float32)
    peaks: Float32Array = raw.boxes[raw.placement.slab_of, :, 4:].max(axis=1)
    return peaks


def _best_box_threshold(seen: Sequence[_Seen]) -> float:
    """0.5 where there are no boxes."""
    peaks = np.concatenate([one.boxes for one in seen])
    present, absent = (np.concatenate([getattr(one, name)[:, 1:] for one in seen]) for name in ("present", "absent"))
    if not peaks.any() or not present.any():
        return OPERATING_POINT

    def f1(least: float) -> float:
        right, wrong = (int(np.count_nonzero((peaks >= least) & kind)) for kind in (present, absent))
        return 2 * right / max(1, right + wrong + int(np.count_nonzero(present)))

    return max(_BOX_THRESHOLDS, key=f1)


def _best_thresholds(seen: Sequence[_Seen]) -> list[int]:
    """By subtype, index in _MASK_THRESHOLDS: of those whose Dice is nearly the best, the one of the truest volume."""
    totals = np.sum([one.counts for one in seen], axis=0)
    scores = np.array([[dice(*(int(n) for n in counts)) or 0.0 for counts in row] for row in totals])
    bias = np.abs(totals[..., 1] - totals[..., 2])
    bias[scores < scores.max(axis=0) - _NEARLY] = np.iinfo(np.int64).max
    middle = _MASK_THRESHOLDS.index(0.5)
    return [int(off.argmin()) if of_dice.any() else middle for off, of_dice in zip(bias.T, scores.T, strict=True)]


def _at_thresholds(seen: _Seen, chosen: Sequence[int]) -> Float64Array:
    """(6,) mL at the chosen thresholds; "any" is the sum."""
    subtypes = [seen.seen_ml[index, k] for k, index in enumerate(chosen, start=1)]
    return np.array([sum(subtypes), *subtypes])


# ---------------------------------------------------------------- slices and series


def _slice_calibration(seen: Sequence[_Seen]) -> dict[str, tuple[float, float]]:
    logits = np.concatenate([one.logits for one in seen]).astype(np.float64)
    present, absent = (np.concatenate([getattr(one, name) for one in seen]) for name in ("present", "absent"))
    fitted = fit_classes(
        logits.T[:, :, None], shown=present, absent=absent, expected=(1.0,), false_share_of_any=_FALSE_SLICES
    )
    return {name: (slope, offset) for name, (slope, offset) in zip(CLASSES, fitted, strict=True)}


def _series_weights(
    seen: Sequence[_Seen], measured: Sequence[Float64Array], bundle: Bundle
) -> dict[str, SeriesWeights]:
    highest = np.array([highest_slices(calibrated(one.logits, bundle)) for one in seen])
    evidence = np.stack([logit(highest), np.vectorize(volume_evidence)(np.array(measured))], axis=-1)
    fitted = fit_classes(
        evidence.swapaxes(0, 1),
        shown=np.array([one.shown for one in seen]),
        absent=np.array([one.nowhere for one in seen]),
        expected=(1.0, 0.5),
    )
    return {
        name: SeriesWeights(highest=weights[0], volume=weights[1], offset=weights[2])
        for name, weights in zip(CLASSES, fitted, strict=True)
    }


def fit_classes(
    features: Float64Array,
    *,
    shown: NDArray[np.bool_],
    absent: NDArray[np.bool_],
    expected: Sequence[float],
    false_share_of_any: float = 1.0,
) -> list[tuple[float, ...]]:
    """Weights and offset of each of CLASSES, from (6, n, k) features of n slices or series.

    `shown` and `absent` are (n, 6); what is neither teaches nothing of its class. "any" is reported as the greatest of
    all, so a weak subtype could raise the flag alone: the offset of a subtype is lowered until at most 2 % of those
    without it pass 0.5, and until the five together add at most 2 % of those without blood to what "any" flags itself.
    The offset of "any" is lowered until at most `false_share_of_any` of those without blood pass.
    """
    fitted, untold = [], (*expected, 0.0)
    for k, of_class in enumerate(features):
        said = (shown[:, k] | absent[:, k]) & np.isfinite(of_class).all(axis=1)
        known = said.any()
        fitted.append(_rounded(fit_logistic(of_class[said], shown[said, k], expected=expected)) if known else untold)
    bloodless = absent[:, 0]
    allowed = _highest_offset(_evidence(features[0], fitted[0])[bloodless], int(false_share_of_any * bloodless.sum()))
    fitted[0] = _rounded((*fitted[0][:-1], min(fitted[0][-1], allowed)))
    unflagged = bloodless & (_evidence(features[0], fitted[0]) + fitted[0][-1] < 0)
    for k in range(1, len(CLASSES)):
        if fitted[k] == untold or not np.isfinite(features[k]).all():
            continue
        evidence = _evidence(features[k], fitted[k])
        offset = min(
            fitted[k][-1],
            _highest_offset(evidence[absent[:, k]], int(_FALSE_SHARE * absent[:, k].sum())),
            _highest_offset(evidence[unflagged], int(_FALSE_SHARE / len(SUBTYPES) * bloodless.sum())),
        )
        fitted[k] = _rounded((*fitted[k][:-1], offset))
    return fitted


def _evidence(features: Float64Array, weights: Sequence[float]) -> Float64Array:
    return np.asarray(features @ np.array(weights[:-1]))


def _highest_offset(evidence: Float64Array, allowed: int) -> float:
    """With which no more than `allowed` of (n,) `evidence` pass 0.5, after rounding too."""
    if len(evidence) <= allowed:
        return math.inf
    return -float(np.sort(evidence)[::-1][allowed]) - 10**-_DIGITS


def _rounded(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(weight, _DIGITS) for weight in weights)


def fit_logistic(
    features: Float64Array, positive: NDArray[np.bool_], *, expected: Sequence[float]
) -> tuple[float, ...]:
    """Weights of (n, k) features, none below 0.001, and the offset: the most probable ones (logistic regression).

    Positives and negatives weigh the same together, however many there are of each: probability 0.5 is where the
    features are as likely with as without, whatever the share of positives among the series. A prior (normal, standard
    deviation 1 about `expected`, 3 about an offset of 0) keeps the weights finite where the classes are told apart
    without error.
    """
    prior = np.array([*expected, 0.0])
    spread = np.array([*[1.0] * len(expected), 3.0])
    design = np.column_stack([features, np.ones(len(features))])
    signs = np.where(positive, -1.0, 1.0)
    counts = 0.5 / np.where(positive, positive.mean(), 1.0 - positive.mean())

    def loss(weights: Float64Array) -> float:
        surprise = counts @ np.logaddexp(0.0, signs * (design @ weights))
        return float(surprise + 0.5 * (((weights - prior) / spread) ** 2).sum())

    def slope(weights: Float64Array) -> Float64Array:
        errors = counts * (special.expit(design @ weights) - positive)
        return np.asarray(design.T @ errors + (weights - prior) / spread**2)

    bounds = [*[(_LEAST_WEIGHT, None)] * len(expected), (None, None)]
    found = optimize.minimize(loss, prior, jac=slope, bounds=bounds, method="L-BFGS-B")
    return tuple(float(weight) for weight in found.x)


# ---------------------------------------------------------------- volumes


def _volume_intervals(seen: Sequence[_Seen], measured: Sequence[Float64Array]) -> dict[str, tuple[float, float]]:
    """By class: the middle 90 % of true over measured volume, as factors."""
    true_ml, seen_ml = np.array([one.true_ml for one in seen]), np.array(measured)
    both = (true_ml >= LEAST_ML) & (seen_ml >= LEAST_ML)
    tails = ((1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2)
    found: dict[str, tuple[float, float]] = {}
    for k, name in enumerate(CLASSES):
        ratios = true_ml[both[:, k], k] / seen_ml[both[:, k], k]
        if len(ratios) >= _FEWEST:
            low, high = np.quantile(ratios, tails)
            found[name] = (round(float(low), 3), round(float(high), 3))
        elif "any" in found:
            found[name] = found["any"]
    return found
