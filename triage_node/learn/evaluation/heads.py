"""Whole heads with a mask of the truth: what they are, and what the node says of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, Prediction, UInt8Array, Volume
from triage_node.infer.bundle import Bundle
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Examined, Predictor, native_mask
from triage_node.learn.dataset import EVALUATION_SEED, as_volume, draw_geometry, draw_head
from triage_node.learn.evaluation.judgement import Judgement, SliceJudgements
from triage_node.learn.evaluation.overlap import Overlap, pixel_counts
from triage_node.learn.pool import PRESENT_MM2

TEST_SEED: Final = EVALUATION_SEED + 1_000_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One head and the truth."""

    volume: Volume
    truth: UInt8Array
    """(slices, rows, columns) uint8: 0, or 1 + index in SUBTYPES."""
    name: str = ""
    told: tuple[str, ...] = CLASSES
    """The classes that the truth speaks of; labels of a truth that tells only "any" have no subtype."""
    note: str | None = None

    @property
    def areas_mm2(self) -> Float32Array:
        """(slices, 6) float32 in the order of CLASSES."""
        pixel_mm2 = self.volume.pixel_spacing_mm[0] * self.volume.pixel_spacing_mm[1]
        by_label = np.stack([(self.truth == label).sum(axis=(1, 2)) for label in range(1, 1 + len(SUBTYPES))], axis=1)
        areas = np.concatenate([by_label.sum(axis=1, keepdims=True), by_label], axis=1) * pixel_mm2
        return np.asarray(areas, np.float32)


def judge_head(predictor: Predictor, case: Case) -> Judgement:
    """What the node says of one head, beside the truth.

    A slice shows a class from PRESENT_MM2 on and a head where one of its slices does; between nothing and that neither
    is counted.
    """
    prediction = predictor.predict(case.volume)
    areas = case.areas_mm2
    present, absent, told = areas >= PRESENT_MM2, areas == 0, _columns(case.told)
    shown, nowhere = np.any(present, axis=0), np.all(absent, axis=0)
    return Judgement(
        name=case.name,
        scores=prediction.probabilities,
        labels={
            name: bool(shown[k]) if told[k] and (shown[k] or nowhere[k]) else None for k, name in enumerate(CLASSES)
        },
        overlaps=_overlaps(prediction, case),
        slices=SliceJudgements(
            scores=prediction.slice_probabilities,
            given=_columns([name for name in CLASSES if prediction.probabilities[name] is not None]),
            present=present,
            known=(present | absent) & told,
        ),
        note=case.note,
    )


def simulated_cases(folder: Path, *, first_seed: int, count: int) -> list[Case]:
    """Held-out simulated heads; rendered once and kept in `folder`, so that they stay the same."""
    return list(iterate_simulated(folder, first_seed=first_seed, count=count))


def iterate_simulated(folder: Path, *, first_seed: int, count: int) -> Iterator[Case]:
    """The same one at a time, so that memory holds one."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    return (_simulated_case(folder, seed) for seed in tqdm(seeds, desc="held-out heads", unit="head"))


def negative_case(volume: Volume) -> Case:
    """A real head that is known to show no hemorrhage."""
    return Case(volume=volume, truth=np.zeros(volume.hu.shape, np.uint8))


def evaluate_negative(predictor: Predictor, case: Case) -> dict[str, Any]:
    """What is falsely seen in a real head without hemorrhage."""
    prediction = predictor.predict(case.volume)
    ungated = volumes_ml(ungated_mask(predictor.examine(case.volume), case, predictor.bundle), case.volume)
    return {
        "slices": len(prediction.slice_probabilities),
        "probabilities": dict(prediction.probabilities),
        "slices_at_or_above_0.5": int((prediction.slice_probabilities[:, 0] >= 0.5).sum()),
        "false_volume_ml": dict(prediction.volumes_ml),
        "false_volume_without_series_gate_ml": ungated,
    }


def ungated_mask(raw: Examined, case: Case, bundle: Bundle) -> UInt8Array:
    """The mask as if every subtype were present in the series."""
    return native_mask(raw.pixel_probabilities, raw.placement, case.volume, dict.fromkeys(CLASSES, 1.0), bundle)


# ---------------------------------------------------------------- steps


def _columns(names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([name in names for name in CLASSES])


def _overlaps(prediction: Prediction, case: Case) -> dict[str, Overlap]:
    """By class that both the bundle and the truth tell of; empty for a bundle without masks."""
    if prediction.mask is None:
        return {}
    true_ml = volumes_ml(case.truth, case.volume)
    overlaps = {}
    for name in case.told:
        if (seen_ml := prediction.volumes_ml[name]) is not None:
            both, seen, true = pixel_counts(prediction.mask, case.truth, name)
            overlaps[name] = Overlap(both_px=both, seen_px=seen, true_px=true, seen_ml=seen_ml, true_ml=true_ml[name])
    return overlaps


def _simulated_case(folder: Path, seed: int) -> Case:
    kept, name = folder / f"head-{seed}", f"head-{seed}"
    if not kept.exists():
        head, volume = draw_head(seed)
        part = folder / f"part-{seed}"
        part.mkdir(exist_ok=True)
        np.save(part / "hu.npy", head.hu)
        np.save(part / "truth.npy", head.truth)
        part.rename(kept)
        return Case(volume=volume, truth=head.truth, name=name)
    geometry = draw_geometry(np.random.default_rng(seed))
    volume = as_volume(np.load(kept / "hu.npy"), geometry)
    return Case(volume=volume, truth=np.load(kept / "truth.npy"), name=name)
