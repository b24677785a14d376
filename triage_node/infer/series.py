"""Slice logits -> slice probabilities -> what is said of the series. numpy only.

- Logits are calibrated per class, `sigmoid(slope * logit + offset)`, so that 0.5 is the operating point.
- The evidence for a subtype in the series is its highest slice after smoothing with both neighbours, or its surest
  slice at odds four times worse: a slice that stands alone among others gives evidence of 0.5 from 0.8 on.
- How probable the series is follows from that and from the volume that the mask would have, by weights of the bundle
  for each subtype, so that one weak subtype does not spoil the others. "any" is never less than its subtypes.
- A slice shows nothing that its series does not: where the series is below the operating point, so are its slices.
- A series of one slab has what its slice has: the weights are those of whole heads (`weights_for`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPES, Float32Array, Float64Array
from triage_node.infer.bundle import CHRONIC, Bundle, SeriesWeights

_SMOOTHING: Final = (0.25, 0.5, 0.25)
"""Weights of the slice before, the slice itself and the slice after in the score of a series."""
_LONE_ODDS: Final = 4.0
"""How much worse the odds of a slice are that stands alone: bleeds of one slice exist, and so do artefacts."""
_SUBDURAL: Final = CLASSES.index("subdural")
_AS_ITS_SLICE: Final[Mapping[str, SeriesWeights]] = dict.fromkeys(CLASSES, SeriesWeights())


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


def series_probabilities(
    slices: Float32Array, measured_ml: Mapping[str, float | None], weights: Mapping[str, SeriesWeights]
) -> dict[str, float | None]:
    """`slices` (slices, 6) as of `calibrated` to one probability for each class; None where the slices are NaN.

    sigmoid(highest * logit of the highest slice + volume * volume_evidence + offset). `measured_ml` is by class, of the
    mask as if every subtype were shown; None counts as nothing.
    """
    probabilities: dict[str, float | None] = {}
    for name, highest in zip(CLASSES, highest_slices(slices), strict=True):
        evidence = weights[name].highest * logit(highest) + weights[name].volume * volume_evidence(measured_ml[name])
        probabilities[name] = None if np.isnan(highest) else _sigmoid(np.array(evidence + weights[name].offset)).item()
    said = [probability for probability in probabilities.values() if probability is not None]
    return probabilities | {"any": max(said, default=None)}


def in_series(slices: Float32Array, series: Mapping[str, float | None]) -> Float32Array:
    """`slices` (slices, 6) as of `calibrated`, which saw one slice at a time, as said of slices of this series.

    What a slice shows its series shows, too. Where the series says a class is not there (below OPERATING_POINT), the
    log-odds of all slices are lowered alike, until the surest slice is no surer than the series; their order stays. A
    subtype is then no surer than "any" on any slice.
    """
    said = slices.copy()
    for column, name in enumerate(CLASSES):
        probability, highest = series[name], float(slices[:, column].max())
        if probability is not None and probability < min(OPERATING_POINT, highest):
            said[:, column] = _sigmoid(logit(slices[:, column]) + logit(probability) - logit(highest))
    said[:, 1:] = np.minimum(said[:, 1:], said[:, :1])
    return said


def shown_subtypes(series: Mapping[str, float | None], seen: Iterable[str], bundle: Bundle) -> frozenset[str]:
    """Subtypes whose mask and boxes are shown: those that the series shows, from `series_min_probability` on.

    Where it shows blood but no subtype, as when one bleed may be epidural or subdural, the likeliest of those `seen` is
    shown: a flag points at something.
    """
    said = {name: series[name] or 0.0 for name in SUBTYPES}
    shown = frozenset(name for name, probability in said.items() if probability >= bundle.series_min_probability)
    flagged, named = (series["any"] or 0.0) >= OPERATING_POINT, max(said.values()) >= OPERATING_POINT
    if named or not flagged:
        return shown
    return shown | frozenset(sorted(seen, key=lambda name: -said[name])[:1])


def weights_for(bundle: Bundle, slabs: int) -> Mapping[str, SeriesWeights]:
    """Those of `bundle` for a stack; for a picture or a lone slice none.

    They are chosen on whole heads: the volume of one slice is small even in a large bleed, and would count against it.
    """
    return bundle.series if slabs > 1 else _AS_ITS_SLICE


def volume_evidence(measured_ml: float | None) -> float:
    """0 for nothing, 1 for 0.9 mL, 2 for 9.9 mL."""
    return math.log10((measured_ml or 0.0) + 0.1) + 1.0


def logit(probabilities: ArrayLike) -> Float64Array:
    """Of probabilities that are kept a hair away from 0 and 1."""
    return np.asarray(special.logit(np.clip(np.asarray(probabilities, np.float64), 1e-6, 1 - 1e-6)))


def highest_slices(slices: Float32Array) -> Float64Array:
    """(slices, 6) to (6,): of the highest slices together, or of the surest one alone. NaN stays."""
    padded = np.pad(slices.astype(np.float64), ((1, 1), (0, 0)), mode="edge")
    smoothed = sum(weight * padded[shift : shift + len(slices)] for shift, weight in enumerate(_SMOOTHING))
    odds = padded[1:-1] / np.maximum(1.0 - padded[1:-1], 1e-9)
    highest = np.maximum(smoothed, odds / (odds + _LONE_ODDS)).max(axis=0)
    return np.asarray(highest, np.float64)


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
