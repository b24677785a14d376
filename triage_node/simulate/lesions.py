"""Blood as implicit functions of head coordinates, one per subtype, with the room it takes (frame: see skull)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from triage_node.domain import SUBTYPES, Float32Array
from triage_node.simulate.fields import Point, Points, WaveField, ellipsoid, join, share
from triage_node.simulate.geometry import Lattice

EPIDURAL, INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID, SUBDURAL = SUBTYPES
SCALABLE = (INTRAPARENCHYMAL, SUBDURAL, EPIDURAL)
"""Subtypes that can be brought to a requested volume."""
# Thinner tails are neither drawn nor labelled: nobody could see them on a 5 mm slice.
_THINNEST_MM = 1.7
_VAULT_MM = (66.0, 82.0, 77.0)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One hemorrhage. What a number means depends on `subtype`; sizes are in mm, `site` in head coordinates."""

    subtype: str
    site: Point
    """Centre (intraparenchymal), direction from the centre (extra-axial), or middle of the region (subarachnoid)."""
    size_mm: float
    """Mean radius, greatest thickness, or radius of the region."""
    stretch: Point
    """Relative radii; for extra-axial blood the half angles (about z, over the vertex) and nothing."""
    hu: float
    second_hu: float
    """Of the older or upper part, where `kind` knows one."""
    kind: str
    push: float
    """Mass effect: how much of its own volume the lesion moves aside."""
    edema_mm: float
    edema_hu: float
    ripple: WaveField
    texture: WaveField


def random_lesion(subtype: str, rng: np.random.Generator) -> Lesion:
    """A hemorrhage of `subtype` with sizes, densities and sites as they occur."""
    draw = {
        EPIDURAL: _epidural,
        INTRAPARENCHYMAL: _intraparenchymal,
        INTRAVENTRICULAR: _intraventricular,
        SUBARACHNOID: _subarachnoid,
        SUBDURAL: _subdural,
    }
    if subtype not in draw:
        raise ValueError(f"no such subtype: {subtype}; one of {', '.join(draw)}")
    blank = Lesion(
        subtype=subtype,
        site=(0, 0, 0),
        size_mm=10,
        stretch=(1, 1, 1),
        hu=float(np.clip(rng.normal(61, 8), 42, 84)),
        second_hu=rng.uniform(8, 30),
        kind="acute",
        push=rng.uniform(0.3, 0.9),
        edema_mm=0,
        edema_hu=0,
        ripple=WaveField.random(rng, wavelength_mm=22, spread=0.4, waves=24),
        texture=WaveField.random(rng, wavelength_mm=12, spread=0.6, waves=32),
    )
    return draw[subtype](blank, rng)


def _intraparenchymal(blank: Lesion, rng: np.random.Generator) -> Lesion:
    side = float(rng.choice([-1.0, 1.0]))
    volume_ml = float(np.exp(rng.uniform(math.log(0.3), math.log(70))))
    radius = (volume_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
    deep, thalamus = (side * 27, rng.normal(0, 7), rng.normal(4, 4)), (side * 14, rng.normal(10, 4), rng.normal(6, 3))
    turn = rng.uniform(0, 2 * math.pi)
    reach = max(10.0, 0.8 * (62 - radius))
    lobar = (side * max(12.0, reach * abs(math.sin(turn)) * 0.75), 4 + reach * math.cos(turn), rng.uniform(8, 48))
    low = (side * rng.uniform(6, 30), rng.uniform(44, 56), rng.uniform(-40, -22))
    stem = (rng.normal(0, 3), rng.normal(12, 2), rng.uniform(-36, -16))
    sites = (
        [deep, thalamus, lobar, low, stem] if radius < 10 else [deep, lobar, lobar, deep, low if radius < 16 else deep]
    )
    site = sites[int(rng.choice(5, p=[0.36, 0.16, 0.32, 0.1, 0.06]))]
    return replace(
        blank,
        site=site,
        size_mm=radius,
        stretch=(rng.uniform(0.8, 1.1), rng.uniform(0.95, 1.35), rng.uniform(0.8, 1.15)),
        kind="level" if rng.random() < 0.08 else "acute",
        edema_mm=rng.uniform(2, 13) * min(1.0, radius / 12),
        edema_hu=-rng.uniform(0, 14),
    )


def _intraventricular(blank: Lesion, rng: np.random.Generator) -> Lesion:
    kind = str(rng.choice(["level", "cast", "focal"], p=[0.45, 0.3, 0.25]))
    side = float(rng.choice([-1.0, 1.0]))
    site = (side * 15, rng.uniform(-30, 40), 10.0) if kind == "focal" else (side * 15, rng.uniform(20, 44), 5.0)
    return replace(
        blank, site=site, size_mm=rng.uniform(8, 28), kind=kind, hu=float(np.clip(blank.hu - 5, 36, 74)), push=0.0
    )


def _subarachnoid(blank: Lesion, rng: np.random.Generator) -> Lesion:
    kind = str(rng.choice(["cistern", "local", "diffuse"], p=[0.4, 0.35, 0.25]))
    turn = rng.uniform(0, 2 * math.pi)
    rind = (58 * math.sin(turn), 4 + 70 * math.cos(turn), rng.uniform(0, 45))
    site, size = {
        "cistern": ((rng.normal(0, 12), -8.0, -20.0), rng.uniform(24, 45)),
        "local": (rind, rng.uniform(16, 34)),
        "diffuse": ((rng.normal(0, 10), -5.0, -8.0), rng.uniform(55, 85)),
    }[kind]
    return replace(blank, site=site, size_mm=size, kind=kind, hu=float(np.clip(blank.hu - 4, 42, 72)), push=0.0)


def _subdural(blank: Lesion, rng: np.random.Generator) -> Lesion:
    kind = str(rng.choice(["acute", "chronic", "mixed", "layered"], p=[0.58, 0.14, 0.16, 0.12]))
    if kind == "acute" and rng.random() < 0.15:
        kind = "falx"
    side = float(rng.choice([-1.0, 1.0]))
    turn = math.radians(rng.uniform(35, 135))
    return replace(
        blank,
        site=(side * math.sin(turn), -math.cos(turn), rng.uniform(0.05, 0.7)),
        size_mm=rng.uniform(2, 5) if kind == "falx" else rng.uniform(3, 18),
        stretch=(math.radians(rng.uniform(28, 95)), math.radians(rng.uniform(28, 60)), 1),
        kind=kind,
        push=rng.uniform(0.5, 1.0),
    )


def _epidural(blank: Lesion, rng: np.random.Generator) -> Lesion:
    side = float(rng.choice([-1.0, 1.0]))
    turn = math.radians(rng.uniform(30, 150))
    half_angle = math.radians(rng.uniform(16, 34))
    return replace(
        blank,
        site=(side * math.sin(turn), -math.cos(turn), rng.uniform(-0.15, 0.6)),
        size_mm=float(min(rng.uniform(5, 28), 60 * half_angle * 0.8)),
        stretch=(half_angle, half_angle * rng.uniform(0.8, 1.15), 1),
        kind="mixed" if rng.random() < 0.2 else "acute",
        second_hu=rng.uniform(32, 45),
        push=rng.uniform(0.6, 1.0),
    )


def is_chronic(lesion: Lesion) -> bool:
    """Whether the blood is mostly old: dark on CT."""
    return lesion.kind == "chronic"


def resized(lesion: Lesion, factor: float) -> Lesion:
    """The same lesion with its size (radius or thickness) times `factor`."""
    return replace(lesion, size_mm=lesion.size_mm * factor)


# ---------------------------------------------------------------- on a lattice


def lesion_field(lesion: Lesion, lattice: Lattice, p: Points, cavity: Float32Array) -> Float32Array:
    """The smooth field that defines the lesion, mm; (rows, columns) float32.

    Extra-axial: its thickness over this point of the inner table. Others: distance to its body or region.
    """
    if lesion.subtype in (SUBDURAL, EPIDURAL):
        return _thickness(lesion, lattice, p)
    if lesion.subtype == INTRAPARENCHYMAL:
        return _body(lesion, lattice, p, cavity)
    if lesion.subtype == INTRAVENTRICULAR and lesion.kind == "level":
        level = lesion.site[1] - p[1] + np.float32(2.5) * lesion.ripple.on(lattice)
        return np.asarray(level - np.float32(0.25) * np.minimum(p[2], 0), np.float32)
    if lesion.kind == "cast":
        return np.asarray(-10 - p[0] * math.copysign(0.8, lesion.site[0]) + 6 * lesion.ripple.on(lattice), np.float32)
    region = ellipsoid(p, lesion.site, (lesion.size_mm, lesion.size_mm * 1.2, lesion.size_mm))
    return np.asarray(region + 0.15 * lesion.size_mm * lesion.ripple.on(lattice), np.float32)


def _body(lesion: Lesion, lattice: Lattice, p: Points, cavity: Float32Array) -> Float32Array:
    r = lesion.size_mm
    body = ellipsoid(p, lesion.site, (r * lesion.stretch[0], r * lesion.stretch[1], r * lesion.stretch[2]))
    body = np.asarray(body + 0.1 * r * lesion.ripple.on(lattice), np.float32)
    return -join(-body, -(cavity + np.float32(3.0)), softness_mm=2.0)


def _thickness(lesion: Lesion, lattice: Lattice, p: Points) -> Float32Array:
    """Crescent (subdural) or lens (epidural): greatest in the direction of `site`, nothing beyond the half angles."""
    u = [a / np.float32(r) for a, r in zip(p, _VAULT_MM, strict=True)]
    norm = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2 + np.float32(1e-4))
    about_z = np.arctan2(u[0], -u[1]) - math.atan2(lesion.site[0], -lesion.site[1])
    about_z = np.abs((about_z + math.pi) % (2 * math.pi) - math.pi) * np.sqrt(1 - np.minimum((u[2] / norm) ** 2, 1))
    over = np.arcsin(np.clip(u[2] / norm, -1, 1)) - math.asin(lesion.site[2] / math.hypot(1, lesion.site[2]))
    off = (about_z / lesion.stretch[0]) ** 2 + (over / lesion.stretch[1]) ** 2
    if lesion.subtype == SUBDURAL:
        profile = np.sqrt(np.clip(1 - off, 0, 1)) * (1 + 0.12 * lesion.ripple.on(lattice))
        profile = profile * np.clip((norm - 0.62) / 0.1, 0, 1)
    else:
        profile = np.clip(1 - off, -0.5, 1) * (1 + 0.06 * lesion.ripple.on(lattice))
    side = p[0] * math.copysign(1.0, lesion.site[0])
    thickness = lesion.size_mm * profile * np.clip(side / 5, 0, 1) * np.clip((p[2] + 16) / 8, 0, 1)
    return np.asarray(thickness - 6 * np.clip(_THINNEST_MM - thickness, 0, _THINNEST_MM), np.float32)


def blood_distance(
    lesion: Lesion,
    field: Float32Array,
    *,
    depth: Float32Array,
    ventricle: Float32Array,
    fluid: Float32Array,
    midline: Float32Array,
    falx: Float32Array,
) -> Float32Array:
    """Distance to the blood, mm, negative inside, from its field and the spaces that bound it."""
    if lesion.subtype in (SUBDURAL, EPIDURAL):
        if lesion.kind == "falx":
            beside = np.abs(midline - math.copysign(lesion.size_mm / 2, lesion.site[0])) - np.float32(
                lesion.size_mm / 2
            )
            return np.asarray(np.maximum(np.maximum(beside, falx + 2), 1 - depth), np.float32)
        return np.asarray(np.maximum(depth - field, np.float32(0.3) - depth), np.float32)
    if lesion.subtype == INTRAVENTRICULAR:
        return np.asarray(np.maximum(ventricle, field), np.float32)
    if lesion.subtype == SUBARACHNOID:
        return np.asarray(np.maximum(fluid, field), np.float32)
    return field


def blood_hu(lesion: Lesion, lattice: Lattice) -> Float32Array:
    """(rows, columns) float32: the density of the blood at every point of a lattice in the head frame."""
    texture = lesion.texture.on(lattice)
    hu = np.float32(lesion.hu) + 2.5 * texture
    if lesion.kind == "chronic":
        return np.asarray(lesion.second_hu + 1.5 * texture, np.float32)
    if lesion.kind == "mixed":
        fresh = np.clip(0.5 + 1.2 * lesion.ripple.on(lattice), 0, 1)
        return np.asarray(lesion.second_hu + fresh * (hu - lesion.second_hu), np.float32)
    if lesion.kind in ("layered", "level") and lesion.subtype in (SUBDURAL, INTRAPARENCHYMAL):
        y = lattice.points()[1]
        middle = 0.0 if lesion.subtype == SUBDURAL else lesion.site[1]
        heavy = np.clip(0.5 + (y - middle) / (24 if lesion.subtype == SUBDURAL else 3), 0, 1)
        return np.asarray(lesion.second_hu + heavy * (hu - lesion.second_hu), np.float32)
    return np.asarray(hu, np.float32)


def edema(lesion: Lesion, field: Float32Array) -> Float32Array:
    """HU added to the brain around an intraparenchymal bleed; 0 for the others."""
    if lesion.subtype != INTRAPARENCHYMAL or not lesion.edema_mm:
        return np.zeros_like(field)
    return np.float32(lesion.edema_hu) * share(field - np.float32(lesion.edema_mm / 2), edge_mm=lesion.edema_mm)


# ---------------------------------------------------------------- mass effect


def pushed(
    lesions: Mapping[str, Lesion], p: Points, cavity: Float32Array, fields: Mapping[str, Float32Array]
) -> Points:
    """Where the brain at `p` would be without the lesions: the point at which to evaluate its anatomy."""
    for subtype, lesion in lesions.items():
        if lesion.push and subtype == INTRAPARENCHYMAL:
            p = _pushed_from(lesion, p, cavity)
        elif lesion.push and lesion.kind != "falx":
            p = _pushed_inward(lesion, p, cavity, fields[subtype])
    return p


def _pushed_from(lesion: Lesion, p: Points, cavity: Float32Array) -> Points:
    """Volume keeping: a shell at radius r came from (r^3 - push R^3)^(1/3); nothing moves at the skull."""
    rel = [a - np.float32(c) for a, c in zip(p, lesion.site, strict=True)]
    r = np.sqrt(rel[0] ** 2 + rel[1] ** 2 + rel[2] ** 2 + np.float32(0.01))
    before = np.cbrt(np.maximum(r**3 - np.float32(lesion.push * lesion.size_mm**3), 0))
    shrink = (before / r - 1) * np.clip(-cavity / 18, 0, 1)
    x, y, z = (a + d * shrink for a, d in zip(p, rel, strict=True))
    return x, y, z


def _pushed_inward(lesion: Lesion, p: Points, cavity: Float32Array, thickness: Float32Array) -> Points:
    radius = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2 + np.float32(1.0))
    layer = np.maximum(thickness, 0)
    moved = 1 + lesion.push * layer * np.exp(-np.maximum(-cavity - layer, 0) / 38) * np.minimum(radius / 30, 1) / radius
    return p[0] * moved, p[1] * moved, p[2] * moved
