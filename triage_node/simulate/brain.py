"""The brain and the spaces around it as implicit functions of head coordinates (frame: see skull)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from triage_node.domain import Float32Array
from triage_node.simulate.details import Details
from triage_node.simulate.fields import Point, Points, WaveField, capsule, chain, ellipsoid, join, share
from triage_node.simulate.geometry import Lattice

FOLD_WAVELENGTH_MM = 26.0
_WIDE_GAP = 0.15
"""Share of heads with fluid under the bone, more in front: shrunken brains and hygromas, without blood."""
FOLIA_WAVELENGTH_MM = 7.0


@dataclass(frozen=True, kw_only=True)
class Brain:
    """What one simulated brain is like."""

    age: float
    """0 young and tight, 1 old and shrunken."""
    white_hu: float
    grey_over_white_hu: float
    csf_hu: float
    dura_hu: float
    sheets: float
    """How much of falx and tentorium shows: they are thinner than a pixel."""
    sinus_hu: float
    gap_mm: float
    """Mean depth of the fluid under the inner table; zero or less where the cortex lies against the bone."""
    gap_spread_mm: float
    lift_hu: float
    """Tail of the bone: brightness added at the inner table (measured on a real head: 10 to 20 HU)."""
    lift_tau_mm: float
    tail_hu: float
    """The steep part of that tail, over the first millimetres."""
    sulcus_mm: float
    """Half width of the sulci."""
    cistern_mm: float
    """Offset of the cisterns: positive is wider."""
    ventricle_mm: float
    """Offset of the ventricle walls: positive is wider."""
    ventricle_skew: float
    midline_mm: float
    leukoaraiosis_hu: float
    infarcts: tuple[tuple[Point, float, float], ...]
    """(centre, radius mm, HU change)."""
    details: Details
    nuclei: float
    """How grey caudate, lentiform nucleus and thalamus are beside the cortex: they show by 3 to 10 HU."""
    vermis_hu: float
    """How much brighter the vermis of the cerebellum is than its hemispheres."""
    fold: WaveField
    folia: WaveField
    rim: WaveField
    lift: WaveField
    mottle: WaveField
    wander: WaveField

    @classmethod
    def random(cls, rng: np.random.Generator) -> Brain:
        """From a young tight brain to an old shrunken one."""
        age = rng.uniform(0, 1)
        wide = rng.random() < _WIDE_GAP
        return cls(
            age=age,
            white_hu=rng.uniform(23, 34),
            grey_over_white_hu=rng.uniform(4, 11),
            csf_hu=rng.uniform(0, 13),
            dura_hu=rng.uniform(40, 75),
            sheets=rng.uniform(0.15, 1.0),
            sinus_hu=rng.uniform(42, 78),
            gap_mm=rng.uniform(1.5, 5.5) if wide else float(rng.uniform(-3.0, 0.5) + 2.6 * max(0, age - 0.55)),
            gap_spread_mm=rng.uniform(0.3, 1.8),
            lift_hu=float(rng.uniform(2, 20)) if rng.random() < 0.9 else 0.0,
            lift_tau_mm=rng.uniform(3, 12),
            tail_hu=rng.uniform(16, 108),
            sulcus_mm=float(np.clip(rng.normal(-0.3 + 1.3 * age, 0.3), -0.5, 1.6)),
            cistern_mm=float(rng.normal(-1.2 + 2.2 * age, 0.6)),
            ventricle_mm=float(np.clip(rng.normal(-1.0 + 3.2 * age, 0.9), -2.0, 6.0)),
            ventricle_skew=rng.normal(0, 0.5),
            midline_mm=rng.normal(0, 0.8),
            leukoaraiosis_hu=-12 * max(0.0, age - 0.4) * rng.uniform(0, 1.6),
            infarcts=_old_infarcts(rng),
            details=Details.random(rng, age=age),
            nuclei=rng.uniform(0.5, 1.2),
            vermis_hu=float(rng.uniform(0, 7)) if rng.random() < 0.6 else 0.0,
            fold=WaveField.random(rng, wavelength_mm=FOLD_WAVELENGTH_MM, spread=0.2, waves=64),
            folia=_layered(rng, wavelength_mm=FOLIA_WAVELENGTH_MM),
            rim=WaveField.random(rng, wavelength_mm=45, waves=24),
            lift=WaveField.random(rng, wavelength_mm=70, waves=24),
            mottle=WaveField.random(rng, wavelength_mm=18, spread=0.5, waves=32),
            wander=WaveField.random(rng, wavelength_mm=70, waves=16),
        )


def _layered(rng: np.random.Generator, *, wavelength_mm: float) -> WaveField:
    """Waves mostly along z and y: the leaves of the cerebellum lie flat."""
    field = WaveField.random(rng, wavelength_mm=wavelength_mm, spread=0.2, waves=24)
    flat = field.vectors * np.array([0.3, 0.8, 1.0])
    flat *= 2 * math.pi / wavelength_mm / np.linalg.norm(flat, axis=1, keepdims=True)
    return WaveField(vectors=flat, phases=field.phases)


def _old_infarcts(rng: np.random.Generator) -> tuple[tuple[Point, float, float], ...]:
    count = int(rng.choice([0, 1, 2, 4], p=[0.72, 0.15, 0.08, 0.05]))
    found: list[tuple[Point, float, float]] = []
    for _ in range(count):
        deep = rng.random() < 0.6
        centre = _deep_site(rng) if deep else _lobar_site(rng)
        found.append((centre, rng.uniform(2, 5) if deep else rng.uniform(8, 22), rng.uniform(-26, -5)))
    return tuple(found)


def _deep_site(rng: np.random.Generator) -> Point:
    side = rng.choice([-1.0, 1.0])
    return (float(side * rng.uniform(14, 32)), rng.uniform(-22, 18), rng.uniform(-4, 18))


def _lobar_site(rng: np.random.Generator) -> Point:
    angle = rng.uniform(-math.pi, math.pi)
    return (44 * math.sin(angle), 4 + 56 * math.cos(angle), rng.uniform(-5, 45))


@dataclass(frozen=True, kw_only=True)
class BrainFields:
    """The brain on one lattice; (rows, columns) float32; distances in mm, negative inside."""

    ventricle: Float32Array
    cistern: Float32Array
    """Cisterns and large fissures."""
    fold: Float32Array
    """Distance to the nearest sulcus sheet, signed by side: its absolute value counts."""
    fold_depth: Float32Array
    """How deep sulci reach here, mm below the brain surface."""
    midline: Float32Array
    """Distance to the plane of the falx, signed by side."""
    falx: Float32Array
    """Where in that plane the falx and its fissure are."""
    tentorium: Float32Array
    """Distance to its sheet, signed: negative below; its reach is in it."""
    sinus: Float32Array
    deep_grey: Float32Array
    """How grey the nuclei deep in the brain are beside its cortex, 0 to a little over 1."""
    tissue_hu: Float32Array
    """What is added to white matter here: deep grey, brain stem and `change_hu`."""
    change_hu: Float32Array
    """What is added to any tissue here: old infarcts, leukoaraiosis, mottle."""
    cortex: Float32Array
    """0..1: how much cortex shows near sulci and surface (little in the brain stem)."""
    lower_stem: Float32Array
    """Distance to the brain stem below the midbrain."""
    gap: Float32Array
    """Depth of the fluid below the dura, mm."""
    lift_hu: Float32Array
    """Brightness at the inner table, to decay with depth."""


def brain_fields(brain: Brain, lattice: Lattice, skull_points: Points, p: Points) -> BrainFields:
    """Evaluate the brain at `p`: `skull_points` moved by what presses on it."""
    x, y, z = p
    middle = middle_x(brain, lattice, x)
    m = (np.abs(middle), y, z)
    sx, sy, sz = skull_points
    falx_x = (0.5 * (x + sx)) - np.float32(1.0) * brain.wander.on(lattice)
    tent, below = _tentorium(m)
    ventricle = _ventricles(brain, m, middle)
    change_hu = _changes(brain, lattice, (middle, y, z), ventricle)
    stem = _stem(m)
    deep_grey = _nuclei(m)
    return BrainFields(
        ventricle=ventricle,
        cistern=_cisterns(brain, m),
        fold=_fold(brain, lattice, below),
        fold_depth=np.asarray(np.where(below > 0.5, 9.0, 15.0) + 4.0 * brain.mottle.on(lattice), np.float32),
        midline=falx_x,
        falx=_falx((falx_x, sy, sz), below),
        tentorium=tent,
        sinus=_sinuses(brain, skull_points),
        deep_grey=np.asarray(brain.nuclei * deep_grey, np.float32),
        tissue_hu=np.float32(brain.grey_over_white_hu) * (0.85 * deep_grey + 0.35 * share(stem, edge_mm=5)) + change_hu,
        change_hu=change_hu,
        cortex=np.asarray(1 - share(stem, edge_mm=4) * 0.9, np.float32),
        lower_stem=np.maximum(stem, z + np.float32(28)),
        gap=_gap(brain, lattice, y),
        lift_hu=np.asarray(brain.lift_hu * np.clip(1 + 0.35 * brain.lift.on(lattice), 0, 2), np.float32),
    )


def middle_x(brain: Brain, lattice: Lattice, x: Float32Array) -> Float32Array:
    """How far to the left of the middle of this brain, which is not straight."""
    return np.asarray(x - np.float32(brain.midline_mm) - np.float32(1.2) * brain.wander.on(lattice), np.float32)


def _ventricles(brain: Brain, m: Points, middle: Float32Array) -> Float32Array:
    lateral = chain(
        m,
        [
            ((12.5, -38, 2), 2.6),
            ((7.5, -24, 8), 3.6),
            ((6.5, -8, 15), 3.2),
            ((8.5, 12, 20), 3.4),
            ((17, 29, 16), 4.2),
            ((24, 36, 7), 5.2),
            ((23, 52, 3), 3.0),
            ((21, 64, 2), 0.8),
        ],
    )
    horn = chain(m, [((25, 34, 4), 3.6), ((33, 18, -12), 2.0), ((32, -2, -20), 1.8)])
    frontal = ellipsoid((m[0] + np.float32(0.3) * (m[1] + 25), m[1], m[2]), (8.5, -25, 6), (4.2, 13, 9.5))
    sides = join(lateral, frontal, horn, softness_mm=4)
    sides = sides - np.float32(brain.ventricle_mm) * (1 + np.float32(0.25 * brain.ventricle_skew) * np.sign(middle))
    # the septum keeps the two apart, however wide they are
    sides = np.maximum(sides, np.float32(0.7) - m[0])
    widening = 0.35 * brain.ventricle_mm
    third = ellipsoid(m, (0, 2, -2), (2.2 + max(widening, -0.8), 15, 11))
    fourth = ellipsoid(m, (0, 32, -32), (8.0 + widening, 6.0 + widening, 11))
    aqueduct = capsule(m, (0, 18, -10), (0, 29, -26), 0.9)
    return join(np.asarray(sides, np.float32), third, fourth, aqueduct)


def _cisterns(brain: Brain, m: Points) -> Float32Array:
    side, y, z = m
    star = join(
        ellipsoid(m, (0, -12, -24), (9, 9, 6)),
        capsule(m, (6, -18, -22), (26, -22, -20), 2.2, 1.6),
        capsule(m, (5, -6, -22), (18, 4, -18), 2.0, 1.6),
        softness_mm=4,
    )
    ambient = np.abs(ellipsoid((side, y, z), (0, 11, -12), (16.5, 13.5, 40))) - np.float32(0.8)
    ambient = np.maximum(np.maximum(ambient, np.abs(z + 12 - 0.25 * y) - 6), np.maximum(5 - y, side - 15.5))
    plate = ellipsoid(m, (0, 27, -4), (9, 4, 5))
    pons = np.maximum(np.abs(ellipsoid(m, (0, 13, -34), (17, 14.5, 24))) - 1.4, y - 4)
    magna = ellipsoid(m, (0, 60, -58), (11, 13, 7))
    insula = np.abs(side - 37 - 0.012 * (y + 5) ** 2 - 0.012 * (z - 2) ** 2) - np.float32(0.8)
    insula = np.maximum(np.maximum(insula, np.abs(y + 4) - 19), np.abs(z - 3 - 0.1 * y) - 12)
    level = z - 1 - np.float32(0.25) * (y + 5)
    sylvian = np.maximum(np.abs(level) - 1.1, np.maximum(38 - side, np.abs(y + 8) - 26))
    spaces = join(star, np.asarray(ambient, np.float32), plate, np.asarray(pons, np.float32), magna, softness_mm=2)
    fissures = join(np.asarray(insula, np.float32), np.asarray(sylvian, np.float32), softness_mm=2)
    return join(spaces, fissures) - np.float32(brain.cistern_mm * 0.7)


def _fold(brain: Brain, lattice: Lattice, below: Float32Array) -> Float32Array:
    cerebrum = brain.fold.on(lattice) * np.float32(FOLD_WAVELENGTH_MM / (2 * math.pi) * 1.1)
    cerebellum = brain.folia.on(lattice) * np.float32(FOLIA_WAVELENGTH_MM / (2 * math.pi) * 1.1) + 0.5
    return np.asarray(cerebrum + (cerebellum - cerebrum) * below, np.float32)


def _tentorium(m: Points) -> tuple[Float32Array, Float32Array]:
    """Distance to the sheet (far off outside its reach), and how much a point lies below it, 0..1."""
    side, y, z = m
    height = 12 - np.float32(0.42) * side - np.float32(0.22) * np.maximum(y - 22, 0) - np.float32(0.1) * side**2 / 60
    signed = (z - height) * np.float32(0.88)
    below = np.clip(0.5 - signed / 3, 0, 1) * np.clip((y + 12 - 0.2 * side + 0.5 * (z + 30)) / 6, 0, 1)
    notch = ellipsoid((side, y, np.zeros_like(y)), (0, 6, 0), (20, 34, 99))
    outside = np.maximum(-notch, 8 + 0.3 * side - y)
    return np.where(outside > 0, np.sign(signed) * np.hypot(signed, outside), signed), np.asarray(below, np.float32)


def _falx(p: Points, below: Float32Array) -> Float32Array:
    """Negative where the falx hangs: everywhere above the corpus callosum and in front, and not below the tent."""
    _, y, z = p
    free = ellipsoid((np.zeros_like(y), y, z), (0, 2, -4), (99, 50, 36))
    return np.maximum(np.maximum(-free, -18 - z), below * 40 - 20)


def _sinuses(brain: Brain, p: Points) -> Float32Array:
    x, y, z = p
    arc = [
        ((0.0, 81 * math.sin(t) + 4, 76 * math.cos(t)), 1.6 + 2.4 * (t + 1) / 2.9) for t in np.linspace(-1.0, 1.62, 13)
    ]
    sagittal = chain(p, arc)
    transverse = chain(
        (np.abs(x), y, z),
        [((0, 84, 0), 4.6), ((22, 80, -4), 3.6), ((44, 60, -10), 3.4), ((56, 42, -16), 3.4), ((50, 32, -38), 3.6)],
    )
    straight = capsule(p, (0, 34, 10), (0, 82, 0), 1.5, 2.6)
    return join(sagittal, transverse, straight, softness_mm=2)


def _gap(brain: Brain, lattice: Lattice, y: Float32Array) -> Float32Array:
    """Wider in front."""
    depth = (brain.gap_mm + brain.gap_spread_mm * brain.rim.on(lattice)) * np.clip(0.9 - 0.006 * y, 0.4, 1.4)
    return np.asarray(np.clip(depth, 0, 8), np.float32)


def _stem(m: Points) -> Float32Array:
    return join(
        ellipsoid(m, (0, 10, -14), (16, 13, 14)),
        ellipsoid(m, (0, 13, -34), (16, 13, 15)),
        capsule(m, (0, 18, -46), (0, 26, -110), 9, 6.5),
        softness_mm=4,
    )


def _nuclei(m: Points) -> Float32Array:
    """How much of caudate, lentiform nucleus or thalamus there is, 0..1."""
    caudate = chain(m, [((14, -24, 6), 5.2), ((15, -8, 16), 3.2), ((20, 10, 20), 1.8)])
    lentiform = ellipsoid((m[0] - np.float32(0.12) * m[1], m[1], m[2]), (25, -2, 2), (7, 17, 9))
    thalamus = ellipsoid((m[0] - np.float32(0.25) * (m[1] - 10), m[1], m[2]), (10, 10, 6), (8, 13, 8.5))
    return share(join(caudate, lentiform, thalamus), edge_mm=2.5)


def _changes(brain: Brain, lattice: Lattice, p: Points, ventricle: Float32Array) -> Float32Array:
    hu = brain.leukoaraiosis_hu * np.exp(-np.maximum(ventricle, 0) / 6) * (p[2] > -10)
    hu = hu + brain.vermis_hu * share(ellipsoid(p, (0, 46, -26), (4.5, 14, 16)), edge_mm=4)
    for centre, radius, change in brain.infarcts:
        spot = ellipsoid(p, centre, (radius, radius * 1.2, radius)) + 0.15 * radius * brain.mottle.on(lattice)
        hu = hu + change * share(np.asarray(spot, np.float32), edge_mm=3)
    return np.asarray(hu + 0.8 * brain.mottle.on(lattice), np.float32)
