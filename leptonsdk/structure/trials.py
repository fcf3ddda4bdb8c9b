"""Whether a model from which something was removed on trial computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from leptonsdk.structure.tracing import fresh

# What a model raises where a shape does not fit somewhere.
CANNOT_RUN = (RuntimeError, ValueError, IndexError, TypeError)


def outputs_of(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """All floats that a forward gives, in order."""
    with torch.no_grad():
        output = model(**fresh(dict(inputs)))
    values = dict(output) if isinstance(output, Mapping) else output
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]


def same_outputs(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether they agree as far as the precision that they were computed in lets them."""
    return len(ones) == len(others) and all(_close(a, b) for a, b in zip(ones, others, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:  # attention weights by head, where they are asked for
        return a.dim() == b.dim() == 4
    tolerance = 1e-3 if a.dtype.itemsize >= 4 else 5e-2
    largest = float(a.nan_to_num().abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=tolerance * max(largest, 1e-3), equal_nan=True)
