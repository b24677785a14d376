"""The space inside the skull: where simulated heads know it, and where a picture has nothing above 80 HU."""

from __future__ import annotations

import numpy as np
import pytest

from triage_node.learn.dataset import STORED_GRID, draw_head, stored_slices
from triage_node.skull import depth_mm, inside_skull, without_skull

VAULT_MM2 = 5000.0


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray]:
    """HU and truth of the slices of two simulated heads that show the vault."""
    slices = [stored_slices(volume, head) for head, volume in (draw_head(seed) for seed in (4, 11))]
    hu, true = (np.concatenate([getattr(one, name) for one in slices]) for name in ("hu", "depth"))
    rows = np.arange(len(hu))
    upper = np.concatenate([np.arange(len(one.hu)) > 0.45 * len(one.hu) for one in slices])
    vault = rows[upper & ((true > 0).sum(axis=(1, 2)) * STORED_GRID.spacing_mm**2 > VAULT_MM2)]
    return hu[vault].astype(np.float32), true[vault] > 0


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_what_the_vault_encloses_is_found(heads: tuple[np.ndarray, np.ndarray]) -> None:
    hu, true = heads
    assert len(hu) > 10
    found = inside_skull(hu, STORED_GRID.spacing_mm)
    overlaps = [overlap(one, other) for one, other in zip(found, true, strict=True)]
    assert np.median(overlaps) > 0.88
    assert min(overlaps) > 0.6


def test_in_a_picture_too(heads: tuple[np.ndarray, np.ndarray]) -> None:
    hu, true = heads
    found = inside_skull(np.clip(hu, 0, 80), STORED_GRID.spacing_mm)
    assert np.median([overlap(one, other) for one, other in zip(found, true, strict=True)]) > 0.75


def test_depth_grows_inwards_and_the_skull_is_gone(heads: tuple[np.ndarray, np.ndarray]) -> None:
    hu, true = heads
    inside = inside_skull(hu, STORED_GRID.spacing_mm)
    depth = depth_mm(inside, STORED_GRID.spacing_mm)
    assert not depth[~inside].any()
    assert depth.max() > 30
    brain = without_skull(hu, STORED_GRID.spacing_mm)
    assert brain.max() < 300
    assert (brain[true] == hu[true]).mean() > 0.9


def test_nothing_at_all_is_no_fault() -> None:
    air = np.full((1, 32, 32), -1000, np.float32)
    assert not inside_skull(air, 4.0).any()
    assert not depth_mm(inside_skull(air, 4.0), 4.0).any()
