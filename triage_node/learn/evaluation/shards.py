"""The heads of shards as cases: simulated ones, or what was imported from a data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from triage_node.assemble.geometry import slice_weights_mm
from triage_node.domain import CLASSES, Volume
from triage_node.learn.dataset import STORED_GRID, UNKNOWN_KIND, Slices, open_shard, require_shards
from triage_node.learn.evaluation.heads import Case


def iterate_shards(folder: Path, *, count: int | None = None) -> Iterator[Case]:
    """The first `count` heads of a folder of shards, or all, one at a time. UsageError where it holds no shards."""
    cases = (case for path in require_shards(folder) for case in _cases(open_shard(path), path.name))
    return iter(tqdm(islice(cases, count), total=count, desc="heads", unit="head"))


def _cases(slices: Slices, shard: str) -> Iterator[Case]:
    heads, along_mm, chronic = np.array(slices.meta, np.float64).T
    for head in np.unique(heads):
        rows = np.flatnonzero(heads == head)
        truth = np.array(slices.truth[rows])
        yield Case(
            name=f"{shard}, head {int(head)}",
            volume=_volume(slices, rows, along_mm[rows]),
            truth=truth,
            told=("any",) if (truth == UNKNOWN_KIND).any() else CLASSES,
            chronic=None if np.isnan(chronic[rows[0]]) else bool(chronic[rows[0]]),
            labels=slices.labels[rows],
            masked=slices.masked[rows],
            series_labels=slices.series[rows[0]],
        )


def _volume(slices: Slices, rows: np.ndarray[tuple[int], np.dtype[np.intp]], along_mm: np.ndarray) -> Volume:
    """On STORED_GRID, slices along z; a single slice stands for 5 mm, as in picture_volume."""
    return Volume(
        hu=np.array(slices.hu[rows]),
        sop_uids=(),
        paths=(),
        positions_mm=np.stack([np.zeros_like(along_mm), np.zeros_like(along_mm), along_mm], axis=1),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(STORED_GRID.spacing_mm, STORED_GRID.spacing_mm),
        weights_mm=slice_weights_mm(np.diff(along_mm)) if len(rows) > 1 else np.array([5.0]),
        tilt_deg=0.0,
        header={},
    )
