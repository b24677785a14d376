"""What of a Prediction is reported, and on which slices it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from triage_node.domain import CLASSES, SUBTYPES, Decision, Location, Prediction, Volume
from triage_node.report.regions import Box, boxes

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
    location: Location | None
    """Where the segmented part lies; None where nothing is segmented."""
    slice_index: int
    """The slice that shows most of it: its key slice."""
    boxes: tuple[Box, ...]
    """Round what is segmented on that slice."""


def reported_findings(
    volume: Volume, prediction: Prediction, decision: Decision, locations: Mapping[str, Location]
) -> tuple[Finding, ...]:
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
            location=locations.get(name) if name in segmented else None,
            slice_index=slice_with_most(prediction, name),
            boxes=_boxes(volume, prediction, name),
        )
        for name in names
    )


def key_slices(prediction: Prediction, findings: tuple[Finding, ...]) -> tuple[int, ...]:
    """Indices of up to MAX_KEY_SLICES slices: those of the findings, in their order; for a negative, that of "any"."""
    slices = [finding.slice_index for finding in findings] or [slice_with_most(prediction, "any")]
    return tuple(dict.fromkeys(slices))[:MAX_KEY_SLICES]


def slice_with_most(prediction: Prediction, name: str) -> int:
    """Index of the slice with most of a class; where nothing of it is segmented, of its highest probability."""
    if prediction.mask is not None:
        hits = prediction.mask > 0 if name == "any" else prediction.mask == label_value(name)
        areas = hits.sum(axis=(1, 2))
        if areas.any():
            return int(areas.argmax())
    return int(prediction.slice_probabilities[:, CLASSES.index(name)].argmax())


def label_value(subtype: str) -> int:
    """Value of a subtype in Prediction.mask."""
    return SUBTYPES.index(subtype) + 1


def _boxes(volume: Volume, prediction: Prediction, name: str) -> tuple[Box, ...]:
    if prediction.mask is None:
        return ()
    region = prediction.mask[slice_with_most(prediction, name)] == label_value(name)
    return boxes(region, volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1])


def _segmented(prediction: Prediction) -> set[str]:
    if prediction.mask is None:
        return set()
    counts = np.bincount(prediction.mask.ravel(), minlength=len(SUBTYPES) + 1)
    return {name for name in SUBTYPES if counts[label_value(name)]}
