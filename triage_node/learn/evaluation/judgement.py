"""What was said of one case, beside the truth: what every data set is turned into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from triage_node.domain import Float32Array
from triage_node.learn.evaluation.overlap import Overlap


@dataclass(frozen=True, kw_only=True)
class SliceJudgements:
    """The slices of one head; columns in the order of CLASSES."""

    scores: Float32Array
    """(slices, 6) float32."""
    given: NDArray[np.bool_]
    """(6,) bool: the bundle gives this class."""
    present: NDArray[np.bool_]
    """(slices, 6) bool."""
    known: NDArray[np.bool_]
    """(slices, 6) bool: the truth tells."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One picture or head."""

    name: str
    """Of the file, relative to the root of the data set."""
    scores: Mapping[str, float | None]
    """Series probability by class; None where the bundle does not give the class."""
    labels: Mapping[str, bool | None]
    """By class; None where it is not known."""
    overlaps: Mapping[str, Overlap] = field(default_factory=dict)
    """By class; none without masks."""
    slices: SliceJudgements | None = None
    note: str | None = None
    """A sentence about what is odd in this case."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that could not be judged, and why: no patient data."""

    name: str
    reason: str
