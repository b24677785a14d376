"""Masks and tables to what is known of each slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triage_node.domain import CLASSES, SUBTYPES, Float32Array, UInt8Array, Volume
from triage_node.learn.data.case import BoolArray, Loaded
from triage_node.learn.dataset import label_areas_mm2
from triage_node.learn.pool import PRESENT_MM2


def told_by_kinds(volume: Volume, truth: UInt8Array) -> Loaded:
    """With a mask of kinds, (slices, rows, columns) uint8.

    A slice shows a class from PRESENT_MM2 on; between nothing and that, it says nothing.
    """
    areas = label_areas_mm2(truth, _pixel_mm(volume))[:, : len(SUBTYPES)]
    labels = _shown(np.concatenate([areas.sum(axis=1, keepdims=True), areas], axis=1))
    return Loaded(
        volume=volume,
        labels=labels,
        series_labels=of_series(labels),
        truth=truth,
        known=np.ones(len(truth), np.bool_),
        blood=truth > 0,
        told=CLASSES,
    )


def told_by_blood(volume: Volume, blood: BoolArray, labels: Float32Array | None = None) -> Loaded:
    """With a mask of blood of whatever kind, (slices, rows, columns) bool, and perhaps a table, (slices, 6).

    Where the table has one subtype on a slice, it is the kind of the blood there; of several, nobody knows which is
    which. Where mask and table contradict each other on whether there is blood, the slice is not known, and blood that
    the table denies makes its labels unknown too.
    """
    drawn = blood.any(axis=(1, 2))
    told = ("any",) if labels is None else CLASSES
    if labels is None:
        labels = _any_of(blood, volume)
    labels = np.where((drawn & (labels[:, 0] == 0))[:, None], np.float32(np.nan), labels)
    kinds = labels[:, 1:] == 1
    one_kind = (kinds.sum(axis=1) == 1) & ~np.isnan(labels[:, 1:]).any(axis=1)
    known = np.where(drawn, one_kind, labels[:, 0] == 0)
    truth = np.where(blood, (1 + kinds.argmax(axis=1))[:, None, None], 0).astype(np.uint8)
    truth[~known] = 0
    return Loaded(
        volume=volume,
        labels=labels,
        series_labels=of_series(labels),
        truth=truth if known.any() else None,
        known=known,
        blood=blood,
        told=told,
    )


def told_by_table(volume: Volume, labels: Float32Array, series_labels: Float32Array | None = None) -> Loaded:
    """With labels only, (slices, 6) and perhaps (6,): the truth is known, and empty, where there is no blood."""
    known = labels[:, 0] == 0
    series_labels = of_series(labels) if series_labels is None else series_labels
    is_told = np.any(~np.isnan(np.vstack([labels, series_labels])), axis=0)
    return Loaded(
        volume=volume,
        labels=labels,
        series_labels=series_labels,
        truth=np.zeros(volume.hu.shape, np.uint8) if known.any() else None,
        known=known,
        blood=None,
        told=tuple(name for name, told in zip(CLASSES, is_told, strict=True) if told),
    )


def by_slice(row: Sequence[float], slices: int) -> Float32Array:
    """(slices, 6) float32: what is known of each slice when `row` is known of the series: what it has not, none has."""
    labels = np.where(np.array(row) == 0, 0.0, np.nan)
    return np.repeat(labels[None], slices, axis=0).astype(np.float32)


def of_series(labels: Float32Array) -> Float32Array:
    """(slices, 6) to (6,): present where one slice shows it, absent where no slice does."""
    present, absent = (labels == 1).any(axis=0), (labels == 0).all(axis=0)
    return np.where(present, 1.0, np.where(absent, 0.0, np.nan)).astype(np.float32)


def _any_of(blood: BoolArray, volume: Volume) -> Float32Array:
    """Blood without a kind: of the subtypes is only known where none is."""
    pixel_mm2 = _pixel_mm(volume) ** 2
    shown = _shown((blood.sum(axis=(1, 2)) * pixel_mm2)[:, None].astype(np.float32))
    return np.concatenate([shown, np.repeat(np.where(shown == 0, shown, np.nan), len(SUBTYPES), axis=1)], axis=1)


def _shown(areas_mm2: Float32Array) -> Float32Array:
    labels = np.where(areas_mm2 >= PRESENT_MM2, 1.0, np.where(areas_mm2 == 0, 0.0, np.nan))
    return labels.astype(np.float32)


def _pixel_mm(volume: Volume) -> float:
    """Side of a square as large as a pixel."""
    return float(np.sqrt(volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]))
