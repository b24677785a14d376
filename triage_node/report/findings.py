"""What of a Prediction is reported, and on which slices it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from triage_node.domain import CLASSES, SUBTYPES, Decision, Prediction

MAX_KEY_SLICES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One subtype as it is reported."""

    subtype: str
    probability: float | None
    volume_ml: float | None
    suspected: bool
    """Counted as found by the decision; otherwise only segmented, below the operating point."""
    segmented: bool


def reported_findings(prediction: Prediction, decision: Decision) -> tuple[Finding, ...]:
    """Suspected subtypes in the order of the decision, then what else was segmented; none for a negative.

    In a positive study nothing segmented is hidden: half of a lesion may carry the label of a subtype that stayed
    below the operating point. In a negative one nothing is shown, so that stray voxels do not look like a finding.
    """
    if not decision.suspected:
        return ()
    segmented = _segmented(prediction)
    names = (*decision.findings, *(name for name in SUBTYPES if name in segmented and name not in decision.findings))
    return tuple(
        Finding(
            subtype=name,
            probability=prediction.probabilities.get(name),
            volume_ml=prediction.volumes_ml.get(name),
            suspected=name in decision.findings,
            segmented=name in segmented,
        )
        for name in names
    )


def key_slices(prediction: Prediction, findings: tuple[Finding, ...]) -> tuple[int, ...]:
    """Indices of up to MAX_KEY_SLICES slices: the one with the most of each finding, in the order of the findings.

    Where there is no segmentation, the slice with the highest probability; for a negative, that of "any".
    """
    names = tuple(finding.subtype for finding in findings) or ("any",)
    slices = dict.fromkeys(_slice_with_most(prediction, name) for name in names)
    return tuple(slices)[:MAX_KEY_SLICES]


def label_value(subtype: str) -> int:
    """Value of a subtype in Prediction.mask."""
    return SUBTYPES.index(subtype) + 1


def _segmented(prediction: Prediction) -> set[str]:
    if prediction.mask is None:
        return set()
    counts = np.bincount(prediction.mask.ravel(), minlength=len(SUBTYPES) + 1)
    return {name for name in SUBTYPES if counts[label_value(name)]}


def _slice_with_most(prediction: Prediction, name: str) -> int:
    if prediction.mask is not None:
        hits = prediction.mask > 0 if name == "any" else prediction.mask == label_value(name)
        areas = hits.sum(axis=(1, 2))
        if areas.any():
            return int(areas.argmax())
    return int(prediction.slice_probabilities[:, CLASSES.index(name)].argmax())
