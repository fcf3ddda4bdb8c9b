"""Masks over a weight: scores, which of them are kept, and how a score's mask spreads over the weight.

Movement pruning (arXiv 2005.07683) learns scores: the weight is multiplied by a mask of the highest ones, and the gradient goes
through the mask as if it were the scores (straight-through), so that a score falls where the weight moves to nought. Over blocks
(arXiv 2109.04838), rows, heads or neurons one score stands for all of their weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.training import whole

_SAMPLE = 65_536  # scores that tell a threshold well enough while it is still moving


class _Kept(torch.autograd.Function):
    """1 where a score is at least the threshold; its gradient is the scores'."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: Tensor) -> Tensor:
        return (scores >= threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _KeptWeights(torch.autograd.Function):
    """`_Kept` times the weight, where each weight has a score of its own: one pass over both, and no mask in memory."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, threshold)
        return torch.where(scores >= threshold, weight, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, scores, threshold = ctx.saved_tensors
        gradient = gradients[0]
        weights = torch.where(scores >= threshold, gradient, 0) if ctx.needs_input_grad[0] else None
        return weights, gradient * weight if ctx.needs_input_grad[1] else None, None


class Mask(nn.Module):
    """Multiplies a weight ``[out, in]`` with the mask of its scores.

    Args:
        shape: Of the weight.
        cells: ``(rows, columns)`` of the weight that share a score.
        learnt: Scores are learnt (movement), from nought on; else they are the mean size of the cell's weights.
        transposed: The weight is stored ``[in, out]`` (Conv1D).
    """

    def __init__(self, shape: tuple[int, int], cells: tuple[int, int], *, learnt: bool, transposed: bool) -> None:
        super().__init__()
        self._cells, self._transposed = cells, transposed
        counts = (shape[0] // cells[0], shape[1] // cells[1])
        if learnt:
            self.scores = nn.Parameter(torch.zeros(counts))
        self.learnt, self.counts = learnt, counts
        self.register_buffer("threshold", torch.tensor(float("-inf")))
        self.register_buffer("kept", torch.ones(counts))
        self.register_buffer("frozen", torch.tensor(False))

    threshold: Tensor
    kept: Tensor
    frozen: Tensor

    def current(self, weight: Tensor) -> Tensor:
        """The scores ``[rows, columns]`` of cells."""
        return whole(self.scores.detach()) if self.learnt else self.size(weight)

    def size(self, weight: Tensor) -> Tensor:
        """The mean size of each cell's weights ``[rows, columns]``."""
        weight = whole(weight.detach())
        weight = (weight.t() if self._transposed else weight).abs()
        if self._cells == (1, 1):
            return weight
        rows, columns = self.counts
        return weight.reshape(rows, self._cells[0], columns, self._cells[1]).mean((1, 3))

    def mask(self) -> Tensor:
        """1 and 0 ``[rows, columns]`` of cells; its gradient is the scores'."""
        if not self.learnt or bool(self.frozen):
            return self.kept
        mask: Tensor = _Kept.apply(whole(self.scores), self.threshold)  # type: ignore[no-untyped-call]
        return mask

    def forward(self, weight: Tensor) -> Tensor:
        if self.learnt and self._cells == (1, 1) and not bool(self.frozen):
            scores = self.scores.t() if self._transposed else self.scores
            masked: Tensor = _KeptWeights.apply(weight, scores, self.threshold)  # type: ignore[no-untyped-call]
            return masked
        mask = self.mask()
        for dimension, size in enumerate(self._cells):
            if size > 1:
                mask = mask.repeat_interleave(size, dimension)
        return weight * (mask.t() if self._transposed else mask).to(weight.dtype)

    def cut(self, scores: Tensor, threshold: Tensor) -> None:
        """Keep what has this score at least; the scores are `current`."""
        self.threshold.copy_(threshold)
        if not self.learnt:
            self.kept.copy_(scores >= threshold)

    def freeze(self) -> None:
        """The mask stays as it is now: scores learn no more."""
        self.kept.copy_(self.mask())
        self.frozen.fill_(True)

    @property
    def sparsity(self) -> float:
        """Share of the cells that are masked."""
        with torch.no_grad():
            return 1 - float(self.mask().mean())


def threshold_for(scores: Tensor, share: float, *, exact: bool = True) -> Tensor:
    """The score from which on cells are kept, so that this share of them is not.

    Args:
        scores: Of any shape.
        share: To be masked; 0 gives minus infinity, so that not even equal scores go.
        exact: Else found from some ten thousand of them.
    """
    scores = scores.flatten()
    if not exact and len(scores) > 2 * _SAMPLE:
        scores = scores[:: len(scores) // _SAMPLE]
    masked = round(share * len(scores))
    if not masked:
        return scores.new_tensor(float("-inf"))
    return scores.kthvalue(min(masked + 1, len(scores))).values
