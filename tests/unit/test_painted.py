"""Blood painted onto slices: where it may lie, what it looks like, and that all else stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from triage_node.domain import SUBTYPES
from triage_node.learn.chance import Chance
from triage_node.learn.painted import PaintConfig, painted
from triage_node.learn.pose import Slices
from triage_node.transforms import Grid

GRID = Grid(size_px=88, spacing_mm=2.5)
KINDS = ("subdural", "subarachnoid", "epidural", "intraparenchymal")
COUNT = 12


@pytest.fixture(scope="module")
def heads() -> Slices:
    """Round heads of 80 mm with noise of 4 HU; fluid in stripes 6 mm apart, as sulci are, and in the middle."""
    at_mm = (torch.arange(GRID.size_px) - (GRID.size_px - 1) / 2) * GRID.spacing_mm
    radius_mm = torch.hypot(at_mm.view(-1, 1), at_mm.view(1, -1))
    depth_mm = (80 - radius_mm).clamp(min=0)
    hu = torch.full_like(depth_mm, -1000.0)
    hu[radius_mm < 90] = 200.0
    hu[radius_mm < 80] = 34.0
    striped = (torch.arange(GRID.size_px) % 6 < 3).view(-1, 1) & (depth_mm > 0) & (depth_mm < 25)
    hu[striped | (radius_mm < 15)] = 6.0
    noise = 4 * torch.randn(COUNT, 3, *hu.shape, generator=torch.Generator().manual_seed(1))
    shape = (COUNT, 3, *hu.shape)
    return Slices(hu=hu + noise, truth=torch.zeros(shape), depth_mm=depth_mm.expand(shape))


def only(kind: str) -> PaintConfig:
    return PaintConfig(share=1.0, **{name: float(name == kind) for name in KINDS})


def with_blood(heads: Slices, config: PaintConfig, *, seed: int = 2, allowed: torch.Tensor | None = None) -> Slices:
    everywhere = torch.ones(COUNT, dtype=torch.bool)
    return painted(heads, everywhere if allowed is None else allowed, GRID, config, Chance(seed, COUNT))


@pytest.mark.parametrize("kind", KINDS)
def test_blood_is_labelled_bright_inside_the_skull_and_all_else_stays(heads: Slices, kind: str) -> None:
    bled = with_blood(heads, only(kind))
    labelled = bled.truth > 0
    shown = labelled.flatten(1).any(dim=1)
    assert shown.sum() > COUNT / 2
    assert set(bled.truth[labelled].tolist()) == {1.0 + SUBTYPES.index(kind)}
    assert (heads.depth_mm[labelled] > 0).all()
    for before, after, where in zip(heads.hu[shown], bled.hu[shown], labelled[shown], strict=True):
        assert after[where].median() > before[where].median() + 3
        assert 30 < after[where].median() < 85
        changed = (after != before).float()
        reach = torch.nn.functional.max_pool2d(where.float(), 9, stride=1, padding=4) > 0
        assert changed[~reach].mean() < 0.05, "nothing changes far from the blood, but for what is too faint to label"
    assert torch.equal(bled.hu[heads.depth_mm == 0], heads.hu[heads.depth_mm == 0])
    assert torch.equal(bled.depth_mm, heads.depth_mm)


def test_layers_lie_along_the_bone_lumps_do_not_and_sulci_are_filled(heads: Slices) -> None:
    deepest = {kind: heads.depth_mm[with_blood(heads, only(kind)).truth > 0] for kind in KINDS}
    assert deepest["subdural"].max() < 26
    assert deepest["epidural"].min() < 3
    assert deepest["intraparenchymal"].median() > 10
    filled = with_blood(heads, only("subarachnoid")).truth > 0
    assert heads.hu[filled].mean() < 15


def test_only_what_is_allowed_is_painted_and_only_a_share_of_it(heads: Slices) -> None:
    allowed = torch.arange(COUNT) % 2 == 0
    bled = with_blood(heads, only("subdural"), allowed=allowed)
    assert torch.equal(bled.hu[~allowed], heads.hu[~allowed])
    assert not bled.truth[~allowed].any()
    assert torch.equal(with_blood(heads, PaintConfig(share=0.0)).hu, heads.hu)
    some = [
        int(with_blood(heads, PaintConfig(share=0.5), seed=seed).truth.flatten(1).any(dim=1).sum())
        for seed in (1, 2, 3)
    ]
    assert 0 < sum(some) < 3 * COUNT


def test_slices_that_show_little_of_the_brain_are_left_alone(heads: Slices) -> None:
    vertex = replace(heads, depth_mm=(heads.depth_mm - 50).clamp(min=0))
    assert torch.equal(with_blood(vertex, only("epidural")).hu, vertex.hu)


def test_noise_runs_on_through_the_blood(heads: Slices) -> None:
    """Else the network would look for what is smooth."""
    bled = with_blood(heads, only("intraparenchymal"))
    spreads = [
        after[where].std()
        for after, where in zip(bled.hu[:, 1], bled.truth[:, 1] > 0, strict=True)
        if int(where.sum()) > 40
    ]
    assert spreads
    assert all(3 < spread < 12 for spread in spreads)
