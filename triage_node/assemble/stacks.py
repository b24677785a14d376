"""Split the files of a series into stacks that can be one volume, and choose the one to analyse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from triage_node.assemble.frames import CT_IMAGE_STORAGE, ENHANCED_CT
from triage_node.assemble.headers import Header
from triage_node.assemble.pixels import each_hounsfield
from triage_node.assemble.suitability import is_bone_reconstruction, names_contrast_agent
from triage_node.domain import Float64Array, NotAnalyzedReason
from triage_node.errors import NotSuitable

NO_STACK_IMAGE_TYPES: Final = frozenset(
    {"LOCALIZER", "SCOUT", "TOPOGRAM", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "PROJECTION IMAGE"}
    | {"SCREEN SAVE", "VRT"}
)
"""Values of ImageType, or of FrameType, after the first two that mark an image which is no slice of the patient."""

ORIENTATION_TOLERANCE: Final = 1e-3
"""Direction cosines of one stack agree to their printed digits; 1e-3 is 0.06 degrees, 0.1 mm across a head."""
SAME_POSITION_MM: Final = 0.1
"""Slices nearer than this show the same tissue: a third of the thinnest head CT step in use (0.3 mm)."""
RUN_BREAK: Final = 2.5
"""A gap of more than so many median steps ends a run of slices that were surely acquired together."""
AXIAL_LIMIT_DEG: Final = 45.0
"""Beyond this the slice is nearer to coronal or sagittal; gantry tilt and head position stay below 35 degrees."""
BEYOND_MM: Final = 10.0
"""Slices that reach further than this beyond the analysed ones show anatomy of their own."""
SAME_COVERAGE: Final = 0.8
"""A stack that covers this part of the longest one's extent shows the same anatomy; spacing may then decide."""
PREFERRED_SPACING_MM: Final = (2.4, 5.1)
"""Routine reading reconstructions (2.5 to 5 mm): less noise per slice than thin ones, and what models are made for."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices of one orientation, matrix and reconstruction at distinct positions, from feet to head."""

    slices: tuple[Header, ...]

    @property
    def depths_mm(self) -> Float64Array:
        """(slices,) float64, strictly growing, mm along the normal."""
        return np.array([header.depth_mm for header in self.slices])

    @property
    def extent_mm(self) -> float:
        """From the centre of the first slice to the centre of the last."""
        return float(self.depths_mm[-1] - self.depths_mm[0])

    @property
    def is_axial(self) -> bool:
        """Whether its slices are axial."""
        return is_axial(self.slices[0])


def is_axial(header: Header) -> bool:
    """Whether the slice normal is nearer to the body axis than AXIAL_LIMIT_DEG."""
    return bool(header.normal[2] > np.cos(np.radians(AXIAL_LIMIT_DEG)))


def choose_stack(headers: Sequence[Header]) -> tuple[Stack, tuple[str, ...]]:
    """The soft-tissue axial stack to analyse, and a sentence for everything that was left out.

    Raises NotSuitable(LOCALIZER | NO_GEOMETRY | UNREADABLE).
    """
    images, notes = _without_other_objects(headers)
    located, geometry_notes = _with_geometry(images)
    single, duplicate_notes = _without_duplicates(located)
    stacks = [stack for group in _groups(single) for stack in _disjoint_stacks(group)]
    chosen = _preferred(stacks)
    return chosen, (*notes, *geometry_notes, *duplicate_notes, *_left_out(stacks, chosen))


def beyond_mm(stack: Stack, headers: Sequence[Header]) -> float:
    """How far axial slices of the series that are not in `stack` reach beyond its ends, mm; 0 where none does."""
    first, last = stack.depths_mm[0], stack.depths_mm[-1]
    others = [
        header.depth_mm
        for header in headers
        if is_ct_slice(header) and header.orientation is not None and header.position_mm is not None
        if Stack(slices=(header,)).is_axial
    ]
    return float(max([0.0, *(first - depth for depth in others), *(depth - last for depth in others)]))


# ---------------------------------------------------------------- what is no slice


def _without_other_objects(headers: Sequence[Header]) -> tuple[list[Header], tuple[str, ...]]:
    images = [header for header in headers if is_ct_slice(header)]
    if not images:
        raise NotSuitable(
            NotAnalyzedReason.LOCALIZER, "The series holds only localizers, color pictures or projections, no slices."
        )
    dropped = len(headers) - len(images)
    return images, (f"{_images(dropped)} left out: localizer, color picture or projection.",) if dropped else ()


def is_ct_slice(header: Header) -> bool:
    """Whether an image is a slice of the patient: no localizer, no projection, no colour picture."""
    return (
        header.text("SOPClassUID") in {CT_IMAGE_STORAGE, *ENHANCED_CT}
        and header.number("SamplesPerPixel") in (None, 1.0)
        and not NO_STACK_IMAGE_TYPES.intersection(value.upper() for value in header.texts("ImageType")[2:])
    )


def _with_geometry(headers: list[Header]) -> tuple[list[Header], tuple[str, ...]]:
    located = [
        header
        for header in headers
        if header.orientation is not None and header.position_mm is not None and header.spacing_mm is not None
    ]
    if not located:
        raise NotSuitable(
            NotAnalyzedReason.NO_GEOMETRY, "The images carry no usable position, orientation or pixel spacing."
        )
    lost = len(headers) - len(located)
    return located, (f"{_images(lost)} left out: no usable position, orientation or pixel spacing.",) if lost else ()


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Drop an image that repeats another one's UID (and frame), or its place and pixels."""
    by_uid: dict[tuple[str, int | None], Header] = {}
    for header in headers:
        by_uid.setdefault((header.sop_uid, header.frame_number), header)
    places: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in by_uid.values():
        places[_place(header)].append(header)
    crowded = [header for place in places.values() if len(place) > 1 for header in place]
    pixels = {crowded[index]: sha256(hu.tobytes()).digest() for index, hu in each_hounsfield(crowded)}
    single = [
        header
        for place in places.values()
        for index, header in enumerate(place)
        if header not in pixels or pixels[header] not in (pixels[other] for other in place[:index])
    ]
    repeated = len(headers) - len(single)
    return single, (f"{_images(repeated)} left out: exact duplicate.",) if repeated else ()


def _place(header: Header) -> tuple[object, ...]:
    assert header.position_mm is not None
    assert header.orientation is not None
    position = tuple(np.round(header.position_mm / SAME_POSITION_MM).tolist())
    orientation = tuple(np.round(header.orientation.ravel() / ORIENTATION_TOLERANCE).tolist())
    return (position, orientation, _thickness_mm(header), *_key(header).values())


# ---------------------------------------------------------------- grouping


def _key(header: Header) -> dict[str, object]:
    """What all slices of one stack share, by the word that names it in a sentence."""
    assert header.spacing_mm is not None
    return {
        "frame of reference": header.text("FrameOfReferenceUID"),
        "matrix": _matrix(header),
        "pixel spacing": tuple(round(value, 4) for value in header.spacing_mm),
        "image type": header.texts("ImageType")[:3],
        "kernel": header.texts("ConvolutionKernel"),
        "contrast": names_contrast_agent(header),
        "stack": header.text("StackID"),
    }


def _groups(headers: list[Header]) -> list[list[Header]]:
    """Images that agree in `_key` and, within the tolerance, in orientation."""
    groups: list[list[Header]] = []
    for header in headers:
        for group in groups:
            if _same_orientation(header, group[0]) and _key(header) == _key(group[0]):
                group.append(header)
                break
        else:
            groups.append([header])
    return groups


def _disjoint_stacks(group: list[Header]) -> Iterable[Stack]:
    """Stacks without two slices at one place.

    A run that continues another one joins it, less the slices where the two overlap.
    Thickness and AcquisitionNumber only tell apart what overlaps: sequential scanners count an acquisition per table
    position and scan the skull base thinner than the brain, all of it one stack (measured: GE HiSpeed Dual).
    """
    for pool in _thicknesses_side_by_side(group):
        stacks: list[list[Header]] = []
        for run in sorted(_runs(pool), key=_run_order):
            for stack in stacks:
                beyond = [header for header in run if stack[-1].depth_mm + SAME_POSITION_MM < header.depth_mm]
                if 2 * len(beyond) >= len(run):  # a repeat of the same anatomy has almost nothing beyond
                    overlap = run[: len(run) - len(beyond)]
                    stack.extend(beyond)
                    stacks += [overlap] if overlap else []
                    break
            else:
                stacks.append(list(run))
        yield from (Stack(slices=tuple(stack)) for stack in stacks)


def _thicknesses_side_by_side(group: list[Header]) -> list[list[Header]]:
    """Slices of thicknesses that cover different parts of the patient together, those that overlap apart."""
    by_thickness: dict[float | None, list[Header]] = defaultdict(list)
    for header in sorted(group, key=lambda header: header.depth_mm):
        by_thickness[_thickness_mm(header)].append(header)
    pools: list[tuple[list[Header], list[tuple[float, float]]]] = []
    for slices in sorted(by_thickness.values(), key=len, reverse=True):
        spans = [(part[0].depth_mm, part[-1].depth_mm) for part in _unbroken(slices)]
        step_mm = _usual_step_mm(slices)  # so much may a change of thickness overlap
        for members, taken in pools:
            if not any(
                min(high, other_high) - max(low, other_low) >= step_mm
                for low, high in spans
                for other_low, other_high in taken
            ):
                members.extend(slices)
                taken.extend(spans)
                break
        else:
            pools.append((list(slices), spans))
    return [members for members, _ in pools]


def _runs(group: list[Header]) -> Iterable[list[Header]]:
    """Unbroken sequences of slices of one thickness and acquisition; a repeated place begins another layer."""
    layers: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in sorted(group, key=lambda header: (header.depth_mm, *_scan_order(header))):
        layer = 0
        key = (_thickness_mm(header), header.number("AcquisitionNumber"))
        while layers[(*key, layer)] and header.depth_mm - layers[(*key, layer)][-1].depth_mm < SAME_POSITION_MM:
            layer += 1
        layers[(*key, layer)].append(header)
    for slices in layers.values():
        yield from _unbroken(slices)


def _unbroken(slices: list[Header]) -> Iterable[list[Header]]:
    """Parts of slices in order of depth, split where a step is far longer than usual; repeats do not count as steps."""
    steps = np.diff([header.depth_mm for header in slices])
    breaks = (np.flatnonzero(steps > RUN_BREAK * (_usual_step_mm(slices) or np.inf)) + 1).tolist()
    for first, last in zip([0, *breaks], [*breaks, len(slices)], strict=True):
        yield slices[first:last]


def _usual_step_mm(slices: list[Header]) -> float:
    """Median way between neighbours in order of depth, repeats aside; 0 where there is none."""
    steps = np.diff([header.depth_mm for header in slices])
    usual = steps[steps >= SAME_POSITION_MM]
    return float(np.median(usual)) if len(usual) else 0.0


def _run_order(run: list[Header]) -> tuple[object, ...]:
    return (round(run[0].depth_mm / SAME_POSITION_MM), -len(run), *_scan_order(run[0]))


def _scan_order(header: Header) -> tuple[object, ...]:
    moment = header.text("AcquisitionDateTime") or header.text("AcquisitionTime")
    return (moment, header.number("InstanceNumber") or 0.0, header.sop_uid, header.frame_number or 0)


# ---------------------------------------------------------------- choosing


def _preferred(stacks: Sequence[Stack]) -> Stack:
    """Axial, without contrast, soft tissue; then the whole head; then 2.5 to 5 mm; then the most slices."""
    suitable = [stack for stack in stacks if _class(stack) == max(_class(stack) for stack in stacks)]
    longest = max(stack.extent_mm for stack in suitable)
    whole = [stack for stack in suitable if stack.extent_mm >= SAME_COVERAGE * longest]
    return max(whole, key=lambda stack: (_has_preferred_spacing(stack), len(stack.slices), stack.extent_mm))


def _class(stack: Stack) -> tuple[bool, bool, bool]:
    first = stack.slices[0]
    return (stack.is_axial, not is_bone_reconstruction(first), not names_contrast_agent(first))


def _has_preferred_spacing(stack: Stack) -> bool:
    if len(stack.slices) < 2:
        return False
    smallest, largest = PREFERRED_SPACING_MM
    return smallest <= float(np.median(np.diff(stack.depths_mm))) <= largest


def _left_out(stacks: Sequence[Stack], chosen: Stack) -> Iterable[str]:
    images: dict[str, int] = defaultdict(int)
    for stack in stacks:
        if stack is not chosen:
            images[_difference(stack.slices[0], chosen.slices[0])] += len(stack.slices)
    for difference, count in images.items():
        yield f"{_images(count)} left out: {difference}."


def _difference(other: Header, chosen: Header) -> str:
    if not _same_orientation(other, chosen):
        return "another orientation"
    wanted = _key(chosen)
    names = [name for name, value in _key(other).items() if value != wanted[name]]
    if names:
        return "another " + " and ".join(names)
    if _thickness_mm(other) != _thickness_mm(chosen):
        return "another slice thickness"
    return "a second image at the same place"


def _same_orientation(one: Header, other: Header) -> bool:
    assert one.orientation is not None
    assert other.orientation is not None
    return bool(np.abs(one.orientation - other.orientation).max() <= ORIENTATION_TOLERANCE)


def _matrix(header: Header) -> tuple[float | None, float | None]:
    return (header.number("Rows"), header.number("Columns"))


def _thickness_mm(header: Header) -> float | None:
    """SliceThickness to 0.1 mm: what differs by less is one scan with a rounded header."""
    thickness = header.number("SliceThickness")
    return None if thickness is None else round(thickness, 1)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
