"""Draws training batches from the shards that are there so far."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from triage_node.domain import SUBTYPES
from triage_node.learn.dataset import DEPTH_UNIT_MM, STORED_GRID, Slices, label_areas_mm2, open_shard, shard_paths

PRESENT_MM2: Final = 20.0
"""A subtype counts as present in a slice from this area on; between 0 and this the slice says nothing about it."""


class SlicePool:
    """All slices of a folder of shards; `refresh` takes up those that came since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[Path, Slices] = {}
        self._places: list[tuple[Path, int]] = []
        self._areas = np.zeros((0, len(SUBTYPES)), np.float32)
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Look for new shards."""
        for path in shard_paths(self._folder):
            if path not in self._shards:
                self._take_up(path)

    def draw(self, rng: np.random.Generator, count: int, negative_share: float) -> tuple[Tensor, Tensor, Tensor]:
        """HU float32, truth uint8 and depth float32 mm, each (count, size, size) on STORED_GRID.

        `negative_share` of the slices show no blood; the others are drawn evenly over the subtypes.
        """
        positive = [np.flatnonzero(column >= PRESENT_MM2) for column in self._areas.T]
        negative = np.flatnonzero(self._areas.sum(axis=1) == 0)
        chosen = [self._choose(rng, positive, negative, negative_share) for _ in range(count)]
        slices = [(self._shards[path], row) for path, row in (self._places[index] for index in chosen)]
        hu = np.stack([shard.hu[row] for shard, row in slices]).astype(np.float32)
        truth = np.stack([shard.truth[row] for shard, row in slices])
        depth = np.stack([shard.depth[row] for shard, row in slices]).astype(np.float32) * np.float32(DEPTH_UNIT_MM)
        return torch.from_numpy(hu), torch.from_numpy(truth), torch.from_numpy(depth)

    def present(self) -> dict[str, int]:
        """Slices by subtype, for the run record."""
        return {name: int((self._areas[:, index] >= PRESENT_MM2).sum()) for index, name in enumerate(SUBTYPES)}

    def _take_up(self, path: Path) -> None:
        shard = open_shard(path)
        self._shards[path] = shard
        self._places += [(path, row) for row in range(len(shard.hu))]
        self._areas = np.concatenate([self._areas, label_areas_mm2(shard.truth, STORED_GRID.spacing_mm)])

    @staticmethod
    def _choose(
        rng: np.random.Generator, positive: list[np.ndarray], negative: np.ndarray, negative_share: float
    ) -> int:
        group = negative if rng.random() < negative_share else positive[rng.integers(len(positive))]
        return int(rng.choice(group if len(group) else negative))


def slice_targets(truth: Tensor, spacing_mm: float) -> tuple[Tensor, Tensor]:
    """(batch, size, size) labels to (batch, 6) targets of CLASSES and (batch, 6) weights, 0 where too small to say."""
    areas = torch.stack([(truth == label).sum(dim=(1, 2)) for label in range(1, 1 + len(SUBTYPES))], dim=1)
    areas = torch.cat([areas.sum(dim=1, keepdim=True), areas], dim=1) * spacing_mm**2
    return (areas >= PRESENT_MM2).float(), ((areas == 0) | (areas >= PRESENT_MM2)).float()
