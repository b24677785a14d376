"""A picture of one head CT slice (PNG or JPEG, window unknown) as a Volume of one slice. numpy, scipy and pillow only.

A picture has neither Hounsfield units nor millimetres. Both are made up in one fixed way, by which training reads its
pictures, too (learn.picture): grey 0..255 counts as 0..80 HU, what a much wider window shows is spread, and the longer
side of the head's box is HEAD_MM. Inverted pictures are turned back first.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from triage_node.domain import Int16Array, UInt8Array, Volume
from triage_node.errors import UsageError

HEAD_MM: Final = 190.0
"""What the longer side of a head in an axial slice measures, nose excluded."""
WHITE_HU: Final = 80.0
"""Grey 255; black is 0 HU: the brain window, centre 40, width 80."""
_FORMATS: Final = ("PNG", "JPEG")
_READ_ERRORS: Final = (
    OSError, EOFError, SyntaxError, ValueError, KeyError, AttributeError, TypeError, IndexError, OverflowError,
    RuntimeError, NotImplementedError, Image.DecompressionBombError, struct.error, zlib.error,
)  # fmt: skip
"""What pillow raises on broken files; on odd EXIF, which it writes anew when it turns a picture, also TypeError."""
_GREY_MODES: Final = ("1", "L")
_LEAST_PX: Final = 32
_LONGEST: Final = 4
_ENOUGH_PX: Final = 1024
_MOST_PX: Final = 50_000_000
"""More pixels than any slice has; a file of few bytes may claim any number."""
_CANVAS_HEADS: Final = 1.3
"""Side of the square around the head, in its longer sides: wider than the grid of a network."""
_LOOK_PX: Final = 256
"""The head is looked for in a copy of at most this size."""
_CORNER_SHARE: Final = 0.06
_QUIET_GREY: Final = 8.0
"""Half of the pixels of a corner lie this near to its median where it is background; brain is noisier."""
_BORDER_SHARE: Final = 0.6
_LEAST_CONTRAST_GREY: Final = 16.0
_OPENING_SHARE: Final = 0.012
"""Letters and scale bars have strokes up to twice this share of the picture."""
_LEAST_HEAD_SHARE: Final = 0.08
_BRIGHT_GREY: Final = 200.0
"""A lighter background is black to the network whatever the head shows: a slice at the vertex is mostly bone."""
_WHITE_GREY: Final = 235.0
_SATURATED_GREY: Final = 10
"""So near to black or white lies what is beyond the window: bone, fat, air."""
_SHELL_PX: Final = 2 * _LOOK_PX
"""A thin skull is lost in a smaller copy."""
_GAP_PX: Final = 2
_SHELL_SHARE: Final = 0.4
_BONE_WITHIN: Final = 0.1
"""Of such a shell and what it encloses; measured on 28 slices of a real head in windows of 60 to 350 HU, inverted or on
white."""
_SMALL_PX: Final = 95
"""Of the longer side of the head, 2 mm each: noise averages out."""
_DEEP_MM: Final = 12.0
_OFF_BONE_MM: Final = 4.0
_BONE_GREY: Final = 0.93
"""Of the brightest in the head."""
_BLACK_GREY: Final = 3.0
_LEAST_TISSUE_PX: Final = 60
_TISSUE_HU: Final = 33.0
_TISSUE_SPREAD_HU: Final = 9.0
"""Between the quartiles of what is deep in the head: 8 in simulated slices (5 to 11 in eight of ten), 10 in those of a
real head (9 to 12; measured)."""
_WIDE_HU: Final = 180.0
_WIDEST_HU: Final = 1000.0
_WHITE_PERCENT: Final = 99.0
_SKULL_MM: Final = 15.0
"""So deep reaches bone, scalp included."""
_SKULL_PERCENT: Final = 90.0
"""Of what lies so near to the edge a tenth and more is bone wherever skull is shown."""
_SAME_WHITE: Final = 0.95
"""Brain without skull differs more: 0.87 (median of a real head)."""
_SEEN_TISSUE: Final = 0.4
"""Of the tissue that another colour shows: in a heat map the brain is white to red, and black to blue."""
_HU_OFFSETS: Final = (1024, 32768)
"""What is added to Hounsfield units where files of 16 bits hold them."""
_SOFT_TISSUE_HU: Final = (10, 60)
_BONE_SHARE: Final = 0.045
"""Skull and scalp, 8 mm of 180."""
_NO_BONE_SHARE: Final = 0.03
_PANEL_FILL: Final = 0.93
"""A head fills some 79 % of its box (an ellipse); what fills more is a picture within the picture."""
_PANELS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the head lies in a picture."""

    rows: slice
    columns: slice
    """Its box, pixels."""
    mask: NDArray[np.bool_] | None
    """(rows, columns) of the picture; None where no head stood out, and the box is the whole picture or panel."""
    background: float
    """Grey around the head; 0 where none was found."""

    @property
    def longer_side_px(self) -> int:
        return max(int(along.stop - along.start) for along in (self.rows, self.columns))


def read_picture(source: Path | BinaryIO) -> UInt8Array:
    """(rows, columns) uint8 grey of a PNG or JPEG file: grey or colour, palette, 16 bits, transparent on black.

    Of colours that differ in most of the head, as where each shows a window, or of their luminance, that which is most
    like the brain window. Pixels of 16 bits are brought to 8 through the brain window if they are Hounsfield units plus
    1024 or 32768, else by the bits that are in use; pictures of 2048 pixels and more are made smaller by a whole
    factor. Raises UsageError with the reason, not the path.
    """
    try:
        with Image.open(source, formats=_FORMATS) as image:
            _require_size(image)
            grey = _grey(ImageOps.exif_transpose(image))
            return np.asarray(Image.fromarray(grey).reduce(max(1, max(grey.shape) // _ENOUGH_PX)))
    except _READ_ERRORS as error:
        raise UsageError("no readable PNG or JPEG picture") from error


def picture_volume(grey: UInt8Array) -> Volume:
    """(rows, columns) uint8 grey to a Volume of one slice, the head in the middle of a square, nose up.

    Its HU and millimetres are conventions (see above): volumes in mL mean nothing.
    """
    grey = bone_white(grey)
    head = find_head(grey)
    shown, surround = on_dark(grey, head)
    spacing_mm = HEAD_MM / head.longer_side_px
    return Volume(
        hu=hu_of_grey(grey, head)[_centred(shown, head, surround)][None],
        sop_uids=(),
        paths=(),
        positions_mm=np.zeros((1, 3)),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(spacing_mm, spacing_mm),
        weights_mm=np.array([5.0]),
        tilt_deg=0.0,
        header={},
    )


def picture_mask(mask: NDArray[np.bool_], grey: UInt8Array) -> NDArray[np.bool_]:
    """(rows, columns) bool over the picture `grey` to (1, side, side) over `picture_volume(grey)`."""
    return _centred(mask.astype(np.uint8), find_head(bone_white(grey)), 0)[None] > 0


def bone_white(grey: UInt8Array) -> UInt8Array:
    """(rows, columns) uint8, turned back where it is inverted: on a light background a black shell with no bone in it.

    A page may as well be white around a head whose bone is white: there fat is the black shell, and bone lies within.
    """
    head = find_head(grey)
    if head.mask is None or head.background <= _BRIGHT_GREY:
        return grey
    factor = max(1, -(-max(grey.shape) // _SHELL_PX))
    small, mask = np.asarray(Image.fromarray(grey).reduce(factor)), head.mask[::factor, ::factor]
    black = mask & (small <= _SATURATED_GREY)
    within = _largest(ndimage.binary_fill_holes(_closed(black)))
    if within.sum() < _SHELL_SHARE * mask.sum():
        return grey
    has_bone = np.mean(small[within] >= 255 - _SATURATED_GREY) > _BONE_WITHIN
    return grey if has_bone else 255 - grey


def find_head(grey: UInt8Array) -> Head:
    """The largest piece that differs from the background, of a (rows, columns) uint8 picture.

    The background may be black, grey or white, and letters may stand on it; it is what the quiet corners agree on. A
    piece that fills its box is a panel with margins around it: the head is looked for inside. Where nothing stands out,
    the head is taken to fill the picture.
    """
    rows, columns = slice(0, grey.shape[0]), slice(0, grey.shape[1])
    for _ in range(_PANELS):
        found = _piece(grey[rows, columns])
        if found is None:
            break
        mask, background = found
        box_rows, box_columns = _box(mask)
        box = _shifted(box_rows, rows.start), _shifted(box_columns, columns.start)
        if not _is_panel(mask):
            whole = np.zeros(grey.shape, np.bool_)
            whole[rows, columns] = mask
            return Head(rows=box[0], columns=box[1], mask=whole, background=background)
        if min(box_rows.stop - box_rows.start, box_columns.stop - box_columns.start) < _LEAST_PX:
            break
        rows, columns = _without_frame(*box)
    return Head(rows=rows, columns=columns, mask=None, background=0.0)


def on_dark(grey: UInt8Array, head: Head) -> tuple[UInt8Array, int]:
    """(rows, columns) uint8 and the grey to go on with around it: black for a light background, air is so on CT."""
    if head.mask is not None and head.background > min(_BRIGHT_GREY, np.median(grey[head.mask])):
        return np.where(head.mask, grey, 0).astype(np.uint8), 0
    return grey, round(head.background)


def hu_of_grey(grey: UInt8Array, head: Head) -> Int16Array:
    """(256,) int16 HU that the levels of a (rows, columns) uint8 picture count as.

    As through the brain window, bone is white; where the tissue is much more alike than there, as through a window that
    much wider.
    """
    small = _small(grey, head)
    window = _tissue_window(small)
    levels = np.arange(256)
    shown = (levels * (WHITE_HU / _white(small, window))).clip(0.0, WHITE_HU)
    if window is not None and window.width_hu > _WIDE_HU:
        shown = (_TISSUE_HU + (levels - window.tissue_grey) * (window.width_hu / 255.0)).clip(0.0, WHITE_HU)
    hu: Int16Array = np.rint(shown).astype(np.int16)
    return hu


# ---------------------------------------------------------------- reading


def _require_size(image: Image.Image) -> None:
    if min(image.size) < _LEAST_PX:
        raise UsageError(f"the picture is smaller than {_LEAST_PX} pixels")
    if max(image.size) > _LONGEST * min(image.size):
        raise UsageError(f"the picture is more than {_LONGEST} times as long as wide")
    if image.size[0] * image.size[1] > _MOST_PX:
        raise UsageError(f"the picture has more than {_MOST_PX // 1_000_000} million pixels")


def _grey(image: Image.Image) -> UInt8Array:
    if image.mode.startswith("I"):
        return _eight_bits(np.asarray(image).astype(np.int64))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque)
    grey = np.asarray(image.convert("L"), np.uint8)
    return grey if image.mode in _GREY_MODES else _of_colours(np.asarray(image.convert("RGB")), grey)


def _of_colours(colours: UInt8Array, grey: UInt8Array) -> UInt8Array:
    """(rows, columns, 3) uint8, and (rows, columns) its luminance: the one of the four to go on with.

    Pictures for networks often show the brain, the subdural and the bone window as red, green and blue. Where colours
    differ in most of the head, it is that whose tissue differs most nearly as in the brain window; else, as of a grey
    picture with or without coloured marks, the luminance.
    """
    head = find_head(grey)
    if np.median(np.ptp(colours[head.rows, head.columns], axis=2)) < _LEAST_CONTRAST_GREY:
        return grey

    every: list[UInt8Array] = [grey, *np.moveaxis(colours, 2, 0)]
    seen = [_small(shown, head) for shown in every]
    windows = [_tissue_window(small) if _rises_with(seen[0], small) else None for small in seen]
    most_px = max((window.tissue_px for window in windows if window is not None), default=0)

    def off_brain_window(window: _Window | None) -> float:
        if window is None or window.tissue_px < _SEEN_TISSUE * most_px:
            return math.inf
        return abs(math.log(window.width_hu / WHITE_HU))

    return every[min(range(len(every)), key=lambda index: off_brain_window(windows[index]))]


def _rises_with(luminance: _Small, colour: _Small) -> bool:
    """Whether bone is bright in it, which in a colour map need not be so."""
    inside = luminance.depth_mm > 0
    return bool(np.cov(luminance.grey[inside], colour.grey[inside])[0, 1] > 0)


def _eight_bits(values: NDArray[np.int64]) -> UInt8Array:
    for offset in _HU_OFFSETS:
        hu = values - offset
        if np.mean((hu >= _SOFT_TISSUE_HU[0]) & (hu <= _SOFT_TISSUE_HU[1])) >= _LEAST_HEAD_SHARE:
            return np.rint(hu.clip(0, WHITE_HU) * (255.0 / WHITE_HU)).astype(np.uint8)
    bits = max(8, int(values.max()).bit_length())
    shifted: UInt8Array = (values.clip(0) >> (bits - 8)).astype(np.uint8)
    return shifted


# ---------------------------------------------------------------- the head


def _piece(grey: UInt8Array) -> tuple[NDArray[np.bool_], float] | None:
    """Mask, in the size of `grey`, of the largest piece off the background, and the grey of that; None for none."""
    factor = max(1, -(-max(grey.shape) // _LOOK_PX))
    small = np.asarray(Image.fromarray(grey).reduce(factor), np.float32)
    background = _background(small)
    if background is None:
        return None
    level, contrast = background
    filled = ndimage.binary_fill_holes(np.abs(small - level) > contrast)
    opened = ndimage.binary_opening(filled, iterations=max(1, round(_OPENING_SHARE * max(small.shape))))
    mask = _largest(opened)
    if mask.sum() < _LEAST_HEAD_SHARE * small.size:
        return None
    is_bare = np.mean(np.abs(small[mask] - level) <= contrast) < _NO_BONE_SHARE
    if level >= _WHITE_GREY and is_bare and not _is_panel(mask):
        mask = _with_rim(mask)  # bone is as white as the background, and what stood out is the brain
    enlarged = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
    return enlarged[: grey.shape[0], : grey.shape[1]], level


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece; nothing of nothing."""
    pieces, _ = ndimage.label(mask)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    largest: NDArray[np.bool_] = mask & (pieces == areas.argmax())
    return largest


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without gaps as wide as a suture; padded, since scipy erodes from the border."""
    wide = np.pad(mask, _GAP_PX)
    closed: NDArray[np.bool_] = ndimage.binary_closing(wide, iterations=_GAP_PX)[_GAP_PX:-_GAP_PX, _GAP_PX:-_GAP_PX]
    return closed


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = ndimage.find_objects(mask.astype(np.int8))[0]
    return rows, columns


def _is_panel(mask: NDArray[np.bool_]) -> bool:
    return float(mask[_box(mask)].mean()) >= _PANEL_FILL


def _with_rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    longer_side = max(int(along.stop - along.start) for along in _box(mask))
    wider: NDArray[np.bool_] = ndimage.binary_dilation(mask, iterations=max(1, round(_BONE_SHARE * longer_side)))
    return wider


def _background(grey: NDArray[np.float32]) -> tuple[float, float] | None:
    """Level and least contrast of what is none: of two quiet corners that agree, else of most of the border."""
    side = max(2, round(_CORNER_SHARE * min(grey.shape)))
    corners = [grey[r, c] for r in (slice(side), slice(-side, None)) for c in (slice(side), slice(-side, None))]
    levels = np.array([np.median(corner) for corner in corners])
    spreads = np.array([np.median(np.abs(corner - level)) for corner, level in zip(corners, levels, strict=True)])
    quiet = spreads <= _QUIET_GREY
    agreeing = [quiet & (np.abs(levels - level) <= _LEAST_CONTRAST_GREY) for level in levels]
    most = max(range(4), key=lambda corner: int(agreeing[corner].sum()))
    if quiet[most] and agreeing[most].sum() >= 2:
        contrast = max(_LEAST_CONTRAST_GREY, 4.0 * float(spreads[agreeing[most]].max()))
        return float(np.median(levels[agreeing[most]])), contrast
    border = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[2:-2, :2].ravel(), grey[2:-2, -2:].ravel()])
    level = float(np.median(border))  # letters in the corners
    return (level, _LEAST_CONTRAST_GREY) if np.mean(np.abs(border - level) <= _QUIET_GREY) >= _BORDER_SHARE else None


def _shifted(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)


def _without_frame(rows: slice, columns: slice) -> tuple[slice, slice]:
    """A panel less its edge, where a line may be drawn."""

    def inner(along: slice) -> slice:
        edge = max(1, round(0.01 * (along.stop - along.start)))
        return slice(along.start + edge, along.stop - edge)

    return inner(rows), inner(columns)


# ---------------------------------------------------------------- as CT


def _centred(grey: UInt8Array, head: Head, surround: int) -> UInt8Array:
    """A square around the head's box; `surround` where the picture does not reach."""
    side = round(_CANVAS_HEADS * head.longer_side_px)
    canvas = np.full((side, side), surround, np.uint8)
    starts = [(along.start + along.stop - side) // 2 for along in (head.rows, head.columns)]
    inside = [slice(max(0, start), min(size, start + side)) for start, size in zip(starts, grey.shape, strict=True)]
    target = tuple(_shifted(along, -start) for along, start in zip(inside, starts, strict=True))
    canvas[target] = grey[inside[0], inside[1]]
    return canvas


@dataclass(frozen=True, kw_only=True)
class _Small:
    """A head at some 2 mm, where noise averages out; (rows, columns) of its box."""

    grey: NDArray[np.float32]
    depth_mm: NDArray[np.float64]
    """From the edge of the head; 0 outside."""
    px_mm: float


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Through which a picture shows the tissue, as far as that tells."""

    width_hu: float
    tissue_grey: float
    """The median."""
    tissue_px: int
    """Of some 4 mm2, that are neither black nor white."""


def _small(grey: UInt8Array, head: Head) -> _Small:
    box = (head.rows, head.columns)
    factor = max(1, round(head.longer_side_px / _SMALL_PX))
    shown = np.asarray(Image.fromarray(grey[box]).reduce(factor), np.float32)
    mask = np.ones(shown.shape, np.bool_) if head.mask is None else head.mask[box][::factor, ::factor]
    px_mm = HEAD_MM * factor / head.longer_side_px
    depth_mm = px_mm * ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return _Small(grey=shown, depth_mm=depth_mm, px_mm=px_mm)


def _tissue_window(small: _Small) -> _Window | None:
    """From how much the tissue deep in the head differs; None where there is little of it, or it is all alike."""
    tissue = _deep_tissue(small)
    if len(tissue) < _LEAST_TISSUE_PX:
        return None
    low, middle, high = np.percentile(tissue, (25, 50, 75))
    if high <= low:
        return None
    width_hu = min(_WIDEST_HU, 255.0 * _TISSUE_SPREAD_HU / max(high - low, 1.0))
    return _Window(width_hu=width_hu, tissue_grey=middle, tissue_px=len(tissue))


def _deep_tissue(small: _Small) -> NDArray[np.float32]:
    """Grey of the tissue deep in the head, neither bone nor black."""
    bone = small.grey >= _BONE_GREY * small.grey.max(initial=0, where=small.depth_mm > 0)
    near_bone = ndimage.binary_dilation(bone, iterations=max(1, round(_OFF_BONE_MM / small.px_mm)))
    tissue: NDArray[np.float32] = small.grey[(small.depth_mm > _DEEP_MM) & ~near_bone & (small.grey > _BLACK_GREY)]
    return tissue


def _white(small: _Small, window: _Window | None) -> float:
    """The grey of bone: less than 255 in a dim picture.

    Beyond the brain window all bone has one grey, the brightest, and there is much of it along the edge of the head.
    """
    if window is None:
        return 255.0
    white = float(np.percentile(small.grey[small.depth_mm > 0], _WHITE_PERCENT))
    along_edge = np.percentile(small.grey[(small.depth_mm > 0) & (small.depth_mm < _SKULL_MM)], _SKULL_PERCENT)
    return white if along_edge >= _SAME_WHITE * white else 255.0
