"""Where a network runs and in which numbers; the same for training and inference."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


def choose_device(device: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu" or "cuda". ValueError where torch sees no such device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no CUDA device; use auto or cpu")
    return torch.device(device)


def choose_dtype(device: torch.device) -> torch.dtype:
    """bf16 only where the hardware has it: emulated on AVX2 it is 8 times slower than float32 (measured)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_flags() & _BF16_FLAGS else torch.float32


def _cpu_flags() -> frozenset[str]:
    """Of the first processor, as Linux tells them; empty elsewhere."""
    if not _CPU_INFO.is_file():
        return frozenset()
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    return next((frozenset(line.split(":")[1].split()) for line in lines if line.startswith("flags")), frozenset())
