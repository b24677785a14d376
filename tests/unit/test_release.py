"""From a run to a bundle: whole, calibrated on tuning series alone, with figures and a card that say so."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.infer.bundle import load_bundle
from triage_node.learn.checkpoint import BEST
from triage_node.learn.curves import CURVES
from triage_node.learn.evaluation.heads import Case, iterate_simulated
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.heldout import SeriesSettings
from triage_node.learn.record import RECORD
from triage_node.learn.release import release
from triage_node.networks import TriageNet, TriageNetConfig
from triage_node.simulate import axial_geometry, simulate_head, write_series
from triage_node.transforms import Grid

NETWORK = TriageNetConfig(base_width=4, levels=3, context_kernel_px=3, head_width=8)
SERIES = SeriesSettings(
    first_seed=1,
    tuning_first_seed=1000,
    with_template=0.0,
    slices=(6, 6),
    height_mm=(75.0, 75.0),
    thickness_mm=(5.0,),
    tilt_deg=(0.0,),
    field_of_view_mm=(240.0, 240.0),
    pixels=64,
    denser_half=(1.0,),
    bleeds=((), ("intraparenchymal", "subdural")),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that never trained."""
    run = tmp_path_factory.mktemp("trial") / "run"
    run.mkdir()
    torch.manual_seed(1)
    weights = {f"ema.{key}": value for key, value in TriageNet(NETWORK).state_dict().items()}
    save_file(weights, run / BEST, {"step": "0"})
    record = {"pool": 0, "present": {}, "wall_s": 0.0, "curve": [{"step": 0, "total": 1.0}], "validation": []}
    (run / RECORD).write_text(json.dumps(record), encoding="utf-8")
    (run / CURVES).write_bytes(b"\x89PNG")
    return TrainConfig(shards=run, run=run, steps=1, network=NETWORK, grid=Grid(size_px=32, spacing_mm=6.75))


@pytest.fixture(scope="module")
def negative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for a real series without hemorrhage."""
    folder = tmp_path_factory.mktemp("negative")
    geometry = axial_geometry(slices=8, spacing_mm=15.0, rows=64, columns=64, pixel_spacing_mm=3.75, thickness_mm=5.0)
    head = simulate_head(seed=7, geometry=geometry, measure_volumes=False)
    write_series(head, folder, seed=7, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return folder


@pytest.fixture(scope="module")
def released(config: TrainConfig, negative: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run with and without a real negative."""
    out = tmp_path_factory.mktemp("released")
    for name, negatives in (("with", {"hospital": negative}), ("without", {})):
        folder = out / name / "tiny"
        folder.parent.mkdir()
        release(config, folder, version="1", real_negatives=negatives, tuning_series=2, test_series=2, series=SERIES)
    return {name: out / name / "tiny" for name in ("with", "without")}


def metrics_of(bundle: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((bundle / "metrics.json").read_text())
    return metrics


def test_a_release_is_a_whole_bundle(released: dict[str, Path]) -> None:
    bundle = load_bundle(released["with"])
    assert bundle.ref.name == "tiny"
    assert all(0 < bundle.mask_min_probability[name] < 1 for name in SUBTYPES)
    assert all(bundle.calibration[name][0] > 0 for name in CLASSES)
    assert set(tomllib.loads((bundle.folder / "bundle.toml").read_text())["series"]) == set(CLASSES)
    assert not list(bundle.folder.parent.glob(".*")), "nothing is left over"


def test_the_card_tells_the_metrics(released: dict[str, Path]) -> None:
    metrics, card = metrics_of(released["with"]), (released["with"] / "MODEL_CARD.md").read_text()
    assert metrics["simulated"]["series"] == 2
    assert metrics["series_sha256"] is None, "these are not the frozen series"
    assert metrics["series_fingerprint"] in card
    assert set(metrics["volume_interval_coverage"]) == set(CLASSES)
    assert "hospital, 8 slices" in card
    assert f"heads without blood: {metrics['false_extra_axial_mm2_per_slice']:.2f} mm2" in card
    assert "as if half of them showed the class" in card
    assert "chronic): too few to say" in card


def test_a_release_beside_another_bundle_is_both(
    config: TrainConfig, released: dict[str, Path], tmp_path: Path
) -> None:
    joined = replace(config, beside=released["with"])
    release(joined, tmp_path / "pair", version="2", real_negatives={}, tuning_series=2, test_series=2, series=SERIES)
    bundle = load_bundle(tmp_path / "pair")
    assert [(member.ref.name, member.ref.version) for member in bundle.members] == [("tiny", "1"), ("pair", "2")]
    assert [member.mirrored for member in bundle.members] == [True, False]
    assert bundle.ref.name == "pair"
    settings = (bundle.folder / "bundle.toml").read_text()
    assert "Trained on simulated images only." in settings
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    at = f"at {config.grid.size_px} x {config.grid.size_px} pixels of {config.grid.spacing_mm} mm"
    assert (
        f"- tiny 1, which sees each slice once as it is and once mirrored, {at}\n"
        f"- pair 2, which sees each slice once, {at}\n" in card
    )
    assert metrics_of(bundle.folder)["simulated"]["series"] == 2
    assert not list(config.run.glob("draft*")), "nothing is left over"


def test_no_real_negative_moves_a_threshold(released: dict[str, Path]) -> None:
    given, without = metrics_of(released["with"]), metrics_of(released["without"])
    assert len(given.pop("real_negatives")) == 1
    assert without.pop("real_negatives") == []
    assert given == without
    one, other = ((folder / "bundle.toml").read_bytes() for folder in released.values())
    assert one == other


def test_a_kept_series_is_the_rendered_one(tmp_path: Path) -> None:
    def case() -> Case:
        *_, last = iterate_simulated(tmp_path, count=2, settings=SERIES)
        return last

    rendered, kept = case(), case()
    np.testing.assert_array_equal(rendered.volume.hu, kept.volume.hu)
    np.testing.assert_array_equal(rendered.truth, kept.truth)
    assert rendered.chronic == kept.chronic
    assert isinstance(kept.chronic, bool), "it has subdural blood"


def test_series_of_other_settings_are_rendered_anew(tmp_path: Path) -> None:
    [first] = iterate_simulated(tmp_path, count=1, settings=SERIES)
    other = SeriesSettings(**{**vars(SERIES), "first_seed": 2})
    [second] = iterate_simulated(tmp_path, count=1, settings=other)
    assert first.name == second.name
    assert (first.volume.hu != second.volume.hu).any()
