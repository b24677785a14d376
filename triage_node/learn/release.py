"""From a finished run to a bundle: thresholds, figures, model card, all written together and swapped in at once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from triage_node.assemble import assemble
from triage_node.config import DEFAULT_RULES
from triage_node.decide import decide
from triage_node.domain import CLASSES, Prediction, Priority, UInt8Array
from triage_node.infer.predict import Predictor
from triage_node.learn.bundling import make_ensemble
from triage_node.learn.card import model_card
from triage_node.learn.checkpoint import averaged_network
from triage_node.learn.curves import CURVES
from triage_node.learn.evaluation.alerts import alerts
from triage_node.learn.evaluation.figures import write_figures
from triage_node.learn.evaluation.heads import (
    Case,
    evaluate_negative,
    extra_axial_mm2,
    iterate_simulated,
    judge_head,
    negative_case,
)
from triage_node.learn.evaluation.judgement import Judgement
from triage_node.learn.evaluation.metrics import auc
from triage_node.learn.evaluation.report import rounded, summarize
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.export import BundleSettings, write_bundle
from triage_node.learn.heldout import FROZEN_SHA256, SeriesSettings
from triage_node.learn.operating import LEAST_ML, choose_settings
from triage_node.learn.record import read_record
from triage_node.learn.rim import median_profile, plot_profiles, rim_profile
from triage_node.transforms import Stack

TUNING_SERIES: Final = 144
TEST_SERIES: Final = 96
_STACK: Final = Stack(neighbours=True)
_TRAINED_ON: Final = "Trained on simulated images only."
_TOLD_OF: Final = "simulated ones (learn/test-series.toml), and no real head"
_PREVALENCE: Final = 0.1
_FEWEST: Final = 3
"""Heads of either kind, for an AUC."""


def release(
    config: TrainConfig,
    out: Path,
    *,
    version: str,
    real_negatives: Mapping[str, Path],
    tuning_series: int = TUNING_SERIES,
    test_series: int = TEST_SERIES,
    series: SeriesSettings | None = None,
) -> dict[str, Any]:
    """Make the bundle of a run in `out`, replacing what is there; returns its metrics.

    `real_negatives` are folders of real head CT series without hemorrhage, kept out of training and tuning, by what the
    model card says of their origin and licence. Series are rendered once, beside the run. `series` are drawn in place
    of the frozen ones for a trial: what the card says of learn/test-series.toml does not hold then.
    """
    heads = config.run.parent / "held-out"
    drafts = config.run / "draft"
    shutil.rmtree(drafts, ignore_errors=True)
    draft, step = _draft(config, drafts, out.name, version, _Tuning(heads, tuning_series, series))

    predictor, negatives = Predictor(draft), _negatives(real_negatives)
    test = _Judged()
    for case in iterate_simulated(heads, count=test_series, settings=series):
        test.add(case, predictor.predict(case.volume))
        if not case.truth.any():
            test.add_rim(case, predictor.seen_mask(predictor.examine(case.volume), case.volume))
    metrics = _metrics(predictor, test, negatives, config, step)
    metrics["series_sha256"] = FROZEN_SHA256 if series is None else None
    _draw(draft, test, metrics, negatives, config)
    metrics["simulated"].pop("cases")
    (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (draft / "MODEL_CARD.md").write_text(model_card(out.name, version, metrics), encoding="utf-8")
    _swap_in(draft, out)
    shutil.rmtree(drafts)
    return metrics


@dataclass(frozen=True)
class _Tuning:
    """The series that thresholds and calibration are chosen on, as often as they are asked for."""

    folder: Path
    count: int
    settings: SeriesSettings | None

    def __iter__(self) -> Iterator[Case]:
        return iterate_simulated(self.folder, count=self.count, tuning=True, settings=self.settings)


def _draft(config: TrainConfig, drafts: Path, name: str, version: str, tuning: _Tuning) -> tuple[Path, int]:
    """The calibrated bundle of the run, alone or with the one beside it, and how many steps it had."""
    network, step = averaged_network(config.run, config.network, config.start_share)
    bare = BundleSettings(
        network=config.network,
        grid=config.grid,
        stack=_STACK,
        mirrored=config.beside is None,  # a fourth opinion is not worth its time (docs/decisions/0024-two-networks.md)
        chronic=True,
        appearance=config.images.appearance,
        trained_on=_TRAINED_ON,
    )
    alone = drafts / (name if config.beside is None else f"{name}-{version}")
    write_bundle(alone, name=name, version="draft", network=network, settings=bare)
    settings = choose_settings(Predictor(alone), tuning, bare, told_of=_TOLD_OF)
    write_bundle(alone, name=name, version=version, network=network, settings=settings)
    if config.beside is None:
        return alone, step
    both = drafts / name
    members = (config.beside, alone)
    make_ensemble(members, both, version=version, tuning=tuning, told_of=_TOLD_OF, trained_on=_TRAINED_ON)
    return both, step


class _Judged:
    """What was said of the test series."""

    def __init__(self) -> None:
        self.judgements: list[Judgement] = []
        self.priorities: list[Priority] = []
        self.bled: list[bool] = []
        self.profiles: list[Any] = []
        self.covered: dict[str, list[bool]] = {name: [] for name in CLASSES}
        """Whether the true volume lay in its interval, of the heads that an interval speaks of."""
        self.chronic: list[tuple[float, bool]] = []
        """Said and true, of the heads whose subdural blood was seen."""
        self.rims_mm2: list[float] = []
        """False extra-axial area in a slice, of the heads without blood, without the series gate."""
        self.fingerprint = hashlib.sha256()
        """Of the pixels and the truth of all, in order."""

    def add(self, case: Case, prediction: Prediction) -> None:
        judgement = judge_head(prediction, case)
        self.judgements.append(judgement)
        self.profiles.append(rim_profile(case.volume, case.truth))
        if (bled := judgement.labels["any"]) is not None:
            self.priorities.append(decide(prediction, DEFAULT_RULES, {}).priority)
            self.bled.append(bled)
        self._compare_intervals(judgement, prediction)
        if case.chronic is not None and prediction.subdural_chronic is not None:
            self.chronic.append((prediction.subdural_chronic, case.chronic))
        self.fingerprint.update(case.volume.hu.tobytes() + case.truth.tobytes())

    def add_rim(self, case: Case, seen: UInt8Array | None) -> None:
        """Of a head without blood, what is seen without the series gate."""
        assert seen is not None  # what is released has masks
        self.rims_mm2.append(extra_axial_mm2(seen, case.volume))

    def _compare_intervals(self, judgement: Judgement, prediction: Prediction) -> None:
        for name, overlap in judgement.overlaps.items():
            ends = prediction.volume_intervals_ml.get(name)
            if ends is not None and min(overlap.true_ml, overlap.seen_ml) >= LEAST_ML:
                self.covered[name].append(ends[0] <= overlap.true_ml <= ends[1])


def _share(covered: Sequence[bool]) -> float | None:
    return sum(covered) / len(covered) if covered else None


def _of_chronic(pairs: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """The AUC of chronic against acute; None where fewer than _FEWEST heads are of either kind."""
    truth = np.array([chronic for _, chronic in pairs], bool)
    enough = min(truth.sum(), (~truth).sum()) >= _FEWEST
    scores = np.array([said for said, _ in pairs])
    return {"heads": len(pairs), "chronic": int(truth.sum()), "auc": auc(scores, truth) if enough else None}


def _negatives(folders: Mapping[str, Path]) -> dict[str, Case]:
    return {origin: negative_case(assemble(sorted(folder.glob("*.dcm")))) for origin, folder in folders.items()}


def _metrics(
    predictor: Predictor, test: _Judged, negatives: Mapping[str, Case], config: TrainConfig, step: int
) -> dict[str, Any]:
    record = read_record(config.run)
    return {
        "members": [
            {
                "name": member.ref.name,
                "version": member.ref.version,
                "mirrored": member.mirrored,
                "grid": asdict(member.grid),
            }
            for member in predictor.bundle.members or [predictor.bundle]
        ],
        "windows": list(config.images.windows),
        "series_fingerprint": test.fingerprint.hexdigest(),
        "simulated": {"series": len(test.judgements), **summarize(test.judgements, [], prevalence=_PREVALENCE)},
        "volume_interval_heads": {name: len(covered) for name, covered in test.covered.items()},
        "volume_interval_coverage": rounded({name: _share(covered) for name, covered in test.covered.items()}),
        "subdural_chronic": rounded(_of_chronic(test.chronic)),
        "alerts": rounded(alerts(test.priorities, test.bled, prevalence=_PREVALENCE)),
        "false_extra_axial_mm2_per_slice": round(float(np.mean(test.rims_mm2)), 3) if test.rims_mm2 else None,
        "real_negatives": [
            rounded({"origin": origin, **evaluate_negative(predictor, case)}) for origin, case in negatives.items()
        ],
        "training": {
            "went_on": config.start_from is not None,
            "start_share": config.start_share,
            "steps": step,
            "image_passes": step * config.batch,
            "slices_rendered": record["pool"],
            "slices_by_subtype": record["present"],
            "wall_hours": round(record["wall_s"] / 3600, 2),
            "last_losses": record["curve"][-1],
        },
    }


def _draw(
    draft: Path, test: _Judged, metrics: Mapping[str, Any], negatives: Mapping[str, Case], config: TrainConfig
) -> None:
    figures = draft / "figures"
    write_figures(figures, metrics["simulated"], test.judgements)
    shutil.copyfile(config.run / CURVES, figures / CURVES)
    if negatives:
        real = median_profile([rim_profile(case.volume) for case in negatives.values()])
        plot_profiles(real, median_profile(test.profiles), figures / "rim.png")


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
