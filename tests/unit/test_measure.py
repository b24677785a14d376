"""Millilitres against shapes whose volume is known."""

from __future__ import annotations

import numpy as np
import pytest

from triage_node.domain import CLASSES, Volume
from triage_node.infer.measure import volumes_ml


def _stack(*, positions_along_mm: np.ndarray, tilt_deg: float, pixel_mm: float = 0.5, size_px: int = 160) -> Volume:
    """Planes pitched by `tilt_deg` at these table positions; weights are half the way to each neighbour."""
    tilt = np.deg2rad(tilt_deg)
    orientation = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(tilt), np.sin(tilt)]])
    normal = np.cross(*orientation)
    half_mm = (size_px - 1) / 2 * pixel_mm
    positions = positions_along_mm[:, None] * np.array([0.0, 0.0, 1.0]) - half_mm * orientation.sum(axis=0)
    return Volume(
        hu=np.zeros((len(positions), size_px, size_px), np.int16),
        sop_uids=(),
        paths=(),
        positions_mm=positions,
        orientation=orientation,
        pixel_spacing_mm=(pixel_mm, pixel_mm),
        weights_mm=np.gradient(positions @ normal),
        tilt_deg=tilt_deg,
        header={},
    )


def _ball(volume: Volume, radius_mm: float) -> np.ndarray:
    """Where the pixel centres of the stack lie in a ball about the origin of the patient frame."""
    _, rows, columns = volume.hu.shape
    row_mm, column_mm = volume.pixel_spacing_mm
    across = np.arange(columns)[None, :, None] * column_mm * volume.orientation[0]
    down = np.arange(rows)[:, None, None] * row_mm * volume.orientation[1]
    points = volume.positions_mm[:, None, None, :] + (across + down)[None]
    return np.asarray((points**2).sum(axis=-1) < radius_mm**2)


@pytest.mark.parametrize("tilt_deg", [0.0, 18.5, -24.0])
@pytest.mark.parametrize(
    "positions_along_mm",
    [
        np.arange(-40, 41, 2.5),
        np.concatenate([np.arange(-42, 0, 4.22), [1.14], np.arange(3.0, 45, 7.38)]),
    ],
    ids=["even", "uneven"],
)
def test_a_ball_has_its_volume_in_any_stack(positions_along_mm: np.ndarray, tilt_deg: float) -> None:
    volume = _stack(positions_along_mm=positions_along_mm, tilt_deg=tilt_deg)
    mask = (_ball(volume, 30.0) * 2).astype(np.uint8)
    expected_ml = 4 / 3 * np.pi * 30.0**3 / 1000
    assert volumes_ml(mask, volume)["intraparenchymal"] == pytest.approx(expected_ml, rel=0.02)


def test_tilt_and_uneven_spacing_count_by_their_weights() -> None:
    """A column of 10 x 10 pixels through every slice: area times the sum of the weights, exactly."""
    volume = _stack(positions_along_mm=np.array([0.0, 4.0, 5.0, 12.0, 20.0]), tilt_deg=18.5)
    mask = np.zeros(volume.hu.shape, np.uint8)
    mask[:, 20:30, 40:50] = 5
    expected_ml = 100 * 0.25 * volume.weights_mm.sum() / 1000
    assert volumes_ml(mask, volume)["subdural"] == pytest.approx(expected_ml, rel=1e-12)


def test_any_is_the_sum_and_absent_is_zero() -> None:
    volume = _stack(positions_along_mm=np.arange(4) * 5.0, tilt_deg=0.0)
    mask = np.zeros(volume.hu.shape, np.uint8)
    mask[1, :4, :4], mask[2, :2, :2] = 1, 4
    volumes = volumes_ml(mask, volume)
    assert tuple(volumes) == CLASSES
    assert volumes["any"] == volumes["epidural"] + volumes["subarachnoid"] > 0
    assert volumes["subdural"] == volumes["intraparenchymal"] == volumes["intraventricular"] == 0.0


def test_a_mask_of_another_shape_is_refused() -> None:
    volume = _stack(positions_along_mm=np.arange(4) * 5.0, tilt_deg=0.0)
    with pytest.raises(ValueError, match="the mask is"):
        volumes_ml(np.zeros((3, 160, 160), np.uint8), volume)
