"""Series and pictures of a data set as shards, on which every network is trained: `triage-node import`.

A slice is told of by its truth, where the kind of every pixel is known; by blood of unknown kind, where a mask shows
blood and the table says no more; and by its labels. Of a slice that nothing is known of nothing is learnt, but it stays
as a neighbour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from triage_node.domain import Float32Array, Float64Array, UInt8Array
from triage_node.errors import TriageNodeError, UsageError
from triage_node.learn.data import LAYOUTS
from triage_node.learn.data.case import BoolArray, Entry, Loaded
from triage_node.learn.data.splits import folds, parse_shares, split
from triage_node.learn.dataset import DEPTH_UNIT_MM, STORED_GRID, UNKNOWN_KIND, Slices, resampled_labels, write_shard
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.evaluation.judgement import Failure
from triage_node.skull import depth_mm, inside_skull
from triage_node.transforms import place_grid, to_grid

_SLICES_PER_SHARD: Final = 256
"""About; a series is never parted."""
_PARTS: Final = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a data set."""

    entries: Mapping[str, int]
    """By part: how many series or pictures it holds."""
    patients: Mapping[str, int]
    slices: Mapping[str, Counter[str]]
    """How many show hemorrhage ("blood"), do not ("none"), and of how many that is not known ("unknown")."""
    failures: Sequence[Failure]


def import_layout(
    layout: str, root: Path, out: Path, *, shares: str = "70/20/10", fold: str | None = None, seed: int = 1
) -> Imported:
    """Write the shards of each part below `out`: train and validation, or train, validation and test, by patient.

    `shares` is "70/20/10" or "80/20"; `fold`, "2/5", is the second of five folds, as train and validation. What cannot
    be read is a Failure. UsageError for a wrong layout, and where `out` holds anything.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; name another folder, so that nothing of two imports is mixed")
    parted = _splitter(shares, fold, seed)  # asked first: the headers of a large data set take minutes
    parts = dict(zip(_PARTS, parted(LAYOUTS[layout].find(root)), strict=False))
    failures: list[Failure] = []
    slices = {name: _write(LAYOUTS[layout].load, part, out / name, failures) for name, part in parts.items()}
    return Imported(
        entries={name: len(part) for name, part in parts.items()},
        patients={name: len({entry.patient for entry in part}) for name, part in parts.items()},
        slices=slices,
        failures=failures,
    )


def stored(loaded: Loaded, *, number: int) -> Slices:
    """One series or picture on STORED_GRID. UsageError where slices lie in one place: nobody knows which is which."""
    volume = loaded.volume
    if (volume.weights_mm <= 0).any():
        raise UsageError("several slices lie in one place")
    placement = place_grid(volume, STORED_GRID)
    hu = to_grid(volume.hu, placement)
    truth, masked = _truth(loaded)
    along_mm = volume.positions_mm @ volume.normal
    depth = depth_mm(inside_skull(hu, STORED_GRID.spacing_mm), STORED_GRID.spacing_mm)
    return Slices(
        hu=np.rint(np.clip(hu, -1024, 3071)).astype(np.int16),
        truth=resampled_labels(truth, placement, labels=1 + UNKNOWN_KIND),
        depth=np.clip(np.ceil(depth / DEPTH_UNIT_MM), 0, 255).astype(np.uint8),
        meta=_meta(number, along_mm),
        labels=np.where(loaded.known[:, None], np.float32(np.nan), loaded.labels).astype(np.float32),
        masked=masked,
        series=np.repeat(loaded.series_labels[None], len(hu), axis=0),
    )


# ---------------------------------------------------------------- parts


def _splitter(shares: str, fold: str | None, seed: int) -> Callable[[Sequence[Entry]], Sequence[list[Entry]]]:
    """What parts the entries. UsageError for shares or a fold that make no sense."""
    if fold is not None:
        number, count = _fold(fold)
        return lambda entries: folds(entries, count, seed=seed)[number - 1]
    wanted = parse_shares(shares)
    if not 2 <= len(wanted) <= len(_PARTS):
        raise UsageError(f'"{shares}": two parts (train/validation) or three (and test); write for example 80/20')
    return lambda entries: split(entries, wanted, seed=seed)


def _fold(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f'"{text}" is no fold; write 2/5 for the second of five')
    return int(number), int(count)


def _write(
    load: Callable[[Entry], Loaded], entries: Sequence[Entry], out: Path, failures: list[Failure]
) -> Counter[str]:
    """All entries that can be read; what is known of their slices."""
    shard: list[Slices] = []
    written, known = 0, Counter[str]()
    for entry in tqdm(entries, desc=out.name, unit="series"):
        try:
            shard.append(stored(load(entry), number=len(shard)))
        except TriageNodeError as error:
            failures.append(Failure(name=entry.name, reason=str(error)))
            continue
        known.update(_known(shard[-1]))
        if sum(len(slices.hu) for slices in shard) >= _SLICES_PER_SHARD:
            write_shard(out, written, shard)
            written, shard = written + 1, []
    if shard:
        write_shard(out, written, shard)
    return known


def _known(slices: Slices) -> Iterator[str]:
    for image, label, masked in zip(slices.truth, slices.labels[:, 0], slices.masked, strict=True):
        shows = bool(image.any()) if masked and np.isnan(label) else label
        yield "unknown" if np.isnan(shows) else "blood" if shows else "none"


# ---------------------------------------------------------------- one series


def _truth(loaded: Loaded) -> tuple[UInt8Array, BoolArray]:
    """Labels of pixels on the native slices, and where they are known."""
    truth = np.zeros(loaded.volume.hu.shape, np.uint8)
    if loaded.truth is not None:
        truth[loaded.known] = loaded.truth[loaded.known]
    if loaded.blood is None:
        return truth, loaded.known
    of_some_kind = ~loaded.known & loaded.blood.any(axis=(1, 2)) & (loaded.labels[:, 0] == 1)
    truth[of_some_kind] = np.where(loaded.blood[of_some_kind], UNKNOWN_KIND, 0)
    return truth, loaded.known | of_some_kind


def _meta(number: int, along_mm: Float64Array) -> Float32Array:
    unknown = np.full(len(along_mm), np.nan)
    return np.stack([np.full(len(along_mm), number), along_mm, unknown], axis=1).astype(np.float32)


# ---------------------------------------------------------------- without shards


def iterate_layout(layout: str, root: Path) -> Iterator[Case | Failure]:
    """Every series or picture of a data set on its own slices, as a case; or why it cannot be read."""
    for entry in tqdm(LAYOUTS[layout].find(root), desc=layout, unit="series"):
        try:
            loaded = LAYOUTS[layout].load(entry)
        except TriageNodeError as error:
            yield Failure(name=entry.name, reason=str(error))
            continue
        truth, masked = _truth(loaded)
        yield Case(
            name=entry.name,
            volume=loaded.volume,
            truth=truth,
            told=("any",) if (truth == UNKNOWN_KIND).any() else loaded.told,
            labels=loaded.labels,
            masked=masked,
            series_labels=loaded.series_labels,
        )
