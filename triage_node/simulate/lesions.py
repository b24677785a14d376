"""Blood as implicit functions of head coordinates, one per subtype, with the room it takes (frame: see skull)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from triage_node.domain import Float32Array
from triage_node.simulate.fields import Points, ellipsoid, join, share
from triage_node.simulate.geometry import Lattice
from triage_node.simulate.hemorrhages import (
    EPIDURAL,
    INTRAPARENCHYMAL,
    INTRAVENTRICULAR,
    SCALABLE,
    SUBARACHNOID,
    SUBDURAL,
    Lesion,
    is_chronic,
    random_combination,
    random_lesion,
    resized,
)

__all__ = [
    "EPIDURAL",
    "INTRAPARENCHYMAL",
    "INTRAVENTRICULAR",
    "SCALABLE",
    "SUBARACHNOID",
    "SUBDURAL",
    "Lesion",
    "blood_distance",
    "blood_hu",
    "edema",
    "is_chronic",
    "lesion_field",
    "pushed",
    "random_combination",
    "random_lesion",
    "resized",
]

# Thinner tails are neither drawn nor labelled: nobody could see them on a 5 mm slice.
_THINNEST_MM = 1.7
_VAULT_MM = (66.0, 82.0, 77.0)
# Blood in the subarachnoid space nearer to the inner table than this cannot be told from bone and dura.
_UNDER_DURA_MM = 1.5
# Subdural blood lies under the dura; epidural blood strips it off, and is told from the bone a little below it.
_UNDER_BONE_MM = {SUBDURAL: 1.0, EPIDURAL: 0.5}
_MOST_SHIFT_MM = 12.0


def lesion_field(lesion: Lesion, lattice: Lattice, p: Points, cavity: Float32Array) -> Float32Array:
    """The smooth field that defines the lesion, mm; (rows, columns) float32.

    Extra-axial: its thickness over this point of the inner table. Others: distance to its body or region.
    """
    if lesion.kind == "falx":
        wide = lesion.stretch[0]
        return ellipsoid((np.zeros_like(p[0]), p[1], p[2]), (0, *lesion.site[1:]), (99, wide, 0.8 * wide))
    if lesion.subtype in (SUBDURAL, EPIDURAL):
        layers = [_layer(piece, lattice, p, cavity) for piece in lesion.pieces if piece.kind != "falx"]
        return np.asarray(np.maximum.reduce(layers), np.float32)
    if lesion.subtype == INTRAPARENCHYMAL:
        return _body(lesion, lattice, p, cavity)
    if lesion.subtype == SUBARACHNOID:
        return np.asarray(_foci(lesion, p, softness_mm=4) + 3 * lesion.ripple.on(lattice), np.float32)
    return _part_of_ventricles(lesion, lattice, p)


def _foci(lesion: Lesion, p: Points, *, softness_mm: float) -> Float32Array:
    """Distance to the ellipsoids of a lesion."""
    size = lesion.size_mm
    bodies = []
    for focus in lesion.foci:
        x, y, z = (c + size * o for c, o in zip(lesion.site, focus.offset, strict=True))
        rx, ry, rz = (size * r for r in focus.radii)
        bodies.append(ellipsoid(p, (x, y, z), (rx, ry, rz)))
    return join(*bodies, softness_mm=softness_mm)


def _body(lesion: Lesion, lattice: Lattice, p: Points, cavity: Float32Array) -> Float32Array:
    """Lobes with an uneven edge, inside the brain; a contusion comes up to its surface."""
    body = _foci(lesion, p, softness_mm=min(6.0, 0.4 * lesion.size_mm))
    body = np.asarray(body + min(2.5, 0.12 * lesion.size_mm) * lesion.ripple.on(lattice), np.float32)
    margin = 1.8 if lesion.kind == "contusion" else 3.0
    return -join(-body, -(cavity + np.float32(margin)), softness_mm=2.0)


def _part_of_ventricles(lesion: Lesion, lattice: Lattice, p: Points) -> Float32Array:
    """Below a level, on one side, or near a point."""
    ripple = lesion.ripple.on(lattice)
    own_side = p[0] * np.float32(math.copysign(1.0, lesion.site[0]))
    if lesion.kind in ("level", "horn"):
        behind = lesion.site[1] - p[1] + np.float32(2.0) * ripple - np.float32(0.25) * np.minimum(p[2], 0)
        if lesion.kind == "horn":
            return np.asarray(np.maximum(behind, 4 - own_side), np.float32)
        return np.asarray(behind - np.float32(lesion.site[2]) * p[0], np.float32)
    if lesion.kind == "cast":
        return np.asarray(-10 - np.float32(0.8) * own_side + 6 * ripple, np.float32)
    region = ellipsoid(p, lesion.site, (lesion.size_mm, lesion.size_mm * 1.2, lesion.size_mm))
    return np.asarray(region + 0.15 * lesion.size_mm * ripple, np.float32)


# ---------------------------------------------------------------- extra-axial


def _layer(lesion: Lesion, lattice: Lattice, p: Points, cavity: Float32Array) -> Float32Array:
    if lesion.kind == "tentorium":
        return _on_tentorium(lesion, p, cavity)
    return _thickness(lesion, lattice, p)


def _thickness(lesion: Lesion, lattice: Lattice, p: Points) -> Float32Array:
    """Crescent (subdural) or lens (epidural): greatest in the direction of `site`, nothing beyond the half angles."""
    u = [a / np.float32(r) for a, r in zip(p, _VAULT_MM, strict=True)]
    norm = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2 + np.float32(1e-4))
    about_z = np.arctan2(u[0], -u[1]) - math.atan2(lesion.site[0], -lesion.site[1])
    about_z = np.abs((about_z + math.pi) % (2 * math.pi) - math.pi) * np.sqrt(1 - np.minimum((u[2] / norm) ** 2, 1))
    over = np.arcsin(np.clip(u[2] / norm, -1, 1)) - math.asin(lesion.site[2] / math.hypot(1, lesion.site[2]))
    off = (about_z / lesion.stretch[0]) ** 2 + (over / lesion.stretch[1]) ** 2
    if lesion.subtype == SUBDURAL:
        profile = np.clip(1 - off, 0, 1) ** np.float32(lesion.taper) * (1 + 0.08 * lesion.ripple.on(lattice))
    else:
        profile = np.clip(1 - off, 0, 1) ** np.float32(0.75) * (1 + 0.06 * lesion.ripple.on(lattice))
        profile = profile * _between_sutures(lesion, p)
    side = p[0] * math.copysign(1.0, lesion.site[0])
    # the depth is that below the nearest bone: only under the vault, and not along the wing and the orbit roof
    under_vault = np.clip((norm - (1 - (lesion.size_mm + 10) / _VAULT_MM[0])) / 0.06, 0, 1)
    middle_fossa = np.clip((side - 35) / 15, 0, 1) * np.clip(-p[1] / 10, 0, 1)
    above_base = np.clip((p[2] + 16 + 14 * middle_fossa) / 8, 0, 1)
    thickness = lesion.size_mm * profile * np.clip(side / 5, 0, 1) * above_base * under_vault
    return np.asarray(thickness - 6 * np.clip(_THINNEST_MM - thickness, 0, _THINNEST_MM), np.float32)


def _between_sutures(lesion: Lesion, p: Points) -> Float32Array:
    """0 beyond the coronal and lambdoid sutures of the bone on which the lens lies, 1 from 8 mm before them (skull)."""
    _, y, z = p
    side = np.abs(p[0])
    x0, y0, z0 = (a * r for a, r in zip(lesion.site, _VAULT_MM, strict=True))
    coronal, its_own = y + 14 + 0.25 * (z - 60), y0 + 14 + 0.25 * (z0 - 60)
    lambdoid, its_other = y - 74 + 0.42 * side + 0.3 * (z - 30), y0 - 74 + 0.42 * abs(x0) + 0.3 * (z0 - 30)
    before = np.minimum(coronal * math.copysign(1, its_own), lambdoid * math.copysign(1, its_other))
    # the vault below the ends of these sutures is one bone to a lens
    return np.asarray(np.clip(np.maximum(before, 4 - z) / 8, 0, 1), np.float32)


def _on_tentorium(lesion: Lesion, p: Points, cavity: Float32Array) -> Float32Array:
    """Depth less the distance to a sheet of blood on the tentorium of one side, so that both meet in the sheet."""
    x, y, z = p
    side = x * math.copysign(1.0, lesion.site[0])
    height = 12 - np.float32(0.42) * side - np.float32(0.22) * np.maximum(y - 22, 0) - np.float32(0.1) * side**2 / 60
    middle = height + np.float32(lesion.size_mm / 2)
    sheet = np.abs(z - middle) * np.float32(0.88) - np.float32(lesion.size_mm / 2)
    notch = ellipsoid((x, y, np.zeros_like(y)), (0, 6, 0), (20, 34, 99))
    reach = np.maximum(np.maximum(-notch, 2 - side), 10 + 0.3 * side - y)
    distance = np.maximum(sheet, reach)
    return np.asarray(-cavity - distance - 8 * np.maximum(distance - 3, 0), np.float32)


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
            return np.maximum(_on_falx(lesion, depth=depth, midline=midline, falx=falx), field)
        under = np.float32(_UNDER_BONE_MM[lesion.subtype])
        layers = np.asarray(np.maximum(depth - under - field, under - depth), np.float32)
        beside = [_on_falx(one, depth=depth, midline=midline, falx=falx) for one in lesion.also if one.kind == "falx"]
        return join(layers, *beside)
    if lesion.subtype == INTRAVENTRICULAR:
        return np.asarray(np.maximum(ventricle - np.float32(lesion.swell_mm), field), np.float32)
    if lesion.subtype == SUBARACHNOID:
        filled = np.maximum(fluid - np.float32(lesion.swell_mm), np.float32(_UNDER_DURA_MM) - depth)
        return np.asarray(np.maximum(filled, field), np.float32)
    return field


def _on_falx(lesion: Lesion, *, depth: Float32Array, midline: Float32Array, falx: Float32Array) -> Float32Array:
    """A sheet on one side of the falx, not below its free edge."""
    half = np.float32(lesion.size_mm / 2)
    beside = np.abs(midline - np.float32(math.copysign(half, lesion.site[0]))) - half
    return np.asarray(np.maximum(np.maximum(beside, falx + 2), 1 - depth), np.float32)


# ---------------------------------------------------------------- density


def blood_hu(lesion: Lesion, lattice: Lattice) -> Float32Array:
    """(rows, columns) float32: the density of the blood at every point of a lattice in the head frame."""
    hu = _piece_hu(lesion, lattice)
    for piece in lesion.also:
        if piece.site[0] * lesion.site[0] < 0:
            other_side = lattice.points()[0] * np.float32(piece.site[0]) > 0
            hu = np.where(other_side, _piece_hu(piece, lattice), hu)
    return hu


def _piece_hu(lesion: Lesion, lattice: Lattice) -> Float32Array:
    texture = lesion.texture.on(lattice)
    old, new = np.float32(lesion.second_hu), np.float32(lesion.hu) + np.float32(2.5) * texture
    if lesion.kind == "chronic":
        return np.asarray(old + np.float32(1.5) * texture, np.float32)
    if lesion.kind == "mixed":
        fresh = np.clip(lesion.fresh + 0.45 * lesion.ripple.on(lattice) + 0.15 * texture, 0, 1)
        return np.asarray(old + fresh * (new - old), np.float32)
    if lesion.kind == "layered" or (lesion.kind == "level" and lesion.subtype == INTRAPARENCHYMAL):
        y = lattice.points()[1]
        middle, blurred = (82 * lesion.site[1], 14) if lesion.kind == "layered" else (lesion.site[1], 3)
        middle += (0.5 - lesion.fresh) * 40 if lesion.kind == "layered" else 0
        heavy = np.clip(0.5 + (y - middle) / blurred, 0, 1)
        return np.asarray(old + heavy * (new - old), np.float32)
    return new


def edema(lesion: Lesion, field: Float32Array) -> Float32Array:
    """HU added to the brain around an intraparenchymal bleed; 0 for the others."""
    if lesion.subtype != INTRAPARENCHYMAL or not lesion.edema_mm:
        return np.zeros_like(field)
    faded = share(field - np.float32(0.75 * lesion.edema_mm), edge_mm=0.5 * lesion.edema_mm)
    return np.float32(lesion.edema_hu) * faded


# ---------------------------------------------------------------- mass effect


def pushed(
    lesions: Mapping[str, Lesion], p: Points, cavity: Float32Array, fields: Mapping[str, Float32Array]
) -> Points:
    """Where the brain at `p` would be without the lesions: the point at which to evaluate its anatomy."""
    for subtype, lesion in lesions.items():
        if subtype == INTRAPARENCHYMAL:
            p = _pushed_from(lesion, p, cavity)
        elif lesion.push:
            p = _pushed_inward(lesion, p, cavity, fields[subtype])
    return p


def _pushed_from(lesion: Lesion, p: Points, cavity: Float32Array) -> Points:
    """Volume keeping: a shell at radius r came from (r^3 - push R^3)^(1/3); nothing moves at the skull."""
    fixed = np.clip(-cavity / 18, 0, 1)
    for focus in lesion.foci:
        cubed = np.float32(lesion.push * lesion.size_mm**3 * math.prod(focus.radii))
        rel = [a - np.float32(c + lesion.size_mm * o) for a, c, o in zip(p, lesion.site, focus.offset, strict=True)]
        r = np.sqrt(rel[0] ** 2 + rel[1] ** 2 + rel[2] ** 2 + np.float32(0.01))
        shrink = (np.cbrt(np.maximum(r**3 - cubed, 0)) / r - 1) * fixed
        x, y, z = (a + d * shrink for a, d in zip(p, rel, strict=True))
        p = x, y, z
    return p


def _pushed_inward(lesion: Lesion, p: Points, cavity: Float32Array, thickness: Float32Array) -> Points:
    """The brain under the layer gives way to it, and the whole brain above the tentorium moves to the other side."""
    x, y, z = p
    radius = np.sqrt(x**2 + y**2 + z**2 + np.float32(1.0))
    layer = np.clip(thickness, 0, np.float32(1.4 * lesion.size_mm))
    below = np.maximum(-cavity - layer, 0)
    moved = 1 + lesion.push * layer * np.exp(-below / 25) * np.minimum(radius / 30, 1) / radius
    aside = np.clip(below / 30, 0, 1) * np.clip((z + 45) / 30, 0, 1)
    shift = sum(math.copysign(_shift_mm(piece), piece.site[0]) for piece in lesion.pieces)
    return x * moved + np.float32(shift) * aside, y * moved, z * moved


def _shift_mm(lesion: Lesion) -> float:
    """Of the midline, away from a layer: up to about half its thickness where it is wide."""
    wide = min(1.0, math.sqrt(lesion.stretch[0] * lesion.stretch[1]) / 0.9)
    return min(_MOST_SHIFT_MM, 0.55 * lesion.push * lesion.size_mm * wide)
