"""Narrower students: each attention with fewer heads, each feed-forward network with fewer neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization import weight_of
from leptonsdk.structure import (
    Attention,
    FeedForward,
    deepest_stacks,
    find_units,
    fit_config,
    remove_heads,
    remove_neurons,
    sample_inputs,
)

_WHERE = "make_student"


def narrow(model: Any, heads: int | None, intermediate_size: int | None) -> None:
    """Keep so many heads of each attention and neurons of each feed-forward network, in place; their weights stay as they are.

    Those stay that can add most to the hidden states, by the size of their weights: see `head_sizes` and `neuron_sizes`.

    Raises:
        UsageError: There are not so many, heads that share a key-value head would be parted, or a block shows none.
    """
    attentions, ffns = find_units(model, sample_inputs(model))
    if heads is not None:
        _check_every_block(model, attentions, "heads")
        kept = [_kept_groups(attention, heads) for attention in attentions]
        for attention, count in zip(attentions, kept, strict=True):
            remove_heads(model, attention, largest(head_sizes(model, attention), count))
    if intermediate_size is not None:
        _check_every_block(model, ffns, "feed-forward neurons")
        for ffn in ffns:
            if not 1 <= intermediate_size <= ffn.neurons:
                raise UsageError(f"{intermediate_size} of {ffn.neurons} neurons cannot be kept", where=ffn.name)
        for ffn in ffns:
            remove_neurons(model, ffn, largest(neuron_sizes(model, ffn), intermediate_size))
    fit_config(model)


def head_sizes(model: nn.Module, attention: Attention) -> Tensor:
    """``[groups]``: the norm of a group's value rows times that of its output columns.

    What a head adds is a mean of values, put through its output columns: this bounds it, and queries and keys do not change it.
    """
    value, output = _weight(model, attention.value), _weight(model, attention.output)
    rows = value.reshape(attention.groups, -1).norm(dim=1)
    columns = output.t().reshape(attention.groups, -1).norm(dim=1)
    sizes: Tensor = rows * columns
    return sizes


def neuron_sizes(model: nn.Module, ffn: FeedForward) -> Tensor:
    """``[neurons]``: the norms of a neuron's rows (up, and gate) and of its column down, multiplied.

    A product, since a factor may stand in any of them: behind a ReLU or a gate it makes no difference in which.
    """
    sizes: Tensor = _weight(model, ffn.down).norm(dim=0)
    for name in ffn.up:
        sizes = sizes * _weight(model, name).norm(dim=1)
    return sizes


def largest(sizes: Tensor, count: int) -> list[int]:
    """The indices of so many of the largest, in increasing order; of equals the first."""
    return sorted(torch.argsort(sizes, descending=True, stable=True)[:count].tolist())


def _weight(model: nn.Module, name: str) -> Tensor:
    """``[out, in]``, in float32."""
    return weight_of(model.get_submodule(name)).detach().float()


def _kept_groups(attention: Attention, heads: int) -> int:
    share = attention.heads // attention.groups
    if not 1 <= heads <= attention.heads:
        raise UsageError(f"{heads} of {attention.heads} heads cannot be kept", where=attention.name)
    if heads % share:
        raise UsageError(
            f"{heads} of {attention.heads} heads cannot be kept: {share} query heads share each key-value head",
            where=attention.name,
            hint=f"give a multiple of {share}",
        )
    return heads // share


def _check_every_block(model: nn.Module, units: Sequence[Attention | FeedForward], what: str) -> None:
    """A student whose blocks differ would not be what was asked for (T5's self-attentions share biases, and none may go)."""
    for name, stack in deepest_stacks(model).items():
        for i in range(len(stack)):
            if not any(unit.layers[0].startswith(f"{name}.{i}.") for unit in units):
                raise UsageError(f"block {i} shows no {what} that could be removed", where=name)
    if not units:
        raise UsageError(f"{type(model).__name__} shows no {what} that could be removed", where=_WHERE)
