"""From a finished run to a bundle: thresholds, figures, model card, all written together and swapped in at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from triage_node.assemble import assemble
from triage_node.domain import CLASSES
from triage_node.infer.predict import Predictor
from triage_node.learn.checkpoint import averaged_network
from triage_node.learn.evaluation.heads import (
    TEST_SEED,
    Case,
    evaluate_negative,
    judge_head,
    negative_case,
    simulated_cases,
)
from triage_node.learn.evaluation.report import rounded, summarize
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.export import BundleSettings, write_bundle
from triage_node.learn.operating import TUNING_SEED, choose_settings
from triage_node.learn.record import read_record


def release(
    config: TrainConfig,
    out: Path,
    *,
    version: str,
    real_negatives: Mapping[str, Path],
    tuning_heads: int = 30,
    test_heads: int = 40,
) -> dict[str, Any]:
    """Make the bundle of a run in `out`, replacing what is there; returns its metrics.

    `real_negatives` are folders of real head CT series without hemorrhage, kept out of training, by what the model card
    says of their origin and licence.
    """
    network, step = averaged_network(config.run, config.network)
    negatives = {
        origin: negative_case(assemble(sorted(folder.glob("*.dcm")))) for origin, folder in real_negatives.items()
    }
    draft = config.run / "draft"
    write_bundle(
        draft,
        name=out.name,
        version="draft",
        network=network,
        settings=BundleSettings(network=config.network, grid=config.grid),
    )
    heads = config.run.parent / "held-out"
    tuning = simulated_cases(heads, first_seed=TUNING_SEED, count=tuning_heads)
    settings = choose_settings(Predictor(draft), tuning, list(negatives.values()))
    write_bundle(draft, name=out.name, version=version, network=network, settings=settings)
    metrics = _metrics(Predictor(draft), heads, test_heads, negatives, config, step)
    (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (draft / "MODEL_CARD.md").write_text(_card(out.name, version, metrics), encoding="utf-8")
    _swap_in(draft, out)
    return metrics


def _metrics(
    predictor: Predictor, heads: Path, count: int, negatives: Mapping[str, Case], config: TrainConfig, step: int
) -> dict[str, Any]:
    record = read_record(config.run)
    cases = simulated_cases(heads, first_seed=TEST_SEED, count=count)
    return {
        "grid": asdict(config.grid),
        "simulated": {"heads": count, **summarize([judge_head(predictor, case) for case in cases], [])},
        "real_negatives": [
            rounded({"origin": origin, **evaluate_negative(predictor, case)}) for origin, case in negatives.items()
        ],
        "training": {
            "steps": step,
            "image_passes": step * config.batch,
            "slices_rendered": record["pool"],
            "slices_by_subtype": record["present"],
            "last_losses": record["curve"][-1],
        },
    }


def _swap_in(draft: Path, out: Path) -> None:
    """Two renames: no reader ever finds the settings of one bundle beside the weights of another."""
    old, new = out.with_name(f".{out.name}-old"), out.with_name(f".{out.name}-new")
    for stale in (old, new):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(draft, new)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- model card


def _card(name: str, version: str, metrics: Mapping[str, Any]) -> str:
    simulated, training = metrics["simulated"], metrics["training"]
    slices = simulated["slice_metrics"]["any"]
    return f"""# Model card: {name} {version}

**Research software. Not for clinical use, not for primary diagnosis.** Written by `triage_node.learn.release` together
with the weights; the same figures, unrounded, are in metrics.json.

## What it is
A 2-D U-Net with a slice head (`networks/unet.py`; plain torch) for adult non-contrast axial head CT. It gives, for
every slice, the probability of any intracranial hemorrhage and of five subtypes, and a mask of the five subtypes. It
sees single slices at {_grid(metrics)}, three windows, no neighbours, no clinical data.

## What it learned from
Simulated heads only (`triage_node.simulate`, varied further by `learn/augment.py`): {training["slices_rendered"]}
slices, {training["image_passes"]} image passes in {training["steps"]} steps.
**No real image, and so no real hemorrhage, was used in training.** The simulator and its variations were tuned while
looking at the real head below, though: nothing here is an independent test on real data. Part of the slices was
rendered by earlier states of the simulator, so the run cannot be repeated to the bit.

## Figures on simulated heads
{simulated["heads"]} held-out simulated heads; of their slices {slices["positives"]} with and
{slices["negatives"]} without blood. They say how well the simulation was learned, **not** how well patients are
read. Sensitivity and specificity are at probability 0.5.

| class | slice AUC | slice sens. | slice spec. | series AUC | series sens. | series spec. | Dice |
| --- | --- | --- | --- | --- | --- | --- | --- |
{_rows(simulated)}

## Real heads without hemorrhage
{_negatives(metrics["real_negatives"])}

## What is not known
- Sensitivity for real hemorrhage: no labelled real hemorrhage was at hand. Do not assume it.
- Subdural, epidural and subarachnoid blood look least real in simulation; expect misses and false alarms there.
- Children, surgery, implants, metal, contrast, motion, and scanners unlike the simulated ones.
- Volumes are of the mask; they inherit all its errors.

## Thresholds
Chosen on other held-out simulated heads, and moved so that the real heads without hemorrhage above stay below the
operating point: on those heads the result is therefore no independent test (bundle.toml says the same). Probabilities
are scores with an operating point of 0.5, not calibrated frequencies.
"""


def _grid(metrics: Mapping[str, Any]) -> str:
    grid = metrics["grid"]
    return f"{grid['size_px']} x {grid['size_px']} pixels of {grid['spacing_mm']} mm"


def _rows(simulated: Mapping[str, Any]) -> str:
    def row(name: str) -> str:
        by_slice, series = simulated["slice_metrics"][name], simulated["metrics"][name]
        figures = [of and of[key] for of in (by_slice, series) for key in ("auc", "recall", "specificity")]
        figures.append(series and series["segmentation"]["dice"])
        return f"| {name} | " + " | ".join("-" if figure is None else f"{figure:.3f}" for figure in figures) + " |"

    return "\n".join(row(name) for name in CLASSES)


def _negatives(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "None was at hand."
    return "\n".join(_negative(result) for result in results)


def _negative(result: Mapping[str, Any]) -> str:
    return (
        f"- {result['origin']}, {result['slices']} slices: series probability {result['probabilities']['any']:.2f}, "
        f"{result['slices_at_or_above_0.5']} slices at or above 0.5, "
        f"false volume {result['false_volume_ml']['any']:.2f} mL "
        f"(without the series gate {result['false_volume_without_series_gate_ml']['any']:.2f} mL)."
    )
