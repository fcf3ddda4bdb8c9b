"""What the solver needs to know of a layer's inputs, summed up batch by batch in float32."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 192


class Statistics:
    """``X^T X`` and ``(X_source - X)^T X`` of a layer's inputs.

    The first is a float32 product, since a Hessian whose entries carry bfloat16's rounding is not positive definite. The
    second is a small correction, for which a product in ``compute_dtype`` will do.
    """

    def __init__(self, width: int, device: torch.device, compute_dtype: torch.dtype = torch.float32) -> None:
        self._dtype = compute_dtype
        self._gram = torch.zeros(width, width, device=device)
        self._drift = torch.zeros(width, width, device=device)
        self.positions = 0
        self.matched = 0

    def add(self, x: Tensor, source: Tensor | None) -> None:
        """Inputs ``[positions, in]``, and those of the source model at the same positions."""
        full = x.float()
        width = full.shape[1]
        for start in range(0, width, _TILE):  # the upper triangle, a tile's height at a time
            self._gram[start : start + _TILE, start:].addmm_(full[:, start : start + _TILE].t(), full[:, start:])
        self.positions += len(x)
        if source is not None:
            self._drift += (source - x).to(self._dtype).t() @ x.to(self._dtype)
            self.matched += len(x)

    def hessian(self) -> Tensor:
        """``X^T X`` per position, symmetric."""
        upper = torch.triu(self._gram)
        return (upper + torch.triu(upper, 1).t()) / max(self.positions, 1)

    def drift(self) -> Tensor | None:
        """``(X_source - X)^T X`` per position; None without the source's inputs."""
        return self._drift / self.matched if self.matched else None
