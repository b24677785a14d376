"""Judgements to figures: one dictionary, which is the JSON of `triage-node evaluate`, and a table of it for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPE_ABBREVIATIONS, SUBTYPES
from triage_node.learn.evaluation.judgement import Failure, Judgement
from triage_node.learn.evaluation.metrics import FIXED_SPECIFICITIES, Scores, Truth, binary_metrics
from triage_node.learn.evaluation.overlap import segmentation_metrics, volume_metrics

_DIGITS = 4
_NONE = "none"
_VOLUME_EDGES_ML: Final = (0.0, 1.0, 5.0, 20.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The cases of one class that can be counted."""

    scores: Scores
    positive: Truth


def summarize(
    judgements: Sequence[Judgement], failures: Sequence[Failure], *, prevalence: float = 0.1
) -> dict[str, Any]:
    """Everything that is told of some cases; the keys are described in docs/evaluation.md. No NaN: None, and a note."""
    series = {name: series_answers(judgements, name) for name in CLASSES}
    slices = {name: slice_answers(judgements, name) for name in CLASSES}
    has_slices = any(judgement.slices is not None for judgement in judgements)
    report: dict[str, Any] = rounded(
        {
            "prevalence": prevalence,
            "metrics": {name: _of_class(judgements, name, series[name], prevalence) for name in CLASSES},
            "slice_metrics": {name: _binary(slices[name], prevalence) for name in CLASSES} if has_slices else None,
            "confusion": confusion(judgements),
            "cases": [_case(judgement) for judgement in judgements],
            "failed": [{"file": failure.name, "reason": failure.reason} for failure in failures],
            "notes": list(_notes(judgements, series)),
        }
    )
    return report


def series_answers(judgements: Sequence[Judgement], name: str) -> Answers | None:
    """Of one class, over pictures or heads; None where the labels or the bundle do not tell of it."""
    pairs = [(judgement.scores[name], judgement.labels[name]) for judgement in judgements]
    told = [(score, label) for score, label in pairs if score is not None and label is not None]
    return _answers(np.array(told, np.float64)) if told else None


def slice_answers(judgements: Sequence[Judgement], name: str) -> Answers | None:
    """The same over the slices of all heads."""
    k = CLASSES.index(name)
    told = [
        np.stack([judged.scores[:, k], judged.present[:, k]], axis=1)[judged.known[:, k]]
        for judged in (judgement.slices for judgement in judgements)
        if judged is not None and judged.given[k]
    ]
    together = np.concatenate(told) if told else np.zeros((0, 2))
    return _answers(together.astype(np.float64)) if len(together) else None


def confusion(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Truth (rows) against what was said (columns), over no hemorrhage and SUBTYPES.

    Said is the most probable subtype where "any" reaches the operating point. Cases with several true subtypes, with
    hemorrhage but no subtype, or with a label that is not known are left out. None where the bundle does not give all
    classes, or nothing is left.
    """
    names = (_NONE, *SUBTYPES)
    told = [judgement for judgement in judgements if None not in judgement.scores.values()]
    pairs = [(_true_name(judgement), _said_name(judgement)) for judgement in told]
    counted = [(true, said) for true, said in pairs if true is not None]
    if not counted:
        return None
    matrix = np.zeros((len(names), len(names)), np.int64)
    for true, said in counted:
        matrix[names.index(true), names.index(said)] += 1
    return {"classes": list(names), "matrix": matrix.tolist(), "left_out": len(judgements) - len(counted)}


# ---------------------------------------------------------------- one class


def _answers(pairs: NDArray[np.float64]) -> Answers:
    return Answers(scores=pairs[:, 0], positive=pairs[:, 1] > 0)


def _binary(answers: Answers | None, prevalence: float) -> dict[str, Any] | None:
    return None if answers is None else binary_metrics(answers.scores, answers.positive, prevalence=prevalence)


def _of_class(
    judgements: Sequence[Judgement], name: str, answers: Answers | None, prevalence: float
) -> dict[str, Any] | None:
    """Masks tell of a class also where no case can be counted as with or without it."""
    overlaps = [judgement.overlaps[name] for judgement in judgements if name in judgement.overlaps]
    if answers is None and not overlaps:
        return None
    counted = answers or _answers(np.zeros((0, 2)))
    binary = binary_metrics(counted.scores, counted.positive, prevalence=prevalence)
    return {
        **binary,
        "segmentation": segmentation_metrics(overlaps),
        "volume": volume_metrics(overlaps),
        "by_volume": _by_volume(judgements, name),
    }


def _by_volume(judgements: Sequence[Judgement], name: str) -> list[dict[str, Any]] | None:
    """Of the cases that have the class, by its true mL: how many reach the operating point. None without masks."""
    pairs = [
        (judgement.overlaps[name].true_ml, score)
        for judgement in judgements
        if name in judgement.overlaps and judgement.labels[name] and (score := judgement.scores[name]) is not None
    ]
    if not pairs:
        return None
    true_ml, scores = np.array(pairs).T
    rows = []
    for least_ml, below_ml in pairwise(_VOLUME_EDGES_ML):
        inside = (true_ml >= least_ml) & (true_ml < below_ml)
        found = inside & (scores >= OPERATING_POINT)
        ends = {"from_ml": least_ml, "below_ml": below_ml if math.isfinite(below_ml) else None}
        rows.append({**ends, "cases": int(inside.sum()), "found": int(found.sum())})
    return rows


def _notes(judgements: Sequence[Judgement], series: Mapping[str, Answers | None]) -> Iterator[str]:
    for name, answers in series.items():
        if judgements and all(judgement.scores[name] is None for judgement in judgements):
            yield f"{name}: the bundle does not give this class."
        elif answers is None:
            yield f"{name}: the labels do not tell of this class."
        elif answers.positive.all() or not answers.positive.any():
            missing = "negative" if answers.positive.all() else "positive"
            yield f"{name}: no {missing} case, so neither AUC nor what else needs one can be told."
    odd = sum(judgement.note is not None for judgement in judgements)
    if odd:
        yield f"{odd} case(s) carry a note of their own."


def _true_name(judgement: Judgement) -> str | None:
    """The one subtype, or none; None where there are several or not all are known, or hemorrhage is of no subtype."""
    true = [name for name in SUBTYPES if judgement.labels[name]]
    if None in judgement.labels.values() or len(true) != judgement.labels["any"]:
        return None
    return true[0] if true else _NONE


def _said_name(judgement: Judgement) -> str:
    scores = {name: score or 0.0 for name, score in judgement.scores.items()}
    return max(SUBTYPES, key=lambda name: scores[name]) if scores["any"] >= OPERATING_POINT else _NONE


def _case(judgement: Judgement) -> dict[str, Any]:
    volumes = {
        name: {"reported": overlap.seen_ml, "true": overlap.true_ml} for name, overlap in judgement.overlaps.items()
    }
    return {
        "file": judgement.name,
        "scores": dict(judgement.scores),
        "labels": {name: None if label is None else int(label) for name, label in judgement.labels.items()},
        **({"volumes_ml": volumes} if volumes else {}),
        **({"note": judgement.note} if judgement.note else {}),
    }


def rounded(value: Any) -> Any:
    """Every float in dictionaries and lists to four digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


# ---------------------------------------------------------------- for people


def table(report: Mapping[str, Any]) -> str:
    """The report in a few aligned lines."""
    bundle, dataset = report["bundle"], report["dataset"]
    counts = f"{dataset['judged']} judged, {dataset['failed']} failed"
    parts = [f"{bundle['name']} {bundle['version']} on {dataset['kind']}: {counts}"]
    parts.append(_binary_table(report["metrics"], report["prevalence"]))
    if report["slice_metrics"]:
        parts.append("by slice\n" + _binary_table(report["slice_metrics"], report["prevalence"]))
    if any(of and of["segmentation"] for of in report["metrics"].values()):
        parts.append(_mask_table(report["metrics"]))
    if found := found_by_volume(report["metrics"]):
        parts.append("found, by the true volume of the class\n" + _aligned(found))
    failed = [f"failed: {failure['file']}: {failure['reason']}" for failure in report["failed"]]
    return "\n\n".join([*parts, *filter(None, ("\n".join(report["notes"]), "\n".join(failed)))])


def _binary_table(metrics: Mapping[str, Any], prevalence: float) -> str:
    fixed = [f"sens@{specificity:.2f}" for specificity in FIXED_SPECIFICITIES]
    head = [
        "class",
        "pos",
        "neg",
        "AUC",
        "95 %",
        *fixed,
        "sens",
        "spec",
        "prec",
        "F1",
        "acc",
        f"PPV@{prevalence:g}",
        "ECE",
    ]
    return _aligned([head, *(_binary_row(name, of) for name, of in metrics.items() if of)])


def _binary_row(name: str, of: Mapping[str, Any]) -> list[str]:
    keys = [f"sensitivity_at_specificity_{specificity:.2f}" for specificity in FIXED_SPECIFICITIES]
    keys += ["recall", "specificity", "precision", "f1", "accuracy", "ppv_at_prevalence"]
    return [
        name,
        str(of["positives"]),
        str(of["negatives"]),
        _text(of["auc"]),
        "-".join(_text(edge) for edge in of["auc_ci95"] or [None]),
        *(_text(of[key]) for key in keys),
        _text(of["calibration"]["expected_calibration_error"] if of["calibration"] else None),
    ]


def _mask_table(metrics: Mapping[str, Any]) -> str:
    head = ["class", "with it", "Dice", "IoU", "Dice median", "bias mL", "limits mL", "bias %", "false mL"]
    rows = [
        [
            SUBTYPE_ABBREVIATIONS.get(name, name),
            str(of["segmentation"]["cases_with_it"]),
            *(_text(of["segmentation"][key]) for key in ("dice", "iou", "dice_median")),
            _text(of["volume"]["bias_ml"], 1),
            " to ".join(_text(limit, 1) for limit in of["volume"]["limits_of_agreement_ml"] or [None]),
            _text(of["volume"]["relative_bias_percent"], 0),
            _text(of["volume"]["false_ml_in_heads_without"], 1),
        ]
        for name, of in metrics.items()
        if of and of["segmentation"]
    ]
    return _aligned([head, *rows])


def found_by_volume(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table, its head first; then each class with masks, by its own volume. Empty where there is none."""
    told = {name: of["by_volume"] for name, of in metrics.items() if of and of["by_volume"]}
    rows = [
        [SUBTYPE_ABBREVIATIONS.get(name, name), *(f"{of['found']} of {of['cases']}" for of in ranges)]
        for name, ranges in told.items()
    ]
    return [["class", *(_range(of) for of in next(iter(told.values())))], *rows] if told else []


def _range(of: Mapping[str, Any]) -> str:
    if of["below_ml"] is None:
        return f"from {of['from_ml']:g} mL"
    return f"{of['from_ml']:g} to {of['below_ml']:g} mL" if of["from_ml"] else f"below {of['below_ml']:g} mL"


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
