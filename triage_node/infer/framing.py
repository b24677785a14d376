"""What passes between InferenceProcess and its child: one line of JSON, then raw little-endian array bytes.

No pickle. A frame is `{"arrays": [[name, dtype, shape], ...], ...}\n` and the bytes of those arrays in that order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import BundleRef, Prediction, SeenBox, Volume

Arrays = dict[str, NDArray[Any]]

_DTYPES: Final = frozenset({"<i2", "|u1", "<f4", "<f8"})


def write_frame(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one frame and flush it."""
    little = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, array.shape] for name, array in little.items()]
    stream.write(json.dumps({**header, "arrays": listed}).encode() + b"\n")
    for array in little.values():
        stream.write(array.data.cast("B"))
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    """Read one frame. EOFError where the other side is gone, ValueError where it is no frame."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other side closed the pipe")
    header: dict[str, Any] = json.loads(line)
    arrays = {name: _read_array(stream, dtype, shape) for name, dtype, shape in header.pop("arrays")}
    return header, arrays


def _read_array(stream: IO[bytes], dtype: str, shape: list[int]) -> NDArray[Any]:
    if dtype not in _DTYPES:
        raise ValueError(f"array of type {dtype!r}")
    array = np.empty(shape, np.dtype(dtype))
    filled = array.reshape(-1).view(np.uint8).data
    while filled:
        read = stream.readinto(filled)  # type: ignore[attr-defined]
        if not read:
            raise EOFError("the other side closed the pipe")
        filled = filled[read:]
    return array


# ---------------------------------------------------------------- values


def volume_frame(volume: Volume) -> tuple[dict[str, Any], Arrays]:
    """Pixels and geometry only: UIDs, paths and header stay with the parent."""
    header = {"pixel_spacing_mm": list(volume.pixel_spacing_mm), "tilt_deg": float(volume.tilt_deg)}
    return header, {
        "hu": volume.hu,
        "positions_mm": volume.positions_mm,
        "orientation": volume.orientation,
        "weights_mm": volume.weights_mm,
    }


def volume_from_frame(header: Mapping[str, Any], arrays: Arrays) -> Volume:
    """A Volume without identity."""
    row_mm, column_mm = header["pixel_spacing_mm"]
    no_paths: tuple[Path, ...] = ()
    return Volume(
        hu=arrays["hu"],
        sop_uids=(),
        paths=no_paths,
        positions_mm=arrays["positions_mm"],
        orientation=arrays["orientation"],
        pixel_spacing_mm=(row_mm, column_mm),
        weights_mm=arrays["weights_mm"],
        tilt_deg=header["tilt_deg"],
        header={},
    )


def prediction_frame(prediction: Prediction) -> tuple[dict[str, Any], Arrays]:
    """The inverse is prediction_from_frame, bit for bit."""
    header = {
        "probabilities": dict(prediction.probabilities),
        "volumes_ml": dict(prediction.volumes_ml),
        "volume_intervals_ml": dict(prediction.volume_intervals_ml),
        "subdural_chronic": prediction.subdural_chronic,
        "boxes": None if prediction.boxes is None else [asdict(box) for box in prediction.boxes],
        "bundle": [prediction.bundle.name, prediction.bundle.version, prediction.bundle.sha256],
        "timings_s": dict(prediction.timings_s),
    }
    arrays: Arrays = {"slice_probabilities": prediction.slice_probabilities}
    if prediction.mask is not None:
        arrays["mask"] = prediction.mask
    return header, arrays


def prediction_from_frame(header: Mapping[str, Any], arrays: Arrays) -> Prediction:
    """What the child sent."""
    name, version, sha256 = header["bundle"]
    return Prediction(
        mask=arrays.get("mask"),
        slice_probabilities=arrays["slice_probabilities"],
        probabilities=header["probabilities"],
        volumes_ml=header["volumes_ml"],
        volume_intervals_ml={
            name: None if ends is None else (ends[0], ends[1]) for name, ends in header["volume_intervals_ml"].items()
        },
        subdural_chronic=header["subdural_chronic"],
        boxes=None if header["boxes"] is None else tuple(SeenBox(**box) for box in header["boxes"]),
        bundle=BundleRef(name=name, version=version, sha256=sha256),
        timings_s=header["timings_s"],
    )
