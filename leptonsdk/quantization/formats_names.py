"""Which layer of a model a quantized tensor from disk belongs to.

transformers names some families' layers differently on disk and in memory (ViT's ``attention.attention.query`` is
``attention.q_proj``), adds or drops a base model's prefix, and keeps no record of it. The weights themselves tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leptonsdk.errors import CheckpointError
from leptonsdk.quantization.layers import embedding_tables, linear_layers, tied_layers, weight_of
from leptonsdk.quantization.tensor_codebook import AnyTensor, AnyTensorT


def agrees(weight: Tensor, tensor: AnyTensor) -> bool:
    """Whether a weight is what the integers say, up to the rounding of one or two operations (a cast came after)."""
    if tuple(weight.shape) != tensor.shape:
        return False
    expected = tensor.to(weight.device).dequantize(weight.dtype)
    rtol = 4 * torch.finfo(weight.dtype).eps
    weight = weight.detach()
    # Most strangers differ in the first row already.
    return torch.allclose(weight[:1], expected[:1], rtol, 1e-12) and torch.allclose(weight, expected, rtol, 1e-12)


def integers_by_module(model: Any, quantized: Mapping[str, AnyTensorT]) -> dict[str, AnyTensorT]:
    """Quantized tensors by the names that their layers have in a model.

    Args:
        model: Loaded by transformers from the state dict of `load_compressed`.
        quantized: The tensors of `load_compressed`, by their names on disk.

    Raises:
        CheckpointError: A tensor is no linear layer's weight and no embedding's (the model merges it with others, or
            lacks it).
    """
    tied = tied_layers(model)
    free = {name: weight_of(layer) for name, layer in linear_layers(model).items() if name not in tied}
    free |= {name: weight_of(model.get_submodule(name)) for name in embedding_tables(model)}
    found: dict[str, str] = {}
    for stored, tensor in quantized.items():
        if stored in free and agrees(free[stored], tensor):
            found[stored] = stored
            del free[stored]
    lost: list[str] = []
    for stored, tensor in quantized.items():
        if stored in found:
            continue
        name = next((name for name, weight in free.items() if agrees(weight, tensor)), None)
        if name is None:
            lost.append(stored)
        else:
            found[stored] = name
            del free[name]
    if lost:
        raise CheckpointError(
            f"{type(model).__name__} has no linear layer or embedding with these quantized weights: {', '.join(lost)}",
            hint="transformers merges or renames them; keep such layers in float",
        )
    return {found[stored]: tensor for stored, tensor in quantized.items()}
