"""One nn.Module per file, each with its choices in a frozen config at the top.

Every network has `findings(images) -> Findings`, which is all that inference asks of it; `forward` returns what its
training needs.

findings    what a network says of a slice
hardware    device and number format
unet        2-D, single slices
triagenet   the flagship: 2.5-D, several heads
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from triage_node.networks.findings import Findings
from triage_node.networks.hardware import choose_device, choose_dtype
from triage_node.networks.triagenet import TriageNet, TriageNetConfig
from triage_node.networks.unet import UNet, UNetConfig

__all__ = [
    "Findings",
    "NetworkConfig",
    "TriageNet",
    "TriageNetConfig",
    "UNet",
    "UNetConfig",
    "build_network",
    "choose_device",
    "choose_dtype",
    "network_config",
    "network_name",
]

NetworkConfig = UNetConfig | TriageNetConfig


@dataclass(frozen=True, kw_only=True)
class _Kind:
    network: type[nn.Module]
    config: type[NetworkConfig]


_NETWORKS: Final[Mapping[str, _Kind]] = {
    "unet": _Kind(network=UNet, config=UNetConfig),
    "triagenet": _Kind(network=TriageNet, config=TriageNetConfig),
}


def build_network(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle names, untrained. ValueError for an unknown name, TypeError for an unknown choice."""
    choices = network_config(name, config)
    return _NETWORKS[name].network(choices)


def network_config(name: str, config: Mapping[str, Any]) -> NetworkConfig:
    """The choices that a bundle writes down. ValueError for an unknown name, TypeError for an unknown choice."""
    if name not in _NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name].config(**config)


def network_name(config: NetworkConfig) -> str:
    """The inverse: what the network with these choices is called in a bundle."""
    return next(name for name, kind in _NETWORKS.items() if kind.config is type(config))
