"""What is varied at every pass, on slices in HU before windowing.

Pose and general intensity are MONAI's (`pose`, and smoothing and noise here). Our own is what real heads have and
simulated ones lack. The first aim is the rim: on real heads the cortex lies against the bone and the tail of the bone
lifts everything by 10 to 20 HU for 5 mm and more (measured), so a network that has only seen a dark gap under the bone
takes every real rim for subdural blood. Gap, lift and partial volume vary widely here, per slice and along the rim;
blood gets the lift, and little of the steep rim. Labels change only where blood is painted (`painted`). A slice and its
neighbours are varied alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from triage_node.domain import SUBTYPES
from triage_node.learn.chance import Chance
from triage_node.learn.painted import PaintConfig, painted
from triage_node.learn.picture import PictureConfig, as_pictures
from triage_node.learn.pool import Drawn
from triage_node.learn.pose import Framing, PoseConfig, Slices, head_framing, posed
from triage_node.picture import HEAD_MM
from triage_node.skull import without_skull
from triage_node.transforms import PADDING_HU, Appearance, Grid, channels_of


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far each thing is varied; amounts are drawn uniformly up to the limit unless said otherwise."""

    pose: PoseConfig = field(default_factory=PoseConfig)
    picture: PictureConfig = field(default_factory=PictureConfig)
    paint: PaintConfig = field(default_factory=PaintConfig)
    """Blood on slices without, see learn.painted."""
    picture_share: float = 0.5
    """Share of samples that are shown as 8-bit pictures of unknown window, see learn.picture."""
    lone_share: float = 0.25
    """Share of the other samples that lose their neighbours."""
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
    patch_share: float = 0.4
    """Share of slices with patches of brain a little brighter or darker than the rest: nuclei, scars, swelling."""
    patch_hu: tuple[float, float] = (-10.0, 7.0)
    nuclei_share: float = 0.0
    """Share of slices whose grey nuclei stand out more from the white matter around them, up to `nuclei_gain` times
    what they do: a real lentiform nucleus was taken for blood (measured: docs/lab-notebook.md)."""
    nuclei_gain: float = 2.0
    pale_share: float = 0.0
    """Share of slices whose white matter is darker in places, by up to `pale_gain` times what it is darker than the
    brain about it: leukoaraiosis around a real lentiform nucleus was taken for oedema around blood (measured)."""
    pale_gain: float = 2.0
    crevice_share: float = 0.0
    """Share of slices with soft tissue between the bones of the skull base: a real cavernous sinus was taken for blood
    in a cistern (seen)."""
    crevice_mm: tuple[float, float] = (3.0, 9.0)
    """Half as wide as the widest gap that is filled."""
    crevice_hu: tuple[float, float] = (30.0, 75.0)
    marrow_share: float = 0.0
    """Share of slices whose bone is spongy here and there instead of white throughout: on a real head the marrow of
    clivus and sella, as grey as blood, was taken for it (seen: docs/lab-notebook.md)."""
    marrow_hu: tuple[float, float] = (10.0, 140.0)
    shade_hu: float = 5.0
    """Standard deviation of a smooth field over the whole slice."""
    offset_hu: float = 5.0
    contrast: float = 0.2
    """Of soft tissue, about its middle."""
    blur_share: float = 0.5
    blur_px: tuple[float, float] = (0.2, 1.1)
    grain_share: float = 0.35
    """Share of slices with the grain of a smooth kernel; white noise is drawn apart."""
    noise_share: float = 0.4
    noise_hu: float = 4.0


_OLD_BLOOD_HU = 36.0


class Views(NamedTuple):
    """What the network sees in one step, and the truth of it."""

    images: Tensor
    """(n, windows + 2, size, size) float32 in 0..1: windows of the slice, then the first window below and above."""
    truth: Tensor
    """(n, size, size) int64 labels."""
    depth_mm: Tensor
    """(n, size, size) float32, below the inner table; 0 outside the skull."""


_USUAL = Appearance()
_TISSUE_MIDDLE_HU = 32.0
_RIM_LOST = 0.8
"""Share of the steep rim that blood does not get: with all of it thin subdurals were as white as bone. The lift lies on
all alike: without it subdurals were as grey as the cortex beside them. Neither was learnt (measured)."""
_BONE_HU = 150.0
"""Below what Appearance.at_most_hu leaves of bone, above soft tissue."""
_SPOTS = 3
_CORTICAL_PX = 1
"""Bone so near to soft tissue stays dense."""
_GREY_OR_WHITE_HU = (18.0, 45.0)
_FLUID_HU = 15.0
_LEAST_INSIDE_MM2 = 4000.0
"""A picture of less brain than this has its skull."""
_AROUND_MM = 15.0
"""Wider than a nucleus is thick."""


def augment(
    drawn: Drawn,
    source: Grid,
    target: Grid,
    config: AugmentConfig,
    seed: int,
    appearance: Appearance = _USUAL,
) -> Views:
    """A batch on `source` to what the network sees of it on `target`, all drawn from `seed`. Needs MONAI."""
    from monai.data import set_track_meta

    set_track_meta(False)  # where an image came from interests nobody here, and carrying it along is dear
    chance = Chance(seed, len(drawn.hu))
    as_picture = chance.share(config.picture_share).flatten()
    alone = as_picture | chance.share(config.lone_share).flatten()
    stripped = _stripped(as_picture, drawn.depth_mm[:, 1], source, config.picture, Chance(seed + 6, len(drawn.hu)))
    shown = torch.where(stripped.view(-1, 1, 1) & (drawn.depth_mm[:, 1] <= 0), PADDING_HU, drawn.hu[:, 1])
    framing = _framing(shown, as_picture, source, config.picture, chance)
    stored = Slices(hu=drawn.hu.clamp(max=appearance.at_most_hu), truth=drawn.truth.float(), depth_mm=drawn.depth_mm)
    stored = painted(stored, _without_any(drawn), source, config.paint, Chance(seed + 5, len(drawn.hu)))
    groups = [places for places in ((~alone).nonzero()[:, 0], alone.nonzero()[:, 0]) if len(places)]
    parts = []
    for number, places in enumerate(groups, start=1):  # those without neighbours apart: a third of the work
        slices = stored.taken(places, neighbours=not alone[places[0]])
        slices = posed(slices, framing.taken(places), source, target, config.pose, seed + number)
        slices = _varied(slices, target, config, Chance(seed + number, len(places)))
        slices = _scanned(slices, config, Chance(seed + number + 2, len(places)), seed + number)
        slices = _without_skulls(slices, stripped[places])
        slices = _with_pictures(slices, as_picture[places], target, config.picture, seed + number)
        parts.append(_views(slices, appearance, target))
    order = torch.cat(groups).argsort()
    images, truth, depth_mm = (torch.cat(tensors)[order] for tensors in zip(*parts, strict=True))
    return Views(images=images, truth=truth, depth_mm=depth_mm)


def _without_any(drawn: Drawn) -> Tensor:
    """(n,) bool: masks tell that neither the slice nor a neighbour shows blood, and nothing else is told of it."""
    none = (drawn.truth == 0).all(dim=3).all(dim=2).all(dim=1)
    return none & drawn.known.masked & drawn.known.labels.isnan().all(dim=1) & drawn.known.chronic.isnan()


def varied_alike(slices: Slices, grid: Grid, config: AugmentConfig, seed: int) -> Slices:
    """Stacks of any number of slices on `grid`, each stack posed, varied and scanned as one; no pictures."""
    from monai.data import set_track_meta

    set_track_meta(False)
    count = len(slices.hu)
    as_it_is = Framing(middle_px=torch.zeros(count, 2), zoom=torch.ones(count))
    slices = posed(slices, as_it_is, grid, grid, config.pose, seed)
    slices = _varied(slices, grid, config, Chance(seed, count))
    return _scanned(slices, config, Chance(seed + 1, count), seed + 2)


def to_network(hu: Tensor, appearance: Appearance = _USUAL, spacing_mm: float = 1.0) -> Tensor:
    """(n, slices, size, size) HU to (n, windows + 2, size, size) channels in 0..1.

    `slices` is 3 (below, the slice, above) or 1 (the slice, which then stands in for both). The windows of the slice,
    then the first window of the neighbours below and above; as inference has it (transforms.network_images).
    """
    below, own, above = hu[:, 0], hu[:, hu.shape[1] // 2], hu[:, -1]
    if not appearance.plain:
        return _made_up(below, own, above, appearance, spacing_mm)
    first = appearance.windows_hu[0]
    shown = [*((own, window) for window in appearance.windows_hu), (below, first), (above, first)]
    channels = [(image - (centre - width / 2)) / width for image, (centre, width) in shown]
    return torch.stack(channels, dim=1).clamp(0.0, 1.0)


def _made_up(below: Tensor, own: Tensor, above: Tensor, appearance: Appearance, spacing_mm: float) -> Tensor:
    """By the same code as inference."""
    images = [image.numpy() for image in (own, below, above)]
    if appearance.brain_only:
        # one by one, as inference sees them: a picture among slices has other bone
        images = [np.concatenate([without_skull(one[None], spacing_mm) for one in image]) for image in images]
    shown = [channels_of(image, appearance, windows) for image, windows in zip(images, (None, 1, 1), strict=True)]
    return torch.from_numpy(np.concatenate(shown, axis=1))


def _framing(hu: Tensor, as_picture: Tensor, source: Grid, picture: PictureConfig, chance: Chance) -> Framing:
    """A picture is as large as the longer side of its head says; else the stored middle and the true size hold."""
    longer_side_mm = HEAD_MM * chance.uniform(1 - picture.zoom, 1 + picture.zoom).flatten()
    fitted = head_framing(hu, source.spacing_mm, longer_side_mm)
    return Framing(
        middle_px=torch.where(as_picture.unsqueeze(1), fitted.middle_px, 0.0),
        zoom=torch.where(as_picture, fitted.zoom, 1.0),
    )


def _stripped(as_picture: Tensor, depth_mm: Tensor, grid: Grid, picture: PictureConfig, chance: Chance) -> Tensor:
    """(n,) bool: pictures that lose skull and scalp, where enough is left."""
    inside_mm2 = (depth_mm > 0).sum(dim=(1, 2)) * grid.spacing_mm**2
    return as_picture & chance.share(picture.stripped_share).flatten() & (inside_mm2 >= _LEAST_INSIDE_MM2)


def _without_skulls(slices: Slices, stripped: Tensor) -> Slices:
    """Nothing outside the inner table of some of the slices, nor truth there."""
    gone = stripped.view(-1, 1, 1, 1) & (slices.depth_mm <= 0)
    return replace(slices, hu=slices.hu.masked_fill(gone, PADDING_HU), truth=slices.truth.masked_fill(gone, 0))


def _with_pictures(slices: Slices, as_picture: Tensor, grid: Grid, config: PictureConfig, seed: int) -> Slices:
    """Some of the lone slices as pictures."""
    places = as_picture.nonzero()[:, 0]
    if not len(places):
        return slices
    hu = slices.hu.clone()
    hu[places] = as_pictures(hu[places], grid, config, seed + 4)
    return replace(slices, hu=hu)


def _views(slices: Slices, appearance: Appearance, grid: Grid) -> Views:
    middle = slices.hu.shape[1] // 2
    return Views(
        images=to_network(slices.hu, appearance, grid.spacing_mm),
        truth=slices.truth[:, middle].long(),
        depth_mm=slices.depth_mm[:, middle],
    )


def _varied(slices: Slices, grid: Grid, config: AugmentConfig, chance: Chance) -> Slices:
    """The heads, as real ones differ."""
    hu, depth_mm, blood = slices.hu, slices.depth_mm, slices.truth > 0
    inside = depth_mm > 0
    hu = _strew_outside(hu, ~inside & ~blood, grid, config, chance)
    hu = _cover_skull(hu, inside | blood, grid, config, chance)
    hu = _hold_head(hu, grid, config, chance)
    hu = _fill_crevices(hu, blood, grid, config, chance)
    hu = _hollow(hu, config, chance)
    # fluid that stays dark where all else is filled would have the very shape of old subdural blood
    fillable = inside & ~blood & ~_with_old_blood(hu, slices.truth)
    hu = _fill_gap(hu, fillable, depth_mm, grid, config, chance)
    hu = _calcify(hu, depth_mm, blood, grid, config, chance)
    hu = _in_patches(hu, depth_mm, blood, grid, config, chance)
    hu = _stand_out(hu, depth_mm, blood, grid, config, chance)
    hu = _vary_tissue(hu, config, chance)
    hu = hu + inside * _tails(depth_mm, blood, grid, config, chance)
    return replace(slices, hu=hu + (hu > -200) * config.shade_hu * chance.field(grid.size_px, 5))


# ---------------------------------------------------------------- under the bone


def _with_old_blood(hu: Tensor, truth: Tensor) -> Tensor:
    """(n, 1, 1, 1): whether subdural blood is there that is darker than brain."""
    subdural = truth == 1 + SUBTYPES.index("subdural")
    count = subdural.sum(dim=(1, 2, 3), keepdim=True)
    mean_hu = (hu * subdural).sum(dim=(1, 2, 3), keepdim=True) / count.clamp(min=1)
    return (count > 0) & (mean_hu < _OLD_BLOOD_HU)


def _fill_gap(hu: Tensor, where: Tensor, depth_mm: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """Cortex instead of CSF down to a depth that varies along the rim; what is brighter stays."""
    reach_mm = chance.uniform(0.0, config.gap_mm) * (1.0 + 0.5 * chance.field(grid.size_px, 6))
    reach_mm = reach_mm * chance.share(config.gap_share)
    cortex = chance.uniform(*config.cortex_hu) + 3.0 * chance.field(grid.size_px, 36) + 2.0 * chance.grain(hu)
    return torch.where(where & (depth_mm < reach_mm) & (hu < cortex), cortex, hu)


def _tails(depth_mm: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """A exp(-depth / tau) twice: the wide lift of beam hardening, and the steep rim of partial volume beside blood."""
    lift = _tail(depth_mm, config.lift_hu, config.lift_tau_mm, config.lift_share, grid, chance)
    rim = _tail(depth_mm, config.rim_hu, config.rim_tau_mm, config.rim_share, grid, chance)
    return lift + rim * (1 - _RIM_LOST * blood)


def _tail(
    depth_mm: Tensor, limit_hu: float, tau_mm: tuple[float, float], share: float, grid: Grid, chance: Chance
) -> Tensor:
    tau = chance.uniform(*tau_mm)
    height = chance.uniform(0.0, limit_hu) * chance.share(share)
    along = (1.0 + 0.5 * chance.field(grid.size_px, 5)).clamp(0.0, 2.0)
    return height * along * torch.exp(-depth_mm / tau)


def _calcify(hu: Tensor, depth_mm: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """Bright round spots: choroid plexus, pineal gland, vessel walls. Fluid is ten times likelier than tissue."""
    deep = (depth_mm > 8) & ~blood
    middle = hu.shape[1] // 2
    weights = (deep[:, middle] & (hu[:, middle] < 20)).float() + 0.1 * deep[:, middle] + 1e-6
    at = torch.arange(grid.size_px).float()
    spots = torch.zeros(len(hu), 1, grid.size_px, grid.size_px)
    for place in chance.places(weights.flatten(1), _SPOTS).T:
        row, column = (place // grid.size_px).view(-1, 1, 1, 1), (place % grid.size_px).view(-1, 1, 1, 1)
        radius_px = chance.small(*config.spots_mm) / grid.spacing_mm
        along_rows = torch.exp(-((at.view(1, 1, -1, 1) - row) ** 2) / (2 * radius_px**2))
        along_columns = torch.exp(-((at.view(1, 1, 1, -1) - column) ** 2) / (2 * radius_px**2))
        spots = spots + chance.small(*config.spots_hu) * along_rows * along_columns
    return hu + spots * chance.share(config.spots_share) * deep


def _in_patches(
    hu: Tensor, depth_mm: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, chance: Chance
) -> Tensor:
    """Soft-edged, deep in the brain; less than what blood stands out by."""
    there = torch.sigmoid(8 * (chance.field(grid.size_px, 12) - 0.9))
    where = ((depth_mm > 8) & ~blood).to(hu.dtype) * chance.share(config.patch_share)
    return hu + chance.uniform(*config.patch_hu) * there * where


def _stand_out(
    hu: Tensor, depth_mm: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, chance: Chance
) -> Tensor:
    """What is brighter deep in than the brain about it is brighter still, what is darker is darker here and there.
    Fluid is as white matter."""
    if not (config.nuclei_share or config.pale_share):
        return hu
    half = functional.avg_pool2d(hu.clamp(*_GREY_OR_WHITE_HU), 2)
    wide_px = 2 * round(_AROUND_MM / (2 * grid.spacing_mm)) + 1
    around = functional.avg_pool2d(half, wide_px, stride=1, padding=wide_px // 2, count_include_pad=False)
    own = functional.avg_pool2d(half, 3, stride=1, padding=1, count_include_pad=False)
    more = functional.interpolate(own - around, scale_factor=2.0, mode="bilinear", align_corners=False)
    nuclei = chance.uniform(0.0, config.nuclei_gain) * chance.share(config.nuclei_share)
    here = torch.sigmoid(4 * chance.field(grid.size_px, 5)) * (hu > _FLUID_HU)
    pale = chance.uniform(0.0, config.pale_gain) * chance.share(config.pale_share) * here
    return hu + (nuclei * more.clamp(min=0.0) + pale * more.clamp(max=0.0)) * ((depth_mm > 8) & ~blood)


# ---------------------------------------------------------------- outside the skull


def _strew_outside(hu: Tensor, where: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """Blobs of muscle and of bone in and close to the tissue outside the skull; dense bone stays."""
    near_tissue = _spread((hu > -300).float(), 4) > 0
    where = where & near_tissue & (hu < _BONE_HU) & chance.share(config.clutter_share)
    muscle = chance.uniform(35.0, 80.0) + 5 * chance.grain(hu)
    hu = torch.where(where & (chance.field(grid.size_px, 10) > chance.uniform(-0.3, 0.9)), muscle, hu)
    return torch.where(where & (chance.field(grid.size_px, 24) > 1.3), chance.uniform(150.0, 1150.0), hu)


def _cover_skull(hu: Tensor, inside: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """Muscle against the outer table, here and there along it."""
    skull = inside | (hu > _BONE_HU)
    reach_px = round(chance.one(*config.muscle_mm) / grid.spacing_mm)
    reached = _spread(skull.float(), reach_px) > 0
    where = reached & ~skull & (chance.field(grid.size_px, 5) > 0.4) & chance.share(config.muscle_share)
    return torch.where(where, chance.uniform(45.0, 80.0) + 4 * chance.grain(hu), hu)


def _hold_head(hu: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """A thin arc in the air around the back of the head."""
    at_mm = (torch.arange(grid.size_px) - (grid.size_px - 1) / 2) * grid.spacing_mm
    rows_mm, columns_mm = at_mm.view(1, 1, -1, 1), at_mm.view(1, 1, 1, -1)
    radius_mm, middle_mm = chance.uniform(85.0, 125.0), 15 * chance.normal()
    arc = (torch.hypot(rows_mm - middle_mm, columns_mm) - radius_mm).abs() < chance.uniform(1.0, 4.0)
    where = arc & (rows_mm > 60 * chance.normal()) & (hu < -300) & chance.share(config.holder_share)
    return torch.where(where, chance.uniform(-200.0, 500.0), hu)


def _fill_crevices(hu: Tensor, blood: Tensor, grid: Grid, config: AugmentConfig, chance: Chance) -> Tensor:
    """Soft tissue between the bones of the skull base, where the simulated heads have fluid."""
    if not config.crevice_share:
        return hu
    reach_px = round(chance.one(*config.crevice_mm) / grid.spacing_mm)
    between = -_spread(-_spread((hu > _BONE_HU).float(), reach_px), reach_px) > 0
    where = between & (hu > -100) & (hu < _BONE_HU) & ~blood & chance.share(config.crevice_share)
    where = where & (chance.field(grid.size_px, 16) > chance.uniform(-2.0, 0.5))
    part = functional.avg_pool2d(where.to(hu.dtype), 3, stride=1, padding=1)
    tissue = chance.uniform(*config.crevice_hu) + 12 * chance.field(grid.size_px, 48) + 3 * chance.grain(hu)
    return hu + part * (tissue - hu) * ((hu > -100) & (hu < _BONE_HU) & ~blood)


def _hollow(hu: Tensor, config: AugmentConfig, chance: Chance) -> Tensor:
    """Marrow instead of dense bone, where bone is thick."""
    if not config.marrow_share:
        return hu
    size_px = hu.shape[-1]
    within = _spread((hu < _BONE_HU).float(), _CORTICAL_PX) == 0
    marrow = chance.uniform(*config.marrow_hu) + 25 * chance.field(size_px, 40) + 10 * chance.grain(hu)
    spongy = within & (chance.field(size_px, 24) > chance.uniform(-1.0, 1.0)) & chance.share(config.marrow_share)
    part = functional.avg_pool2d(spongy.to(hu.dtype), 3, stride=1, padding=1)
    return hu + part * (marrow - hu) * (hu > _BONE_HU)


def _spread(image: Tensor, reach_px: int) -> Tensor:
    """About the greatest value within a square, found at half the resolution: eight times faster."""
    reach = max(1, round(reach_px / 2))
    few = functional.max_pool2d(image, 2)
    few = functional.max_pool2d(few, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
    few = functional.max_pool2d(few, (1, 2 * reach + 1), stride=1, padding=(0, reach))
    return functional.interpolate(few, scale_factor=2.0, mode="nearest")


# ---------------------------------------------------------------- everywhere


def _vary_tissue(hu: Tensor, config: AugmentConfig, chance: Chance) -> Tensor:
    """Offset and contrast of soft tissue; bone and air keep their range."""
    contrast = chance.uniform(-config.contrast, config.contrast)
    offset = chance.uniform(-config.offset_hu, config.offset_hu)
    soft = ((hu > -150) & (hu < 200)).to(hu.dtype)
    return hu + soft * ((hu - _TISSUE_MIDDLE_HU) * contrast + offset)


def _scanned(slices: Slices, config: AugmentConfig, chance: Chance, seed: int) -> Slices:
    """Sharpness and noise. The grain of a smooth kernel is ours, the rest MONAI's."""
    from monai.transforms import Compose, RandGaussianNoise, RandGaussianSmooth

    height = config.noise_hu * chance.small(0.0, 1.0) * chance.share(config.grain_share)
    hu = slices.hu + 2.0 * height * functional.avg_pool2d(chance.grain(slices.hu), 3, stride=1, padding=1)
    scanner = Compose(
        [
            RandGaussianSmooth(sigma_x=config.blur_px, sigma_y=config.blur_px, prob=config.blur_share),
            RandGaussianNoise(std=config.noise_hu, prob=config.noise_share),
        ]
    ).set_random_state(seed=seed % 2**32)
    return replace(slices, hu=torch.stack([scanner(sample) for sample in hu]))
