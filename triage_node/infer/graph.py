"""An ONNX graph of a site, run by onnxruntime (the optional extra `onnx`). The contract is in models/README.md."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from triage_node.domain import CLASSES, SUBTYPES, Float32Array
from triage_node.errors import InferenceError
from triage_node.infer.answer import Answer
from triage_node.infer.bundle import Bundle, read_network

_INPUT: Final = "images"
_SLICES, _PIXELS, _CHRONIC, _BOXES = "slices", "pixels", "chronic", "boxes"
_EXTERNAL: Final = b"\x0a\x08location\x12"
"""How a tensor names the file that holds it (onnx.proto, TensorProto.external_data: key "location", then its value)."""
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"


class GraphNetwork:
    """Ready on one device; float32 throughout."""

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        """InferenceError where onnxruntime, the device or the contract is missing."""
        self._bundle = bundle
        self._session = _session(bundle, device, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        _require_contract(self._session, self._outputs, bundle)

    def ask(self, images: Float32Array) -> Answer:
        """See answer.Network."""
        said = dict(zip(self._outputs, self._session.run(self._outputs, {_INPUT: images}), strict=True))
        classes, subtypes = self._bundle.outputs_classes, self._bundle.outputs_subtypes
        chronic = said.get(_CHRONIC)
        return Answer(
            pixels=_spread(said.get(_PIXELS) if subtypes else None, _pixel_places(subtypes), 0.0),
            logits=_spread(said.get(_SLICES), [CLASSES.index(name) for name in classes], np.nan),
            chronic=None if chronic is None else np.asarray(chronic, np.float32),
            boxes=_boxes(said.get(_BOXES) if subtypes else None, subtypes),
        )


def _session(bundle: Bundle, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InferenceError(
            f"{bundle.folder}: an ONNX graph needs onnxruntime; pip install 'triage-node[onnx]'"
        ) from error
    graph = read_network(bundle)
    if _EXTERNAL in graph:
        raise InferenceError(
            f"{bundle.weights_path}: keeps weights in another file; save the graph with all data inside"
        )
    providers = _providers(onnxruntime, device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning halves the speed of neighbours
    options.log_severity_level = 4
    try:
        # from bytes, so that nothing but the checked file can be read
        return onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no other base
        raise InferenceError(f"{bundle.weights_path}: is no ONNX graph that onnxruntime takes ({error})") from error


def _providers(onnxruntime: Any, device: str) -> list[str]:
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise InferenceError("device cuda was asked for, but onnxruntime has no CUDA provider; use auto or cpu")
    return [_CUDA, _CPU] if has_cuda and device != "cpu" else [_CPU]


def _require_contract(session: Any, outputs: list[str], bundle: Bundle) -> None:
    inputs = session.get_inputs()
    wanted = (bundle.channels, bundle.grid.size_px, bundle.grid.size_px)
    if [given.name for given in inputs] != [_INPUT] or inputs[0].type != "tensor(float)":
        raise InferenceError(f'{bundle.weights_path}: must have one input, "{_INPUT}", of float32')
    batch, *shape = inputs[0].shape
    fixed = [(has, wants) for has, wants in zip(shape, wanted, strict=False) if isinstance(has, int)]
    if len(shape) != len(wanted) or isinstance(batch, int) or any(has != wants for has, wants in fixed):
        raise InferenceError(
            f'{bundle.weights_path}: "{_INPUT}" has shape {inputs[0].shape}, bundle.toml gives [n, {wanted[0]}, '
            f"{wanted[1]}, {wanted[2]}]; n must be free"
        )
    from_pixels = _PIXELS in outputs and bool(bundle.outputs_subtypes)
    needed = {_PIXELS: bundle.outputs_mask, _CHRONIC: bundle.outputs_chronic, _BOXES: bundle.outputs_boxes}
    needed[_SLICES] = not from_pixels
    missing = [name for name in needed if needed[name] and name not in outputs]
    if missing:
        raise InferenceError(
            f'{bundle.weights_path}: has no output "{missing[0]}" (it has: {", ".join(outputs)}); rename one, or '
            "correct [outputs] of bundle.toml"
        )


def _pixel_places(subtypes: tuple[str, ...]) -> list[int]:
    """Channels in Answer.pixels of the background and of the subtypes of a graph."""
    return [0, *(1 + SUBTYPES.index(name) for name in subtypes)]


def _boxes(values: Any, subtypes: tuple[str, ...]) -> Float32Array | None:
    """(n, k, 4 + subtypes) of the graph as in Answer.boxes."""
    if values is None:
        return None
    given = np.asarray(values, np.float32)
    if given.ndim != 3 or given.shape[2] != 4 + len(subtypes):
        raise InferenceError(f"the graph gave boxes of shape {given.shape}, not (n, k, {4 + len(subtypes)})")
    everything = np.zeros((*given.shape[:2], 4 + len(SUBTYPES)), np.float32)
    everything[..., [0, 1, 2, 3, *(4 + SUBTYPES.index(name) for name in subtypes)]] = given
    return everything


def _spread(values: Any, places: list[int], elsewhere: float) -> Float32Array | None:
    """The graph's columns at their places among all classes."""
    if values is None:
        return None
    given = np.asarray(values, np.float32)
    if given.ndim < 2 or given.shape[1] != len(places):
        raise InferenceError(
            f"the graph gave an output of shape {given.shape}, not of {len(places)} columns as [outputs] say"
        )
    everything = np.full((len(given), len(CLASSES), *given.shape[2:]), elsewhere, np.float32)
    everything[:, places] = given
    return everything
