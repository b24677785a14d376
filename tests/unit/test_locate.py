"""Left is the patient's left, however the slices lie and however the head lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import report_cases as cases
from tests.ct import pixel_centres_mm
from triage_node.domain import SUBTYPES, Laterality, UInt8Array, Volume
from triage_node.locate import fit_midplane, locate

SIZE, SPACING_MM = 96, (2.5, 2.5)
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
LABEL = 1 + SUBTYPES.index("subdural")


def turned(turn_deg: float, lean_deg: float) -> NDArray[np.float64]:
    """(3, 3) rotation of a head that is turned about z, then leans about its own front-back axis."""
    turn, lean = np.radians([turn_deg, lean_deg])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(lean), 0, -np.sin(lean)], [0, 1, 0], [np.sin(lean), 0, np.cos(lean)]])
    rotation: NDArray[np.float64] = about_z @ about_y
    return rotation


def head(
    *,
    orientation: Sequence[Sequence[float]] = AXIAL,
    rotation: NDArray[np.float64] | None = None,
    centre_mm: Sequence[float] = (0.0, 0.0, 0.0),
    blood_mm: Sequence[Sequence[float]] = (),
) -> tuple[Volume, UInt8Array]:
    """A skull with a jaw, and balls of blood of 8 mm at places of its own frame (x left, y back, z up)."""
    along = np.array(orientation)
    depths_mm = np.arange(28) * 5.0 - 65
    middle = (SIZE - 1) / 2 * 2.5 * along.sum(axis=0)
    positions = np.array([[0.0, 0.0, depth] - middle for depth in depths_mm])
    points = np.stack([pixel_centres_mm(position, along, SPACING_MM, SIZE) for position in positions])
    inner = (points - np.array(centre_mm)) @ (np.eye(3) if rotation is None else rotation)
    volume = Volume(
        hu=hu_of(inner),
        sop_uids=tuple(f"1.2.{k}" for k in range(28)),
        paths=tuple(Path(f"{k}.dcm") for k in range(28)),
        positions_mm=positions,
        orientation=along,
        pixel_spacing_mm=SPACING_MM,
        weights_mm=np.full(28, 5.0),
        tilt_deg=0.0,
        header={},
    )
    balls = [((inner - np.array(place)) ** 2).sum(axis=-1) < 8.0**2 for place in blood_mm]
    return volume, np.any(balls, axis=0).astype(np.uint8) * np.uint8(LABEL)


def hu_of(points_mm: NDArray[np.float64]) -> NDArray[np.int16]:
    """Air, a skull that is narrower in front, brain; and a jaw."""
    x, y, z = np.moveaxis(points_mm, -1, 0)
    radius = np.sqrt((x / (72 + y / 10)) ** 2 + (y / 92) ** 2 + (z / 85) ** 2)
    jaw = (np.abs(np.hypot(x / 45, (y + 30) / 55) - 1) < 0.15) & (y < -30) & (z < -45)
    return np.select([radius < 0.9, radius < 1, jaw], [35, 900, 900], -1000).astype(np.int16)


@pytest.mark.parametrize(
    "orientation",
    [
        AXIAL,
        ((1, 0, 0), (0, 0.94, -0.342)),  # a gantry tilt of 20 degrees
        ((-1, 0, 0), (0, 1, 0)),  # mirrored: feet first
        ((-1, 0, 0), (0, -1, 0)),  # prone
        ((0, 1, 0), (1, 0, 0)),  # on a side
    ],
)
def test_left_is_the_patients_left_however_the_slices_are_stored(orientation: Sequence[Sequence[float]]) -> None:
    for side, x in ((Laterality.LEFT, 40.0), (Laterality.RIGHT, -40.0)):
        volume, mask = head(orientation=orientation, blood_mm=[(x, 10, 20)])
        assert locate(volume, mask)["subdural"].laterality == side
        assert locate(volume, mask)["any"].laterality == side


@pytest.mark.parametrize(("turn_deg", "lean_deg"), [(25, 0), (-25, 0), (0, 12), (20, -8), (-20, 8)])
@pytest.mark.parametrize("centre_mm", [(0, 0, 0), (30, -20, 5)])
def test_a_turned_head_keeps_its_sides(turn_deg: float, lean_deg: float, centre_mm: Sequence[float]) -> None:
    """In front of a head turned by 25 degrees, what is 15 mm left of the middle may lie right of the image's."""
    rotation = turned(turn_deg, lean_deg)
    for side, x in ((Laterality.LEFT, 15), (Laterality.RIGHT, -15)):
        blood = [(x, -60, 30), (x, 60, 30), (x, 0, 60)]
        volume, mask = head(rotation=rotation, centre_mm=centre_mm, blood_mm=blood)
        assert locate(volume, mask)["subdural"].laterality == side


def test_the_plane_is_that_of_the_head() -> None:
    rotation = turned(20, -8)
    volume, _ = head(rotation=rotation, centre_mm=(30, -20, 5))
    plane = fit_midplane(volume)
    assert plane is not None
    assert np.degrees(np.arccos(plane.normal @ rotation[:, 0])) < 5
    assert plane.offset_mm == pytest.approx(rotation[:, 0] @ (30, -20, 5), abs=5)


def test_blood_on_both_sides_and_in_the_middle_is_told_apart() -> None:
    volume, both = head(blood_mm=[(40, 0, 20), (-40, 10, 20)])
    assert locate(volume, both)["subdural"].laterality == Laterality.BILATERAL
    _, mostly_left = head(blood_mm=[(40, 0, 20), (40, 0, 40), (40, 30, 20), (40, -30, 20), (20, 0, 20), (-40, 0, 20)])
    assert locate(volume, mostly_left)["subdural"].laterality == Laterality.LEFT
    _, middle = head(blood_mm=[(1, 0, 20)])
    assert locate(volume, middle)["subdural"].laterality == Laterality.MIDLINE


def test_no_side_is_told_of_what_is_no_whole_skull() -> None:
    volume, mask = head(blood_mm=[(40, 10, 20)])
    half = volume.hu.copy()
    half[:, :, :50] = -1000
    half[:, 20:40, 50:] = -1000
    for hu in (np.full_like(half, -1000), half):
        found = locate(replace(volume, hu=hu), mask)["subdural"]
        assert found.laterality is None
        assert found.slices == locate(volume, mask)["subdural"].slices


def test_each_class_has_its_own_place(tmp_path: Path) -> None:
    volume = cases.volume_of(cases.write_ct(tmp_path, elements={}))
    found = locate(volume, cases.mask_of(volume))
    assert set(found) == {"any", "subdural", "intraventricular"}
    assert (found["subdural"].slices, found["intraventricular"].slices) == ((1, 3), (3, 3))
    assert found["subdural"].instance_numbers == (2, 4)
    row = (25 + 39) / 2
    assert found["subdural"].z_mm[0] == pytest.approx(5.0 - 0.28 * row * 3.5)


def test_nothing_is_located_where_nothing_is_segmented() -> None:
    volume, mask = head()
    assert locate(volume, None) == locate(volume, mask) == {}


@pytest.mark.parametrize("number", [None, "N/A"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR IS")
def test_images_without_a_usable_number_have_none(tmp_path: Path, number: str | None) -> None:
    paths = cases.write_ct(tmp_path, leave_out=("InstanceNumber",))
    if number:
        for path in paths:
            raw = path.read_bytes()
            at = raw.index(b"\x20\x00\x12\x00IS")
            path.write_bytes(raw[:at] + b"\x20\x00\x13\x00IS\x04\x00N/A " + raw[at:])
    volume = cases.volume_of(paths)
    assert locate(volume, cases.mask_of(volume))["any"].instance_numbers is None


def test_frames_of_one_file_have_no_number_of_their_own(tmp_path: Path) -> None:
    volume = cases.volume_of(cases.write_ct(tmp_path))
    one_file = replace(volume, paths=volume.paths[:1] * len(volume.paths))
    assert locate(one_file, cases.mask_of(volume))["any"].instance_numbers is None
