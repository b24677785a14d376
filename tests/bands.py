"""Heads with painted blood of each subtype, and a bundle that knows the subtypes by their HU.

The shipped model does not find all five. Here its network, and nothing else, is replaced by thresholds: what comes in,
the grid, probabilities, mask, volumes, sides and all that follows are the node's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper
from pydicom.dataset import Dataset

from tests import ct
from tests.graphs import write_graph_bundle
from triage_node.domain import SUBTYPES

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""From and to along left, posterior and head, mm; the centre of the head is at 0."""

BLOOD: Final[Mapping[str, tuple[int, Box]]] = {
    "epidural": (50, ((42, 60), (-25, 25), (-10, 20))),
    "intraparenchymal": (60, ((-40, -20), (-10, 20), (0, 25))),
    "intraventricular": (70, ((-5, 5), (5, 12), (0, 10))),
    "subarachnoid": (80, ((22, 30), (-40, -32), (5, 15))),
    "subdural": (90, ((-62, -52), (-40, 40), (-20, 30))),
    "poison": (102, ((-20, 20), (-20, 20), (-20, 20))),
}
"""HU, and where it is painted. Where the network sees a spot of poison it says NaN: no result."""
_BAND_HU: Final = 4
"""Either way; the brain of `ct.head` is 30 to 38."""
_WIDTH_HU: Final = 160.0
"""Of the only window, which begins at 0."""
_POISON_SHARE: Final = 0.005
"""Of an image."""
_SURE: Final = 0.97
_SIZE_PX: Final = 128
_SPACING_MM: Final = 1.875


def write_head(folder: Path, *, name: str, blood: str | None = None) -> None:
    """A head CT of 20 slices of the patient `name`, with one of BLOOD or none."""
    images = ct.head(matrix=_SIZE_PX)
    for image in images:
        image.PatientName, image.PatientID, image.AccessionNumber = name, f"ID {name[:8]}", f"ACC {name[:8]}"
        image.PatientBirthDate, image.PatientSex = "19500102", "F"
        image.StudyDescription, image.SeriesDescription = "HEAD WITHOUT CONTRAST", "HEAD 5 MM"
        if blood is not None:
            _paint(image, *BLOOD[blood])
    ct.save(images, folder)


def _paint(image: Dataset, hu: int, box: Box) -> None:
    spacing_mm = (float(image.PixelSpacing[0]), float(image.PixelSpacing[1]))
    orientation = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    points_mm = ct.pixel_centres_mm(np.array(image.ImagePositionPatient, float), orientation, spacing_mm, image.Rows)
    low_mm, high_mm = np.array(box).T
    painted = ct.hu_of(image)
    painted[((points_mm >= low_mm) & (points_mm <= high_mm)).all(axis=-1)] = hu
    ct.set_hu(image, painted)


def write_band_bundle(folder: Path) -> Path:
    """A pixel is blood of the subtype in whose band of HU it lies."""
    window = (_WIDTH_HU / 2, _WIDTH_HU)
    return write_graph_bundle(folder, _graph(), size_px=_SIZE_PX, spacing_mm=_SPACING_MM, windows=[window])


def _graph() -> onnx.ModelProto:
    """pixels = (background, blood of each subtype), all NaN where sqrt(share allowed - share of poison) is.

    Bands are opened by 3 x 3 pixels: the edges of bone, which pass through every HU, are thinner.
    """
    hu = np.array([each for each, _ in BLOOD.values()], np.float32).reshape(1, -1, 1, 1)
    numbers = {
        "low": (hu - _BAND_HU) / np.float32(_WIDTH_HU),
        "high": (hu + _BAND_HU) / np.float32(_WIDTH_HU),
        "parts": np.array([len(SUBTYPES), 1], np.int64),
        "classes": np.array([1], np.int64),
        "plane": np.array([2, 3], np.int64),
        "allowed": np.array(_POISON_SHARE, np.float32),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "sure": np.array(_SURE, np.float32),
    }
    nodes = [
        helper.make_node("Greater", ["images", "low"], ["above"]),
        helper.make_node("Less", ["images", "high"], ["below"]),
        helper.make_node("And", ["above", "below"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["seen"], ["unseen"]),
        helper.make_node("MaxPool", ["unseen"], ["eaten"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Neg", ["eaten"], ["hearts"]),
        helper.make_node("MaxPool", ["hearts"], ["bands"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Split", ["bands", "parts"], ["surely", "poison"], axis=1),
        helper.make_node("Mul", ["surely", "sure"], ["blood"]),
        helper.make_node("ReduceSum", ["blood", "classes"], ["any"]),
        helper.make_node("Sub", ["one", "any"], ["background"]),
        helper.make_node("Concat", ["background", "blood"], ["all"], axis=1),
        helper.make_node("ReduceMean", ["poison", "plane"], ["share"]),
        helper.make_node("Sub", ["allowed", "share"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["all", "nothing"], ["pixels"]),
    ]
    shape = ["n", 1 + len(SUBTYPES), _SIZE_PX, _SIZE_PX]
    graph = helper.make_graph(
        nodes,
        "bands",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, _SIZE_PX, _SIZE_PX])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(values, name) for name, values in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
