"""One nn.Module per file, each with its choices in a frozen config at the top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from triage_node.networks.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig", "build_network"]


def build_network(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle names, untrained. ValueError for an unknown name, TypeError for an unknown choice."""
    if name != "unet":
        raise ValueError(f"no network is called {name!r}; there is: unet")
    return UNet(UNetConfig(**config))
