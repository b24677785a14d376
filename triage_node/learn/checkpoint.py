"""Checkpoints of a run as safetensors, optimizer and mining included: nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triage_node.errors import ConfigError
from triage_node.networks import NetworkConfig, TriageNet, network_of
from triage_node.networks.widen import widened

CHECKPOINT: Final = "checkpoint.safetensors"
START: Final = "start.safetensors"
"""The weights that a run began with, widened if they were narrower."""
BEST: Final = "best.safetensors"
"""The averaged weights of the best validation."""
NEVER: Final = float("inf")


@dataclass(kw_only=True)
class State:
    """All that changes in a run, besides the scores of the pool."""

    network: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    best_loss: float = NEVER
    """Of validation on the fine grid."""
    best_step: int = 0


def save_checkpoint(path: Path, state: State, scores: Mapping[str, Tensor]) -> None:
    """Replaces the last one in one rename."""
    tensors = {f"net.{key}": value for key, value in state.network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.averaged.state_dict().items()}
    tensors |= {f"pool.{name}": value for name, value in scores.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{index}.{key}": value for key, value in moments.items()}
    told = {"step": state.step, "best_loss": state.best_loss, "best_step": state.best_step}
    _write(path, tensors, {key: str(value) for key, value in told.items()})


def save_averaged(path: Path, state: State) -> None:
    """The averaged weights alone: the best ones, or those of the start."""
    tensors = {f"ema.{key}": value for key, value in state.averaged.state_dict().items()}
    _write(path, tensors, {"step": str(state.step)})


def load_checkpoint(path: Path, state: State) -> dict[str, Tensor]:
    """Put `state` where the run was; returns the scores of the pool. ConfigError where the network is another."""
    tensors, told = _read(path)
    _load(state.network, _below(tensors, "net."), path)
    _load(state.averaged, _below(tensors, "ema."), path)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "opt.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.step, state.best_step = int(told["step"]), int(told["best_step"])
    state.best_loss = float(told["best_loss"])
    return _below(tensors, "pool.")


def load_start(path: Path, state: State) -> None:
    """Begin with the weights of a bundle, or with the averaged weights of another run.

    The flagship takes those of a narrower one, too (networks.widen).
    """
    tensors, _ = _read(path)
    weights: Mapping[str, Tensor] = _below(tensors, "ema.") or tensors
    if isinstance(state.network, TriageNet):
        try:
            weights = widened(weights, state.network)
        except ValueError as error:
            raise ConfigError(f"{path}: holds another network than [network] says ({error})") from error
    for network in (state.network, state.averaged):
        _load(network, weights, path)


def averaged_network(run: Path, config: NetworkConfig, start_share: float = 0.0) -> tuple[nn.Module, int]:
    """The averaged network of the best validation of a run, else of its last checkpoint, and its step.

    With `start_share` the mean of it and of the weights that the run began with; see TrainConfig.
    """
    path = run / BEST if (run / BEST).exists() else run / CHECKPOINT
    tensors, told = _read(path)
    weights = _below(tensors, "ema.")
    if start_share:
        start, _ = _read(run / START)
        weights = {key: _between(value, start[f"ema.{key}"], start_share) for key, value in weights.items()}
    network = network_of(config)
    _load(network, weights, path)
    return network.eval(), int(told["step"])


def _between(end: Tensor, start: Tensor, start_share: float) -> Tensor:
    return torch.lerp(end, start, start_share) if end.is_floating_point() else end


def _write(path: Path, tensors: Mapping[str, Tensor], told: dict[str, str]) -> None:
    part = path.with_suffix(".part")
    save_file({key: value.cpu().contiguous().clone() for key, value in tensors.items()}, part, told)
    part.replace(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
        return load_file(path), told
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: is no readable safetensors file ({error})") from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ConfigError(f"{path}: holds another network than [network] says ({error})") from error
