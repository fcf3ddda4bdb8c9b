"""A model with fewer rows in its embeddings and its output layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.vocabulary.ids import renumber_configs

_NO_TOKENS = ("position", "token_type", "segment")  # tables whose size may be the vocabulary's by chance
_LOGITS_BIAS = "final_logits_bias"  # BART's and Marian's, a buffer [1, vocabulary]


def check_rows(model: Any) -> int:
    """The number of rows in the model's word embeddings.

    Raises:
        UsageError: There are none, or other tables of the vocabulary beside them, which are not known.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise UsageError("the model has no word embeddings", where=type(model).__name__)
    tensors = _vocabulary_tensors(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or any(word in name for word in _NO_TOKENS):
            continue
        if module.num_embeddings == embedding.num_embeddings and id(module.weight) not in tensors:
            raise UsageError(f"'{name}' is another table of the vocabulary", where=type(model).__name__)
    return int(embedding.num_embeddings)


def trim_model(model: Any, rows: Sequence[int]) -> Any:
    """A copy of the model whose token ``i`` is the source's token ``rows[i]``, configs included.

    Raises:
        UsageError: Positions count from the padding token's id (RoBERTa), and that changes.
    """
    size = check_rows(model)
    ids = {row: number for number, row in enumerate(rows)}
    smaller = copy.deepcopy(model)
    index = torch.tensor(rows, device=smaller.get_input_embeddings().weight.device)
    tensors = _vocabulary_tensors(smaller)
    new = {key: _selected(tensor, index, axis) for key, (tensor, axis) in tensors.items()}
    for name, module in smaller.named_modules():
        own = [*module._parameters.items(), *module._buffers.items()]
        found = {key: new[id(tensor)] for key, tensor in own if tensor is not None and id(tensor) in new}
        for key, tensor in found.items():
            (module._parameters if key in module._parameters else module._buffers)[key] = tensor
        padding = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) and not found:
            if padding is not None and ids.get(padding, padding) != padding:
                raise UsageError(
                    "its positions count from the padding token's id, which would change", where=f"module '{name}'"
                )
        elif isinstance(padding, int):
            module.padding_idx = ids.get(padding, padding)
        if found and isinstance(module, nn.Embedding):
            module.num_embeddings = len(rows)
        if found and isinstance(module, nn.Linear):
            module.out_features = len(rows)
        if getattr(module, "vocab_size", None) == size:
            module.vocab_size = len(rows)
    renumber_configs(smaller, ids, size)
    return smaller


def _vocabulary_tensors(model: Any) -> dict[int, tuple[torch.Tensor, int]]:
    """Tensors with an entry for each token and the axis that tokens are along, by identity: shared ones stand here once."""
    found: dict[int, tuple[torch.Tensor, int]] = {}
    parts = (model, model.get_encoder(), model.get_decoder()) if model.config.is_encoder_decoder else (model,)
    for part in parts:
        embedding = part.get_input_embeddings()
        if isinstance(embedding, nn.Embedding):
            found[id(embedding.weight)] = (embedding.weight, 0)
    output = model.get_output_embeddings()
    for tensor in (getattr(output, "weight", None), getattr(output, "bias", None)):
        if tensor is not None:
            found[id(tensor)] = (tensor, 0)
    for name, buffer in model.named_buffers():
        if name.endswith(_LOGITS_BIAS):
            found[id(buffer)] = (buffer, 1)
    return found


def _selected(tensor: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    chosen = tensor.detach().index_select(axis, index)
    return nn.Parameter(chosen, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else chosen
