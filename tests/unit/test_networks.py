"""Networks: what they say of a slice, with and without neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triage_node.domain import SUBTYPES
from triage_node.networks import (
    Findings,
    TriageNetConfig,
    UNetConfig,
    build_network,
    network_config,
    network_name,
)
from triage_node.networks.triagenet import EXTRA_AXIAL, INTRA_AXIAL, TriageNet, pixel_probabilities

TINY = TriageNetConfig(base_width=4, levels=3, context_kernel_px=3, head_width=8)


@pytest.fixture
def flagship() -> TriageNet:
    torch.manual_seed(0)
    return TriageNet(TINY).eval()


def said(network: nn.Module, images: torch.Tensor) -> Findings:
    with torch.inference_mode():
        found: Findings = network.findings(images)  # type: ignore[operator]
    return found


@pytest.mark.parametrize(("name", "channels"), [("unet", 3), ("triagenet", 5)])
def test_pixels_are_probabilities_of_six_classes(name: str, channels: int) -> None:
    torch.manual_seed(0)
    network = build_network(name, {"base_width": 4}).eval()
    found = said(network, torch.rand(2, channels, 32, 32))
    assert found.pixels.shape == (2, 6, 32, 32)
    assert found.slices.shape == (2, 6)
    assert found.pixels.min() >= 0
    torch.testing.assert_close(found.pixels.sum(dim=1), torch.ones(2, 32, 32))
    assert (found.chronic is None) == (name == "unet")


def test_neighbours_change_what_is_said(flagship: TriageNet) -> None:
    images = torch.rand(2, 5, 32, 32)
    others = images.clone()
    others[:, 3:] = torch.rand(2, 2, 32, 32)
    assert not torch.equal(said(flagship, images).pixels, said(flagship, others).pixels)


def test_a_single_slice_stands_in_for_its_neighbours(flagship: TriageNet) -> None:
    own = torch.rand(1, 3, 32, 32)
    found = said(flagship, torch.cat([own, own[:, :1], own[:, :1]], dim=1))
    assert all(torch.isfinite(part).all() for part in found if part is not None)


def test_extra_axial_blood_is_found_inside_the_skull_only() -> None:
    intra, extra = torch.zeros(1, 4, 1, 2), torch.zeros(1, 3, 1, 2)
    intra[:, 0], extra[:, 1 + EXTRA_AXIAL.index("subdural")] = 20.0, 20.0
    inside = torch.tensor([[[20.0, -20.0]]])
    subdural = pixel_probabilities(intra, extra, inside)[0, 1 + SUBTYPES.index("subdural"), 0]
    assert subdural[0] > 0.99
    assert subdural[1] < 0.01


def test_what_the_intra_head_claims_the_extra_head_cannot_have() -> None:
    intra, extra = torch.zeros(1, 4, 1, 1), torch.zeros(1, 3, 1, 1)
    intra[:, 1 + INTRA_AXIAL.index("intraventricular")], extra[:, 1] = 20.0, 20.0
    found = pixel_probabilities(intra, extra, torch.full((1, 1, 1), 20.0))[0, :, 0, 0]
    assert found.argmax() == 1 + SUBTYPES.index("intraventricular")


def test_bf16_says_the_same_within_its_precision(flagship: TriageNet) -> None:
    images = torch.rand(2, 5, 32, 32)
    exact = said(flagship, images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = said(flagship, images)
    assert rough.pixels.dtype == rough.slices.dtype == torch.float32
    assert (rough.pixels - exact.pixels).abs().max() < 0.02
    assert (rough.slices.sigmoid() - exact.slices.sigmoid()).abs().max() < 0.02


def test_every_loss_reaches_every_weight(flagship: TriageNet) -> None:
    logits = flagship.train()(torch.rand(2, 5, 32, 32))
    sum(part.square().mean() for part in logits).backward()
    assert [name for name, weight in flagship.named_parameters() if weight.grad is None] == []


def test_a_bundle_can_say_which_network_it_means() -> None:
    for config in (UNetConfig(base_width=8), TINY):
        assert network_config(network_name(config), vars(config)) == config
    with pytest.raises(ValueError, match="no network is called 'vnet'; there are: unet, triagenet"):
        build_network("vnet", {})
    with pytest.raises(TypeError, match="depth"):
        build_network("triagenet", {"depth": 3})
