"""Figures against values counted by hand, and null where the data cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from triage_node.domain import CLASSES
from triage_node.learn.evaluation.judgement import Failure, Judgement
from triage_node.learn.evaluation.metrics import (
    auc,
    auc_interval,
    binary_metrics,
    calibration,
    predictive_values,
    roc_curve,
    sensitivity_at_specificity,
)
from triage_node.learn.evaluation.overlap import Overlap, pixel_counts, segmentation_metrics, volume_metrics
from triage_node.learn.evaluation.report import confusion, summarize

TEN_NEGATIVES = np.arange(10) / 20  # 0.0 to 0.45


def cases(positive: list[float], negative: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(positive + negative), np.array([True] * len(positive) + [False] * len(negative))


def test_auc_is_the_share_of_pairs_in_order_and_a_tie_counts_half() -> None:
    assert auc(*cases([0.9, 0.4], [0.1, 0.4, 0.6])) == pytest.approx((3 + 1 + 0.5) / 6)


def test_auc_of_one_kind_is_none() -> None:
    assert auc(*cases([0.9], [])) is None
    assert auc_interval(*cases([], [0.2, 0.3])) is None
    assert roc_curve(*cases([], [0.2])) is None


def test_the_interval_holds_the_auc_is_seeded_and_narrows_with_cases() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(4000) < 0.3
    scores = rng.normal(truth * 1.0)
    few, many = (auc_interval(scores[:n], truth[:n]) for n in (100, 4000))
    assert few is not None
    assert many is not None
    value = auc(scores[:100], truth[:100])
    assert value is not None
    assert few[0] < value < few[1]
    assert few == auc_interval(scores[:100], truth[:100])
    # Hanley and McNeil 1982: 1.96 standard errors of 0.76 with 1200 and 2800 cases are 0.016
    assert (many[1] - many[0]) / 2 == pytest.approx(0.016, abs=0.003)
    assert few[1] - few[0] > 3 * (many[1] - many[0])


def test_the_interval_counts_ties_half_too() -> None:
    assert auc_interval(*cases([0.5, 0.5, 0.5], [0.5, 0.5])) == [0.5, 0.5]


def test_sensitivity_at_a_specificity_is_that_of_the_best_threshold_that_keeps_it() -> None:
    scores, truth = cases([0.44, 0.42, 0.3, 0.9], list(TEN_NEGATIVES))
    assert sensitivity_at_specificity(scores, truth, 1.0) == 0.25
    assert sensitivity_at_specificity(scores, truth, 0.95) == 0.25  # one of ten negatives is already 10 %
    assert sensitivity_at_specificity(scores, truth, 0.90) == 0.75


def test_a_tie_between_positive_and_negative_is_flagged_together() -> None:
    assert sensitivity_at_specificity(*cases([0.5, 0.5], [0.5, 0.1]), 0.9) == 0.0


def test_the_operating_point_counts_a_score_of_one_half_as_flagged() -> None:
    of = binary_metrics(*cases([0.5, 0.8, 0.2], [0.6, 0.1, 0.1, 0.3, 0.2]), prevalence=0.5)
    assert (of["recall"], of["specificity"], of["precision"]) == (pytest.approx(2 / 3), 0.8, pytest.approx(2 / 3))
    assert (of["accuracy"], of["f1"]) == (0.75, pytest.approx(2 / 3))
    assert of["ppv_at_prevalence"] == pytest.approx((2 / 3) / (2 / 3 + 0.2))


def test_predictive_values_follow_bayes() -> None:
    ppv, npv = predictive_values(0.9, 0.8, 0.1)
    assert (ppv, npv) == (pytest.approx(0.09 / 0.27), pytest.approx(0.72 / 0.73))
    assert predictive_values(0.0, 1.0, 0.1)[0] is None
    assert predictive_values(None, 1.0, 0.1) == (None, None)


def test_calibration_of_a_score_that_says_too_much() -> None:
    of = calibration(np.array([0.95, 0.95, 0.95, 1.0]), np.array([True, True, False, False]))
    assert of is not None
    assert of["expected_calibration_error"] == pytest.approx(0.9625 - 0.5)
    assert of["brier"] == pytest.approx((2 * 0.05**2 + 0.95**2 + 1) / 4)
    assert [bin_["cases"] for bin_ in of["bins"]] == [0] * 9 + [4]
    assert calibration(np.zeros(0), np.zeros(0, bool)) is None


def test_dice_and_iou_of_known_masks() -> None:
    truth, mask = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    truth[0, :2], mask[0, 1:3] = 2, 2  # 8 pixels each, 4 in common
    mask[0, 3, 0] = 5
    assert pixel_counts(mask, truth, "intraparenchymal") == (4, 8, 8)
    assert pixel_counts(mask, truth, "any") == (4, 9, 8)
    of = segmentation_metrics([overlap(4, 8, 8), overlap(0, 0, 0)])
    assert of is not None
    assert (of["dice"], of["iou"], of["dice_median"]) == (0.5, pytest.approx(1 / 3), 0.5)
    assert (of["cases"], of["cases_with_it"]) == (2, 1)


def test_masks_that_hold_nothing_have_no_dice() -> None:
    of = segmentation_metrics([overlap(0, 0, 0)])
    assert of is not None
    assert of["dice"] is of["iou"] is of["dice_median"] is None
    assert segmentation_metrics([]) is None


def test_bland_altman_of_known_volumes() -> None:
    pairs = [(12.0, 10.0), (18.0, 20.0), (33.0, 30.0), (0.0, 0.0), (1.0, 0.0)]
    of = volume_metrics([overlap(0, 0, int(true > 0), seen_ml=seen, true_ml=true) for seen, true in pairs])
    assert of is not None
    off = [2.0, -2.0, 3.0, 1.0]
    spread = 1.96 * np.std(off, ddof=1)
    assert (of["cases"], of["bias_ml"]) == (4, 1.0)
    assert of["limits_of_agreement_ml"] == pytest.approx([1.0 - spread, 1.0 + spread])
    assert of["relative_bias_percent"] == pytest.approx(100 * 4 / 60)
    assert of["false_ml_in_heads_without"] == 0.5


def test_two_volumes_have_a_bias_and_no_limits() -> None:
    of = volume_metrics([overlap(1, 1, 1, seen_ml=2.0, true_ml=1.0)] * 2)
    assert of is not None
    assert (of["bias_ml"], of["limits_of_agreement_ml"], of["false_ml_in_heads_without"]) == (1.0, None, None)


def overlap(both: int, seen: int, true: int, *, seen_ml: float = 0.0, true_ml: float = 0.0) -> Overlap:
    return Overlap(both_px=both, seen_px=seen, true_px=true, seen_ml=seen_ml, true_ml=true_ml)


# ---------------------------------------------------------------- a report


def judgement(name: str, label: str | None, said: str | None, **known: bool | None) -> Judgement:
    """One true subtype or none, one subtype said with 0.9 or none."""
    labels: dict[str, bool | None] = {c: c == label or (c == "any" and label is not None) for c in CLASSES}
    scores = {c: 0.9 if c == said or (c == "any" and said is not None) else 0.1 for c in CLASSES}
    return Judgement(name=name, labels=labels | known, scores=scores)


def test_what_labels_or_bundle_do_not_tell_is_null_and_said() -> None:
    told = [judgement("a", "subdural", "subdural", epidural=None), judgement("b", None, None, epidural=None)]
    without_sah = [
        Judgement(name=j.name, labels=j.labels, scores={**j.scores, "subarachnoid": None, "subdural": 0.5 + i / 4})
        for i, j in enumerate(told)
    ]
    report = summarize(without_sah, [Failure(name="c", reason="no such file")])
    assert report["metrics"]["epidural"] is None
    assert report["metrics"]["subarachnoid"] is None
    assert report["metrics"]["intraventricular"]["auc"] is None
    assert report["metrics"]["intraventricular"]["negatives"] == 2
    assert report["metrics"]["subdural"]["auc"] == 0.0
    assert [note.split(":")[0] for note in report["notes"]] == [
        "epidural", "intraparenchymal", "intraventricular", "subarachnoid",
    ]  # fmt: skip
    assert report["failed"] == [{"file": "c", "reason": "no such file"}]
    assert report["confusion"] is None
    assert_no_nan(report)


def test_a_report_of_one_case_and_of_none_has_no_nan() -> None:
    assert_no_nan(summarize([judgement("a", "subdural", None)], []))
    assert_no_nan(summarize([], []))


def test_the_confusion_matrix_counts_one_true_subtype_against_the_most_probable() -> None:
    of = confusion(
        [
            judgement("a", "subdural", "epidural"),
            judgement("b", "subdural", None),
            judgement("c", None, None),
            judgement("d", "subdural", "subdural", epidural=True),
            judgement("e", "subdural", "subdural", epidural=None),
        ]
    )
    assert of is not None
    assert of["classes"][0] == "none"
    matrix = np.array(of["matrix"])
    assert (matrix[5, 1], matrix[5, 0], matrix[0, 0], matrix.sum(), of["left_out"]) == (1, 1, 1, 3, 2)


def assert_no_nan(value: object) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            assert_no_nan(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_no_nan(inner)
    elif isinstance(value, float):
        assert math.isfinite(value)
