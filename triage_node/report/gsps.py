"""Findings -> Grayscale Softcopy Presentation States (PS3.3 A.33.1): outlines and words over the source images.

For viewers that show no SEG. Outlines are those of the mask, in a layer for each subtype that can be switched off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from highdicom import ModalityLUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import (
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from triage_node.domain import (
    COLORS,
    DISCLAIMER,
    SUBTYPE_ABBREVIATIONS,
    Float64Array,
    ObjectKind,
    Prediction,
    ResultObject,
)
from triage_node.errors import ReportError
from triage_node.report.canvas import INK
from triage_node.report.contours import enclosed, outlines
from triage_node.report.findings import Finding
from triage_node.report.groups import corners
from triage_node.report.instance import Context, finish, local_time, plain, read_back
from triage_node.report.key_image import WINDOW_CENTER_HU, WINDOW_WIDTH_HU, legend_line
from triage_node.report.regions import label_value
from triage_node.report.seg import CONTENT_DESCRIPTION
from triage_node.report.stack import refer_to_frames, reference_of

MAX_POINTS: Final = 8000
"""Of one polyline: Graphic Data is FL, 65534 bytes at most in Explicit VR (PS3.5 7.1.2)."""
_WORDS_LAYER: Final = "AI"
_LINE: Final = 0.035
"""Height of a line of text, as a part of the displayed area."""

Drawn = Mapping[tuple[str, int], Sequence[Float64Array]]
"""Polylines, (points, 2) column before row, by subtype and slice."""


def build_gsps(
    prediction: Prediction,
    findings: Sequence[Finding],
    key_slices: Sequence[int],
    slices: Sequence[Dataset],
    context: Context,
) -> list[ResultObject]:
    """The presentation states of the key slices and all that show a finding, read back and compared with the mask.

    `slices` are those of `stack.source_slices`, `key_slices` indices of them. One for all, unless they differ in
    rescale slope and intercept: a presentation state has one of each. Raises ReportError.
    """
    drawn = _drawn(prediction, findings)
    shown = sorted({*key_slices, *(index for _, index in drawn)})
    made = []
    for number, rescale in enumerate(dict.fromkeys(_rescale(slices[index]) for index in shown)):
        alike = [index for index in shown if _rescale(slices[index]) == rescale]
        state = _state(alike, drawn, findings, slices, context)
        made.append(finish(state, ObjectKind.GSPS, context, index=number))
    _require_same(made, prediction, findings, slices)
    return made


# ---------------------------------------------------------------- what is drawn


def _drawn(prediction: Prediction, findings: Sequence[Finding]) -> Drawn:
    """Round the mask, on every slice; of what is not segmented the boxes on its key slice, if it has any."""
    drawn: dict[tuple[str, int], Sequence[Float64Array]] = {}
    for finding in findings:
        for index in _segmented_on(prediction, finding):
            drawn[finding.subtype, index] = outlines(_region(prediction, finding, index))
        if not finding.segmented:
            drawn[finding.subtype, finding.slice_index] = [np.array(corners(b)).reshape(-1, 2) for b in finding.boxes]
    return drawn


def _segmented_on(prediction: Prediction, finding: Finding) -> list[int]:
    if prediction.mask is None or not finding.segmented:
        return []
    found: list[int] = np.flatnonzero((prediction.mask == label_value(finding.subtype)).any(axis=(1, 2))).tolist()
    return found


def _region(prediction: Prediction, finding: Finding, index: int) -> NDArray[np.bool_]:
    assert prediction.mask is not None
    region: NDArray[np.bool_] = prediction.mask[index] == label_value(finding.subtype)
    return region


# ---------------------------------------------------------------- presentation state


def _state(
    shown: Sequence[int], drawn: Drawn, findings: Sequence[Finding], slices: Sequence[Dataset], context: Context
) -> Dataset:
    images = [slices[index] for index in shown]
    drawn = {place: lines for place, lines in drawn.items() if place[1] in shown}
    slope, intercept = _rescale(images[0])
    words = GraphicLayer(_WORDS_LAYER, order=1, description="What this is", display_color=CIELabColor.from_rgb(*INK))
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=images,
        series_instance_uid=context.uids.series(ObjectKind.GSPS),
        series_number=1,
        sop_instance_uid=context.uids.sop(ObjectKind.GSPS),
        instance_number=1,
        manufacturer=context.producer.manufacturer,
        manufacturer_model_name=context.producer.model_name,
        software_versions=context.producer.software_version or "unknown",
        device_serial_number=context.producer.node_name,
        content_label="ICH",
        content_description=CONTENT_DESCRIPTION,
        graphic_layers=[words, *(_layer(finding, order) for order, finding in enumerate(findings, start=2))],
        modality_lut_transformation=ModalityLUTTransformation(
            rescale_intercept=intercept, rescale_slope=slope, rescale_type="HU"
        ),
        voi_lut_transformations=[SoftcopyVOILUTTransformation([WINDOW_CENTER_HU], [WINDOW_WIDTH_HU], ["BRAIN"])],
    )
    state.GraphicAnnotationSequence = [
        _heading(context),
        *_legends(drawn, findings, slices),
        *_lines(drawn, slices),
    ]
    _display_in_proportion(state, images[0])
    moment = local_time(context)
    state.PresentationCreationDate = moment.strftime("%Y%m%d")
    state.PresentationCreationTime = moment.strftime("%H%M%S")
    state.ContentCreatorName = None  # Type 2 (PS3.3 table 10-12): nobody drew it
    refer_to_frames(state, slices)
    return state


def _rescale(slice_: Dataset) -> tuple[float, float]:
    return float(slice_.RescaleSlope), float(slice_.RescaleIntercept)


def _layer(finding: Finding, order: int) -> GraphicLayer:
    color = CIELabColor.from_rgb(*COLORS[finding.subtype])
    name = SUBTYPE_ABBREVIATIONS[finding.subtype]
    return GraphicLayer(name, order=order, description=f"{finding.subtype} hemorrhage", display_color=color)


def _display_in_proportion(state: Dataset, slice_: Dataset) -> None:
    """highdicom takes pixels for squares, and every image for one of tiles."""
    (area,) = state.DisplayedAreaSelectionSequence
    del area.PresentationPixelAspectRatio, area.PixelOriginInterpretation
    area.PresentationPixelSpacing = slice_.PixelSpacing


# ---------------------------------------------------------------- annotations
# without highdicom's GraphicAnnotation, which looks up in the standard, 2 ms a time, whether a CT has pixels


def _heading(context: Context) -> Dataset:
    """On every slice: what the series description says, above; what this must not be used for, below."""
    item = Dataset()
    item.GraphicLayer = _WORDS_LAYER
    item.TextObjectSequence = [_text(context.series_description, 0.0), _text(DISCLAIMER, 1 - _LINE)]
    return item


def _legends(drawn: Drawn, findings: Sequence[Finding], slices: Sequence[Dataset]) -> list[Dataset]:
    """A line for each finding below the heading, on the slices that show it."""
    legends = []
    for line, finding in enumerate(findings, start=1):
        if on := [slices[index] for subtype, index in drawn if subtype == finding.subtype]:
            item = _annotation(finding.subtype, on)
            item.TextObjectSequence = [_text(legend_line(finding), line * _LINE)]
            legends.append(item)
    return legends


def _lines(drawn: Drawn, slices: Sequence[Dataset]) -> list[Dataset]:
    annotations = []
    for (subtype, index), lines in drawn.items():
        if lines:
            item = _annotation(subtype, [slices[index]])
            pieces = [piece for line in lines for piece in _pieces(line)]
            item.GraphicObjectSequence = [GraphicObject("POLYLINE", piece, units="PIXEL") for piece in pieces]
            annotations.append(item)
    return annotations


def _annotation(subtype: str, images: Sequence[Dataset]) -> Dataset:
    """An item of the Graphic Annotation Sequence, yet without what is drawn."""
    item = Dataset()
    item.GraphicLayer = SUBTYPE_ABBREVIATIONS[subtype]
    item.ReferencedImageSequence = [_reference(image) for image in images]
    return item


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _text(text: str, top: float) -> TextObject:
    """One line in the displayed area; a head leaves its corners free."""
    return TextObject(
        plain(text), units="DISPLAY", bounding_box=(0.0, top, 1.0, min(top + _LINE, 1.0)), text_justification="LEFT"
    )


def _pieces(line: Float64Array) -> list[Float64Array]:
    """A polyline as one or more of MAX_POINTS at most, each beginning where the one before it ends."""
    return [line[start : start + MAX_POINTS] for start in range(0, len(line) - 1, MAX_POINTS - 1)]


# ---------------------------------------------------------------- read-back


def _require_same(
    made: Sequence[ResultObject], prediction: Prediction, findings: Sequence[Finding], slices: Sequence[Dataset]
) -> None:
    """Raise ReportError unless what a viewer draws encloses exactly the mask."""
    drawn = {place: lines for one in made for place, lines in _read(read_back(one)).items()}
    for finding in findings:
        for index in _segmented_on(prediction, finding):
            region = _region(prediction, finding, index)
            lines = drawn.get((SUBTYPE_ABBREVIATIONS[finding.subtype], *reference_of(slices[index])), [])
            if not np.array_equal(enclosed(lines, region.shape), region):
                raise ReportError("GSPS: the outlines do not enclose the mask")


def _read(state: Dataset) -> dict[tuple[str, str, int | None], list[Float64Array]]:
    """Polylines by layer and image, or frame, that they lie on."""
    return {
        (annotation.GraphicLayer, str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber")): [
            np.array(graphic.GraphicData).reshape(-1, 2) for graphic in annotation.GraphicObjectSequence
        ]
        for annotation in state.GraphicAnnotationSequence
        if "GraphicObjectSequence" in annotation
        for image in annotation.ReferencedImageSequence
    }
