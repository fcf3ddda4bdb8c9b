"""Codebooks for weights: pure functions of tensors.

K-means in one dimension (Lloyd, IEEE Trans. Inf. Theory 28, 1982), each weight's error times its importance, as in
SqueezeLLM (arXiv 2306.07629). A piece is sorted once; a cluster is a stretch of it, and its sums are differences of running
sums, so that a step costs the number of clusters and not of weights. It starts from quantiles and from the levels of uniform
round-to-nearest, and the better end counts: the error is never above round-to-nearest's of the same bits and pieces. Where a
piece has zeros, one of its values stays at 0.

NF4 is QLoRA's table (arXiv 2305.14314, appendix E), scaled by the largest weight of a piece. It has an exact 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization.rtn import importance_in_pieces, search_scales
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.scheme_codebooks import CodebookScheme
from leptonsdk.quantization.tensor_codebook import CodebookTensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# Weights worked on at once (a piece is never cut), and steps after which a piece counts as converged.
_CHUNK = 1 << 20
_STEPS = 200


def fit_codebook(weight: Tensor, scheme: CodebookScheme, *, weight_importance: Tensor | None = None) -> CodebookTensor:
    """A weight as indices into codebooks.

    Args:
        weight: ``[out, in]``, finite. Codebooks and scales get its dtype.
        scheme: Which codebook, and what shares one.
        weight_importance: For k-means, of each input ``[in]`` or each weight ``[out, in]``, not negative.

    Raises:
        UsageError: The weight is not finite, groups do not fit, the importance has another shape or is negative, or NF4,
            whose values and scales are given, is asked to follow one.
    """
    shape = scheme.scale_shape(weight.shape)
    if not bool(torch.isfinite(weight).all()):
        raise UsageError("the weight has NaN or infinite values")
    pieces = weight.detach().reshape(shape[0] * shape[1], -1)
    importance = importance_in_pieces(weight_importance, weight, pieces.shape)
    if scheme.codebook == "nf4" and importance is not None:
        raise UsageError("nf4 cannot follow an importance: its values are given", hint="use kmeans")
    codebook = torch.empty(len(pieces), 1 << scheme.num_bits, dtype=weight.dtype, device=weight.device)
    scale = torch.ones(len(pieces), 1, dtype=weight.dtype, device=weight.device)
    if scheme.codebook == "nf4":
        codebook = torch.tensor([NF4], dtype=weight.dtype, device=weight.device)
    indices = torch.empty(pieces.shape, dtype=torch.uint8, device=weight.device)
    rows = max(1, _CHUNK // max(pieces.shape[1], 1))
    for start in range(0, len(pieces), rows):
        part = slice(start, start + rows)
        x = pieces[part].double()
        if scheme.codebook == "nf4":
            largest = pieces[part].abs().amax(1, keepdim=True)
            scale[part] = torch.where(largest == 0, 1, largest)
            indices[part] = nearest(x / scale[part].double(), codebook.double().expand(len(x), -1).contiguous())
        else:
            w = None if importance is None else importance[part].double()
            codebook[part] = kmeans(x, scheme.num_bits, w).to(weight.dtype)
            indices[part] = nearest(x, codebook[part].double())
    return CodebookTensor(
        indices.reshape(weight.shape), codebook, scale.reshape(shape) if scheme.codebook == "nf4" else None, scheme
    )


def nearest(x: Tensor, values: Tensor) -> Tensor:
    """Which of a piece's ascending values ``[pieces, k]`` each number ``[pieces, n]`` is nearest to, uint8 ``[pieces, n]``."""
    return torch.searchsorted(_midpoints(values), x).to(torch.uint8)


def kmeans(x: Tensor, num_bits: int, importance: Tensor | None = None) -> Tensor:
    """Values of locally least (weighted) squared error for each piece.

    Args:
        x: float64 ``[pieces, n]``.
        num_bits: ``2^num_bits`` values a piece.
        importance: float64 ``[pieces, n]``, or None. A piece in which all is unimportant counts as if all were equal.

    Returns:
        float64 ``[pieces, 2^num_bits]``, ascending.
    """
    if importance is None:
        importance = torch.ones_like(x)
    importance = torch.where(importance.sum(1, keepdim=True) == 0, 1.0, importance)
    xs, order = x.sort(dim=1, stable=True)
    w = importance.gather(1, order)
    pinned = (xs == 0).any(1)
    sums = torch.stack([_running(w), _running(w * xs), _running(w * xs * xs)])
    best, least = torch.empty(0), torch.empty(0)
    for start in _starts(x, xs, importance, _running(w * (xs != 0)), num_bits):
        values = _lloyd(_pin(start, pinned), xs, sums, pinned)
        error = _error(values, xs, sums)
        if not len(best):
            best, least = values, error
        better = error < least
        best, least = torch.where(better[:, None], values, best), torch.where(better, error, least)
    return best


def _starts(x: Tensor, xs: Tensor, importance: Tensor, weights: Tensor, num_bits: int) -> list[Tensor]:
    """Ascending values to begin with: the levels of round-to-nearest, symmetric and not, and quantiles of what is not 0."""
    starts = []
    for symmetric in (True, False):
        scheme = Scheme(num_bits=num_bits, symmetric=symmetric, strategy="channel")
        scale, zero = search_scales(x, scheme, weight_importance=importance)
        integers = torch.arange(scheme.minimum, scheme.maximum + 1, dtype=x.dtype, device=x.device)
        starts.append(((integers - (0 if zero is None else zero.double())) * scale).sort(1).values)
    count = 1 << num_bits
    places = (torch.arange(count, dtype=x.dtype, device=x.device) + 0.5) / count * weights[:, -1:]
    at = torch.searchsorted(weights[:, 1:].contiguous(), places).clamp(max=xs.shape[1] - 1)
    return [*starts, xs.gather(1, at)]


def _pin(values: Tensor, pinned: Tensor) -> Tensor:
    """The values with the one nearest to 0 set to 0, in the pieces that need it."""
    nulled = values.scatter(1, values.abs().argmin(1, keepdim=True), 0.0)
    return torch.where(pinned[:, None], nulled, values)


def _lloyd(values: Tensor, xs: Tensor, sums: Tensor, pinned: Tensor) -> Tensor:
    before = None
    for _ in range(_STEPS):
        ends = _ends(values, xs)
        if before is not None and torch.equal(ends, before):
            break
        weight, first, _ = _clusters(ends, sums)
        # Values without weights stay, and so does a value at 0 that is pinned.
        stay = (weight <= 0) | (pinned[:, None] & (values == 0))
        values = torch.where(stay, values, first / weight.clamp(min=torch.finfo(weight.dtype).tiny)).sort(1).values
        before = ends
    return values


def _error(values: Tensor, xs: Tensor, sums: Tensor) -> Tensor:
    weight, first, second = _clusters(_ends(values, xs), sums)
    error: Tensor = second - 2 * values * first + values * values * weight
    return error.sum(1)


def _midpoints(values: Tensor) -> Tensor:
    return ((values[:, 1:] + values[:, :-1]) / 2).contiguous()


def _ends(values: Tensor, xs: Tensor) -> Tensor:
    """Where each cluster but the last ends in a sorted piece."""
    return torch.searchsorted(xs, _midpoints(values), right=True)


def _running(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x.cumsum(1), (1, 0))


def _clusters(ends: Tensor, sums: Tensor) -> Tensor:
    """Sums over each cluster ``[3, pieces, k]`` from running sums ``[3, pieces, n + 1]``."""
    last = torch.full_like(ends[:, :1], sums.shape[2] - 1)
    places = torch.cat([torch.zeros_like(last), ends, last], 1)
    return sums.gather(2, places.expand(3, -1, -1)).diff(dim=2)
