"""What bleeds: one hemorrhage per subtype and head, drawn with the sites, sizes and densities that occur.

Frame: head coordinates, mm, x left, y posterior, z to the vertex (see skull). Volumes and densities follow percentiles
of a public data set of labelled hemorrhages (BHSD, as published with DIDSR/InSilicoICH). Their densities are those of
all labelled voxels, partial volume at the edges included, so the densities drawn here, of the blood itself, lie higher;
and they are those of a usual head: in one whose cortex is brighter, blood is, too (see head).

| subtype | volume mL, 5 / 50 / 95 % | labelled voxels HU, 5 / 50 / 95 % | drawn HU |
| --- | --- | --- | --- |
| epidural | 1.2 / 12.7 / 39.9 | 37 / 56 / 73 | 46-74 |
| intraparenchymal | 0.3 / 7.8 / 58.9 | 33 / 48 / 61 | 44-80 |
| intraventricular | 0.1 / 2.5 / 18.6 | 26 / 39 / 56 | 36-74 |
| subarachnoid | 0.1 / 0.8 / 4.6 | 31 / 43 / 58 | 46-74 |
| subdural | 0.4 / 5.9 / 55.8 | 27 / 52 / 69 | 48-72; old 6-24 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from triage_node.domain import SUBTYPES
from triage_node.simulate.fields import Point, WaveField

EPIDURAL, INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID, SUBDURAL = SUBTYPES
SCALABLE = (INTRAPARENCHYMAL, SUBDURAL, EPIDURAL)
"""Subtypes that can be brought to a requested volume."""
_CRESCENT_MM = 18.0
"""Greatest thickness of a subdural for each radian of its half angle."""
_LENS_MM = (20.0, 39.0)
"""Least and greatest thickness of an epidural for each radian of its half angle."""
_BOX_REACH = 1.6
"""How far a box around a parenchymal bleed reaches, in units of size times stretch."""


@dataclass(frozen=True, kw_only=True)
class Focus:
    """An ellipsoid of blood, in units of the lesion's `size_mm` about its `site`."""

    offset: Point
    radii: Point


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """All hemorrhage of one subtype in a head. What a number means depends on `subtype`; sizes are in mm."""

    subtype: str
    site: Point
    """Centre (intraparenchymal), direction from the centre (extra-axial), or a point of the region (others)."""
    size_mm: float
    """Radius of a ball of its volume, greatest thickness, or radius of the region; 1 where `foci` are in mm."""
    stretch: Point
    """How far the foci reach, in `size_mm`; for extra-axial blood the half angles (about z, over the vertex)."""
    hu: float
    second_hu: float
    """Of the older or upper part, where `kind` knows one."""
    fresh: float
    """Share of fresh blood where it is mixed with old, 0..1."""
    kind: str
    push: float
    """Mass effect: how much of its own volume the lesion moves aside."""
    swell_mm: float
    """How much blood widens the ventricle or the subarachnoid space that it fills."""
    taper: float
    """Shape of the ends of a crescent: 0.5 blunt, 1 drawn out."""
    edema_mm: float
    edema_hu: float
    ripple: WaveField
    texture: WaveField
    foci: tuple[Focus, ...] = ()
    """Intraparenchymal: lobes or separate bleeds. Subarachnoid: the parts of the region."""
    also: tuple[Lesion, ...] = ()
    """More blood of the same subtype: the other side, the falx, the tentorium."""

    @property
    def pieces(self) -> tuple[Lesion, ...]:
        """The lesion and all that belongs to it."""
        return (self, *self.also)


def is_chronic(lesion: Lesion) -> bool:
    """Whether extra-axial blood is chronic: old, or mixed or layered and mostly old. Of several pieces, the largest."""
    main = max(lesion.pieces, key=lambda piece: piece.size_mm)
    return main.kind == "chronic" or (main.kind in ("mixed", "layered") and main.fresh < 0.5)


def random_combination(rng: np.random.Generator) -> tuple[str, ...]:
    """Two to four subtypes that occur together: a stroke or aneurysm that breaks through, or trauma."""
    together, weights = zip(*_COMBINATIONS, strict=True)
    return tuple(together[int(rng.choice(len(together), p=np.array(weights) / sum(weights)))])


_COMBINATIONS = (
    ((INTRAPARENCHYMAL, INTRAVENTRICULAR), 0.3),
    ((SUBARACHNOID, SUBDURAL), 0.2),
    ((INTRAPARENCHYMAL, SUBARACHNOID), 0.14),
    ((INTRAVENTRICULAR, SUBARACHNOID), 0.12),
    ((INTRAPARENCHYMAL, SUBARACHNOID, SUBDURAL), 0.1),
    ((EPIDURAL, SUBARACHNOID), 0.06),
    ((EPIDURAL, INTRAPARENCHYMAL, SUBARACHNOID, SUBDURAL), 0.04),
    ((INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID), 0.04),
)


def resized(lesion: Lesion, factor: float) -> Lesion:
    """The same lesion with its sizes (radius or thickness) times `factor`."""
    also = tuple(resized(piece, factor) for piece in lesion.also)
    return replace(lesion, size_mm=lesion.size_mm * factor, also=also)


def random_lesion(subtype: str, rng: np.random.Generator) -> Lesion:
    """A hemorrhage of `subtype` with sizes, densities and sites as they occur. Raises ValueError for another."""
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
        hu=60,
        second_hu=rng.uniform(8, 30),
        fresh=rng.uniform(0.15, 0.85),
        kind="acute",
        push=0,
        swell_mm=0,
        taper=rng.uniform(0.5, 1.0),
        edema_mm=0,
        edema_hu=0,
        ripple=WaveField.random(rng, wavelength_mm=22, spread=0.4, waves=24),
        texture=WaveField.random(rng, wavelength_mm=12, spread=0.6, waves=32),
    )
    return draw[subtype](blank, rng)


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _density(rng: np.random.Generator, mean: float, spread: float, least: float, most: float) -> float:
    return float(np.clip(rng.normal(mean, spread), least, most))


# ---------------------------------------------------------------- in the brain


def _intraparenchymal(blank: Lesion, rng: np.random.Generator) -> Lesion:
    volume_ml = float(np.clip(np.exp(rng.normal(math.log(7.8), 1.4)), 0.3, 70))
    radius = (volume_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
    place = _place_of_bleed(rng, radius)
    several = place == "contusion" or rng.random() < 0.12
    site = _site_of_bleed(rng, place, radius)
    foci = _separate_foci(rng, site, radius) if several else _lobes(rng, place)
    hu = _density(rng, 57, 7, 44, 80)
    kind = "contusion" if place == "contusion" else _pick(rng, {"acute": 0.84, "mixed": 0.1, "level": 0.06})
    return replace(
        blank,
        site=site,
        size_mm=radius,
        stretch=_reach(foci),
        foci=foci,
        hu=hu,
        second_hu=blank.second_hu if kind == "level" else max(36.0, hu - rng.uniform(8, 20)),
        kind=kind,
        push=rng.uniform(0.4, 0.95),
        edema_mm=rng.uniform(2, 14) * min(1.0, radius / 12),
        edema_hu=-rng.uniform(0, 14),
    )


def _place_of_bleed(rng: np.random.Generator, radius: float) -> str:
    """Deep and lobar bleeds of any size; the brain stem, cerebellum and thalamus hold no large ones."""
    if radius < 10:
        return _pick(
            rng, {"deep": 0.27, "thalamus": 0.13, "lobar": 0.28, "contusion": 0.16, "cerebellum": 0.09, "stem": 0.07}
        )
    if radius < 17:
        return _pick(rng, {"deep": 0.37, "lobar": 0.41, "contusion": 0.12, "cerebellum": 0.1})
    return _pick(rng, {"deep": 0.47, "lobar": 0.53})


def _site_of_bleed(rng: np.random.Generator, place: str, radius: float) -> Point:
    side = _side(rng)
    turn = rng.uniform(0, 2 * math.pi)
    reach = max(10.0, 0.8 * (64 - radius))
    frontal = rng.random() < 0.55
    across = side * max(12.0, reach * abs(math.sin(turn)) * 0.78)
    sites: dict[str, Point] = {
        "deep": (side * rng.normal(27, 2), rng.normal(0, 7), rng.normal(4, 4)),
        "thalamus": (side * rng.normal(13, 2), rng.normal(10, 4), rng.normal(6, 3)),
        "lobar": (across, 4 + reach * math.cos(turn), rng.uniform(4, 48)),
        "contusion": (side * rng.uniform(8, 28), -rng.uniform(46, 64), rng.uniform(3, 16))
        if frontal
        else (side * rng.uniform(40, 54), rng.uniform(-34, 8), rng.uniform(-28, -8)),
        "cerebellum": (side * rng.uniform(6, 30), rng.uniform(42, 58), rng.uniform(-40, -22)),
        "stem": (rng.normal(0, 3), rng.normal(12, 2), rng.uniform(-36, -16)),
    }
    return sites[place]


def _lobes(rng: np.random.Generator, place: str) -> tuple[Focus, ...]:
    """One bleed: an ellipsoid, along the fibres if deep, that in many cases has grown one to three lobes."""
    longer = rng.uniform(1.1, 1.5) if place == "deep" else rng.uniform(0.95, 1.3)
    radii = np.array([rng.uniform(0.75, 1.05), longer, rng.uniform(0.8, 1.15)])
    count = int(rng.choice([0, 1, 2, 3], p=[0.4, 0.25, 0.2, 0.15]))
    offsets, sizes = [np.zeros(3)], [radii]
    for _ in range(count):
        toward = _direction(rng)
        offsets.append(toward * radii * rng.uniform(0.6, 0.95))
        sizes.append(rng.uniform(0.4, 0.7) * rng.uniform(0.8, 1.2, 3))
    return _of_unit_volume(offsets, sizes, overlap=0.6)


def _separate_foci(rng: np.random.Generator, site: Point, radius: float) -> tuple[Focus, ...]:
    """Two to four bleeds near each other, the first the largest; some on the mirrored side of the head."""
    offsets, sizes = [np.zeros(3)], [rng.uniform(0.8, 1.2, 3)]
    for _ in range(int(rng.integers(1, 4))):
        other_side = np.array([-2 * site[0] / radius if rng.random() < 0.3 else 0.0, 0.0, 0.0])
        offsets.append(other_side + _direction(rng) * rng.uniform(1.3, 2.2) * np.array([0.8, 1.1, 0.8]))
        sizes.append(rng.uniform(0.25, 0.8) * rng.uniform(0.8, 1.2, 3))
    return _of_unit_volume(offsets, sizes, overlap=0.0)


def _direction(rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    one = rng.normal(size=3)
    return np.asarray(one / np.linalg.norm(one))


def _of_unit_volume(
    offsets: Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]],
    sizes: Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]],
    *,
    overlap: float,
) -> tuple[Focus, ...]:
    """Foci that together hold about the volume of a ball of radius 1; `overlap` of all but the first lies in it."""
    volumes = [float(np.prod(radii)) for radii in sizes]
    scale = (volumes[0] + (1 - overlap) * sum(volumes[1:])) ** (-1 / 3)
    return tuple(
        Focus(offset=_point(offset * (1.0 if overlap == 0 else scale)), radii=_point(radii * scale))
        for offset, radii in zip(offsets, sizes, strict=True)
    )


def _point(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Point:
    return (float(values[0]), float(values[1]), float(values[2]))


def _reach(foci: Sequence[Focus]) -> Point:
    return _point(np.max([np.abs(focus.offset) + 1.35 * np.array(focus.radii) for focus in foci], axis=0) / _BOX_REACH)


def _intraventricular(blank: Lesion, rng: np.random.Generator) -> Lesion:
    """Layered behind, in one occipital horn only, a cast, a clot, or blood in the third or fourth ventricle."""
    kind = _pick(rng, {"level": 0.28, "horn": 0.24, "cast": 0.22, "focal": 0.14, "middle": 0.12})
    side = _side(rng)
    sites: dict[str, Point] = {
        "level": (side * 15, rng.uniform(32, 60), rng.uniform(-0.15, 0.15)),
        "horn": (side * 22, rng.uniform(34, 54), 4.0),
        "cast": (side * 15, 10.0, 5.0),
        "focal": (side * 12, rng.uniform(-30, 40), 10.0),
        "middle": (0.0, 2.0, -2.0) if rng.random() < 0.5 else (0.0, 32.0, -32.0),
    }
    widest = {"level": 1.0, "horn": 1.5, "cast": 2.0, "focal": 1.5, "middle": 1.5}[kind]
    return replace(
        blank,
        site=sites[kind],
        size_mm=rng.uniform(6, 16) if kind == "focal" else rng.uniform(12, 26),
        kind=kind,
        hu=_density(rng, 52, 8, 36, 74),
        swell_mm=rng.uniform(0.2, widest),
    )


def _subarachnoid(blank: Lesion, rng: np.random.Generator) -> Lesion:
    kind = _pick(rng, {"cistern": 0.24, "perimesencephalic": 0.08, "sylvian": 0.18, "local": 0.44, "diffuse": 0.06})
    side = _side(rng)
    parts = {
        "cistern": _aneurysm_parts,
        "perimesencephalic": _midbrain_parts,
        "sylvian": _sylvian_parts,
        "local": _convexity_parts,
        "diffuse": _diffuse_parts,
    }[kind](rng, side)
    return replace(
        blank,
        size_mm=1.0,
        foci=tuple(Focus(offset=centre, radii=radii) for centre, radii in parts),
        kind=kind,
        hu=_density(rng, 58, 7, 46, 74),
        swell_mm=rng.uniform(0.4, 1.5),
    )


_Part = tuple[Point, Point]


def _aneurysm_parts(rng: np.random.Generator, side: float) -> list[_Part]:
    """The suprasellar cistern, and from it the sylvian fissures, the interhemispheric fissure, the ambient cisterns."""
    r = rng.uniform(0.8, 1.25)
    parts: list[_Part] = [((rng.normal(0, 4), -10.0, -23.0), (22 * r, 22 * r, 16 * r))]
    for one, chance in ((side, 0.85), (-side, 0.5)):
        if rng.random() < chance:
            parts.append(((one * 34, -12.0, -6.0), (20 * r, 26 * r, 17 * r)))
    if rng.random() < 0.6:
        parts.append(((0.0, -48.0, rng.uniform(0, 14)), (9.0, 24 * r, 22 * r)))
    if rng.random() < 0.6:
        parts.append(((0.0, 12.0, -18.0), (22.0, 20.0, 20 * r)))
    return parts


def _midbrain_parts(rng: np.random.Generator, side: float) -> list[_Part]:
    return [
        ((side * rng.uniform(0, 5), 2.0, -26.0), (18.0, 18.0, rng.uniform(12, 20))),
        ((side * 12, 14.0, -12.0), (13.0, 18.0, 12.0)),
    ]


def _sylvian_parts(rng: np.random.Generator, side: float) -> list[_Part]:
    r = rng.uniform(0.8, 1.2)
    return [((side * 42, rng.uniform(-16, 4), rng.uniform(-4, 8)), (20 * r, 28 * r, 16 * r))]


def _convexity_parts(rng: np.random.Generator, side: float) -> list[_Part]:
    """Some sulci of one convexity, after trauma sometimes of the other side too."""
    parts: list[_Part] = []
    for one in (side, -side) if rng.random() < 0.25 else (side,):
        turn = rng.uniform(0.05, 0.95) * math.pi
        centre = (one * 58 * math.sin(turn), 4 - 70 * math.cos(turn), rng.uniform(0, 52))
        r = rng.uniform(10, 24)
        parts.append((centre, (r * rng.uniform(0.7, 1), r * rng.uniform(0.8, 1.2), r * rng.uniform(0.6, 1))))
    return parts


def _diffuse_parts(rng: np.random.Generator, side: float) -> list[_Part]:
    r = rng.uniform(36, 60)
    return [((side * rng.uniform(0, 14), rng.uniform(-14, 4), rng.uniform(-14, 4)), (r, 1.15 * r, 0.75 * r))]


# ---------------------------------------------------------------- around the brain


def _subdural(blank: Lesion, rng: np.random.Generator) -> Lesion:
    kind = _pick(rng, {"acute": 0.72, "chronic": 0.1, "mixed": 0.12, "layered": 0.06})
    main = _crescent(blank, rng, kind, _side(rng))
    if kind != "acute":
        both = rng.random() < 0.25
        return replace(main, also=(_opposite(main, rng),)) if both else main
    place = rng.random()
    if place < 0.15:
        along = "falx" if rng.random() < 0.65 else "tentorium"
        return _sheet(main, rng, along)
    companions = [_sheet(main, rng, along) for along in ("falx", "tentorium") if rng.random() < 0.15]
    if place > 0.92:
        companions.append(_opposite(main, rng))
    return replace(main, also=tuple(companions))


def _crescent(blank: Lesion, rng: np.random.Generator, kind: str, side: float) -> Lesion:
    """Thin ones are the most common; old ones are thicker, and press less on a brain that has shrunk.

    What is short for its thickness would be a lens: epidural to whoever reads it.
    """
    old = kind != "acute"
    half_angle = math.radians((24 if old else 20) + 46 * rng.beta(1.1, 1.7))
    thickness = rng.uniform(6, 18) if old else 4 + 12 * rng.beta(1.3, 2.2)
    turn = math.radians(rng.uniform(30, 145))
    return replace(
        blank,
        site=(side * math.sin(turn), -math.cos(turn), rng.uniform(0.05, 0.7)),
        size_mm=float(min(thickness, _CRESCENT_MM * half_angle)),
        stretch=(half_angle, math.radians(rng.uniform(10, 38)), 1),
        hu=_density(rng, 60, 6, 48, 72),
        second_hu=rng.uniform(6, 24),  # old blood as grey as brain is not seen by anybody
        kind=kind,
        push=rng.uniform(0.3, 0.8) if old else rng.uniform(0.5, 1.0),
    )


def _opposite(main: Lesion, rng: np.random.Generator) -> Lesion:
    """A thinner one of its kind on the other side."""
    turn = math.radians(rng.uniform(35, 140))
    return replace(
        main,
        site=(-math.copysign(math.sin(turn), main.site[0]), -math.cos(turn), rng.uniform(0.05, 0.6)),
        size_mm=max(3.0, main.size_mm * rng.uniform(0.35, 0.95)),
        hu=main.hu + rng.normal(0, 4),
        fresh=float(np.clip(main.fresh + rng.normal(0, 0.15), 0.1, 0.9)),
        also=(),
    )


def _sheet(main: Lesion, rng: np.random.Generator, along: str) -> Lesion:
    """Blood of the same bleed along the falx or the tentorium; it moves nothing."""
    size = rng.uniform(2, 5)
    site = (main.site[0], rng.uniform(-60, 70), rng.uniform(15, 45)) if along == "falx" else main.site
    return replace(main, site=site, size_mm=size, stretch=(rng.uniform(24, 60), 1, 1), kind=along, push=0, also=())


def _epidural(blank: Lesion, rng: np.random.Generator) -> Lesion:
    """Most lie over the temporal and parietal lobes; the sutures that bound them are looked up in `lesions`."""
    temporal = rng.random() < 0.5
    turn = math.radians(rng.uniform(60, 110) if temporal else rng.uniform(25, 150))
    half_angle = math.radians(rng.uniform(14, 40))
    return replace(
        blank,
        site=(
            _side(rng) * math.sin(turn),
            -math.cos(turn),
            rng.uniform(-0.3, 0.2) if temporal else rng.uniform(-0.1, 0.7),
        ),
        size_mm=float(np.clip(rng.uniform(5, 28), _LENS_MM[0] * half_angle, _LENS_MM[1] * half_angle)),
        stretch=(half_angle, half_angle * rng.uniform(0.8, 1.15), 1),
        hu=_density(rng, 58, 6, 46, 74),
        kind="mixed" if rng.random() < 0.2 else "acute",
        second_hu=rng.uniform(36, 48),
        fresh=rng.uniform(0.5, 0.85),
        push=rng.uniform(0.6, 1.0),
    )
