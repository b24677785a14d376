"""Whole heads with a mask of the truth: what they are, and what the node says of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from triage_node import simulate
from triage_node.domain import CLASSES, SUBTYPES, Float32Array, Prediction, UInt8Array, Volume
from triage_node.infer.measure import volumes_ml
from triage_node.infer.predict import Predictor
from triage_node.infer.series import calibrated
from triage_node.learn import heldout
from triage_node.learn.dataset import as_volume
from triage_node.learn.evaluation.judgement import Judgement, SliceJudgements
from triage_node.learn.evaluation.overlap import Overlap, pixel_counts
from triage_node.learn.heldout import SeriesSettings, draw_series, frozen_settings, series_geometry
from triage_node.learn.pool import PRESENT_MM2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One head and the truth."""

    volume: Volume
    truth: UInt8Array
    """(slices, rows, columns) uint8: 0, 1 + index in SUBTYPES, or dataset.UNKNOWN_KIND."""
    name: str = ""
    told: tuple[str, ...] = CLASSES
    """The classes that the truth speaks of; labels of a truth that tells only "any" have no subtype."""
    note: str | None = None
    chronic: bool | None = None
    """Whether the subdural blood is chronic; None where there is none, or where nobody knows."""
    labels: Float32Array | None = None
    """(slices, 6) float32: what is told of CLASSES besides the truth: 1, 0, or nan; None for nothing."""
    masked: NDArray[np.bool_] | None = None
    """(slices,) bool: where the truth is known; None for everywhere."""
    series_labels: Float32Array | None = None
    """(6,) float32 of CLASSES: what is told of the whole series, slices aside."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(slices, 6) bool: which slices show a class, from PRESENT_MM2 on; or are labelled so."""
        return self._by_truth(self.areas_mm2 >= PRESENT_MM2, labelled=1.0)

    @property
    def absent(self) -> NDArray[np.bool_]:
        """(slices, 6) bool: which slices show nothing of a class; between nothing and PRESENT_MM2 they are neither."""
        some_kind = np.any(self.truth > len(SUBTYPES), axis=(1, 2))
        return self._by_truth((self.areas_mm2 == 0) & ~some_kind[:, None], labelled=0.0)

    @property
    def shown(self) -> NDArray[np.bool_]:
        """(6,) bool: which classes some slice shows, or the series is labelled with."""
        return np.asarray(self.present.any(axis=0) | self._labelled(1.0))

    @property
    def nowhere(self) -> NDArray[np.bool_]:
        """(6,) bool: which classes no slice shows anything of."""
        return np.asarray(self.absent.all(axis=0) | self._labelled(0.0))

    def _labelled(self, value: float) -> NDArray[np.bool_]:
        if self.series_labels is None:
            return np.zeros(len(CLASSES), np.bool_)
        return np.asarray(self.series_labels == value)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """By class of CLASSES, of the truth; blood of unknown kind is in "any" alone."""
        of_some_kind = volumes_ml((self.truth > 0).astype(np.uint8), self.volume)
        return volumes_ml(self.truth, self.volume) | {"any": of_some_kind["any"]}

    @property
    def segmented(self) -> bool:
        """Whether the truth is known of all slices."""
        return self.masked is None or bool(self.masked.all())

    def _by_truth(self, by_mask: NDArray[np.bool_], *, labelled: float) -> NDArray[np.bool_]:
        if self.masked is not None:
            by_mask = by_mask & self.masked[:, None]
        if self.labels is None:
            return by_mask
        return np.asarray(np.where(np.isnan(self.labels), by_mask, self.labels == labelled))

    @property
    def areas_mm2(self) -> Float32Array:
        """(slices, 6) float32 in the order of CLASSES, of the truth."""
        pixel_mm2 = self.volume.pixel_spacing_mm[0] * self.volume.pixel_spacing_mm[1]
        by_label = np.stack([(self.truth == label).sum(axis=(1, 2)) for label in range(1, 1 + len(SUBTYPES))], axis=1)
        areas = np.concatenate([(self.truth > 0).sum(axis=(1, 2))[:, None], by_label], axis=1) * pixel_mm2
        return np.asarray(areas, np.float32)


def judge_head(prediction: Prediction, case: Case) -> Judgement:
    """What the node says of one head, beside the truth.

    A head shows a class where one of its slices does, and does not where none of them shows anything of it.
    """
    present, absent, told = case.present, case.absent, _columns(case.told)
    shown, nowhere = case.shown, case.nowhere
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


def iterate_simulated(
    folder: Path, *, count: int, tuning: bool = False, settings: SeriesSettings | None = None
) -> Iterator[Case]:
    """The first of the frozen simulated series, one at a time; rendered once and kept in `folder`.

    `tuning`: those on which calibration and thresholds are chosen, not those on which figures are told. `settings`:
    of other series than the frozen ones. What another simulator rendered there is not used.
    """
    settings = settings or frozen_settings()
    folder = kept_in(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = tqdm(range(count), desc="tuning series" if tuning else "test series", unit="head")
    return (_simulated_case(folder, settings, number, tuning) for number in numbers)


def kept_in(folder: Path, settings: SeriesSettings) -> Path:
    """The part of `folder` named by a hash of all that the pixels come from: settings and source of the simulator."""
    sources = [*sorted(Path(simulate.__file__).parent.glob("*.py")), Path(heldout.__file__)]
    parts = [repr(settings).encode(), *(path.read_bytes() for path in sources)]
    return folder / f"series-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"


def negative_case(volume: Volume) -> Case:
    """A real head that is known to show no hemorrhage."""
    return Case(volume=volume, truth=np.zeros(volume.hu.shape, np.uint8))


def evaluate_negative(predictor: Predictor, case: Case) -> dict[str, Any]:
    """What is falsely seen in a real head without hemorrhage."""
    prediction, raw = predictor.predict(case.volume), predictor.examine(case.volume)
    seen, alone = predictor.seen_mask(raw, case.volume), calibrated(raw.logits, predictor.bundle)
    return {
        "slices": len(prediction.slice_probabilities),
        "probabilities": dict(prediction.probabilities),
        "slices_at_or_above_0.5": int((prediction.slice_probabilities[:, 0] >= 0.5).sum()),
        "slices_at_or_above_0.5_without_series_gate": int((alone[:, 0] >= 0.5).sum()),
        "false_volume_ml": dict(prediction.volumes_ml),
        "false_volume_without_series_gate_ml": None if seen is None else volumes_ml(seen, case.volume),
        "false_extra_axial_mm2_per_slice": None if seen is None else extra_axial_mm2(seen, case.volume),
    }


def extra_axial_mm2(mask: UInt8Array, volume: Volume) -> float:
    """Mean area of epidural and subdural pixels in a slice; of a head without blood, the false rim."""
    labels = [1 + SUBTYPES.index(name) for name in ("epidural", "subdural")]
    pixels = np.count_nonzero(np.isin(mask, labels))
    return float(pixels / len(mask) * volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1])


# ---------------------------------------------------------------- steps


def _columns(names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([name in names for name in CLASSES])


def _overlaps(prediction: Prediction, case: Case) -> dict[str, Overlap]:
    """By class that both the bundle and the truth tell of; empty for a bundle without masks."""
    if prediction.mask is None or not case.segmented:
        return {}
    true_ml = case.volumes_ml
    overlaps = {}
    for name in case.told:
        if (seen_ml := prediction.volumes_ml[name]) is not None:
            both, seen, true = pixel_counts(prediction.mask, case.truth, name)
            overlaps[name] = Overlap(both_px=both, seen_px=seen, true_px=true, seen_ml=seen_ml, true_ml=true_ml[name])
    return overlaps


def _simulated_case(folder: Path, settings: SeriesSettings, number: int, tuning: bool) -> Case:
    name = f"{'tuning' if tuning else 'test'}-{number:03d}"
    kept = folder / name
    if not kept.exists():
        head, volume = draw_series(settings, number, tuning=tuning)
        part = folder / f"part-{name}"
        part.mkdir(exist_ok=True)
        np.save(part / "hu.npy", head.hu)
        np.save(part / "truth.npy", head.truth)
        (part / "chronic.json").write_text(json.dumps(head.chronic), encoding="utf-8")
        part.rename(kept)
        return Case(volume=volume, truth=head.truth, name=name, chronic=head.chronic)
    volume = as_volume(np.load(kept / "hu.npy"), series_geometry(settings, number, tuning=tuning))
    chronic = json.loads((kept / "chronic.json").read_text(encoding="utf-8"))
    return Case(volume=volume, truth=np.load(kept / "truth.npy"), name=name, chronic=chronic)
