"""Bundles that are checked, a predictor that keeps its word, and a child that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from triage_node.domain import CLASSES, SUBTYPES, Prediction, Volume
from triage_node.errors import InferenceError
from triage_node.infer.bundle import find_bundle, load_bundle
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Predictor, series_probabilities
from triage_node.infer.process import InferenceProcess
from triage_node.learn.export import BundleSettings, write_bundle
from triage_node.networks import UNet, UNetConfig
from triage_node.transforms import Grid

TINY = UNetConfig(base_width=4, levels=3, head_width=8)


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
    assert one.bundle == other.bundle


# ---------------------------------------------------------------- bundle


def test_the_shipped_default_bundle_is_whole() -> None:
    bundle = load_bundle(find_bundle("default"))
    assert bundle.outputs_classes == CLASSES
    assert bundle.weights_path.stat().st_size < 10_000_000
    assert "Not for clinical use" in bundle.intended_use


def test_a_bundle_is_found_by_its_folder(tiny_bundle: Path) -> None:
    assert find_bundle(tiny_bundle) == tiny_bundle


def test_a_bundle_that_is_nowhere_is_refused_by_name() -> None:
    with pytest.raises(InferenceError, match=r"no model bundle 'nonesuch'.*bundle\.toml"):
        find_bundle("nonesuch")


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "bundle.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


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


def test_a_bundle_without_mask_gives_none_and_no_volume(tiny_bundle: Path) -> None:
    _edit("mask = true", "mask = false")(tiny_bundle)
    prediction = Predictor(tiny_bundle).predict(_noise_volume())
    assert prediction.mask is None
    assert set(prediction.volumes_ml.values()) == {None}


def test_a_subtype_below_its_series_threshold_has_no_volume(tiny_bundle: Path) -> None:
    _edit("series_min_probability = 0.01", "series_min_probability = 0.9999")(tiny_bundle)
    assert Predictor(tiny_bundle).predict(_noise_volume()).volumes_ml["any"] == 0.0


def test_one_lone_slice_must_be_surer_than_three_in_a_row() -> None:
    lone, row = np.zeros((9, 6), np.float32), np.zeros((9, 6), np.float32)
    lone[4, 5], row[3:6, 5] = 0.8, 0.8
    assert series_probabilities(lone)["subdural"] == pytest.approx(0.5)
    assert series_probabilities(np.full((1, 6), 0.99, np.float32))["any"] > 0.95
    assert series_probabilities(row)["subdural"] == series_probabilities(row)["any"] == pytest.approx(0.8)


# ---------------------------------------------------------------- process


def test_the_process_says_the_same_bit_for_bit(tiny_bundle: Path, running: InferenceProcess) -> None:
    """`running` has the same weights: the seed of the fixture is fixed."""
    volume = _noise_volume()
    expected = Predictor(tiny_bundle).predict(volume)
    _assert_same(running.predict(volume), expected)
    child = running.pid
    _assert_same(running.predict(volume), expected)
    assert running.pid == child, "the child stays warm"


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
        "import sys, triage_node.infer, triage_node.infer.process, triage_node.infer.measure, triage_node.infer.bundle;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
