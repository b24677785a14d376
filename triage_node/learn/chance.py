"""Random draws for a batch, all from one seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Chance:
    """What is drawn for a sample has shape (count, 1, 1, 1), to go with (count, slices, rows, columns)."""

    def __init__(self, seed: int, count: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.count = count

    def part(self, count: int) -> Chance:
        """Draws of their own for `count` of the samples."""
        return Chance(int(torch.randint(2**31, (1,), generator=self._generator)), count)

    def uniform(self, low: float, high: float) -> Tensor:
        """Uniform in low..high, one a sample."""
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self._generator)

    def small(self, low: float, high: float) -> Tensor:
        """In low..high, small values likelier than large ones."""
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self._generator) ** 2

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Log-uniform in low..high, one a sample."""
        return low * (high / low) ** self.uniform(0.0, 1.0)

    def normal(self) -> Tensor:
        """Standard normal, one a sample."""
        return torch.randn(self.count, 1, 1, 1, generator=self._generator)

    def share(self, share: float) -> Tensor:
        """True for a share of the samples."""
        return torch.rand(self.count, 1, 1, 1, generator=self._generator) < share

    def one(self, low: float, high: float) -> float:
        """Uniform in low..high, one for the whole batch."""
        return low + (high - low) * float(torch.rand(1, generator=self._generator))

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included, one for the whole batch."""
        return int(torch.randint(low, high + 1, (1,), generator=self._generator))

    def field(self, size_px: int, knots: int) -> Tensor:
        """(count, 1, size, size) of smooth noise, standard deviation about 1, `knots` across."""
        coarse = torch.randn(self.count, 1, knots, knots, generator=self._generator)
        return 1.3 * functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear", align_corners=True)

    def grain(self, like: Tensor) -> Tensor:
        """White noise of the shape of `like`. Slices of a sample share one draw, shifted: drawing is dear."""
        white = torch.randn(self.count, 1, *like.shape[2:], generator=self._generator)
        shifts = [(0, 0), (37, 53), (71, 19)]
        return torch.cat([white.roll(shifts[index % 3], dims=(2, 3)) for index in range(like.shape[1])], dim=1)

    def bits(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) of 0.0 and 1.0."""
        return (torch.rand(rows, columns, generator=self._generator) < 0.5).float()

    def places(self, weights: Tensor, number: int) -> Tensor:
        """(count, number) indices into the last axis of (count, pixels) weights."""
        return torch.multinomial(weights, number, generator=self._generator)
