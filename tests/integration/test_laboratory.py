"""Every registered network, and an ensemble, from weights to the objects that go to the PACS."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom.sr as hdsr
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import ct, layouts
from triage_node import cli
from triage_node.config import Config, Series
from triage_node.domain import CLASSES, SUBTYPES, Volume
from triage_node.infer.predict import Predictor
from triage_node.learn.bundling import make_bundle, make_ensemble
from triage_node.learn.checkpoint import BEST
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.record import RECORD
from triage_node.networks import NETWORKS, network_config, network_of
from triage_node.pipeline.files import analyze_folder
from triage_node.transforms import Grid

NOW = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
SMALL: dict[str, dict[str, Any]] = {
    "triagenet": {"base_width": 4, "levels": 3, "head_width": 8},
    "unet": {"base_width": 4, "levels": 3, "head_width": 8},
    "unet4": {"base_width": 4},
    "deeplabv3": {"width": 4, "pyramid_width": 8},
    "resnet18": {"width": 4},
    "resnet50": {"width": 4},
    "resnet50v2-yolo": {"width": 4},
    "double-branch": {"width": 4, "detector_width": 4},
    "vgg16": {"dense_width": 8},
    "plain-cnn": {"widths": [4, 4, 4, 4, 4], "dense_width": 8},
}
MASKS = {"triagenet", "unet", "unet4", "deeplabv3", "double-branch"}
BOXES = {"resnet50v2-yolo"}


def bundle_of(name: str, folder: Path) -> Path:
    """Untrained, and so calibrated that it finds something in whatever it is shown."""
    torch.manual_seed(2)
    config = network_config(name, SMALL[name])
    run = folder / f"run-{name}"
    run.mkdir(parents=True)
    weights = {f"ema.{key}": value for key, value in network_of(config).state_dict().items()}
    save_file(weights, run / BEST, {"step": "1"})
    record = {"present": dict.fromkeys(SUBTYPES, 9), "taught": {"pixels": 9, "chronic": 9, "none": 9}}
    (run / RECORD).write_text(json.dumps(record))
    grid = Grid(size_px=64, spacing_mm=3.4)
    trained = TrainConfig(shards=folder, run=run, steps=1, network=config, grid=grid)
    made = folder / name
    make_bundle(trained, made, version="1", tuning=tuning(), told_of="noise")
    return flagging(made)


def tuning() -> list[Case]:
    """Two heads of noise, of which one shows every kind of blood."""
    bled = np.zeros((6, 64, 64), np.uint8)
    for label in range(1, 6):
        bled[label, 20:30, 20:30] = label
    return [Case(volume=noise(), truth=truth) for truth in (bled, np.zeros_like(bled))]


def noise() -> Volume:
    return Volume(
        hu=np.random.default_rng(0).normal(40, 20, (6, 64, 64)).astype(np.int16),
        sop_uids=(),
        paths=(),
        positions_mm=np.stack([[0.0, 0.0, 5.0 * index] for index in range(6)]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(3.0, 3.0),
        weights_mm=np.full(6, 5.0),
        tilt_deg=0.0,
        header={},
    )


def flagging(bundle: Path) -> Path:
    settings = bundle / "bundle.toml"
    lines = settings.read_text().splitlines()
    offset = lines.index("[calibration.offset]")
    lines[offset + 1 : offset + 1 + len(CLASSES)] = [f"{name} = 30.0" for name in CLASSES]
    settings.write_text(re.sub("(box_min_probability) = .*", r"\1 = 0.01", "\n".join(lines)) + "\n")
    return bundle


def analysed(bundle: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """result.json and the kinds of the objects."""
    ct.save(ct.head(), folder / "in")
    predictor = Predictor(bundle, "cpu")
    any_age = Config(series=Series(max_study_age_h=0.0))
    (result,) = analyze_folder(folder / "in", folder / "out", config=any_age, predictor=predictor, now=NOW)
    assert json.loads(json.dumps(result)) == result
    return result, [made["kind"] for made in result["objects"]]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_served(name: str, tmp_path: Path) -> None:
    result, kinds = analysed(bundle_of(name, tmp_path), tmp_path)
    assert result["outcome"] == "ANALYZED"
    assert result["priority"] in ("STAT", "HIGH")
    assert {"SR", "KEY_IMAGE"} <= set(kinds)
    assert (result["volumes_ml"]["any"] is None) == (name not in MASKS)
    assert ("SEG" in kinds) <= (name in MASKS)
    assert (result["boxes"] is None) == (name not in BOXES)
    assert result["bundle"]["name"] == name


def test_boxes_reach_the_report_where_the_network_drew_them(tmp_path: Path) -> None:
    result, kinds = analysed(bundle_of("resnet50v2-yolo", tmp_path), tmp_path)
    assert result["boxes"]
    path = Path(result["objects"][kinds.index("SR")]["path"])
    regions = hdsr.srread(path).content.get_planar_roi_measurement_groups()
    surest = {box["subtype"]: box for box in reversed(result["boxes"])}
    drawn = {group.tracking_identifier: group for group in regions}
    first = drawn["ICH-SDH-BOX-1"]
    left, top, right, bottom = surest["subdural"]["edges_px"]
    corners = first.roi.value
    assert corners.min(axis=0).tolist() == pytest.approx([left, top], abs=1)
    assert corners.max(axis=0).tolist() == pytest.approx([right, bottom], abs=1)
    image = first.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert image == result["slices"][surest["subdural"]["slice"] - 1]["sop_uid"]


def test_an_ensemble_of_unlike_networks_is_served(tmp_path: Path) -> None:
    members = [bundle_of(name, tmp_path / "members") for name in ("unet4", "resnet50v2-yolo", "plain-cnn")]
    make_ensemble(members, tmp_path / "three", version="1", tuning=tuning(), told_of="noise")
    result, kinds = analysed(flagging(tmp_path / "three"), tmp_path)
    assert (result["outcome"], result["priority"]) == ("ANALYZED", "STAT")
    assert result["volumes_ml"]["any"] is not None
    assert result["boxes"] is not None
    assert {"SR", "KEY_IMAGE"} <= set(kinds)


def test_the_command_on_files_says_where_its_results_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct.save(ct.head(), tmp_path / "in")
    bundle = bundle_of("plain-cnn", tmp_path)
    capsys.readouterr()
    assert cli.main(["analyze", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--bundle", str(bundle)]) == 0
    told = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("  in "))
    assert told.parent == tmp_path / "out"
    assert (told / "result.json").is_file()


def test_images_that_name_no_sop_class_are_refused_with_what_to_do_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first thing that is tried with a bundle trained on RSNA 2019."""
    root = layouts.rsna(tmp_path / "in")
    assert cli.main(["analyze", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "evaluate --dataset rsna" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
