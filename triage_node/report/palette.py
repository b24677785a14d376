"""Colours of the subtypes, the same in SEG and key image: Okabe and Ito's set, told apart by colour-blind readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Rgb = tuple[int, int, int]

COLORS: Final[Mapping[str, Rgb]] = {
    "epidural": (230, 159, 0),
    "intraparenchymal": (204, 121, 167),
    "intraventricular": (86, 180, 233),
    "subarachnoid": (240, 228, 66),
    "subdural": (0, 190, 140),
}
"""RGB, 0..255."""
