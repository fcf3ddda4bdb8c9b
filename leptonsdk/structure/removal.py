"""Cut heads and neurons out of a model, so that its weights are smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization.layers import is_conv1d
from leptonsdk.quantization.library_layers import refuse_library_layers
from leptonsdk.structure.units import Attention, FeedForward, check_keep

# What transformers' attentions call the numbers that their forward reads. Each is set only where it had the old number.
QUERY_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "num_q_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
WIDTHS = ("all_head_size", "inner_dim", "embed_dim")


def remove_heads(model: nn.Module, attention: Attention, keep: Sequence[int]) -> Attention:
    """Remove all groups of an attention but some, in place.

    Args:
        model: In memory, in floats.
        attention: From `find_units`.
        keep: Indices of the groups that stay, at least one.

    Returns:
        What the attention is now.

    Raises:
        UsageError: ``keep`` is empty or out of range, or the attention is not (or no longer) as described.
    """
    refuse_library_layers(model)
    kept = check_keep(keep, attention.groups, "groups of heads", attention.name)
    _check(model, attention.query, 0, attention.heads * attention.query_size)
    _check(model, attention.key, 0, attention.groups * attention.query_size)
    _check(model, attention.value, 0, attention.groups * attention.value_size)
    _check(model, attention.output, 1, attention.heads * attention.value_size)
    share = attention.heads // attention.groups
    heads = [group * share + i for group in kept for i in range(share)]
    select(model.get_submodule(attention.query), 0, _units(heads, attention.query_size))
    select(model.get_submodule(attention.key), 0, _units(kept, attention.query_size))
    select(model.get_submodule(attention.value), 0, _units(kept, attention.value_size))
    select(model.get_submodule(attention.output), 1, _units(heads, attention.value_size))
    smaller = dataclasses.replace(attention, heads=len(heads), groups=len(kept))
    for module in owners(model, attention):
        _renumber(module, QUERY_HEADS, attention.heads, smaller.heads)
        _renumber(module, KEY_HEADS, attention.groups, smaller.groups)
        size = attention.value_size
        _renumber(module, WIDTHS, attention.heads * size, smaller.heads * size)
    return smaller


def remove_neurons(model: nn.Module, ffn: FeedForward, keep: Sequence[int]) -> FeedForward:
    """Remove all neurons of a feed-forward network but some, in place. Arguments and errors as of `remove_heads`."""
    refuse_library_layers(model)
    kept = check_keep(keep, ffn.neurons, "neurons", ffn.name)
    for name in ffn.up:
        _check(model, name, 0, ffn.neurons)
    _check(model, ffn.down, 1, ffn.neurons)
    for name in ffn.up:
        select(model.get_submodule(name), 0, torch.tensor(kept))
    select(model.get_submodule(ffn.down), 1, torch.tensor(kept))
    return dataclasses.replace(ffn, neurons=len(kept))


@runtime_checkable
class Follows(Protocol):
    """A module inside a linear layer that has something for each output or input, such as scales, and is cut with it."""

    def select(self, axis: int, indices: Tensor) -> None:
        """As the function `select`."""


def select(layer: nn.Module, axis: int, indices: Tensor) -> None:
    """Keep some outputs (axis 0: rows of the weight ``[out, in]``, and the bias) or inputs (axis 1) of a linear layer."""
    stored = 1 - axis if is_conv1d(layer) else axis
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if name == "bias" and axis == 1:
            continue
        dim = stored if name == "weight" else 0
        data = parameter.detach().index_select(dim, indices.to(parameter.device)).contiguous()
        setattr(layer, name, nn.Parameter(data, requires_grad=parameter.requires_grad))
    attribute = (("nf", "nx") if is_conv1d(layer) else ("out_features", "in_features"))[axis]
    setattr(layer, attribute, len(indices))
    for module in layer.modules():
        if isinstance(module, Follows):
            module.select(axis, indices)


def owners(model: nn.Module, attention: Attention) -> Iterator[nn.Module]:
    """The modules that hold an attention's layers, from each layer's parent up to the one that holds all."""
    names = set()
    for layer in attention.layers:
        parent = layer.rpartition(".")[0]
        while parent != attention.name:
            names.add(parent)
            parent = parent.rpartition(".")[0]
    for name in sorted({*names, attention.name}):
        yield model.get_submodule(name)


def _units(blocks: Sequence[int], size: int) -> Tensor:
    """The indices of the units in blocks of equal size."""
    return (torch.tensor(blocks)[:, None] * size + torch.arange(size)).flatten()


def _renumber(module: nn.Module, names: Sequence[str], old: int, new: int) -> None:
    for name in names:
        if vars(module).get(name) == old:
            setattr(module, name, new)


def _check(model: nn.Module, name: str, axis: int, expected: int) -> None:
    layer = model.get_submodule(name)
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise UsageError("it has no weight", where=name)
    found = weight.shape[1 - axis if is_conv1d(layer) else axis]
    if found != expected:
        raise UsageError(
            f"its weight has {found} {('rows', 'columns')[axis]}, not {expected}",
            where=name,
            hint="use the description that the last removal returned",
        )
