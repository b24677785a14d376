"""What is varied at every pass, on slices in HU before windowing.

The first aim is the rim: on real heads the cortex lies against the bone and the tail of the bone lifts everything by
10 to 20 HU for 5 mm and more (measured), so a network that has only seen a dark gap under the bone takes every real rim
for subdural blood. Gap, lift and partial volume vary widely here, per slice and along the rim, blood included, labels
unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.transforms import PADDING_HU, WINDOWS_HU, Grid


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far each thing is varied; amounts are drawn uniformly up to the limit unless said otherwise."""

    turn_deg: float = 15.0
    scale: float = 0.12
    shift_mm: float = 10.0
    gap_share: float = 0.7
    """Share of slices whose gap under the bone is filled with cortex."""
    gap_mm: float = 8.0
    cortex_hu: tuple[float, float] = (30.0, 48.0)
    lift_share: float = 0.85
    lift_hu: float = 28.0
    lift_tau_mm: tuple[float, float] = (2.0, 12.0)
    rim_share: float = 0.5
    rim_hu: float = 120.0
    """Partial volume of bone: a short steep tail."""
    rim_tau_mm: tuple[float, float] = (0.5, 1.6)
    clutter_share: float = 0.65
    """Share of slices with muscle and bone strewn outside the skull, as face, neck and skull base have it."""
    muscle_share: float = 0.5
    """Share of slices with a layer of muscle on the outside of the skull: the temporal muscle is as bright as blood."""
    muscle_mm: tuple[float, float] = (3.0, 14.0)
    holder_share: float = 0.5
    """Share of slices with the arc of a head holder."""
    spots_share: float = 0.4
    """Share of slices with calcified spots, mostly in ventricles and cisterns, unlabelled."""
    spots_hu: tuple[float, float] = (70.0, 400.0)
    spots_mm: tuple[float, float] = (1.0, 4.0)
    shade_hu: float = 5.0
    """Standard deviation of a smooth field over the whole slice."""
    offset_hu: float = 5.0
    contrast: float = 0.2
    """Of soft tissue, about its middle."""
    blur_share: float = 0.5
    blur_px: float = 0.9
    noise_share: float = 0.7
    noise_hu: float = 4.0


_TISSUE_MIDDLE_HU = 32.0
_SPOTS = 3


def augment(
    hu: Tensor,
    truth: Tensor,
    depth_mm: Tensor,
    source: Grid,
    target: Grid,
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(batch, size, size) float HU, uint8 truth, float depth on `source` to varied HU and int64 truth on `target`."""
    hu, truth, depth_mm = _posed(hu, truth, depth_mm, source, target, config, generator)
    blood = truth > 0
    inside = depth_mm > 0
    hu = _strew_outside(hu, ~inside & ~blood, config, generator)
    hu = _cover_skull(hu, inside | blood, target, config, generator)
    hu = _hold_head(hu, target, config, generator)
    hu = _fill_gap(hu, inside & ~blood, depth_mm, config, generator)
    hu = _calcify(hu, depth_mm, blood, target, config, generator)
    hu = _vary_tissue(hu, config, generator)
    hu = hu + inside * _tails(depth_mm, config, generator)
    hu = hu + (hu > -200) * config.shade_hu * _smooth_fields(hu, 5, generator)
    hu = _blurred(hu, config, generator)
    return hu + _noise(hu, config, generator), truth


def to_network(hu: Tensor) -> Tensor:
    """(batch, size, size) HU to (batch, 3, size, size) windowed channels; the same as transforms.windowed."""
    return torch.stack([(hu - (centre - width / 2)) / width for centre, width in WINDOWS_HU], dim=1).clamp(0.0, 1.0)


# ---------------------------------------------------------------- pose


def _posed(
    hu: Tensor,
    truth: Tensor,
    depth_mm: Tensor,
    source: Grid,
    target: Grid,
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    count = len(hu)
    turn = torch.deg2rad(config.turn_deg * _signed(count, generator))
    scales = 1.0 + config.scale * _signed(count * 2, generator).view(count, 2)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    half_mm = source.size_px / 2 * source.spacing_mm
    zoom = target.size_px * target.spacing_mm / (2 * half_mm)
    matrix = torch.empty(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = flip * turn.cos() * scales[:, 0], -turn.sin() * scales[:, 1]
    matrix[:, 1, 0], matrix[:, 1, 1] = flip * turn.sin() * scales[:, 0], turn.cos() * scales[:, 1]
    matrix[:, :, :2] *= zoom
    matrix[:, :, 2] = config.shift_mm / half_mm * _signed(count * 2, generator).view(count, 2)
    points = functional.affine_grid(matrix, [count, 1, target.size_px, target.size_px], align_corners=False)
    images = torch.stack([hu - PADDING_HU, depth_mm], dim=1)
    images = functional.grid_sample(images, points, mode="bilinear", align_corners=False)
    labels = functional.grid_sample(truth.float().unsqueeze(1), points, mode="nearest", align_corners=False)
    return images[:, 0] + PADDING_HU, labels[:, 0].long(), images[:, 1] / scales.mean(dim=1).view(-1, 1, 1)


# ---------------------------------------------------------------- under the bone


def _fill_gap(hu: Tensor, where: Tensor, depth_mm: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Cortex instead of CSF down to a depth that varies along the rim; what is brighter stays."""
    count = len(hu)
    depth_limit = config.gap_mm * torch.rand(count, 1, 1, generator=generator)
    depth_limit = (
        depth_limit * (1.0 + 0.5 * _smooth_fields(hu, 6, generator)) * _chosen(count, config.gap_share, generator)
    )
    low, high = config.cortex_hu
    cortex = low + (high - low) * torch.rand(count, 1, 1, generator=generator)
    cortex = cortex + 3.0 * _smooth_fields(hu, 36, generator) + 2.0 * torch.randn(hu.shape, generator=generator)
    return torch.where(where & (depth_mm < depth_limit) & (hu < cortex), cortex, hu)


def _tails(depth_mm: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """A exp(-depth / tau) twice: the wide lift of beam hardening and the steep rim of partial volume."""
    lift = _tail(depth_mm, config.lift_hu, config.lift_tau_mm, config.lift_share, generator)
    rim = _tail(depth_mm, config.rim_hu, config.rim_tau_mm, config.rim_share, generator)
    return lift + rim


def _tail(
    depth_mm: Tensor, limit_hu: float, tau_mm: tuple[float, float], share: float, generator: torch.Generator
) -> Tensor:
    count = len(depth_mm)
    low, high = tau_mm
    tau = low + (high - low) * torch.rand(count, 1, 1, generator=generator)
    height = limit_hu * torch.rand(count, 1, 1, generator=generator) * _chosen(count, share, generator)
    along = (1.0 + 0.5 * _smooth_fields(depth_mm, 5, generator)).clamp(0.0, 2.0)
    return height * along * torch.exp(-depth_mm / tau)


def _calcify(
    hu: Tensor, depth_mm: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Bright round spots: choroid plexus, pineal gland, vessel walls. Fluid is ten times likelier than tissue."""
    count, size = len(hu), grid.size_px
    deep = (depth_mm > 8) & ~blood
    weights = (deep & (hu < 20)).float() + 0.1 * deep + 1e-6
    places = torch.multinomial(weights.view(count, -1), _SPOTS, generator=generator)
    at = torch.arange(size).float()
    low_mm, high_mm = config.spots_mm
    low_hu, high_hu = config.spots_hu
    chosen = _chosen(count, config.spots_share, generator)
    for place in places.T:
        row, column = (place // size).view(-1, 1, 1), (place % size).view(-1, 1, 1)
        radius_px = (low_mm + (high_mm - low_mm) * torch.rand(count, 1, 1, generator=generator) ** 2) / grid.spacing_mm
        height = (low_hu + (high_hu - low_hu) * torch.rand(count, 1, 1, generator=generator) ** 2) * chosen
        distance2 = (at.view(1, -1, 1) - row) ** 2 + (at.view(1, 1, -1) - column) ** 2
        hu = hu + height * torch.exp(-distance2 / (2 * radius_px**2)) * deep
    return hu


# ---------------------------------------------------------------- outside the skull


def _strew_outside(hu: Tensor, where: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Blobs of muscle and of bone in and close to the tissue outside the skull; dense bone stays."""
    count = len(hu)
    near_tissue = functional.max_pool2d((hu > -300).float().unsqueeze(1), 9, stride=1, padding=4)[:, 0] > 0
    where = where & near_tissue & (hu < 250) & (_chosen(count, config.clutter_share, generator) > 0)
    muscle = 35 + 45 * torch.rand(count, 1, 1, generator=generator) + 5 * torch.randn(hu.shape, generator=generator)
    bone = 150 + 1000 * torch.rand(count, 1, 1, generator=generator)
    cover = -0.3 + 1.2 * torch.rand(count, 1, 1, generator=generator)
    hu = torch.where(where & (_smooth_fields(hu, 10, generator) > cover), muscle, hu)
    return torch.where(where & (_smooth_fields(hu, 24, generator) > 1.3), bone, hu)


def _cover_skull(hu: Tensor, inside: Tensor, grid: Grid, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Muscle against the outer table, here and there along it."""
    count = len(hu)
    skull = (inside | (hu > 250)).float().unsqueeze(1)
    low, high = config.muscle_mm
    reach_px = round((low + (high - low) * float(torch.rand(1, generator=generator))) / grid.spacing_mm)
    reached = functional.max_pool2d(skull, 2 * reach_px + 1, stride=1, padding=reach_px)[:, 0] > 0
    muscle = 45 + 35 * torch.rand(count, 1, 1, generator=generator) + 4 * torch.randn(hu.shape, generator=generator)
    where = reached & (skull[:, 0] == 0) & (_smooth_fields(hu, 5, generator) > 0.4)
    return torch.where(where & (_chosen(count, config.muscle_share, generator) > 0), muscle, hu)


def _hold_head(hu: Tensor, grid: Grid, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """A thin arc in the air around the back of the head."""
    count = len(hu)
    at_mm = (torch.arange(grid.size_px) - (grid.size_px - 1) / 2) * grid.spacing_mm
    radius_mm = 85 + 40 * torch.rand(count, 1, 1, generator=generator)
    centre_mm = 15 * torch.randn(count, 1, 1, generator=generator)
    width_mm = 1 + 3 * torch.rand(count, 1, 1, generator=generator)
    from_centre_mm = torch.hypot(at_mm.view(1, -1, 1) - centre_mm, at_mm.view(1, 1, -1))
    arc = (from_centre_mm - radius_mm).abs() < width_mm
    arc = arc & (at_mm.view(1, -1, 1) > 60 * torch.randn(count, 1, 1, generator=generator)) & (hu < -300)
    density = -200 + 700 * torch.rand(count, 1, 1, generator=generator)
    return torch.where(arc & (_chosen(count, config.holder_share, generator) > 0), density, hu)


# ---------------------------------------------------------------- everywhere


def _vary_tissue(hu: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Offset and contrast of soft tissue; bone and air keep their range."""
    contrast = 1.0 + config.contrast * _signed(len(hu), generator).view(-1, 1, 1)
    offset = config.offset_hu * _signed(len(hu), generator).view(-1, 1, 1)
    soft = ((hu > -150) & (hu < 200)).to(hu.dtype)
    return hu + soft * ((hu - _TISSUE_MIDDLE_HU) * (contrast - 1.0) + offset)


def _blurred(hu: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """A Gaussian of one width for the batch, on some of its slices."""
    sigma = 0.2 + config.blur_px * float(torch.rand(1, generator=generator))
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    taps = taps / taps.sum()
    image = functional.pad(hu.unsqueeze(1), (3, 3, 3, 3), mode="replicate")
    image = functional.conv2d(functional.conv2d(image, taps.view(1, 1, 1, 7)), taps.view(1, 1, 7, 1))
    return torch.where(_chosen(len(hu), config.blur_share, generator) > 0, image[:, 0], hu)


def _noise(hu: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """White noise, on some slices softened to the grain of a smooth kernel."""
    height = config.noise_hu * torch.rand(len(hu), 1, 1, generator=generator) ** 2
    white = torch.randn(hu.shape, generator=generator)
    soft = 2.0 * functional.avg_pool2d(white.unsqueeze(1), 3, stride=1, padding=1)[:, 0]
    grain = torch.where(torch.rand(len(hu), 1, 1, generator=generator) < 0.5, white, soft)
    return grain * height * _chosen(len(hu), config.noise_share, generator)


def _smooth_fields(like: Tensor, knots: int, generator: torch.Generator) -> Tensor:
    """(batch, rows, columns) of smooth noise, standard deviation about 1, `knots` across."""
    coarse = torch.randn(len(like), 1, knots, knots, generator=generator)
    size = (int(like.shape[1]), int(like.shape[2]))
    return 1.3 * functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)[:, 0]


def _signed(count: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.rand(count, generator=generator) - 1.0


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1) of 1.0 for a `share` of the slices, else 0.0."""
    return (torch.rand(count, 1, 1, generator=generator) < share).float()
