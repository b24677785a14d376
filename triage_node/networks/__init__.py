"""One nn.Module per file, each with its choices in a frozen config at the top.

Every network has `findings(images) -> Findings`, which is all that inference asks of it; `forward` returns what its
training needs.

findings    what a network says of a slice
hardware    device and number format
unet        2-D, single slices
triagenet   the flagship: 2.5-D, several heads
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from triage_node.networks.findings import Findings
from triage_node.networks.triagenet import TriageNet, TriageNetConfig
from triage_node.networks.unet import UNet, UNetConfig

__all__ = ["Findings", "TriageNet", "TriageNetConfig", "UNet", "UNetConfig", "build_network"]

_NETWORKS: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "unet": lambda **config: UNet(UNetConfig(**config)),
    "triagenet": lambda **config: TriageNet(TriageNetConfig(**config)),
}


def build_network(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle names, untrained. ValueError for an unknown name, TypeError for an unknown choice."""
    if name not in _NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name](**config)
