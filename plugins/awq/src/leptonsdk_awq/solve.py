"""Scales and rounding for layers that read one input: pure functions of tensors.

A layer's weight ``W`` ``[out, in]`` is rounded as ``Q = round(W * s)`` with a scale ``s`` ``[in]`` of its input's channels, and
what makes that input is divided by ``s``. The error that counts is the layer's outputs' on calibration data,
``||X (Q / s - W)^T||^2``, which ``G = X^T X`` tells without ``X``.

Scales are powers of two: dividing by one and multiplying by it loses no bit in any float dtype, so that a rescaled model is the
source's equal, and a row that is divided by one rounds to the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonsdk.quantization import QuantizedTensor, Scheme, quantize, search_scales_by

_COARSE = 8  # factors tried for the steps while scales are compared


@dataclass(frozen=True)
class Solution:
    """What was found for some layers.

    Attributes:
        scale: Powers of two ``[in]``, float32.
        tensors: The integers of ``W * scale``, one for each layer.
        errors: Each layer's output error per position, next to that of round-to-nearest without scales.
    """

    scale: Tensor
    tensors: list[QuantizedTensor]
    errors: list[tuple[float, float]]


def output_error(difference: Tensor, gram: Tensor) -> Tensor:
    """``||X d^T||^2`` of each row ``d`` of a difference ``[out, in]``: ``[out]``.

    Args:
        difference: Of two weights.
        gram: ``X^T X`` ``[in, in]``.
    """
    return ((difference @ gram) * difference).sum(1).clamp_min(0)


def channel_scale(size: Tensor, exponent: float, weight_size: Tensor | None = None) -> Tensor:
    """``size^exponent`` ``[in]`` about 1, rounded to powers of two; 1 where nothing ever came.

    Args:
        size: Mean absolute value of each input channel ``[in]``.
        exponent: 0 (no scaling) to 1 (all channels alike).
        weight_size: Of `weight_size`: the scale is divided by its power of ``1 - exponent``, so that channels with small weights
            grow as well.
    """
    alive = size > 0
    if not bool(alive.any()):
        return torch.ones_like(size)
    logs = exponent * torch.log2(torch.where(alive, size, 1))
    if weight_size is not None:
        logs = logs - (1 - exponent) * torch.log2(weight_size.clamp_min(1e-4))
    middle = (logs[alive].max() + logs[alive].min()) / 2
    return torch.where(alive, torch.exp2(torch.round(logs - middle)), 1)


def weight_size(weights: Sequence[Tensor], scheme: Scheme) -> Tensor:
    """Mean size of each input channel's weights ``[in]``, relative to the largest weight that shares their scale."""
    joint = torch.cat(list(weights)).abs()
    pieces = joint.reshape(len(joint), -1, scheme.group_size or joint.shape[1])
    return (pieces / pieces.amax(-1, keepdim=True).clamp_min(1e-12)).reshape(joint.shape).mean(0)


def candidates(
    size: Tensor, weights: Sequence[Tensor], scheme: Scheme, grid: int, share: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Scales to try: exponents on a grid, with the weights' size and without; each once, and not the one without effect.

    Args:
        size: Mean absolute value of each input channel ``[in]``.
        weights: Of the layers that read it, ``[out, in]`` each.
        scheme: What they become.
        grid: Exponents.
        share: Makes channels alike that must be scaled alike, ``[in]`` to ``[in]``.
    """
    size, own, found = share(size), share(weight_size(weights, scheme)), [torch.ones_like(size)]
    for step in range(1, grid + 1):
        for scale in (channel_scale(size, step / grid), channel_scale(size, step / grid, own)):
            if not any(torch.equal(scale, other) for other in found):
                found.append(scale)
    return found[1:]


def round_layer(
    weight: Tensor, gram: Tensor, scale: Tensor, scheme: Scheme, scale_dtype: torch.dtype
) -> tuple[QuantizedTensor, Tensor]:
    """The integers of ``weight * scale``, and each row's output error ``[out]``.

    Steps are searched twice, once for the least error of the weights and once for that weighted with the size of their inputs
    (which is AWQ's clipping, made for each group of weights); each row takes what does better at its output.
    """
    grown = weight * scale
    importance = gram.diagonal() / scale.square()
    best: QuantizedTensor | None = None
    errors = torch.empty(0)
    for found, zero in search_scales_by(grown, scheme, [None, importance], scale_dtype):
        tensor = QuantizedTensor(quantize(grown, found, zero, scheme), found, zero, scheme)
        error = output_error(tensor.dequantize(torch.float32) / scale - weight, gram)
        if best is None:
            best, errors = tensor, error
        elif scheme.strategy == "tensor":
            best, errors = (tensor, error) if error.sum() < errors.sum() else (best, errors)
        else:
            better = error < errors
            best, errors = _rows_of(tensor, best, better), torch.where(better, error, errors)
    assert best is not None
    return best, errors


def solve(
    weights: Sequence[Tensor],
    gram: Tensor,
    scheme: Scheme,
    scales: Sequence[Tensor],
    scale_dtype: torch.dtype = torch.float32,
) -> Solution:
    """The scale of least output error for layers that read one input, and their integers with it.

    A scale is taken only where no layer's outputs are further off than by rounding to nearest without scales.

    Args:
        weights: ``[out, in]`` float32, one for each layer.
        gram: ``X^T X`` per position of their input ``[in, in]``.
        scheme: What they become.
        scales: To try, beside no scaling.
        scale_dtype: What the integers' scales are stored in.
    """
    one = torch.ones_like(gram[0])
    nearest = [_nearest_error(weight, gram, scheme, scale_dtype) for weight in weights]
    plain = _rounded(weights, gram, one, scheme, scale_dtype, nearest)
    if not scales:
        return plain
    rough = [sum(_rough_error(weight, gram, scale, scheme) for weight in weights) for scale in (one, *scales)]
    first = int(torch.tensor(rough).argmin())
    if first == 0:
        return plain
    scaled = _rounded(weights, gram, scales[first - 1], scheme, scale_dtype, nearest)
    better = sum(own for own, _ in scaled.errors) < sum(own for own, _ in plain.errors)
    return scaled if better and all(own <= other for own, other in scaled.errors) else plain


def _rounded(
    weights: Sequence[Tensor],
    gram: Tensor,
    scale: Tensor,
    scheme: Scheme,
    scale_dtype: torch.dtype,
    nearest: Sequence[float],
) -> Solution:
    found = [round_layer(weight, gram, scale, scheme, scale_dtype) for weight in weights]
    errors = [(float(error.sum()), other) for (_, error), other in zip(found, nearest, strict=True)]
    return Solution(scale, [tensor for tensor, _ in found], errors)


def _rough_error(weight: Tensor, gram: Tensor, scale: Tensor, scheme: Scheme) -> float:
    """A layer's output error with a scale, its steps searched on a coarse grid."""
    grown = weight * scale
    importance = gram.diagonal() / scale.square()
    ((steps, zero),) = search_scales_by(grown, scheme, [importance], steps=_COARSE)
    tensor = QuantizedTensor(quantize(grown, steps, zero, scheme), steps, zero, scheme)
    return float(output_error(tensor.dequantize() / scale - weight, gram).sum())


def _nearest_error(weight: Tensor, gram: Tensor, scheme: Scheme, scale_dtype: torch.dtype) -> float:
    ((scale, zero),) = search_scales_by(weight, scheme, [None], scale_dtype)
    tensor = QuantizedTensor(quantize(weight, scale, zero, scheme), scale, zero, scheme)
    return float(output_error(tensor.dequantize(torch.float32) - weight, gram).sum())


def _rows_of(one: QuantizedTensor, other: QuantizedTensor, chosen: Tensor) -> QuantizedTensor:
    """Rows of one where chosen ``[out]``, else of another."""
    pick = chosen.unsqueeze(1)
    zero = None
    if one.zero_point is not None and other.zero_point is not None:
        zero = torch.where(pick, one.zero_point, other.zero_point)
    return QuantizedTensor(
        torch.where(pick, one.integers, other.integers), torch.where(pick, one.scale, other.scale), zero, one.scheme
    )
