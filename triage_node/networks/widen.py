"""The weights of a narrow flagship in a wide one, which says the same at first and can learn more.

After Net2Net (Chen and others, arXiv 1511.05641), but new channels begin at random instead of as copies: what was there
does not listen to them yet (weights of 0), and learns to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from triage_node.networks.triagenet import TriageNet


@torch.no_grad()
def widened(narrow: Mapping[str, Tensor], network: TriageNet) -> dict[str, Tensor]:
    """The state of `network`, filled with that of a TriageNet that differs in nothing but a smaller `base_width`.

    ValueError where it differs in more.
    """
    wide, first = network.state_dict(), narrow.get("encoder.0.enter.weight")
    if set(narrow) != set(wide) or first is None:
        raise ValueError("the parts of the networks are not the same")
    if len(first) > network.config.base_width:
        raise ValueError(f"base_width {len(first)} does not fit into {network.config.base_width}")
    like = TriageNet(replace(network.config, base_width=len(first))).state_dict()
    other = next((key for key, value in like.items() if value.shape != narrow[key].shape), None)
    if other is not None:
        raise ValueError(f"{other} is {tuple(narrow[other].shape)}, not {tuple(like[other].shape)}")
    return {key: _filled(key, narrow[key], fresh, network) for key, fresh in wide.items()}


def _filled(key: str, old: Tensor, fresh: Tensor, network: TriageNet) -> Tensor:
    if old.shape == fresh.shape:
        return old.to(fresh.dtype)
    filled, rows = fresh.clone(), len(old)
    if old.dim() == 1:
        filled[:rows] = old
        return filled
    filled[:rows] = 0
    filled[:rows, _columns(key, old.shape[1], network)] = old.to(fresh.dtype)
    return filled


def _columns(key: str, inputs: int, network: TriageNet) -> Tensor:
    """Where the `inputs` of a narrow layer lie in the wide one: the heads have several groups, one after another."""
    groups = network.input_groups.get(key)
    if groups is None:
        return torch.arange(inputs)
    widened, kept = groups
    each = (inputs - kept) // len(widened)
    starts = [sum(widened[:index]) for index in range(len(widened))]
    places = [torch.arange(start, start + each) for start in starts]
    return torch.cat([*places, torch.arange(sum(widened), sum(widened) + kept)])
