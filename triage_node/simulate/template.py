"""The folds of real brains for the simulated head: grey and white matter of the MNI152 template, as nilearn carries it.

Only the tissue comes from the template (MNI152 2009 nonlinear asymmetric, 1 mm, averaged over 152 people); skull,
ventricles, membranes, vessels and blood stay the implicit functions of this package, whose mean head was fitted to the
template (2.9 % of the points above the skull base differ, measured). Needs the `train` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from scipy import ndimage

from triage_node.domain import Float32Array
from triage_node.errors import UsageError
from triage_node.simulate.fields import Points, WaveField
from triage_node.simulate.geometry import Lattice

_TO_MNI: Final = (-1.106, -1.097, 1.176)
"""Head frame (mm, LPS) to MNI (mm, RAS), by axis; fitted to the intracranial space."""
_MNI_AT_ORIGIN_MM: Final = (0.0, -11.9, -1.4)
_UPPER_Z_SCALE: Final = 1.10
"""Above the origin: the vault of the mean head is flatter than the template's."""
_FIRST_VOXEL_MM: Final = (-98.0, -134.0, -72.0)
_COARSE: Final = 2
_SEAM_MM: Final = (1.0, 3.4)
"""The template fades at its surface over some 3 mm. Where it is as certain as the wall of a sulcus, there this brain
ends: the template is pushed out by the first, and for a wall at 1 by both."""
_CONFORM_MM: Final = 28.0
"""How deep the brain is bent to follow the inner table."""
_MOST_BENT_MM: Final = 9.0
_OPENED_BY_BLOOD: Final = 0.12
_WIDEST_OPEN: Final = 0.6
"""Deep grey matter is no more than this certain in places, and no fluid space."""
_DEEP_MM: Final = 14.0
_MOST_SWELL_MM: Final = 2.0
_CENTRE_MM: Final = (0.0, 6.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Template:
    """Maps in the space of the template."""

    grey: Float32Array
    """Probability of grey matter, 0..1; (197, 233, 189) float32, 1 mm."""
    white: Float32Array
    """Of white matter, likewise."""
    surface: Float32Array
    """Distance to the surface of the brain, mm, negative inside; (99, 117, 95) float32, every _COARSE-th voxel."""


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """The template on one lattice; (rows, columns) float32."""

    brain: Float32Array
    """Probability of grey or white matter, 0..1."""
    grey: Float32Array
    """Share of grey matter in it, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """How the template is bent for one brain."""

    template: Template
    coarse: tuple[WaveField, WaveField, WaveField]
    coarse_mm: float
    fine: tuple[WaveField, WaveField, WaveField]
    fine_mm: float
    wall: float
    """Probability of tissue at the walls of the sulci: higher in shrunken brains."""
    steepness_mm: float
    """Millimetres from no tissue to tissue only."""
    contrast: float
    """How much steeper grey matter turns to white than in the template, which is a mean of many heads."""

    @classmethod
    def random(cls, rng: np.random.Generator, template: Template, *, age: float) -> Folds:
        """Bent by 0.5 to 3.2 mm over 42 mm and up to 1.2 mm over 22 mm; from tight (`age` 0) to shrunken (1)."""

        def waves(wavelength_mm: float) -> tuple[WaveField, WaveField, WaveField]:
            x, y, z = (WaveField.random(rng, wavelength_mm=wavelength_mm, waves=24) for _ in range(3))
            return x, y, z

        return cls(
            template=template,
            coarse=waves(42.0),
            coarse_mm=rng.uniform(0.5, 3.2),
            fine=waves(22.0),
            fine_mm=rng.uniform(0.0, 1.2),
            wall=float(np.clip(0.28 + 0.4 * age + rng.normal(0, 0.07), 0.15, 0.72)),
            steepness_mm=rng.uniform(2.0, 4.0),
            contrast=rng.uniform(1.0, 2.4),
        )

    def warped(self, p: Points, lattice: Lattice) -> Points:
        """Canonical points of `lattice` bent by the waves."""
        x, y, z = (
            np.asarray(
                a + np.float32(self.coarse_mm) * wide.on(lattice) + np.float32(self.fine_mm) * narrow.on(lattice),
                np.float32,
            )
            for a, wide, narrow in zip(p, self.coarse, self.fine, strict=True)
        )
        return x, y, z

    def tissue(self, p: Points, brain_depth: Float32Array) -> Tissue:
        """See sample_tissue."""
        return sample_tissue(self.template, p, brain_depth, seam_mm=_SEAM_MM[0] + self.wall * _SEAM_MM[1])

    def cortex(self, grey: Float32Array) -> Float32Array:
        """Share of grey matter, 0..1, from that of the template."""
        return np.asarray(np.clip(0.5 + (grey - np.float32(0.5)) * np.float32(self.contrast), 0, 1), np.float32)

    def distance(self, brain: Float32Array, *, filled: bool = False) -> Float32Array:
        """Distance to the walls of the fluid spaces, mm, negative in fluid; blood that has `filled` them opens them."""
        if not filled:
            return np.asarray((brain - np.float32(self.wall)) * np.float32(self.steepness_mm), np.float32)
        wall = max(self.wall, min(self.wall + _OPENED_BY_BLOOD, _WIDEST_OPEN))
        certain = (brain - np.float32(max(self.wall, _WIDEST_OPEN))) * np.float32(self.steepness_mm)
        space = (brain - np.float32(wall)) * np.float32(self.steepness_mm)
        # however much blood swells the spaces, certain tissue stays tissue
        return np.asarray(np.where(certain > 0, space + np.float32(_MOST_SWELL_MM), space), np.float32)


@cache
def load_template() -> Template:
    """The template, once for a process. UsageError without nilearn."""
    try:
        from nilearn import datasets  # the node runs without it
    except ModuleNotFoundError as error:
        raise UsageError("the MNI152 template comes with nilearn: pip install 'triage-node[train]'") from error

    grey, white = (
        np.asarray(load(resolution=1).get_fdata(), np.float32)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj)[::_COARSE, ::_COARSE, ::_COARSE] > 0
    brain = _smooth_hull(mask)
    distance_mm = _COARSE * (ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain))
    surface = ndimage.gaussian_filter(distance_mm.astype(np.float32), 1.0)
    return Template(grey=grey, white=_without_ventricles(grey, white, surface), surface=surface)


def _without_ventricles(grey: Float32Array, white: Float32Array, surface: Float32Array) -> Float32Array:
    """White matter where the template has its lateral ventricles: `brain` draws ventricles, wide or narrow."""
    x, y, z = np.ogrid[
        tuple(slice(first, first + count) for first, count in zip(_FIRST_VOXEL_MM, grey.shape, strict=True))
    ]
    beside = (np.abs(x) > 3) & (np.abs(x) < 36) & (y > -50) & (y < 38) & (z > 3) & (z < 34)
    behind = (np.abs(x) < 13) & (y < -25) & (z < 18)  # the cistern behind the midbrain stays
    filled = ndimage.binary_dilation(
        (grey + white < 0.55) & (_whole(surface, grey.shape) < -_DEEP_MM) & beside & ~behind, iterations=3
    )
    return np.asarray(np.maximum(white, ndimage.gaussian_filter(filled.astype(np.float32), 0.7)), np.float32)


def _whole(coarse: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """Every voxel, by the nearest."""
    whole = coarse.repeat(_COARSE, axis=0).repeat(_COARSE, axis=1).repeat(_COARSE, axis=2)
    return whole[: shape[0], : shape[1], : shape[2]]


def _smooth_hull(mask: np.ndarray, *, closing_mm: float = 5.0) -> np.ndarray:
    """Without the sulci."""
    grown = _COARSE * ndimage.distance_transform_edt(~mask) <= closing_mm
    return np.asarray(_COARSE * ndimage.distance_transform_edt(grown) > closing_mm)


def sample_tissue(template: Template, p: Points, brain_depth: Float32Array, *, seam_mm: float) -> Tissue:
    """The tissue at canonical points `p`, bent so that the template's surface lies `seam_mm` above `brain_depth` 0.

    Bending along the line to the middle of the head keeps every gyrus and closes or opens the space under the bone.
    """
    where = brain_depth > -2.0
    inside = (p[0][where], p[1][where], p[2][where])
    bent = _conformed(template, inside, brain_depth[where] + np.float32(seam_mm))
    grey, white = (_at(volume, bent) for volume in (template.grey, template.white))
    brain = np.minimum(grey + white, 1.0)
    out = {"brain": brain, "grey": grey / np.maximum(grey + white, 1e-3)}
    return Tissue(**{name: _scattered(where, values) for name, values in out.items()})


def _conformed(template: Template, p: Points, brain_depth: Float32Array) -> Points:
    excess = _at(template.surface, p, every=_COARSE) + brain_depth
    fade = np.clip(1 - brain_depth / np.float32(_CONFORM_MM), 0, 1)
    shift = np.clip(excess, -_MOST_BENT_MM, _MOST_BENT_MM) * fade
    rel = [a - np.float32(c) for a, c in zip(p, _CENTRE_MM, strict=True)]
    radius = np.sqrt(rel[0] ** 2 + rel[1] ** 2 + rel[2] ** 2 + np.float32(25))
    x, y, z = (a - shift * r / radius for a, r in zip(p, rel, strict=True))
    return x, y, z


def _at(volume: Float32Array, p: Points, *, every: int = 1) -> Float32Array:
    """`volume` holds every `every`-th voxel of the template."""
    x, y, z = p
    z_scale = np.where(z > 0, np.float32(_UPPER_Z_SCALE), np.float32(_TO_MNI[2]))
    voxels = [
        (scaled + np.float32(offset - first)) * np.float32(1 / every)
        for scaled, offset, first in zip(
            (x * np.float32(_TO_MNI[0]), y * np.float32(_TO_MNI[1]), z * z_scale),
            _MNI_AT_ORIGIN_MM,
            _FIRST_VOXEL_MM,
            strict=True,
        )
    ]
    return np.asarray(ndimage.map_coordinates(volume, voxels, order=1, mode="nearest"), np.float32)


def _scattered(where: np.ndarray, values: Float32Array) -> Float32Array:
    out = np.zeros(where.shape, np.float32)
    out[where] = values
    return out
