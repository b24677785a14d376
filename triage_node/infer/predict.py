"""The model itself: Volume in, Prediction out.

Decisions, each in one helper:
- the network sees single slices on the head-centred grid of its bundle, `_BATCH` at a time;
- logits are calibrated per class (`sigmoid(slope * logit + offset)`), so that 0.5 is the operating point;
- a subtype of the series is as probable as its highest slice after smoothing with both neighbours, or as its surest
  slice at odds four times worse: one lone slice passes 0.5 from 0.8 on. "any" is never less than its subtypes;
- the mask is made on the native slices: probabilities, not labels, are resampled. A pixel is blood where the
  probability of any blood reaches the threshold of its likeliest subtype;
- a subtype that the series does not show (`series_min_probability`) has no mask, so that the volumes never contradict
  the probabilities; specks below `speck_mm3` are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, Prediction, UInt8Array, Volume
from triage_node.errors import InferenceError
from triage_node.infer.bundle import Bundle, load_bundle
from triage_node.infer.measure import volumes_ml
from triage_node.networks import build_network, choose_device, choose_dtype
from triage_node.transforms import Placement, from_grid, place_grid, to_grid, windowed

_BATCH: Final = 8
"""Slices at a time: bounds the memory, and more is no faster on a CPU (measured)."""
_SMOOTHING: Final = (0.25, 0.5, 0.25)
"""Weights of the slice before, the slice itself and the slice after in the score of a series."""
_LONE_ODDS: Final = 4.0
"""How much worse the odds of a slice are that stands alone: bleeds of one slice exist, and so do artefacts."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the network says of one volume, on its own grid."""

    placement: Placement
    pixel_probabilities: Float32Array
    """(slices, 6, size, size) float32: background and SUBTYPES."""
    logits: Float32Array
    """(slices, 6) float32: CLASSES, not calibrated."""
    timings_s: dict[str, float]


class Predictor:
    """One bundle, loaded on one device and ready."""

    def __init__(self, bundle_dir: str | Path, device: str = "auto") -> None:
        """`device` is "auto" (CUDA where there is one), "cpu" or "cuda". InferenceError where the bundle is refused."""
        self.bundle: Bundle = load_bundle(bundle_dir)
        self.device = _device(device)
        self.dtype = choose_dtype(self.device)
        self._network = _load_network(self.bundle).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def predict(self, volume: Volume) -> Prediction:
        """Analyse one volume. Deterministic on one machine. Identity (UIDs, paths, header) is not looked at."""
        raw = self.examine(volume)
        started = perf_counter()
        slices = calibrated(raw.logits, self.bundle)
        series = series_probabilities(slices)
        mask = native_mask(raw.pixel_probabilities, raw.placement, volume, series, self.bundle)
        volumes = volumes_ml(mask, volume)
        return Prediction(
            mask=mask if self.bundle.outputs_mask else None,
            slice_probabilities=slices,
            probabilities={name: self._if_output(name, series[name]) for name in CLASSES},
            volumes_ml={
                name: self._if_output(name, volumes[name]) if self.bundle.outputs_mask else None for name in CLASSES
            },
            bundle=self.bundle.ref,
            timings_s={**raw.timings_s, "mask": perf_counter() - started},
        )

    def examine(self, volume: Volume) -> Examined:
        """What the network says, before calibration and thresholds."""
        started = perf_counter()
        placement = place_grid(volume, self.bundle.grid)
        pixels = windowed(to_grid(volume.hu, placement), self.bundle.windows_hu)
        prepared = perf_counter()
        pixel_probabilities, logits = self._run(pixels)
        return Examined(
            placement=placement,
            pixel_probabilities=pixel_probabilities,
            logits=logits,
            timings_s={"prepare": prepared - started, "network": perf_counter() - prepared},
        )

    def _run(self, pixels: Float32Array) -> tuple[Float32Array, Float32Array]:
        """(slices, windows, size, size) to pixel probabilities (slices, 6, size, size) and slice logits (slices, 6)."""
        probabilities, logits = [], []
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for batch in torch.split(torch.from_numpy(pixels), _BATCH):
                images = batch.to(self.device, memory_format=torch.channels_last)
                segmentation, slices = self._network(images)
                probabilities.append(_to_numpy(torch.softmax(segmentation.float(), dim=1)))
                logits.append(_to_numpy(slices.float()))
        return np.concatenate(probabilities), np.concatenate(logits)

    def _if_output(self, name: str, value: float) -> float | None:
        return value if name in self.bundle.outputs_classes else None


# ---------------------------------------------------------------- slices and series


def calibrated(logits: Float32Array, bundle: Bundle) -> Float32Array:
    """(slices, 6) logits to (slices, 6) float32 probabilities, columns of CLASSES; "any" at least its subtypes."""
    slope, offset = np.array([bundle.calibration[name] for name in CLASSES]).T
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(logits * slope + offset, -30.0, 30.0)))
    probabilities[:, 0] = probabilities.max(axis=1)
    rounded: Float32Array = probabilities.astype(np.float32)
    return rounded


def series_probabilities(slices: Float32Array) -> dict[str, float]:
    """(slices, 6) to one probability for each class: of the highest slices together, or of the surest one alone."""
    padded = np.pad(slices.astype(np.float64), ((1, 1), (0, 0)), mode="edge")
    smoothed = sum(weight * padded[shift : shift + len(slices)] for shift, weight in enumerate(_SMOOTHING))
    odds = padded[1:-1] / np.maximum(1.0 - padded[1:-1], 1e-9)
    highest = np.maximum(smoothed, odds / (odds + _LONE_ODDS)).max(axis=0)
    highest[0] = highest.max()
    return {name: float(probability) for name, probability in zip(CLASSES, highest, strict=True)}


# ---------------------------------------------------------------- mask


def native_mask(
    probabilities: Float32Array, placement: Placement, volume: Volume, series: dict[str, float], bundle: Bundle
) -> UInt8Array:
    """(slices, 6, size, size) pixel probabilities on the grid to a (slices, rows, columns) uint8 mask."""
    thresholds = np.array(
        [
            bundle.mask_min_probability[name] if series[name] >= bundle.series_min_probability else np.inf
            for name in SUBTYPES
        ]
    )
    mask = np.zeros(volume.hu.shape, np.uint8)
    if np.isfinite(thresholds).any():
        for index, image in enumerate(probabilities):
            if image[1:].sum(axis=0).max() >= thresholds.min():
                mask[index] = _slice_mask(from_grid(image[1:], placement, index), thresholds)
    return _without_specks(mask, volume, bundle.speck_mm3)


def _slice_mask(blood: Float32Array, thresholds: np.ndarray) -> UInt8Array:
    """(5, rows, columns) subtype probabilities to (rows, columns) labels."""
    likeliest = blood.argmax(axis=0)
    present = blood.sum(axis=0) >= thresholds[likeliest]
    labels: UInt8Array = np.where(present, likeliest + 1, 0).astype(np.uint8)
    return labels


def _without_specks(mask: UInt8Array, volume: Volume, speck_mm3: float) -> UInt8Array:
    """Drop connected pieces of blood (all subtypes together) below `speck_mm3`."""
    pieces, count = ndimage.label(mask > 0)
    if count == 0:
        return mask
    pixel_mm2 = volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]
    sizes_mm3 = np.zeros(count + 1)
    for index, weight_mm in enumerate(volume.weights_mm):
        sizes_mm3 += np.bincount(pieces[index].ravel(), minlength=count + 1) * pixel_mm2 * weight_mm
    keep = sizes_mm3 >= speck_mm3
    keep[0] = False
    return np.where(keep[pieces], mask, 0).astype(np.uint8)


# ---------------------------------------------------------------- loading


def _load_network(bundle: Bundle) -> nn.Module:
    try:
        network = build_network(bundle.network_name, bundle.network_config)
        weights = {name: _widened(tensor) for name, tensor in load_file(bundle.weights_path).items()}
        network.load_state_dict(weights, strict=True)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise InferenceError(
            f"{bundle.folder}: the weights do not fit the network ({error}); restore the bundle"
        ) from error
    return network.eval()


def _widened(tensor: Tensor) -> Tensor:
    """fp16 is for storage only."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _device(name: str) -> torch.device:
    try:
        return choose_device(name)
    except (ValueError, RuntimeError) as error:
        raise InferenceError(str(error)) from error


def _to_numpy(tensor: Tensor) -> Float32Array:
    array: Float32Array = tensor.cpu().contiguous().numpy()
    return array
