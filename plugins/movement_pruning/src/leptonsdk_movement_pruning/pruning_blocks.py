"""Gates at a model's blocks: where a gate is shut, the block passes its input on; it is dropped in the end.

``x`` goes into a block and ``block(x)`` comes out: with its gate it is ``x + g (block(x) - x)``, ``g`` being 1 or 0. Shut, it is
the identity, whether the block norms before its branches or after them (BERT, whose blocks would still norm were their output
layers nought). The score's gradient goes through ``g`` (straight-through, arXiv 2005.07683): a score falls where
the loss would, were there less of what the block adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.structure import drop_layers, sample_inputs, skippable_layers, state_after, state_before, with_state
from leptonsdk.training import reaching, whole
from leptonsdk_movement_pruning.masks import Mask, threshold_for

_NAME = "pruning_gate"


class Stack:
    """Gates at those blocks of a stack that can be dropped.

    Args:
        model: Gets the gates, as modules of its blocks.
        part: ``encoder`` or ``decoder`` of a model that has both.
        share: Of its blocks, to be dropped in the end.

    Raises:
        UsageError: There is no stack, or none of its blocks can be dropped.
    """

    def __init__(self, model: Any, part: str | None, share: float) -> None:
        self._part = part
        blocks, chosen = skippable_layers(model, sample_inputs(model), part)
        self.depth, self.most = len(blocks), min(round(share * len(blocks)), len(chosen), len(blocks) - 1)
        self._gated = {i: blocks[i] for i in chosen}
        self.gates = {i: _attach(block) for i, block in self._gated.items()}
        # First, so that hidden states that others record are those that go on. The hook finds the gate by the block: a copy its own.
        self._hooks = [
            block.register_forward_hook(_apply, with_kwargs=True, prepend=True) for block in self._gated.values()
        ]

    def cut(self, share: float, freeze: bool) -> None:
        """Shut the gates of the lowest scores, so that this share of the stack is skipped, and one block is left."""
        shut = min(round(share * self.depth), self.most)
        scores = torch.cat([whole(gate.scores.detach()).flatten() for gate in self.gates.values()])
        threshold = (
            scores.new_tensor(float("inf")) if shut == len(scores) else threshold_for(scores, shut / len(scores))
        )
        for gate in self.gates.values():
            gate.cut(gate.scores, threshold)
            if freeze:
                gate.freeze()

    @property
    def shut(self) -> list[int]:
        """Indices of the blocks that are skipped."""
        return [i for i, gate in self.gates.items() if gate.sparsity]

    def finish(self, model: Any) -> None:
        """Take the gates away and drop what is skipped."""
        shut = self.shut
        for hook in self._hooks:
            hook.remove()
        for block in self._gated.values():
            delattr(block, _NAME)
        if shut:
            drop_layers(model, [i for i in range(self.depth) if i not in shut], self._part)


class Blocks:
    """The gates of a model: each stack of an encoder-decoder loses its share."""

    def __init__(self, model: Any, share: float) -> None:
        parts = ("encoder", "decoder") if getattr(model.config, "is_encoder_decoder", False) else (None,)
        self.stacks = [Stack(model, part, share) for part in parts]
        if share and not any(stack.most for stack in self.stacks):
            depths = " and ".join(str(stack.depth) for stack in self.stacks)
            raise UsageError(f"a share of {share:g} of {depths} blocks is none", hint="a larger final_sparsity")

    def scores(self) -> list[nn.Parameter]:
        return [gate.scores for stack in self.stacks for gate in stack.gates.values()]

    def cut(self, share: float, freeze: bool) -> None:
        for stack in self.stacks:
            if not any(bool(gate.frozen) for gate in stack.gates.values()):
                stack.cut(share, freeze)

    def sparsity(self) -> float:
        """Share of all blocks that is skipped."""
        return sum(len(stack.shut) for stack in self.stacks) / sum(stack.depth for stack in self.stacks)

    def finish(self, model: Any) -> None:
        for stack in self.stacks:
            stack.finish(model)


def _attach(block: nn.Module) -> Mask:
    device = next(block.parameters()).device
    gate = Mask((1, 1), (1, 1), learnt=True, transposed=False).to(device)
    block.add_module(_NAME, gate)
    return gate


def _apply(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    gate: Mask = block.get_submodule(_NAME)  # type: ignore[assignment]
    after = state_after(output)
    # lerp gives either end exactly.
    open_ = reaching(gate.mask(), gate).reshape(()).to(after.dtype)
    return with_state(output, torch.lerp(state_before(args, kwargs).to(after.dtype), after, open_))
