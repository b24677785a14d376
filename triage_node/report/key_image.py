"""The picture every PACS shows: the key slice in a brain window, findings outlined and boxed, priority and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from triage_node.domain import (
    COLORS,
    DISCLAIMER,
    SUBTYPE_ABBREVIATIONS,
    Decision,
    Int16Array,
    Location,
    Prediction,
    Priority,
    Rgb,
    UInt8Array,
    Volume,
    probability_text,
)
from triage_node.report.canvas import BAND, INK, MARGIN_PX, PRIORITY_FILL, QUIET, Canvas
from triage_node.report.codes import SUBTYPE_CODES
from triage_node.report.findings import Finding
from triage_node.report.regions import Box, boxes_on, label_value

WINDOW_CENTER_HU: Final = 40
WINDOW_WIDTH_HU: Final = 80
IMAGE_PX: Final = 512
WIDTH_PX: Final = 640
HEADER_PX: Final = 104
LEGEND_LINE_PX: Final = 26
BOX_GAP_PX: Final = 7
FINE: Final = 4
"""Outlines are drawn at this multiple of the final size and averaged down."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a slice is turned so that the patient's right is on the left and anterior is up."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn one (rows, columns) slice."""
        turned = array.T if self.transpose else array
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def turned(self, box: Box, shape: tuple[int, ...]) -> tuple[Box, tuple[int, ...]]:
        """A box on a (rows, columns) slice, and that shape, as `apply` turns them."""
        if self.transpose:
            box, shape = Box(left=box.top, top=box.left, right=box.bottom, bottom=box.right), shape[::-1]
        if self.flip_rows:
            box = replace(box, top=shape[0] - box.bottom, bottom=shape[0] - box.top)
        if self.flip_columns:
            box = replace(box, left=shape[1] - box.right, right=shape[1] - box.left)
        return box, shape


def draw_key_image(
    *,
    volume: Volume,
    prediction: Prediction,
    decision: Decision,
    findings: Sequence[Finding],
    index: int,
) -> UInt8Array:
    """(rows, columns, 3) uint8 RGB of slice `index`, with its header, legend and disclaimer burned in."""
    legend_px = 2 * 16 + LEGEND_LINE_PX * max(len(findings), 1) + 30
    canvas = Canvas(WIDTH_PX, HEADER_PX + IMAGE_PX + legend_px)
    _draw_header(canvas, volume, prediction, decision, index)
    left = (WIDTH_PX - IMAGE_PX) // 2
    canvas.image.paste(slice_picture(volume, prediction, findings, index), (left, HEADER_PX))
    _draw_sides(canvas, left)
    _draw_footer(canvas, findings)
    return canvas.pixels()


def legend_line(finding: Finding) -> str:
    """ "Subdural 23 mL, left, slices 12-17, p 0.97"; what is not known is left out."""
    parts = [SUBTYPE_CODES[finding.subtype].label]
    if finding.volume_ml is not None:
        parts.append(f"{_milliliters(finding.volume_ml)} mL")
    text = ", ".join([" ".join(parts), *_where(finding.location)])
    if finding.probability is not None:
        text += f", p {probability_text(finding.probability)}"
    return text if finding.suspected else f"{text} (below threshold)"


def _where(location: Location | None) -> list[str]:
    """Side and slices, counted from below as in the header of the picture."""
    if location is None:
        return []
    first, last = (index + 1 for index in location.slices)
    slices = f"slice {first}" if first == last else f"slices {first}-{last}"
    return [*([location.laterality.value] if location.laterality else []), slices]


def brain_window(hu: Int16Array) -> UInt8Array:
    """(rows, columns) HU -> uint8 grey, window 80 around 40 HU (PS3.3 C.11.2.1.2)."""
    low = WINDOW_CENTER_HU - WINDOW_WIDTH_HU / 2
    grey = (hu.astype(np.float32) - low) / WINDOW_WIDTH_HU * 255
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def view_of(volume: Volume) -> View:
    """The turn that the orientation of the volume asks for."""
    along_row, along_column = volume.orientation
    transpose = abs(along_row[0]) < abs(along_column[0])
    if transpose:
        along_row, along_column = along_column, along_row
    return View(transpose=transpose, flip_rows=bool(along_column[1] < 0), flip_columns=bool(along_row[0] < 0))


# ---------------------------------------------------------------- picture


def slice_picture(volume: Volume, prediction: Prediction, findings: Sequence[Finding], index: int) -> Image.Image:
    view = view_of(volume)
    grey = _fit(view.apply(brain_window(volume.hu[index])), volume, view, IMAGE_PX, Image.Resampling.BICUBIC)
    picture = Image.merge("RGB", (grey, grey, grey))
    if prediction.mask is not None:
        _outline_all(picture, view.apply(prediction.mask[index]).astype(np.uint8), volume, view, findings)
    pixel_mm2 = volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]
    for finding in findings:
        found = boxes_on(prediction, finding.subtype, index, pixel_mm2)
        _draw_boxes(picture, [_fitted(box, volume, view) for box in found], finding)
    return picture


def _outline_all(
    picture: Image.Image, labels: UInt8Array, volume: Volume, view: View, findings: Sequence[Finding]
) -> None:
    for finding in findings:
        region = (labels == label_value(finding.subtype)).astype(np.uint8) * np.uint8(255)
        if region.any():
            _outline(picture, _fit(region, volume, view, IMAGE_PX * FINE, Image.Resampling.BILINEAR), finding)


def _fit(array: NDArray[np.generic], volume: Volume, view: View, size_px: int, how: int) -> Image.Image:
    """The turned slice, in true proportions, centred on a black square."""
    size, corner = _placed(volume, view, size_px)
    resized = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).resize(size, Image.Resampling(how))
    square = Image.new("L", (size_px, size_px))
    square.paste(resized, corner)
    return square


def _fitted(box: Box, volume: Volume, view: View) -> tuple[float, float, float, float]:
    """A box in pixels of the slice -> (left, top, right, bottom) in the picture."""
    (width, height), (left, top) = _placed(volume, view, IMAGE_PX)
    box, (rows, columns) = view.turned(box, volume.hu.shape[1:])
    across, down = width / columns, height / rows
    return left + box.left * across, top + box.top * down, left + box.right * across, top + box.bottom * down


def _placed(volume: Volume, view: View, size_px: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the turned slice in a square, and its corner (left, top) there."""
    height_mm, width_mm = _extent_mm(volume, view)
    scale = size_px / max(height_mm, width_mm)
    width, height = round(width_mm * scale), round(height_mm * scale)
    return (width, height), ((size_px - width) // 2, (size_px - height) // 2)


def _extent_mm(volume: Volume, view: View) -> tuple[float, float]:
    _, rows, columns = volume.hu.shape
    extent = rows * volume.pixel_spacing_mm[0], columns * volume.pixel_spacing_mm[1]
    return (extent[1], extent[0]) if view.transpose else extent


def _outline(picture: Image.Image, region: Image.Image, finding: Finding) -> None:
    """A thin line just outside the region, so that nothing of the lesion is covered."""
    ring = np.zeros(region.size[::-1], dtype=np.uint8)
    part = _with_border(region)
    inside = np.asarray(region)[part] >= 128
    ring[part] = (ndimage.binary_dilation(inside, iterations=round(FINE * 1.4)) & ~inside) * np.uint8(235)
    soft = Image.fromarray(ring).resize(picture.size, Image.Resampling.BOX)
    picture.paste(COLORS[finding.subtype], (0, 0), soft)


def _with_border(region: Image.Image) -> tuple[slice, slice]:
    """The rows and columns that a region and its outline need."""
    left, top, right, bottom = region.getbbox() or (0, 0, 0, 0)
    border = 2 * FINE
    return slice(max(top - border, 0), bottom + border), slice(max(left - border, 0), right + border)


def _draw_boxes(picture: Image.Image, found: Sequence[tuple[float, float, float, float]], finding: Finding) -> None:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(14)
    for left, top, right, bottom in found:
        box = (
            max(left - BOX_GAP_PX, 0),
            max(top - BOX_GAP_PX, 0),
            min(right + BOX_GAP_PX, IMAGE_PX - 1),
            min(bottom + BOX_GAP_PX, IMAGE_PX - 1),
        )
        draw.rectangle(box, outline=COLORS[finding.subtype])
        name = SUBTYPE_ABBREVIATIONS[finding.subtype]
        above = box[1] >= 18
        draw.text(
            (box[0] + 1, box[1] - 3 if above else box[3] + 3),
            name,
            fill=COLORS[finding.subtype],
            font=font,
            anchor="ls" if above else "lt",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


# ---------------------------------------------------------------- words


def _draw_header(canvas: Canvas, volume: Volume, prediction: Prediction, decision: Decision, index: int) -> None:
    canvas.band(0, HEADER_PX - 12)
    right = canvas.pill(MARGIN_PX, 30, f"AI {decision.priority}", 20, PRIORITY_FILL[decision.priority])
    canvas.text(right + 14, 30, _headline(decision), 21, bold=True)
    canvas.text(MARGIN_PX, 58, f"because: {decision.reason}", 16)
    bundle = prediction.bundle
    canvas.text(
        MARGIN_PX,
        79,
        f"Slice {index + 1} of {len(volume.paths)} from below  ·  W {WINDOW_WIDTH_HU} L {WINDOW_CENTER_HU}"
        f"  ·  model {bundle.name} {bundle.version}",
        13,
        QUIET,
    )


def _headline(decision: Decision) -> str:
    if decision.findings or decision.priority in (Priority.STAT, Priority.HIGH):
        return "Intracranial hemorrhage suspected"
    return "No intracranial hemorrhage detected"


def _draw_sides(canvas: Canvas, left: int) -> None:
    middle = HEADER_PX + IMAGE_PX // 2
    canvas.centered(left // 2, middle, "R", 22, INK)
    canvas.centered(canvas.width - left // 2, middle, "L", 22, INK)


def _draw_footer(canvas: Canvas, findings: Sequence[Finding]) -> None:
    top = HEADER_PX + IMAGE_PX + 12
    canvas.draw.rectangle((0, top, canvas.width, canvas.image.height), fill=BAND)
    y = top + 12 + LEGEND_LINE_PX // 2
    for finding in findings:
        color: Rgb = COLORS[finding.subtype]
        canvas.swatch(MARGIN_PX, y, 14, color)
        canvas.text(MARGIN_PX + 24, y, legend_line(finding), 16)
        y += LEGEND_LINE_PX
    if not findings:
        canvas.text(MARGIN_PX, y, "No single subtype reaches its threshold", 16)
        y += LEGEND_LINE_PX
    canvas.text(MARGIN_PX, y + 6, DISCLAIMER, 14, QUIET)


def _milliliters(volume_ml: float) -> str:
    if 0 < volume_ml < 0.1:
        return "<0.1"
    return f"{volume_ml:.0f}" if volume_ml >= 10 else f"{volume_ml:.1f}"
