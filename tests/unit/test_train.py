"""Training: the pool, what is varied at every pass, the loop, its checkpoints and its record."""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triage_node.domain import SUBTYPES
from triage_node.errors import ConfigError, TrainingError, UsageError
from triage_node.learn.augment import AugmentConfig, augment, to_network
from triage_node.learn.checkpoint import CHECKPOINT, averaged_network
from triage_node.learn.curves import CURVES
from triage_node.learn.dataset import STORED_GRID, open_shard, shard_paths
from triage_node.learn.dataset import write_shard as write_slices
from triage_node.learn.experiment import ImagesConfig, TrainConfig, read_config
from triage_node.learn.losses import LossWeights, losses, total
from triage_node.learn.offline import vary_shards
from triage_node.learn.painted import PaintConfig
from triage_node.learn.picture import PictureConfig, as_pictures
from triage_node.learn.pool import Drawn, KindShares, PoolConfig, SlicePool, neighbours
from triage_node.learn.pose import Framing, PoseConfig, Slices, head_framing, posed
from triage_node.learn.record import read_record
from triage_node.learn.train import _held_out, train
from triage_node.networks import NetworkConfig, TriageNet, TriageNetConfig
from triage_node.networks.plain_cnn import PlainCnnConfig
from triage_node.networks.resnet50v2_yolo import ResNet50V2YoloConfig
from triage_node.networks.unet4 import UNet4Config
from triage_node.picture import HEAD_MM, WHITE_HU
from triage_node.skull import without_skull
from triage_node.transforms import Appearance, Grid, network_images

NETWORK = TriageNetConfig(base_width=4, levels=3, context_kernel_px=3, head_width=8)
SMALL = Grid(size_px=32, spacing_mm=6.75)
HEADS, SLICES = 2, 7
SUBDURAL = 1 + SUBTYPES.index("subdural")
STILL = PoseConfig(turn_deg=0.0, shift_mm=0.0, shear=0.0, zoom=0.0, flip_share=0.0, bend_share=0.0)


def write_shard(folder: Path, number: int) -> None:
    """Discs of bone around brain; the brain's HU names head and slice, and slice 3 of head 0 has subdural blood."""
    size = STORED_GRID.size_px
    at = np.arange(size) - (size - 1) / 2
    radius = np.hypot(at[:, None], at[None, :])
    hu = np.full((HEADS * SLICES, size, size), -1000, np.int16)
    truth = np.zeros(hu.shape, np.uint8)
    meta = np.zeros((len(hu), 3), np.float32)
    for row in range(len(hu)):
        head, index = divmod(row, SLICES)
        hu[row][radius < 70] = 1000
        hu[row][radius < 64] = 20 + 10 * head + index
        meta[row] = head, 5.0 * index, 1.0 if head == 0 else np.nan
    truth[3][(radius < 64) & (radius > 52) & (at[None, :] > 20)] = SUBDURAL
    hu[3][truth[3] > 0] = 70
    depth = np.broadcast_to(np.clip((64 - radius) * 5, 0, 255), hu.shape).astype(np.uint8)
    shard = folder / f"shard-{number:05d}"
    shard.mkdir(parents=True)
    for name, array in (("hu", hu), ("truth", truth), ("depth", depth), ("meta", meta)):
        np.save(shard / f"{name}.npy", array)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder, 0)
    return folder


@pytest.fixture
def drawn(shards: Path) -> Drawn:
    return SlicePool(shards, PoolConfig()).draw(np.random.default_rng(1), 8)


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=shards,
        run=tmp_path / "run",
        steps=3,
        batch=2,
        warmup_steps=1,
        coarse_share=0.4,
        coarse_grid=replace(SMALL, size_px=24),
        grid=SMALL,
        device="cpu",
        checkpoint_every=2,
        validate_every=2,
        validation_batches=1,
        network=NETWORK,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / CHECKPOINT)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---------------------------------------------------------------- the pool


def test_a_slice_comes_with_the_neighbours_of_its_own_head(drawn: Drawn) -> None:
    brain = drawn.hu[:, :, 88, 88]
    for place, (below, own, above) in zip(drawn.places, brain, strict=True):
        head, index = divmod(int(place), SLICES)
        assert own == 20 + 10 * head + index
        assert below == own - int(index > 0)
        assert above == own + int(index < SLICES - 1)


def test_neighbours_are_about_5_mm_away_and_never_beyond_10() -> None:
    heads = np.array([0, 0, 0, 0, 0, 1])
    positions_mm = np.array([0.0, 2.0, 4.5, 9.0, 20.0, 24.0])
    below, above = neighbours(heads, positions_mm).T
    assert list(above) == [2, 3, 3, 3, 4, 5]
    assert list(below) == [0, 0, 0, 2, 4, 5]


def test_shares_of_a_batch_are_kept(shards: Path) -> None:
    pool = SlicePool(shards, PoolConfig(negative_share=0.75, hard_share=0.0))
    truth = pool.draw(np.random.default_rng(1), 120).truth[:, 1]
    assert 0.65 < float((truth == 0).all(dim=(1, 2)).float().mean()) < 0.85


def test_the_hardest_negatives_are_drawn_more_often(shards: Path) -> None:
    pool = SlicePool(shards, PoolConfig(negative_share=1.0, hard_share=0.5, hardest=0.1))
    pool.note(np.array([5, 9]), np.array([0.2, 0.9], np.float32))
    places = pool.draw(np.random.default_rng(0), 100).places
    assert np.count_nonzero(places == 9) > 40
    assert np.count_nonzero(places == 5) < 20


def test_shards_that_come_later_are_taken_up_and_scores_stay_with_their_slices(tmp_path: Path) -> None:
    write_shard(tmp_path, 1)
    pool = SlicePool(tmp_path, PoolConfig())
    pool.note(np.array([4]), np.array([0.8], np.float32))
    write_shard(tmp_path, 0)
    pool.refresh()
    assert len(pool) == 2 * HEADS * SLICES
    assert pool.scores()["shard-00001"][4] == pytest.approx(0.4)
    other = SlicePool(tmp_path, PoolConfig())
    other.restore_scores(pool.scores())
    assert same(other.scores(), pool.scores())


def test_a_shard_of_an_older_version_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, 0)
    (tmp_path / "shard-00000" / "meta.npy").unlink()
    with pytest.raises(ConfigError, match=r"shard-00000/meta\.npy: is missing"):
        SlicePool(tmp_path, PoolConfig())


# ---------------------------------------------------------------- what is varied


def test_slices_labels_and_depth_move_together(drawn: Drawn) -> None:
    blood = (drawn.truth > 0).float()
    slices = Slices(hu=100 * blood, truth=blood, depth_mm=blood)
    ahead = Framing(middle_px=torch.zeros(8, 2), zoom=torch.ones(8))
    moved = posed(slices, ahead, STORED_GRID, Grid(size_px=128, spacing_mm=1.7), PoseConfig(), seed=3)
    assert moved.truth.sum() > 1000
    for image in (moved.hu > 50, moved.depth_mm > 0.5):
        assert (image == (moved.truth > 0)).float().mean() > 0.99


def test_a_pose_that_is_not_varied_changes_nothing(drawn: Drawn) -> None:
    slices = Slices(hu=drawn.hu, truth=drawn.truth.float(), depth_mm=drawn.depth_mm)
    ahead = Framing(middle_px=torch.zeros(8, 2), zoom=torch.ones(8))
    moved = posed(slices, ahead, STORED_GRID, STORED_GRID, STILL, seed=0)
    torch.testing.assert_close(moved.hu, slices.hu, atol=0.05, rtol=0)
    assert torch.equal(moved.truth, slices.truth)


def test_a_head_is_shifted_by_millimetres_whatever_the_grid(drawn: Drawn) -> None:
    disc = (drawn.hu > -500).float()
    slices = Slices(hu=disc, truth=disc, depth_mm=disc)
    ahead = Framing(middle_px=torch.zeros(8, 2), zoom=torch.ones(8))
    pose = replace(STILL, shift_mm=10.0)
    shifts = []
    for grid in (Grid(size_px=112, spacing_mm=1.93), Grid(size_px=224, spacing_mm=0.965)):
        truth = posed(slices, ahead, STORED_GRID, grid, pose, seed=4).truth[:, 1]
        at_mm = (torch.arange(grid.size_px) - (grid.size_px - 1) / 2) * grid.spacing_mm
        middles = [(truth.sum(dim=dim) * at_mm).sum(dim=1) / truth.sum(dim=(1, 2)) for dim in (2, 1)]
        shifts.append(torch.stack(middles))
    assert 8 < float(shifts[0].abs().max()) <= 10.1
    torch.testing.assert_close(shifts[0], shifts[1], atol=0.3, rtol=0)


def test_the_longer_side_of_a_head_in_a_picture_is_what_inference_assumes(drawn: Drawn) -> None:
    wanted_mm = torch.full((8,), 150.0)
    framing = head_framing(drawn.hu[:, 1], STORED_GRID.spacing_mm, wanted_mm)
    slices = Slices(hu=drawn.hu, truth=drawn.truth.float(), depth_mm=drawn.depth_mm)
    moved = posed(slices, framing, STORED_GRID, Grid(size_px=176, spacing_mm=1.0), STILL, seed=0)
    longer_side_mm = (moved.hu[:, 1] > 0).any(dim=1).sum(dim=1).float()
    assert (longer_side_mm - wanted_mm).abs().max() <= 3


def test_pictures_hold_whole_numbers_from_black_to_white(drawn: Drawn) -> None:
    config = PictureConfig(background_share=0.7, letters_share=1.0, gamma_share=1.0, jpeg_share=1.0, crop_share=1.0)
    shown = as_pictures(drawn.hu[:, 1:2], Grid(size_px=176, spacing_mm=1.25), config, seed=1)
    assert shown.shape == (8, 1, 176, 176)
    assert shown.min() >= 0
    assert shown.max() <= WHITE_HU
    assert torch.equal(shown, shown.round())


PLAIN_PICTURE = PictureConfig(
    background_share=0, letters_share=0, gamma_share=0, jpeg_share=0, crop_share=0, coarse_share=0, sharpness_share=0
)


@pytest.mark.parametrize(("width_hu", "between_hu"), [(100.0, 8.0), (400.0, 9.0)])
def test_a_wide_window_is_seen_as_inference_reads_it(width_hu: float, between_hu: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(176) - 88, torch.arange(176) - 88, indexing="ij")
    off_middle_px = torch.hypot(rows.float(), columns.float())
    brain = 28.0 + 10.0 * ((rows // 16 + columns // 16) % 2)
    hu = torch.where(off_middle_px < 66, brain, torch.where(off_middle_px < 72, 200.0, -1000.0))
    picture = replace(PLAIN_PICTURE, wide_share=1.0, wide_hu=(width_hu, width_hu + 1e-3), off_centre=0.0)
    shown = as_pictures(hu.view(1, 1, 176, 176), STORED_GRID, picture, seed=1)[0, 0]
    low, high = shown[off_middle_px < 50].quantile(torch.tensor([0.25, 0.75]))
    assert high - low == pytest.approx(between_hu, abs=1)
    assert (shown[(off_middle_px > 67) & (off_middle_px < 71)] == WHITE_HU).all()


def test_no_window_shows_brain_as_black_or_white() -> None:
    brain = torch.full((500, 1, 8, 8), 33.0)
    shown = as_pictures(brain, Grid(size_px=8, spacing_mm=20.0), replace(PLAIN_PICTURE, wide_share=0.3), seed=1)
    assert shown.min() >= 0.1 * WHITE_HU
    assert shown.max() <= 0.9 * WHITE_HU


def test_a_stripped_picture_shows_the_inside_of_the_skull_alone_and_that_fills_it(drawn: Drawn) -> None:
    picture = replace(PLAIN_PICTURE, stripped_share=1.0, zoom=0.0)
    still = AugmentConfig(pose=STILL, picture=picture, picture_share=1.0, blur_share=0, noise_share=0)
    views = augment(drawn, STORED_GRID, Grid(size_px=176, spacing_mm=1.25), still, seed=1)
    inside = views.depth_mm > 0
    assert inside.any(dim=2).any(dim=1).all()
    assert views.images[:, 0][~inside].max() == 0
    assert views.truth[~inside].max() == 0
    shown = views.images[:, 0] > 0
    longer_side_px = torch.maximum(shown.any(dim=1).sum(dim=1), shown.any(dim=2).sum(dim=1))
    assert (1.25 * longer_side_px - HEAD_MM).abs().max() <= 8


def test_a_picture_has_no_neighbours_and_a_scan_mostly_has(drawn: Drawn) -> None:
    pictures = augment(drawn, STORED_GRID, SMALL, AugmentConfig(picture_share=1.0), seed=1).images
    scans = augment(drawn, STORED_GRID, SMALL, AugmentConfig(picture_share=0.0, lone_share=0.0), seed=1).images
    assert pictures.shape == scans.shape == (8, 5, 32, 32)
    assert torch.equal(pictures[:, 3:], pictures[:, :1].expand(-1, 2, -1, -1))
    assert not torch.equal(scans[:, 3], scans[:, 0])
    assert not torch.equal(scans[:, 4], scans[:, 0])


def test_what_is_varied_follows_from_the_seed(drawn: Drawn) -> None:
    first, again, other = (augment(drawn, STORED_GRID, SMALL, AugmentConfig(), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_patches_of_brain_differ_by_a_little_deep_inside_and_nowhere_else(drawn: Drawn) -> None:
    still = AugmentConfig(pose=STILL, picture_share=0.0, lone_share=0.0, patch_share=0.0, blur_share=0, noise_share=0)
    plain = augment(drawn, STORED_GRID, SMALL, still, seed=1)
    patched = augment(drawn, STORED_GRID, SMALL, replace(still, patch_share=1.0, patch_hu=(6.0, 6.0)), seed=1)
    brighter_hu = 80 * (patched.images[:, 0] - plain.images[:, 0])  # the brain window is 80 HU wide
    deep = plain.depth_mm > 8
    assert torch.equal(plain.truth, patched.truth)
    assert brighter_hu[~deep].abs().max() < 1e-3
    assert 3 < brighter_hu[deep].max() < 8
    assert brighter_hu[plain.truth > 0].abs().max() < 1e-3


@pytest.mark.parametrize(("kind", "sign"), [("nuclei", 1), ("pale", -1)])
def test_nuclei_stand_out_or_white_matter_is_paler_and_blood_stays(drawn: Drawn, kind: str, sign: int) -> None:
    still = AugmentConfig(pose=STILL, picture_share=0.0, lone_share=0.0, patch_share=0.0, blur_share=0, noise_share=0)
    middle = STORED_GRID.size_px // 2
    drawn.hu[..., middle - 8 : middle + 8, middle - 8 : middle + 8] += 6 * sign  # 20 mm wide, and blood lies elsewhere
    choices: list[dict[str, Any]] = [{f"{kind}_share": 1.0, f"{kind}_gain": gain} for gain in (0.0, 3.0)]
    plain, varied = (augment(drawn, STORED_GRID, STORED_GRID, replace(still, **some), seed=1) for some in choices)
    more_hu = sign * 80 * (varied.images[:, 0] - plain.images[:, 0])
    deep = plain.depth_mm > 8
    assert torch.equal(plain.truth, varied.truth)
    assert more_hu[~deep].abs().max() < 1e-3
    assert more_hu[plain.truth > 0].abs().max() < 1e-3
    assert more_hu.min() > -1e-3
    assert 2 < more_hu[deep].max() < 24


def test_thick_bone_is_spongy_inside_and_nothing_else_changes(drawn: Drawn) -> None:
    still = AugmentConfig(pose=STILL, picture_share=0.0, lone_share=0.0, clutter_share=0.0, blur_share=0, noise_share=0)
    drawn.hu[..., 4:44, 4:44] = 800  # bone of 50 mm in the corner, outside the head
    plain, spongy = (
        augment(drawn, STORED_GRID, STORED_GRID, replace(still, marrow_share=share, marrow_hu=(60.0, 60.0)), seed=1)
        for share in (1e-9, 1.0)
    )
    changed = (spongy.images[:, 0] - plain.images[:, 0]).abs() > 1e-3
    assert torch.equal(plain.truth, spongy.truth)
    assert not changed[plain.depth_mm > 0].any()
    assert not changed[..., 4:44, 4].any()
    assert changed[..., 8:40, 8:40].flatten(1).any(dim=1).all()
    assert (plain.images[:, 0][changed] == 1).all()


def test_soft_tissue_fills_what_is_between_bones_and_leaves_bone_and_blood(drawn: Drawn) -> None:
    still = AugmentConfig(pose=STILL, picture_share=0.0, lone_share=0.0, blur_share=0, noise_share=0, patch_share=0.0)
    middle = STORED_GRID.size_px // 2
    walls = [slice(middle - 10, middle - 6), slice(middle - 2, middle + 2)]
    for columns in walls:
        drawn.hu[..., middle - 20 : middle + 20, columns] = 800
    drawn.hu[..., middle - 20 : middle + 20, middle - 6 : middle - 2] = 5  # 5 mm of fluid between two walls
    plain, filled = (
        augment(drawn, STORED_GRID, STORED_GRID, replace(still, crevice_share=share, crevice_hu=(60.0, 60.0)), seed=1)
        for share in (1e-9, 1.0)
    )
    brighter_hu = 80 * (filled.images[:, 0] - plain.images[:, 0])
    between = brighter_hu[..., middle - 12 : middle + 12, middle - 5 : middle - 3]
    assert torch.equal(plain.truth, filled.truth)
    assert (between.flatten(1).amax(dim=1) > 25).any()
    assert brighter_hu[plain.truth > 0].abs().max() < 1e-3
    for columns in walls:
        assert brighter_hu[..., middle - 12 : middle + 12, columns].abs().max() < 1e-3


def test_chronic_or_acute_counts_only_where_a_slice_shows_subdural_blood(drawn: Drawn) -> None:
    views = augment(drawn, STORED_GRID, SMALL, AugmentConfig(pose=STILL), seed=1)
    logits = TriageNet(NETWORK)(views.images)
    bled = (views.truth == SUBDURAL).any(dim=2).any(dim=1)
    told = [
        losses(logits._replace(chronic=sure), views, drawn.known, SMALL, LossWeights())["chronic"]
        for sure in (20.0 * bled, -20.0 * bled)
    ]
    assert bled.any()
    assert told[0] < 0.01
    assert told[1] > 10
    unknown = drawn.known._replace(chronic=torch.full((8,), torch.nan))
    none = losses(logits, views, unknown, SMALL, LossWeights())
    assert float(none["chronic"].detach()) == 0
    assert torch.isfinite(total(none, TrainConfig(shards=Path(), run=Path(), steps=1).losses))


# ---------------------------------------------------------------- the loop


def test_the_same_seed_gives_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    train(replace(config, run=tmp_path / "again"))
    train(replace(config, run=tmp_path / "other", seed=2))
    assert same(weights(config.run), weights(tmp_path / "again"))
    assert not same(weights(config.run), weights(tmp_path / "other"))


def test_a_resumed_run_does_what_it_would_have_done(config: TrainConfig, tmp_path: Path) -> None:
    whole = replace(config, steps=4)
    train(whole)
    stopped = replace(whole, run=tmp_path / "stopped")
    stop_when(stopped.run / CHECKPOINT)
    first = train(stopped)
    assert first.interrupted
    assert f"stopped at step {first.step}; the same command goes on" in first.reason
    assert not train(stopped).interrupted
    assert same(weights(whole.run), weights(stopped.run))


@pytest.mark.parametrize(
    ("network", "heads"),
    [
        (UNet4Config(base_width=4, levels=3), {"pixels", "dice", "foreground", "slices"}),
        (ResNet50V2YoloConfig(width=4), {"slices", "boxes"}),
        (PlainCnnConfig(widths=(4, 4), pooled_px=2, dense_width=4), {"slices"}),
    ],
)
def test_a_network_of_the_comparison_is_trained_like_the_flagship(
    config: TrainConfig, network: NetworkConfig, heads: set[str]
) -> None:
    train(replace(config, network=network))
    curve = read_record(config.run)["curve"]
    assert set(curve[-1]) - {"step", "pool", "s_per_step", "total", "accuracy"} == heads
    assert type(averaged_network(config.run, network)[0]).__name__ + "Config" == type(network).__name__


def test_a_bag_holds_some_heads_again_and_others_never(tmp_path: Path) -> None:
    for number in range(8):
        write_shard(tmp_path, number)
    slices = HEADS * SLICES
    drawn = {
        bag: SlicePool(tmp_path, PoolConfig(bag=bag, negative_share=1.0, hard_share=0.0))
        .draw(np.random.default_rng(0), 400)
        .places
        for bag in (0, 1, 2)
    }
    heads = {bag: set((places // slices * HEADS + places % slices // SLICES).tolist()) for bag, places in drawn.items()}
    assert len(heads[0]) == 8 * HEADS
    assert 4 <= len(heads[1]) <= 8 * HEADS - 2
    assert heads[1] != heads[2]


def test_validation_is_never_a_bag(config: TrainConfig, shards: Path) -> None:
    for bag in range(1, 6):
        held_out = _held_out(replace(config, validation=shards, pool=PoolConfig(bag=bag)))
        assert held_out is not None
        assert held_out.present()["subdural"] == 1
        assert held_out.taught()["none"] == HEADS * SLICES - 1


def test_training_needs_both_kinds_of_slices(config: TrainConfig, tmp_path: Path) -> None:
    write_shard(tmp_path, 0)
    truth = np.load(tmp_path / "shard-00000" / "truth.npy")
    np.save(tmp_path / "shard-00000" / "truth.npy", np.zeros_like(truth))
    with pytest.raises(ConfigError, match="needs slices that are known to show hemorrhage"):
        train(replace(config, shards=tmp_path))


def test_labels_stand_in_for_masks(tmp_path: Path) -> None:
    """Slices 0 to 4 without a mask: nothing known but "any" of 1, subdural 2, none 0, nothing of 3 and 4 but no IPH."""
    write_shard(tmp_path, 0)
    shard = tmp_path / "shard-00000"
    np.save(shard / "truth.npy", np.zeros_like(np.load(shard / "truth.npy")))
    labels, with_mask = np.full((HEADS * SLICES, 6), np.nan, np.float32), np.arange(HEADS * SLICES) > 4
    labels[0], labels[1, 0], labels[2, [0, 5]] = 0, 1, 1
    labels[3:5, 2] = 0
    np.save(shard / "labels.npy", labels)
    np.save(shard / "masked.npy", with_mask)
    np.save(shard / "series.npy", np.full_like(labels, np.nan))
    pool = SlicePool(tmp_path, PoolConfig(negative_share=0.0))
    assert pool.present() == dict.fromkeys(SUBTYPES, 0) | {"subdural": 1, "of unknown kind": 1}
    assert set(pool.draw(np.random.default_rng(0), 40).places) == {1, 2}
    masked = set(range(5, HEADS * SLICES))
    negative = SlicePool(tmp_path, PoolConfig(negative_share=1.0, hard_share=0.0)).draw(np.random.default_rng(0), 300)
    assert set(negative.places) == {0} | masked
    known = negative.known.labels[torch.from_numpy(negative.places == 0)]
    assert (known == 0).all()
    assert negative.known.labels[torch.from_numpy(negative.places == 5)].isnan().all()
    np.testing.assert_array_equal(negative.known.masked.numpy(), with_mask[negative.places])


def test_a_run_leaves_a_record_curves_and_the_averaged_network(config: TrainConfig) -> None:
    ended = train(replace(config, validation=config.shards))
    record = read_record(config.run)
    assert record["config"]["network"]["base_width"] == 4
    assert record["data"]["shards"] == 1
    assert record["present"]["subdural"] == 1
    assert re.fullmatch(r"[0-9a-f]{40}|triage-node .+", record["code"])
    assert [point["step"] for point in record["curve"]] == [2, 3]
    assert [point["step"] for point in record["validation"]] == [2, 3], "the last step, too"
    assert (config.run / CURVES).read_bytes().startswith(b"\x89PNG")
    best = min(record["validation"], key=lambda point: point["total"])
    assert averaged_network(config.run, NETWORK)[1] == best["step"]
    assert ended.step == 3


def test_the_curve_of_training_has_a_point_wherever_that_of_validation_has(config: TrainConfig) -> None:
    often = replace(config, validation=config.shards, checkpoint_every=3, validate_every=1, validation_batches=1)
    train(often)
    record = read_record(config.run)
    assert [point["step"] for point in record["curve"]] == [1, 2, 3]
    assert [point["step"] for point in record["validation"]] == [1, 2, 3]
    train(replace(often, steps=4))
    assert [point["step"] for point in read_record(config.run)["curve"]] == [1, 2, 3, 4]


def test_training_ends_where_validation_gets_no_better(config: TrainConfig) -> None:
    worse = replace(config, steps=90, coarse_share=0.0, learning_rate=0.3)
    ended = train(replace(worse, validation=config.shards, validate_every=1, patience=2))
    validation = read_record(config.run)["validation"]
    best = min(validation, key=lambda point: point["total"])["step"]
    assert ended.step == best + 2 < 90
    assert ended.reason == f"ended at step {ended.step}: no better since step {best}"
    assert averaged_network(config.run, NETWORK)[1] == best


def test_training_can_start_from_the_weights_of_another_run(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    after = replace(config, run=tmp_path / "after", start_from=config.run / CHECKPOINT, learning_rate=0.0, ema=0.0)
    train(after)
    first, second = weights(config.run), weights(after.run)
    assert torch.equal(first["ema.pixels.weight"], second["net.pixels.weight"])


def test_a_share_of_the_start_can_be_left_in_what_a_run_gives(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    after = replace(config, run=tmp_path / "after", start_from=config.run / CHECKPOINT, steps=2)
    train(after)
    start, end = (averaged_network(each.run, NETWORK)[0].state_dict() for each in (config, after))
    between, step = averaged_network(after.run, NETWORK, 0.25)
    assert step == 2
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.25 * start[name] + 0.75 * end[name], atol=1e-6), name
    assert not torch.equal(start["pixels.weight"], end["pixels.weight"])


def test_training_can_start_from_the_weights_of_a_narrower_network(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    wide = replace(NETWORK, base_width=6)
    after = replace(config, network=wide, run=tmp_path / "after", start_from=config.run / CHECKPOINT, learning_rate=0.0)
    train(replace(after, ema=0.0))
    narrow, wider = weights(config.run)["ema.pixels.weight"], weights(after.run)["net.pixels.weight"]
    assert torch.equal(narrow, wider[:, :4])
    assert not wider[:, 4:].any()
    with pytest.raises(ConfigError, match=r"holds another network than \[network\] says \(.*does not fit"):
        train(replace(config, run=tmp_path / "narrow", start_from=after.run / CHECKPOINT))


def test_a_loss_that_is_not_finite_stops_the_run(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step 1 is .*learning_rate"):
        train(replace(config, learning_rate=1e30))


def test_a_checkpoint_of_another_network_is_refused(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(ConfigError, match="holds another network"):
        train(replace(config, steps=9, network=replace(NETWORK, base_width=8)))


def stop_when(path: Path) -> None:
    """Ctrl-C as soon as the file is there."""

    def wait() -> None:
        while not path.exists():
            threading.Event().wait(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


# ---------------------------------------------------------------- the experiment file


def test_an_experiment_file_sets_every_level(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'shards = "s"\nrun = "r"\nsteps = 5\nema = 1\n[network]\nbase_width = 8\n'
        "[augment]\nlone_share = 0.5\n[augment.picture]\nwidth_hu = [60, 90]\n"
    )
    config = read_config(path)
    assert config.shards == tmp_path / "s"
    assert config.augment.picture.width_hu == (60.0, 90.0)
    assert config.network == TriageNetConfig(base_width=8)
    assert (config.augment.lone_share, config.ema) == (0.5, 1.0)


def test_what_the_network_sees_is_what_inference_makes_of_the_same_slice(drawn: Drawn) -> None:
    still = AugmentConfig(pose=STILL, picture_share=0.0, lone_share=1.0)
    for images in (
        ImagesConfig(windows=("brain", "stroke")),
        ImagesConfig(sigmoid=True, windows=("stroke",)),
        ImagesConfig(stretched=True),
        ImagesConfig(equalised=True),
        ImagesConfig(brain_only=True),
        ImagesConfig(at_most_hu=50.0),
    ):
        hu = drawn.hu[:, 1].numpy()
        shown = to_network(drawn.hu[:, 1:2], images.appearance, STORED_GRID.spacing_mm)
        if images.brain_only:
            hu = without_skull(hu, STORED_GRID.spacing_mm)
        own = np.arange(len(hu))
        expected = network_images(hu, slice(None), images.appearance, np.stack([own, own], axis=1))
        np.testing.assert_allclose(shown.numpy(), expected, atol=1e-5)
        views = augment(drawn, STORED_GRID, SMALL, still, seed=1, appearance=images.appearance)
        assert views.images.shape[1] == len(images.windows) + 2


def test_an_experiment_says_what_the_network_sees(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    lines = 'shards = "s"\nrun = "r"\nsteps = 5\n[network]\nname = "unet4"\nin_channels = 2\n'
    path.write_text(f'{lines}[images]\nwindows = ["stroke", "bone"]\nsigmoid = true\n')
    appearance = read_config(path).images.appearance
    assert appearance == Appearance(windows_hu=((40.0, 40.0), (600.0, 2800.0)), sigmoid=True)


def test_copies_are_made_once_and_a_head_is_varied_as_one(shards: Path, tmp_path: Path) -> None:
    turned = AugmentConfig(pose=replace(STILL, turn_deg=30.0, shift_mm=20.0, fill_nearest=True))
    assert vary_shards(shards, tmp_path / "out", turned, copies=2, seed=1) == 2
    before, (first, second) = open_shard(shards / "shard-00000"), map(open_shard, shard_paths(tmp_path / "out"))
    assert first.hu.shape == before.hu.shape
    assert not np.array_equal(first.depth, second.depth)
    for head in range(HEADS):
        depths = first.depth[head * SLICES : (head + 1) * SLICES]
        assert (depths == depths[0]).all()
    assert not np.array_equal(first.depth[0], first.depth[SLICES])
    assert np.count_nonzero(first.truth[3] == SUBDURAL) == pytest.approx(np.count_nonzero(before.truth[3]), rel=0.15)
    with pytest.raises(UsageError, match="is not empty"):
        vary_shards(shards, tmp_path / "out", turned, copies=1, seed=1)
    with pytest.raises(UsageError, match="write 1 or more"):
        vary_shards(shards, tmp_path / "none", turned, copies=0, seed=1)


def test_an_experiment_file_names_its_network(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'shards = "s"\nrun = "r"\nsteps = 5\ncoarse_share = 0.0\ngrid = { size_px = 192, spacing_mm = 1.125 }\n'
        '[network]\nname = "plain-cnn"\nwidths = [4, 8]\n[losses.class_weights]\nsubdural = 9\n'
    )
    config = read_config(path)
    assert config.network == PlainCnnConfig(widths=(4, 8))
    assert config.losses.class_weights.subdural == 9.0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("stepps = 5", "unknown key 'stepps'; known: .*steps"),
        ("[augment.pose]\nturn = 3.0", r"\[augment.pose\] unknown key 'turn'; known: turn_deg"),
        ('batch = "many"', "batch must be int, not 'many'"),
        ("[augment]\nspots_mm = [1.0]", r"augment.spots_mm must be .*, not \[1.0\]"),
        ("[grid]\nsize_px = 100\nspacing_mm = 2.0", "a grid of 100 px; write a multiple of 16"),
        ("steps = = 5", "is not valid TOML"),
        ("start_share = 0.5", "start_share is of the weights of start_from; write that, too"),
        ('[images]\nwindows = ["lung"]', r"\[images\] no window 'lung'; there are: brain, subdural, stroke, bone"),
        ('[images]\nwindows = ["brain"]', r"\[images\] gives 1 window\(s\); write \[network\] windows = 1"),
        ("[images]\nsigmoid = 1", "images.sigmoid must be bool, not 1"),
        ('[network]\nname = "vnet"', r"\[network\] no network is called 'vnet'; there are: triagenet, "),
        ('[network]\nname = "vgg16"\nbase_width = 8', r"\[network\] unknown key 'base_width'; known: in_channels"),
        ('[network]\nname = "vgg16"', "a grid of (112|144) px; write a multiple of 32"),
    ],
)
def test_a_wrong_experiment_file_is_told_what_is_wrong(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'shards = "s"\nrun = "r"\nsteps = 5\n{line}\n')
    with pytest.raises(ConfigError, match=rf"a\.toml: {complaint}"):
        read_config(path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('shards = "s"\nrun = "r"\n')
    with pytest.raises(ConfigError, match="key 'steps' is missing"):
        read_config(path)


@pytest.mark.parametrize("key", ["shards", "validation"])
def test_missing_shards_are_told_at_the_start_with_what_renders_them(
    key: str, config: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        lacking = replace(config, shards=folder) if key == "shards" else replace(config, validation=folder)
        with pytest.raises(ConfigError, match=rf"{folder}: holds no shards; scripts/train-default-.*; or set {key} "):
            train(lacking)
    assert not config.run.exists()


def test_shards_without_bone_are_for_experiments_without_it(config: TrainConfig, tmp_path: Path) -> None:
    """To learn from heads without bone and then be shown bone would go unnoticed until a real head comes."""
    write_shard(tmp_path / "whole", 0)
    cut = replace(open_shard(tmp_path / "whole" / "shard-00000"), at_most_hu=200.0)
    write_slices(tmp_path / "cut", 0, [cut])
    assert open_shard(tmp_path / "cut" / "shard-00000").at_most_hu == 200
    vary_shards(tmp_path / "cut", tmp_path / "varied", AugmentConfig(), copies=1, seed=1)
    for folder in ("cut", "varied"):
        with pytest.raises(ConfigError, match=f"{folder}: bone was cut off at 200 HU .* at_most_hu = 200"):
            train(replace(config, shards=tmp_path / folder))
    with pytest.raises(ConfigError, match="cut: bone was cut off"):
        train(replace(config, validation=tmp_path / "cut"))
    few = replace(config, shards=tmp_path / "cut", steps=1, images=ImagesConfig(at_most_hu=200.0))
    assert train(few).step == 1


def test_kinds_of_blood_are_drawn_by_their_shares(shards: Path) -> None:
    """Here only subdural blood is there: a share of 0 for it leaves nothing but slices without blood."""
    rng = np.random.default_rng(1)
    wanted = PoolConfig(negative_share=0.0, kinds=KindShares(subdural=0.0))
    assert 3 not in SlicePool(shards, wanted).draw(rng, 16).places
    thrice = PoolConfig(negative_share=0.0, kinds=KindShares(epidural=100.0, subdural=0.1))
    assert set(SlicePool(shards, thrice).draw(rng, 16).places) == {3}


def test_painted_blood_makes_no_slice_a_hard_one(config: TrainConfig) -> None:
    """Head 1 has no blood, all its slices are painted; head 0 bleeds in slice 3, so that of it none is."""
    lenses = PaintConfig(share=1.0, epidural=1.0, subdural=0.0, subarachnoid=0.0, intraparenchymal=0.0)
    painting = replace(config.augment, pose=STILL, paint=lenses)
    train(replace(config, steps=1, batch=16, augment=painting, pool=PoolConfig(negative_share=1.0)))
    (noted,) = (scores for name, scores in weights(config.run).items() if name.endswith("shard-00000"))
    assert (noted[:SLICES] > 0).any()
    assert not noted[SLICES:].any()
