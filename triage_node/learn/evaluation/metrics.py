"""Figures of a yes-no question from scores and truth: pure functions, None where the data cannot tell.

`scores` is (cases,) float in 0..1, `positive` (cases,) bool. None, never NaN or 0, stands for a figure that needs a
kind of case that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from triage_node.domain import OPERATING_POINT, Float64Array

Scores = NDArray[np.floating]
Truth = NDArray[np.bool_]

FIXED_SPECIFICITIES: Final = (0.90, 0.95)
_DRAWS: Final = 2000
_DRAWS_AT_ONCE: Final = 100
_BINS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A ROC curve: one point for each distinct score, from "nothing flagged" to "all flagged"."""

    false_positive_rate: Float64Array
    sensitivity: Float64Array


def binary_metrics(scores: Scores, positive: Truth, *, prevalence: float) -> dict[str, Any]:
    """Everything about one class, as the JSON of `triage-node evaluate` has it; a score of 0.5 is flagged."""
    flagged = scores >= OPERATING_POINT
    both = int((flagged & positive).sum())
    sensitivity, specificity = _ratio(both, positive.sum()), _ratio((~flagged & ~positive).sum(), (~positive).sum())
    ppv, npv = predictive_values(sensitivity, specificity, prevalence)
    return {
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "auc": auc(scores, positive),
        "auc_ci95": auc_interval(scores, positive),
        **{
            f"sensitivity_at_specificity_{fixed:.2f}": sensitivity_at_specificity(scores, positive, fixed)
            for fixed in FIXED_SPECIFICITIES
        },
        "accuracy": _ratio((flagged == positive).sum(), len(scores)),
        "precision": _ratio(both, flagged.sum()),
        "recall": sensitivity,
        "specificity": specificity,
        "f1": _ratio(2 * both, flagged.sum() + positive.sum()),
        "ppv_at_prevalence": ppv,
        "npv_at_prevalence": npv,
        "calibration": calibration(scores, positive),
    }


# ---------------------------------------------------------------- ranking


def auc(scores: Scores, positive: Truth) -> float | None:
    """Area under the ROC curve by ranks, a tie counting half; None where one kind is missing."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(scores: Scores, positive: Truth, *, seed: int = 1) -> list[float] | None:
    """95 % interval of the AUC: percentiles of 2000 draws, positives and negatives drawn apart with replacement.

    The interval of a perfect separation has no width: the bootstrap cannot see what no case shows.
    """
    if auc(scores, positive) is None:
        return None
    levels, level = np.unique(scores, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(_DRAWS // _DRAWS_AT_ONCE):
        yes, no = (_drawn(level[kind], len(levels), rng) for kind in (positive, ~positive))
        below = np.cumsum(no, axis=1) - no / 2
        drawn.append((yes * below).sum(axis=1) / (positive.sum() * (~positive).sum()))
    return [float(edge) for edge in np.quantile(np.concatenate(drawn), (0.025, 0.975))]


def _drawn(level: NDArray[np.intp], levels: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """(draws, levels) int: how often each level comes up when (cases,) `level` is drawn with replacement."""
    picked = level[rng.integers(len(level), size=(_DRAWS_AT_ONCE, len(level)))]
    picked += levels * np.arange(_DRAWS_AT_ONCE)[:, None]
    return np.bincount(picked.ravel(), minlength=levels * _DRAWS_AT_ONCE).reshape(_DRAWS_AT_ONCE, levels)


def roc_curve(scores: Scores, positive: Truth) -> Curve | None:
    """None where one kind is missing."""
    yes, no = _by_level(scores, positive)
    if not yes.sum() or not no.sum():
        return None
    return Curve(
        false_positive_rate=np.concatenate([[0.0], np.cumsum(no[::-1]) / no.sum()]),
        sensitivity=np.concatenate([[0.0], np.cumsum(yes[::-1]) / yes.sum()]),
    )


def sensitivity_at_specificity(scores: Scores, positive: Truth, specificity: float) -> float | None:
    """The highest sensitivity of a threshold with at least that specificity: a point of the curve, not between two."""
    curve = roc_curve(scores, positive)
    if curve is None:
        return None
    allowed = curve.false_positive_rate <= 1.0 - specificity + 1e-9
    return float(curve.sensitivity[allowed].max())


def _by_level(scores: Scores, positive: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many positives and negatives have each distinct score, lowest first: two (levels,) int64."""
    levels, level = np.unique(scores, return_inverse=True)
    yes = np.bincount(level[positive], minlength=len(levels))
    return yes, np.bincount(level, minlength=len(levels)) - yes


# ---------------------------------------------------------------- at the operating point


def predictive_values(
    sensitivity: float | None, specificity: float | None, prevalence: float
) -> tuple[float | None, float | None]:
    """PPV and NPV where `prevalence` of all cases are positive (Bayes); None where nothing would be flagged or left."""
    if sensitivity is None or specificity is None:
        return None, None
    true_positive, true_negative = sensitivity * prevalence, specificity * (1 - prevalence)
    ppv = _ratio(true_positive, true_positive + (1 - specificity) * (1 - prevalence))
    return ppv, _ratio(true_negative, true_negative + (1 - sensitivity) * prevalence)


def calibration(scores: Scores, positive: Truth) -> dict[str, Any] | None:
    """Brier score, expected calibration error and its ten bins of equal width (Guo et al. 2017); None for no case."""
    if not len(scores):
        return None
    which = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    bins = [_bin(index, scores[which == index], positive[which == index]) for index in range(_BINS)]
    off = sum(b["cases"] * abs(b["mean_score"] - b["share_positive"]) for b in bins if b["cases"])
    return {
        "brier": float(np.mean((scores - positive) ** 2)),
        "expected_calibration_error": off / len(scores),
        "bins": bins,
    }


def _bin(index: int, scores: Scores, positive: Truth) -> dict[str, Any]:
    return {
        "from": index / _BINS,
        "to": (index + 1) / _BINS,
        "cases": len(scores),
        "mean_score": float(scores.mean()) if len(scores) else None,
        "share_positive": float(positive.mean()) if len(scores) else None,
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
