"""Where the slices of one stack lie: steps, tilt, gaps, and how much tissue each slice stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from triage_node.assemble.stacks import Stack
from triage_node.domain import Float64Array, NotAnalyzedReason
from triage_node.errors import NotSuitable

MIN_SLICES: Final = 8
"""Fewer slices are a part of a head, whatever their thickness."""
MIN_COVERAGE_MM: Final = 60.0
"""Less than half an adult brain from skull base to vertex (about 130 mm) is no examination of a head."""
JITTER_MM: Final = 0.2
JITTER_FRACTION: Final = 0.05
"""Slices within max(0.2 mm, 5 % of a step) of an even grid are even: tables stop and headers round that coarsely."""
TILT_DEG: Final = 0.5
"""Below this the slices shift by less than half a pixel per 50 mm: nothing a reader would call tilted."""
GAP_STEP: Final = 1.5
"""A step of 1.5 times those around it leaves room for half a slice more: one is missing."""
GAP_THICKNESS: Final = 1.1
"""A step that the slices' own thickness covers (to 10 %) leaves no tissue out, however its neighbours are spaced."""
GAP_WINDOW: Final = 3
"""Steps on each side that say what spacing is usual here; more would blur a planned change of spacing."""
MAX_GAP_SLICES: Final = 2
MAX_GAP_FRACTION: Final = 0.1
"""Up to two slices in a row, a tenth of all: a lesion of a size that matters still shows on the neighbours."""
LATERAL_MM: Final = 1.0
"""Slices further off the straight stacking line were shifted between table positions: two pixels of a routine head."""
THICK_MM: Final = 6.0
"""Thicker slices average small bleeds away; routine head CT is 5 mm or thinner."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What was measured of one stack."""

    weights_mm: Float64Array
    """(slices,) float64, mm along the normal."""
    tilt_deg: float
    steps_mm: Float64Array
    """(slices - 1,) float64, mm along the normal."""
    warnings: tuple[str, ...]


def measure(stack: Stack) -> Geometry:
    """Steps, tilt and weights of a stack of at least MIN_SLICES.

    Raises NotSuitable(TOO_FEW_SLICES | NOT_AXIAL | INCOMPLETE).
    """
    _require_enough(stack)
    if not stack.is_axial:
        raise NotSuitable(NotAnalyzedReason.NOT_AXIAL, "The slices are coronal, sagittal or steeply oblique.")
    steps_mm = np.diff(stack.depths_mm)
    tilt_deg = _tilt_deg(stack)
    warnings = (
        *_tilt_warning(tilt_deg),
        *_spacing_warning(steps_mm),
        *_gap_warning(stack, steps_mm),
        *_lateral_warning(stack),
        *_thickness_warnings(stack),
        *_orientation_warning(stack),
    )
    return Geometry(weights_mm=slice_weights_mm(steps_mm), tilt_deg=tilt_deg, steps_mm=steps_mm, warnings=warnings)


def slice_weights_mm(steps_mm: Float64Array) -> Float64Array:
    """(slices,) float64: the mm along the normal that each slice stands for, from its (slices - 1,) steps.

    Half the way to each neighbour. An end slice stands for as much outward as inward, so that neither end is counted
    short: the sum is the extent plus half of the first and half of the last step.
    """
    padded = np.concatenate([steps_mm[:1], steps_mm, steps_mm[-1:]])
    weights: Float64Array = (padded[:-1] + padded[1:]) / 2
    return weights


def _require_enough(stack: Stack) -> None:
    count = len(stack.slices)
    if count < MIN_SLICES:
        detail = f"Only {count} {'slice' if count == 1 else 'slices'} of one stack; at least {MIN_SLICES} are needed."
        raise NotSuitable(NotAnalyzedReason.TOO_FEW_SLICES, detail)
    coverage_mm = float(slice_weights_mm(np.diff(stack.depths_mm)).sum())
    if coverage_mm < MIN_COVERAGE_MM:
        detail = f"The slices cover only {coverage_mm:.0f} mm; at least {MIN_COVERAGE_MM:.0f} mm are needed."
        raise NotSuitable(NotAnalyzedReason.TOO_FEW_SLICES, detail)


def _positions_mm(stack: Stack) -> Float64Array:
    return np.array([header.position_mm for header in stack.slices], dtype=np.float64)


def _tilt_deg(stack: Stack) -> float:
    """Angle between the normal and the mean step."""
    positions = _positions_mm(stack)
    way = positions[-1] - positions[0]
    normal = stack.slices[0].normal
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(normal, way)), normal @ way)))


def _tilt_warning(tilt_deg: float) -> Iterable[str]:
    if tilt_deg > TILT_DEG:
        yield f"Gantry tilt of {tilt_deg:.1f} degrees: analysed and measured on the tilted slices."


def _spacing_warning(steps_mm: Float64Array) -> Iterable[str]:
    depths_mm = np.concatenate([[0.0], np.cumsum(steps_mm)])
    index = np.arange(len(depths_mm))
    off_mm = np.abs(depths_mm - np.polyval(np.polyfit(index, depths_mm, 1), index))
    if off_mm.max() > max(JITTER_MM, JITTER_FRACTION * float(np.median(steps_mm))):
        yield (
            f"Uneven slice spacing, {steps_mm.min():.2f} to {steps_mm.max():.2f} mm: "
            "volumes use each slice's own distance to its neighbours."
        )


def _gap_warning(stack: Stack, steps_mm: Float64Array) -> Iterable[str]:
    """A sentence for small gaps; raises NotSuitable(INCOMPLETE) for more than can be bridged."""
    missing = [_missing_slices(index, steps_mm, stack) for index in range(len(steps_mm))]
    total = sum(missing)
    if total == 0:
        return
    if max(missing) > MAX_GAP_SLICES or total > MAX_GAP_FRACTION * (len(stack.slices) + total):
        detail = f"{total} of {len(stack.slices) + total} slices are missing."
        raise NotSuitable(NotAnalyzedReason.INCOMPLETE, detail)
    yield f"{total} of {len(stack.slices) + total} slices missing: what they show was not analysed."


def _missing_slices(index: int, steps_mm: Float64Array, stack: Stack) -> int:
    """How many slices the step after slice `index` leaves out, by the usual step around it."""
    usual_mm = float(np.median(steps_mm[max(0, index - GAP_WINDOW) : index + GAP_WINDOW + 1]))
    step_mm = float(steps_mm[index])
    thickness = [header.number("SliceThickness") or 0.0 for header in stack.slices[index : index + 2]]
    if step_mm < GAP_STEP * usual_mm or step_mm < GAP_THICKNESS * sum(thickness) / 2:
        return 0
    return max(1, round(step_mm / usual_mm) - 1)


def _lateral_warning(stack: Stack) -> Iterable[str]:
    positions = _positions_mm(stack)
    way = positions[-1] - positions[0]
    share = (stack.depths_mm - stack.depths_mm[0]) / stack.extent_mm
    off_mm = np.linalg.norm(positions - positions[0] - share[:, None] * way, axis=1)
    if off_mm.max() > LATERAL_MM:
        yield f"Slices are shifted sideways against each other by up to {off_mm.max():.1f} mm."


def _thickness_warnings(stack: Stack) -> Iterable[str]:
    thickness = [value for header in stack.slices if (value := header.number("SliceThickness")) is not None]
    if thickness and max(thickness) > THICK_MM:
        yield f"Slices up to {max(thickness):g} mm thick: small hemorrhages may be averaged away."


def _orientation_warning(stack: Stack) -> Iterable[str]:
    """Usual are rows towards the patient's left and columns towards the back, to 45 degrees (head first, supine)."""
    orientation = stack.slices[0].orientation
    assert orientation is not None
    if orientation[0, 0] < np.sqrt(0.5) or orientation[1, 1] < np.sqrt(0.5):
        yield "The images are not in the usual orientation (on a side, prone, feet first or mirrored)."
