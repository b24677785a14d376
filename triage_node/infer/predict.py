"""The model itself: Volume in, Prediction out. What it decides is in `series` and `mask`, one helper each.

The network sees slabs on the head-centred grid of its bundle (transforms), `_BATCH` at a time; what it says of a slab
holds for all slices of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import torch

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPES, Float32Array, Prediction, UInt8Array, Volume
from triage_node.errors import InferenceError
from triage_node.infer.answer import Answer, Network, averaged, checked
from triage_node.infer.boxes import native_boxes
from triage_node.infer.bundle import GRAPH, Bundle, load_bundle
from triage_node.infer.examined import Examined, together
from triage_node.infer.graph import GraphNetwork
from triage_node.infer.mask import native_mask, shown_only
from triage_node.infer.measure import volumes_ml
from triage_node.infer.series import (
    calibrated,
    in_series,
    series_probabilities,
    shown_subtypes,
    subdural_chronic,
    weights_for,
)
from triage_node.infer.weights import WeightsNetwork
from triage_node.skull import without_skull
from triage_node.transforms import Placement, neighbour_indices, network_images, place_grid, to_grid

__all__ = ["Examined", "Predictor"]

_BATCH: Final = 8
"""Slabs at a time: bounds the memory, and more is no faster on a CPU (measured)."""


class Predictor:
    """One bundle, loaded on one device and ready."""

    def __init__(self, bundle_dir: str | Path, device: str = "auto") -> None:
        """`device` is "auto" (CUDA where there is one), "cpu" or "cuda". InferenceError where the bundle is refused."""
        self.bundle: Bundle = load_bundle(bundle_dir)
        self._members = [_Member(bundle, device) for bundle in self.bundle.members or (self.bundle,)]

    def predict(self, volume: Volume) -> Prediction:
        """Analyse one volume. Deterministic on one machine. Identity (UIDs, paths, header) is not looked at.

        InferenceError where the network says something that is no number: never a negative.
        """
        raw = self.examine(volume)
        started = perf_counter()
        seen_alone = calibrated(raw.logits, self.bundle)
        seen = self.seen_mask(raw, volume)
        weights = weights_for(self.bundle, len(raw.placement.slab_along_mm))
        seen_ml = self._measured(seen, volume)
        series = series_probabilities(seen_alone, seen_ml, weights)
        slices = in_series(seen_alone, series)
        there = [name for name in self.bundle.outputs_subtypes if seen is None or seen_ml[name]]
        shown = shown_subtypes(series, there, self.bundle)
        mask = None if seen is None else shown_only(seen, shown)
        measured_ml = self._measured(mask, volume)
        return _finite(
            Prediction(
                mask=mask,
                slice_probabilities=slices,
                probabilities=series,
                volumes_ml=measured_ml,
                volume_intervals_ml=self._intervals(measured_ml),
                subdural_chronic=self._chronic(raw, slices, series, volume),
                bundle=self.bundle.ref,
                boxes=None if raw.boxes is None else native_boxes(raw.boxes, raw.placement, shown, self.bundle),
                timings_s={**raw.timings_s, "mask": perf_counter() - started},
            )
        )

    def examine(self, volume: Volume) -> Examined:
        """What the network says, before calibration and thresholds; of an ensemble, what its members say together."""
        said = [member.examine(volume) for member in self._members]
        return together(said, self.bundle) if self.bundle.members else said[0]

    def seen_mask(self, raw: Examined, volume: Volume) -> UInt8Array | None:
        """The mask as if the series showed every subtype; None where the bundle gives none."""
        if raw.pixel_probabilities is None:
            return None
        return native_mask(raw.pixel_probabilities, raw.placement, volume, self.bundle)

    def _measured(self, mask: UInt8Array | None, volume: Volume) -> dict[str, float | None]:
        """Volumes, as far as the bundle gives them."""
        if mask is None:
            return dict.fromkeys(CLASSES)
        measured_ml = volumes_ml(mask, volume)
        return {name: measured_ml[name] if name in self.bundle.outputs_classes else None for name in CLASSES}

    def _intervals(self, measured_ml: Mapping[str, float | None]) -> dict[str, tuple[float, float] | None]:
        """None at 0 mL too: factors of nothing would say that there surely is nothing."""
        intervals: dict[str, tuple[float, float] | None] = {}
        for name, volume_ml in measured_ml.items():
            ends = self.bundle.volume_interval.get(name)
            if not volume_ml or ends is None:
                intervals[name] = None
            else:
                intervals[name] = (volume_ml * ends[0], volume_ml * ends[1])
        return intervals

    def _chronic(
        self, raw: Examined, slices: Float32Array, series: dict[str, float | None], volume: Volume
    ) -> float | None:
        if raw.chronic is None or (series["subdural"] or 0.0) < OPERATING_POINT:
            return None
        return subdural_chronic(slices, raw.chronic, volume.weights_mm, self.bundle)


class _Member:
    """One network with its bundle."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self.bundle = bundle
        self._network = _load_network(bundle, device)

    def examine(self, volume: Volume) -> Examined:
        """Of all slices of one volume."""
        started = perf_counter()
        placement = place_grid(volume, self.bundle.grid, self.bundle.stack.slab_mm)
        hu = to_grid(volume.hu, placement, self.bundle.appearance.at_most_hu)
        if self.bundle.appearance.brain_only:
            hu = without_skull(hu, self.bundle.grid.spacing_mm)
        prepared = perf_counter()
        said = self._ask(hu, placement)
        assert said.logits is not None  # checked
        return Examined(
            placement=placement,
            pixel_probabilities=said.pixels,
            logits=said.logits[placement.slab_of],
            chronic=None if said.chronic is None else said.chronic[placement.slab_of],
            boxes=said.boxes,
            timings_s={"prepare": prepared - started, "network": perf_counter() - prepared},
        )

    def _ask(self, hu: Float32Array, placement: Placement) -> Answer:
        """(slabs, size, size) HU on the grid to what the network says of all slabs, checked."""
        bundle, stack, slabs = self.bundle, self.bundle.stack, len(hu)
        neighbours = neighbour_indices(placement.slab_along_mm, stack.neighbour_mm) if stack.neighbours else None
        pixels = np.empty((slabs, 1 + len(SUBTYPES), *hu.shape[1:]), np.float32) if bundle.outputs_mask else None
        logits = np.empty((slabs, len(CLASSES)), np.float32)
        chronic = np.empty(slabs, np.float32) if bundle.outputs_chronic else None
        boxes: list[Float32Array] = []
        for first in range(0, slabs, _BATCH):
            chosen = slice(first, min(first + _BATCH, slabs))
            images = network_images(hu, chosen, bundle.appearance, neighbours)
            answer = self._ask_of(images)
            for whole, part in ((pixels, answer.pixels), (logits, answer.logits), (chronic, answer.chronic)):
                if whole is not None:
                    whole[chosen] = part
            if bundle.outputs_boxes and answer.boxes is not None:
                boxes.append(answer.boxes)
        drawn = _stacked(boxes) if bundle.outputs_boxes else None
        return Answer(pixels=pixels, logits=logits, chronic=chronic, boxes=drawn)

    def _ask_of(self, images: Float32Array) -> Answer:
        """Of some slabs; left and right are alike to blood, so the mirror image is a second opinion."""
        answer = checked(self._network.ask(images), len(images), self.bundle)
        if not self.bundle.mirrored:
            return answer
        mirrored = np.ascontiguousarray(images[..., ::-1])
        return averaged(answer, checked(self._network.ask(mirrored), len(images), self.bundle))


def _stacked(boxes: list[Float32Array]) -> Float32Array:
    """Graphs may give another number of boxes for each batch: the rest has probability 0."""
    most = max(batch.shape[1] for batch in boxes)
    return np.concatenate([np.pad(batch, ((0, 0), (0, most - batch.shape[1]), (0, 0))) for batch in boxes])


def _load_network(bundle: Bundle, device: str) -> Network:
    if bundle.network_name == GRAPH:
        return GraphNetwork(bundle, device, threads=torch.get_num_threads())
    return WeightsNetwork(bundle, device)


def _finite(prediction: Prediction) -> Prediction:
    ends = [end for interval in prediction.volume_intervals_ml.values() if interval for end in interval]
    numbers = [*prediction.probabilities.values(), *prediction.volumes_ml.values(), prediction.subdural_chronic, *ends]
    if not all(math.isfinite(number) for number in numbers if number is not None):
        raise InferenceError("a probability or volume is not finite (NaN or infinity): no result")
    return prediction
