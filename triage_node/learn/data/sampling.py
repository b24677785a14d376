"""Which slices are drawn: balanced over the classes, under-sampled, shuffled, in batches. numpy only; all seeded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import SUBTYPES, Float32Array, Int64Array
from triage_node.errors import UsageError
from triage_node.learn.data.case import BoolArray

GROUPS: Final = ("none", *SUBTYPES, "of unknown kind")
"""What a slice may show; several subtypes at once."""


def groups_of(labels: Float32Array) -> BoolArray:
    """(slices, 6) labels to (slices, 7) bool, columns as GROUPS; a slice of which nothing is known is in no group."""
    kinds = labels[:, 1:] == 1
    unknown = (labels[:, 0] == 1) & ~kinds.any(axis=1)
    return np.column_stack([labels[:, 0] == 0, kinds, unknown])


def balanced(labels: Float32Array, *, seed: int) -> Iterator[int]:
    """Indices without end: every group that is there with the same share, all of a group before one comes again."""
    members = [np.flatnonzero(column) for column in groups_of(labels).T if column.any()]
    if not members:
        raise UsageError("no slice has a known label, so there is nothing to balance")
    rng = np.random.default_rng(seed)
    rounds = [_rounds(group, rng) for group in members]
    while True:
        for group in rng.permutation(len(rounds)):
            yield next(rounds[group])


def undersampled(labels: Float32Array, *, seed: int, ratio: float = 1.0) -> Int64Array:
    """Indices, in order: all slices with blood, and at most `ratio` times as many without, drawn at random.

    Where there are fewer without, those with blood are the majority and are drawn likewise. Slices of which it is not
    known are left out.
    """
    rng = np.random.default_rng(seed)
    present, absent = np.flatnonzero(labels[:, 0] == 1), np.flatnonzero(labels[:, 0] == 0)
    absent = _drawn(absent, round(ratio * len(present)), rng)
    present = _drawn(present, round(len(absent) / ratio), rng)
    return np.sort(np.concatenate([present, absent]))


def shuffled(count: int, *, seed: int, epoch: int = 0) -> Int64Array:
    """0 to count - 1 in the random order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batches(indices: Iterable[int], size: int, *, whole_only: bool = False) -> Iterator[Int64Array]:
    """`size` indices at a time; a shorter last batch is left out with `whole_only`. `indices` may be without end."""
    remaining = iter(indices)
    while batch := list(islice(remaining, size)):
        if whole_only and len(batch) < size:
            return
        yield np.array(batch, np.int64)


def _rounds(group: NDArray[np.int64], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(index) for index in rng.permutation(group))


def _drawn(indices: Int64Array, count: int, rng: np.random.Generator) -> Int64Array:
    return indices if len(indices) <= count else rng.choice(indices, count, replace=False)
