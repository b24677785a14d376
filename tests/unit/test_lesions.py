"""Hemorrhages as drawn: what they are called, where they lie, and what they move."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triage_node.domain import SUBTYPES, Float32Array
from triage_node.simulate.fields import Points
from triage_node.simulate.geometry import Lattice
from triage_node.simulate.lesions import (
    EPIDURAL,
    INTRAPARENCHYMAL,
    SUBARACHNOID,
    SUBDURAL,
    Lesion,
    blood_distance,
    blood_hu,
    is_chronic,
    lesion_field,
    pushed,
    random_combination,
    random_lesion,
    resized,
)
from triage_node.simulate.sheets import main as make_sheet

PLANE = Lattice(
    origin_mm=np.array([-80.0, -100.0, 10.0]),
    row_step_mm=np.array([0.0, 2.0, 0.0]),
    column_step_mm=np.array([2.0, 0.0, 0.0]),
    rows=101,
    columns=81,
)


def ball() -> tuple[Points, Float32Array]:
    """Points of the plane, and the distance to a skull that is an ellipsoid."""
    x, y, z = PLANE.points()
    radius = np.sqrt((x / 66) ** 2 + ((y - 4) / 82) ** 2 + (z / 77) ** 2)
    return (x, y, z), np.asarray((radius - 1) * 70, np.float32)


@cache
def many(subtype: str, count: int = 300) -> tuple[Lesion, ...]:
    return tuple(random_lesion(subtype, np.random.default_rng(seed)) for seed in range(count))


def a_subdural(**changes: object) -> Lesion:
    """A wide left crescent 12 mm thick."""
    plain = next(lesion for lesion in many(SUBDURAL) if lesion.kind == "acute" and not lesion.also)
    known = {"site": (1.0, 0.0, 0.1), "size_mm": 12.0, "stretch": (1.2, 0.8, 1.0), "push": 1.0}
    return replace(plain, **{**known, **changes})  # type: ignore[arg-type]


def test_old_blood_is_chronic_and_mixed_blood_where_most_of_it_is_old() -> None:
    assert is_chronic(a_subdural(kind="chronic"))
    assert is_chronic(a_subdural(kind="mixed", fresh=0.3))
    assert not is_chronic(a_subdural(kind="mixed", fresh=0.7))
    assert not is_chronic(a_subdural(kind="acute", fresh=0.3))


def test_the_larger_of_two_sides_decides_whether_a_subdural_is_chronic() -> None:
    small = a_subdural(kind="acute", site=(-1.0, 0.0, 0.1), size_mm=4.0)
    assert is_chronic(a_subdural(kind="chronic", also=(small,)))
    assert not is_chronic(replace(small, size_mm=15.0, also=(a_subdural(kind="chronic"),)))


def test_about_three_in_ten_subdurals_are_chronic() -> None:
    assert 0.2 < np.mean([is_chronic(lesion) for lesion in many(SUBDURAL)]) < 0.4


def test_some_parenchymal_bleeds_have_several_foci_apart_and_their_volume_is_that_of_one() -> None:
    apart = [lesion for lesion in many(INTRAPARENCHYMAL) if _has_foci_apart(lesion)]
    assert 0.08 < len(apart) / 300 < 0.35
    volumes = [sum(float(np.prod(focus.radii)) for focus in lesion.foci) for lesion in apart]
    assert np.median(volumes) == pytest.approx(1.0, rel=0.15)


def _has_foci_apart(lesion: Lesion) -> bool:
    first, *others = lesion.foci
    reach = [max(first.radii) + max(focus.radii) for focus in others]
    return any(float(np.linalg.norm(f.offset)) > r for f, r in zip(others, reach, strict=True))


def test_a_left_subdural_moves_the_midline_to_the_right_by_up_to_half_its_thickness() -> None:
    p, cavity = ball()
    lesion = a_subdural()
    came_from = pushed({SUBDURAL: lesion}, p, cavity, {SUBDURAL: lesion_field(lesion, PLANE, p, cavity)})
    middle = np.abs(p[0]) < 1
    inner = middle & (cavity < -45)
    shift_mm = float(np.median((came_from[0] - p[0])[inner]))
    assert 3 < shift_mm < 7
    assert np.abs(came_from[0] - p[0])[middle & (cavity > -1)].max() < 1


def test_equal_subdurals_on_both_sides_leave_the_midline_where_it_is() -> None:
    p, cavity = ball()
    lesion = a_subdural(also=(a_subdural(site=(-1.0, 0.0, 0.1)),))
    field = lesion_field(lesion, PLANE, p, cavity)
    assert field[:, :40].max() > 8
    assert field[:, 41:].max() > 8
    came_from = pushed({SUBDURAL: lesion}, p, cavity, {SUBDURAL: field})
    assert np.abs(came_from[0] - p[0])[(np.abs(p[0]) < 1) & (cavity < -45)].max() < 0.5


def test_both_sides_have_their_own_density() -> None:
    other = a_subdural(site=(-1.0, 0.0, 0.1), hu=75.0)
    hu = blood_hu(a_subdural(hu=45.0, also=(other,)), PLANE)
    assert np.median(hu[:, 45:]) == pytest.approx(45, abs=2)
    assert np.median(hu[:, :36]) == pytest.approx(75, abs=2)


@pytest.mark.parametrize("subtype", [SUBDURAL, EPIDURAL])
def test_extra_axial_blood_is_either_thick_enough_to_be_seen_or_not_there(subtype: str) -> None:
    p, cavity = ball()
    for lesion in many(subtype, 40):
        if lesion.kind != "falx" and all(piece.kind != "tentorium" for piece in lesion.pieces):
            field = lesion_field(lesion, PLANE, p, cavity)
            assert np.mean((field > 0) & (field < 1.4)) < 0.03


def test_subarachnoid_blood_is_not_drawn_where_dura_hides_it() -> None:
    p, cavity = ball()
    lesion = replace(many(SUBARACHNOID, 1)[0], swell_mm=1.0)
    everywhere = np.full_like(cavity, -5)
    found = blood_distance(
        lesion,
        everywhere,
        depth=-cavity,
        ventricle=-everywhere,
        fluid=everywhere,
        midline=p[0],
        falx=-everywhere,
    )
    assert found[(cavity < -8)].max() < 0
    assert found[(cavity > -1.4)].min() > 0


def test_a_resized_lesion_takes_its_other_pieces_along() -> None:
    lesion = resized(a_subdural(also=(a_subdural(size_mm=4.0),)), 2.0)
    assert [piece.size_mm for piece in lesion.pieces] == [24.0, 8.0]


def test_combinations_are_of_two_or_more_known_subtypes() -> None:
    for seed in range(30):
        together = random_combination(np.random.default_rng(seed))
        assert 2 <= len(set(together)) == len(together)
        assert set(together) <= set(SUBTYPES)


def test_a_contact_sheet_shows_each_head_plain_and_with_its_truth(tmp_path: Path) -> None:
    make_sheet([str(tmp_path / "sheet.png"), "--subtype", "SDH", "--heads", "1", "--columns", "1"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (208, 416, 3)
    plain, outlined = sheet[:, :208], sheet[:, 208:]
    assert np.all(plain == plain[..., :1])
    assert 20 < np.any(plain != outlined, axis=2).sum() < 2000
