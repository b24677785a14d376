"""A registered network with the weights of a bundle, in torch."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from triage_node.domain import Float32Array
from triage_node.errors import InferenceError
from triage_node.infer.answer import Answer
from triage_node.infer.bundle import Bundle, read_network
from triage_node.networks import build_network
from triage_node.networks.hardware import choose_device, choose_dtype


class WeightsNetwork:
    """Ready on one device. bf16 where the hardware has it; probabilities and logits come out in float32."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        """InferenceError where the device is not there or the weights do not fit."""
        try:
            self._device = choose_device(device)
        except ValueError as error:
            raise InferenceError(str(error)) from error
        self._dtype = choose_dtype(self._device)
        network = _load(bundle)
        self._network: Any = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ask(self, images: Float32Array) -> Answer:
        """See answer.Network."""
        batch = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
        narrow = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=narrow):
            findings = self._network.findings(batch)
        return Answer(
            pixels=_to_numpy(findings.pixels),
            logits=_to_numpy(findings.slices),
            chronic=_to_numpy(findings.chronic),
            boxes=_to_numpy(findings.boxes),
        )


def _load(bundle: Bundle) -> nn.Module:
    data = read_network(bundle)
    try:
        weights = {name: _widened(tensor) for name, tensor in load(data).items()}
    except SafetensorError as error:
        raise InferenceError(
            f"{bundle.weights_path}: is no safetensors file ({error}); pickled weights are never loaded: convert them "
            "with safetensors.torch.save_file where you trust them, and write the new sha256 into bundle.toml"
        ) from error
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InferenceError(
            f"{bundle.weights_path}: {broken[0]} is not finite (NaN or infinity); export the network again"
        )
    try:
        network = build_network(bundle.network_name, bundle.network_config)
        network.load_state_dict(weights, strict=True)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InferenceError(
            f"{bundle.folder}: the weights do not fit the network ({error}); restore the bundle"
        ) from error
    _require_images(network, bundle)
    return network.eval()


def _require_images(network: Any, bundle: Bundle) -> None:
    """That the network takes the images which the settings promise it."""
    channels, multiple_px = network.config.in_channels, network.config.multiple_px
    if channels != bundle.channels:
        raise InferenceError(
            f"{bundle.folder}: the network takes {channels} channels, but [windows] and [stack] give "
            f"{bundle.channels}; correct them"
        )
    if bundle.grid.size_px % multiple_px:
        raise InferenceError(f"{bundle.folder}: [grid] size_px must be a multiple of {multiple_px}")


def _widened(tensor: Tensor) -> Tensor:
    """fp16 is for storage only."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _to_numpy(tensor: Tensor | None) -> Float32Array | None:
    if tensor is None:
        return None
    array: Float32Array = tensor.float().cpu().contiguous().numpy()
    return array
