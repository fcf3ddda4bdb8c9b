"""Blocks that can be skipped: dropping them is the same as passing their input on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.structure.depth import deepest_stacks, drop_layers
from leptonsdk.structure.tracing import hooked, steady
from leptonsdk.structure.trials import CANNOT_RUN, outputs_of, same_outputs


def state_before(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states ``[batch, …, hidden]`` that a block was given."""
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def state_after(output: Any) -> Tensor:
    """The hidden states that a block gives, be it them alone or them and more."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


def with_state(output: Any, state: Tensor) -> Any:
    """A block's output with other hidden states in it."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def skippable_layers(model: Any, inputs: Mapping[str, Any], part: str | None = None) -> tuple[nn.ModuleList, list[int]]:
    """The deepest stack of blocks, and the indices of those that can be dropped.

    Every second block is dropped on trial from a copy that shares the weights, then every other: the rest must compute as the
    whole model does when those blocks pass their input on. Where it does not, each block is tried by itself. So
    a first block that holds or does something for all others (T5's position biases) is left out, and a model whose
    config cannot say how many blocks are left is refused before anything is trained.

    Args:
        model: In floats; left as it was.
        inputs: Of its forward, one small batch.
        part: Look in modules of this name only: ``encoder`` or ``decoder`` of a model that has both.

    Raises:
        UsageError: There is no stack of blocks or more than one, or none of its blocks can be dropped.
    """
    stacks = deepest_stacks(model, part)
    depth = len(next(iter(stacks.values()), ()))
    if depth < 2 or len(stacks) > 1:
        found = f"several stacks of blocks: {', '.join(stacks)}" if depth > 1 else "no stack of blocks"
        raise UsageError(f"it has {found}", where=part or type(model).__name__)
    ((name, stack),) = stacks.items()
    skippable: list[int] = []
    with steady(model):

        def problem(drop: Sequence[int]) -> UsageError | None:
            return _problem(model, stack, drop, part, inputs)

        for half in (range(0, depth, 2), range(1, depth, 2)):
            whole = problem(half) is None
            skippable += half if whole else [i for i in half if problem([i]) is None]
        if not skippable:
            raise problem([depth - 1]) or UsageError("none of its blocks can be dropped", where=name)
    return stack, sorted(skippable)


def _problem(
    model: Any, stack: nn.ModuleList, drop: Sequence[int], part: str | None, inputs: Mapping[str, Any]
) -> UsageError | None:
    """Why a model without some blocks is not the model that skips them; None where it is."""
    smaller = copy.deepcopy(model, {id(x): x for x in chain(model.parameters(), model.buffers())})
    try:
        drop_layers(smaller, [i for i in range(len(stack)) if i not in drop], part)
    except UsageError as error:
        return error
    with hooked([stack[i].register_forward_hook(_skip, with_kwargs=True) for i in drop]):
        skipped = outputs_of(model, inputs)
    try:
        if same_outputs(outputs_of(smaller, inputs), skipped):
            return None
    except CANNOT_RUN:
        pass
    return UsageError("the model without them is not the model that skips them", where=f"blocks {list(drop)}")


def _skip(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return with_state(output, state_before(args, kwargs))
