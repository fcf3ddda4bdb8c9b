"""What is kept of layers' inputs: ``X^T X`` and each channel's mean size."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 192


class Statistics:
    """Sums over a layer's inputs ``[positions, in]``, in float32."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._gram = torch.zeros(width, width, device=device)
        self._size = torch.zeros(width, device=device)
        self.positions = 0

    def add(self, x: Tensor) -> None:
        full = x.float()
        for start in range(0, full.shape[1], _TILE):  # the upper triangle, a tile's height at a time
            self._gram[start : start + _TILE, start:].addmm_(full[:, start : start + _TILE].t(), full[:, start:])
        self._size += full.abs().sum(0)
        self.positions += len(x)

    def gram(self) -> Tensor:
        """``X^T X`` per position ``[in, in]``."""
        upper = torch.triu(self._gram)
        return (upper + torch.triu(upper, 1).t()) / max(self.positions, 1)

    def size(self) -> Tensor:
        """Mean absolute value of each channel ``[in]``."""
        return self._size / max(self.positions, 1)

    @staticmethod
    def bytes(width: int) -> int:
        """What one takes in memory."""
        return 4 * width * (width + 1)
