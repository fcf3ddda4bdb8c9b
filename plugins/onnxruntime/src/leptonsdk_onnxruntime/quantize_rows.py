"""A scale of its own for each row of an activation, in front of a kernel that knows one scale for all of it.

ONNX Runtime's fast integer product takes one scale for the whole activation, so one token's outlier coarsens every token of the
batch, and an answer depends on who shares the batch. Dividing each row by its largest magnitude first, and multiplying the
product's row by it afterwards, leaves the product as it was; the kernel's scale then fits every row (per-token quantization of
arXiv 2206.01861). It costs two or three elementwise passes over the activation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from leptonsdk_onnxruntime.graph import add_initializer, insert, producer

_SMALLEST = 1e-12  # a row of zeros stays one
_LOWEST = {"Gelu": 0.17, "Relu": _SMALLEST, "Sigmoid": _SMALLEST}  # how far below 0 an activation function reaches


def normalized_rows(graph: ir.Graph, source: ir.Value, before: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The activation [..., rows, channels] with every row's largest magnitude at 1, and those magnitudes [..., rows, 1].

    After a function that hardly goes below 0, its lowest value stands for all negative ones, which saves a pass.
    """
    function = producer(source, *_LOWEST)
    least = _SMALLEST if function is None else _LOWEST[function.op_type]
    [magnitudes] = insert(before, "Abs", [source]) if function is None else [source]
    axes = add_initializer(graph, "last_axis", np.array([-1], np.int64))
    [largest] = insert(before, "ReduceMax", [magnitudes, axes], keepdims=1)
    [largest] = insert(before, "Max", [largest, add_initializer(graph, f"least_{least}", np.array(least, np.float32))])
    [normalized] = insert(before, "Div", [source, largest])
    return normalized, largest
