"""Choosing scales and rounding to integers: pure functions of NumPy arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int8]
_SMALLEST = np.float32(1e-12)
_SHRINK = np.linspace(1.0, 0.7, 31, dtype=np.float32)


def weight_scales(weight: Floats, axis: int, *, method: Literal["mse", "minmax"] = "mse", bits: int = 8) -> Floats:
    """One symmetric scale for each slice along ``axis``: weight [K, N], axis 1: scale [1, N].

    Args:
        weight: [A, B].
        axis: The axis that keeps its size; the other is reduced to 1.
        method: ``minmax`` maps the largest magnitude to the largest integer; ``mse`` searches from there down to 70 % of
            it for the least squared error.
        bits: Integers run from ``-(2**(bits-1) - 1)`` to ``2**(bits-1) - 1``.
    """
    limit = 2 ** (bits - 1) - 1
    reduced = 1 - axis
    largest = np.maximum(np.abs(weight).max(axis=reduced, keepdims=True), _SMALLEST) / np.float32(limit)
    if method == "minmax":
        return np.asarray(largest, np.float32)
    best, least = largest.copy(), np.full(largest.shape, np.inf, np.float32)
    for factor in _SHRINK:
        scale = largest * factor
        error = np.square(np.clip(np.rint(weight / scale), -limit, limit) * scale - weight).sum(reduced, keepdims=True)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return np.asarray(best, np.float32)


def quantize_weight(weight: Floats, scale: Floats, *, bits: int = 8) -> Integers:
    """Round to the nearest integer of a symmetric scale that broadcasts to the weight."""
    limit = 2 ** (bits - 1) - 1
    integers: Integers = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    return integers


def activation_range_to_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of unsigned 8-bit integers over ``[low, high]``, widened to hold 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < float(_SMALLEST):
        return np.float32(1.0), np.uint8(0)
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def histogram_error(counts: NDArray[np.float64], centers: NDArray[np.float64], low: float, high: float) -> float:
    """Squared error of quantizing a histogram's values to 8 bits over ``[low, high]``, summed over its counts."""
    scale, zero_point = activation_range_to_scale(low, high)
    step, zero = float(scale), int(zero_point)
    integers = np.clip(np.rint(centers / step) + zero, 0, 255)
    inside = (centers >= (0 - zero) * step) & (centers <= (255 - zero) * step)
    # A bin is wider or narrower than a step; inside the range the expected rounding error is step^2 / 12.
    error = np.where(inside, step * step / 12, np.square((integers - zero) * step - centers))
    return float((error * counts).sum())


def histogram_range(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    *,
    method: Literal["mse", "percentile", "minmax"],
    percentile: float = 99.99,
) -> tuple[float, float]:
    """The range to quantize an activation over, from its histogram.

    Args:
        counts: [bins].
        edges: [bins + 1], ascending.
        method: ``minmax``: the outermost filled bins; ``percentile``: the narrowest that leaves half of
            ``100 - percentile`` percent on each side; ``mse``: least squared error, searched one side after the other.
        percentile: For ``percentile``.
    """
    filled = np.flatnonzero(counts)
    if filled.size == 0:
        return 0.0, 0.0
    low, high = float(edges[filled[0]]), float(edges[filled[-1] + 1])
    if method == "minmax":
        return low, high
    if method == "percentile":
        tail = (100.0 - percentile) / 200
        share = np.cumsum(counts) / counts.sum()
        below = int(np.searchsorted(share, tail, side="right"))
        above = int(np.searchsorted(share, 1 - tail, side="left"))
        return float(edges[min(below, filled[-1])]), float(edges[min(above, filled[-1]) + 1])
    centers = (edges[:-1] + edges[1:]) / 2
    shrink = np.geomspace(1.0, 0.01, 60)
    for _ in range(3):
        high = _least(counts, centers, [(low, high * f) for f in shrink])[1] if high > 0 else high
        low = _least(counts, centers, [(low * f, high) for f in shrink])[0] if low < 0 else low
        shrink = np.geomspace(1.15, 0.85, 31)
    return low, high


def _least(
    counts: NDArray[np.float64], centers: NDArray[np.float64], ranges: list[tuple[float, float]]
) -> tuple[float, float]:
    return min(ranges, key=lambda pair: histogram_error(counts, centers, *pair))
