"""Sums over what layers read."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 192


class Gram:
    """``X^T X`` of a layer's inputs ``X`` ``[positions, in]``, summed up batch by batch.

    In float32, since one whose entries carry bfloat16's rounding is not positive definite.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._upper = torch.zeros(width, width, device=device)
        self.positions = 0

    def add(self, x: Tensor) -> None:
        """More inputs ``[positions, in]``."""
        full = x.float()
        for start in range(0, full.shape[1], _TILE):  # the upper triangle, a tile's height at a time
            self._upper[start : start + _TILE, start:].addmm_(full[:, start : start + _TILE].t(), full[:, start:])
        self.positions += len(x)

    def mean(self) -> Tensor:
        """Per position, symmetric ``[in, in]``."""
        upper = torch.triu(self._upper)
        return (upper + torch.triu(upper, 1).t()) / max(self.positions, 1)
