"""Varied copies of shards, made once: `triage-node vary`. Training varies at every pass as well; this is for others'
tools, and for those who want to see what is varied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from triage_node.errors import UsageError
from triage_node.learn.augment import AugmentConfig, varied_alike
from triage_node.learn.dataset import DEPTH_UNIT_MM, STORED_GRID, Slices, open_shard, require_shards, write_shard
from triage_node.learn.pose import Slices as Posed


def vary_shards(folder: Path, out: Path, config: AugmentConfig, *, copies: int, seed: int) -> int:
    """Write `copies` of every shard of `folder` into `out`, each head in a pose of its own; how many shards those are.

    All slices of a head are varied alike. UsageError where there are no shards, `out` holds anything, or `copies` is
    below 1.
    """
    if copies < 1:
        raise UsageError(f"{copies} copies: write 1 or more")
    paths = require_shards(folder)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; name another folder")
    wanted = [(copy, path) for copy in range(copies) for path in paths]
    for number, (_, path) in enumerate(tqdm(wanted, desc="varying", unit="shard")):
        write_shard(out, number, list(_varied_heads(open_shard(path), config, seed=seed + 1000 * number)))
    return len(wanted)


def _varied_heads(slices: Slices, config: AugmentConfig, *, seed: int) -> Iterator[Slices]:
    heads = np.array(slices.meta[:, 0])
    for place, head in enumerate(np.unique(heads)):
        rows = np.flatnonzero(heads == head)
        stack = Posed(
            hu=torch.from_numpy(slices.hu[rows].astype(np.float32))[None],
            truth=torch.from_numpy(slices.truth[rows].astype(np.float32))[None],
            depth_mm=torch.from_numpy(slices.depth[rows].astype(np.float32) * np.float32(DEPTH_UNIT_MM))[None],
        )
        varied = varied_alike(stack, STORED_GRID, config, seed=seed + place)
        yield Slices(
            hu=varied.hu[0].round().clamp(-1024, 3071).numpy().astype(np.int16),
            truth=varied.truth[0].round().numpy().astype(np.uint8),
            depth=(varied.depth_mm[0] / DEPTH_UNIT_MM).ceil().clamp(0, 255).numpy().astype(np.uint8),
            meta=np.array(slices.meta[rows]),
            labels=slices.labels[rows],
            masked=slices.masked[rows],
            series=slices.series[rows],
            at_most_hu=slices.at_most_hu,
        )
