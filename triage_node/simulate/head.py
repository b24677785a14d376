"""A procedural head CT with its truth: one set of implicit functions gives both the HU and the labels.

Nothing is resampled: every slice evaluates the same functions of physical points, so one head can be taken in any
geometry, tilted or unevenly spaced, and stays the same head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triage_node.domain import SUBTYPES, Float32Array, Float64Array, Int16Array, UInt8Array
from triage_node.simulate import lesions as blood
from triage_node.simulate.acquisition import Scanner, acquire
from triage_node.simulate.brain import Brain, BrainFields, brain_fields, middle_x
from triage_node.simulate.details import DetailFields, refined_details
from triage_node.simulate.fields import mix, share
from triage_node.simulate.geometry import Lattice, Refiner, SliceGeometry, slice_lattice
from triage_node.simulate.lesions import Lesion
from triage_node.simulate.skull import Skull, SkullFields, canonical_points, skull_fields
from triage_node.simulate.template import Folds, Template, Tissue

_COARSE_MM: Final = 2.5
"""Smooth fields are evaluated this far apart and refined; everything with an edge is drawn at the pixels."""
_DURA_MM: Final = 1.0
_CORTEX_MM: Final = 3.0
_TAIL_MM: Final = np.float32(1.8)
_RIM_LOST: Final = np.float32(0.85)
"""Share of the bright rim that blood takes away: part of a real rim is vessels and dura, which blood pushes aside. With
all of it, labelled subdural blood lay at 69 HU (median), 17 % of it over 100; real blood at 52, 5 % over 69 (BHSD)."""
_LEAST_SHARE: Final = 0.2
"""A pixel with less blood than this over the slice thickness is never labelled."""
_OLD_OVER_FLUID_HU: Final = 6.0
_OLD_UNDER_WHITE_HU: Final = 5.0
_FRESH_OVER_GREY_HU: Final = 10.0
_FRESH_OVER_FLUID_HU: Final = 18.0
"""Part of why a sixth of the slices with blood showed none to anybody, which taught that any slice may bleed
(measured: docs/lab-notebook.md)."""
_WITH_MASS: Final = 0.1
"""Share of the heads without blood."""
_HIDDEN_HU: Final = 150
"""Blood that shares its slice with so much bone is not labelled: nobody could see it."""
_WHITE_HU: Final = 90
_WHITE_MM: Final = np.float32(3.5)
"""Nor is what is as white as bone so near to it: readers draw what they see, and of 95 % of the subdural pixels that
they drew none was over 69 HU (BHSD)."""
_SUBARACHNOID: Final = 1 + SUBTYPES.index(blood.SUBARACHNOID)
_OVER_WHITE_HU: Final = 5.0
_BESIDE_BONE_HU: Final = 75.0
"""Thin films of subarachnoid blood, as grey as the brain or in the crevices of the skull base, are drawn and not
labelled: they taught that the sella of every head may be blood (measured: docs/lab-notebook.md)."""
_VOLUME_STEP_MM: Final = 2.0
_BODY_STEPS_MM: Final = (0.8, 1.8)
_HEAD_BOX_MM: Final = ((-85.0, 85.0), (-100.0, 105.0), (-80.0, 95.0))

FieldsT = TypeVar("FieldsT", SkullFields, BrainFields)
Refine = Callable[[Float32Array], Float32Array]


@dataclass(frozen=True, kw_only=True)
class SimulatedHead:
    """A head CT and the truth about it."""

    hu: Int16Array
    """(slices, rows, columns) int16, HU."""
    truth: UInt8Array
    """(slices, rows, columns) uint8: 0, or 1 + index in SUBTYPES."""
    depth_mm: Float32Array
    """(slices, rows, columns) float32: below the inner table in the middle of the slice; below 0 outside."""
    geometry: SliceGeometry
    subtypes: tuple[str, ...]
    volumes_ml: Mapping[str, float]
    """Physical volume by subtype, from the implicit functions in 3-D: independent of the slices."""
    chronic: bool | None = None
    """Whether the subdural blood is chronic; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    """One head lying in the scanner: everything about it, and nothing of the slices."""

    rotation: Float64Array
    centre_mm: Float64Array
    skull: Skull
    brain: Brain
    folds: Folds | None
    """Where the brain has the folds of the template."""
    lesions: Mapping[str, Lesion]
    mass: Lesion | None
    """Swelling without blood: its mass effect and its oedema are drawn."""

    @property
    def pressing(self) -> Mapping[str, Lesion]:
        """What moves the brain aside."""
        return self.lesions if self.mass is None else {blood.INTRAPARENCHYMAL: self.mass}


def simulate_head(
    *,
    seed: int,
    subtypes: Sequence[str] = (),
    geometry: SliceGeometry,
    noise_hu: float | None = None,
    lesion_volume_ml: float | None = None,
    measure_volumes: bool = True,
    template: Template | None = None,
) -> SimulatedHead:
    """Render head `seed` with the hemorrhages `subtypes` in `geometry`. The same arguments give the same pixels.

    `lesion_volume_ml` brings the first of `subtypes` that is intraparenchymal, subdural or epidural to that volume.
    Without `measure_volumes`, `volumes_ml` is empty and a head of few slices is made faster. With a `template`, the
    brain has its folds (`template.load_template`); without, folds are procedural too.
    """
    head = _random_head(seed, subtypes, template)
    if lesion_volume_ml is not None:
        head = _with_volume(head, lesion_volume_ml)
    scanner = Scanner.random(_stream(seed, "scanner"), noise_hu=noise_hu, thickness_mm=geometry.thickness_mm)
    noise = _stream(seed, "noise")
    slices = [_render_slice(head, scanner, geometry, index, noise) for index in range(len(geometry.positions_mm))]
    return SimulatedHead(
        hu=np.stack([hu for hu, _, _ in slices]),
        truth=np.stack([truth for _, truth, _ in slices]),
        depth_mm=np.stack([depth for _, _, depth in slices]),
        geometry=geometry,
        subtypes=tuple(head.lesions),
        volumes_ml=_volumes_ml(head) if measure_volumes else {},
        chronic=blood.is_chronic(head.lesions[blood.SUBDURAL]) if blood.SUBDURAL in head.lesions else None,
    )


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose: anatomy does not change when a lesion is added."""
    return np.random.default_rng([seed, *purpose.encode()])


def _random_head(seed: int, subtypes: Sequence[str], template: Template | None) -> _Head:
    brain = Brain.random(_stream(seed, "brain"))
    rng = _stream(seed, "pose")
    pitch, yaw, roll = (math.radians(rng.normal(0, sd)) for sd in (7, 4, 5))
    return _Head(
        rotation=_turn(0, pitch) @ _turn(1, yaw) @ _turn(2, roll),
        centre_mm=rng.normal(0, (4, 5, 3)),
        skull=Skull.random(_stream(seed, "skull")),
        brain=brain,
        folds=None if template is None else Folds.random(_stream(seed, "folds"), template, age=brain.age),
        lesions={s: _bleed(s, seed, brain) for s in SUBTYPES if s in set(_known(subtypes))},
        mass=None if subtypes else _mass(_stream(seed, "mass")),
    )


def _bleed(subtype: str, seed: int, brain: Brain) -> Lesion:
    """Fresh blood is denser than the cortex, old blood lies between fluid and brain: one scanner shows both."""
    lesion = blood.random_lesion(subtype, _stream(seed, subtype))
    return replace(_seen_beside(lesion, brain), also=tuple(_seen_beside(piece, brain) for piece in lesion.also))


def _seen_beside(lesion: Lesion, brain: Brain) -> Lesion:
    grey_hu = brain.white_hu + brain.grey_over_white_hu
    in_fluid = lesion.subtype == blood.INTRAVENTRICULAR
    fresh_hu = brain.csf_hu + _FRESH_OVER_FLUID_HU if in_fluid else grey_hu + _FRESH_OVER_GREY_HU
    if lesion.subtype == blood.SUBDURAL or lesion.kind == "level":
        old_hu = min(lesion.second_hu, brain.white_hu - _OLD_UNDER_WHITE_HU)
    else:
        old_hu = max(lesion.second_hu, grey_hu)
    return replace(lesion, hu=max(lesion.hu, fresh_hu), second_hu=max(old_hu, brain.csf_hu + _OLD_OVER_FLUID_HU))


def _mass(rng: np.random.Generator) -> Lesion | None:
    """Swelling without blood, an infarct or a tumour: what presses on the brain does not always bleed."""
    if rng.random() > _WITH_MASS:
        return None
    lesion = blood.random_lesion(blood.INTRAPARENCHYMAL, rng)
    return replace(lesion, edema_hu=-rng.uniform(4, 15), edema_mm=rng.uniform(4, 16), push=rng.uniform(0.2, 0.8))


def _known(subtypes: Sequence[str]) -> Sequence[str]:
    for subtype in subtypes:
        if subtype not in SUBTYPES:
            raise ValueError(f"no such subtype: {subtype}; one of {', '.join(SUBTYPES)}")
    return subtypes


def _turn(axis: int, angle: float) -> Float64Array:
    a, b = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


# ---------------------------------------------------------------- one slice


def _render_slice(
    head: _Head, scanner: Scanner, geometry: SliceGeometry, index: int, noise: np.random.Generator
) -> tuple[Int16Array, UInt8Array, Float32Array]:
    """HU, labels, and depth below the inner table."""
    middle = slice_lattice(geometry, index)
    refiner = Refiner.for_lattice(middle, coarse_mm=_COARSE_MM)
    planes = [
        _render_plane(
            head, refiner, slice_lattice(geometry, index, above_mm=above).moved(head.rotation, head.centre_mm)
        )
        for above in _plane_offsets_mm(geometry.thickness_mm)
    ]
    count = np.float32(len(planes))
    hu = sum((plane.hu for plane in planes[1:]), planes[0].hu) / count
    shares = {s: sum((p.shares[s] for p in planes[1:]), planes[0].shares[s]) / count for s in head.lesions}
    hu = acquire(hu, planes[len(planes) // 2].depth, middle, scanner, noise)
    depth = planes[len(planes) // 2].depth
    labels = _labels(shares, hu.shape)
    seen = hu < np.where(depth < _WHITE_MM, _WHITE_HU, _HIDDEN_HU)
    seen &= (labels != _SUBARACHNOID) | _stands_out(hu, depth, head.brain)
    truth = np.where(seen, labels, 0).astype(np.uint8)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16), truth, depth


def _stands_out(hu: Float32Array, depth: Float32Array, brain: Brain) -> NDArray[np.bool_]:
    """Brighter than the brain and not as bright as the bone beside it, noise aside."""
    mean = ndimage.uniform_filter(hu, 3)
    beside_bone = (depth < _WHITE_MM) & (mean > _BESIDE_BONE_HU)
    return np.asarray((mean > brain.white_hu + _OVER_WHITE_HU) & ~beside_bone)


def _plane_offsets_mm(thickness_mm: float) -> Float64Array:
    """Midpoints of equal parts of the slice thickness: one to four."""
    count = 1 if thickness_mm < 1.6 else 2 if thickness_mm < 3.2 else 3 if thickness_mm < 5.5 else 4
    return np.asarray(((np.arange(count) + 0.5) / count - 0.5) * thickness_mm)


def _labels(shares: Mapping[str, Float32Array], shape: tuple[int, ...]) -> UInt8Array:
    """As many pixels as the slice holds blood for, the fullest first: an area without bias on thick slices."""
    truth = np.zeros(shape, np.uint8)
    best = np.full(shape, np.float32(_LEAST_SHARE))
    for subtype, amount in shares.items():
        wanted = round(float(amount.sum()))
        candidates = amount > best
        wanted = min(wanted, int(candidates.sum()))
        if wanted:
            least = np.partition(amount[candidates], -wanted)[-wanted]
            chosen = candidates & (amount >= least)
            truth[chosen] = 1 + SUBTYPES.index(subtype)
            best[chosen] = amount[chosen]
    return truth


@dataclass(frozen=True, kw_only=True)
class _Plane:
    hu: Float32Array
    depth: Float32Array
    shares: Mapping[str, Float32Array]


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """All fields of one plane, at its pixels."""

    skull: SkullFields
    brain: BrainFields
    details: DetailFields
    lesion_fields: Mapping[str, Float32Array]
    depth: Float32Array
    """Below the inner table, mm."""
    brain_depth: Float32Array
    """Below the surface of the brain, mm."""
    fluid: Float32Array
    """Distance to cerebrospinal fluid outside the ventricles."""
    subarachnoid: Float32Array
    """Distance to the spaces that subarachnoid blood fills: it opens the larger ones, and spares the fine folia."""
    cortex: Float32Array
    """How much of the brain here is cortex or deep grey matter, 0..1."""


def _render_plane(head: _Head, refiner: Refiner, lattice: Lattice) -> _Plane:
    scene = _scene_on(head, refiner.coarse(lattice), refiner.refine)
    shares = _shares(head, scene, edge_mm=0.8)
    outside = _draw_outside(head.skull, scene.skull)
    inside = _draw_inside(head, scene, shares, lattice)
    return _Plane(hu=mix(outside, inside, share(scene.skull.cavity, edge_mm=0.9)), depth=scene.depth, shares=shares)


def _scene_on(head: _Head, lattice: Lattice, refine: Refine) -> _Scene:
    """All fields, evaluated on a lattice and refined to another; folds of the template are drawn on the finer one."""
    p = canonical_points(head.skull, lattice)
    skull = skull_fields(head.skull, lattice, p)
    lesion_fields = {s: blood.lesion_field(one, lattice, p, skull.cavity) for s, one in head.pressing.items()}
    pushed = blood.pushed(head.pressing, p, skull.cavity, lesion_fields)
    brain = brain_fields(head.brain, lattice, p, pushed)
    middle = (middle_x(head.brain, lattice, pushed[0]), *pushed[1:])
    details = refined_details(head.brain.details, middle, p, refine)
    refined = {s: refine(field) for s, field in lesion_fields.items()}
    scene = _scene(head, _refined(skull, refine), _refined(brain, refine), details, refined)
    if head.folds is None:
        return scene
    x, y, z = (refine(a) for a in head.folds.warped(pushed, lattice))
    return _folded(scene, head.folds, head.folds.tissue((x, y, z), scene.brain_depth))


def _refined(coarse: FieldsT, refine: Refine) -> FieldsT:
    values: dict[str, Any] = {f.name: refine(getattr(coarse, f.name)) for f in fields(coarse)}
    return replace(coarse, **values)


def _scene(
    head: _Head,
    skull: SkullFields,
    brain: BrainFields,
    details: DetailFields,
    lesion_fields: Mapping[str, Float32Array],
) -> _Scene:
    depth = -skull.cavity
    cover = brain.gap + np.float32(_DURA_MM)
    for subtype in (blood.SUBDURAL, blood.EPIDURAL):
        if subtype in lesion_fields and head.lesions[subtype].kind != "falx":
            cover = np.maximum(cover, lesion_fields[subtype])  # blood takes the place of the fluid
    brain_depth = depth - cover
    sulcus = np.maximum(np.abs(brain.fold) - np.float32(head.brain.sulcus_mm), brain_depth - brain.fold_depth)
    fissure = np.maximum(np.abs(brain.midline) - np.float32(0.9 + max(0, 0.5 * head.brain.sulcus_mm)), brain.falx)
    fluid = np.minimum(np.minimum(brain_depth, sulcus), np.minimum(brain.cistern, fissure))
    filled = np.maximum(np.abs(brain.fold) - np.float32(max(0.9, head.brain.sulcus_mm)), brain_depth - brain.fold_depth)
    filled = np.maximum(filled, np.float32(24) - 2 * brain.fold_depth)
    subarachnoid = np.minimum(np.minimum(brain.cistern - 0.8, fissure - 0.4), np.minimum(filled, brain_depth + 0.8))
    return _Scene(
        skull=skull,
        brain=brain,
        details=details,
        lesion_fields=lesion_fields,
        depth=depth,
        brain_depth=brain_depth,
        fluid=fluid,
        subarachnoid=subarachnoid,
        cortex=_ribbon(head, brain, brain_depth),
    )


def _ribbon(head: _Head, brain: BrainFields, brain_depth: Float32Array) -> Float32Array:
    """Cortex along the procedural folds and the surface, 0..1."""
    folded = np.maximum(np.abs(brain.fold) - head.brain.sulcus_mm, brain_depth - brain.fold_depth)
    ribbon = np.minimum(np.minimum(folded, brain_depth), np.maximum(brain.cistern, 0))
    return share(ribbon - np.float32(_CORTEX_MM), edge_mm=2) * brain.cortex


def _folded(scene: _Scene, folds: Folds, tissue: Tissue) -> _Scene:
    """The scene with the sulci, fissures and cisterns of the template instead of the procedural ones."""
    surface = np.maximum(folds.distance(tissue.brain), -scene.brain.lower_stem)
    open_space = np.maximum(folds.distance(tissue.brain, filled=True), np.float32(3.0) - scene.brain.ventricle)
    open_space = np.maximum(open_space, np.float32(1.0) - scene.brain.lower_stem)
    return replace(
        scene,
        fluid=np.minimum(surface, scene.brain_depth),
        # a film on the brain, not all of a wide gap under the bone
        subarachnoid=np.maximum(
            np.minimum(open_space, scene.brain_depth + np.float32(0.8)), np.float32(-1.5) - scene.brain_depth
        ),
        cortex=np.maximum(folds.cortex(tissue.grey), scene.brain.deep_grey),
    )


def _shares(head: _Head, scene: _Scene, *, edge_mm: float) -> dict[str, Float32Array]:
    """How much of each point is blood of each subtype, 0..1; what one subtype holds, the next cannot."""
    shares: dict[str, Float32Array] = {}
    free = share(_DURA_MM * 0.4 - scene.depth, edge_mm=edge_mm)
    for subtype in _DRAWING_ORDER:
        if subtype in head.lesions:
            distance = blood.blood_distance(
                head.lesions[subtype],
                scene.lesion_fields[subtype],
                depth=scene.depth,
                ventricle=scene.brain.ventricle,
                fluid=scene.subarachnoid,
                midline=scene.brain.midline,
                falx=scene.brain.falx,
            )
            shares[subtype] = share(distance, edge_mm=edge_mm) * free
            free = free - shares[subtype]
    return {s: shares[s] for s in head.lesions}


_DRAWING_ORDER: Final = (
    blood.EPIDURAL,
    blood.SUBDURAL,
    blood.INTRAPARENCHYMAL,
    blood.INTRAVENTRICULAR,
    blood.SUBARACHNOID,
)


def _draw_outside(skull: Skull, f: SkullFields) -> Float32Array:
    """Air, skin, fat, muscle, bone, sinuses."""
    scalp = mix(f.soft_hu, np.float32(35), share(-f.head - np.float32(1.8), edge_mm=1.5))
    hu = mix(np.full_like(scalp, -1000), scalp, share(f.head))
    across = np.abs(f.cavity / f.thickness - np.float32(0.5)) * 2
    vault_hu = skull.diploe_hu + (skull.table_hu - skull.diploe_hu) * np.clip((across - 0.3) / 0.4, 0, 1)
    vault_hu = mix(vault_hu, np.float32(250), share(f.suture, edge_mm=0.8))
    hu = mix(hu, np.float32(skull.table_hu * 0.75), share(f.base))
    hu = mix(hu, vault_hu, share(np.maximum(f.cavity - f.thickness, -f.cavity - 1)))
    return mix(hu, np.float32(-980), share(np.maximum(f.air, f.head + 1.5)))


def _draw_inside(head: _Head, scene: _Scene, shares: Mapping[str, Float32Array], lattice: Lattice) -> Float32Array:
    """White and grey matter, fluid, membranes, vessels, blood; and the tail of the bone over all of them."""
    b, f = head.brain, scene.brain
    small, d = head.brain.details, scene.details
    hu = b.white_hu + b.grey_over_white_hu * scene.cortex + (f.tissue_hu if head.folds is None else f.change_hu)
    for subtype, lesion in head.pressing.items():
        if lesion.edema_mm:
            hu = hu + blood.edema(lesion, scene.lesion_fields[subtype])
    hu = mix(hu, b.csf_hu, np.maximum(share(scene.fluid), share(f.ventricle)))
    hu = mix(hu, small.nerve_hu, share(d.nerve))
    hu = mix(hu, small.gland_hu, share(d.gland, edge_mm=1.5))
    hu = mix(hu, small.artery_hu, share(d.vessel))
    hu = mix(hu, small.plexus_hu, share(np.maximum(d.plexus, f.ventricle)))
    bloody = np.zeros_like(hu)
    for subtype, amount in shares.items():
        hu = mix(hu, blood.blood_hu(head.lesions[subtype], lattice), amount)
        bloody = bloody + amount
    sheets = np.minimum(np.maximum(np.abs(f.midline) - 0.5, f.falx), np.abs(f.tentorium) - 0.5)
    hu = mix(hu, b.dura_hu, share(sheets, edge_mm=0.8) * np.float32(b.sheets))
    hu = mix(hu, b.dura_hu, share(scene.depth - np.float32(_DURA_MM), edge_mm=0.8))
    hu = mix(hu, b.dura_hu, share(d.edge) * np.float32(b.sheets))
    hu = mix(hu, b.sinus_hu, share(f.sinus))
    hu = mix(hu, d.calcification_hu, share(d.calcification))
    hu = mix(hu, small.process_hu, share(d.process))
    depth = np.maximum(scene.depth, 0)
    # beam hardening lifts whatever is there; of the steep rim blood takes its place
    lift = f.lift_hu * np.exp(-depth / np.float32(b.lift_tau_mm))
    rim = b.tail_hu * np.exp(-depth / _TAIL_MM) * (1 - _RIM_LOST * np.minimum(bloody, 1))
    return np.asarray(hu + lift + rim, np.float32)


# ---------------------------------------------------------------- volumes


def _volumes_ml(head: _Head) -> dict[str, float]:
    """Physical volume by subtype, by supersampling the implicit functions."""
    return {subtype: _volume_ml(head, subtype) for subtype in head.lesions}


def _volume_ml(head: _Head, subtype: str) -> float:
    box, step_mm = _lesion_box(head, head.lesions[subtype])
    total = 0.0
    for lattice in _planes_through(box, step_mm):
        total += float(_lattice_shares(head, lattice, edge_mm=step_mm)[subtype].sum())
    return total * step_mm**3 / 1000


def _lesion_box(head: _Head, lesion: Lesion) -> tuple[Sequence[tuple[float, float]], float]:
    """Where the lesion lies, head frame, mm, and how finely to look."""
    if lesion.subtype != blood.INTRAPARENCHYMAL:
        return _HEAD_BOX_MM, _VOLUME_STEP_MM
    reach = [1.6 * lesion.size_mm * s * scale + 6 for s, scale in zip(lesion.stretch, head.skull.scale, strict=True)]
    centre = [c * scale for c, scale in zip(lesion.site, head.skull.scale, strict=True)]
    step_mm = float(np.clip(0.12 * lesion.size_mm, *_BODY_STEPS_MM))
    return [(c - r, c + r) for c, r in zip(centre, reach, strict=True)], step_mm


def _planes_through(box: Sequence[tuple[float, float]], step_mm: float) -> list[Lattice]:
    (x0, x1), (y0, y1), (z0, z1) = box
    return [
        Lattice(
            origin_mm=np.array([x0, y0, z]),
            row_step_mm=np.array([0.0, step_mm, 0.0]),
            column_step_mm=np.array([step_mm, 0.0, 0.0]),
            rows=int((y1 - y0) / step_mm) + 1,
            columns=int((x1 - x0) / step_mm) + 1,
        )
        for z in np.arange(z0, z1, step_mm)
    ]


def _lattice_shares(head: _Head, lattice: Lattice, *, edge_mm: float) -> dict[str, Float32Array]:
    return _shares(head, _scene_on(head, lattice, lambda field: field), edge_mm=edge_mm)


def _with_volume(head: _Head, volume_ml: float) -> _Head:
    """The head with its first scalable lesion brought to `volume_ml`."""
    subtype = next((s for s in blood.SCALABLE if s in head.lesions), None)
    if subtype is None:
        raise ValueError(f"lesion_volume_ml needs one of {', '.join(blood.SCALABLE)}")
    power = 3 if subtype == blood.INTRAPARENCHYMAL else 1
    for _ in range(12):
        found_ml = _volume_ml(head, subtype)
        if abs(found_ml / volume_ml - 1) < 0.003:
            break
        factor = float(np.clip((volume_ml / max(found_ml, 1e-3)) ** (1 / power), 0.3, 3))
        head = replace(head, lesions={**head.lesions, subtype: blood.resized(head.lesions[subtype], factor)})
    return head
