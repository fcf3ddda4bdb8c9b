"""Which units of a layer reach which columns of a later layer's input: probes with gradients.

The outputs of a unit's layers are replaced by random numbers, so that no probe depends on weights or data: softmax does not
saturate, and the activation functions have a slope. The gradient of some columns is then zero exactly for the units that
have no part in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.structure.tracing import first_tensor, fresh, hooked
from leptonsdk.structure.units import Attention, FeedForward, common_parent


@dataclass
class Probe:
    """The numbers put in place of some layers' outputs, and what a later layer read in turn.

    Attributes:
        leaves: By layer, one tensor ``[..., units]`` for each of its calls.
        columns: The later layer's input ``[..., columns]``.
    """

    leaves: dict[str, list[Tensor]]
    columns: Tensor

    def units(self, cotangent: Tensor) -> dict[str, Tensor]:
        """By layer, which of its units ``[units]`` (bool) the columns depend on, weighted with a cotangent."""
        gradients = self._gradients(cotangent)
        return {
            name: torch.stack([(g != 0).flatten(0, -2).any(0) for g in found]).any(0)
            for name, found in gradients.items()
        }

    def rows(self, cotangent: Tensor) -> dict[str, int]:
        """By layer, at how many positions the columns depend on the output of its first call.

        DeBERTa projects the embeddings of its relative positions with the same layers, after the hidden states.
        """
        return {name: int((found[0] != 0).any(-1).sum()) for name, found in self._gradients(cotangent).items()}

    def _gradients(self, cotangent: Tensor) -> dict[str, list[Tensor]]:
        flat = [leaf for leaves in self.leaves.values() for leaf in leaves]
        found = iter(torch.autograd.grad(self.columns, flat, cotangent, retain_graph=True, allow_unused=True))
        return {
            name: [torch.zeros_like(leaf) if (g := next(found)) is None else g for leaf in leaves]
            for name, leaves in self.leaves.items()
        }

    def mark(self, chosen: Tensor, generator: torch.Generator, last_row: bool = False) -> Tensor:
        """A cotangent that is random in chosen columns ``[columns]`` (bool), at all positions or the last, and zero elsewhere."""
        weights = torch.rand(self.columns.shape, generator=generator).to(self.columns) + 0.5
        weights = weights * chosen.to(self.columns)
        if last_row:
            weights[..., :-1, :] = 0
        return weights


def probe(
    parent: nn.Module,
    arguments: tuple[Any, Any],
    layers: Mapping[str, nn.Module],
    last: nn.Module,
    generator: torch.Generator,
    positive: bool,
) -> Probe:
    """Run a module on captured arguments with random numbers in place of some layers' outputs.

    Args:
        parent: Holds all the layers.
        arguments: Positional ones and those by name.
        layers: Whose outputs are replaced.
        last: Whose input is kept, that of its first call.
        generator: Of the random numbers.
        positive: Draw from [0.5, 1.5], where activation functions have a slope, instead of a normal distribution.
    """
    leaves: dict[str, list[Tensor]] = {name: [] for name in layers}
    columns: list[Tensor] = []

    def replace(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if positive:
                drawn = torch.rand(output.shape, generator=generator) + 0.5
            else:
                drawn = torch.randn(output.shape, generator=generator)
            leaf = drawn.to(output).requires_grad_()
            leaves[name].append(leaf)
            return leaf.clone()

        return hook

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        columns.append(first_tensor(args, kwargs))

    handles: list[Any] = [module.register_forward_hook(replace(name)) for name, module in layers.items()]
    handles.append(last.register_forward_pre_hook(keep, with_kwargs=True))
    args, kwargs = fresh(arguments)
    with hooked(handles), torch.enable_grad():
        parent(*args, **kwargs)
    return Probe(leaves, columns[0])


def describe_feed_forward(found: Probe, up: tuple[str, ...], down: str) -> FeedForward | None:
    """The feed-forward network that a probe shows; None where the map from up to down is not elementwise."""
    generator = torch.Generator().manual_seed(1)
    width = found.columns.shape[-1]
    single = torch.randint(width, (2,), generator=generator).tolist()
    sets = [_one(width, column) for column in (0, width - 1, *single)]
    for _ in range(2):
        half = torch.rand(width, generator=generator) < 0.5
        sets += [half, ~half]
    for chosen in sets:
        reached = found.units(found.mark(chosen, generator))
        if not all(torch.equal(units.cpu(), chosen) for units in reached.values()):
            return None
    return FeedForward(common_parent((*up, down)), up, down, width)


def describe_attention(found: Probe, output: str) -> Attention | None:
    """The attention that a probe shows; None where heads are not blocks of neighbouring units, in the order of their groups."""
    generator = torch.Generator().manual_seed(1)
    width = found.columns.shape[-1]
    first = found.mark(_one(width, 0), generator)
    reached = {name: units.cpu() for name, units in found.units(first).items()}
    last_row = found.mark(_one(width, 0), generator, last_row=True)
    rows = found.rows(last_row)
    asked = int((last_row != 0).sum())
    # Only a value reaches one column alone; a query has a part in its own position, a key in those that attend to it.
    values = [name for name, units in reached.items() if int(units.sum()) == 1]
    others = [name for name in reached if name not in values]
    queries = [name for name in others if rows[name] <= asked]
    keys = [name for name in others if rows[name] > asked]
    if (len(queries), len(keys), len(values)) != (1, 1, 1):
        return None
    query, key, value = queries[0], keys[0], values[0]
    widths = {name: len(units) for name, units in reached.items()}
    size = int(reached[query].sum())
    if widths[query] % size or widths[key] % size:
        return None
    heads, groups = widths[query] // size, widths[key] // size
    if heads % groups or widths[value] % groups or width != heads * (widths[value] // groups):
        return None
    names = (query, key, value, output)
    attention = Attention(common_parent(names), *names, heads, groups, size, widths[value] // groups)
    return attention if _holds(found, attention, generator) else None


def _holds(found: Probe, attention: Attention, generator: torch.Generator) -> bool:
    """Whether every head's columns come from its own query, and from its group's key and value, and from nothing else."""
    share, size = attention.heads // attention.groups, attention.value_size
    offsets = torch.randint(size, (attention.heads,), generator=generator).tolist()
    sets = [_one(found.columns.shape[-1], head * size + offset) for head, offset in enumerate(offsets)]
    sets.append(torch.rand(found.columns.shape[-1], generator=generator) < 0.5)
    for chosen in sets:
        reached = {name: units.cpu() for name, units in found.units(found.mark(chosen, generator)).items()}
        by_head = chosen.reshape(attention.heads, size)
        by_group = by_head.reshape(attention.groups, share, size).any(1)
        expected = {
            attention.query: by_head.any(1).repeat_interleave(attention.query_size),
            attention.key: by_group.any(1).repeat_interleave(attention.query_size),
            attention.value: by_group.flatten(),
        }
        if not all(torch.equal(reached[name], units) for name, units in expected.items()):
            return False
    return True


def _one(width: int, column: int) -> Tensor:
    chosen = torch.zeros(width, dtype=torch.bool)
    chosen[column] = True
    return chosen
