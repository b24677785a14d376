"""Networks: what they say of a slice, with and without neighbours."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from triage_node.domain import SUBTYPES
from triage_node.networks import (
    NETWORKS,
    Findings,
    TriageNetConfig,
    UNetConfig,
    build_network,
    network_config,
    network_name,
)
from triage_node.networks.findings import BOX_CHANNELS, boxes_of
from triage_node.networks.triagenet import EXTRA_AXIAL, INTRA_AXIAL, TriageNet, pixel_probabilities
from triage_node.networks.widen import widened

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


COMPARED: dict[str, tuple[dict[str, object], set[str]]] = {
    "unet4": ({"base_width": 4}, {"slices", "pixels"}),
    "deeplabv3": ({"width": 4, "pyramid_width": 8}, {"slices", "pixels"}),
    "resnet18": ({"width": 4}, {"slices"}),
    "resnet50": ({"width": 4}, {"slices"}),
    "resnet50v2-yolo": ({"width": 4}, {"slices", "boxes"}),
    "double-branch": ({"width": 4, "detector_width": 4}, {"slices", "pixels", "chronic"}),
    "vgg16": ({"dense_width": 8}, {"slices"}),
    "plain-cnn": ({"widths": [4, 4, 4, 4, 4], "dense_width": 8}, {"slices"}),
}
"""Small choices for each network of the comparison, and what it speaks of."""
SHAPES = {"slices": (2, 6), "pixels": (2, 6, 64, 64), "chronic": (2,), "boxes": (2, 4, 9)}


def test_every_registered_network_is_tested_here() -> None:
    assert set(NETWORKS) == {"triagenet", "unet", *COMPARED}


@pytest.mark.parametrize("name", COMPARED)
def test_a_network_of_the_comparison_says_what_it_can_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    choices, speaks_of = COMPARED[name]
    network = build_network(name, choices).eval()
    assert 64 % network.config.multiple_px == 0  # type: ignore[union-attr, operator]
    found = said(network, torch.rand(2, 3, 64, 64))._asdict()
    assert {part: tuple(values.shape) for part, values in found.items() if values is not None} == {
        part: SHAPES[part] for part in speaks_of
    }
    if "pixels" in speaks_of:
        torch.testing.assert_close(found["pixels"].sum(dim=1), torch.ones(2, 64, 64))


@pytest.mark.parametrize("name", COMPARED)
def test_every_weight_of_a_network_of_the_comparison_can_learn(name: str) -> None:
    network = build_network(name, COMPARED[name][0]).train()
    logits = network(torch.rand(2, 3, 64, 64))
    sum(part.square().mean() for part in logits if part is not None).backward()
    assert [weight for weight, values in network.named_parameters() if values.grad is None] == []


def test_the_plain_cnn_has_the_size_of_the_one_reported() -> None:
    network = build_network("plain-cnn", {})
    assert sum(weight.numel() for weight in network.parameters()) == 4_009_931
    assert said(network.eval(), torch.rand(1, 3, 192, 192)).slices.shape == (1, 6)


def test_a_box_lies_round_the_middle_that_its_cell_names() -> None:
    cells = torch.full((1, BOX_CHANNELS, 4, 8), -20.0)
    surely, half = 20.0, 0.0
    cells[0, [0, 1, 2, 3, 4], 1, 6] = torch.tensor([surely, half, half, -math.log(3), -math.log(7)])
    cells[0, 5 + SUBTYPES.index("subdural"), 1, 6] = surely
    box = boxes_of(cells)[0, 1 * 8 + 6]
    middle_x, middle_y = 6.5 / 8, 1.5 / 4
    expected = [middle_x - 1 / 8, middle_y - 1 / 16, middle_x + 1 / 8, middle_y + 1 / 16]
    torch.testing.assert_close(box[:4], torch.tensor(expected))
    assert box[4 + SUBTYPES.index("subdural")] > 0.99
    assert boxes_of(cells)[..., 4:].sum() == pytest.approx(1.0, abs=1e-3)


def test_neighbours_change_what_is_said(flagship: TriageNet) -> None:
    images = torch.rand(2, 5, 32, 32)
    others = images.clone()
    others[:, 3:] = torch.rand(2, 2, 32, 32)
    assert not torch.equal(said(flagship, images).pixels, said(flagship, others).pixels)


def test_a_single_slice_stands_in_for_its_neighbours(flagship: TriageNet) -> None:
    own = torch.rand(1, 3, 32, 32)
    found = said(flagship, torch.cat([own, own[:, :1], own[:, :1]], dim=1))
    assert all(torch.isfinite(part).all() for part in found if part is not None)


def test_the_mask_has_a_vote_on_the_slice_where_the_bundle_gives_it_one(flagship: TriageNet) -> None:
    images = torch.rand(3, flagship.config.in_channels, 32, 32)
    voting = TriageNet(replace(flagship.config, mask_vote=0.5)).eval()
    voting.load_state_dict(flagship.state_dict())
    alone, voted = flagship.findings(images), voting.findings(images)
    assert alone.pixels is not None and voted.pixels is not None
    assert torch.equal(alone.pixels, voted.pixels)
    surest = nn.functional.avg_pool2d(alone.pixels[:, 1:], 3, stride=1).amax(dim=(2, 3))
    assert torch.allclose(voted.slices[:, 1:] - alone.slices[:, 1:], 0.5 * torch.logit(surest, eps=1e-4), atol=1e-4)
    assert (voted.slices != alone.slices).all()


def test_a_widened_network_says_the_same_and_all_of_it_can_learn() -> None:
    torch.manual_seed(0)
    narrow, wide = (TriageNet(TriageNetConfig(windows=2, patch_px=1, base_width=width)) for width in (4, 6))
    for norm in (part for part in narrow.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    images = torch.rand(2, 4, 64, 64)
    before, after = narrow.eval()(images), wide.eval()(images)
    for name in before._fields:
        assert torch.allclose(getattr(before, name), getattr(after, name), atol=1e-5), name

    optimizer = torch.optim.AdamW(wide.parameters(), lr=0.01, weight_decay=0.0)
    kept = {name: value.detach().clone() for name, value in wide.named_parameters()}
    for _ in range(2):  # what nothing listens to has no gradient at the first step
        logits = wide.train()(images)
        optimizer.zero_grad()
        torch.stack([part.square().mean() for part in logits]).sum().backward()
        optimizer.step()
    assert [name for name, value in wide.named_parameters() if torch.equal(value, kept[name])] == []
    mean, maximum = wide.slice_head[0].weight[:, [4 * 8, 6 * 8 + 4 * 8]].T  # of the first new channel
    assert mean.any() and maximum.any()


def test_a_network_that_differs_in_more_is_not_widened() -> None:
    narrow, wide = TriageNet(TriageNetConfig(base_width=4)), TriageNet(TriageNetConfig(base_width=6, levels=3))
    with pytest.raises(ValueError, match="not the same"):
        widened(narrow.state_dict(), wide)
    with pytest.raises(ValueError, match="does not fit"):
        widened(TriageNet(TriageNetConfig(base_width=8)).state_dict(), TriageNet(TriageNetConfig(base_width=6)))
    wide = TriageNet(TriageNetConfig(base_width=6))
    for other in ({"windows": 2}, {"context_kernel_px": 3}, {"head_width": 8}, {"windows": 4}):
        differs = TriageNet(TriageNetConfig(**{"base_width": 4, **other}))
        with pytest.raises(ValueError, match=r"weight is \(.*\), not \("):
            widened(differs.state_dict(), wide)


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
    with pytest.raises(ValueError, match="no network is called 'vnet'; there are: triagenet, unet, unet4"):
        build_network("vnet", {})
    with pytest.raises(TypeError, match="depth"):
        build_network("triagenet", {"depth": 3})
