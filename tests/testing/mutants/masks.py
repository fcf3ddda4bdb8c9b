"""The mask of the tiny training compressor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mask(nn.Module):
    """Zeros and ones of a weight's shape, as a buffer, so that a Trainer's checkpoint has it."""

    mask: Tensor

    def __init__(self, weight: Tensor, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def cut(self, weight: Tensor, share: float) -> None:
        """Have the smallest weights of each row masked."""
        rows = (weight.t() if self.transposed else weight).detach().abs()
        ranks = rows.argsort(dim=1).argsort(dim=1)
        mask = (ranks >= round(rows.shape[1] * share)).to(weight.dtype)
        self.mask.copy_(mask.t() if self.transposed else mask)
