"""One nn.Module per file, each with its choices in a frozen config at the top.

Every network has `findings(images) -> Findings`, which is all that inference asks of it; `forward` returns what its
training needs: TriageLogits of the flagship, Logits of those of the comparison.

findings          what a network says of a slice
hardware          device and number format
triagenet         the flagship: 2.5-D, several heads
unet              2-D, single slices; of bundle 0.1.0
unet4             U-Net of four levels
deeplabv3         DeepLabV3: a branch for pixels, a branch for slices
resnet            ResNet-18, ResNet-50, and the trunk of ResNet-50 V2
resnet50v2_yolo   ResNet-50 V2 with boxes
double_branch     two branches, a detector for each kind of blood
vgg16             VGG-16
plain_cnn         a sequential CNN
widen             the weights of a narrow flagship in a wide one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from triage_node.networks.deeplabv3 import DeepLabV3, DeepLabV3Config
from triage_node.networks.double_branch import DoubleBranch, DoubleBranchConfig
from triage_node.networks.findings import Findings, Logits
from triage_node.networks.hardware import choose_device, choose_dtype
from triage_node.networks.plain_cnn import PlainCnn, PlainCnnConfig
from triage_node.networks.resnet import ResNet18, ResNet18Config, ResNet50, ResNet50Config
from triage_node.networks.resnet50v2_yolo import ResNet50V2Yolo, ResNet50V2YoloConfig
from triage_node.networks.triagenet import TriageNet, TriageNetConfig
from triage_node.networks.unet import UNet, UNetConfig
from triage_node.networks.unet4 import UNet4, UNet4Config
from triage_node.networks.vgg16 import Vgg16, Vgg16Config

__all__ = [
    "NETWORKS",
    "Findings",
    "Logits",
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
    "network_of",
    "network_type",
]


NetworkConfig = (
    TriageNetConfig
    | UNetConfig
    | UNet4Config
    | DeepLabV3Config
    | ResNet18Config
    | ResNet50Config
    | ResNet50V2YoloConfig
    | DoubleBranchConfig
    | Vgg16Config
    | PlainCnnConfig
)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    network: type[nn.Module]
    config: type[NetworkConfig]


_NETWORKS: Final[Mapping[str, _Kind]] = {
    "triagenet": _Kind(network=TriageNet, config=TriageNetConfig),
    "unet": _Kind(network=UNet, config=UNetConfig),
    "unet4": _Kind(network=UNet4, config=UNet4Config),
    "deeplabv3": _Kind(network=DeepLabV3, config=DeepLabV3Config),
    "resnet18": _Kind(network=ResNet18, config=ResNet18Config),
    "resnet50": _Kind(network=ResNet50, config=ResNet50Config),
    "resnet50v2-yolo": _Kind(network=ResNet50V2Yolo, config=ResNet50V2YoloConfig),
    "double-branch": _Kind(network=DoubleBranch, config=DoubleBranchConfig),
    "vgg16": _Kind(network=Vgg16, config=Vgg16Config),
    "plain-cnn": _Kind(network=PlainCnn, config=PlainCnnConfig),
}
NETWORKS: Final = tuple(_NETWORKS)
"""The names by which a bundle or an experiment asks for one."""


def build_network(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle names, untrained. ValueError for an unknown name, TypeError for an unknown choice."""
    return network_of(network_config(name, config))


def network_of(config: NetworkConfig) -> nn.Module:
    """The untrained network with these choices."""
    return _NETWORKS[network_name(config)].network(config)


def network_config(name: str, config: Mapping[str, Any]) -> NetworkConfig:
    """The choices that a bundle writes down. ValueError for an unknown name, TypeError for an unknown choice."""
    return network_type(name)(**config)


def network_type(name: str) -> type[NetworkConfig]:
    """Of its choices. ValueError for an unknown name."""
    if name not in _NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name].config


def network_name(config: NetworkConfig) -> str:
    """The inverse: what the network with these choices is called in a bundle."""
    return next(name for name, kind in _NETWORKS.items() if kind.config is type(config))
