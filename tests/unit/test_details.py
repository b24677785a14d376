"""Arteries, sella and what else is bright and no blood: drawn at its width, however coarse the smooth fields are."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from triage_node.domain import SUBTYPES
from triage_node.simulate import SimulatedHead, SliceGeometry, axial_geometry, simulate_head
from triage_node.simulate.details import Details, detail_fields, refined_details
from triage_node.simulate.fields import Points
from triage_node.simulate.geometry import Lattice, Refiner
from triage_node.simulate.head import _random_head, _stands_out

DETAILS = Details.random(np.random.default_rng(3), age=0.9)
SELLA = Lattice(
    origin_mm=np.array([-30.0, -45.0, -24.5]),
    row_step_mm=np.array([0.0, 0.5, 0.0]),
    column_step_mm=np.array([0.5, 0.0, 0.0]),
    rows=140,
    columns=120,
)


def refined(details: Details, lattice: Lattice) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The details by way of a coarse lattice, and as they are."""
    refiner = Refiner.for_lattice(lattice, coarse_mm=2.5)
    coarse: Points = refiner.coarse(lattice).points()
    drawn = refined_details(details, coarse, coarse, refiner.refine)
    exact = detail_fields(details, lattice.points(), lattice.points())
    names = [field.name for field in fields(exact)]
    return {n: getattr(drawn, n) for n in names}, {n: getattr(exact, n) for n in names}


def test_what_is_thinner_than_the_coarse_lattice_is_drawn_at_its_width() -> None:
    drawn, exact = refined(replace(DETAILS, artery_mm=0.0, process_mm=0.0, skew_mm=0.0), SELLA)
    for name in ("vessel", "nerve", "gland", "process"):
        inside = exact[name] < 0
        assert inside.sum() > 5, name
        assert np.array_equal(drawn[name] < 0, inside) or np.mean((drawn[name] < 0) != inside) < 1e-3, name


def test_far_from_all_of_them_nothing_is_drawn() -> None:
    drawn, _ = refined(DETAILS, replace(SELLA, origin_mm=np.array([-30.0, -45.0, 66.0])))
    assert all((drawn[name] > 5).all() for name in drawn if name != "calcification_hu")


def test_a_sella_has_bone_and_arteries_where_a_head_without_them_has_fluid() -> None:
    """The slice through the cisterns. Without details the medians of these heads are 4 and 0 pixels (measured)."""
    geometry = axial_geometry(slices=1, spacing_mm=3.0, rows=160, columns=160, pixel_spacing_mm=1.4, thickness_mm=1.0)
    geometry = replace(geometry, positions_mm=geometry.positions_mm + np.array([0.0, 0.0, -24.0]) - _middle(geometry))
    cisterns = [_cistern(_head(seed, geometry)) for seed in range(6)]
    assert np.median([np.count_nonzero(hu > 45) for hu in cisterns]) > 30
    assert np.median([np.count_nonzero(hu > 100) for hu in cisterns]) > 5
    assert not _head(0, geometry).truth.any()


def _middle(geometry: SliceGeometry) -> np.ndarray:
    return np.array([0.0, 0.0, float(geometry.positions_mm[0, 2])])


def _head(seed: int, geometry: SliceGeometry) -> SimulatedHead:
    return simulate_head(seed=seed, geometry=geometry, noise_hu=0.0, measure_volumes=False)


def _cistern(head: SimulatedHead) -> np.ndarray:
    """HU deeper than 4 mm under the bone, within 30 mm of the middle line, in the front half of the head."""
    rows, columns = np.nonzero(head.depth_mm[0] > 4)
    near = (np.abs(columns - columns.mean()) < 20) & (rows < rows.mean())
    return np.asarray(head.hu[0][rows[near], columns[near]])


def test_blood_can_be_told_from_what_it_lies_in() -> None:
    """In every head and every piece: fresh blood from cortex or fluid, old blood from fluid and white matter."""
    for seed in range(40):
        head = _random_head(seed, SUBTYPES, None)
        brain = head.brain
        cortex_hu = brain.white_hu + brain.grey_over_white_hu
        for piece in (one for lesion in head.lesions.values() for one in lesion.pieces):
            beside_hu = brain.csf_hu + 18 if piece.subtype == "intraventricular" else cortex_hu + 10
            assert piece.hu >= beside_hu - 1e-9
            assert piece.second_hu >= brain.csf_hu + 6 - 1e-9
            if piece.subtype == "subdural":
                assert piece.second_hu <= max(brain.white_hu - 5, brain.csf_hu + 6) + 1e-9


def test_blood_that_does_not_stand_out_is_drawn_and_not_labelled() -> None:
    hu = np.full((9, 9), 30.0, np.float32)
    hu[:, 3:6], hu[:, 6:] = 50.0, 85.0
    brain = _random_head(1, (), None).brain
    brain = replace(brain, white_hu=28.0)
    deep, beside_bone = (np.full((9, 9), mm, np.float32) for mm in (20.0, 2.0))
    assert _stands_out(hu, deep, brain)[4].tolist() == [False] * 2 + [True] * 7, "brighter than brain, 3 x 3 pixels"
    assert _stands_out(hu, beside_bone, brain)[4].tolist() == [False] * 2 + [True] * 5 + [False] * 2
