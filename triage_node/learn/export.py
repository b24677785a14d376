"""Writes a model bundle, as infer.bundle reads it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import UsageError
from triage_node.infer.bundle import (
    CHRONIC,
    ENSEMBLE,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    SeriesWeights,
    ensemble_sha256,
    load_bundle,
)
from triage_node.networks import NetworkConfig, network_name
from triage_node.transforms import SINGLE_SLICES, Appearance, Grid, Stack

INTENDED_USE = (
    "Research: triage of adult non-contrast axial head CT for suspected intracranial hemorrhage. {trained_on}"
    "Not for clinical use, not for primary diagnosis."
)


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """What bundle.toml holds besides name and hash; the meaning of each is in infer.bundle.Bundle."""

    network: NetworkConfig | None
    """None for an ensemble, which has `members`."""
    grid: Grid
    members: tuple[str, ...] = ()
    """Folders of bundles beside bundle.toml; `grid`, `stack` and windows are theirs."""
    stack: Stack = SINGLE_SLICES
    mirrored: bool = False
    mask_min_probability: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SUBTYPES, 0.5))
    series_min_probability: float = 0.5
    speck_mm3: float = 50.0
    calibration: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict.fromkeys(CLASSES, (1.0, 0.0)))
    series: Mapping[str, SeriesWeights] = field(default_factory=dict)
    volume_interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    appearance: Appearance = Appearance()
    classes: tuple[str, ...] = CLASSES
    mask: bool = True
    boxes: bool = False
    box_min_probability: float = 0.5
    chronic: bool = False
    """Whether the bundle tells chronic from acute subdural blood; `calibration` may have an entry of that name."""
    trained_on: str = ""
    """A sentence for people; nothing is said where nobody said it."""
    remarks: tuple[str, ...] = ()
    """Comment lines above [thresholds]: where they come from."""


def write_bundle(folder: Path, *, name: str, version: str, network: nn.Module, settings: BundleSettings) -> None:
    """Write bundle.toml and fp16 weights into `folder`, which may exist; the settings, with the hash, come last.

    Raises UsageError where a weight is not finite, in half precision too.
    """
    halved = {key: _halved(tensor) for key, tensor in network.state_dict().items()}
    broken = [key for key, tensor in halved.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UsageError(f"{broken[0]} is not finite in half precision; this network makes no bundle")
    weights = save(halved)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS_FILE, weights)
    text = _toml(name, version, hashlib.sha256(weights).hexdigest(), settings)
    _replace(folder / SETTINGS_FILE, text.encode())


def write_ensemble(folder: Path, *, name: str, version: str, settings: BundleSettings) -> None:
    """Write bundle.toml into a folder that already holds the members. InferenceError where one of them is no bundle."""
    sha256 = ensemble_sha256(load_bundle(folder / member) for member in settings.members)
    _replace(folder / SETTINGS_FILE, _toml(name, version, sha256, settings).encode())


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


def _toml(name: str, version: str, sha256: str, settings: BundleSettings) -> str:
    thresholds = {"series_min_probability": settings.series_min_probability, "speck_mm3": settings.speck_mm3}
    thresholds |= {"box_min_probability": settings.box_min_probability} if settings.boxes else {}
    tells_kinds, tells_subdural = len(settings.classes) > 1, "subdural" in settings.classes
    outputs = {
        "mask": settings.mask and tells_kinds,
        "classes": list(settings.classes),
        CHRONIC: settings.chronic and tells_subdural,
        "boxes": settings.boxes and tells_kinds,
    }
    slopes = {key: slope for key, (slope, _) in settings.calibration.items()}
    offsets = {key: offset for key, (_, offset) in settings.calibration.items()}
    return "\n".join(
        [
            *_lines(name=name, version=version, sha256=sha256, intended_use=_intended_use(settings)),
            *_model(settings),
            "",
            *[f"# {remark}" for remark in settings.remarks],
            *_table("thresholds", **thresholds)[1:],
            *_table("thresholds.mask_min_probability", **settings.mask_min_probability),
            *_table("calibration.slope", **slopes),
            *_table("calibration.offset", **offsets),
            *(_table("series", **{name: list(astuple(weights)) for name, weights in settings.series.items()})),
            *_table("volume_interval", **{name: list(ends) for name, ends in settings.volume_interval.items()}),
            *_table("outputs", **outputs),
            "",
        ]
    )


def _intended_use(settings: BundleSettings) -> str:
    return INTENDED_USE.format(trained_on=f"{settings.trained_on} " if settings.trained_on else "")


def _model(settings: BundleSettings) -> list[str]:
    if settings.network is None:
        return _table(ENSEMBLE, members=list(settings.members))
    centres, widths = zip(*settings.appearance.windows_hu, strict=True)
    shown = settings.appearance
    changes: dict[str, Any] = {name: True for name, value in asdict(shown).items() if value is True}
    changes |= {"at_most_hu": shown.at_most_hu} if math.isfinite(shown.at_most_hu) else {}
    return [
        *_table("network", name=network_name(settings.network), mirrored=settings.mirrored),
        *_table("network.config", **asdict(settings.network)),
        *_table("grid", size_px=settings.grid.size_px, spacing_mm=settings.grid.spacing_mm),
        *_table("stack", **asdict(settings.stack)),
        *_table("windows", centres_hu=list(centres), widths_hu=list(widths), **changes),
    ]


def _table(title: str, **values: Any) -> list[str]:
    """Nothing where there are no values."""
    return ["", f"[{title}]", *_lines(**values)] if values else []


def _lines(**values: Any) -> list[str]:
    """A JSON string, number, boolean or flat list is the same in TOML."""
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
