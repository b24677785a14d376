"""One experiment is one TOML file: its keys are the fields of TrainConfig, its tables the configs nested in it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from triage_node.errors import ConfigError
from triage_node.learn.augment import AugmentConfig
from triage_node.learn.losses import LossWeights
from triage_node.learn.pool import PoolConfig
from triage_node.networks import NetworkConfig, TriageNetConfig, network_type
from triage_node.transforms import WINDOW_SETS, Appearance, Grid


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """What the network sees of a slice, see transforms.Appearance."""

    windows: tuple[str, ...] = ("brain", "subdural", "bone")
    """Of transforms.WINDOW_SETS, a channel each."""
    sigmoid: bool = False
    stretched: bool = False
    equalised: bool = False
    brain_only: bool = False
    at_most_hu: float = math.inf

    @property
    def appearance(self) -> Appearance:
        """The same with the windows in HU. KeyError for one of another name."""
        return Appearance(
            windows_hu=tuple(WINDOW_SETS[name] for name in self.windows),
            sigmoid=self.sigmoid,
            stretched=self.stretched,
            equalised=self.equalised,
            brain_only=self.brain_only,
            at_most_hu=self.at_most_hu,
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Paths are relative to the file."""

    shards: Path
    """Folder that dataset.render_shards fills, perhaps while training runs."""
    run: Path
    """Folder of the checkpoint, the record and the curves."""
    steps: int
    validation: Path | None = None
    """Folder of shards that training never sees; without it there is no early stop."""
    start_from: Path | None = None
    """Weights to begin with: a safetensors file of a bundle or of another run."""
    start_share: float = 0.0
    """Of the weights in what the run gives: their mean with those of the start may hold better on what training did not
    show (Wortsman and others, arXiv 2109.01903; measured: docs/lab-notebook.md)."""
    beside: Path | None = None
    """A bundle that `release` puts beside the network of the run: both look at each slice, and their mean counts."""
    batch: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 150
    ema: float = 0.998
    coarse_share: float = 0.6
    """Of the steps, the first, on a coarser grid that is 1.6 times as fast."""
    coarse_grid: Grid = Grid(size_px=112, spacing_mm=1.93)
    grid: Grid = Grid(size_px=144, spacing_mm=1.5)
    seed: int = 1
    threads: int = 1
    device: str = "auto"
    """auto, cpu or cuda."""
    checkpoint_every: int = 500
    """Steps; new shards are taken up then, too."""
    validate_every: int = 1000
    """Steps; and after the last one."""
    validation_batches: int = 12
    patience: int = 8
    """Validations on the fine grid without a better loss, after which training ends."""
    network: NetworkConfig = field(default_factory=TriageNetConfig)
    """[network] name is one of networks.NETWORKS (default: triagenet); its other keys are the choices of that one."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    losses: LossWeights = field(default_factory=LossWeights)

    def grid_at(self, step: int) -> Grid:
        """The grid of one step."""
        return self.coarse_grid if step < self.coarse_share * self.steps else self.grid


def read_config(path: Path) -> TrainConfig:
    """A run from a TOML file. ConfigError names the file and the key that is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML ({error})") from error
    config: TrainConfig = _built(TrainConfig, values, path, "")
    _check_images(config, path)
    if config.start_share and config.start_from is None:
        raise ConfigError(f"{path}: start_share is of the weights of start_from; write that, too, or remove it")
    for grid in {config.grid_at(0), config.grid_at(config.steps)}:
        if grid.size_px % config.network.multiple_px:
            raise ConfigError(f"{path}: a grid of {grid.size_px} px; write a multiple of {config.network.multiple_px}")
    return config


def _check_images(config: TrainConfig, path: Path) -> None:
    unknown = [name for name in config.images.windows if name not in WINDOW_SETS]
    if unknown:
        raise ConfigError(f"{path}: [images] no window {unknown[0]!r}; there are: {', '.join(WINDOW_SETS)}")
    if config.images.brain_only and math.isfinite(config.images.at_most_hu):
        raise ConfigError(f"{path}: [images] brain_only needs the bone that at_most_hu takes away; remove one")
    wanted = len(config.images.windows) + (2 if isinstance(config.network, TriageNetConfig) else 0)
    if config.network.in_channels != wanted:
        key = "windows" if isinstance(config.network, TriageNetConfig) else "in_channels"
        raise ConfigError(
            f"{path}: [images] gives {len(config.images.windows)} window(s); write [network] {key} = "
            f"{len(config.images.windows)}"
        )


def _built(kind: type, values: Mapping[str, Any], path: Path, table: str) -> Any:
    """A config from its table; `table` is its name in the file."""
    hints = get_type_hints(kind)
    needed = [each.name for each in fields(kind) if each.name in _required(kind)]
    where = f"[{table}] " if table else ""
    for key in values:
        if key not in hints:
            raise ConfigError(f"{path}: {where}unknown key {key!r}; known: {', '.join(hints)}")
    for key in needed:
        if key not in values:
            raise ConfigError(f"{path}: {where}key {key!r} is missing; add it")
    return kind(**{key: _value(hints[key], value, path, f"{table}.{key}".strip(".")) for key, value in values.items()})


def _network(values: Mapping[str, Any], path: Path) -> NetworkConfig:
    choices = dict(values)
    name = choices.pop("name", "triagenet")
    try:
        kind = network_type(name)
    except ValueError as error:
        raise ConfigError(f"{path}: [network] {error}") from error
    network: NetworkConfig = _built(kind, choices, path, "network")
    return network


def _required(kind: type) -> set[str]:
    from dataclasses import MISSING

    return {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}


def _value(hint: Any, value: Any, path: Path, key: str) -> Any:
    """A TOML value as the field wants it."""
    if hint == NetworkConfig and isinstance(value, dict):
        return _network(value, path)
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _built(hint, value, path, key)
    wanted = (hint, *get_args(hint))
    if Path in wanted and isinstance(value, str):
        return path.parent / value
    if isinstance(value, list) and get_args(hint)[-1:] == (Ellipsis,):
        return tuple(_value(get_args(hint)[0], item, path, key) for item in value)
    if isinstance(value, list):
        numbers = tuple(float(item) for item in value if isinstance(item, int | float))
        if len(numbers) == len(value) == len(get_args(hint)):
            return numbers
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{path}: {key} must be {getattr(hint, '__name__', hint)}, not {value!r}")
