"""The files of one CT series -> a Volume, or NotSuitable with the reason. Reads no clock, network or environment.

headers      what each file says of itself; no identity is read
stacks       what is no slice, what repeats, which slices belong together, which stack is analysed
geometry     order, tilt, gaps, and the millimetres that each slice stands for
suitability  a recent, plain (no contrast), soft-tissue CT of a head?
pixels       stored values -> int16 HU
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from triage_node.assemble.geometry import Geometry, measure
from triage_node.assemble.headers import Header, read_headers
from triage_node.assemble.pixels import require_rescale, stack_hounsfield
from triage_node.assemble.stacks import Stack, choose_stack
from triage_node.assemble.suitability import require_head_pixels, require_plain_head, require_recent
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
    require_head_pixels(hu, first.spacing_mm, geometry.weights_mm)
    return Volume(
        hu=hu,
        sop_uids=tuple(header.sop_uid for header in stack.slices),
        paths=tuple(header.path for header in stack.slices),
        positions_mm=np.array([header.position_mm for header in stack.slices], dtype=np.float64),
        orientation=first.orientation,
        pixel_spacing_mm=first.spacing_mm,
        weights_mm=geometry.weights_mm,
        tilt_deg=geometry.tilt_deg,
        header=_summary(stack, geometry),
        warnings=(*notes, *geometry.warnings, *_image_warnings(stack.slices)),
    )


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
