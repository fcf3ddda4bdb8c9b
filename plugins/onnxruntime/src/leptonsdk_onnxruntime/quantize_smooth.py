"""Smoothing: moving an activation's outlier channels into the weights before both are quantized (arXiv 2211.10438).

One 8-bit scale for a whole activation is set by its largest channel. Where a few channels are far larger than the rest (after a
layer norm with large gains, after an activation function), dividing every channel by a factor of its own, and multiplying the
weight's rows by it, leaves the product as it was and both sides easier to round. It costs one elementwise `Mul`, so only the
activations that need it get one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from leptonsdk_onnxruntime.graph import add_initializer, float_matrix, insert
from leptonsdk_onnxruntime.quantize_graph import find_linears
from leptonsdk_onnxruntime.quantize_scales import Floats

SMOOTH = "_smoothing"
_SMALLEST = 1e-5


def outlier_ratio(largest: Floats) -> float:
    """How far an activation's largest channel stands out: the largest of ``largest`` [channels] over their median."""
    return float(largest.max() / max(float(np.median(largest)), _SMALLEST))


def smoothing_factors(largest: Floats, weight: Floats, strength: float) -> Floats:
    """What to divide each channel by, [in]; 1 on average.

    Args:
        largest: Greatest magnitude of each input channel, [in].
        weight: [in, out].
        strength: 0 leaves all outliers in the activation, 1 moves them all into the weight.
    """
    rows = np.maximum(np.abs(weight).max(axis=1), _SMALLEST)
    factors = np.maximum(largest, _SMALLEST) ** strength / rows ** (1 - strength)
    return np.asarray(np.maximum(factors / factors.mean(), 1e-3), np.float32)


def smooth_graph(
    model: ir.Model, largest: Mapping[str, Floats], *, strength: float, ratio: float, ignore: tuple[str, ...] = ()
) -> int:
    """Smooth, in place, every quantizable product whose activation has outliers; how many were smoothed.

    Args:
        model: Float graph.
        largest: Greatest magnitude of each channel, by activation name.
        strength: See `smoothing_factors`.
        ratio: Smooth where `outlier_ratio` is above it.
        ignore: Modules that will not be quantized.
    """
    graph, smoothed = model.graph, 0
    for linear in find_linears(model, ignore):
        name, weight = str(linear.source.name), float_matrix(linear.stored)
        shared = len(list(linear.stored.uses())) > 1 or linear.node.op_type != "MatMul" or linear.transposed
        if weight is None or shared or outlier_ratio(largest[name]) <= ratio:
            continue
        factors = smoothing_factors(largest[name], weight, strength)
        inverse = add_initializer(graph, f"{linear.stored.name}{SMOOTH}", (1 / factors).astype(np.float32))
        [divided] = insert(linear.node, "Mul", [linear.source, inverse])
        divided.name = f"{linear.stored.name}.input"
        scaled = add_initializer(graph, f"{linear.stored.name}.smoothed", weight * factors[:, None])
        linear.node.replace_input_with(0, divided)
        linear.node.replace_input_with(1, scaled)
        smoothed += 1
    return smoothed
