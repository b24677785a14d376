"""Draws training batches from the shards that are there so far, with the neighbours of each slice.

Mining: the training loop tells the pool how much blood the network falsely saw in each slice without blood; a share of
the negatives is drawn from those that were worst.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, Float64Array
from triage_node.errors import ConfigError
from triage_node.learn.dataset import DEPTH_UNIT_MM, STORED_GRID, label_areas_mm2, open_shard, shard_paths
from triage_node.transforms import Stack, neighbour_indices

PRESENT_MM2: Final = 20.0
"""A subtype counts as present in a slice from this area on; between 0 and this the slice says nothing about it."""
_KINDS: Final = (*SUBTYPES, "of unknown kind")
_TIE: Final = 1e-6
_KEPT_SCORE: Final = 0.5
"""Of the score so far, when a slice is scored again."""


@dataclass(frozen=True, kw_only=True)
class KindShares:
    """How often slices with each kind of blood are drawn, beside each other."""

    epidural: float = 1.0
    intraparenchymal: float = 1.0
    intraventricular: float = 1.0
    subarachnoid: float = 1.0
    subdural: float = 1.0
    unknown: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """What a batch is made of."""

    negative_share: float = 0.6
    """Of the slices, without any blood; the others are drawn over the kinds of blood by `kinds`."""
    kinds: KindShares = field(default_factory=KindShares)
    hard_share: float = 0.25
    """Of those without blood, drawn from the hardest."""
    hardest: float = 0.05
    """The share of all slices without blood that counts as the hardest."""
    bag: int = 0
    """From 1 on: a bag of heads, each drawn as often as chance has it, other heads in every bag (bagging: Breiman
    1996, with the Poisson weights of Oza 2005); 0 for all heads once."""


class Known(NamedTuple):
    """What is known of n slices besides the labels of their pixels."""

    chronic: Tensor
    """(n,) float32: 1 where the subdural blood of the head is chronic, 0 acute, nan where it has none."""
    labels: Tensor
    """(n, 6) float32, what is told of CLASSES whatever the pixels show: 1, 0, or nan."""
    masked: Tensor
    """(n,) bool: whether the labels of the pixels are known."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A batch on STORED_GRID: n slices, each with the neighbour below and the one above; the middle one counts."""

    places: NDArray[np.int64]
    """(n,) which slices of the pool these are."""
    hu: Tensor
    """(n, 3, size, size) float32 HU: below, the slice itself, above."""
    truth: Tensor
    """(n, 3, size, size) uint8 labels."""
    depth_mm: Tensor
    """(n, 3, size, size) float32, below the inner table; 0 outside the skull."""
    known: Known


class SlicePool:
    """All slices of a folder of shards; `refresh` takes up those that came since."""

    def __init__(self, folder: Path, config: PoolConfig, *, key: str = "shards") -> None:
        """ConfigError, naming the `key` of the experiment file, where the folder holds no shards or does not exist."""
        self.folder, self._config = folder, config
        self._shards: dict[str, _Shard] = {}
        self.refresh()
        if not len(self):
            raise ConfigError(
                f"{folder}: holds no shards; scripts/train-default-bundle.py renders them, trains and releases; "
                f"or set {key} to a folder that dataset.render_shards or triage-node import filled"
            )
        if not any(map(len, self._positive)) and not len(self._negative):
            raise ConfigError(f"{folder}: of no slice is anything known, so {key} can teach nothing")

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def at_most_hu(self) -> float:
        """The lowest limit at which bone was cut off when a shard was made; inf where it never was."""
        return min(shard.at_most_hu for shard in self._shards.values())

    def refresh(self) -> None:
        """Look for new shards. The order is that of their names, whenever they came."""
        for path in shard_paths(self.folder):
            if path.name not in self._shards:
                self._shards[path.name] = _read_shard(path)
        self._shards = dict(sorted(self._shards.items()))
        shards = list(self._shards.values())
        lengths = [len(shard.areas_mm2) for shard in shards]
        self._paths = [shard.path for shard in shards for _ in shard.areas_mm2]
        joined = [_Shard.empty(self.folder), *shards]
        self._rows = np.concatenate([np.arange(len(shard.scores)) for shard in joined])
        self._neighbours = np.concatenate([shard.neighbours for shard in joined])
        self._chronic = np.concatenate([shard.chronic for shard in joined])
        self._scores = np.concatenate([shard.scores for shard in joined])
        for shard, end in zip(shards, np.cumsum(lengths), strict=True):
            shard.scores = self._scores[end - len(shard.scores) : end]  # a view: what is noted here is kept there
        self._labels = np.concatenate([shard.labels for shard in joined])
        self._masked = np.concatenate([shard.masked for shard in joined])
        self._group(np.concatenate([shard.areas_mm2 for shard in joined]), np.concatenate([s.heads for s in joined]))

    def _group(self, areas: Float32Array, heads: NDArray[np.int64]) -> None:
        """By kind of blood and without blood, as labels and masks tell; of what is not known nothing is drawn."""
        often, labels = _bagged(heads, self._config.bag), self._labels
        seen = (areas >= PRESENT_MM2) & self._masked[:, None]
        present = np.column_stack([(labels[:, 1:] == 1) | seen[:, :-1], seen[:, -1]])
        of_no_told_kind = ~present[:, :-1].any(axis=1)
        present[:, -1] = (present[:, -1] | (labels[:, 0] == 1)) & of_no_told_kind
        self._positive = [np.repeat(np.flatnonzero(kind), often[kind]) for kind in present.T]
        empty = self._masked & (areas.sum(axis=1) == 0)
        none = (labels[:, 0] == 0) | (np.isnan(labels[:, 0]) & empty)
        self._negative = np.repeat(np.flatnonzero(none), often[none])

    def draw(self, rng: np.random.Generator, count: int) -> Drawn:
        """A batch of `count` slices."""
        hardest = self._hardest(rng)
        places = np.array([self._choose(rng, hardest) for _ in range(count)])
        stacks = [self._read(place) for place in places]
        hu, truth, depth = (np.stack(parts) for parts in zip(*stacks, strict=True))
        return Drawn(
            places=places,
            hu=torch.from_numpy(hu.astype(np.float32)),
            truth=torch.from_numpy(truth),
            depth_mm=torch.from_numpy(depth.astype(np.float32) * np.float32(DEPTH_UNIT_MM)),
            known=Known(*(torch.from_numpy(each[places]) for each in (self._chronic, self._labels, self._masked))),
        )

    def note(self, places: NDArray[np.int64], seen: Float32Array) -> None:
        """(n,) how surely the network saw blood in each of the slices; kept where there is none."""
        self._scores[places] = _KEPT_SCORE * self._scores[places] + (1 - _KEPT_SCORE) * seen

    def scores(self) -> dict[str, Tensor]:
        """By shard, for the checkpoint."""
        return {name: torch.from_numpy(shard.scores.copy()) for name, shard in self._shards.items()}

    def restore_scores(self, scores: Mapping[str, Tensor]) -> None:
        """The inverse of `scores`; shards that are gone or changed are left out."""
        for name, kept in scores.items():
            if name in self._shards and len(kept) == len(self._shards[name].scores):
                self._shards[name].scores[:] = kept.numpy()

    def present(self) -> dict[str, int]:
        """Slices by subtype, for the run record."""
        return {name: len(places) for name, places in zip(_KINDS, self._positive, strict=True)}

    def taught(self) -> dict[str, int]:
        """What else it can teach: slices with blood whose pixels are known, and slices of heads of known age."""
        bled = np.unique(np.concatenate(self._positive)) if any(map(len, self._positive)) else np.zeros(0, np.int64)
        return {
            "pixels": int(np.count_nonzero(self._masked[bled])),
            "chronic": int(np.count_nonzero(~np.isnan(self._chronic))),
            "none": len(self._negative),
        }

    def listing_sha256(self) -> str:
        """Of the names of the shards and how many slices each holds, for the run record."""
        lines = [f"{name} {len(shard.areas_mm2)}\n" for name, shard in self._shards.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._shards)

    def _hardest(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Those with the highest scores; before any has one, any."""
        if not len(self._negative):
            return self._negative
        scores = self._scores[self._negative] + _TIE * rng.random(len(self._negative))
        count = max(1, int(self._config.hardest * len(scores)))
        return self._negative[np.argpartition(-scores, count - 1)[:count]]

    def _choose(self, rng: np.random.Generator, hardest: NDArray[np.int64]) -> int:
        shares = self._shares()
        negative = rng.random() < self._config.negative_share and len(self._negative) > 0
        if negative or not shares.any():
            group = hardest if rng.random() < self._config.hard_share else self._negative
        else:
            group = self._positive[rng.choice(len(shares), p=shares / shares.sum())]
        return int(rng.choice(group))

    def _shares(self) -> Float64Array:
        """(kinds,): of those that there are."""
        kinds = self._config.kinds
        wanted = [getattr(kinds, name) for name in SUBTYPES] + [kinds.unknown]
        return np.array([share * bool(len(group)) for share, group in zip(wanted, self._positive, strict=True)])

    def _read(self, place: int) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]:
        """Opened and closed for every slice: hundreds of shards at once are more files than a process may open."""
        shard = open_shard(self._paths[place])
        below, above = self._neighbours[place]
        rows = [below, self._rows[place], above]
        return shard.hu[rows], shard.truth[rows], shard.depth[rows]


def neighbours(heads: NDArray[np.floating], positions_mm: NDArray[np.floating]) -> NDArray[np.int64]:
    """(slices,) head numbers and positions along the normal to (slices, 2): the neighbours, as inference has them.

    See transforms.neighbour_indices; never of another head.
    """
    found = np.zeros((len(heads), 2), np.int64)
    for head in np.unique(heads):
        rows = np.flatnonzero(heads == head)
        found[rows] = rows[neighbour_indices(positions_mm[rows].astype(np.float64), Stack().neighbour_mm)]
    return found


def _bagged(heads: NDArray[np.int64], bag: int) -> NDArray[np.int64]:
    """(slices,): how often each slice is in the bag; slices of one head alike, whatever other heads there are."""
    if not bag:
        return np.ones(len(heads), np.int64)
    found, of_head = np.unique(heads, return_inverse=True)
    often = np.array([np.random.default_rng((bag, int(head))).poisson(1.0) for head in found], np.int64)
    return often[of_head]


def slice_targets(truth: Tensor, spacing_mm: float) -> tuple[Tensor, Tensor]:
    """(batch, size, size) labels to (batch, 6) targets of CLASSES and (batch, 6) weights, 0 where too small to say.

    Where blood of unknown kind is, no subtype can be ruled out.
    """
    kinds = [(truth == label).sum(dim=(1, 2)) for label in range(1, 1 + len(SUBTYPES))]
    areas = torch.stack([(truth > 0).sum(dim=(1, 2)), *kinds], dim=1) * spacing_mm**2
    present = areas >= PRESENT_MM2
    ruled_out = (areas == 0) & ~(truth > len(SUBTYPES)).any(dim=2).any(dim=1, keepdim=True)
    return present.float(), (present | ruled_out).float()


@dataclass(kw_only=True)
class _Shard:
    """What is kept of a shard in memory."""

    path: Path
    areas_mm2: Float32Array
    """(slices, 6): of SUBTYPES, and of blood of unknown kind."""
    neighbours: NDArray[np.int64]
    heads: NDArray[np.int64]
    """(slices,): a number that no head of another shard has."""
    labels: Float32Array
    masked: NDArray[np.bool_]
    chronic: Float32Array
    scores: Float32Array
    at_most_hu: float = np.inf

    @classmethod
    def empty(cls, path: Path) -> _Shard:
        none = np.zeros(0, np.float32)
        return cls(
            path=path,
            areas_mm2=np.zeros((0, len(_KINDS)), np.float32),
            neighbours=np.zeros((0, 2), np.int64),
            heads=np.zeros(0, np.int64),
            labels=np.zeros((0, len(CLASSES)), np.float32),
            masked=np.zeros(0, np.bool_),
            chronic=none,
            scores=none,
        )


def _read_shard(path: Path) -> _Shard:
    try:
        slices = open_shard(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: is missing; remove the shard, an older version rendered it") from error
    heads, positions_mm, chronic = np.array(slices.meta).T
    return _Shard(
        path=path,
        areas_mm2=label_areas_mm2(slices.truth, STORED_GRID.spacing_mm),
        neighbours=neighbours(heads, positions_mm),
        heads=(zlib.crc32(path.name.encode()) << 16) + heads.astype(np.int64),
        labels=slices.labels,
        masked=slices.masked,
        chronic=chronic,
        scores=np.zeros(len(heads), np.float32),
        at_most_hu=slices.at_most_hu,
    )
