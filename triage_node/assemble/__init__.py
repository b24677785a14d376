"""The files of one CT series -> a Volume, or NotSuitable with the reason. Reads no clock, network or environment.

headers      what each image says of itself; no identity is read
frames       the same of each frame of a multi-frame image
stacks       what is no slice, what repeats, which slices belong together, which stack is analysed
geometry     order, tilt, gaps, and the millimetres that each slice stands for
primary      which series of a study is analysed: one of each acquisition
suitability  a recent, plain (no contrast), soft-tissue CT of a head?
pixels       stored values -> int16 HU
codestreams  the size that a compressed frame claims
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from triage_node.assemble.geometry import Geometry, measure
from triage_node.assemble.headers import Header, read_headers
from triage_node.assemble.pixels import require_rescale, stack_hounsfield
from triage_node.assemble.stacks import BEYOND_MM, Stack, beyond_mm, choose_stack
from triage_node.assemble.suitability import (
    BoolArray,
    reaches_edge,
    require_head_pixels,
    require_plain_head,
    require_recent,
)
from triage_node.domain import Volume

__all__ = ["assemble"]


def assemble(paths: Sequence[Path], *, oldest: datetime | None = None) -> Volume:
    """One Volume of the soft-tissue axial stack among the DICOM files of one series, in whatever order.

    `oldest` (aware): a series acquired before it is a prior; None switches that check off.
    The slices run from feet to head (LPS +z), sorted by position, never by InstanceNumber.
    Raises NotSuitable with a `NotAnalyzedReason` and a sentence for the radiologist.
    """
    if oldest is not None and oldest.tzinfo is None:
        raise ValueError("`oldest` must be an aware datetime")
    with python_warnings.catch_warnings():
        # pydicom's warnings quote element values, which may be patient data
        python_warnings.simplefilter("ignore")
        return _assemble(paths, oldest)


def _assemble(paths: Sequence[Path], oldest: datetime | None) -> Volume:
    headers = read_headers(paths)
    require_recent(headers, oldest)
    stack, notes = choose_stack(headers)
    require_plain_head(stack.slices[0])
    geometry = measure(stack)
    require_rescale(stack.slices)
    hu = stack_hounsfield(stack.slices)
    first = stack.slices[0]
    assert first.orientation is not None
    assert first.spacing_mm is not None
    inside = require_head_pixels(hu, first.spacing_mm, geometry.weights_mm)
    cut_off = inside & reaches_edge(hu, first.spacing_mm)
    partial = _partial(_height_mm(inside, geometry), beyond_mm(stack, headers))
    return Volume(
        hu=hu,
        sop_uids=tuple(header.sop_uid for header in stack.slices),
        paths=tuple(header.path for header in stack.slices),
        frame_numbers=tuple(header.frame_number for header in stack.slices),
        positions_mm=np.array([header.position_mm for header in stack.slices], dtype=np.float64),
        orientation=first.orientation,
        pixel_spacing_mm=first.spacing_mm,
        weights_mm=geometry.weights_mm,
        tilt_deg=geometry.tilt_deg,
        header=_summary(stack, geometry),
        warnings=(
            *((partial,) if partial else ()),
            *notes,
            *geometry.warnings,
            *_cut_off_warning(_height_mm(cut_off, geometry)),
            *_image_warnings(stack.slices),
            *_age_warning(first),
        ),
        partial=partial,
    )


ADULT_YEARS: Final = 18
WHOLE_HEAD_MM: Final = 90.0
"""Height over which bone encloses brain in a whole head: 121 mm in a real one, 115 to 136 mm in simulated ones."""
CUT_OFF_MM: Final = 10.0
"""Less of the height at the edge of the image is the tip of a nose."""


def _height_mm(which: BoolArray, geometry: Geometry) -> float:
    return float(geometry.weights_mm[which].sum())


def _cut_off_warning(cut_off_mm: float) -> Iterable[str]:
    if cut_off_mm >= CUT_OFF_MM:
        yield f"The field of view cuts off a part of the head on {cut_off_mm:.0f} mm of its height."


def _partial(enclosed_mm: float, left_out_mm: float) -> str | None:
    if enclosed_mm >= WHOLE_HEAD_MM:
        return None
    left_out = f"; images that were left out reach {left_out_mm:.0f} mm further" if left_out_mm > BEYOND_MM else ""
    return f"Only a part of the head was analysed: {enclosed_mm:.0f} mm of brain{left_out}."


def _age_warning(header: Header) -> Iterable[str]:
    """PatientAge is nnnD, nnnW, nnnM or nnnY (PS3.5 6.2, VR AS)."""
    age = header.text("PatientAge")
    if age[-1:] in ("D", "W", "M") or (age[-1:] == "Y" and age[:-1].isdigit() and int(age[:-1]) < ADULT_YEARS):
        yield f"The patient is younger than {ADULT_YEARS} years; the model is meant for adults."


def _image_warnings(slices: Sequence[Header]) -> Iterable[str]:
    if any(header.text("LossyImageCompression") == "01" for header in slices):
        yield "The images were compressed with loss."
    if any(header.text("PhotometricInterpretation") == "MONOCHROME1" for header in slices):
        yield "The images are stored to be shown inverted (MONOCHROME1); HU are not inverted."


def _summary(stack: Stack, geometry: Geometry) -> Mapping[str, str | float | int | None]:
    """What the header of the middle slice says of scanner, protocol, spacing and window. ProtocolName is free text."""
    middle = stack.slices[len(stack.slices) // 2]
    texts = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ProtocolName", "ConvolutionKernel")
    numbers = ("KVP", "SliceThickness", "GantryDetectorTilt", "WindowCenter", "WindowWidth")
    return {
        **{keyword: "\\".join(middle.texts(keyword)) or None for keyword in (*texts, "PixelSpacing")},
        **{keyword: middle.number(keyword) for keyword in numbers},
        **{keyword: int(middle.number(keyword) or 0) for keyword in ("Rows", "Columns")},
        "slices": len(stack.slices),
        "spacing_median_mm": round(float(np.median(geometry.steps_mm)), 3),
        "spacing_min_mm": round(float(geometry.steps_mm.min()), 3),
        "spacing_max_mm": round(float(geometry.steps_mm.max()), 3),
        "coverage_mm": round(float(geometry.weights_mm.sum()), 3),
    }
