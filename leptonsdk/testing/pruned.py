"""A pruned model, and the layers that a compressor changed: what masks, integers and baselines are checked on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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


def layer_inputs(checkpoint: Checkpoint, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """What each layer reads on the tiny calibration data, ``[positions, in]``, by name."""
    seen: dict[str, list[Tensor]] = {}
    layers = linear_layers(checkpoint.model)

    def watch(name: str) -> Any:
        return lambda module, inputs: seen.setdefault(name, []).append(inputs[0].detach().flatten(0, -2))

    handles = [layers[name].register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.inference_mode():
            for batch in tiny_batches(checkpoint)(8):
                checkpoint.model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(found) for name, found in seen.items()}
