"""What a simulated scanner adds to a head, and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from triage_node.domain import Float32Array
from triage_node.simulate.acquisition import PADDING_HU, Holder, Metal, Scanner, acquire
from triage_node.simulate.geometry import Lattice, axial_geometry, slice_lattice

BRAIN_HU = 30.0


def disc(*, above_mm: float = 0.0) -> tuple[Float32Array, Float32Array, Lattice]:
    """A head of brain in a thin skull, with dense bone left and right of the middle rows."""
    geometry = axial_geometry(slices=1, rows=200, columns=200, pixel_spacing_mm=1.1)
    lattice = slice_lattice(geometry, 0, above_mm=above_mm)
    x, y, _ = lattice.points()
    radius = np.hypot(x, y)
    hu = np.where(radius < 70, BRAIN_HU, np.where(radius < 75, 1300.0, -1000.0))
    petrous = (np.abs(y) < 6) & (np.abs(x) > 25) & (radius < 70)
    hu = np.where(petrous, 1300.0, hu)
    return hu.astype(np.float32), (70 - radius).astype(np.float32), lattice


def plain(**changes: object) -> Scanner:
    """A scanner that adds nothing but what `changes` name."""
    nothing = {
        "blur_mm": 0.4,
        "sharpen": 0.0,
        "noise_hu": 0.0,
        "offset_hu": 0.0,
        "gain": 1.0,
        "cupping_hu": 0.0,
        "hardening_hu": 0.0,
        "starvation": 0.0,
        "streak_hu": 0.0,
        "rings": (),
        "motion_mm": 0.0,
        "metal": (),
        "holder": None,
        "circle": False,
    }
    some = Scanner.random(np.random.default_rng(0), noise_hu=0.0)
    return replace(some, **{**nothing, **changes})  # type: ignore[arg-type]


def taken(scanner: Scanner, *, above_mm: float = 0.0) -> Float32Array:
    hu, depth, lattice = disc(above_mm=above_mm)
    return acquire(hu, depth, lattice, scanner, np.random.default_rng(1))


def test_a_scanner_that_adds_nothing_shows_the_brain_as_it_is() -> None:
    hu = taken(plain())
    assert hu[60:90, 80:120] == pytest.approx(BRAIN_HU, abs=0.1)


def test_between_dense_bones_there_is_a_dark_bar_and_elsewhere_none() -> None:
    hu = taken(plain(hardening_hu=6.0))
    assert np.median(hu[98:102, 95:105]) < BRAIN_HU - 5
    assert np.median(hu[60:80, 95:105]) == pytest.approx(BRAIN_HU, abs=0.5)


def test_the_noise_amid_the_brain_is_that_of_the_scanner() -> None:
    hu = taken(plain(noise_hu=5.0, noise_hollow=0.6))
    assert hu[60:90, 70:130].std() == pytest.approx(5.0, rel=0.15)


def test_thin_slices_have_more_noise_unless_it_is_given() -> None:
    def noise_hu(thickness_mm: float, given: float | None = None) -> float:
        return Scanner.random(np.random.default_rng(3), noise_hu=given, thickness_mm=thickness_mm).noise_hu

    assert noise_hu(1.25) > 1.5 * noise_hu(5.0)
    assert noise_hu(1.25, 2.0) == 2.0


def test_edge_enhancement_darkens_the_rim_under_the_skull() -> None:
    soft, sharp = (taken(plain(sharpen=amount, sharpen_mm=1.0)) for amount in (0.0, 0.5))
    under_the_skull = np.s_[37:39, 100]
    assert np.all(sharp[under_the_skull] < soft[under_the_skull])
    assert sharp[60:90, 80:120] == pytest.approx(BRAIN_HU, abs=0.1)


def test_metal_throws_rays_in_its_own_slices_only() -> None:
    metal = Metal(site=(10.0, -30.0, 12.0), radius_mm=3.0, streak_hu=200.0, rays=((5, 0.3), (11, 1.0)))
    near, far = (taken(plain(metal=(metal,)), above_mm=above) for above in (0.0, 20.0))
    assert near.max() > 2500
    assert near[60:90, 80:120].std() > 5
    assert far[60:90, 80:120].std() < 0.1


def test_holder_and_padding_lie_outside_the_head() -> None:
    holder = Holder(kind="double", radius_mm=90.0, hu=100.0, foam_hu=-900.0, centre_mm=(0.0, 0.0))
    bare, held = taken(plain()), taken(plain(holder=holder, circle=True))
    _, depth, _ = disc()
    assert np.abs(held - bare)[depth > -4].max() < 0.1
    assert held[190:, 90:110].max() > 0
    assert np.all(held[:5, :5] == PADDING_HU)
