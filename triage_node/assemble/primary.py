"""Which series of a study is analysed: one of each acquisition, the one that a radiologist would open first.

A study brings the same acquisition several times: soft tissue and bone, thick and thin, reformats. A few header
elements of three images and the places of all of them tell enough to choose, without a pixel read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np

from triage_node.assemble.headers import Header, acquired_at, read_headers
from triage_node.assemble.stacks import BEYOND_MM, PREFERRED_SPACING_MM, SAME_POSITION_MM, is_axial, is_ct_slice
from triage_node.assemble.suitability import describes_contrast, is_bone_reconstruction, names_contrast_agent
from triage_node.domain import Float64Array
from triage_node.errors import NotSuitable

PARALLEL_COS: Final = 0.996
"""Normals within 5 degrees: reconstructions of one acquisition are parallel, reformats are far from it."""
SAME_TIME: Final = timedelta(seconds=1)
"""Reconstructions carry the times of their acquisition, rounded; a repeated scan comes half a minute later."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """What the choice needs to know of one series."""

    series_uid: str
    frame_of_reference_uid: str
    normal: Float64Array
    """(3,) float64, towards the head, LPS."""
    span_mm: tuple[float, float]
    """Lowest and highest slice along `normal`, LPS mm."""
    step_mm: float
    """Median distance between slices; 0 for a single one."""
    slices: int
    axial: bool
    bone: bool
    contrast: bool
    acquired: tuple[datetime, datetime] | None
    """First and last moment of acquisition among the images looked at; None where the header has none."""
    acquisition_number: float | None


class Stand(Enum):
    """How far another series of the study is."""

    RECEIVING = "RECEIVING"
    WAITING = "WAITING"
    """Complete, and not ended yet."""
    ANALYZED = "ANALYZED"


class Turn(Enum):
    """What is to be done with a series that is complete."""

    ANALYZE = "ANALYZE"
    WAIT = "WAIT"
    """A better series of the same acquisition is under way."""
    WAIT_FOR_IMAGES = "WAIT_FOR_IMAGES"
    """A better one still comes in: worth a few seconds."""
    DUPLICATE = "DUPLICATE"
    """A series of the same acquisition was analysed, and shows all that this one shows."""


def sketch(series_uid: str, paths: Sequence[Path], positions_mm: Iterable[float] = ()) -> Sketch | None:
    """A series from some of its files, its ends among them, and the places of all images along the normal, mm.

    None for what is no stack of slices (localizer, no geometry, unreadable): it competes with no other series.
    """
    try:
        headers = [header for header in read_headers(paths) if is_ct_slice(header) and _has_geometry(header)]
    except NotSuitable:
        return None
    if not headers:
        return None
    middle = headers[len(headers) // 2]
    depths_mm = sorted(
        float(header.position_mm @ middle.normal) for header in headers if header.position_mm is not None
    )
    places = np.unique(np.round(np.array([*positions_mm] or depths_mm) / SAME_POSITION_MM)) * SAME_POSITION_MM
    return Sketch(
        series_uid=series_uid,
        frame_of_reference_uid=middle.text("FrameOfReferenceUID"),
        normal=middle.normal,
        span_mm=(depths_mm[0], depths_mm[-1]),
        step_mm=float(np.median(np.diff(places))) if len(places) > 1 else 0.0,
        slices=len(places),
        axial=is_axial(middle),
        bone=is_bone_reconstruction(middle),
        contrast=names_contrast_agent(middle) or describes_contrast(middle),
        acquired=_acquired(headers),
        acquisition_number=middle.number("AcquisitionNumber"),
    )


def turn(series: Sketch, others: Sequence[tuple[Sketch, Stand]]) -> Turn:
    """What is to be done with `series` now, beside the other series of its study that are open or were analysed."""
    rivals = [(other, stand) for other, stand in others if is_same_acquisition(series, other)]
    if any(stand is Stand.ANALYZED and _covers(other, series) for other, stand in rivals):
        return Turn.DUPLICATE
    better = [(other, stand) for other, stand in rivals if preference(other) > preference(series)]
    if any(stand is Stand.WAITING and _covers(other, series) for other, stand in better):
        return Turn.WAIT
    return Turn.WAIT_FOR_IMAGES if any(stand is Stand.RECEIVING for _, stand in better) else Turn.ANALYZE


def is_same_acquisition(one: Sketch, other: Sketch) -> bool:
    """Whether two series show the same X-rays: one frame of reference, parallel, taken at the same time.

    A repeated scan and a contrast phase are acquisitions of their own.
    """
    if not one.frame_of_reference_uid or one.frame_of_reference_uid != other.frame_of_reference_uid:
        return False
    if one.normal @ other.normal < PARALLEL_COS:
        return False
    if one.acquired and other.acquired:
        return bool(
            one.acquired[0] <= other.acquired[1] + SAME_TIME and other.acquired[0] <= one.acquired[1] + SAME_TIME
        )
    numbers = {one.acquisition_number, other.acquisition_number} - {None}
    return len(numbers) < 2


def preference(series: Sketch) -> tuple[object, ...]:
    """Greater is better: axial, soft tissue, no contrast; then 2.5 to 5 mm; then more slices. No two are equal."""
    smallest, largest = PREFERRED_SPACING_MM
    preferred = smallest <= series.step_mm <= largest
    return (series.axial, not series.bone, not series.contrast, preferred, series.slices, series.series_uid)


def _covers(one: Sketch, other: Sketch) -> bool:
    """Whether `other` shows nothing that `one` does not, but for the thickness of its end slices."""
    slack_mm = max(BEYOND_MM, one.step_mm, other.step_mm)
    return one.span_mm[0] <= other.span_mm[0] + slack_mm and one.span_mm[1] >= other.span_mm[1] - slack_mm


def _has_geometry(header: Header) -> bool:
    return header.orientation is not None and header.position_mm is not None


def _acquired(headers: Sequence[Header]) -> tuple[datetime, datetime] | None:
    moments = [moment for header in headers if (moment := acquired_at(header, UTC)) is not None]
    return (min(moments), max(moments)) if moments else None
