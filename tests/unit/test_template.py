"""Simulated heads with the folds of the MNI template."""

from __future__ import annotations

import numpy as np

from triage_node.simulate import SimulatedHead, axial_geometry, simulate_head
from triage_node.simulate.template import load_template


def _head(*, subtypes: tuple[str, ...] = (), folded: bool = True, seed: int = 11) -> SimulatedHead:
    geometry = axial_geometry(
        slices=3, spacing_mm=12, rows=128, columns=128, pixel_spacing_mm=1.7, thickness_mm=1.0, tilt_deg=0.0
    )
    template = load_template() if folded else None
    return simulate_head(
        seed=seed, subtypes=subtypes, geometry=geometry, noise_hu=0.0, measure_volumes=False, template=template
    )


def test_the_folds_change_the_brain_and_nothing_outside() -> None:
    folded, plain = _head().hu.astype(int), _head(folded=False).hu.astype(int)
    bone = (folded > 700) & (plain > 700)
    assert np.count_nonzero(bone) > 1000
    soft = (plain > 0) & (plain < 80)
    assert np.abs(folded - plain)[bone].mean() < 5
    assert np.abs(folded - plain)[soft].mean() > 1
    assert np.array_equal(_head().hu, folded), "the same seed gives the same head"


def test_brain_reaches_the_bone_everywhere() -> None:
    """The middle of the head holds no more fluid than ventricles, sulci and fissures."""
    hu = _head().hu[1]
    inside = (hu > -10) & (hu < 90)
    assert 0.02 < np.count_nonzero(hu[inside] < 18) / np.count_nonzero(inside) < 0.3


def test_subarachnoid_blood_lies_in_the_folds() -> None:
    bled, clean = _head(subtypes=("subarachnoid",), seed=23), _head(seed=23)
    shown = bled.truth > 0
    assert np.count_nonzero(shown) > 30
    assert bled.hu[shown].mean() - clean.hu[shown].mean() > 8
    elsewhere = np.abs(bled.hu.astype(int) - clean.hu)[bled.truth == 0]
    assert np.median(elsewhere) < 2
