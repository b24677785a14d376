"""The comparison of docs/comparison.md: what its rows are made of and what its table says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from triage_node.domain import SUBTYPES
from triage_node.learn.comparison import REPORTED, _draw_confusion, draw, read_rows, reported_table, table
from triage_node.learn.experiment import read_config
from triage_node.networks import NETWORKS, network_name

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "models" / "compared").glob("*.train.toml"))


def row(**changes: Any) -> dict[str, Any]:
    figures = {"positives": 3, "negatives": 5, "accuracy": 0.75, "precision": 0.5, "recall": 0.25, "f1": 0.3333}
    return {
        "parameters": 4009931,
        "minutes": 9.6,
        "slices_seen": 12800,
        "steps": 20,
        "slice_metrics": {"any": {**figures, "auc": 0.81249}},
        "segmentation": {"any": None},
        "confusion": {"classes": ["none", "subdural"], "matrix": [[4, 1], [2, 1]], "left_out": 0},
        "slices_per_s": 87.6,
        "curve": [{"step": 10, "total": 1.5, "accuracy": 0.5}, {"step": 20, "total": 1.0, "accuracy": 0.8}],
        "validation": [],
        **changes,
    }


def test_every_network_of_the_reports_has_an_experiment_of_the_same_heads() -> None:
    configs = {path.name.removesuffix(".train.toml"): read_config(path) for path in EXPERIMENTS}
    assert set(configs) == set(NETWORKS) - {"unet"}
    assert {name: network_name(config.network) for name, config in configs.items()} == {name: name for name in configs}
    for name, config in configs.items():
        assert config.shards.resolve() == ROOT / "runs" / "compared" / "train"
        assert config.run.name == name
        assert (config.seed, config.threads, config.augment.picture_share) == (1, 1, 0.0)


def test_a_network_without_masks_has_no_dice() -> None:
    masks = {"any": {"dice": 0.5, "iou": 0.3333}}
    lines = table({"plain-cnn": row(), "unet4": row(segmentation=masks)}).splitlines()
    assert lines[2] == "| `plain-cnn` | 4,009,931 | 10 | 12,800 | 0.750 | 0.500 | 0.250 | 0.333 | 0.812 | - | - | 88 |"
    assert lines[3].endswith("| 0.812 | 0.500 | 0.333 | 88 |")


def test_rows_that_are_not_there_yet_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(row()))
    assert list(read_rows(tmp_path, ["a", "b", "c"])) == ["b"]


def test_the_curves_of_every_row_are_drawn(tmp_path: Path) -> None:
    draw({"one": row(), "other": row(confusion=None)}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_no_two_kinds_of_blood_have_one_name_in_the_confusion_matrix() -> None:
    panel = Figure().subplots()
    classes = ["none", *SUBTYPES]
    _draw_confusion(panel, {"classes": classes, "matrix": [[0] * len(classes)] * len(classes)})
    for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["none", "EDH", "IPH", "IVH", "SAH", "SDH"]


def test_what_was_reported_stands_apart_and_is_called_other_data() -> None:
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8"))
    assert "as other data, other splits and other budgets, with no claim of equality" in page
    assert "All figures are of simulated heads." in page
    assert all(f"| {name} | {told} |" in reported_table() for name, told in REPORTED)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_an_experiment_says_by_which_command_it_is_run(path: Path) -> None:
    assert f"python scripts/compare.py row {path.name.removesuffix('.train.toml')}\n" in path.read_text()
