"""The simulated series on which a bundle is tuned and judged: drawn by a frozen file, never by chance of the day."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from triage_node.domain import Volume
from triage_node.learn.dataset import as_volume
from triage_node.simulate import SimulatedHead, SliceGeometry, axial_geometry, simulate_head
from triage_node.simulate.template import load_template

SERIES_FILE: Final = Path(__file__).with_name("test-series.toml")
FROZEN_SHA256: Final = "fbbcf00e84d9169acf279dbd13d0ebfe7601b4cbdb43aac6bfb180f4620065ca"
"""Of SERIES_FILE; committed before the first training run that was judged on these series."""


@dataclass(frozen=True, kw_only=True)
class SeriesSettings:
    """What the series are drawn from; the keys of SERIES_FILE."""

    first_seed: int
    tuning_first_seed: int
    with_template: float
    slices: tuple[int, int]
    height_mm: tuple[float, float]
    thickness_mm: tuple[float, ...]
    tilt_deg: tuple[float, ...]
    field_of_view_mm: tuple[float, float]
    pixels: int
    denser_half: tuple[float, ...]
    bleeds: tuple[tuple[str, ...], ...]


def frozen_settings() -> SeriesSettings:
    """The settings of SERIES_FILE. ValueError where it is not the frozen one."""
    data = SERIES_FILE.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != FROZEN_SHA256:
        raise ValueError(f"{SERIES_FILE.name} has sha256 {found}, but {FROZEN_SHA256} was frozen; restore it")
    values: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    values["bleeds"] = tuple(tuple(names) for names in values["bleeds"])
    return SeriesSettings(**values)


def draw_series(settings: SeriesSettings, number: int, *, tuning: bool = False) -> tuple[SimulatedHead, Volume]:
    """Series `number`, from 0; of the tuning series or of the test series."""
    seed, rng = _seeded(settings, number, tuning)
    geometry = _geometry(settings, rng)
    template = load_template() if rng.random() < settings.with_template else None
    bleeds = settings.bleeds[number % len(settings.bleeds)]
    head = simulate_head(seed=seed, subtypes=bleeds, geometry=geometry, measure_volumes=False, template=template)
    return head, as_volume(head.hu, geometry)


def series_geometry(settings: SeriesSettings, number: int, *, tuning: bool = False) -> SliceGeometry:
    """Where the slices of that series lie."""
    _, rng = _seeded(settings, number, tuning)
    return _geometry(settings, rng)


def _seeded(settings: SeriesSettings, number: int, tuning: bool) -> tuple[int, np.random.Generator]:
    seed = (settings.tuning_first_seed if tuning else settings.first_seed) + number
    return seed, np.random.default_rng(seed)


def _geometry(settings: SeriesSettings, rng: np.random.Generator) -> SliceGeometry:
    slices = int(rng.integers(settings.slices[0], settings.slices[1] + 1))
    steps = np.full(slices - 1, 1.0)
    steps[: slices // 2] *= rng.choice(settings.denser_half)
    return axial_geometry(
        slices=slices,
        spacing_mm=tuple(steps * rng.uniform(*settings.height_mm) / steps.sum()),
        tilt_deg=float(rng.choice(settings.tilt_deg)),
        rows=settings.pixels,
        columns=settings.pixels,
        pixel_spacing_mm=float(rng.uniform(*settings.field_of_view_mm)) / settings.pixels,
        thickness_mm=float(rng.choice(settings.thickness_mm)),
    )
