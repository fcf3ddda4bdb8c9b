"""GPTQ (arXiv 2210.17323) for one weight: pure functions of tensors.

A layer with weight ``W [out, in]`` and calibration inputs ``X [positions, in]`` loses ``|X (W - Q)^T|^2``, that is
``tr((W - Q) H (W - Q)^T)`` with ``H = X^T X`` per position. Columns are rounded one after the other, and what a column loses
is made good by those that are still to come, in the best way there is: ``U``, the upper Cholesky factor of ``H^-1``, holds it.

Beyond the paper:

- Scales come first for all groups (static groups), by a search for the least error weighted with H's diagonal; then columns go
  in the order of their activations' size, so that those with the most to lose have the most others to make it good.
- Where earlier layers are quantized, the layer sees other inputs than in the source model. Its target is then the weight that
  gives the source's outputs from these inputs, ``W + W (X_source - X)^T X H^-1`` (arXiv 2504.02692 and 2505.11695), or a part of
  the way there, since a few thousand positions tell this correction less surely than they tell H.
- Weights that are exactly zero stay zero.
- A row on which round-to-nearest would have done better takes round-to-nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor, Scheme, quantize, round_to_nearest, search_scales_by

_BLOCK = 64  # columns whose updates stay in the processor's cache
_MAX_DAMPING = 1e4
_DRIFT_DAMPING = 0.03  # the drift is less sure than the Hessian; measured on SmolLM2: 0.01, 0.1 and 0.3 do worse


@dataclass(frozen=True)
class Solution:
    """A quantized weight, and what it loses per row (float64 ``[out]``), beside what round-to-nearest would have lost.

    Both are measured against the target, which is the weight itself where no drift is corrected.
    """

    tensor: QuantizedTensor
    error: Tensor
    nearest_error: Tensor


def solve(
    weight: Tensor,
    hessian: Tensor,
    scheme: Scheme,
    *,
    drift: Tensor | None = None,
    correction: float = 0.5,
    damping: float = 0.01,
    activation_order: bool = True,
    scale_dtype: torch.dtype | None = None,
) -> Solution:
    """Quantize a weight against its layer's inputs.

    Args:
        weight: ``[out, in]``, finite.
        hessian: ``X^T X`` per position, ``[in, in]``, float32 or float64. Computation is in its dtype.
        scheme: What to quantize to.
        drift: ``(X_source - X)^T X`` per position, ``[in, in]``; None: no correction.
        correction: How much of the way to the corrected target to go, 0 to 1.
        damping: Added to the Hessian's diagonal, as a share of its mean. Where that is not enough for a Cholesky
            factor, ten times as much is tried, and so on.
        activation_order: Largest activations first.
        scale_dtype: Of the scales; default: the weight's.

    Raises:
        UsageError: The weight or the Hessian is not finite, or shapes do not belong together.
    """
    if hessian.shape != (weight.shape[1], weight.shape[1]):
        raise UsageError(f"the Hessian must be {[weight.shape[1]] * 2}, not {list(hessian.shape)}")
    if not bool(torch.isfinite(hessian).all()):
        raise UsageError("its calibration inputs are not finite", hint="calibrate in float32 or bfloat16")
    scale_dtype = scale_dtype or weight.dtype
    kept = weight.detach() == 0
    work = weight.detach().to(hessian.dtype)
    diagonal = hessian.diagonal()
    if not bool((diagonal > 0).any()):  # no input ever: any rounding is as good
        zeros = torch.zeros(weight.shape[0], dtype=torch.float64, device=weight.device)
        return Solution(round_to_nearest(weight, scheme, scale_dtype=scale_dtype), zeros, zeros)
    damped, _ = factorize(hessian, damping)
    target = work
    if drift is not None and correction:
        _, steady = factorize(hessian, max(damping, _DRIFT_DAMPING))
        moved = torch.cholesky_solve((work @ drift.to(work.dtype)).t(), steady).t()
        target = (work + correction * moved).masked_fill(kept, 0)
    (scale, zero_point), plain = search_scales_by(target, scheme, [diagonal, None], scale_dtype)
    nearest = QuantizedTensor(quantize(target, *plain, scheme), *plain, scheme)
    order = torch.argsort(diagonal, descending=True, stable=True) if activation_order else None
    integers = _sweep(target, damped, scale, zero_point, scheme, order, kept)
    found = QuantizedTensor(integers, scale, zero_point, scheme)
    error = layer_error(target, found, hessian)
    nearest_error = layer_error(target, nearest, hessian)
    if scheme.strategy != "tensor":
        found, error = _better_rows(found, error, nearest, nearest_error)
    elif float(nearest_error.sum()) < float(error.sum()):
        found, error = nearest, nearest_error
    return Solution(found, error, nearest_error)


def layer_error(target: Tensor, tensor: QuantizedTensor, hessian: Tensor) -> Tensor:
    """What a quantized weight loses: the squared output error per position of each row, float64 ``[out]``."""
    difference = target - tensor.dequantize().to(target.dtype)
    return ((difference @ hessian) * difference).sum(1, dtype=torch.float64)


def factorize(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The damped Hessian and its lower Cholesky factor.

    An input that never was anything but zero has a zero row and column; its diagonal becomes the mean, which leaves it
    alone. Rounding makes a nearly singular Hessian indefinite, so damping grows until a factor exists.
    """
    diagonal = hessian.diagonal()
    mean = diagonal[diagonal > 0].mean()
    while damping <= _MAX_DAMPING:
        damped = hessian.clone()
        damped.diagonal().copy_(torch.where(diagonal > 0, diagonal, mean) + damping * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed) and bool(torch.isfinite(factor).all()):
            return damped, factor
        damping = max(10 * damping, 1e-6)
    raise UsageError("its calibration inputs give no usable Hessian", hint="use more or other calibration data")


def _sweep(
    target: Tensor,
    hessian: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    scheme: Scheme,
    order: Tensor | None,
    kept: Tensor,
) -> Tensor:
    """The integers, int8 ``[out, in]``: column after column, in blocks."""
    rows, columns = target.shape
    if order is None:
        order = torch.arange(columns, device=target.device)
    factor = torch.linalg.cholesky(hessian[order][:, order])
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    upper = upper / upper.diagonal().unsqueeze(1)  # row i: how error in column i is passed on to those after it
    # Columns become rows: each is then one stretch of memory.
    weights = target.t()[order].contiguous()
    scales = _per_column(scale, scheme, columns, order, target.dtype)
    zeros = None if zero_point is None else _per_column(zero_point, scheme, columns, order, target.dtype)
    pinned = kept.t()[order] if bool(kept.any()) else None
    integers = torch.empty_like(weights)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block, spread = weights[start:stop], upper[start:stop, start:stop]
        inverse = scales[start:stop].expand_as(block).reciprocal()
        errors = torch.empty_like(block)
        for i in range(stop - start):
            column, unit = block[i], scales[start + i]
            rounded = torch.mul(column, inverse[i], out=integers[start + i])
            if zeros is not None:
                rounded += zeros[start + i]
            rounded.round_().clamp_(scheme.minimum, scheme.maximum)
            if pinned is not None:
                rounded.masked_fill_(pinned[start + i], 0) if zeros is None else rounded.copy_(
                    torch.where(pinned[start + i], zeros[start + i], rounded)
                )
            steps = rounded if zeros is None else rounded - zeros[start + i]
            error = torch.addcmul(column, steps, unit, value=-1, out=errors[i])
            if i + 1 < stop - start:
                block[i + 1 :].addr_(spread[i, i + 1 :], error, alpha=-1)
        if stop < columns:
            weights[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1)
    result = torch.empty(rows, columns, dtype=torch.int8, device=target.device)
    result[:, order] = integers.t().to(torch.int8)
    return result


def _per_column(values: Tensor, scheme: Scheme, columns: int, order: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales or zero points ``[out, groups]`` as ``[in, out]`` (or ``[in, 1]``) in the columns' order."""
    group = scheme.group_size or columns
    return values.to(dtype).repeat_interleave(group, 1).t()[order].contiguous()


def _better_rows(
    first: QuantizedTensor, first_error: Tensor, second: QuantizedTensor, second_error: Tensor
) -> tuple[QuantizedTensor, Tensor]:
    """Row by row, whichever loses less."""
    better = (second_error < first_error).unsqueeze(1)
    if not bool(better.any()):
        return first, first_error
    scale, zero_point = first.scale, first.zero_point
    if scale.shape[0] > 1 or first.shape[0] == 1:
        scale = torch.where(better, second.scale, scale)
        zero_point = (
            None
            if zero_point is None or second.zero_point is None
            else torch.where(better, second.zero_point, zero_point)
        )
    integers = torch.where(better, second.integers, first.integers)
    return QuantizedTensor(integers, scale, zero_point, first.scheme), torch.minimum(first_error, second_error)
