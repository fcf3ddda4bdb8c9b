"""What the solver needs to know of a layer's inputs, summed up batch by batch in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from leptonsdk.calibration import Gram


class Statistics:
    """``X^T X`` and ``(X_source - X)^T X`` of a layer's inputs.

    The second is a small correction, for which a product in ``compute_dtype`` will do.
    """

    def __init__(self, width: int, device: torch.device, compute_dtype: torch.dtype = torch.float32) -> None:
        self._dtype = compute_dtype
        self._gram = Gram(width, device)
        self._drift = torch.zeros(width, width, device=device)
        self.matched = 0

    def add(self, x: Tensor, source: Tensor | None) -> None:
        """Inputs ``[positions, in]``, and those of the source model at the same positions."""
        self._gram.add(x)
        if source is not None:
            self._drift += (source - x).to(self._dtype).t() @ x.to(self._dtype)
            self.matched += len(x)

    def hessian(self) -> Tensor:
        """``X^T X`` per position, symmetric."""
        return self._gram.mean()

    def drift(self) -> Tensor | None:
        """``(X_source - X)^T X`` per position; None without the source's inputs."""
        return self._drift / self.matched if self.matched else None
