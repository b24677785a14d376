"""Windows and resampling: what the network sees, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from triage_node.domain import Volume
from triage_node.transforms import (
    PADDING_HU,
    WINDOWS_HU,
    Appearance,
    Axis,
    Grid,
    channels_of,
    from_grid,
    native_box,
    neighbour_indices,
    network_images,
    place_grid,
    resampling_matrix,
    slabs_of,
    to_grid,
    windowed,
)


def _disc_volume(
    *, centre_mm: tuple[float, float], spacing_mm: float, size_px: int = 256, slices: int = 3, drift_mm: float = 0.0
) -> Volume:
    """A 70 mm disc of 40 HU in air; `centre_mm` (rows, columns) moves by `drift_mm` down from slice to slice."""
    at_mm = np.arange(size_px) * spacing_mm
    hu = np.full((slices, size_px, size_px), -1024, np.int16)
    for index in range(slices):
        down, across = centre_mm[0] + index * drift_mm, centre_mm[1]
        hu[index][(at_mm[:, None] - down) ** 2 + (at_mm[None, :] - across) ** 2 < 70**2] = 40
    return _volume(hu, spacing_mm)


def _volume(hu: np.ndarray, spacing_mm: float, orientation: np.ndarray | None = None) -> Volume:
    return Volume(
        hu=hu,
        sop_uids=(),
        paths=(),
        positions_mm=np.stack([[0.0, 0.0, 5.0 * index] for index in range(len(hu))]),
        orientation=np.eye(3)[:2] if orientation is None else orientation,
        pixel_spacing_mm=(spacing_mm, spacing_mm),
        weights_mm=np.full(len(hu), 5.0),
        tilt_deg=0.0,
        header={},
    )


def test_windows_map_their_edges_to_0_and_1() -> None:
    hu = np.array([[-1024.0, 0.0, 40.0, 80.0, 3000.0]])
    brain, subdural, bone = windowed(hu, WINDOWS_HU)
    np.testing.assert_allclose(brain[0], [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(subdural[0], [0, 0.1, 0.3, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(bone[0], [0, 800 / 2800, 840 / 2800, 880 / 2800, 1], atol=1e-6)
    assert brain.dtype == np.float32


def test_resampling_rows_sum_to_1_inside_and_0_outside() -> None:
    matrix = resampling_matrix(Axis(count=100, start_mm=0.0, step_mm=0.5), Axis(count=40, start_mm=-10.0, step_mm=2.0))
    inside = (np.arange(40) * 2.0 - 10 >= -0.25) & (np.arange(40) * 2.0 - 10 <= 49.75)
    np.testing.assert_allclose(matrix.sum(axis=1), inside, atol=1e-6)


def test_enlarging_is_linear_interpolation() -> None:
    matrix = resampling_matrix(Axis(count=3, start_mm=0.0, step_mm=2.0), Axis(count=5, start_mm=0.0, step_mm=1.0))
    np.testing.assert_allclose(matrix @ np.array([0.0, 10.0, 30.0]), [0, 5, 10, 20, 30], atol=1e-5)


def test_shrinking_does_not_alias() -> None:
    """A chequer finer than the target becomes its mean, not one of its colours."""
    matrix = resampling_matrix(Axis(count=200, start_mm=0.0, step_mm=0.5), Axis(count=20, start_mm=10.0, step_mm=3.0))
    np.testing.assert_allclose(matrix @ np.tile([0.0, 100.0], 100), 50.0, atol=3.0)


@pytest.mark.parametrize("spacing_mm", [0.4, 0.7, 0.95])
def test_the_grid_counts_millimetres_not_pixels(spacing_mm: float) -> None:
    """The same disc covers the same number of grid pixels at any pixel spacing."""
    volume = _disc_volume(centre_mm=(100.0, 100.0), spacing_mm=spacing_mm, size_px=round(220 / spacing_mm))
    grid = Grid(size_px=144, spacing_mm=1.5)
    hu = to_grid(volume.hu, place_grid(volume, grid))
    area_mm2 = np.count_nonzero(hu > -500, axis=(1, 2)) * grid.spacing_mm**2
    np.testing.assert_allclose(area_mm2, np.pi * 70**2, rtol=0.01)


def test_the_grid_follows_the_head_through_a_tilted_stack() -> None:
    volume = _disc_volume(centre_mm=(80.0, 120.0), spacing_mm=0.9, slices=5, drift_mm=6.0)
    placement = place_grid(volume, Grid(size_px=101, spacing_mm=1.5))
    middles = [(axis.start_mm + axis.centres_mm[-1]) / 2 for axis in placement.grid_rows]
    np.testing.assert_allclose(middles, 80 + 6.0 * np.arange(5), atol=1.0)
    assert placement.grid_columns[0].centres_mm[50] == pytest.approx(120.0, abs=1.0)


@pytest.mark.parametrize("turned", ["no", "prone", "on the left side", "on the right side"])
def test_the_head_is_the_same_way_round_however_the_patient_lay(turned: str) -> None:
    """The nose (bright, at the front) and the patient's left (dark spot) end at the same grid pixels."""
    at_mm = np.arange(120) * 2.0 - 119.0
    posterior, left = at_mm[:, None], at_mm[None, :]
    upright = np.where((posterior / 90) ** 2 + (left / 70) ** 2 < 1, 40, -1024)
    upright = np.where((posterior + 80) ** 2 + left**2 < 8**2, 300, upright)
    upright = np.where(posterior**2 + (left - 50) ** 2 < 8**2, -50, upright).astype(np.int16)
    x, y = np.eye(3)[0], np.eye(3)[1]
    image, rows_to, columns_to = {
        "no": (upright, x, y),
        "prone": (upright[::-1, ::-1], -x, -y),
        "on the left side": (upright.T[:, ::-1], -y, x),
        "on the right side": (upright.T[::-1], y, -x),
    }[turned]
    volume = _volume(np.ascontiguousarray(image)[None], 2.0, np.stack([rows_to, columns_to]))
    placement = place_grid(volume, Grid(size_px=100, spacing_mm=2.0))
    hu = to_grid(volume.hu, placement)[0]
    np.testing.assert_allclose(hu[10:90, 10:90], upright[20:100, 20:100], atol=1)
    back = from_grid((hu > 200).astype(np.float32)[None], placement, 0)[0]
    np.testing.assert_array_equal(back > 0.5, image > 200)


def test_a_thin_layer_of_blood_under_the_bone_is_seen_where_bone_is_cut_off_before_resampling() -> None:
    """3 mm of 60 HU between bone and brain, pixels of 0.5 mm onto a grid of 1.93 mm."""
    hu = np.full((1, 400, 400), 35, np.int16)
    hu[:, 40:60], hu[:, 60:66] = 1200, 60
    volume = _volume(hu, 0.5)
    placement = place_grid(volume, Grid(size_px=100, spacing_mm=1.93))
    depth_mm = placement.grid_rows[0].centres_mm - (60 - 0.5) * 0.5
    layer = (depth_mm > 0) & (depth_mm < 3)
    whole, cut = (to_grid(volume.hu, placement, limit)[0, :, 50] for limit in (np.inf, 200.0))
    assert cut[layer].max() < 110 < whole[layer].max(), "in the brain window 80 HU and more are white"
    inside = depth_mm > 6
    np.testing.assert_allclose(cut[inside], whole[inside], atol=1e-3)
    assert cut.max() == pytest.approx(200.0, abs=1e-3)


def test_outside_the_image_is_air_there_and_nothing_back() -> None:
    volume = _volume(np.full((1, 64, 64), 40, np.int16), 1.0)
    grid = Grid(size_px=100, spacing_mm=1.0)
    placement = place_grid(volume, grid)
    hu = to_grid(volume.hu, placement)
    assert hu[0, 0, 0] == PADDING_HU
    assert hu[0, 50, 50] == pytest.approx(40, abs=1e-3)
    small = place_grid(volume, Grid(size_px=20, spacing_mm=1.0))
    back = from_grid(np.ones((1, 20, 20), np.float32), small, 0)
    assert back[0, 0, 0] == 0
    assert back[0].sum() == pytest.approx(400, abs=45)


def test_there_and_back_gives_a_smooth_image_again() -> None:
    at = np.arange(256) * 0.8
    smooth = 40 + 30 * np.sin(at / 15)[:, None] * np.cos(at / 20)[None, :]
    volume = _volume(np.rint(smooth).astype(np.int16)[None], 0.8)
    placement = place_grid(volume, Grid(size_px=144, spacing_mm=1.5))
    back = from_grid(to_grid(volume.hu, placement), placement, 0)[0]
    np.testing.assert_allclose(back[8:-8, 8:-8], smooth[8:-8, 8:-8], atol=1.5)


def test_a_picture_stored_the_other_way_round_looks_the_same_to_the_network() -> None:
    rng = np.random.default_rng(3)
    hu = _disc_volume(centre_mm=(100.0, 105.0), spacing_mm=0.8).hu.copy()
    hu[hu > 0] += rng.integers(0, 30, np.count_nonzero(hu > 0)).astype(np.int16)
    grid = Grid(size_px=112, spacing_mm=1.5)
    upright, turned = _volume(hu, 0.8), _volume(hu[:, ::-1, ::-1], 0.8, -np.eye(3)[:2])
    seen = [to_grid(volume.hu, place_grid(volume, grid)) for volume in (upright, turned)]
    np.testing.assert_allclose(seen[0], seen[1], atol=0.05)


# ---------------------------------------------------------------- slabs and neighbours


@pytest.mark.parametrize(
    ("weights_mm", "expected"),
    [
        ([0.5] * 10, [0] * 5 + [1] * 5),
        ([0.5] * 13, [0] * 5 + [1] * 8),  # what is left over goes to the last slab
        ([1.25] * 4, [0, 0, 1, 1]),
        ([2.5] * 3, [0, 1, 2]),
        ([2.37] * 3, [0, 1, 2]),  # 2.5 mm of table under a gantry tilt of 18.5 degrees
        ([5.0, 5.0, 1.25, 1.25, 1.25, 1.25], [0, 1, 2, 2, 3, 3]),
        ([7.0], [0]),
        ([0.5], [0]),
    ],
)
def test_slabs_are_as_thick_as_asked_for_or_one_slice(weights_mm: list[float], expected: list[int]) -> None:
    assert slabs_of(np.array(weights_mm), 2.5).tolist() == expected
    assert slabs_of(np.array(weights_mm), 0.0).tolist() == list(range(len(weights_mm)))


@pytest.mark.parametrize(
    ("along_mm", "below", "above"),
    [
        ([0, 5, 10], [0, 0, 1], [1, 2, 2]),
        ([0, 2.5, 5, 7.5], [0, 0, 0, 1], [2, 3, 3, 3]),  # the one 5 mm away where there is one, else the nearest to it
        ([0, 10, 20.1], [0, 0, 2], [1, 1, 2]),  # 10 mm away is a neighbour, 10.1 mm is none
        ([3.0], [0], [0]),
    ],
)
def test_a_neighbour_is_nearest_to_its_distance_and_not_too_far(
    along_mm: list[float], below: list[int], above: list[int]
) -> None:
    found = neighbour_indices(np.array(along_mm, float), 5.0)
    assert found[:, 0].tolist() == below
    assert found[:, 1].tolist() == above


def test_images_are_the_windows_and_the_first_window_of_both_neighbours() -> None:
    hu = np.stack([np.full((2, 2), value, np.float32) for value in (0, 20, 40, 60)])
    neighbours = neighbour_indices(np.arange(4) * 5.0, 5.0)
    images = network_images(hu, slice(1, 4), Appearance(), neighbours)
    assert images.shape == (3, len(WINDOWS_HU) + 2, 2, 2)
    np.testing.assert_array_equal(images[:, :3], windowed(hu[1:4], WINDOWS_HU))
    np.testing.assert_allclose(images[:, 3, 0, 0], [0.0, 0.25, 0.5])
    np.testing.assert_allclose(images[:, 4, 0, 0], [0.5, 0.75, 0.75])
    np.testing.assert_array_equal(network_images(hu, slice(1, 4), Appearance()), windowed(hu[1:4], WINDOWS_HU))


def test_a_slab_is_the_mean_of_its_slices_by_their_weights() -> None:
    hu = np.stack([np.full((20, 20), value, np.int16) for value in (0, 40, 100)])
    volume = replace(_volume(hu, 1.0), weights_mm=np.array([1.0, 3.0, 5.0]))
    placement = place_grid(volume, Grid(size_px=10, spacing_mm=1.0), slab_mm=4.0)
    assert placement.slab_of.tolist() == [0, 0, 1]
    np.testing.assert_allclose(placement.slab_along_mm, [3.75, 10.0])
    np.testing.assert_allclose(to_grid(volume.hu, placement)[:, 5, 5], [30.0, 100.0], atol=1e-3)


def test_a_slab_of_a_tilted_stack_stays_sharp() -> None:
    """The disc moves by 3 mm a slice; on the head's own grid the slices of a slab lie on each other."""
    volume = _disc_volume(centre_mm=(80.0, 120.0), spacing_mm=0.9, slices=6, drift_mm=3.0)
    grid = Grid(size_px=101, spacing_mm=1.5)
    slabs = to_grid(volume.hu, place_grid(volume, grid, slab_mm=15.0))
    single = to_grid(volume.hu, place_grid(volume, grid))
    assert slabs.shape[0] == 2
    edge = (slabs > -900) & (slabs < -100)
    assert np.count_nonzero(edge) < 1.6 * np.count_nonzero((single > -900) & (single < -100)) / 3


@pytest.mark.parametrize("spacing_mm", [0.45, 3.0])
@pytest.mark.parametrize("turned", [False, True])
def test_the_box_holds_every_pixel_that_is_reached(spacing_mm: float, turned: bool) -> None:
    size_px = round(230 / spacing_mm)
    orientation = np.eye(3)[[1, 0]] if turned else np.eye(3)[:2]
    volume = _volume(np.full((1, size_px, size_px + 9), 40, np.int16), spacing_mm, orientation)
    placement = place_grid(volume, Grid(size_px=100, spacing_mm=2.0))
    chosen = np.zeros((100, 100), np.bool_)
    chosen[30:35, 60:80] = chosen[50, 10] = True
    whole = from_grid(chosen[None].astype(np.float32), placement, 0)
    box = native_box(chosen, placement, 0)
    np.testing.assert_array_equal(from_grid(chosen[None].astype(np.float32), placement, 0, box), whole[:, *box])
    assert whole[:, *box].sum() == pytest.approx(whole.sum(), rel=1e-6)
    assert whole[:, *box].size < whole.size / 2


# ---------------------------------------------------------------- appearance


def test_soft_windows_reach_1_of_255_at_their_ends() -> None:
    hu = np.array([[[0.0, 40.0, 80.0, -1000.0, 1000.0]]], np.float32)
    soft = windowed(hu, [(40.0, 80.0)], sigmoid=True)[0, 0, 0]
    np.testing.assert_allclose(soft, [1 / 255, 0.5, 254 / 255, 0, 1], atol=1e-4)


def test_stretching_and_equalising_are_of_each_channel_of_each_slice() -> None:
    rng = np.random.default_rng(0)
    hu = np.stack([rng.normal(30, 2, (64, 64)), rng.normal(50, 8, (64, 64))]).astype(np.float32)
    for appearance in (Appearance(stretched=True), Appearance(equalised=True)):
        images = channels_of(hu, appearance)
        assert images.shape == (2, 3, 64, 64)
        assert images.dtype == np.float32
        assert (images.min(axis=(2, 3)) < 0.05).all()
        assert (images.max(axis=(2, 3)) > 0.95).all()
    deciles = np.quantile(channels_of(hu, Appearance(equalised=True))[0, 0], np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(deciles, np.linspace(0.1, 0.9, 9), atol=0.02)
    assert np.isfinite(channels_of(np.full((1, 8, 8), 40, np.float32), Appearance(stretched=True))).all()


def test_neighbours_look_like_the_slice_itself() -> None:
    hu = np.random.default_rng(0).normal(40, 20, (3, 8, 8)).astype(np.float32)
    appearance = Appearance(sigmoid=True)
    neighbours = np.array([[0, 1], [0, 2], [1, 2]])
    images = network_images(hu, slice(1, 2), appearance, neighbours)
    np.testing.assert_array_equal(images[0, 3:], channels_of(hu[[0, 2]], appearance)[:, 0])
