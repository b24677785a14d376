"""Geometry of every pass, by MONAI: rotation, shift, shear, zoom, flip and elastic bending, in one interpolation.

The slice, its neighbours, their labels and their depth move together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from triage_node.transforms import PADDING_HU, Grid

_TISSUE_HU = 0.0
"""Seen in most windows; fat under the skin is black in a picture, and no part of the head that inference finds."""
_EDGE_PX = 3
"""Pixels of tissue that a row or column of the head has at least."""


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """How far; drawn uniformly up to the limit on either side."""

    turn_deg: float = 15.0
    shift_mm: float = 10.0
    shear: float = 0.08
    zoom: float = 0.12
    flip_share: float = 0.5
    bend_share: float = 0.5
    bend_mm: float = 2.5
    bend_spacing_mm: float = 30.0
    fill_nearest: bool = False
    """Beyond the image comes its edge, in place of air."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """n slices, each with both neighbours or alone."""

    hu: Tensor
    """(n, 3, size, size) float32: below, the slice itself, above; or (n, 1, size, size)."""
    truth: Tensor
    """Of the same shape, labels as float32."""
    depth_mm: Tensor
    """Of the same shape, float32, below the inner table; 0 outside the skull."""

    def taken(self, places: Tensor, *, neighbours: bool) -> Slices:
        """Some of those that have neighbours, with them or without."""
        kept = slice(0, 3) if neighbours else slice(1, 2)
        return Slices(hu=self.hu[places, kept], truth=self.truth[places, kept], depth_mm=self.depth_mm[places, kept])


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Where the view of each slice is aimed before it is varied."""

    middle_px: Tensor
    """(n, 2) float32, row and column from the middle of the stored grid."""
    zoom: Tensor
    """(n,) float32, how much larger than in truth the head is shown."""

    def taken(self, places: Tensor) -> Framing:
        """That of some of the slices."""
        return Framing(middle_px=self.middle_px[places], zoom=self.zoom[places])


def head_framing(hu: Tensor, spacing_mm: float, longer_side_mm: Tensor) -> Framing:
    """(n, size, size) HU: the middle of the head's bounding box, and the zoom that makes its longer side that long."""
    tissue = hu > _TISSUE_HU
    rows, columns = _box(tissue.sum(dim=2) >= _EDGE_PX), _box(tissue.sum(dim=1) >= _EDGE_PX)
    sides_mm = torch.stack([rows[1], columns[1]], dim=1).amax(dim=1) * spacing_mm
    middle = torch.stack([rows[0], columns[0]], dim=1) - (hu.shape[1] - 1) / 2
    return Framing(middle_px=middle, zoom=(longer_side_mm / sides_mm.clamp(min=40.0)))


def posed(slices: Slices, framing: Framing, source: Grid, target: Grid, config: PoseConfig, seed: int) -> Slices:
    """Slices on `source` to slices on `target`, each in a pose of its own."""
    pose = _Pose(source, target, config, seed)
    moved = [
        pose(hu, truth, depth_mm, middle, float(zoom))
        for hu, truth, depth_mm, middle, zoom in zip(
            slices.hu, slices.truth, slices.depth_mm, framing.middle_px, framing.zoom, strict=True
        )
    ]
    hu, truth, depth_mm = (torch.stack(parts) for parts in zip(*moved, strict=True))
    return Slices(hu=hu, truth=truth, depth_mm=depth_mm)


class _Pose:
    """The MONAI transforms, made once for a batch."""

    def __init__(self, source: Grid, target: Grid, config: PoseConfig, seed: int) -> None:
        from monai.transforms import RandAffineGrid, RandDeformGrid, RandFlip, Resample

        shift_px = config.shift_mm / target.spacing_mm
        self._target = target
        self._step_px = target.spacing_mm / source.spacing_mm
        self._bend_share = config.bend_share
        self._rng = np.random.RandomState(seed % 2**32)
        self._knots_px = max(4, round(config.bend_spacing_mm / target.spacing_mm))
        bend_px = config.bend_mm / target.spacing_mm
        self._bend = RandDeformGrid(spacing=self._knots_px, magnitude_range=(0.0, bend_px))
        self._affine = RandAffineGrid(
            rotate_range=np.deg2rad(config.turn_deg),
            shear_range=[(-config.shear, config.shear)] * 2,
            translate_range=[(-shift_px, shift_px)] * 2,
            scale_range=[(-config.zoom, config.zoom)] * 2,
        )
        self._flip = RandFlip(prob=config.flip_share, spatial_axis=1)
        self._sample = Resample(padding_mode="border" if config.fill_nearest else "zeros", dtype=np.float32)
        for index, transform in enumerate((self._bend, self._affine, self._flip)):
            transform.set_random_state(seed=(seed + index) % 2**32)

    def __call__(
        self, hu: Tensor, truth: Tensor, depth_mm: Tensor, middle_px: Tensor, zoom: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        grid = self._affine(grid=self._bent_grid())
        grid[:2] = grid[:2] * self._step_px / zoom + middle_px.view(2, 1, 1)
        shown = zoom / float(np.mean(self._affine.scale_params or 1.0))
        images = self._sample(torch.cat([hu - PADDING_HU, depth_mm]), grid, mode="bilinear")
        labels = self._sample(truth, grid, mode="nearest")
        count = len(hu)
        images = torch.cat([images[:count] + PADDING_HU, images[count:] * shown, labels])
        hu, depth_mm, truth = torch.split(self._flip(images), count)
        return hu, truth, depth_mm

    def _bent_grid(self) -> Tensor:
        """(3, size, size): coordinates of the target in its pixels from its middle, on some slices bent."""
        from monai.transforms import CenterSpatialCrop
        from monai.transforms.utils import create_grid

        size = (self._target.size_px, self._target.size_px)
        if self._rng.uniform() >= self._bend_share:
            return torch.as_tensor(create_grid(size, backend="torch"), dtype=torch.float32)
        knots = self._bend(spatial_size=size).unsqueeze(0).float()
        bent = functional.interpolate(knots, scale_factor=float(self._knots_px), mode="bilinear", align_corners=False)
        cropped: Tensor = CenterSpatialCrop(roi_size=size)(bent[0])
        return cropped.contiguous()


def _box(present: Tensor) -> tuple[Tensor, Tensor]:
    """(n, pixels) bool to middle and length of the span from the first to the last; all of it where there is none."""
    size = present.shape[1]
    empty = ~present.any(dim=1)
    first = torch.where(empty, 0, present.int().argmax(dim=1))
    last = torch.where(empty, size - 1, size - 1 - present.flip(1).int().argmax(dim=1))
    return (first + last) / 2, (last - first + 1).float()
