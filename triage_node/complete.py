"""Is a series complete? Positions and times -> why it is, or None.

A multi-frame image brings its stack in one piece: the release of its association is enough. Of single images a
release is not "complete" (Orthanc opens several for one study, measured), a gap-free stack alone is not either (the
vertex may still come). Both together are, because a late slice costs only a new revision. A source that says
how many images there are is believed. Whatever is never recognised so ends by a quiet period, and by a hard cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

MULTI_FRAME_CT: Final = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

MIN_HEAD_MM = 100.0
"""A stack shorter than this may still grow: an adult head is 130 to 180 mm from skull base to vertex."""
MIN_SLICES = 12
MAX_STEP_RATIO = 1.9
"""Largest step over the median: scans change from thin to thick (measured: 4.2 to 7.4 mm); a lost slice doubles."""
MAX_STEP_MM = 10.0


STILL_GROWING = "still growing"
"""A series that is complete for no better reason is published as it is, whatever comes meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """What is known of a series while it comes in."""

    images: int
    open_since: datetime
    """When its first image came, of a later revision the first since the publication of the last."""
    last_image_at: datetime
    released_at: datetime | None
    """When the association that carried its last image ended."""
    positions_mm: Sequence[float]
    """Distance of each single image along the slice normal, mm, any order."""
    multi_frame: bool = False
    """Whether it holds a multi-frame image."""
    expected: int | None = None
    """How many images the source says the series has; None where it does not say."""
    awaited: bool = False
    """The source is being asked: positions alone do not say yet that the series is complete."""


def complete_because(arrivals: Arrivals, *, now: datetime, quiet_s: float, cap_s: float) -> str | None:
    """Why the series counts as complete now, in a few words, or None while it does not."""
    if arrivals.expected == arrivals.images:
        return f"the source says {arrivals.images} images"
    missing = max((arrivals.expected or 0) - arrivals.images, 0)  # a count that was overtaken says nothing
    released = arrivals.released_at is not None and arrivals.released_at >= arrivals.last_image_at
    settled = released and not missing and not arrivals.awaited
    if settled and arrivals.multi_frame:
        return "association released, multi-frame"
    if settled and is_contiguous_head(arrivals.positions_mm):
        return "association released, contiguous over a head"
    but = f", but the source has {missing} more" if missing else ""
    if now - arrivals.last_image_at >= timedelta(seconds=quiet_s):
        return f"no image for {quiet_s:g} s{but}"
    if now - arrivals.open_since >= timedelta(seconds=cap_s):
        return f"{STILL_GROWING} after {cap_s:g} s{but}"
    return None


def is_contiguous_head(positions_mm: Sequence[float]) -> bool:
    """Whether the slices cover a head's length without a gap."""
    if len(positions_mm) < MIN_SLICES:
        return False
    ordered = np.unique(np.round(np.asarray(positions_mm, dtype=np.float64), 2))
    if len(ordered) < MIN_SLICES or ordered[-1] - ordered[0] < MIN_HEAD_MM:
        return False
    steps = np.diff(ordered)
    return bool(steps.max() <= min(MAX_STEP_MM, MAX_STEP_RATIO * float(np.median(steps))))
