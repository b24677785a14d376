"""The skull, the face and the skin as implicit functions of head coordinates.

Head frame: mm, x left, y posterior, z to the vertex (LPS of a head held straight), origin amid the brain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triage_node.domain import Float32Array
from triage_node.simulate.fields import Points, WaveField, capsule, chain, cut, ellipsoid, join, share
from triage_node.simulate.geometry import Lattice


@dataclass(frozen=True, kw_only=True)
class Skull:
    """What one simulated skull is like."""

    scale: tuple[float, float, float]
    """Size of the head against the mean, by axis."""
    egg: float
    """How much narrower the forehead is than the back, relative per mm."""
    thickness_mm: float
    scalp_mm: float
    table_hu: float
    diploe_hu: float
    fat_hu: float
    muscle_hu: float
    air_cells: float
    """Threshold of the mastoid air cells: higher is fewer."""
    sinus_size: float
    asymmetry: float
    warp: tuple[WaveField, WaveField, WaveField]
    warp_mm: float
    thickness_noise: WaveField
    scalp_noise: WaveField
    texture: WaveField
    cells: WaveField
    suture: WaveField

    @classmethod
    def random(cls, rng: np.random.Generator) -> Skull:
        """A skull like a grown-up's."""
        size = rng.normal(1.0, 0.025)
        return cls(
            scale=(
                float(np.clip(size * rng.normal(1, 0.03), 0.9, 1.1)),
                float(np.clip(size * rng.normal(1, 0.03), 0.9, 1.1)),
                float(np.clip(size * rng.normal(1, 0.03), 0.9, 1.1)),
            ),
            egg=rng.uniform(0.0003, 0.0022),
            thickness_mm=rng.uniform(4.5, 9.5),
            scalp_mm=rng.uniform(3.5, 10.0),
            table_hu=rng.uniform(1000, 1700),
            diploe_hu=rng.uniform(350, 900),
            fat_hu=rng.uniform(-110, -70),
            muscle_hu=rng.uniform(40, 62),
            air_cells=rng.uniform(-0.6, 0.8),
            sinus_size=rng.uniform(0.75, 1.15),
            asymmetry=rng.normal(0, 0.012),
            warp=(
                WaveField.random(rng, wavelength_mm=90, waves=16),
                WaveField.random(rng, wavelength_mm=90, waves=16),
                WaveField.random(rng, wavelength_mm=90, waves=16),
            ),
            warp_mm=rng.uniform(0.8, 2.2),
            thickness_noise=WaveField.random(rng, wavelength_mm=55, waves=24),
            scalp_noise=WaveField.random(rng, wavelength_mm=60, waves=16),
            texture=WaveField.random(rng, wavelength_mm=22, spread=0.5, waves=32),
            cells=WaveField.random(rng, wavelength_mm=8, spread=0.4, waves=64),
            suture=WaveField.random(rng, wavelength_mm=9, waves=24),
        )


def canonical_points(skull: Skull, lattice: Lattice) -> Points:
    """Points of the lattice in the mean head: scaled, warped, slightly lopsided. Each (rows, columns) float32, mm."""
    x, y, z = lattice.points()
    warped = [
        a / np.float32(s) + np.float32(skull.warp_mm) * field.on(lattice)
        for a, s, field in zip((x, y, z), skull.scale, skull.warp, strict=True)
    ]
    x, y, z = warped
    lopsided = 1 - np.float32(skull.asymmetry) * np.sign(x) * np.minimum(np.abs(y), 40) / 40
    return np.asarray(x * lopsided, np.float32), y, z


def cavity(skull: Skull, p: Points) -> Float32Array:
    """Distance to the inner table, mm: negative inside the skull."""
    x, y, z = p
    side = np.abs(x)
    widening = 1 - np.float32(skull.egg) * np.clip(y - 15, -80, 30) - np.float32(0.09 / 82**2) * (y - 4) ** 2
    vault = ellipsoid((x * widening, y, z + np.where(z < 0, -0.25 * z, 0)), (0, 4, 0), (66, 82, 77))
    floor = np.float32(-27) + 19 / (1 + np.exp((y + 30) * np.float32(0.25))) - np.float32(0.04) * np.maximum(y, 0)
    floor = floor + 3.5 * np.exp(-((side - 30) ** 2 + (y + 58) ** 2) / 260) - 3 * np.exp(-(side**2) / 80)
    fore = -join(-vault, z - floor, softness_mm=6)
    middle = ellipsoid((side, y, z), (38, -11, -20), (26, 34, 22))
    hind = ellipsoid((side, y, z), (0, 36, -26), (53, 47, 40))
    canal = capsule(p, (0, 18, -40), (0, 28, -130), 17, 14)
    inside = join(fore, middle, hind, softness_mm=5)
    inside = cut(inside, petrous(p), softness_mm=3)
    wing = chain((side, y, z), [((11, -22, -17), 3.5), ((40, -38, -13), 2.0), ((64, -34, -4), 2.0)])
    inside = cut(inside, wing, softness_mm=3)
    return join(inside, canal, softness_mm=4)


def petrous(p: Points) -> Float32Array:
    """Distance to the petrous ridges, mm."""
    return capsule((np.abs(p[0]), p[1], p[2]), (13, 4, -36), (64, 27, -30), 6.5, 12)


@dataclass(frozen=True, kw_only=True)
class SkullFields:
    """Everything outside the brain, on one lattice; (rows, columns) float32, mm, negative inside."""

    cavity: Float32Array
    thickness: Float32Array
    """Of the vault here."""
    head: Float32Array
    """The skin."""
    base: Float32Array
    """Bone that does not follow the cavity: face, orbit walls, skull base."""
    air: Float32Array
    """Sinuses, nose, mouth, ear canals."""
    soft_hu: Float32Array
    """Fat, muscle, eyes: HU where there is neither bone nor air."""
    suture: Float32Array
    """Distance to the sutures of the vault."""


def skull_fields(skull: Skull, lattice: Lattice, p: Points) -> SkullFields:
    """Evaluate the skull at canonical points `p` of `lattice`."""
    inside = cavity(skull, p)
    x, y, z = p
    mirrored = (np.abs(x), y, z)
    orbit = join(
        ellipsoid(mirrored, (30, -68, -23), (18, 17, 16)),
        capsule(mirrored, (28, -58, -22), (14, -34, -19), 11, 3),
        softness_mm=4,
    )
    thickness = _thickness(skull, lattice, p, orbit)
    sinuses = _sinuses(skull, mirrored) + np.float32(1.1) * skull.texture.on(lattice)
    return SkullFields(
        cavity=inside,
        thickness=thickness,
        head=_skin(skull, lattice, p, inside, thickness),
        base=_base(mirrored, orbit, sinuses),
        air=_air(skull, lattice, mirrored, sinuses),
        soft_hu=_soft_tissue(skull, lattice, mirrored, orbit),
        suture=_sutures(skull, lattice, p),
    )


def _thickness(skull: Skull, lattice: Lattice, p: Points, orbit: Float32Array) -> Float32Array:
    x, y, z = p
    temporal = np.exp(-((z + 5) ** 2) / 900 - (y**2) / 1600) * np.minimum(np.abs(x) / 60, 1)
    shape = 1 + 0.16 * skull.thickness_noise.on(lattice) - 0.45 * temporal + 0.25 * (np.abs(y) / 85) ** 2
    return np.asarray(
        np.clip(skull.thickness_mm * shape, 2.5, 16) * (1 - 0.9 * np.exp(-np.maximum(orbit, 0) / 5) * (y > -74)),
        dtype=np.float32,
    )


def _sutures(skull: Skull, lattice: Lattice, p: Points) -> Float32Array:
    """Coronal, sagittal and lambdoid: fine wavy gaps, above the base only."""
    x, y, z = p
    wave = 1.6 * skull.suture.on(lattice)
    coronal = np.abs(y + 14 + 0.25 * (z - 60) + wave)
    sagittal = np.maximum(np.abs(x + wave), -14 - y)
    lambdoid = np.abs(y - 74 + 0.42 * np.abs(x) + 0.3 * (z - 30) + wave)
    return np.asarray(np.maximum(np.minimum(np.minimum(coronal, sagittal), lambdoid) - 0.5, 4 - z), np.float32)


def _skin(skull: Skull, lattice: Lattice, p: Points, inside: Float32Array, thickness: Float32Array) -> Float32Array:
    x, y, z = p
    scalp = skull.scalp_mm * (1 + 0.2 * skull.scalp_noise.on(lattice))
    temporal = 5 * np.exp(-((z + 12) ** 2) / 700 - ((y + 22) ** 2) / 900) * np.clip((np.abs(x) - 35) / 20, 0, 1)
    vault = inside - thickness - np.asarray(scalp + temporal, dtype=np.float32)
    face = ellipsoid(p, (0, -48, -58), (60, 54, 70))
    nose = capsule(p, (0, -94, -22), (0, -114, -56), 7, 12)
    neck = capsule(p, (0, 26, -60), (0, 38, -180), 58, 62)
    ear = ellipsoid((np.abs(x), y, z), (79, 22, -26), (5, 13, 26))
    return join(vault, face, nose, neck, ear, softness_mm=12)


def _sinuses(skull: Skull, p: Points) -> Float32Array:
    s = skull.sinus_size
    return join(
        ellipsoid(p, (7, -20, -37), (9 * s, 11 * s, 9 * s)),
        ellipsoid(p, (27, -62, -54), (14 * s, 15 * s, 16 * s)),
        ellipsoid(p, (7, -58, -26), (7, 24, 11)),
        ellipsoid(p, (6, -62, -52), (6, 30, 16)),
        ellipsoid(p, (10, -81, -5), (11 * s, 4.5 * s, 11 * s)),
    )


def _base(p: Points, orbit: Float32Array, sinuses: Float32Array) -> Float32Array:
    walls = np.maximum(np.abs(orbit - 0.8) - 0.8, -(p[1] + 72))
    shells = np.abs(sinuses - 0.9) - 0.9
    clivus = ellipsoid(p, (0, -8, -42), (19, 17, 15))
    zygoma = chain(p, [((50, -66, -36), 5.0), ((64, -48, -40), 3.0), ((68, -10, -38), 2.5)])
    upper_jaw = np.maximum(ellipsoid(p, (0, -72, -78), (28, 28, 9)), -ellipsoid(p, (0, -66, -80), (20, 24, 20)))
    ramus = capsule(p, (50, -8, -46), (47, -24, -100), 4.5)
    neck_ring = np.abs(capsule(p, (0, 27, -82), (0, 32, -200), 21) - 3) - 4
    bridge = capsule(p, (0, -92, -14), (0, -102, -34), 4.0, 3.0)
    solid = join(clivus, zygoma, upper_jaw, ramus, neck_ring, bridge, softness_mm=2)
    return join(solid, np.asarray(walls, np.float32), np.asarray(shells, np.float32), petrous(p))


def _air(skull: Skull, lattice: Lattice, p: Points, sinuses: Float32Array) -> Float32Array:
    cells = skull.cells.on(lattice)
    septa = np.maximum(sinuses, 1.2 - np.abs(p[0]))
    ethmoid = ellipsoid(p, (7, -58, -26), (9, 26, 13))
    septa = np.where(ethmoid < 0, np.maximum(septa, (0.25 - np.abs(cells)) * 4), septa)
    mastoid = ellipsoid(p, (56, 30, -40), (12, 16, 18))
    mastoid = np.maximum(mastoid, (skull.air_cells - cells) * 2)
    ear_canal = capsule(p, (54, 15, -34), (86, 20, -32), 3.2, 4.0)
    middle_ear = ellipsoid(p, (48, 12, -33), (4, 5, 5))
    throat = capsule(p, (0, -22, -62), (0, -18, -140), 8, 7)
    mouth = ellipsoid(p, (0, -52, -84), (17, 22, 4))
    return join(np.asarray(septa, np.float32), np.asarray(mastoid, np.float32), ear_canal, middle_ear, throat, mouth)


def _soft_tissue(skull: Skull, lattice: Lattice, p: Points, orbit: Float32Array) -> Float32Array:
    """Face: fat and muscle, half each, in soft lumps; behind the orbit rim: fat, eye, lens, nerve, muscles."""
    lumps = np.clip(0.55 + 0.7 * skull.texture.on(lattice), 0, 1)
    lumps = lumps * (1 - 0.75 / (1 + np.exp(-(p[2] + 4) / 5)))
    hu = skull.fat_hu + lumps * np.float32(skull.muscle_hu - skull.fat_hu)
    chewing = share(chain(p, [((54, -30, 8), 7.0), ((60, -30, -24), 12.0), ((56, -28, -80), 14.0)]), edge_mm=4)
    neck = share(capsule(p, (18, 52, -66), (20, 52, -180), 30), edge_mm=8)
    hu = hu + (skull.muscle_hu - hu) * np.maximum(chewing, 0.85 * neck)
    hu = hu + (skull.fat_hu - hu) * share(orbit)
    eye = ellipsoid(p, (31, -76, -23), (12.2, 12.2, 12.2))
    hu = hu + (42 - hu) * share(eye - 1.0)
    hu = hu + (12 - hu) * share(eye + 0.8)
    hu = hu + (75 - hu) * share(ellipsoid(p, (31, -84.5, -23), (4.6, 2.2, 4.6)))
    strings = join(
        capsule(p, (30, -64, -23), (13, -36, -20), 2.2),
        capsule(p, (41, -74, -23), (17, -38, -20), 1.8),
        capsule(p, (20, -74, -23), (13, -40, -20), 1.8),
        capsule(p, (30, -72, -10), (15, -38, -16), 1.6),
        capsule(p, (30, -72, -36), (15, -38, -25), 1.6),
    )
    return np.asarray(hu + (45 - hu) * share(strings), dtype=np.float32)
