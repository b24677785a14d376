"""Slices as 8-bit pictures of unknown window, and what inference makes of such pictures.

Inference takes grey for HU, every head for 190 mm long and one slice without neighbours; what is drawn here is read by
the same code (triage_node.picture).
What a picture shows is drawn widely: window, gamma, background, letters, resolution, JPEG blocks, sharpness, crop.
Without wide windows, pictures with a light background were missed (measured in a first attempt).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from triage_node.learn.chance import Chance
from triage_node.picture import find_head, hu_of_grey, on_dark
from triage_node.transforms import Grid

_AIR_HU: Final = -300.0
_BONE_HU: Final = 150.0
_UNCUT: Final = 8.0
"""Bone is cut off at some 200 HU (Appearance.at_most_hu); a wide window shows it white all the same."""
_BLOCK_PX: Final = 8


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How pictures differ; amounts are drawn uniformly unless said otherwise."""

    zoom: float = 0.12
    """Up to so much larger or smaller than picture.HEAD_MM, as inference takes every head to be."""
    width_hu: tuple[float, float] = (45.0, 180.0)
    """Log-uniform."""
    wide_share: float = 0.2
    wide_hu: tuple[float, float] = (180.0, 600.0)
    centre_hu: float = 38.0
    off_centre: float = 0.18
    """Up to so much of its width lies the middle of the window off `centre_hu`."""
    least_top_hu: float = 60.0
    """White is no less: a picture that shows all brain white teaches nothing."""
    stripped_share: float = 0.0
    """Share of pictures that show the inside of the skull alone, see learn.augment."""
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
    """Left around the head; beyond a picture inference goes on with its background."""


def as_pictures(hu: Tensor, grid: Grid, config: PictureConfig, seed: int) -> Tensor:
    """(n, 1, size, size) HU to the same shape of pseudo-HU in 0..80, whole numbers as inference has them."""
    chance = Chance(seed, len(hu))
    background = _background(config, chance)
    grey = _in_window(hu, config, chance)
    grey = _with_gamma(grey, config, seed)
    grey = torch.where(_around(hu) & (background > 0), background, grey)
    grey = _lettered(grey, config, chance)
    grey = _coarsened(grey, grid, config, chance)
    grey = _sharpened(grey, config, chance)
    grey = _compressed(grey, config, chance)
    grey = _cropped(grey, background, hu, grid, config, chance)
    return _read(grey.clamp(0.0, 1.0))


def _read(grey: Tensor) -> Tensor:
    """(n, 1, size, size) in 0..1 to HU, by the code of inference."""
    read = []
    for levels in (255.0 * grey[:, 0]).round().to(torch.uint8).numpy():
        head = find_head(levels)
        shown, _ = on_dark(levels, head)
        read.append(torch.from_numpy(hu_of_grey(levels, head)[shown]))
    return torch.stack(read).unsqueeze(1).to(grey.dtype)


def _background(config: PictureConfig, chance: Chance) -> Tensor:
    """The grey of what is no head: mostly black, sometimes grey, sometimes white."""
    level = torch.where(chance.share(0.4), 1.0, chance.uniform(0.05, 1.0))
    return level * chance.share(config.background_share)


def _in_window(hu: Tensor, config: PictureConfig, chance: Chance) -> Tensor:
    wide = chance.share(config.wide_share)
    width = torch.where(wide, chance.log_uniform(*config.wide_hu), chance.log_uniform(*config.width_hu))
    centre = config.centre_hu + width * chance.uniform(-config.off_centre, config.off_centre)
    centre = torch.maximum(centre, config.least_top_hu - width / 2)
    uncut = hu + _UNCUT * (hu - _BONE_HU).clamp(min=0.0)
    return ((uncut - centre) / width + 0.5).clamp(0.0, 1.0)


def _with_gamma(grey: Tensor, config: PictureConfig, seed: int) -> Tensor:
    from monai.transforms import RandAdjustContrast

    transform = RandAdjustContrast(prob=config.gamma_share, gamma=config.gamma)
    transform.set_random_state(seed=seed % 2**32)
    return torch.stack([transform(sample) for sample in grey])


def _around(hu: Tensor) -> Tensor:
    """All air from which a straight line along a row or a column leaves the picture."""
    tissue = (hu > _AIR_HU).int()
    lines = [tissue.cumsum(axis) for axis in (2, 3)]
    lines += [tissue.flip(axis).cumsum(axis).flip(axis) for axis in (2, 3)]
    return torch.stack([line == 0 for line in lines]).any(dim=0)


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
    matrix = torch.cos(math.pi / _BLOCK_PX * (at + 0.5) * at.view(-1, 1)) * math.sqrt(2 / _BLOCK_PX)
    matrix[0] /= math.sqrt(2)
    return matrix


def _cropped(grey: Tensor, background: Tensor, hu: Tensor, grid: Grid, config: PictureConfig, chance: Chance) -> Tensor:
    """Some pictures end close to the head; inference goes on with their background."""
    margin_px = chance.uniform(*config.crop_margin_mm).round() / grid.spacing_mm
    tissue = hu > _AIR_HU
    at = torch.arange(grid.size_px)
    rows, columns = at.view(1, 1, -1, 1), at.view(1, 1, 1, -1)
    within = _near_span(tissue.any(dim=3, keepdim=True), rows, 2, margin_px)
    within = within & _near_span(tissue.any(dim=2, keepdim=True), columns, 3, margin_px)
    return torch.where(within | ~chance.share(config.crop_share), grey, background)


def _near_span(present: Tensor, at: Tensor, axis: int, margin_px: Tensor) -> Tensor:
    """Between the first and the last place that is present, or at most `margin_px` beyond; everywhere if none is."""
    first = torch.where(present, at, present.shape[axis]).amin(dim=axis, keepdim=True)
    last = torch.where(present, at, -1).amax(dim=axis, keepdim=True)
    return ((at >= first - margin_px) & (at <= last + margin_px)) | (last < first)
