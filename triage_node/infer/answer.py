"""What a network says of some images, whatever kind of network it is: checked, in one order of classes. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from scipy import ndimage

from triage_node.domain import CLASSES, SUBTYPES, Float32Array
from triage_node.errors import InferenceError
from triage_node.infer.bundle import Bundle

_PEAK_PX: Final = 3
"""A pixel counts as evidence with its neighbours: the mean of a square of this side."""
_LEAST_PROBABILITY: Final = 1e-6
_BOX_NUMBERS: Final = 4 + len(SUBTYPES)
_ROUNDING: Final = 1e-2
"""Probabilities may miss 0 and 1 by this much: some are made in half precision."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of n images. Classes that the network does not speak of are 0 in `pixels` and NaN in `logits`."""

    pixels: Float32Array | None
    """(n, 6, size, size) float32 probabilities of background and SUBTYPES."""
    logits: Float32Array | None
    """(n, 6) float32 logits of CLASSES."""
    chronic: Float32Array | None
    """(n,) float32 logits that subdural blood there is chronic."""
    boxes: Float32Array | None = None
    """(n, k, 4 + 5) float32: left, top, right and bottom as shares of the image, then the probability that a bleed of
    each of SUBTYPES lies in it."""


class Network(Protocol):
    """A loaded network: `weights.WeightsNetwork` or `graph.GraphNetwork`."""

    def ask(self, images: Float32Array) -> Answer:
        """`images` is (n, channels, size, size) float32 in 0..1."""


def checked(answer: Answer, images: int, bundle: Bundle) -> Answer:
    """The answer with logits of every class that `bundle` outputs. InferenceError where it is not what was promised.

    A network without slice logits is taken at its pixels: the logit of the greatest probability of the class in a
    slice, smoothed over 3 x 3 pixels; of "any", of all subtypes together.
    """
    size_px = bundle.grid.size_px
    _require("pixels", answer.pixels, (images, 1 + len(SUBTYPES), size_px, size_px), needed=bundle.outputs_mask)
    _require("slices", answer.logits, (images, len(CLASSES)), needed=answer.pixels is None)
    _require("chronic", answer.chronic, (images,), needed=bundle.outputs_chronic)
    cells = 0 if answer.boxes is None or answer.boxes.ndim < 2 else answer.boxes.shape[1]
    _require("boxes", answer.boxes, (images, cells, _BOX_NUMBERS), needed=bundle.outputs_boxes)
    _require_finite(answer, bundle)
    for name, shares in (("pixels", answer.pixels), ("boxes", answer.boxes)):
        if shares is not None and shares.size and not -_ROUNDING <= shares.min() <= shares.max() <= 1 + _ROUNDING:
            raise InferenceError(f'the network gave "{name}" outside 0..1: they must be probabilities, not logits')
    if answer.logits is None and answer.pixels is not None:
        return replace(answer, logits=_logits_of(answer.pixels))
    return answer


def averaged(answer: Answer, of_mirrored: Answer) -> Answer:
    """The mean of what is said of images and of what is said of the same images mirrored left to right."""

    def mean(values: Float32Array | None, mirrored: Float32Array | None) -> Float32Array | None:
        return None if values is None or mirrored is None else np.float32(0.5) * (values + mirrored)

    unmirrored = None if of_mirrored.pixels is None else of_mirrored.pixels[..., ::-1]
    return Answer(
        pixels=mean(answer.pixels, unmirrored),
        logits=mean(answer.logits, of_mirrored.logits),
        chronic=mean(answer.chronic, of_mirrored.chronic),
        boxes=_all_boxes(answer.boxes, of_mirrored.boxes),
    )


def _all_boxes(boxes: Float32Array | None, of_mirrored: Float32Array | None) -> Float32Array | None:
    """Those of the mirror image turned back; of two round the same place the surer one is kept later."""
    if boxes is None or of_mirrored is None:
        return None
    back = of_mirrored.copy()
    back[..., 0], back[..., 2] = 1 - of_mirrored[..., 2], 1 - of_mirrored[..., 0]
    return np.concatenate([boxes, back], axis=1)


def _require(name: str, values: Float32Array | None, shape: tuple[int, ...], *, needed: bool) -> None:
    if values is None:
        if needed:
            raise InferenceError(f'the network gives no "{name}", which bundle.toml needs; correct its [outputs]')
        return
    if values.shape != shape:
        raise InferenceError(f'the network gave "{name}" of shape {values.shape}, not {shape}')


def _require_finite(answer: Answer, bundle: Bundle) -> None:
    """NaN and infinity must never pass for "no hemorrhage"."""
    spoken = [CLASSES.index(name) for name in bundle.outputs_classes]
    logits = None if answer.logits is None else answer.logits[:, spoken]
    for name, values in _told(answer, logits):
        if values is not None and not np.isfinite(values).all():
            raise InferenceError(f'the network gave "{name}" that are not finite (NaN or infinity): no result')


def _told(answer: Answer, logits: Float32Array | None) -> Sequence[tuple[str, Float32Array | None]]:
    return (("pixels", answer.pixels), ("slices", logits), ("chronic", answer.chronic), ("boxes", answer.boxes))


def _logits_of(pixels: Float32Array) -> Float32Array:
    """(n, 6, size, size) probabilities to (n, 6) logits of CLASSES."""
    blood = np.concatenate([pixels[:, 1:].sum(axis=1, keepdims=True), pixels[:, 1:]], axis=1)
    peaks = ndimage.uniform_filter(blood, size=(1, 1, _PEAK_PX, _PEAK_PX), mode="nearest").max(axis=(2, 3))
    likely = np.clip(peaks, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    logits: Float32Array = np.log(likely / (1 - likely)).astype(np.float32)
    return logits
