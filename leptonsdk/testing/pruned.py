"""A pruned model, and the layers that a compressor changed: what masks, integers and baselines are checked on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from leptonsdk.calibration import watch_inputs
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.quantization.layers import linear_layers, tied_layers, weight_of
from leptonsdk.testing.models import tiny_batches


def half_zero(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the smaller half of every row of its linear layers set to zero, in place; tied weights are left."""
    tied = tied_layers(checkpoint.model)
    for name, layer in linear_layers(checkpoint.model).items():
        if name not in tied:
            weight = weight_of(layer).data
            smallest = weight.abs().topk(weight.shape[1] // 2, dim=1, largest=False).indices
            weight.scatter_(1, smallest, 0.0)
    return checkpoint


def layer_inputs(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, Tensor]:
    """What each layer reads on the tiny calibration data, ``[positions, in]``, by name."""
    seen: dict[str, list[Tensor]] = {}
    layers = {name: checkpoint.model.get_submodule(name) for name in names}
    for batch in tiny_batches(checkpoint)(8):
        watch_inputs(checkpoint.model, layers, batch, lambda name, x: seen.setdefault(name, []).append(x))
    return {name: torch.cat(found) for name, found in seen.items()}
