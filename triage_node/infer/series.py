"""Slice logits -> slice probabilities -> what is said of the series. numpy only.

- Logits are calibrated per class, `sigmoid(slope * logit + offset)`, so that 0.5 is the operating point.
- A subtype of the series is as probable as its highest slice after smoothing with both neighbours, or as its surest
  slice at odds four times worse: one lone slice passes 0.5 from 0.8 on. "any" is never less than its subtypes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from triage_node.domain import CLASSES, OPERATING_POINT, Float32Array, Float64Array
from triage_node.infer.bundle import CHRONIC, Bundle

_SMOOTHING: Final = (0.25, 0.5, 0.25)
"""Weights of the slice before, the slice itself and the slice after in the score of a series."""
_LONE_ODDS: Final = 4.0
"""How much worse the odds of a slice are that stands alone: bleeds of one slice exist, and so do artefacts."""
_SUBDURAL: Final = CLASSES.index("subdural")


def calibrated(logits: Float32Array, bundle: Bundle) -> Float32Array:
    """(slices, 6) logits to (slices, 6) float32 probabilities, columns of CLASSES; "any" at least its subtypes.

    NaN in the columns that the bundle does not output.
    """
    slope, offset = np.array([bundle.calibration[name] for name in CLASSES]).T
    probabilities = _sigmoid(logits * slope + offset)
    probabilities[:, [name not in bundle.outputs_classes for name in CLASSES]] = np.nan
    probabilities[:, 0] = np.nanmax(probabilities, axis=1)
    rounded: Float32Array = probabilities.astype(np.float32)
    return rounded


def series_probabilities(slices: Float32Array) -> dict[str, float | None]:
    """(slices, 6) to one probability for each class: of the highest slices together, or of the surest one alone.

    None for a class of which the slices are NaN.
    """
    padded = np.pad(slices.astype(np.float64), ((1, 1), (0, 0)), mode="edge")
    smoothed = sum(weight * padded[shift : shift + len(slices)] for shift, weight in enumerate(_SMOOTHING))
    odds = padded[1:-1] / np.maximum(1.0 - padded[1:-1], 1e-9)
    highest = np.maximum(smoothed, odds / (odds + _LONE_ODDS)).max(axis=0)
    highest[0] = np.nanmax(highest)
    return {name: None if np.isnan(value) else float(value) for name, value in zip(CLASSES, highest, strict=True)}


def subdural_chronic(
    slices: Float32Array, chronic: Float32Array, weights_mm: Float64Array, bundle: Bundle
) -> float | None:
    """Probability that the subdural blood of a series is chronic; None where no slice shows any.

    `slices` (slices, 6) as of `calibrated`, `chronic` (slices,) logits. The mean over the slices that pass the
    operating point of subdural, weighted by that evidence and by the millimetres which each slice stands for.
    """
    evidence = np.where(slices[:, _SUBDURAL] >= OPERATING_POINT, slices[:, _SUBDURAL], 0.0) * weights_mm
    if not evidence.any():
        return None
    slope, offset = bundle.calibration[CHRONIC]
    return float(np.average(_sigmoid(chronic * slope + offset), weights=evidence))


def _sigmoid(logits: Float32Array | Float64Array) -> Float64Array:
    probabilities: Float64Array = 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -30.0, 30.0)))
    return probabilities
