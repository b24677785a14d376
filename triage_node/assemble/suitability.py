"""Is this an analysable non-contrast head CT? What the header says, and what the pixels show."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage_node.assemble.headers import Header, taken_at
from triage_node.domain import Float64Array, Int16Array, NotAnalyzedReason, UInt8Array
from triage_node.errors import NotSuitable

BoolArray = NDArray[np.bool_]

# ---------------------------------------------------------------- what the header says

_BONE_KERNEL: Final = re.compile(
    r"BONE|EDGE|LUNG|SHARP|ULTRA"  # GE names
    r"|^(?!FC)[A-Z]{1,2}[6-9]\d"  # Siemens: H60s, B70f, Hr64h; the number is the sharpness
    r"|^FC(30|31|35|5\d|8\d)"  # Canon
    r"|^(Y?[DE]|YC|L)$"  # Philips
)
_BONE_WINDOW_WIDTH_HU: Final = 1500.0
_BONE_WINDOW_CENTER_HU: Final = 250.0
"""Bone presets are 1500 to 4000 wide around 300 to 700; brain is 80/40, soft tissue at most 400/50."""
_NO_AGENT: Final = frozenset({"", "NO", "NON", "NONE", "NIL", "N", "N/A", "NA", "0", "NO CONTRAST", "WITHOUT", "W/O"})

_NATIVE_TEXT: Final = re.compile(
    r"WITHOUT|\bW/? ?O\b|\bNON?[- ]?(IV )?CON|\bNON?[- ]?ENH|UNENH|NATIV|\bNCCT|\bNECT|\bNC\b|PLAIN|\bC-(?!\w)"
    r"|\bPRE[- ]?CON|\bSANS|\bOHNE|\bSIN CON|\bSENZA"
)
_CONTRAST_TEXT: Final = re.compile(
    r"\bCTA\b|ANGIO|\bCTV\b|VENOGR|PERFUS|\bCTP\b|\bC\+|\+C\b|\bPOST[- ]?CON|\bENHANCED|\bCECT\b|CONTRAST"
)
_HEAD_TEXT: Final = re.compile(
    r"\b(HEADS?|BRAINS?|SKULL|CRANI\w*|CEREBR\w*|NEUROCRANI\w*|STROKE|KOPF|SCHAEDEL|SCHADEL|CCT|NCCT|CRANE|TETE|CAPUT)\b"
)
_OTHER_PART_TEXT: Final = re.compile(
    r"\b(CHEST|THORA\w+|LUNGS?|ABD|ABDOM\w*|PELVI\w*|[CLT]?SPINE|NECK|HEART|CARDIAC|CORONARY|LIVER|KIDNEYS?|COLON|EXTREMIT\w*"
    r"|LEG|ARM|KNEE|FOOT|FEET|ANKLE|SHOULDER|HIP|HAND|WRIST|ELBOW|FEMUR|TIBIA|AORTA|SINUS\w*|FACIAL|ORBITS?|MANDIBLE"
    r"|MAXILLA|DENTAL|TEMPORAL BONES?|IACS?)\b"
)


def require_recent(headers: Iterable[Header], oldest: datetime | None) -> None:
    """Raise NotSuitable(PRIOR_STUDY) where the newest image is older than `oldest`; undated images are never prior."""
    if oldest is None:
        return
    moments = [moment for header in headers if (moment := taken_at(header, oldest.tzinfo)) is not None]
    if moments and max(moments) < oldest:
        raise NotSuitable(NotAnalyzedReason.PRIOR_STUDY, "The images are older than the age limit for triage.")


def require_plain_head(header: Header) -> None:
    """Raise NotSuitable(NOT_HEAD | CONTRAST | BONE_ONLY) for what the header of the chosen stack says."""
    if _names_another_part(header):
        raise NotSuitable(NotAnalyzedReason.NOT_HEAD, "The images are labelled as another part of the body.")
    if names_contrast_agent(header) or describes_contrast(header):
        raise NotSuitable(NotAnalyzedReason.CONTRAST, "The series is labelled as given contrast or as an angiography.")
    if is_bone_reconstruction(header):
        raise NotSuitable(
            NotAnalyzedReason.BONE_ONLY, "The series has only bone reconstructions; one of soft tissue is needed."
        )


def names_contrast_agent(header: Header) -> bool:
    """Whether the Contrast/Bolus module names an agent (PS3.3 C.7.6.4)."""
    agent = _plain(header.text("ContrastBolusAgent")).strip()
    none = agent in _NO_AGENT or agent.startswith("NONE ") or _NATIVE_TEXT.search(agent) is not None
    return not none or bool(header.texts("ContrastBolusAgentSequence"))


def is_bone_reconstruction(header: Header) -> bool:
    """Whether the kernel is a bone kernel; where no kernel is named, whether all windows are bone windows."""
    kernel = header.text("ConvolutionKernel").upper()
    if kernel:
        return _BONE_KERNEL.search(kernel) is not None
    widths, centers = header.numbers("WindowWidth"), header.numbers("WindowCenter")
    windows = list(zip(widths, centers, strict=False))
    return bool(windows) and all(
        width >= _BONE_WINDOW_WIDTH_HU and center >= _BONE_WINDOW_CENTER_HU for width, center in windows
    )


def describes_contrast(header: Header) -> bool:
    """Whether the series description speaks of contrast; where there is none, the protocol.

    Study description and protocol speak of the whole examination: a study ordered as CTA, or scanned by a stroke
    protocol, begins with the plain series that we are after. A CTA that slips through costs a false alarm, no miss.
    """
    text = _plain(header.text("SeriesDescription")) or _plain(header.text("ProtocolName"))
    return _NATIVE_TEXT.search(text) is None and _CONTRAST_TEXT.search(text) is not None


def _names_another_part(header: Header) -> bool:
    """The series description decides where it names a part; else another part must be named and the head nowhere."""
    series = _plain(header.text("SeriesDescription"))
    if _HEAD_TEXT.search(series):
        return False
    if _OTHER_PART_TEXT.search(series):
        return True
    texts = [_plain(header.text(keyword)) for keyword in ("BodyPartExamined", "ProtocolName", "StudyDescription")]
    return any(_OTHER_PART_TEXT.search(text) for text in texts) and not any(_HEAD_TEXT.search(text) for text in texts)


def _plain(text: str) -> str:
    """Capitals without accents; what parts words in protocol names is a space."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return re.sub(r"[_^,.;:()]+", " ", letters.upper())


# ---------------------------------------------------------------- what the pixels show

_GRID_MM: Final = 2.0
"""Resolution of the look inside: a skull is thicker, and noise of thin slices averages out."""
_BONE_HU: Final = 200
"""Infant skulls reach this at 2 mm; brain, blood and calcium-free tissue do not."""
_TISSUE_HU: Final = (-20.0, 110.0)
"""Brain, fluid and blood, with room for cupping and noise."""
_SIDES: Final = 3
"""Bone must be met in so many of the four directions: a removed bone flap opens one."""
_AREA_CM2: Final = (20.0, 300.0)
"""Inside of one skull slice: a newborn's near the vertex to a large adult's; a chest or belly is wider."""
_TISSUE_SHARE: Final = 0.5
"""Of what bone encloses: a head holds tissue, a chest mostly air; some air in an opened skull passes."""
_TISSUE_PER_BONE: Final = 0.5
"""A skull is thinner than what it holds; where the offset of the scale was lost, brain counts as bone."""
_DEPTH_MM: Final = 30.0
"""The inside of a skull is 100 mm high and more; a 60 mm scan of a head shows half of that."""
_EDGE_MM: Final = 30.0
"""Skin and an ear may touch the edge; skull along 30 mm of it is cut off (a real head, cropped: 40 mm and more)."""


def require_head_pixels(hu: Int16Array, pixel_spacing_mm: tuple[float, float], weights_mm: Float64Array) -> BoolArray:
    """(slices,) bool: where bone encloses a brain-sized region of soft tissue.

    Raises NotSuitable(NOT_HEAD) where that is hardly anywhere. Lenient on purpose: a labelled head is refused only
    where nothing in it can be the inside of a skull.
    """
    inside = np.array([_shows_inside_of_skull(slice_hu, pixel_spacing_mm) for slice_hu in hu])
    if float(weights_mm[inside].sum()) < _DEPTH_MM:
        raise NotSuitable(NotAnalyzedReason.NOT_HEAD, "No brain enclosed by a skull was found in the images.")
    return inside


def reaches_edge(hu: Int16Array, pixel_spacing_mm: tuple[float, float]) -> BoolArray:
    """(slices,) bool: where soft tissue or bone lies along an edge of the image, so that the field of view cut it."""
    return np.array([_along_edges_mm(slice_hu, pixel_spacing_mm) >= _EDGE_MM for slice_hu in hu])


def _along_edges_mm(slice_hu: Int16Array, pixel_spacing_mm: tuple[float, float]) -> float:
    down, across = _cell(pixel_spacing_mm)
    rows = slice_hu[:down].mean(axis=0), slice_hu[-down:].mean(axis=0)
    columns = slice_hu[:, :across].mean(axis=1), slice_hu[:, -across:].mean(axis=1)
    return sum(
        float(np.count_nonzero(edge > _TISSUE_HU[0])) * pixel_mm
        for edges, pixel_mm in ((rows, pixel_spacing_mm[1]), (columns, pixel_spacing_mm[0]))
        for edge in edges
    )


def _shows_inside_of_skull(slice_hu: Int16Array, pixel_spacing_mm: tuple[float, float]) -> bool:
    blocks, cell_mm2 = _blocks(slice_hu, pixel_spacing_mm)
    bone = blocks.max(axis=(1, 3)) > _BONE_HU
    mean = blocks.mean(axis=(1, 3))
    enclosed = (_sides_with_bone(bone) >= _SIDES) & ~bone
    tissue = enclosed & (mean > _TISSUE_HU[0]) & (mean < _TISSUE_HU[1])
    tissue_cm2, enclosed_cm2 = (float(np.count_nonzero(mask)) * cell_mm2 / 100 for mask in (tissue, enclosed))
    bone_cm2 = float(np.count_nonzero(bone)) * cell_mm2 / 100
    smallest, largest = _AREA_CM2
    return (
        smallest <= tissue_cm2
        and enclosed_cm2 <= largest
        and tissue_cm2 >= max(_TISSUE_SHARE * enclosed_cm2, _TISSUE_PER_BONE * bone_cm2)
    )


def _blocks(slice_hu: Int16Array, pixel_spacing_mm: tuple[float, float]) -> tuple[Int16Array, float]:
    """(rows, down, columns, across) int16: the slice in cells of about _GRID_MM, and the area of one cell in mm2."""
    down, across = _cell(pixel_spacing_mm)
    rows, columns = slice_hu.shape[0] // down, slice_hu.shape[1] // across
    cells = slice_hu[: rows * down, : columns * across].reshape(rows, down, columns, across)
    return cells, down * pixel_spacing_mm[0] * across * pixel_spacing_mm[1]


def _cell(pixel_spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Pixels (down, across) of a cell of about _GRID_MM."""
    down, across = (max(1, round(_GRID_MM / spacing)) for spacing in pixel_spacing_mm)
    return down, across


def _sides_with_bone(bone: BoolArray) -> UInt8Array:
    """(rows, columns) uint8: in how many of the four directions along rows and columns bone is met."""
    seen = np.logical_or.accumulate
    left, above = seen(bone, axis=1), seen(bone, axis=0)
    right, below = seen(bone[:, ::-1], axis=1)[:, ::-1], seen(bone[::-1], axis=0)[::-1]
    sides: UInt8Array = left.astype(np.uint8) + right + above + below
    return sides
