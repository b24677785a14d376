"""A site's own network as an ONNX graph: what it must be, and that what it does not say stays unsaid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graphs import write_settings
from triage_node.domain import CLASSES, SUBTYPES, Volume
from triage_node.errors import InferenceError
from triage_node.infer.bundle import load_bundle
from triage_node.infer.predict import Predictor

SIZE_PX = 32
SLICES = 5
WITH_BLOOD = 3


def _volume() -> Volume:
    """Air, a head of 30 HU, and on one slice a square of 20 x 20 pixels of 70 HU."""
    hu = np.full((SLICES, 80, 80), -1024, np.int16)
    hu[:, 10:70, 10:70] = 30
    hu[WITH_BLOOD, 30:50, 30:50] = 70
    return Volume(
        hu=hu,
        sop_uids=(),
        paths=(),
        positions_mm=np.stack([[0.0, 0.0, 5.0 * index] for index in range(SLICES)]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(2.0, 2.0),
        weights_mm=np.full(SLICES, 5.0),
        tilt_deg=0.0,
        header={},
    )


def _write_bundle(
    folder: Path,
    *,
    classes: Sequence[str] = ("any", "intraparenchymal"),
    outputs: Sequence[str] = ("pixels", "slices"),
    mask: bool = True,
    chronic: bool = False,
    channels: int = 3,
    batch: str | int = "n",
    infinite: bool = False,
) -> Path:
    """A graph that sees blood of the first subtype above 50 HU (0.625 in the brain window)."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(
        _graph(classes, outputs, channels=channels, batch=batch, infinite=infinite).SerializeToString()
    )
    _write_settings(folder, classes=classes, mask=mask, chronic=chronic)
    return folder


def _graph(
    classes: Sequence[str], outputs: Sequence[str], *, channels: int, batch: str | int, infinite: bool
) -> onnx.ModelProto:
    subtypes = sum(name in SUBTYPES for name in classes)
    numbers = {
        "first": np.array([0], np.int64),
        "one_past": np.array([1], np.int64),
        "axis": np.array([1], np.int64),
        "plane": np.array([2, 3], np.int64),
        "threshold": np.array(0.625, np.float32),
        "steep": np.array(40.0, np.float32),
        "one": np.array(1.0, np.float32),
        "zeros": np.zeros((1, max(0, subtypes - 1), 1, 1), np.float32),
        "evidence": np.full((1, len(classes)), np.inf if infinite else 8.0, np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["images", "first", "one_past", "axis"], ["brain"]),
        helper.make_node("Sub", ["brain", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "steep"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["bright"]),
        helper.make_node("Less", ["brain", "one"], ["soft"]),
        helper.make_node("Cast", ["soft"], ["soft_tissue"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["bright", "soft_tissue"], ["blood"]),
        helper.make_node("Sub", ["one", "blood"], ["background"]),
        helper.make_node("Mul", ["blood", "zeros"], ["others"]),
        helper.make_node("Concat", ["background", "blood", "others"][: 1 + min(subtypes, 2)], ["pixels"], axis=1),
        helper.make_node("ReduceMax", ["blood", "plane"], ["peak"], keepdims=0),
        helper.make_node("Sub", ["peak", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "evidence"], ["slices"]),
        helper.make_node("ReduceSum", ["centred", "axis"], ["chronic"], keepdims=0),
    ]
    shapes = {
        "pixels": [batch, 1 + subtypes, SIZE_PX, SIZE_PX],
        "slices": [batch, len(classes)],
        "chronic": [batch],
    }
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [onnx.numpy_helper.from_array(values, name) for name, values in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _write_settings(folder: Path, **outputs: Any) -> None:
    windows = [(40.0, 80.0), (80.0, 200.0), (600.0, 2800.0)]
    write_settings(folder, size_px=SIZE_PX, spacing_mm=5.0, windows=windows, **outputs)


def test_a_graph_finds_what_it_was_made_to_find(tmp_path: Path) -> None:
    prediction = Predictor(_write_bundle(tmp_path / "site")).predict(_volume())
    assert prediction.probabilities["intraparenchymal"] == prediction.probabilities["any"] > 0.8
    assert prediction.mask is not None
    assert set(np.flatnonzero(prediction.mask.any(axis=(1, 2)))) == {WITH_BLOOD}
    assert prediction.volumes_ml["intraparenchymal"] == pytest.approx(20 * 20 * 4 * 5 / 1000, rel=0.15)


def test_what_a_graph_does_not_say_is_null_not_0(tmp_path: Path) -> None:
    prediction = Predictor(_write_bundle(tmp_path / "site")).predict(_volume())
    for name in set(CLASSES) - {"any", "intraparenchymal"}:
        assert prediction.probabilities[name] is None
        assert prediction.volumes_ml[name] is None
        assert np.isnan(prediction.slice_probabilities[:, CLASSES.index(name)]).all()


def test_a_graph_of_any_alone_speaks_of_nothing_else(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site", classes=["any"], outputs=["slices"], mask=False)
    prediction = Predictor(folder).predict(_volume())
    assert (prediction.probabilities["any"] or 0) > 0.8
    assert [prediction.probabilities[name] for name in SUBTYPES] == [None] * len(SUBTYPES)
    assert prediction.mask is None
    assert set(prediction.volumes_ml.values()) == {None}
    assert prediction.subdural_chronic is None


def test_a_graph_without_slice_logits_is_taken_at_its_pixels(tmp_path: Path) -> None:
    prediction = Predictor(_write_bundle(tmp_path / "site", outputs=["pixels"])).predict(_volume())
    flagged = prediction.slice_probabilities[:, 0] >= 0.5
    assert set(np.flatnonzero(flagged)) == {WITH_BLOOD}
    assert (prediction.probabilities["intraparenchymal"] or 0) > 0.8
    assert prediction.probabilities["subdural"] is None


def test_the_subtypes_of_a_graph_come_in_the_order_of_its_bundle(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site", classes=["subdural", "any", "epidural"], outputs=["pixels"])
    prediction = Predictor(folder).predict(_volume())
    assert prediction.volumes_ml["subdural"] == prediction.volumes_ml["any"]
    assert (prediction.volumes_ml["any"] or 0) > 1
    assert prediction.volumes_ml["epidural"] == 0.0


def test_a_graph_may_tell_chronic_from_acute(tmp_path: Path) -> None:
    folder = _write_bundle(
        tmp_path / "site", classes=["any", "subdural"], outputs=["pixels", "slices", "chronic"], chronic=True
    )
    assert Predictor(folder).predict(_volume()).subdural_chronic == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 5}, r"has shape .* bundle.toml gives \[n, 3, 32, 32\]"),
        ({"batch": 1}, "n must be free"),
        ({"outputs": ["slices"]}, 'has no output "pixels"'),
        ({"outputs": ["chronic"], "mask": False}, 'has no output "slices"'),
        ({"classes": ["any", "subdural"], "chronic": True}, 'has no output "chronic"'),
    ],
)
def test_a_graph_that_is_not_as_promised_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = _write_bundle(tmp_path / "site", **changes)  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match=message):
        Predictor(folder)


def test_fewer_columns_than_classes_are_no_result(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site")
    _write_settings(folder, classes=["any", "intraparenchymal", "subdural"])
    with pytest.raises(InferenceError, match="not of 3 columns"):
        Predictor(folder).predict(_volume())


def test_logits_in_place_of_probabilities_are_no_result(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site")
    graph = onnx.load(folder / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Identity"
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    _write_settings(folder, classes=["any", "intraparenchymal"])
    with pytest.raises(InferenceError, match="must be probabilities, not logits"):
        Predictor(folder).predict(_volume())


def test_a_graph_that_is_not_finite_gives_no_result(tmp_path: Path) -> None:
    """Its logits of a head without blood are minus infinity: a perfect negative, if it were taken for a number."""
    volume = _volume()
    volume.hu[WITH_BLOOD, 30:50, 30:50] = 30
    with pytest.raises(InferenceError, match="not finite"):
        Predictor(_write_bundle(tmp_path / "site", infinite=True)).predict(volume)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site")
    graph = onnx.load(folder / "model.onnx")
    onnx.save_model(graph, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    _write_settings(folder, classes=["any", "intraparenchymal"])
    with pytest.raises(InferenceError, match="save the graph with all data inside"):
        Predictor(folder)


def test_a_changed_byte_is_refused_and_so_is_what_is_no_graph(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site")
    (folder / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(InferenceError, match=r"model\.onnx: has sha256"):
        load_bundle(folder)
    _write_settings(folder, classes=["any", "intraparenchymal"])
    with pytest.raises(InferenceError, match="is no ONNX graph"):
        Predictor(folder)


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path) -> None:
    folder = _write_bundle(tmp_path / "site")
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from triage_node.infer.predict import Predictor\n"
        f"Predictor({str(folder)!r})"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'triage-node[onnx]'" in said.stderr
