"""What of a Prediction is reported, and on which slices it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from triage_node.domain import CLASSES, SUBTYPES, Decision, Int64Array, Location, Prediction, Volume
from triage_node.report.regions import Box, boxes_on, label_value

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
    """Round what is seen on that slice."""


def reported_findings(
    volume: Volume, prediction: Prediction, decision: Decision, locations: Mapping[str, Location]
) -> tuple[Finding, ...]:
    """Suspected subtypes in the order of the decision, then what else was segmented; none for a negative.

    In a positive study nothing segmented is hidden: half of a lesion may carry the label of a subtype that stayed
    below the operating point. In a negative one nothing is shown, so that stray voxels do not look like a finding.
    """
    if not decision.suspected:
        return ()
    areas = _areas(prediction)
    segmented = {name for name in SUBTYPES if areas[:, label_value(name)].any()}
    names = (*decision.findings, *(name for name in SUBTYPES if name in segmented and name not in decision.findings))
    return tuple(
        Finding(
            subtype=name,
            probability=prediction.probabilities.get(name),
            volume_ml=prediction.volumes_ml.get(name),
            suspected=name in decision.findings,
            segmented=name in segmented,
            location=locations.get(name) if name in segmented else None,
            slice_index=(shown := _slice_with_most(areas, prediction, name)),
            boxes=boxes_on(prediction, name, shown, volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]),
        )
        for name in names
    )


def key_slices(prediction: Prediction, findings: tuple[Finding, ...]) -> tuple[int, ...]:
    """Indices of up to MAX_KEY_SLICES slices: those of the findings, in their order; for a negative, that of "any"."""
    slices = [finding.slice_index for finding in findings] or [_slice_with_most(_areas(prediction), prediction, "any")]
    return tuple(dict.fromkeys(slices))[:MAX_KEY_SLICES]


def _areas(prediction: Prediction) -> Int64Array:
    """(slices, 6) int64: pixels of each label on each slice; column 0, the background, is not counted."""
    areas = np.zeros((len(prediction.slice_probabilities), len(SUBTYPES) + 1), dtype=np.int64)
    if prediction.mask is not None:
        for index in np.flatnonzero(prediction.mask.any(axis=(1, 2))):
            areas[index] = np.bincount(prediction.mask[index].ravel(), minlength=areas.shape[1])
    areas[:, 0] = 0
    return areas


def _slice_with_most(areas: Int64Array, prediction: Prediction, name: str) -> int:
    """Index of the slice with most of a class; where nothing of it is segmented, with its surest box; where none is
    drawn, of its highest probability."""
    of_class = areas.sum(axis=1) if name == "any" else areas[:, label_value(name)]
    if of_class.any():
        return int(of_class.argmax())
    drawn = [box for box in prediction.boxes or () if name in ("any", box.subtype)]
    if drawn:
        return drawn[0].slice_index
    return int(prediction.slice_probabilities[:, CLASSES.index(name)].argmax())
