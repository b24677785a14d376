"""The weights of a narrow flagship in a wide one, which says the same at first and can learn more.

After Net2Net (Chen and others, arXiv 1511.05641), but new channels begin at random instead of as copies: what was there
does not listen to them yet (weights of 0), and learns to.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from triage_node.networks.triagenet import TriageNet


@torch.no_grad()
def widened(narrow: Mapping[str, Tensor], network: TriageNet) -> dict[str, Tensor]:
    """The state of `network`, filled with that of a TriageNet that differs in nothing but a smaller `base_width`.

    ValueError where it differs in more.
    """
    wide = network.state_dict()
    if set(narrow) != set(wide):
        raise ValueError("the parts of the networks are not the same")
    return {key: _filled(key, narrow[key], fresh, network) for key, fresh in wide.items()}


def _filled(key: str, old: Tensor, fresh: Tensor, network: TriageNet) -> Tensor:
    if old.dim() != fresh.dim() or any(few > many for few, many in zip(old.shape, fresh.shape, strict=True)):
        raise ValueError(f"{key}: {tuple(old.shape)} does not fit into {tuple(fresh.shape)}")
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
