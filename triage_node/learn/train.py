"""The training loop: shards in, checkpoints, curves and a run record out. A run that was stopped goes on where it was.

Every step draws its slices and its variations from (seed, step) and from the scores of the pool, which are in the
checkpoint: a resumed run does what it would have done, as long as no shards came in between.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import FrameType
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from triage_node import heap
from triage_node.errors import ConfigError, TrainingError, UsageError
from triage_node.learn.augment import AugmentConfig, Views, augment
from triage_node.learn.checkpoint import (
    BEST,
    CHECKPOINT,
    START,
    State,
    load_checkpoint,
    load_start,
    save_averaged,
    save_checkpoint,
)
from triage_node.learn.curves import CURVES, draw_curves
from triage_node.learn.dataset import STORED_GRID
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.losses import AnyLogits, accuracy, blood_seen, losses, total
from triage_node.learn.painted import PaintConfig
from triage_node.learn.pool import Drawn, Known, SlicePool
from triage_node.learn.record import Record, mean_of
from triage_node.networks import choose_device, choose_dtype, network_of
from triage_node.transforms import Grid

_CLIP_NORM: Final = 5.0
_VALIDATION_SEED: Final = 7


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a call of `train` ended."""

    network: nn.Module
    """The averaged network."""
    step: int
    reason: str
    """A sentence for people."""
    interrupted: bool


def train(config: TrainConfig) -> Trained:
    """Train, or go on training.

    Ctrl-C or SIGTERM end it after the step, with a checkpoint. ConfigError where shards are missing or the checkpoint
    is of another network; TrainingError where a loss is not finite; UsageError where the train extra is missing.
    """
    _require_extra()
    run = _Run(config)
    with _stopped_by_signals() as stop, run.progress():
        while run.state.step < config.steps and not stop.is_set() and not run.stale:
            run.one_step()
        run.keep()
        run.draw()
    if stop.is_set():
        reason = f"stopped at step {run.state.step}; the same command goes on from there"
    elif run.stale:
        reason = f"ended at step {run.state.step}: no better since step {run.state.best_step}"
    else:
        reason = f"all {config.steps} steps done"
    return Trained(network=run.state.averaged, step=run.state.step, reason=reason, interrupted=stop.is_set())


class _Run:
    """The parts of one run."""

    def __init__(self, config: TrainConfig) -> None:
        heap.reuse_arrays()
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._config = config
        self._device = _device(config.device)
        self._dtype = choose_dtype(self._device)
        self._pool = SlicePool(config.shards, config.pool)
        self._held_out = _held_out(config)
        _require_both(self._pool, config)
        for pool in (self._pool, self._held_out):
            _require_bone(pool, config)
        config.run.mkdir(parents=True, exist_ok=True)
        self.state = _fresh_state(config, self._device)
        if (config.run / CHECKPOINT).exists():
            self._pool.restore_scores(load_checkpoint(config.run / CHECKPOINT, self.state))
        elif config.start_from:
            load_start(config.start_from, self.state)
            save_averaged(config.run / START, self.state)
        self._record = Record.open(config, self._device, self._dtype, self.state.step)
        self._kept_at = self.state.step
        self._bar: tqdm | None = None

    @contextmanager
    def progress(self) -> Iterator[None]:
        """With a progress bar."""
        with tqdm(total=self._config.steps, initial=self.state.step, desc="training", unit="step") as self._bar:
            yield

    @property
    def stale(self) -> bool:
        """Whether validation has not become better for long."""
        waited = self.state.step - self.state.best_step
        return bool(self.state.best_step) and waited >= self._config.patience * self._config.validate_every

    def one_step(self) -> None:
        """One batch, and what is due after it."""
        config, step = self._config, self.state.step
        rng = np.random.default_rng((config.seed, step))
        grid = config.grid_at(step)
        drawn = self._pool.draw(rng, config.batch)
        views = self._views(drawn, grid, config.augment, seed=int(rng.integers(2**31)))
        logits, views = self._forward(self.state.network.train(), views)
        parts = losses(logits, views, self._known(drawn.known), grid, config.losses)
        whole = total(parts, config.losses)
        _check_finite(float(whole.detach()), step)
        self._descend(whole)
        blank = ~(views.truth > 0).flatten(1).any(dim=1).cpu().numpy()  # but for painted blood, too
        self._pool.note(drawn.places[blank], blood_seen(logits).cpu().numpy()[blank])
        self._record.note(_told(whole, parts, accuracy(logits, views, self._known(drawn.known), grid)))
        self.state.step += 1
        self._after_step()

    def keep(self) -> None:
        """Checkpoint and record, unless they are as new as the step."""
        if self.state.step == self._kept_at:
            return
        save_checkpoint(self._config.run / CHECKPOINT, self.state, self._pool.scores())
        self._tell()
        self._record.write(self.state.step, self._pool)
        self._kept_at = self.state.step

    def draw(self) -> None:
        """The curves so far; it takes as long as a step or two."""
        draw_curves(self._record.content, self._config.run / CURVES)

    def _after_step(self) -> None:
        if self._bar is not None:
            self._bar.update()
        due = self.state.step % self._config.validate_every == 0 or self.state.step == self._config.steps
        if self._held_out and due:
            self._tell()
            self._validate(self._held_out)
            self.draw()
        if self.state.step % self._config.checkpoint_every == 0:
            self.keep()
            self._pool.refresh()

    def _tell(self) -> None:
        """The losses since the last time, in the curve and at the bar."""
        told = self._record.note_means(self.state.step, self._pool)
        if self._bar is not None and told:
            self._bar.set_postfix(told)

    def _views(self, drawn: Drawn, grid: Grid, config: AugmentConfig, seed: int) -> Views:
        return augment(drawn, STORED_GRID, grid, config, seed, self._config.images.appearance)

    def _known(self, known: Known) -> Known:
        return Known(*(each.to(self._device) for each in known))

    def _forward(self, network: nn.Module, views: Views) -> tuple[AnyLogits, Views]:
        """On the device; the logits are float32. A network without neighbours gets the windows alone."""
        shown = views.images[:, : self._config.network.in_channels]
        images = shown.to(self._device, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = network(images)
        return logits, Views(
            images=images, truth=views.truth.to(self._device), depth_mm=views.depth_mm.to(self._device)
        )

    def _descend(self, whole: Tensor) -> None:
        state, config = self.state, self._config
        for group in state.optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(state.step, config)
        state.optimizer.zero_grad()
        whole.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(state.network.parameters(), _CLIP_NORM)
        state.optimizer.step()
        _average(state.averaged, state.network, min(config.ema, state.step / (state.step + 10)))

    @torch.no_grad()
    def _validate(self, held_out: SlicePool) -> None:
        """The averaged network on the same varied slices every time; the best on the fine grid is kept."""
        config, grid = self._config, self._config.grid_at(self.state.step)
        network, told = self.state.averaged.eval(), []
        unpainted = replace(config.augment, paint=PaintConfig())
        for number in range(config.validation_batches):
            drawn = held_out.draw(np.random.default_rng((_VALIDATION_SEED, number)), config.batch)
            views = self._views(drawn, grid, unpainted, seed=number)
            logits, views = self._forward(network, views)
            parts = losses(logits, views, self._known(drawn.known), grid, config.losses)
            share = accuracy(logits, views, self._known(drawn.known), grid)
            told.append(_told(total(parts, config.losses), parts, share))
        means = {name: mean_of([each[name] for each in told]) for name in told[0]}
        self._record.note_validation(self.state.step, grid.size_px, means)
        if grid == config.grid and means["total"] < self.state.best_loss:
            self.state.best_loss, self.state.best_step = means["total"], self.state.step
            save_averaged(config.run / BEST, self.state)


# ---------------------------------------------------------------- parts of a step


def _told(whole: Tensor, parts: dict[str, Tensor], right: float) -> dict[str, float]:
    losses = {name: float(loss.detach()) for name, loss in {"total": whole, **parts}.items()}
    return losses | {"accuracy": right}


def _check_finite(loss: float, step: int) -> None:
    """Before the weights are touched: those in the last checkpoint stay good."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss of step {step} is {loss}; lower learning_rate, or look at the newest shards; the same command "
            "goes on from the last checkpoint"
        )


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    """Exponential moving average of weights and of batch-norm statistics."""
    for kept, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - keep)
        else:
            kept.copy_(new)


def _fresh_state(config: TrainConfig, device: torch.device) -> State:
    network, averaged = network_of(config.network), network_of(config.network)
    averaged.load_state_dict(network.state_dict())
    network, averaged = (each.to(device, memory_format=torch.channels_last) for each in (network, averaged))  # type: ignore[call-overload]
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return State(network=network, averaged=averaged, optimizer=torch.optim.AdamW(groups, lr=config.learning_rate))


def _held_out(config: TrainConfig) -> SlicePool | None:
    if config.validation is None:
        return None
    return SlicePool(config.validation, replace(config.pool, hard_share=0.0, bag=0), key="validation")


def _require_bone(pool: SlicePool | None, config: TrainConfig) -> None:
    if pool is not None and config.images.at_most_hu > pool.at_most_hu:
        limit_hu = f"{pool.at_most_hu:g}"
        raise ConfigError(
            f"{pool.folder}: bone was cut off at {limit_hu} HU when these shards were made, and the node must, too; "
            f"set [images] at_most_hu = {limit_hu}, or use other shards"
        )


def _require_both(pool: SlicePool, config: TrainConfig) -> None:
    if not any(pool.present().values()) or not pool.taught()["none"]:
        raise ConfigError(
            f"{config.shards}: training needs slices that are known to show hemorrhage and slices known not to; "
            "labels of whole studies are of no slice"
        )


def _require_extra() -> None:
    """Now, not after an hour."""
    for name in ("monai", "matplotlib"):
        if find_spec(name) is None:
            raise UsageError(f"training needs {name}: pip install 'triage-node[train]'")


def _device(name: str) -> torch.device:
    try:
        return choose_device(name)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"device: {error}") from error


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; a second one ends the process at once. Handlers need the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
