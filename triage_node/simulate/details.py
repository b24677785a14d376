"""What is bright, thin and no blood: arteries and veins, sella and clinoid processes, plexus and calcifications.

Frame: head coordinates (see skull). All of it is finer than the lattice of the smooth fields, and is evaluated at the
pixels near it. Why it is here: without it a network took the cavernous sinuses, the dorsum sellae and the edge of the
tentorium of a real head for subarachnoid blood (measured: docs/lab-notebook.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from triage_node.domain import Float32Array
from triage_node.simulate.fields import Point, Points, capsule, chain, ellipsoid, join

_NEAR_MM = 5.0
"""The coarse lattice finds what lies near; only there the exact distance is asked for."""
FAR_MM = 50.0


@dataclass(frozen=True, kw_only=True)
class Details:
    """What one head has of them."""

    artery_mm: float
    """How much wider than usual."""
    artery_hu: float
    skew_mm: float
    """How much wider on the patient's left than on the right: arteries, sinuses, processes."""
    nerve_hu: float
    """Of optic nerves and chiasm."""
    gland_hu: float
    """Of the pituitary gland and the cavernous sinuses."""
    gland_mm: float
    process_mm: float
    """How much thicker the dorsum sellae and the clinoid processes are; from -1.5 on they are not there."""
    process_hu: float
    edge_mm: float
    """How much thicker the free edge of the tentorium is; from -1 on it hardly shows."""
    plexus_mm: float
    """How much thicker the choroid plexus is than usual; from -1.5 on it hardly shows."""
    plexus_skew_mm: float
    plexus_hu: float
    calcifications: tuple[tuple[Point, float, float], ...]
    """(centre, radius mm, HU)."""

    @classmethod
    def random(cls, rng: np.random.Generator, *, age: float) -> Details:
        """From hardly to be seen to hardly to be told from blood; walls of arteries calcify with `age` 0..1."""
        return cls(
            artery_mm=rng.uniform(-0.7, 0.7),
            artery_hu=rng.uniform(36, 66),
            skew_mm=rng.normal(0, 0.3),
            nerve_hu=rng.uniform(24, 38),
            gland_hu=rng.uniform(36, 66),
            gland_mm=rng.uniform(-2.5, 1.2),
            process_mm=rng.uniform(-1.8, 1.6),
            process_hu=rng.uniform(180, 1100),
            edge_mm=rng.uniform(-1.0, 0.8),
            plexus_mm=rng.uniform(-2.5, 1.0),
            plexus_skew_mm=rng.normal(0, 0.4),
            plexus_hu=rng.uniform(33, 58),
            calcifications=_calcifications(rng, age),
        )


def _calcifications(rng: np.random.Generator, age: float) -> tuple[tuple[Point, float, float], ...]:
    """Pineal gland, choroid plexus, basal ganglia, walls of carotid and vertebral arteries, falx and its ligaments."""
    found: list[tuple[Point, float, float]] = []
    if rng.random() < 0.6:
        found.append(((rng.normal(0, 0.8), 27.0, 1.0), rng.uniform(1.0, 3.2), rng.uniform(60, 400)))
    for side in (-1.0, 1.0):
        if rng.random() < 0.55:
            site = (side * rng.normal(25, 1.5), rng.normal(35, 2), rng.normal(7, 2))
            found.append((site, rng.uniform(1.2, 4.2), rng.uniform(50, 350)))
        if rng.random() < 0.15:
            found.append(((side * rng.normal(19, 1.5), -2.0, 1.0), rng.uniform(1.5, 4.5), rng.uniform(45, 200)))
        if rng.random() < 0.1 + 0.7 * age:
            carotid = (side * rng.normal(12.5, 1.5), rng.uniform(-22, -10), rng.uniform(-31, -23))
            found.append((carotid, rng.uniform(0.8, 2.2), rng.uniform(90, 700)))
        if rng.random() < 0.3 * age:
            found.append(((side * rng.normal(8, 1), 6.0, rng.uniform(-66, -50)), 1.2, rng.uniform(90, 500)))
        if rng.random() < 0.2 * age:
            ligament = (side * rng.uniform(12, 17), rng.uniform(-10, -3), rng.uniform(-26, -18))
            found.append((ligament, rng.uniform(0.8, 1.8), rng.uniform(90, 500)))
    if rng.random() < 0.25:
        found.append(((0.0, rng.uniform(-60, -30), rng.uniform(30, 60)), rng.uniform(1.5, 4), rng.uniform(80, 500)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class DetailFields:
    """Distances, mm, negative inside, at the points asked for; float32."""

    vessel: Float32Array
    nerve: Float32Array
    gland: Float32Array
    process: Float32Array
    """Bone that stands free among fluid and vessels."""
    edge: Float32Array
    """The free edge of the tentorium."""
    plexus: Float32Array
    calcification: Float32Array
    calcification_hu: Float32Array
    """Of the nearest."""


def detail_fields(details: Details, points: Points, skull_points: Points) -> DetailFields:
    """`skull_points` in the mean head; `points` are the same in the brain: pushed by blood, its middle at x = 0."""
    x, y, z = points
    m = (np.abs(x), y, z)
    s = (np.abs(skull_points[0]), *skull_points[1:])
    left = np.sign(x)
    skew = np.float32(details.skew_mm) * left
    plexus_mm = np.float32(details.plexus_mm) + np.float32(details.plexus_skew_mm) * left
    calcification, calcification_hu = _calcified(details, points)
    return DetailFields(
        vessel=_vessels(m) - np.float32(details.artery_mm) - skew,
        nerve=_nerves(m),
        gland=_glands(s) - np.float32(details.gland_mm) - 2 * skew,
        process=_processes(s) - np.float32(details.process_mm) - skew,
        edge=_free_edge(s) - np.float32(details.edge_mm),
        plexus=_plexus(m) - plexus_mm,
        calcification=calcification,
        calcification_hu=calcification_hu,
    )


def refined_details(
    details: Details, points: Points, skull_points: Points, refine: Callable[[Float32Array], Float32Array]
) -> DetailFields:
    """The same on the lattice to which `refine` brings what is coarse; exact near the details, far off FAR_MM."""
    coarse = detail_fields(details, points, skull_points)
    distances = [getattr(coarse, f.name) for f in fields(coarse) if f.name != "calcification_hu"]
    near = join(*distances)
    fine = refine(near)
    out = {f.name: np.full_like(fine, FAR_MM) for f in fields(DetailFields)}
    where = fine < _NEAR_MM
    if near.min() < _NEAR_MM and where.any():
        some, some_skull = (
            (refine(x)[where], refine(y)[where], refine(z)[where]) for x, y, z in (points, skull_points)
        )
        exact = detail_fields(details, some, some_skull)
        for name, values in out.items():
            values[where] = getattr(exact, name)
    return DetailFields(**out)


def _vessels(m: Points) -> Float32Array:
    """The vertebral and basilar arteries, the circle of Willis and what leaves it, and the deep veins."""
    return join(
        chain(m, [((9, 8, -66), 1.6), ((5, 2, -52), 1.5), ((0.5, -2, -44), 1.7)]),
        capsule(m, (0, -2, -44), (0, -4, -23), 1.7),
        chain(m, [((0, -4, -23), 1.3), ((9, 1, -19), 1.1), ((16, 11, -14), 1.0), ((14, 24, -8), 0.9)]),
        chain(m, [((12, -18, -30), 2.2), ((9, -19, -24), 2.1), ((13, -15, -20), 1.8)]),
        chain(m, [((13, -15, -20), 1.6), ((22, -16, -20), 1.5), ((32, -15, -19), 1.4), ((38, -8, -10), 1.1)]),
        chain(m, [((38, -8, -10), 1.1), ((39, 2, 0), 1.0), ((44, 14, 8), 0.8)]),
        chain(m, [((13, -15, -20), 1.3), ((3, -21, -18), 1.1), ((1, -34, -6), 1.0), ((1, -38, 14), 0.8)]),
        chain(m, [((1, -38, 14), 0.8), ((1, -20, 30), 0.7), ((1, 10, 36), 0.6)]),
        chain(m, [((1.5, -6, 12), 0.7), ((1.5, 16, 11), 0.9), ((0, 32, 9), 1.4), ((0, 39, 12), 1.7)]),
        chain(m, [((14, 4, -18), 0.6), ((16, 18, -6), 0.8), ((3, 32, 8), 1.2)]),
    )


def _nerves(m: Points) -> Float32Array:
    """Optic nerves, chiasm and tracts, and the stalk of the pituitary gland."""
    return join(
        chain(m, [((11, -28, -21), 1.9), ((4, -18, -19), 2.0), ((0, -14, -18), 2.2), ((9, -6, -16), 1.7)]),
        capsule(m, (0, -13, -19), (0, -14, -27), 1.0),
    )


def _glands(s: Points) -> Float32Array:
    """The pituitary gland, and a cavernous sinus on either side of it."""
    return join(ellipsoid(s, (0, -16, -29), (6.5, 5.5, 4.0)), ellipsoid(s, (14, -14, -28), (4.5, 11, 7)), softness_mm=2)


def _processes(s: Points) -> Float32Array:
    """The dorsum sellae with its posterior clinoid processes, and the anterior ones."""
    return join(
        chain(s, [((0, -8, -27), 1.5), ((6, -8, -26), 1.6), ((8, -9, -23), 1.5)]),
        capsule(s, (0, -8, -25), (5, -8, -25), 1.2),
        chain(s, [((20, -26, -20), 2.2), ((14, -21, -22), 2.0), ((11, -17, -22), 1.5)]),
    )


def _free_edge(s: Points) -> Float32Array:
    """Along the notch, from the clinoid processes to the straight sinus."""
    return chain(
        s,
        [
            ((11, -11, -24), 0.7),
            ((17, -3, -15), 0.9),
            ((20, 8, -3), 1.0),
            ((20, 14, 2), 1.0),
            ((17, 25, 4), 1.0),
            ((10, 35, 5), 1.1),
            ((0, 40, 8), 1.3),
        ],
    )


def _plexus(m: Points) -> Float32Array:
    """In the body, atrium and temporal horn of the lateral ventricles, and in the fourth."""
    return join(
        chain(
            m, [((8, -4, 15), 0.7), ((15, 24, 15), 0.8), ((23, 36, 8), 2.4), ((25, 33, 1), 1.6), ((33, 18, -12), 0.8)]
        ),
        chain(m, [((0, 36, -34), 0.9), ((6, 37, -38), 0.8)]),
    )


def _calcified(details: Details, p: Points) -> tuple[Float32Array, Float32Array]:
    distance = np.full_like(p[0], FAR_MM)
    hu = np.zeros_like(p[0])
    for centre, radius, value in details.calcifications:
        one = ellipsoid(p, centre, (radius * 0.8, radius * 1.25, radius))
        hu = np.where(one < distance, np.float32(value), hu)
        distance = np.minimum(distance, one)
    return distance, hu
