"""The rows of docs/comparison.md: what each network is worth after an equal budget, beside figures of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch

from triage_node.domain import SUBTYPE_ABBREVIATIONS
from triage_node.infer.bundle import find_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.checkpoint import averaged_network
from triage_node.learn.evaluation.run import Question, evaluate
from triage_node.learn.evaluation.shards import iterate_shards
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.record import read_record

_TIMED_HEADS: Final = 6
_DIGITS: Final = 3
_COLUMNS: Final = ("accuracy", "precision", "recall", "f1", "auc")

REPORTED: Final[Sequence[tuple[str, str]]] = (
    ("U-Net", "AUC 0.94, IoU 0.32"),
    ("DeepLabV3", "AUC 0.98, IoU 0.56, accuracy 0.9978"),
    ("ResNet50V2 + YOLO", "accuracy 0.9175, precision 0.8375, recall 0.6246, AUC 0.9407, F1 0.4284"),
    ("VGG-16", "accuracy 0.85, loss 0.0731"),
    ("plain CNN, 4,009,931 parameters", "accuracy about 0.90"),
    ("ResNet-50 on RSNA", "accuracy 0.933, recall 0.76"),
    ("U-Net on CT-ICH", "Dice 0.31"),
)
"""As the reports tell them: of other data, other splits and other budgets."""


def judge(config: TrainConfig, bundle: Path, heads: Path) -> dict[str, Any]:
    """One row: a trained run and its bundle on the test heads, shards that neither training nor tuning saw.

    Figures of "any" are of slices; Dice and IoU of all pixels of all heads; the confusion matrix is of heads.
    """
    report = evaluate(Question(kind="shards", root=heads, bundle=str(bundle), device="cpu")).report
    record = read_record(config.run)
    network, best_step = averaged_network(config.run, config.network, config.start_share)
    segmentation = {name: (of_class or {}).get("segmentation") for name, of_class in report["metrics"].items()}
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "steps": record["step"],
        "best_step": best_step,
        "slices_seen": record["step"] * config.batch,
        "minutes": round(record["processor_s"] / 60, 1),
        "threads": config.threads,
        "grid": {"size_px": config.grid.size_px, "spacing_mm": config.grid.spacing_mm},
        "seed": config.seed,
        "code": record["code"],
        "data": record["data"],
        "slice_metrics": {name: _kept(told) for name, told in (report["slice_metrics"] or {}).items()},
        "segmentation": {
            name: told and {key: told[key] for key in ("dice", "iou")} for name, told in segmentation.items()
        },
        "confusion": report["confusion"],
        "heads": report["dataset"]["judged"],
        "slices_per_s": round(_speed(bundle, heads), 1),
        "curve": record["curve"],
        "validation": record["validation"],
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown, in their order."""
    head = ["network", "parameters", "minutes", "slices seen", *_COLUMNS, "Dice", "IoU", "slices/s"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        of_any, masks = row["slice_metrics"]["any"], row["segmentation"]["any"]
        figures = [of_any[column] for column in _COLUMNS] + [masks and masks[key] for key in ("dice", "iou")]
        told = [f"`{name}`", f"{row['parameters']:,}", f"{row['minutes']:.0f}", f"{row['slices_seen']:,}"]
        lines.append([*told, *(_told(figure) for figure in figures), f"{row['slices_per_s']:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reported_table() -> str:
    """REPORTED as Markdown."""
    return "\n".join(
        ["| system | as reported |", "| --- | --- |", *(f"| {name} | {told} |" for name, told in REPORTED)]
    )


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy of every row over its minutes, and its confusion matrix, as PNG. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 2.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for (name, row), (loss, accuracy, confusion) in zip(rows.items(), panels, strict=True):
        for part, style in (("curve", "-"), ("validation", "o--")):
            share = [point["step"] / row["steps"] * row["minutes"] for point in row[part]]
            label = "training" if part == "curve" else "validation"
            loss.plot(share, [point["total"] for point in row[part]], style, markersize=3, label=label)
            accuracy.plot(share, [point["accuracy"] for point in row[part]], style, markersize=3, label=label)
        loss.set_ylabel(f"{name}\nloss")
        accuracy.set_ylabel("accuracy, any")
        accuracy.set_ylim(0, 1)
        loss.legend(fontsize="x-small")
        _draw_confusion(confusion, row["confusion"])
    for panel in panels[-1][:2]:
        panel.set_xlabel("minutes")
    figure.savefig(path, dpi=70)


def read_rows(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The rows that are there, in the order of `names`."""
    found = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}


# ---------------------------------------------------------------- parts


def _kept(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if told is None else {key: told[key] for key in ("positives", "negatives", *_COLUMNS)}


def _told(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.{_DIGITS}f}"


def _speed(bundle: Path, heads: Path) -> float:
    """Slices of a second of the network alone, one thread; the first head warms up."""
    torch.set_num_threads(1)
    predictor = Predictor(find_bundle(bundle), "cpu")
    slices, seconds = 0, 0.0
    for number, case in enumerate(iterate_shards(heads, count=1 + _TIMED_HEADS)):
        started = perf_counter()
        network_s = predictor.examine(case.volume).timings_s["network"]
        if number:
            slices, seconds = slices + len(case.volume.hu), seconds + min(network_s, perf_counter() - started)
    return slices / seconds


def _draw_confusion(panel: Any, confusion: Mapping[str, Any] | None) -> None:
    if confusion is None:
        panel.set_axis_off()
        return
    panel.imshow(confusion["matrix"], cmap="Blues")
    most = max(map(max, confusion["matrix"]))
    short = [SUBTYPE_ABBREVIATIONS.get(name, name) for name in confusion["classes"]]
    panel.set_xticks(range(len(short)), short, fontsize="x-small")
    panel.set_yticks(range(len(short)), short, fontsize="x-small")
    for true, counts in enumerate(confusion["matrix"]):
        for said, count in enumerate(counts):
            color = "white" if count > most / 2 else "black"
            panel.text(said, true, str(count), color=color, ha="center", va="center", fontsize="x-small")
    panel.set_xlabel("said")
    panel.set_ylabel("true")
