"""Calibration, the series that it is chosen on, and what it means for a worklist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from triage_node.domain import SUBTYPES, Float64Array, Priority, Volume
from triage_node.learn import heldout
from triage_node.learn.evaluation.alerts import alerts
from triage_node.learn.heldout import draw_series, frozen_settings, series_geometry
from triage_node.learn.operating import fit_classes, fit_logistic
from triage_node.learn.rim import DEPTHS_MM, rim_profile


def test_calibration_finds_the_weights_that_made_the_data() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 2, (4000, 2))
    chance = 1 / (1 + np.exp(-(1.5 * features[:, 0] + 0.7 * features[:, 1] - 1.0)))
    positive = rng.random(4000) < chance
    found = fit_logistic(features, positive, expected=(1.0, 0.5))
    as_if_half = -1.0 - math.log(positive.mean() / (1 - positive.mean()))
    assert found == pytest.approx((1.5, 0.7, as_if_half), abs=0.15)


@pytest.mark.parametrize("positives", [60, 600, 6000])
def test_half_is_where_both_are_as_likely_however_many_bleed(positives: int) -> None:
    """Scores of two normal distributions about -1 and 1: equally likely at 0."""
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.normal(1, 1, positives), rng.normal(-1, 1, 600)])[:, None]
    slope, offset = fit_logistic(scores, np.arange(len(scores)) < positives, expected=(1.0,))
    assert -offset / slope == pytest.approx(0.0, abs=0.15)


def test_classes_that_never_mix_keep_calibration_finite() -> None:
    features = np.array([[-3.0], [-2.0], [2.0], [3.0]])
    slope, offset = fit_logistic(features, features[:, 0] > 0, expected=(1.0,))
    assert 0.5 < slope < 5
    assert abs(offset) < 1


def test_evidence_never_counts_against_a_bleed() -> None:
    features = np.linspace(-2, 2, 50)[:, None]
    slope, _ = fit_logistic(features, features[:, 0] < 0, expected=(1.0,))
    assert slope == pytest.approx(0.001), "a bundle must not have 0"


def _evidence(rng: np.random.Generator, present: NDArray[np.bool_], apart: Sequence[float]) -> Float64Array:
    """(6, n, 1): normal about half of `apart` above 0 where a class is present, and as much below where not."""
    means = np.where(present, 0.5, -0.5) * np.array(apart)
    return np.asarray(rng.normal(means, 1.0).T[:, :, None])


def test_weak_subtypes_add_few_alarms_to_any() -> None:
    rng = np.random.default_rng(3)
    present = rng.random((3000, 6)) < 0.1
    present[:, 0] = present[:, 1:].any(axis=1)
    features = _evidence(rng, present, (6.0, 0.5, 6.0, 0.5, 6.0, 0.5))  # every other subtype is hardly told
    fitted = fit_classes(features, shown=present, absent=~present, expected=(1.0,))
    passed = np.array([of[:, 0] * slope + offset >= 0 for of, (slope, offset) in zip(features, fitted, strict=True)]).T
    assert (passed[:, 1:] & ~present[:, 1:]).sum(axis=0).max() <= 0.02 * (~present[:, 1:]).sum(axis=0).max()
    bloodless = ~present[:, 0]
    added = passed[bloodless].any(axis=1).mean() - passed[bloodless, 0].mean()
    assert 0 <= added <= 0.02
    assert passed[present[:, 0], 0].mean() > 0.99, "any keeps its own sensitivity"
    assert passed[present[:, 2], 2].mean() > 0.95, "so does a strong subtype"


def test_a_head_that_any_flags_itself_silences_no_subtype() -> None:
    """Of 100 bloodless heads one looks like all bleeds at once: there is nothing left to add."""
    rng = np.random.default_rng(4)
    present = np.repeat([[True] * 6, [False] * 6], 100, axis=0)
    features = _evidence(rng, present, [8.0] * 6)
    features[:, -1] = 50.0
    fitted = fit_classes(features, shown=present, absent=~present, expected=(1.0,))
    for of_class, (slope, offset) in zip(features, fitted, strict=True):
        assert (of_class[:100, 0] * slope + offset >= 0).mean() > 0.95


def test_slices_without_blood_that_would_be_shown_for_nothing_are_few() -> None:
    rng = np.random.default_rng(5)
    present = rng.random((2000, 6)) < 0.3
    present[:, 0] = present[:, 1:].any(axis=1)
    features = _evidence(rng, present, [1.5] * 6)
    shares = []
    for limit in (1.0, 0.03):
        fitted = fit_classes(features, shown=present, absent=~present, expected=(1.0,), false_share_of_any=limit)
        slope, offset = fitted[0]
        shares.append((features[0][~present[:, 0], 0] * slope + offset >= 0).mean())
    assert shares[0] > 0.1
    assert 0.01 < shares[1] <= 0.03


def test_alerts_are_told_for_the_prevalence_of_a_worklist() -> None:
    priorities = [Priority.STAT, Priority.HIGH, Priority.ROUTINE, Priority.HIGH, Priority.ROUTINE, Priority.ROUTINE]
    bled = [True, True, True, False, False, False]
    stat, either = alerts(priorities, bled, prevalence=0.1)
    assert (stat["sensitivity"], stat["specificity"]) == (pytest.approx(1 / 3), 1)
    assert either["sensitivity"] == pytest.approx(2 / 3)
    assert either["alerts_per_100_studies"] == pytest.approx(10 * 2 / 3 + 90 / 3)
    assert either["false_alerts_per_100_studies"] == pytest.approx(30)


def test_the_test_series_are_the_frozen_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = frozen_settings()
    shown = {name for bleeds in settings.bleeds for name in bleeds}
    assert shown == set(SUBTYPES)
    assert settings.first_seed != settings.tuning_first_seed
    changed = tmp_path / "series.toml"
    changed.write_bytes(heldout.SERIES_FILE.read_bytes() + b"\n")
    monkeypatch.setattr(heldout, "SERIES_FILE", changed)
    with pytest.raises(ValueError, match="was frozen; restore it"):
        frozen_settings()


def test_a_test_series_is_the_same_each_time() -> None:
    settings = frozen_settings()
    few = type(settings)(**{**vars(settings), "slices": (3, 3), "pixels": 48, "with_template": 0.0})
    head, volume = draw_series(few, 3)
    again, _ = draw_series(few, 3)
    assert head.subtypes == settings.bleeds[3]
    assert np.array_equal(head.hu, again.hu)
    assert np.array_equal(volume.positions_mm, series_geometry(few, 3).positions_mm)
    assert not np.array_equal(draw_series(few, 3, tuning=True)[0].hu, head.hu)


def test_the_rim_profile_reads_hu_by_depth_from_bone() -> None:
    """A round skull, brighter by 10 HU for every millimetre towards the bone."""
    profile = np.median(rim_profile(_round_head([75.0] * 10)), axis=0)[:, 1]
    middles = np.array(DEPTHS_MM[1:-1]) + 0.5
    assert np.allclose(profile[1:], 200 - 10 * middles, atol=8)


def test_the_rim_profile_is_of_the_lower_vault() -> None:
    """Not of the lower 42 % of the stack, nor of what shows less than 70 % of the widest slice."""
    assert len(rim_profile(_round_head([75.0] * 10))) == 6
    assert len(rim_profile(_round_head([75.0] * 7 + [66.0, 60.0, 50.0]))) == 4  # 66 mm: 77 %, 60 mm: 64 %


def _round_head(inside_mm: Sequence[float]) -> Volume:
    """A skull of 8 mm round each of the radii; inside it 200 HU at the bone, 10 less for every millimetre, least 20."""
    at = (np.arange(220) - 109.5) * 1.0
    depth = np.array(inside_mm)[:, None, None] - np.hypot(at[:, None], at[None, :])
    return Volume(
        hu=np.where(depth > 0, np.maximum(200 - 10 * depth, 20), np.where(depth > -8, 1000, -1000)).astype(np.int16),
        sop_uids=(),
        paths=(),
        positions_mm=np.array([[0.0, 0.0, 5.0 * k] for k in range(len(inside_mm))]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(1.0, 1.0),
        weights_mm=np.full(len(inside_mm), 5.0),
        tilt_deg=0.0,
        header={},
    )
