"""Bundles that are checked, a predictor that keeps its word, and a child that can be killed."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from triage_node.domain import CLASSES, SUBTYPES, Prediction, Volume
from triage_node.errors import InferenceError, UsageError
from triage_node.infer.boxes import native_boxes
from triage_node.infer.bundle import (
    WEIGHTS_FILE,
    SeriesWeights,
    find_bundle,
    load_bundle,
    read_network,
    shipped_bundles,
)
from triage_node.infer.framing import prediction_frame, prediction_from_frame, read_frame, write_frame
from triage_node.infer.mask import native_mask
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Predictor
from triage_node.infer.process import InferenceProcess
from triage_node.infer.series import calibrated, highest_slices, in_series, series_probabilities, shown_subtypes
from triage_node.infer.weights import WeightsNetwork
from triage_node.learn.export import BundleSettings, write_bundle
from triage_node.networks import TriageNet, TriageNetConfig, UNet, UNetConfig
from triage_node.networks.resnet50v2_yolo import ResNet50V2Yolo, ResNet50V2YoloConfig
from triage_node.transforms import Grid, Stack, place_grid

TINY = UNetConfig(base_width=4, levels=3, head_width=8)
TINY_STACKED = TriageNetConfig(base_width=4, levels=3, context_blocks=1, head_width=8)


def _write_tiny_bundle(folder: Path, *, seed: int = 5) -> Path:
    """An untrained network that calls something on noise, in every class."""
    torch.manual_seed(seed)
    settings = BundleSettings(
        network=TINY,
        grid=Grid(size_px=64, spacing_mm=3.0),
        mask_min_probability=dict.fromkeys(SUBTYPES, 0.2),
        series_min_probability=0.01,
        speck_mm3=100.0,
    )
    write_bundle(folder, name="tiny", version="1", network=UNet(TINY), settings=settings)
    return folder


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    return _write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    """Shared, since a child takes seconds to import torch; a test may kill its child, the next one gets a new one."""
    with InferenceProcess(_write_tiny_bundle(tmp_path_factory.mktemp("shared")), timeout_s=60) as process:
        yield process


def _noise_volume(slices: int = 11) -> Volume:
    rng = np.random.default_rng(7)
    hu = np.full((slices, 96, 96), -1024, np.int16)
    hu[:, 10:80, 15:85] = rng.normal(40, 30, (slices, 70, 70)).astype(np.int16)
    return Volume(
        hu=hu,
        sop_uids=tuple(f"1.2.{index}" for index in range(slices)),
        paths=tuple(Path(f"/nowhere/{index}.dcm") for index in range(slices)),
        positions_mm=np.stack([[0.0, 0.0, 5.0 * index] for index in range(slices)]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(2.0, 2.0),
        weights_mm=np.full(slices, 5.0),
        tilt_deg=0.0,
        header={"StationName": "secret"},
    )


def _assert_same(one: Prediction, other: Prediction) -> None:
    assert one.mask is not None
    assert other.mask is not None
    np.testing.assert_array_equal(one.mask, other.mask)
    assert one.mask.dtype == other.mask.dtype == np.uint8
    np.testing.assert_array_equal(one.slice_probabilities, other.slice_probabilities)
    assert one.slice_probabilities.dtype == other.slice_probabilities.dtype == np.float32
    assert one.probabilities == other.probabilities
    assert one.volumes_ml == other.volumes_ml
    assert one.subdural_chronic == other.subdural_chronic
    assert one.bundle == other.bundle


# ---------------------------------------------------------------- bundle


def test_the_shipped_default_bundle_is_whole() -> None:
    bundle = load_bundle(find_bundle("default"))
    assert bundle.outputs_classes == CLASSES
    weights = list(bundle.folder.rglob(WEIGHTS_FILE))
    assert len(weights) == max(1, len(bundle.members))
    assert sum(path.stat().st_size for path in weights) < 20_000_000
    assert "Not for clinical use" in bundle.intended_use


def test_a_bundle_is_found_by_its_folder(tiny_bundle: Path) -> None:
    assert find_bundle(tiny_bundle) == tiny_bundle


def test_a_bundle_that_is_nowhere_is_refused_by_name() -> None:
    with pytest.raises(InferenceError, match=r"no model bundle 'nonesuch'.*bundle\.toml"):
        find_bundle("nonesuch")


def test_what_a_killed_release_left_is_no_shipped_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage_node.infer.bundle._shipped_folders", lambda: [tiny_bundle.parent])
    shutil.copytree(tiny_bundle, tiny_bundle.parent / ".tiny-old")
    assert shipped_bundles() == {"tiny": tiny_bundle}


def test_weights_that_are_swapped_after_the_check_are_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert read_network(bundle) == bundle.weights_path.read_bytes()
    _flip_a_weight(tiny_bundle)
    with pytest.raises(InferenceError, match="has sha256"):
        WeightsNetwork(bundle, "cpu")


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "bundle.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def _append(table: str) -> Callable[[Path], None]:
    return _edit("[outputs]", f"{table}\n[outputs]")


def _flip_a_weight(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_flip_a_weight, r"weights\.safetensors: has sha256"),
        (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors: cannot be read"),
        (lambda folder: (folder / "bundle.toml").unlink(), r"bundle\.toml: cannot be read"),
        (_edit("speck_mm3", "spekc_mm3"), r"\[thresholds\] unknown key 'spekc_mm3'"),
        (_edit("subdural = 0.2\n", ""), r"\[thresholds.mask_min_probability\] key 'subdural' is missing"),
        (_edit('version = "1"', "version = 1"), "version must be str, not int"),
        (_edit("mask = true", "mask = 1"), "mask must be bool, not int"),
        (_edit('"subdural"]', '"sudbural"]'), "unknown class 'sudbural'"),
        (_edit("widths_hu = [80.0", "widths_hu = [0.0"), "widths are above 0"),
        (_edit("[grid]", "[grid"), "is not valid TOML"),
        (_edit("speck_mm3 = 100.0", "speck_mm3 = nan"), "speck_mm3 must be finite float, not nan"),
        (_edit("any = 0.0", "any = -inf"), r"\[calibration.offset\] any must be finite float, not -inf"),
        (_edit("subdural = 0.2", "subdural = 1.2"), r"\[thresholds\] probabilities must be above 0 and at most 1"),
        (_edit("any = 1.0", "any = -1.0"), r"\[calibration.slope\] must be above 0"),
        (_append("[series]\nany = [-1.0, 0.0, 0.0]"), "its weights, must not be below 0"),
        (_append("[series]\nany = [1.0, nan, 0.0]"), r"\[series\] any must be 3 finite numbers"),
        (_append("[volume_interval]\nany = [2.0, 1.0]"), "must be a lower and a higher number"),
        (_edit('classes = ["any", ', "classes = ["), 'classes must hold "any"'),
        (_edit("slab_mm = 0.0", "slab_mm = -1.0"), r"\[stack\] neighbour_mm must be above 0"),
        (_edit("neighbours = false", "neighbors = false"), r"\[stack\] unknown key 'neighbors'"),
        (_edit('name = "unet"', 'name = "onnx"'), r"a graph \(name = \"onnx\"\) has none"),
    ],
)
def test_a_tampered_bundle_is_refused(tiny_bundle: Path, tamper: Callable[[Path], None], message: str) -> None:
    load_bundle(tiny_bundle)
    tamper(tiny_bundle)
    with pytest.raises(InferenceError, match=message):
        load_bundle(tiny_bundle)


def test_weights_of_another_network_are_refused(tiny_bundle: Path) -> None:
    _edit("base_width = 4", "base_width = 8")(tiny_bundle)
    with pytest.raises(InferenceError, match="do not fit the network"):
        Predictor(tiny_bundle, device="cpu")


def test_a_network_that_is_unknown_is_refused(tiny_bundle: Path) -> None:
    _edit('name = "unet"', 'name = "resnet"')(tiny_bundle)
    with pytest.raises(InferenceError, match="no network is called 'resnet'"):
        Predictor(tiny_bundle, device="cpu")


def _rewrite_weights(folder: Path, data: bytes) -> None:
    """As somebody would who also knows where the hash is."""
    path = folder / "weights.safetensors"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(data)
    _edit(old, hashlib.sha256(data).hexdigest())(folder)


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "changed")
    _rewrite_weights(folder, (folder / "changed").read_bytes())


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_that_is_called_safetensors_is_refused_unopened(tiny_bundle: Path, kind: str) -> None:
    weights = {"encoder.0.enter.weight": torch.zeros(1)}
    torch.save(weights, tiny_bundle / "saved.pt")
    _rewrite_weights(tiny_bundle, pickle.dumps([1]) if kind == "pickle" else (tiny_bundle / "saved.pt").read_bytes())
    with pytest.raises(InferenceError, match=r"is no safetensors file .* pickled weights are never loaded"):
        Predictor(tiny_bundle, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.update(extra=torch.zeros(1)), 'Unexpected key.*"extra"'),
        (lambda weights: weights.pop("segmentation.bias"), 'Missing key.*"segmentation.bias"'),
        (lambda weights: weights["segmentation.bias"].fill_(float("nan")), "segmentation.bias is not finite"),
        (lambda weights: weights["segmentation.bias"][:1].fill_(float("inf")), "segmentation.bias is not finite"),
    ],
)
def test_changed_weights_are_refused_though_the_hash_fits(
    tiny_bundle: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    _change_weights(tiny_bundle, change)
    with pytest.raises(InferenceError, match=f"(?s){message}"):
        Predictor(tiny_bundle, device="cpu")


def _overflow(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if name.endswith("weight"):
            tensor.fill_(6e4)


def test_a_network_that_overflows_gives_no_result(tiny_bundle: Path) -> None:
    _change_weights(tiny_bundle, _overflow)
    with pytest.raises(InferenceError, match="not finite"):
        Predictor(tiny_bundle, device="cpu").predict(_noise_volume())


def test_no_bundle_is_made_of_what_half_precision_cannot_hold(tmp_path: Path) -> None:
    network = UNet(TINY)
    torch.nn.init.constant_(network.segmentation.bias, 1e6)
    settings = BundleSettings(network=TINY, grid=Grid(size_px=64, spacing_mm=3.0))
    with pytest.raises(UsageError, match=r"segmentation\.bias is not finite in half precision"):
        write_bundle(tmp_path / "broken", name="broken", version="1", network=network, settings=settings)
    assert not (tmp_path / "broken").exists()


# ---------------------------------------------------------------- predictor


def test_a_prediction_has_the_shapes_and_ranges_it_promises(tiny_bundle: Path) -> None:
    volume = _noise_volume()
    prediction = Predictor(tiny_bundle).predict(volume)
    assert prediction.mask is not None
    assert prediction.mask.shape == volume.hu.shape
    assert prediction.mask.max() <= len(SUBTYPES)
    assert prediction.slice_probabilities.shape == (len(volume.hu), len(CLASSES))
    assert (prediction.slice_probabilities[:, 0] >= prediction.slice_probabilities[:, 1:].max(axis=1)).all()
    assert prediction.volumes_ml == volumes_ml(prediction.mask, volume)
    assert prediction.volumes_ml["any"] > 0, "the fixture must find something, or the tests say nothing"
    assert prediction.bundle.name == "tiny"


def test_what_a_bundle_does_not_output_is_none(tiny_bundle: Path) -> None:
    _edit('"any", "epidural", ', '"any", ')(tiny_bundle)
    prediction = Predictor(tiny_bundle).predict(_noise_volume())
    assert prediction.probabilities["epidural"] is None
    assert prediction.volumes_ml["epidural"] is None
    assert prediction.probabilities["subdural"] is not None


def test_a_subtype_that_is_not_output_has_no_mask_and_no_part_in_any(tiny_bundle: Path) -> None:
    before = Predictor(tiny_bundle).predict(_noise_volume())
    assert before.mask is not None
    [most] = np.bincount(before.mask[before.mask > 0]).argmax(keepdims=True)
    name = SUBTYPES[most - 1]
    _edit(f'"{name}", ' if name != "subdural" else ', "subdural"', "")(tiny_bundle)
    prediction = Predictor(tiny_bundle).predict(_noise_volume())
    assert prediction.mask is not None
    assert not (prediction.mask == most).any()
    assert np.isnan(prediction.slice_probabilities[:, CLASSES.index(name)]).all()
    spoken = [value for value in prediction.volumes_ml.values() if value is not None]
    assert prediction.volumes_ml["any"] == pytest.approx(sum(spoken[1:]))


def test_a_bundle_without_mask_gives_none_and_no_volume(tiny_bundle: Path) -> None:
    _edit("mask = true", "mask = false")(tiny_bundle)
    prediction = Predictor(tiny_bundle).predict(_noise_volume())
    assert prediction.mask is None
    assert set(prediction.volumes_ml.values()) == {None}


def _write_box_bundle(folder: Path) -> Path:
    """An untrained network that sees boxes in noise."""
    torch.manual_seed(5)
    network = ResNet50V2YoloConfig(width=4)
    settings = BundleSettings(
        network=network,
        grid=Grid(size_px=64, spacing_mm=3.0),
        mask=False,
        boxes=True,
        box_min_probability=0.05,
        series_min_probability=0.01,
    )
    write_bundle(folder, name="boxes", version="1", network=ResNet50V2Yolo(network), settings=settings)
    return folder


def test_a_bundle_of_boxes_draws_them_on_the_slices_and_measures_nothing(tmp_path: Path) -> None:
    said = Predictor(_write_box_bundle(tmp_path / "b"), device="cpu").predict(_noise_volume())
    assert said.mask is None
    assert set(said.volumes_ml.values()) == {None}
    assert said.boxes, "the fixture must find something, or the test says nothing"
    assert [box.probability for box in said.boxes] == sorted((box.probability for box in said.boxes), reverse=True)
    assert {box.slice_index for box in said.boxes} <= set(range(11))
    for box in said.boxes:
        assert 0 <= box.left <= box.right <= 96
        assert 0 <= box.top <= box.bottom <= 96
    _edit("series_min_probability = 0.01", "series_min_probability = 1.0")(tmp_path / "b")
    assert Predictor(tmp_path / "b", device="cpu").predict(_noise_volume()).boxes == ()


def test_boxes_pass_the_pipe(tmp_path: Path) -> None:
    sent = Predictor(_write_box_bundle(tmp_path / "b"), device="cpu").predict(_noise_volume())
    pipe = io.BytesIO()
    write_frame(pipe, *prediction_frame(sent))
    pipe.seek(0)
    assert prediction_from_frame(*read_frame(pipe)).boxes == sent.boxes


@pytest.mark.parametrize(
    ("orientation", "edges"),
    [
        ([[1.0, 0, 0], [0, 1, 0]], (20, 10, 40, 70)),
        ([[-1.0, 0, 0], [0, 1, 0]], (56, 10, 76, 70)),
        ([[1.0, 0, 0], [0, -1, 0]], (20, 26, 40, 86)),
        ([[0.0, 1, 0], [1, 0, 0]], (10, 20, 70, 40)),
    ],
)
def test_a_box_is_where_it_is_however_the_slices_are_stored(
    tmp_path: Path, orientation: list[list[float]], edges: tuple[int, ...]
) -> None:
    """A box from 20 to 40 across and 10 to 70 down of a slice as it is shown, of 96 x 96 pixels."""
    bundle = load_bundle(_write_box_bundle(tmp_path / "b"))
    volume = replace(_noise_volume(2), hu=np.full((2, 96, 96), 40, np.int16), orientation=np.array(orientation))
    placement = place_grid(volume, Grid(size_px=96, spacing_mm=2.0))
    said = np.zeros((2, 3, 9), np.float32)
    shares = np.array([20, 10, 40, 70], np.float32) / 96
    said[1, :, :4] = shares, shares + 0.01, np.array([0.5, 0.5, 0.6, 0.6])
    said[1, :, 4 + SUBTYPES.index("subdural")] = 0.8, 0.7, 0.04
    found = native_boxes(said, placement, SUBTYPES, bundle)
    assert [(box.slice_index, box.subtype, round(box.probability, 2)) for box in found] == [(1, "subdural", 0.8)]
    beyond = said.copy()
    beyond[..., :4] = 1.0
    assert native_boxes(beyond, placement, SUBTYPES, bundle) == ()  # nothing of it is left
    assert (found[0].left, found[0].top, found[0].right, found[0].bottom) == pytest.approx(edges, abs=1e-3)


def _write_stacked_bundle(folder: Path, stack: Stack, *, chronic: bool = True, mirrored: bool = False) -> Path:
    torch.manual_seed(5)
    settings = BundleSettings(
        network=TINY_STACKED,
        grid=Grid(size_px=64, spacing_mm=3.0),
        stack=stack,
        mirrored=mirrored,
        mask_min_probability=dict.fromkeys(SUBTYPES, 0.005),
        series_min_probability=0.01,
        speck_mm3=0.0,
        calibration=dict.fromkeys(CLASSES, (1.0, 2.0)) | {"chronic": (1e-6, -1.0)},
        chronic=chronic,
    )
    write_bundle(folder, name="stacked", version="1", network=TriageNet(TINY_STACKED), settings=settings)
    return folder


def test_what_is_said_of_a_slab_holds_for_all_its_slices(tmp_path: Path) -> None:
    """Slices of 1 mm, each of them three times the same, say what slices of 3 mm say."""
    predictor = Predictor(_write_stacked_bundle(tmp_path / "b", Stack(neighbours=True, slab_mm=3.0)), device="cpu")
    thick = replace(_noise_volume(), weights_mm=np.full(11, 3.0))
    thick.positions_mm[:, 2] = 3.0 * np.arange(11)
    along_mm = np.stack([[0.0, 0.0, z] for z in np.arange(33) - 1.0])
    thin = replace(thick, hu=np.repeat(thick.hu, 3, axis=0), positions_mm=along_mm, weights_mm=np.ones(33))
    expected, said = predictor.predict(thick), predictor.predict(thin)
    np.testing.assert_allclose(said.slice_probabilities, np.repeat(expected.slice_probabilities, 3, axis=0), atol=1e-5)
    assert expected.mask is not None
    assert said.mask is not None
    assert expected.mask.any(), "the fixture must find something, or the test says nothing"
    assert (said.mask != np.repeat(expected.mask, 3, axis=0)).mean() < 1e-4
    assert said.volumes_ml["any"] == pytest.approx(expected.volumes_ml["any"], rel=1e-3)


def test_a_network_sees_the_neighbours_and_nothing_beyond(tmp_path: Path) -> None:
    predictor = Predictor(_write_stacked_bundle(tmp_path / "b", Stack(neighbours=True)), device="cpu")
    volume, brighter = _noise_volume(), _noise_volume()
    brighter.hu[5, 10:80, 15:85] = 80
    before, after = (predictor.examine(each).logits for each in (volume, brighter))
    changed = np.flatnonzero((before != after).any(axis=1))
    np.testing.assert_array_equal(changed, [4, 5, 6])


def test_a_single_slice_is_its_own_neighbour(tmp_path: Path) -> None:
    predictor = Predictor(_write_stacked_bundle(tmp_path / "b", Stack(neighbours=True)), device="cpu")
    three = _noise_volume(3)
    three.hu[[0, 2]] = three.hu[1]
    alone = replace(three, hu=three.hu[:1], positions_mm=three.positions_mm[:1], weights_mm=np.array([5.0]))
    said, expected = (predictor.examine(volume).logits for volume in (alone, three))
    assert said.shape == (1, 6)
    np.testing.assert_allclose(said[0], expected[1], atol=1e-4)


def test_left_and_right_are_alike_to_a_mirrored_bundle(tmp_path: Path) -> None:
    volume = _noise_volume()
    turned = replace(volume, hu=np.ascontiguousarray(volume.hu[..., ::-1]))
    gaps = {}
    for mirrored in (False, True):
        folder = _write_stacked_bundle(tmp_path / str(mirrored), Stack(neighbours=True), mirrored=mirrored)
        one, other = (Predictor(folder, device="cpu").examine(each) for each in (volume, turned))
        assert one.pixel_probabilities is not None
        assert other.pixel_probabilities is not None
        gaps[mirrored] = np.abs(one.pixel_probabilities - other.pixel_probabilities[..., ::-1]).max()
        gaps[mirrored] += np.abs(one.logits - other.logits).max()
    assert gaps[True] < gaps[False] / 50, "in bfloat16 a turned image is not the same to the last digit"
    assert gaps[False] > 1e-3


def test_chronic_is_said_of_subdural_blood_where_the_bundle_says_it(tmp_path: Path) -> None:
    said = Predictor(_write_stacked_bundle(tmp_path / "b", Stack(neighbours=True))).predict(_noise_volume())
    assert (said.probabilities["subdural"] or 0) >= 0.5, "the fixture must find it, or the test says nothing"
    assert said.subdural_chronic == pytest.approx(1 / (1 + np.e), rel=1e-4)  # its calibration makes every logit -1
    _edit("subdural = 2.0", "subdural = -20.0")(tmp_path / "b")
    assert Predictor(tmp_path / "b").predict(_noise_volume()).subdural_chronic is None
    silent = _write_stacked_bundle(tmp_path / "c", Stack(neighbours=True), chronic=False)
    assert Predictor(silent).predict(_noise_volume()).subdural_chronic is None


def test_a_network_that_wants_neighbours_is_refused_without(tmp_path: Path) -> None:
    folder = _write_stacked_bundle(tmp_path / "b", Stack(neighbours=False))
    with pytest.raises(InferenceError, match=r"takes 5 channels, but \[windows\] and \[stack\] give 3"):
        Predictor(folder)


def test_a_subtype_below_its_series_threshold_has_no_volume(tiny_bundle: Path) -> None:
    _edit("series_min_probability = 0.01", "series_min_probability = 0.9999")(tiny_bundle)
    assert Predictor(tiny_bundle).predict(_noise_volume()).volumes_ml["any"] == 0.0


def test_a_flag_without_a_subtype_points_at_the_likeliest_that_was_seen(tiny_bundle: Path) -> None:
    bundle = replace(load_bundle(tiny_bundle), series_min_probability=0.5)
    torn: dict[str, float | None] = dict.fromkeys(CLASSES, 0.1)
    torn |= {"any": 0.7, "epidural": 0.41, "subdural": 0.47, "subarachnoid": 0.49}
    assert shown_subtypes(torn, ("epidural", "subdural"), bundle) == {"subdural"}
    assert shown_subtypes(torn, (), bundle) == frozenset()
    assert shown_subtypes({**torn, "any": 0.49}, SUBTYPES, bundle) == frozenset()
    assert shown_subtypes({**torn, "epidural": 0.5}, SUBTYPES, bundle) == {"epidural"}
    strict = replace(bundle, series_min_probability=0.9)
    assert shown_subtypes({**torn, "epidural": 0.5}, SUBTYPES, strict) == frozenset(), "named, and not shown as asked"


def test_what_is_shown_is_what_is_measured(tiny_bundle: Path) -> None:
    """A series that is flagged without a subtype has a volume, of the likeliest."""
    _edit("series_min_probability = 0.01", "series_min_probability = 0.5")(tiny_bundle)
    settings = tiny_bundle / "bundle.toml"
    weights = [f"{name} = [0.001, 0.001, {1.0 if name == 'any' else -0.1}]" for name in CLASSES]
    settings.write_text("\n".join([settings.read_text(), "[series]", *weights]) + "\n")
    said = Predictor(tiny_bundle, device="cpu").predict(_noise_volume())
    assert all(0.4 < (said.probabilities[name] or 0) < 0.5 for name in SUBTYPES)
    likeliest = max(SUBTYPES, key=lambda name: said.probabilities[name] or 0)
    assert [name for name in CLASSES if said.volumes_ml[name]] == ["any", likeliest]


def test_one_piece_of_extra_axial_blood_has_one_name(tiny_bundle: Path) -> None:
    """That of the larger part of it, over all slices; what does not touch it keeps its own."""
    volume = _noise_volume()
    bundle = replace(load_bundle(tiny_bundle), mask_min_probability=dict.fromkeys(SUBTYPES, 0.5), speck_mm3=0.0)
    placement = place_grid(volume, bundle.grid, bundle.stack.slab_mm)
    size = bundle.grid.size_px
    blood = np.zeros((len(placement.slab_along_mm), 6, size, size), np.float32)
    subdural, epidural = 1 + SUBTYPES.index("subdural"), 1 + SUBTYPES.index("epidural")
    rows = slice(size // 2, size // 2 + 3)
    blood[4, subdural, rows, 10:20], blood[5, subdural, rows, 10:20] = 0.9, 0.9
    blood[4:6, :, rows, 13:17] = 0
    blood[4:6, epidural, rows, 13:17] = 0.9  # the thick middle of the crescent
    blood[4:6, epidural, rows, 30:34] = 0.9  # a lens on the other side
    mask = native_mask(blood, placement, volume, bundle)
    counted = np.bincount(mask.ravel(), minlength=6)
    assert counted[subdural] == pytest.approx(2.5 * counted[epidural], rel=0.25)
    assert set(np.flatnonzero(counted)) == {0, epidural, subdural}


def test_one_lone_slice_must_be_surer_than_three_in_a_row() -> None:
    lone, row = np.zeros((9, 6), np.float32), np.zeros((9, 6), np.float32)
    lone[4, 5], row[3:6, 5] = 0.8, 0.8
    assert highest_slices(lone)[5] == pytest.approx(0.5)
    assert highest_slices(np.full((1, 6), 0.99, np.float32))[0] > 0.95
    assert highest_slices(row)[5] == pytest.approx(0.8)


def test_a_series_is_as_probable_as_its_slices_and_its_volume_say() -> None:
    slices, plain = np.full((5, 6), 0.3, np.float32), dict.fromkeys(CLASSES, SeriesWeights())
    nothing: dict[str, float | None] = dict.fromkeys(CLASSES, 0.0)
    assert series_probabilities(slices, nothing, plain)["subdural"] == pytest.approx(0.3)
    heavy = {**plain, "subdural": SeriesWeights(highest=1.0, volume=2.0, offset=-1.0)}
    with_blood = series_probabilities(slices, {**nothing, "subdural": 9.9}, heavy)
    assert with_blood["subdural"] == pytest.approx(1 / (1 + math.exp(-(math.log(0.3 / 0.7) + 2 * 2 - 1))))
    assert with_blood["any"] == with_blood["subdural"], "never less than a subtype"
    assert with_blood["epidural"] == pytest.approx(0.3), "one subtype does not touch the others"


def test_a_lone_slice_makes_its_series_as_probable_as_itself(tiny_bundle: Path) -> None:
    """Not so a stack: there the weights, which are chosen on whole heads, count."""
    settings = tiny_bundle / "bundle.toml"
    settings.write_text(settings.read_text() + "\n[series]\nany = [1.0, 1.0, -5.0]\nsubdural = [1.0, 1.0, -5.0]\n")
    predictor, stack = Predictor(tiny_bundle, device="cpu"), _noise_volume()
    lone = replace(stack, hu=stack.hu[:1], positions_mm=stack.positions_mm[:1], weights_mm=stack.weights_mm[:1])
    said, of_stack = predictor.predict(lone), predictor.predict(stack)
    of_slice = dict(zip(CLASSES, said.slice_probabilities[0], strict=True))
    assert said.probabilities == pytest.approx(of_slice, abs=1e-6)
    seen_alone = calibrated(predictor.examine(stack).logits, predictor.bundle)
    assert (of_stack.probabilities["subdural"] or 0) < 0.5 * highest_slices(seen_alone)[5]
    assert 0 < of_stack.slice_probabilities[:, 5].max() <= (of_stack.probabilities["subdural"] or 0) + 1e-6


def test_a_slice_shows_nothing_that_its_series_does_not() -> None:
    alone = np.array([[0.9, 0.1, 0.2, 0.1, 0.1, 0.8], [0.6, 0.1, 0.1, 0.1, 0.6, 0.5]], np.float32)
    flagged = {**dict.fromkeys(CLASSES, 0.3), "any": 0.7, "subarachnoid": 0.7}
    said = in_series(alone, flagged)
    np.testing.assert_array_equal(said[:, :5], alone[:, :5])
    assert said[0, 5] == pytest.approx(0.3), "the surest slice is as sure as the series"
    odds = said[:, 5] / (1 - said[:, 5])
    assert odds[0] / odds[1] == pytest.approx(4.0), "and the others keep their odds beside it"

    silent = in_series(alone, dict.fromkeys(CLASSES, 0.3))
    assert silent.max() == pytest.approx(0.3)
    assert silent.dtype == np.float32
    assert (silent[:, 0] >= silent[:, 1:].max(axis=1)).all()
    before, after = (each[:, 0] / (1 - each[:, 0]) for each in (alone, silent))
    assert after[0] / after[1] == pytest.approx(before[0] / before[1]), "the order stays, whatever a subtype says"


def test_of_what_a_bundle_does_not_output_no_slice_says_anything() -> None:
    alone = np.full((3, 6), 0.6, np.float32)
    alone[:, 2] = np.nan
    said = in_series(alone, {**dict.fromkeys(CLASSES, 0.2), "intraparenchymal": None})
    assert np.isnan(said[:, 2]).all()
    assert np.delete(said, 2, axis=1) == pytest.approx(0.2)


def test_a_volume_comes_with_the_interval_of_the_bundle(tiny_bundle: Path) -> None:
    assert set(Predictor(tiny_bundle).predict(_noise_volume()).volume_intervals_ml.values()) == {None}
    settings = tiny_bundle / "bundle.toml"
    settings.write_text(settings.read_text() + "\n[volume_interval]\nany = [0.5, 2.0]\n")
    told = Predictor(tiny_bundle).predict(_noise_volume())
    assert told.volume_intervals_ml["any"] == pytest.approx((told.volumes_ml["any"] * 0.5, told.volumes_ml["any"] * 2))
    assert told.volume_intervals_ml["subdural"] is None


def test_no_blood_has_no_interval(tiny_bundle: Path) -> None:
    _edit("series_min_probability = 0.01", "series_min_probability = 0.9999")(tiny_bundle)
    _append("[volume_interval]\nany = [0.5, 2.0]")(tiny_bundle)
    told = Predictor(tiny_bundle).predict(_noise_volume())
    assert told.volumes_ml["any"] == 0
    assert told.volume_intervals_ml["any"] is None


def test_series_weights_must_be_three_finite_numbers(tiny_bundle: Path) -> None:
    settings = tiny_bundle / "bundle.toml"
    settings.write_text(settings.read_text() + "\n[series]\nsubdural = [1.0, nan, 0.0]\n")
    with pytest.raises(InferenceError, match=r"\[series\] subdural must be 3 finite numbers"):
        Predictor(tiny_bundle)


# ---------------------------------------------------------------- process


def test_the_process_says_the_same_bit_for_bit(tiny_bundle: Path, running: InferenceProcess) -> None:
    """`running` has the same weights: the seed of the fixture is fixed."""
    volume = _noise_volume()
    expected = Predictor(tiny_bundle).predict(volume)
    _assert_same(running.predict(volume), expected)
    child = running.pid
    _assert_same(running.predict(volume), expected)
    assert running.pid == child, "the child stays warm"


def test_what_is_not_said_passes_the_pipe_as_what_is_not_said(tiny_bundle: Path) -> None:
    _edit('"any", "epidural", ', '"any", ')(tiny_bundle)
    _edit("mask = true", "mask = false")(tiny_bundle)
    sent = replace(Predictor(tiny_bundle).predict(_noise_volume()), subdural_chronic=0.25)
    pipe = io.BytesIO()
    write_frame(pipe, *prediction_frame(sent))
    pipe.seek(0)
    received = prediction_from_frame(*read_frame(pipe))
    assert received.mask is None
    assert received.probabilities == sent.probabilities
    assert received.volumes_ml == sent.volumes_ml == dict.fromkeys(CLASSES)
    assert received.subdural_chronic == 0.25
    np.testing.assert_array_equal(received.slice_probabilities, sent.slice_probabilities)


def test_a_killed_child_is_replaced(running: InferenceProcess) -> None:
    volume = _noise_volume()
    expected = running.predict(volume)
    killed = running.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    _assert_same(running.predict(volume), expected)
    assert running.pid != killed


def test_a_child_killed_under_a_volume_raises_and_the_next_call_works(running: InferenceProcess) -> None:
    """Stopped first, so that the volume surely waits in the pipe when the kill comes."""
    volume = _noise_volume()
    running.start()
    assert running.pid is not None
    os.kill(running.pid, signal.SIGSTOP)
    killing = threading.Timer(0.3, os.kill, (running.pid, signal.SIGKILL))
    killing.start()
    with pytest.raises(InferenceError, match="ended unexpectedly"):
        running.predict(volume)
    killing.join()
    assert running.predict(volume).mask is not None


def test_a_volume_over_its_time_is_stopped_and_the_next_call_works(tiny_bundle: Path) -> None:
    with InferenceProcess(tiny_bundle, timeout_s=3) as process:
        process.start()
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(InferenceError, match="time limit of 3 s"):
            process.predict(_noise_volume())
        assert not Path(f"/proc/{first}").exists(), "the child is gone, not left behind"
        process.start()
        assert process.pid not in (None, first)


def test_a_refused_bundle_is_said_by_the_parent(tiny_bundle: Path) -> None:
    _flip_a_weight(tiny_bundle)
    with (
        InferenceProcess(tiny_bundle, timeout_s=60) as process,
        pytest.raises(InferenceError, match=r"weights\.safetensors: has sha256"),
    ):
        process.predict(_noise_volume())


def test_a_failing_model_raises_and_the_child_stays(running: InferenceProcess) -> None:
    volume = _noise_volume()
    running.start()
    child = running.pid
    broken = Volume(**{**vars(volume), "weights_mm": np.zeros(3)})
    with pytest.raises(InferenceError, match="the model failed"):
        running.predict(broken)
    assert running.predict(volume).mask is not None
    assert running.pid == child


def test_closing_ends_the_child(tiny_bundle: Path) -> None:
    process = InferenceProcess(tiny_bundle, timeout_s=60)
    process.start()
    child = process.pid
    process.close()
    process.close()
    assert process.pid is None
    assert not Path(f"/proc/{child}").exists()


def test_the_parent_imports_no_torch() -> None:
    code = (
        "import sys, triage_node.infer.process, triage_node.infer.measure, triage_node.infer.bundle;"
        "import triage_node.infer.check;"
        "sys.exit(bool({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
