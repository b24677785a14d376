"""Slices as 8-bit pictures of unknown window, and what inference makes of such pictures.

Inference takes grey 0..255 for 0..80 HU, one slice without neighbours, its head scaled to a longer side of 190 mm.
What a picture shows is drawn widely: window, gamma, background, letters, resolution, JPEG blocks, sharpness, crop.
Without wide windows, pictures with a light background were missed (measured in a first attempt).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.learn.chance import Chance
from triage_node.transforms import PADDING_HU, Grid

PICTURE_HU: Final = 80.0
"""HU that inference reads into white; black is 0."""
_AIR_HU: Final = -300.0
_BLOCK_PX: Final = 8


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How pictures differ; amounts are drawn uniformly unless said otherwise."""

    longer_side_mm: float = 190.0
    """Of the head's bounding box, as inference assumes; shown up to `zoom` larger or smaller."""
    zoom: float = 0.12
    width_hu: tuple[float, float] = (55.0, 170.0)
    """Log-uniform."""
    wide_share: float = 0.1
    wide_hu: tuple[float, float] = (170.0, 250.0)
    centre_hu: tuple[float, float] = (20.0, 60.0)
    gamma_share: float = 0.4
    gamma: tuple[float, float] = (0.7, 1.4)
    background_share: float = 0.25
    """Share of pictures whose background is grey or white instead of black."""
    letters_share: float = 0.5
    coarse_share: float = 0.4
    coarse_mm: tuple[float, float] = (1.7, 2.4)
    """Pixel size of those of low resolution."""
    jpeg_share: float = 0.5
    jpeg_grey: tuple[float, float] = (0.01, 0.08)
    """Quantisation of the lowest frequencies of an 8 x 8 block; it grows with the frequency."""
    sharpness_share: float = 0.4
    sharpness: tuple[float, float] = (-0.8, 1.2)
    """Below 0 softer, above 0 sharper."""
    crop_share: float = 0.5
    crop_margin_mm: tuple[float, float] = (0.0, 25.0)
    """Left around the head; beyond the picture inference sees air."""


def as_pictures(hu: Tensor, grid: Grid, config: PictureConfig, seed: int) -> Tensor:
    """(n, 1, size, size) HU to the same shape of pseudo-HU in 0..80, and PADDING_HU beyond the edges of a picture."""
    chance = Chance(seed, len(hu))
    grey = _in_window(hu, config, chance)
    grey = _with_gamma(grey, config, seed)
    grey = _on_background(grey, hu, config, chance)
    grey = _lettered(grey, config, chance)
    grey = _coarsened(grey, grid, config, chance)
    grey = _sharpened(grey, config, chance)
    grey = _compressed(grey, config, chance)
    grey = (255 * grey.clamp(0.0, 1.0)).round() / 255
    return _cropped(PICTURE_HU * grey, hu, grid, config, chance)


def _in_window(hu: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    wide = chance.share(config.wide_share)
    width = torch.where(wide, chance.uniform(*config.wide_hu), chance.log_uniform(*config.width_hu))
    centre = chance.uniform(*config.centre_hu)
    return ((hu - centre) / width + 0.5).clamp(0.0, 1.0)


def _with_gamma(grey: Tensor, config: PictureConfig, seed: int) -> Tensor:
    from monai.transforms import RandAdjustContrast

    transform = RandAdjustContrast(prob=config.gamma_share, gamma=config.gamma).set_random_state(seed=seed % 2**32)
    return torch.stack([transform(sample) for sample in grey])


def _on_background(grey: Tensor, hu: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    """One grey for all air from which a straight line along a row or a column leaves the picture."""
    tissue = (hu > _AIR_HU).int()
    lines = [tissue.cumsum(axis) for axis in (2, 3)]
    lines += [tissue.flip(axis).cumsum(axis).flip(axis) for axis in (2, 3)]
    outside = torch.stack([line == 0 for line in lines]).any(dim=0)
    white = torch.where(chance.share(0.4), 1.0, chance.uniform(0.05, 1.0))
    return torch.where(outside & chance.share(config.background_share), white, grey)


def _lettered(grey: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    """Lines of glyph-like strokes close to the borders."""
    size = grey.shape[-1]
    for sample in grey[chance.share(config.letters_share).flatten()]:
        for _ in range(chance.whole(1, 4)):
            letters, scale = chance.whole(1, 8), chance.whole(1, 2)
            strokes = chance.bits(5, 4 * letters)
            strokes[:, 3::4] = 0.0
            strokes = strokes.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[:, : size // 2]
            height, width = strokes.shape
            row = chance.whole(0, size // 8) if chance.whole(0, 1) else size - height - chance.whole(0, size // 8)
            column = chance.whole(0, size // 8) if chance.whole(0, 1) else size - width - chance.whole(0, size // 8)
            place = sample[0, row : row + height, column : column + width]
            place.copy_(torch.where(strokes > 0, chance.one(0.4, 1.0), place))
    return grey


def _coarsened(grey: Tensor, grid: Grid, config: PictureConfig, chance: Chance) -> Tensor:
    """Down to a low resolution and up again; one resolution for the batch."""
    size = max(8, round(grid.size_px * grid.spacing_mm / chance.one(*config.coarse_mm)))
    few = functional.interpolate(grey, size=(size, size), mode="bilinear", antialias=True)
    again = functional.interpolate(few, size=grey.shape[2:], mode="bilinear")
    return torch.where(chance.share(config.coarse_share), again, grey)


def _sharpened(grey: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    soft = functional.avg_pool2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = chance.uniform(*config.sharpness) * chance.share(config.sharpness_share)
    return (grey + amount * (grey - soft)).clamp(0.0, 1.0)


def _compressed(grey: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    """Cosine coefficients of 8 x 8 blocks, rounded the more coarsely the higher they are: cheap JPEG."""
    count, _, size, _ = grey.shape
    cosines = _cosines().to(grey)
    blocks = grey.view(count, size // _BLOCK_PX, _BLOCK_PX, size // _BLOCK_PX, _BLOCK_PX).transpose(2, 3)
    order = torch.arange(_BLOCK_PX).view(-1, 1) + torch.arange(_BLOCK_PX)
    step = chance.log_uniform(*config.jpeg_grey).view(-1, 1, 1, 1, 1) * (1.0 + order / 2)
    coded = (cosines @ blocks @ cosines.T / step).round() * step
    shown = (cosines.T @ coded @ cosines).transpose(2, 3).reshape(grey.shape)
    return torch.where(chance.share(config.jpeg_share), shown, grey)


def _cosines() -> Tensor:
    """(8, 8): the orthonormal discrete cosine transform."""
    at = torch.arange(_BLOCK_PX)
    matrix = torch.cos(pi / _BLOCK_PX * (at + 0.5) * at.view(-1, 1)) * (2 / _BLOCK_PX) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _cropped(shown: Tensor, hu: Tensor, grid: Grid, config: PictureConfig, chance: Chance) -> Tensor:
    """Some pictures end close to the head; beyond is what inference puts outside an image."""
    tissue = hu > _AIR_HU
    margin_px = chance.uniform(*config.crop_margin_mm) / grid.spacing_mm
    at = torch.arange(grid.size_px)
    within = torch.ones_like(tissue)
    for axis, across in ((2, 3), (3, 2)):
        places = at.view(-1, 1) if axis == 2 else at
        present = tissue.any(dim=across, keepdim=True)
        first = torch.where(present, places if axis == 3 else places.view(1, 1, -1, 1), grid.size_px)
        last = torch.where(present, places if axis == 3 else places.view(1, 1, -1, 1), -1)
        low, high = first.amin(dim=axis, keepdim=True), last.amax(dim=axis, keepdim=True)
        within = within & (places >= low - margin_px) & (places <= high + margin_px)
    return torch.where(within | ~chance.share(config.crop_share), shown, PADDING_HU)
