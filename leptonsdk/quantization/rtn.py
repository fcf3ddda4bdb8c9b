"""Round-to-nearest with scales of least squared error: pure functions of tensors.

The scales come from a grid over shrink factors of the min-max range, as in OmniQuant's and AWQ's clipping and in
llm-compressor's MSE observer. For symmetric schemes of few bits the scale may also be negative, so that the side with
the larger weight gets the longer side of the integers (``-8`` of ``-8..7``), as llama.cpp's Q4_0 does.

Plain min-max scales are candidates as well, so the error is never above theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.tensor import QuantizedTensor

Observer = Literal["mse", "minmax"]

# The smallest part of the min-max range worth trying, by bits: the fewer the bits, the more clipping pays.
_LOWEST = {2: 0.2, 3: 0.3, 4: 0.4, 5: 0.55, 6: 0.7, 7: 0.8, 8: 0.85}
# Weights worked on at once: some copies of them fit into a processor's cache.
_CHUNK = 1 << 18


def search_scales(
    weight: Tensor,
    scheme: Scheme,
    *,
    weight_importance: Tensor | None = None,
    scale_dtype: torch.dtype | None = None,
    observer: Observer = "mse",
    negative_scales: bool | None = None,
    steps: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points for a weight.

    Args:
        weight: ``[out, in]``, finite.
        scheme: What shares a scale.
        weight_importance: Of each input ``[in]`` or each weight ``[out, in]``, not negative: the squared errors are
            weighted with it (for GPTQ and the like: the diagonal of the Hessian).
        scale_dtype: The scales are rounded to it before they are judged; default: the weight's own.
        observer: ``mse`` searches the grid, ``minmax`` takes the range as it is.
        negative_scales: Let symmetric scales be negative; default: for 4 bits and fewer, where the one integer that
            it wins counts.
        steps: Shrink factors to try; default 32 for 4 bits and fewer, else 16.

    Returns:
        Scale (``[out, groups]``, never 0) and zero point (int8, the same shape; None when symmetric).

    Raises:
        UsageError: The weight is not finite, groups do not fit, or the importance has another shape or is negative.
    """
    options = (scale_dtype, observer, negative_scales, steps)
    return search_scales_by(weight, scheme, [weight_importance], *options)[0]


def search_scales_by(
    weight: Tensor,
    scheme: Scheme,
    importances: Sequence[Tensor | None],
    scale_dtype: torch.dtype | None = None,
    observer: Observer = "mse",
    negative_scales: bool | None = None,
    steps: int | None = None,
) -> list[tuple[Tensor, Tensor | None]]:
    """`search_scales` for several importances of one weight at once, which tries every scale only once."""
    shape = scheme.scale_shape(weight.shape)
    if not bool(torch.isfinite(weight).all()):
        raise UsageError("the weight has NaN or infinite values")
    dtype = scale_dtype or weight.dtype
    work = torch.float64 if weight.dtype == torch.float64 else torch.float32
    if negative_scales is None:
        negative_scales = scheme.num_bits <= 4
    pieces = weight.detach().reshape(shape[0] * shape[1], -1)
    by_piece = [importance_in_pieces(importance, weight, pieces.shape) for importance in importances]
    found = [
        (
            torch.empty(len(pieces), dtype=dtype, device=weight.device),
            torch.zeros(len(pieces), dtype=torch.int8, device=weight.device),
        )
        for _ in importances
    ]
    rows = max(1, _CHUNK // max(pieces.shape[1], 1))
    for start in range(0, len(pieces), rows):
        part = slice(start, start + rows)
        x = pieces[part].to(work)
        weights = [None if importance is None else importance[part].to(work) for importance in by_piece]
        candidates = _candidates(x, scheme, observer, negative_scales, steps)
        for (scale, zero_point), best in zip(found, _best(x, weights, candidates, scheme, dtype), strict=True):
            scale[part], zero_point[part] = best
    return [
        (scale.reshape(shape), None if scheme.symmetric else zero_point.reshape(shape)) for scale, zero_point in found
    ]


def quantize(weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: Scheme) -> Tensor:
    """The nearest integers, int8 ``[out, in]``, for given scales ``[out, groups]`` and zero points."""
    work = torch.float64 if weight.dtype == torch.float64 else torch.float32
    pieces = weight.detach().to(work).reshape(weight.shape[0], -1, scheme.group_size or weight.shape[1])
    zeros = None if zero_point is None else zero_point.to(work).unsqueeze(-1)
    return _round(pieces, scale.to(work).unsqueeze(-1), zeros, scheme).to(torch.int8).reshape(weight.shape)


def round_to_nearest(
    weight: Tensor,
    scheme: Scheme,
    *,
    weight_importance: Tensor | None = None,
    scale_dtype: torch.dtype | None = None,
    observer: Observer = "mse",
    negative_scales: bool | None = None,
) -> QuantizedTensor:
    """Quantize a weight ``[out, in]`` by itself, without data. Arguments and errors as of `search_scales`."""
    scale, zero_point = search_scales(
        weight,
        scheme,
        weight_importance=weight_importance,
        scale_dtype=scale_dtype,
        observer=observer,
        negative_scales=negative_scales,
    )
    return QuantizedTensor(quantize(weight, scale, zero_point, scheme), scale, zero_point, scheme)


def importance_in_pieces(importance: Tensor | None, weight: Tensor, shape: torch.Size) -> Tensor | None:
    """Importance of each weight, in pieces."""
    if importance is None:
        return None
    if tuple(importance.shape) not in ((weight.shape[1],), tuple(weight.shape)):
        raise UsageError(
            f"the importance must be [{weight.shape[1]}] or {list(weight.shape)}, not {list(importance.shape)}"
        )
    if not bool(torch.isfinite(importance).all()) or bool((importance < 0).any()):
        raise UsageError("the importance must be finite and not negative")
    return importance.to(weight.device).expand(weight.shape).reshape(shape)


def _factors(scheme: Scheme, steps: int | None, top: float) -> list[float]:
    count = steps or (32 if scheme.num_bits <= 4 else 16)
    low = _LOWEST[scheme.num_bits]
    return [top - (top - low) * i / (count - 1) for i in range(count)] if count > 1 else [top]


def _candidates(
    x: Tensor, scheme: Scheme, observer: Observer, negative_scales: bool, steps: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales to try and the (real-valued) smallest weight they serve, each ``[pieces]``; plain min-max comes first."""
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    levels = scheme.maximum - scheme.minimum
    if not scheme.symmetric:
        yield (high - low) / levels, low
        if observer == "mse":
            for factor in _factors(scheme, steps, 1.0)[1:]:
                yield factor * (high - low) / levels, factor * low
        return
    largest = torch.maximum(high, -low)
    yield largest / scheme.maximum, low
    if observer == "minmax":
        return
    yield largest / (levels / 2), low  # compressed-tensors' min-max: half a step of clipping on the shorter side
    unit = largest / -scheme.minimum
    if negative_scales:
        unit = torch.where(high > -low, -unit, unit)
    yield unit, low  # the larger side fills the integers' longer side exactly
    for factor in _factors(scheme, steps, -scheme.minimum / scheme.maximum):
        yield factor * unit, low


def _best(
    x: Tensor,
    importances: Sequence[Tensor | None],
    candidates: Iterator[tuple[Tensor, Tensor]],
    scheme: Scheme,
    dtype: torch.dtype,
) -> list[tuple[Tensor, Tensor]]:
    """For each importance, the candidate of least squared error for each piece; a piece of zeros gets scale 1."""
    empty = (x == 0).all(1)
    errors = [torch.full_like(empty, torch.inf, dtype=x.dtype) for _ in importances]
    scales = [torch.ones_like(empty, dtype=dtype) for _ in importances]
    zeros = [torch.zeros_like(empty, dtype=torch.int8) for _ in importances]
    floor = _smallest(dtype)
    for raw, low in candidates:
        stored = torch.where(raw.abs() < floor, torch.where(raw < 0, -floor, floor), raw).to(dtype)
        scale = torch.where(empty, 1, stored.to(x.dtype)).unsqueeze(1)
        zero = None
        if not scheme.symmetric:
            zero = (scheme.minimum - torch.round(low.unsqueeze(1) / scale)).clamp(scheme.minimum, scheme.maximum)
        rounded = _round(x, scale, zero, scheme)
        difference = (rounded if zero is None else rounded - zero).mul_(scale).sub_(x).square_()
        for i, importance in enumerate(importances):
            error = (difference if importance is None else difference * importance).sum(1)
            better = error < errors[i]
            errors[i] = torch.where(better, error, errors[i])
            scales[i] = torch.where(better & ~empty, stored, scales[i])
            if zero is not None:
                zeros[i] = torch.where(better & ~empty, zero.squeeze(1).to(torch.int8), zeros[i])
    return list(zip(scales, zeros, strict=True))


def _smallest(dtype: torch.dtype) -> float:
    """The smallest scale worth storing: fp16 needs its subnormals (its normals end at 6e-5), others do not."""
    info = torch.finfo(dtype)
    return float(info.tiny * info.eps if dtype == torch.float16 else info.tiny)


def _round(x: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: Scheme) -> Tensor:
    """Nearest integers as floats, as compressed-tensors' ``quantize`` has it (ties to even)."""
    steps = x / scale
    if zero_point is not None:
        steps += zero_point
    return steps.clamp_(scheme.minimum, scheme.maximum).round_()
