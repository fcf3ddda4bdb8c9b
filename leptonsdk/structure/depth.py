"""Drop whole blocks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization.layers import linear_layers
from leptonsdk.quantization.library_layers import refuse_library_layers
from leptonsdk.structure.configs import fit_depth
from leptonsdk.structure.units import check_keep

# What blocks call their own place, by which they find their part of the key-value cache.
_PLACES = ("layer_idx", "layer_index", "layer_id", "layer_number")


def drop_layers(model: Any, keep: Sequence[int], part: str | None = None) -> None:
    """Keep some blocks of the deepest stack of blocks, in place; where several stacks are as deep, of each of them.

    The blocks are numbered anew, and the config says how many are left.

    Args:
        model: In memory.
        keep: Indices of the blocks that stay, at least one.
        part: Look in modules of this name only: ``encoder`` or ``decoder`` of a model that has both.

    Raises:
        UsageError: There is no stack, ``keep`` is empty or out of range, a block to drop holds something that no other
            has and all use (T5's first block the position biases), or the config cannot say how many blocks are left. The
            model is then as it was.
    """
    refuse_library_layers(model)
    stacks = deepest_stacks(model, part)
    depth = len(next(iter(stacks.values()), ()))
    if depth < 2:
        raise UsageError("it has no stack of blocks", where=type(model).__name__)
    kept = check_keep(keep, depth, "blocks", ", ".join(stacks))
    for name, stack in stacks.items():
        _check_parts(name, stack, kept)
    for name, stack in stacks.items():
        _put(model, name, [stack[i] for i in kept])
        for new, old in enumerate(kept):
            _renumber(stack[old], old, new)
    if len(kept) < depth and not fit_depth(model, depth, kept):
        for name, stack in stacks.items():
            _put(model, name, list(stack))
            for new, old in enumerate(kept):
                _renumber(stack[old], new, old)
        raise UsageError(f"its config cannot say that {len(kept)} of {depth} blocks are left", where=", ".join(stacks))


def _put(model: nn.Module, name: str, blocks: Sequence[nn.Module]) -> None:
    mode = model.get_submodule(name).training
    stack = nn.ModuleList(blocks)
    stack.training = mode
    model.set_submodule(name, stack)


def _renumber(block: nn.Module, old: int, new: int) -> None:
    for module in block.modules():
        for place in _PLACES:
            if vars(module).get(place) == old:
                setattr(module, place, new)


def deepest_stacks(model: nn.Module, part: str | None = None) -> dict[str, nn.ModuleList]:
    """The longest lists of modules, by name, that are not inside another and whose members all have linear layers.

    Args:
        model: Of any kind.
        part: Look in modules of this name only.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        meant = part is None or part in name.split(".")
        if isinstance(module, nn.ModuleList) and meant and not inside and all(map(linear_layers, module)):
            found[name] = module
    depth = max(map(len, found.values()), default=0)
    return {name: stack for name, stack in found.items() if len(stack) == depth}


def _check_parts(name: str, stack: nn.ModuleList, keep: Sequence[int]) -> None:
    left = {key for i in keep for key in stack[i].state_dict()}
    for i, block in enumerate(stack):
        if i not in keep and (lost := sorted(block.state_dict().keys() - left)):
            raise UsageError(
                f"block {i} holds {', '.join(lost[:3])}, which no block that stays has", where=name, hint=f"keep {i}"
            )
