"""How well masks and volumes agree with the truth: pure functions, None where the data cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triage_node.domain import CLASSES, UInt8Array


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """One class in one head, pixels and millilitres."""

    both_px: int
    seen_px: int
    true_px: int
    seen_ml: float
    """As the node reports it."""
    true_ml: float


def pixel_counts(mask: UInt8Array, truth: UInt8Array, name: str) -> tuple[int, int, int]:
    """Pixels of class `name` in both, in `mask` and in `truth`: labels 1 + index in SUBTYPES; "any" is any label."""
    k = CLASSES.index(name)
    seen, true = (mask > 0, truth > 0) if k == 0 else (mask == k, truth == k)
    return int(np.count_nonzero(seen & true)), int(np.count_nonzero(seen)), int(np.count_nonzero(true))


def dice(both: int, seen: int, true: int) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty."""
    return 2 * both / (seen + true) if seen + true else None


def iou(both: int, seen: int, true: int) -> float | None:
    """|A and B| / |A or B|; None where both are empty."""
    return both / (seen + true - both) if seen + true - both else None


def segmentation_metrics(overlaps: Sequence[Overlap]) -> dict[str, Any] | None:
    """Dice and IoU over all pixels of all heads, and the medians over the heads that truly have the class."""
    if not overlaps:
        return None
    pooled = [sum(values) for values in zip(*((o.both_px, o.seen_px, o.true_px) for o in overlaps), strict=True)]
    bled = [o for o in overlaps if o.true_px]
    return {
        "cases": len(overlaps),
        "cases_with_it": len(bled),
        "dice": dice(*pooled),
        "iou": iou(*pooled),
        "dice_median": _median([dice(o.both_px, o.seen_px, o.true_px) for o in bled]),
        "iou_median": _median([iou(o.both_px, o.seen_px, o.true_px) for o in bled]),
    }


def volume_metrics(overlaps: Sequence[Overlap]) -> dict[str, Any] | None:
    """Bland-Altman of the volumes, reported less true: bias and 95 % limits of agreement in mL (Lancet 1986;1:307).

    Heads where neither is more than 0 mL are left out: they would narrow the limits. `relative_bias_percent` is of the
    total true volume. The limits need three heads.
    """
    pairs = np.array([(o.seen_ml, o.true_ml) for o in overlaps if o.seen_ml > 0 or o.true_ml > 0])
    if not overlaps:
        return None
    off_ml = pairs[:, 0] - pairs[:, 1] if len(pairs) else np.zeros(0)
    limits = off_ml.mean() + np.array([-1.96, 1.96]) * off_ml.std(ddof=1) if len(off_ml) >= 3 else None
    total_ml = float(pairs[:, 1].sum()) if len(pairs) else 0.0
    return {
        "cases": len(off_ml),
        "bias_ml": float(off_ml.mean()) if len(off_ml) else None,
        "limits_of_agreement_ml": None if limits is None else [float(limit) for limit in limits],
        "relative_bias_percent": 100 * float(off_ml.sum()) / total_ml if total_ml else None,
        "false_ml_in_heads_without": _mean([o.seen_ml for o in overlaps if not o.true_px]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
