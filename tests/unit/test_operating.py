"""Calibration, the series that it is chosen on, and what it means for a worklist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triage_node.domain import SUBTYPES, Priority, Volume
from triage_node.learn import heldout
from triage_node.learn.evaluation.alerts import alerts
from triage_node.learn.heldout import draw_series, frozen_settings, series_geometry
from triage_node.learn.operating import fit_logistic
from triage_node.learn.rim import DEPTHS_MM, rim_profile


def test_calibration_finds_the_weights_that_made_the_data() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 2, (4000, 2))
    chance = 1 / (1 + np.exp(-(1.5 * features[:, 0] + 0.7 * features[:, 1] - 1.0)))
    found = fit_logistic(features, rng.random(4000) < chance, expected=(1.0, 0.5))
    assert found == pytest.approx((1.5, 0.7, -1.0), abs=0.15)


def test_classes_that_never_mix_keep_calibration_finite() -> None:
    features = np.array([[-3.0], [-2.0], [2.0], [3.0]])
    slope, offset = fit_logistic(features, features[:, 0] > 0, expected=(1.0,))
    assert 0.5 < slope < 5
    assert abs(offset) < 1


def test_evidence_never_counts_against_a_bleed() -> None:
    features = np.linspace(-2, 2, 50)[:, None]
    slope, _ = fit_logistic(features, features[:, 0] < 0, expected=(1.0,))
    assert slope == 0


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
    at = (np.arange(220) - 109.5) * 1.0
    radius = np.hypot(at[:, None], at[None, :])
    depth = 75.0 - radius
    hu = np.where(depth > 0, 200 - 10 * depth, np.where(depth > -8, 1000, -1000)).astype(np.int16)
    count = 10
    volume = Volume(
        hu=np.stack([hu] * count),
        sop_uids=(),
        paths=(),
        positions_mm=np.array([[0.0, 0.0, 5.0 * k] for k in range(count)]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(1.0, 1.0),
        weights_mm=np.full(count, 5.0),
        tilt_deg=0.0,
        header={},
    )
    profile = np.median(rim_profile(volume), axis=0)[:, 1]
    middles = np.array(DEPTHS_MM[1:-1]) + 0.5
    assert np.allclose(profile[1:], 200 - 10 * middles, atol=8)
