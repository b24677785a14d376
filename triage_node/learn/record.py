"""What a run was and how it went, as JSON: config, data, code, machine, time, curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import torch

from triage_node.learn.experiment import TrainConfig
from triage_node.learn.pool import SlicePool

RECORD: Final = "record.json"


@dataclass(kw_only=True)
class Record:
    """Of one run; goes on where the run went on."""

    path: Path
    content: dict[str, Any]
    _since: list[dict[str, float]] = field(default_factory=list)
    _noted: float = field(default_factory=perf_counter)
    _written: float = field(default_factory=perf_counter)
    _processor_noted: float = field(default_factory=process_time)

    @classmethod
    def open(cls, config: TrainConfig, device: torch.device, dtype: torch.dtype, step: int) -> Record:
        """The record of the run up to `step`, or a new one."""
        path = config.run / RECORD
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() and step else {}
        for name in ("curve", "validation"):
            content[name] = [point for point in content.get(name, []) if point["step"] <= step]
        content |= {
            "config": json.loads(json.dumps(asdict(config), default=str)),
            "seed": config.seed,
            "code": code_version(),
            "torch": torch.__version__,
            "threads": config.threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(dtype).removeprefix("torch."),
        }
        content.setdefault("wall_s", 0.0)
        content.setdefault("processor_s", 0.0)
        return cls(path=path, content=content)

    def note(self, losses: Mapping[str, float]) -> None:
        """The losses of one step."""
        self._since.append(dict(losses))

    def note_validation(self, step: int, grid_px: int, losses: Mapping[str, float]) -> None:
        """The losses of one validation."""
        self.content["validation"].append({"step": step, "grid_px": grid_px, **_rounded(losses)})

    def note_means(self, step: int, pool: SlicePool) -> dict[str, str]:
        """Add the mean losses since the last time to the curve; returns them for the progress bar."""
        if not self._since:
            return {}
        seconds, self._noted = perf_counter() - self._noted, perf_counter()
        means = {name: mean_of([losses[name] for losses in self._since]) for name in self._since[0]}
        point = {"step": step, "pool": len(pool), "s_per_step": seconds / len(self._since), **means}
        self.content["curve"].append(_rounded(point))
        self._since = []
        return {name: f"{value:.3f}" for name, value in means.items()}

    def write(self, step: int, pool: SlicePool) -> None:
        """What was noted so far, and how long it took."""
        wall_s, self._written = perf_counter() - self._written, perf_counter()
        processor_s, self._processor_noted = process_time() - self._processor_noted, process_time()
        self.content["wall_s"] = round(self.content["wall_s"] + wall_s, 1)
        self.content["processor_s"] = round(self.content["processor_s"] + processor_s, 1)
        self.content["step"], self.content["pool"], self.content["present"] = step, len(pool), pool.present()
        self.content["taught"] = pool.taught()
        self.content["data"] = {"shards": pool.shards, "slices": len(pool), "listing_sha256": pool.listing_sha256()}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def mean_of(values: Sequence[float]) -> float:
    """Of those that are numbers; nan where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return float(np.mean(numbers)) if numbers else math.nan


def read_record(run: Path) -> dict[str, Any]:
    """The record of a run: config, code, torch, pool (slices seen), present, curve, validation and more."""
    record: dict[str, Any] = json.loads((run / RECORD).read_text(encoding="utf-8"))
    return record


def code_version() -> str:
    """The commit of a source checkout, read from its files; else the version of the package."""
    return _commit(Path(__file__).parents[2]) or f"triage-node {version('triage-node')}"


def _commit(root: Path) -> str | None:
    """gitrepository-layout(5): .git is a folder, or in a worktree a file that names one."""
    git = root / ".git"
    if git.is_file():
        git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    if not (git / "HEAD").is_file():
        return None
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head
    name = head.removeprefix("ref:").strip()
    common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").is_file() else git
    if (common / name).is_file():
        return (common / name).read_text(encoding="utf-8").strip()
    packed = common / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {key: None if math.isnan(value) else round(value, 5) for key, value in values.items()}
