"""Which weights go: functions of tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def input_norms(inputs: Iterable[Tensor]) -> Tensor:
    """The L2 norm ``[in]`` of each input over all positions of batches ``[positions, in]``."""
    return torch.stack([x.float().square().sum(0) for x in inputs]).sum(0).sqrt()


def scores(weight: Tensor, norms: Tensor) -> Tensor:
    """A weight's size times its input's norm ``[out, in]``; -1 where it is zero already, so that those go first."""
    return torch.where(weight == 0, -1.0, weight.float().abs() * norms)


def keep(scores: Tensor, size: int, removed: int) -> Tensor:
    """A mask ``[out, in]`` that is false for the ``removed`` lowest scores of every ``size`` in a row; of equal ones the first."""
    groups = scores.reshape(len(scores), -1, size)
    lowest = groups.argsort(dim=2, stable=True)[..., :removed]
    return torch.ones_like(groups, dtype=torch.bool).scatter_(2, lowest, False).reshape(scores.shape)
