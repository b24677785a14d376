"""The training loop: shards in, checkpoints and a run record out. A run that was stopped goes on where it was.

Every step draws its slices and its variations from (seed, step), so a resumed run does what it would have done.
Checkpoints are safetensors, optimizer included: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from triage_node.errors import ConfigError
from triage_node.learn.augment import AugmentConfig, augment, to_network
from triage_node.learn.dataset import STORED_GRID
from triage_node.learn.pool import SlicePool, slice_targets
from triage_node.networks import UNet, UNetConfig
from triage_node.transforms import Grid

CLASS_WEIGHTS: Final = (1.0, 2.0, 3.0, 2.5, 4.0, 2.0)
"""Cross-entropy weights of background and SUBTYPES; ventricular blood at 5 swallowed parenchymal blood (measured)."""
_CHECKPOINT: Final = "checkpoint.safetensors"
_RECORD: Final = "record.json"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run."""

    shards: Path
    """Folder that dataset.render_shards fills."""
    run: Path
    """Folder of the checkpoint and the record."""
    steps: int
    batch: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 150
    ema: float = 0.995
    negative_share: float = 0.55
    coarse_share: float = 0.5
    """Of the steps, the first, on a coarser grid that is twice as fast."""
    coarse_grid: Grid = Grid(size_px=96, spacing_mm=2.25)
    grid: Grid = Grid(size_px=112, spacing_mm=1.93)
    seed: int = 1
    threads: int = 1
    checkpoint_every: int = 200
    network: UNetConfig = field(default_factory=UNetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def read_config(path: Path) -> TrainConfig:
    """A run from a TOML file with the keys of TrainConfig. ConfigError for a key that is none."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        nested = {"network": UNetConfig, "augment": AugmentConfig, "grid": Grid, "coarse_grid": Grid}
        built = {key: nested[key](**value) if key in nested else value for key, value in values.items()}
        folders = {key: path.parent / built.pop(key) for key in ("shards", "run")}
        return TrainConfig(**folders, **built)
    except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: {error}; the keys are those of learn.train.TrainConfig") from error


def train(config: TrainConfig) -> UNet:
    """Train, or go on training, and return the averaged network."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.run.mkdir(parents=True, exist_ok=True)
    state = _fresh_state(config)
    if (config.run / _CHECKPOINT).exists():
        state = _resume(config.run / _CHECKPOINT, state)
    pool = SlicePool(config.shards)
    record = _Record.open(config, pool)
    with tqdm(total=config.steps, initial=state.step, desc="training", unit="step") as progress:
        while state.step < config.steps:
            losses = _step(state, pool, config)
            state.step += 1
            progress.update()
            record.note(state.step, losses)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                _save(config.run / _CHECKPOINT, state)
                progress.set_postfix(record.write(state.step, pool))
                pool.refresh()
    return state.averaged


def averaged_network(run: Path, config: UNetConfig) -> tuple[UNet, int]:
    """The averaged network of the last checkpoint of a run, and its step."""
    with safe_open(run / _CHECKPOINT, framework="pt") as file:
        network = UNet(config)
        network.load_state_dict({key[4:]: file.get_tensor(key) for key in file.keys() if key.startswith("ema.")})  # noqa: SIM118
        return network.eval(), int(file.metadata()["step"])


def read_record(run: Path) -> dict[str, Any]:
    """The record of a run: config, torch, pool (slices seen), present, curve."""
    record: dict[str, Any] = json.loads((run / _RECORD).read_text(encoding="utf-8"))
    return record


# ---------------------------------------------------------------- one step


@dataclass(kw_only=True)
class _State:
    """All that changes in a run."""

    network: UNet
    averaged: UNet
    optimizer: torch.optim.AdamW
    step: int = 0


def _step(state: _State, pool: SlicePool, config: TrainConfig) -> dict[str, float]:
    """One batch; returns its losses by name."""
    rng = np.random.default_rng((config.seed, state.step))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    grid = config.coarse_grid if state.step < config.coarse_share * config.steps else config.grid
    hu, truth, depth_mm = pool.draw(rng, config.batch, config.negative_share)
    hu, truth = augment(hu, truth, depth_mm, STORED_GRID, grid, config.augment, generator)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * _schedule(state.step, config)
    state.network.train()
    images = to_network(hu).to(memory_format=torch.channels_last)
    segmentation, slices = state.network(images)
    losses = _losses(segmentation, slices, truth, grid)
    total = losses["pixels"] + 0.5 * losses["dice"] + 0.5 * losses["foreground"] + losses["slices"]
    state.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    _average(state.averaged, state.network, min(config.ema, state.step / (state.step + 10)))
    return {"total": float(total), **{name: float(loss) for name, loss in losses.items()}}


def _losses(segmentation: Tensor, slices: Tensor, truth: Tensor, grid: Grid) -> dict[str, Tensor]:
    probabilities = torch.softmax(segmentation, dim=1)
    one_hot = functional.one_hot(truth, segmentation.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    targets, weights = slice_targets(truth, grid.spacing_mm)
    said = functional.binary_cross_entropy_with_logits(slices, targets, weight=weights)
    return {
        "pixels": functional.cross_entropy(segmentation, truth, weight=torch.tensor(CLASS_WEIGHTS)),
        "dice": _dice_loss(probabilities[:, 1:], one_hot[:, 1:]),
        "foreground": _dice_loss(1 - probabilities[:, :1], 1 - one_hot[:, :1]),
        "slices": said,
    }


def _dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice over the batch, averaged over the classes that are present in it."""
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    sizes = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both + 1) / (sizes + 1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@torch.no_grad()
def _average(averaged: UNet, network: UNet, keep: float) -> None:
    """Exponential moving average of weights and of batch-norm statistics."""
    for kept, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - keep)
        else:
            kept.copy_(new)


# ---------------------------------------------------------------- checkpoints


def _fresh_state(config: TrainConfig) -> _State:
    network, averaged = UNet(config.network), UNet(config.network)
    averaged.load_state_dict(network.state_dict())
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return _State(network=network, averaged=averaged, optimizer=torch.optim.AdamW(groups, lr=config.learning_rate))


def _save(path: Path, state: _State) -> None:
    tensors = {f"net.{key}": value for key, value in state.network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.averaged.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{index}.{key}": value for key, value in moments.items()}
    part = path.with_suffix(".part")
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, part, {"step": str(state.step)})
    part.replace(path)


def _resume(path: Path, state: _State) -> _State:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        step = int(file.metadata()["step"])
    state.network.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net.")})
    state.averaged.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("ema.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    return replace(state, step=step)


# ---------------------------------------------------------------- record


@dataclass(kw_only=True)
class _Record:
    """What the run was and how it went, as JSON."""

    path: Path
    content: dict[str, Any]
    since: list[dict[str, float]]
    started: float

    @classmethod
    def open(cls, config: TrainConfig, pool: SlicePool) -> _Record:
        """The record of the run so far, or a new one."""
        path = config.run / _RECORD
        content = json.loads(path.read_text()) if path.exists() else {"curve": []}
        content["config"] = json.loads(json.dumps(asdict(config), default=str))
        content["torch"] = torch.__version__
        return cls(path=path, content=content, since=[], started=perf_counter())

    def note(self, step: int, losses: Mapping[str, float]) -> None:
        self.since.append(dict(losses))

    def write(self, step: int, pool: SlicePool) -> dict[str, str]:
        """Add the mean losses since the last time; returns them for the progress bar."""
        means = {name: float(np.mean([losses[name] for losses in self.since])) for name in self.since[0]}
        seconds = perf_counter() - self.started
        point = {"step": step, "pool": len(pool), "s_per_step": seconds / len(self.since), **means}
        self.content["curve"].append({key: round(value, 5) for key, value in point.items()})
        self.content["pool"], self.content["present"] = len(pool), pool.present()
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        self.since, self.started = [], perf_counter()
        return {name: f"{value:.3f}" for name, value in means.items()}
