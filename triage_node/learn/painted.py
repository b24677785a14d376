"""Blood painted onto slices that have none, another at every pass.

A rendered head bleeds in one way, and there are hundreds of heads, not thousands: thin blood was learnt by heart, head
by head, and not found in others (measured: docs/lab-notebook.md). Here every head without blood bleeds in ever new
ways, and without: what a head looks like tells nothing any more. Nothing is pushed aside; that is what the rendered
bleeds are for. No blood in the ventricles: where they are is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.learn.chance import Chance
from triage_node.learn.pose import Slices
from triage_node.transforms import Grid, Stack

_KINDS: Final = ("subdural", "subarachnoid", "epidural", "intraparenchymal")
_LEAST_INSIDE_MM2: Final = 5000.0
"""Slices that show less of the inside of the skull are left as they are."""
_WHITE_HU, _WHITE_MM = 90.0, 3.5
"""What is whiter so near to the bone is not labelled, as in the simulator: nobody could tell it from bone."""
_TISSUE_HU, _BONE_HU = 70.0, 200.0
"""From here on a pixel is partly bone; from there on it is all bone (at_most_hu of the default experiment)."""
_SEEN_HU: Final = 6.0
"""Less than this over what was there, over 3 x 3 pixels, is not labelled: slivers beside bone that nobody could find
taught that every rim may be blood (measured: docs/lab-notebook.md)."""


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    """How often, and of what how much."""

    share: float = 0.0
    """Of the slices without blood."""
    subdural: float = 0.45
    subarachnoid: float = 0.25
    epidural: float = 0.15
    intraparenchymal: float = 0.15


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """n slices with their neighbours, and where one is in them."""

    hu: Tensor
    """(n, slices, size, size)."""
    smooth_hu: Tensor
    """Without most of the noise."""
    depth_mm: Tensor
    turn: Tensor
    """(n, 1, size, size): direction from the middle of the head, radians; 0 is the patient's left, pi/2 the back."""
    rows_mm: Tensor
    columns_mm: Tensor
    """(1, 1, size, 1) and (1, 1, 1, size)."""
    along_mm: Tensor
    """(1, slices, 1, 1): along the stack, the slice itself at 0."""
    size_px: int


def painted(slices: Slices, allowed: Tensor, grid: Grid, config: PaintConfig, chance: Chance) -> Slices:
    """Some of the `allowed` (n,) bool slices, which have no blood, with blood. Truth and HU change, depth does not."""
    inside_mm2 = (slices.depth_mm[:, slices.depth_mm.shape[1] // 2] > 0).sum(dim=(1, 2)) * grid.spacing_mm**2
    shown = allowed & (inside_mm2 > _LEAST_INSIDE_MM2) & chance.share(config.share).flatten()
    shares = torch.tensor([getattr(config, kind) for kind in _KINDS])
    kinds = chance.places(shares.expand(chance.count, -1), 1)[:, 0]
    hu, truth = slices.hu.clone(), slices.truth.clone()
    for number, kind in enumerate(_KINDS):
        places = (shown & (kinds == number)).nonzero()[:, 0]
        if len(places):
            some = replace(slices, hu=hu[places], truth=truth[places], depth_mm=slices.depth_mm[places])
            hu[places], truth[places] = _bled(some, kind, grid, chance.part(len(places)))
    return replace(slices, hu=hu, truth=truth)


def _bled(slices: Slices, kind: str, grid: Grid, chance: Chance) -> tuple[Tensor, Tensor]:
    """HU and labels with one bleed of this kind."""
    scene = _scene(slices, grid)
    draw = {
        "subdural": _subdural,
        "epidural": _epidural,
        "subarachnoid": _subarachnoid,
        "intraparenchymal": _intraparenchymal,
    }[kind]
    amount, density_hu = draw(scene, grid, chance)
    amount = amount * (scene.depth_mm > 0)
    texture = 2.5 * chance.field(scene.size_px, 16) + _noise_hu(scene) * chance.grain(scene.hu)
    lift = chance.uniform(0.0, 12.0) * torch.exp(-scene.depth_mm / chance.uniform(3.0, 10.0))
    not_bone = 1 - ((scene.hu - _TISSUE_HU) / (_BONE_HU - _TISSUE_HU)).clamp(0.0, 1.0)
    blood = density_hu + texture + lift
    hu = scene.hu + amount * not_bone * (blood - scene.hu.clamp(max=_TISSUE_HU))
    brighter_hu = functional.avg_pool2d(hu, 3, stride=1, padding=1) - scene.smooth_hu
    seen = (amount > 0.5) & (brighter_hu > _SEEN_HU) & ((hu < _WHITE_HU) | (scene.depth_mm > _WHITE_MM))
    return hu, torch.where(seen, float(1 + SUBTYPES.index(kind)), slices.truth)


def _scene(slices: Slices, grid: Grid) -> _Scene:
    count, size_px = slices.hu.shape[1], slices.hu.shape[-1]
    at_mm = torch.arange(size_px) * grid.spacing_mm
    rows_mm, columns_mm = at_mm.view(1, 1, -1, 1), at_mm.view(1, 1, 1, -1)
    inside = (slices.depth_mm[:, count // 2 : count // 2 + 1] > 0).float()
    area = inside.sum(dim=(2, 3), keepdim=True)
    middle_row = (inside * rows_mm).sum(dim=(2, 3), keepdim=True) / area
    middle_column = (inside * columns_mm).sum(dim=(2, 3), keepdim=True) / area
    return _Scene(
        hu=slices.hu,
        smooth_hu=functional.avg_pool2d(slices.hu, 3, stride=1, padding=1),
        depth_mm=slices.depth_mm,
        turn=torch.atan2(rows_mm - middle_row, columns_mm - middle_column),
        rows_mm=rows_mm,
        columns_mm=columns_mm,
        along_mm=Stack().neighbour_mm * (torch.arange(count) - count // 2).view(1, -1, 1, 1).float(),
        size_px=size_px,
    )


def _noise_hu(scene: _Scene) -> Tensor:
    """(n, 1, 1, 1): standard deviation of the noise, from the median deviation deep in the brain."""
    each = []
    for hu, smooth_hu, depth_mm in zip(scene.hu, scene.smooth_hu, scene.depth_mm, strict=True):
        deep = (hu - smooth_hu).abs()[depth_mm > 12]
        each.append(1.4826 * deep.median() if len(deep) else torch.tensor(4.0))
    return torch.stack(each).view(-1, 1, 1, 1)


# ---------------------------------------------------------------- what bleeds


def _subdural(scene: _Scene, grid: Grid, chance: Chance) -> tuple[Tensor, Tensor]:
    """A crescent along one half of the skull; what is short for its thickness would be a lens."""
    toward = chance.uniform(-math.pi, math.pi)
    half_angle = chance.uniform(0.35, 1.5)
    across = _wrapped(scene.turn - toward) / half_angle
    profile = (1 - across**2).clamp(min=0.0) ** chance.uniform(0.35, 1.0)
    same_half = torch.cos(scene.turn) * torch.cos(toward) > 0
    thickest_mm = torch.minimum(chance.uniform(3.5, 14.0), 20 * half_angle)
    thickness_mm = thickest_mm * profile * _along(scene, chance) * _rippled(scene, chance) * same_half
    fresh = _normal(chance, 60.0, 6.0, 48.0, 72.0)
    return _layer(scene, thickness_mm, 1.0, grid, chance), torch.where(
        chance.share(0.06), chance.uniform(38.0, 46.0), fresh
    )


def _epidural(scene: _Scene, grid: Grid, chance: Chance) -> tuple[Tensor, Tensor]:
    """A lens, shorter and thicker."""
    half_angle = chance.uniform(0.22, 0.65)
    across = _wrapped(scene.turn - chance.uniform(-math.pi, math.pi)) / half_angle
    thickest_mm = torch.minimum(torch.maximum(chance.small(5.0, 26.0), 22 * half_angle), 40 * half_angle)
    thickness_mm = thickest_mm * (1 - across**2).clamp(min=0.0) * _along(scene, chance) * _rippled(scene, chance)
    return _layer(scene, thickness_mm, 0.5, grid, chance), _normal(chance, 58.0, 6.0, 46.0, 74.0)


def _subarachnoid(scene: _Scene, grid: Grid, chance: Chance) -> tuple[Tensor, Tensor]:
    """What is fluid in the sulci of a region turns into blood."""
    outer = (scene.depth_mm > 3) & (scene.depth_mm < 22)
    radius_mm = chance.uniform(12.0, 45.0) * _along(scene, chance).clamp(min=0.05)
    region = (1.5 - _distance_mm(scene, outer, chance) / radius_mm).clamp(0.0, 1.0)
    fluid = ((30 - scene.smooth_hu) / 14).clamp(0.0, 1.0) * outer
    return region * fluid, _normal(chance, 58.0, 7.0, 46.0, 74.0)


def _intraparenchymal(scene: _Scene, grid: Grid, chance: Chance) -> tuple[Tensor, Tensor]:
    """A lump with a ragged edge; what is fluid deep in the brain stays."""
    radius_mm = chance.small(3.0, 24.0) * _along(scene, chance).clamp(min=0.05) * _rippled(scene, chance)
    distance_mm = _distance_mm(scene, scene.depth_mm > 10, chance)
    lump = ((radius_mm - distance_mm) / grid.spacing_mm + 0.5).clamp(0.0, 1.0)
    not_fluid = 1 - ((20 - scene.smooth_hu) / 8).clamp(0.0, 1.0)
    return lump * not_fluid, _normal(chance, 56.0, 7.0, 44.0, 80.0)


# ---------------------------------------------------------------- shapes


def _layer(scene: _Scene, thickness_mm: Tensor, begins_mm: float, grid: Grid, chance: Chance) -> Tensor:
    """0..1 where depth lies between where the layer begins and its thickness; thick slices blur its inner side."""
    blur_mm = grid.spacing_mm * chance.uniform(1.0, 2.5)
    inner = ((thickness_mm - scene.depth_mm) / blur_mm + 0.5).clamp(0.0, 1.0)
    outer = ((scene.depth_mm - begins_mm) / grid.spacing_mm + 0.5).clamp(0.0, 1.0)
    return inner * outer * (thickness_mm > 0.5)


def _along(scene: _Scene, chance: Chance) -> Tensor:
    """(n, slices, 1, 1): how much of a bleed there is in each slice of a stack; 1 at its middle, 0 beyond its ends."""
    half_mm = chance.uniform(10.0, 40.0)
    across = (scene.along_mm - 0.8 * half_mm * chance.uniform(-1.0, 1.0)) / half_mm
    return (1 - across**2).clamp(min=0.0).sqrt()


def _rippled(scene: _Scene, chance: Chance) -> Tensor:
    return (1 + 0.25 * chance.field(scene.size_px, 10)).clamp(0.3, 1.7)


def _distance_mm(scene: _Scene, where: Tensor, chance: Chance) -> Tensor:
    """(n, 1, size, size): from a place `where` (n, slices, size, size) holds in the slice itself, stretched somehow."""
    weights = where[:, where.shape[1] // 2].float().flatten(1) + 1e-9
    place = chance.places(weights, 1)[:, 0]
    row, column = (place // scene.size_px).view(-1, 1, 1, 1), (place % scene.size_px).view(-1, 1, 1, 1)
    spacing_mm = scene.rows_mm[0, 0, 1, 0]
    stretch, turn = chance.uniform(0.7, 1.4), chance.uniform(0.0, math.pi)
    rows_mm, columns_mm = scene.rows_mm - row * spacing_mm, scene.columns_mm - column * spacing_mm
    one = rows_mm * torch.cos(turn) + columns_mm * torch.sin(turn)
    other = columns_mm * torch.cos(turn) - rows_mm * torch.sin(turn)
    return torch.hypot(one * stretch, other / stretch)


def _wrapped(turn: Tensor) -> Tensor:
    return torch.remainder(turn + math.pi, 2 * math.pi) - math.pi


def _normal(chance: Chance, mean: float, spread: float, least: float, most: float) -> Tensor:
    return (mean + spread * chance.normal()).clamp(least, most)
