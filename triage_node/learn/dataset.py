"""Simulated heads as memory-mapped shards on a network grid, written while training already reads.

A shard is a folder `shard-<number>` with hu.npy (slices, size, size) int16 HU, truth.npy uint8 labels, depth.npy uint8,
the depth below the inner table in units of DEPTH_UNIT_MM (0: not inside the skull), and meta.npy (slices, 3) float32:
number of the head, position along the normal in mm, and 1 or 0 where its subdural blood is chronic or not (else nan).
Data from elsewhere have three more (see data.shards): labels.npy (slices, 6) float32, what is told of CLASSES besides
the truth: 1, 0, or nan; series.npy, the same of the whole series; and masked.npy (slices,) bool, where the truth is
known. Where bone was cut off before it was resampled, at_most_hu.npy has the limit. A shard appears by one rename.
Every simulated head is a new seed: none is rendered twice, and the seeds of evaluation lie apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, Int16Array, UInt8Array, Volume
from triage_node.errors import UsageError
from triage_node.simulate import SimulatedHead, SliceGeometry, axial_geometry, simulate_head
from triage_node.simulate.lesions import random_combination
from triage_node.simulate.template import load_template
from triage_node.transforms import Grid, Placement, place_grid, resampling_matrix, to_grid

STORED_GRID: Final = Grid(size_px=176, spacing_mm=1.25)
"""Finer and wider than the grid of training, which turns, shifts and scales it at every pass."""
DEPTH_UNIT_MM: Final = 0.2
UNKNOWN_KIND: Final = 1 + len(SUBTYPES)
"""Label of blood whose subtype is not known."""
_HEADS_PER_SHARD: Final = 20
_SLICES_OF_A_HEAD: Final = 10
"""Those that are kept lie together; more heads teach more than more slices of one (measured: docs/lab-notebook.md)."""
_RENDERED_PX: Final = 208
_SHARE_WITHOUT_BLOOD: Final = 0.2
"""Of the heads; two of three slices of a head with blood show none."""
_SEVERAL: Final = 0.4
_ALONE: Final[Mapping[str, float]] = {
    "epidural": 0.2,
    "intraparenchymal": 0.15,
    "intraventricular": 0.15,
    "subarachnoid": 0.2,
    "subdural": 0.3,
}
"""What bleeds where only one thing does: more of what is harder to learn."""
_WITH_TEMPLATE: Final = 0.75
"""Of the heads; the others have procedural folds, which differ more from head to head."""
_ARRAYS: Final = ("hu", "truth", "depth", "meta")
_TOLD: Final = ("labels", "masked", "series")
_LIMIT: Final = "at_most_hu.npy"


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices of some heads on STORED_GRID."""

    hu: Int16Array
    truth: UInt8Array
    depth: UInt8Array
    meta: Float32Array
    labels: Float32Array
    masked: NDArray[np.bool_]
    series: Float32Array
    at_most_hu: float = np.inf
    """What was denser counted as that when the slices were resampled."""

    @classmethod
    def known(
        cls, *, hu: Int16Array, truth: UInt8Array, depth: UInt8Array, meta: Float32Array, at_most_hu: float = np.inf
    ) -> Slices:
        """Slices whose truth is known and all that is told of them."""
        labels = np.full((len(hu), len(CLASSES)), np.nan, np.float32)
        masked = np.ones(len(hu), np.bool_)
        return cls(
            hu=hu,
            truth=truth,
            depth=depth,
            meta=meta,
            labels=labels,
            masked=masked,
            series=labels,
            at_most_hu=at_most_hu,
        )


# ---------------------------------------------------------------- heads


def draw_geometry(rng: np.random.Generator) -> SliceGeometry:
    """A stack as scanners make them: thick or thin, tilted or not, any field of view, sometimes uneven."""
    thickness_mm = float(rng.choice([2.5, 3.0, 3.0, 4.0, 5.0, 5.0, 5.0, 7.0, 8.0]))
    slices = int(np.clip(rng.uniform(150, 175) / thickness_mm, 16, 36))
    steps = np.full(slices - 1, 150.0 / slices if thickness_mm < 4 else thickness_mm)
    if rng.random() < 0.3:
        steps[: slices // 2] *= 0.6
    return axial_geometry(
        slices=slices,
        spacing_mm=tuple(steps),
        tilt_deg=float(rng.choice([0.0, 0.0, rng.uniform(-12, 24)])),
        rows=_RENDERED_PX,
        columns=_RENDERED_PX,
        pixel_spacing_mm=float(rng.uniform(205, 255)) / _RENDERED_PX,
        thickness_mm=thickness_mm,
    )


def draw_subtypes(rng: np.random.Generator) -> tuple[str, ...]:
    """What bleeds in one head; sometimes nothing."""
    if rng.random() < _SHARE_WITHOUT_BLOOD:
        return ()
    if rng.random() < _SEVERAL:
        return random_combination(rng)
    return (str(rng.choice(list(_ALONE), p=list(_ALONE.values()))),)


def draw_head(seed: int, *, slices: int | None = None) -> tuple[SimulatedHead, Volume]:
    """The simulated head of one seed, in the geometry of that seed; or so many neighbouring slices of it."""
    rng = np.random.default_rng(seed)
    geometry = draw_geometry(rng)
    subtypes = draw_subtypes(rng)
    template = load_template() if rng.random() < _WITH_TEMPLATE else None
    geometry = geometry if slices is None else _part(geometry, slices, rng)
    head = simulate_head(seed=seed, subtypes=subtypes, geometry=geometry, measure_volumes=False, template=template)
    return head, as_volume(head.hu, geometry)


def _part(geometry: SliceGeometry, slices: int, rng: np.random.Generator) -> SliceGeometry:
    first = int(rng.integers(0, max(0, len(geometry.positions_mm) - slices) + 1))
    return replace(geometry, positions_mm=geometry.positions_mm[first : first + slices])


def as_volume(hu: Int16Array, geometry: SliceGeometry) -> Volume:
    """The slices of a simulated head as the stages see them, without identity."""
    along_mm = geometry.positions_mm @ geometry.normal
    edges = np.concatenate([[along_mm[0]], (along_mm[1:] + along_mm[:-1]) / 2, [along_mm[-1]]])
    weights_mm = np.diff(edges)
    weights_mm[[0, -1]] *= 2
    return Volume(
        hu=hu,
        sop_uids=(),
        paths=(),
        positions_mm=geometry.positions_mm,
        orientation=geometry.orientation,
        pixel_spacing_mm=geometry.pixel_spacing_mm,
        weights_mm=weights_mm,
        tilt_deg=0.0,
        header={},
    )


def stored_slices(volume: Volume, head: SimulatedHead, *, number: int = 0, at_most_hu: float = np.inf) -> Slices:
    """One head on STORED_GRID, with the depth below the inner table."""
    truth = head.truth
    placement = place_grid(volume, STORED_GRID)
    hu = to_grid(volume.hu, placement, at_most_hu)
    labels = resampled_labels(truth, placement, labels=1 + len(SUBTYPES))
    # from the simulator, not from the image: a frontal sinus or a foramen opens the skull of many slices
    depth = _resampled(np.maximum(head.depth_mm, 0), placement)
    return Slices.known(
        hu=np.rint(np.clip(hu, -1024, 3071)).astype(np.int16),
        truth=labels,
        depth=np.clip(np.ceil(depth / DEPTH_UNIT_MM), 0, 255).astype(np.uint8),
        meta=_meta(volume, number, head.chronic),
        at_most_hu=at_most_hu,
    )


def resampled_labels(truth: UInt8Array, placement: Placement, *, labels: int) -> UInt8Array:
    """(slices, rows, columns) labels below `labels` to (slices, size, size): the label with most of a pixel."""
    size_px = placement.grid_rows[0].count
    out = np.zeros((len(truth), size_px, size_px), np.uint8)
    for index in np.flatnonzero(truth.any(axis=(1, 2))):
        along_rows = resampling_matrix(placement.native_rows, placement.grid_rows[index])
        along_columns = resampling_matrix(placement.native_columns, placement.grid_columns[index])
        image = truth[index].T if placement.transposed else truth[index]
        out[index] = np.argmax([along_rows @ (image == label) @ along_columns.T for label in range(labels)], axis=0)
    return out


def _resampled(images: Float32Array, placement: Placement) -> Float32Array:
    out = []
    for index, image in enumerate(images):
        along_rows = resampling_matrix(placement.native_rows, placement.grid_rows[index])
        along_columns = resampling_matrix(placement.native_columns, placement.grid_columns[index])
        out.append(along_rows @ image @ along_columns.T)
    return np.stack(out).astype(np.float32)


def _meta(volume: Volume, number: int, chronic: bool | None) -> Float32Array:
    along_mm = volume.positions_mm @ volume.normal
    age = np.nan if chronic is None else float(chronic)
    return np.stack([np.full(len(along_mm), number), along_mm, np.full(len(along_mm), age)], axis=1).astype(np.float32)


# ---------------------------------------------------------------- shards


def render_shards(
    folder: Path, *, first: int, count: int, seed: int, at_most_hu: float = np.inf, processes: int = 1
) -> None:
    """Render shards `first` to `first + count - 1` that are not there yet, in parallel, with a progress bar.

    With `at_most_hu` bone is cut off before the slices are resampled, and only an experiment that does so can use them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(first, first + count) if not _shard_path(folder, number).exists()]
    with get_context("spawn").Pool(processes) as pool:
        rendered = pool.imap_unordered(partial(render_shard, folder, seed, at_most_hu=at_most_hu), missing)
        for _ in tqdm(rendered, total=len(missing), desc="rendering", unit="shard"):
            pass


def render_shard(folder: Path, seed: int, number: int, *, at_most_hu: float = np.inf) -> None:
    """Render one shard and let it appear."""
    first = seed + number * _HEADS_PER_SHARD
    heads = [_stored_head(first + head, head, at_most_hu) for head in range(_HEADS_PER_SHARD)]
    write_shard(folder, number, heads)


def write_shard(folder: Path, number: int, heads: Sequence[Slices]) -> None:
    """Write some heads as one shard and let it appear; labels only where anything is told besides the truth."""
    part = folder / f"part-{number:05d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    told = any(not (head.masked.all() and np.isnan([head.labels, head.series]).all()) for head in heads)
    for name in (*_ARRAYS, *(_TOLD if told else ())):
        np.save(part / f"{name}.npy", np.concatenate([getattr(head, name) for head in heads]))
    limit_hu = min(head.at_most_hu for head in heads)
    if np.isfinite(limit_hu):
        np.save(part / _LIMIT, limit_hu)
    part.rename(_shard_path(folder, number))


def shard_paths(folder: Path) -> list[Path]:
    """The shards that are there now, by number."""
    return sorted(folder.glob("shard-*"))


def require_shards(folder: Path) -> list[Path]:
    """The same; UsageError where there are none."""
    paths = shard_paths(folder)
    if not paths:
        raise UsageError(f"{folder}: holds no shards (shard-00000 and so on); see triage-node import")
    return paths


def open_shard(path: Path) -> Slices:
    """One shard, memory-mapped."""
    hu, truth, depth, meta = (np.load(path / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
    limit_hu = float(np.load(path / _LIMIT)) if (path / _LIMIT).exists() else np.inf
    slices = Slices.known(hu=hu, truth=truth, depth=depth, meta=meta, at_most_hu=limit_hu)
    if not (path / "labels.npy").exists():
        return slices
    return replace(slices, **{name: np.load(path / f"{name}.npy") for name in _TOLD})


def label_areas_mm2(truths: UInt8Array, spacing_mm: float) -> Float32Array:
    """(slices, 6) float32: area of each subtype in each slice, and of blood of unknown kind."""
    areas = [[np.count_nonzero(truth == label) for label in range(1, 1 + UNKNOWN_KIND)] for truth in truths]
    return (np.array(areas, np.float32).reshape(-1, UNKNOWN_KIND) * spacing_mm**2).astype(np.float32)


def _stored_head(seed: int, number: int, at_most_hu: float) -> Slices:
    head, volume = draw_head(seed, slices=_SLICES_OF_A_HEAD)
    return stored_slices(volume, head, number=number, at_most_hu=at_most_hu)


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"
