"""A scale of its own for each row of an activation, in front of a kernel that knows one scale for all of it.

ONNX Runtime's fast integer product takes one scale for the whole activation, so one token's outlier coarsens every token of the
batch, and an answer depends on who shares the batch. Dividing each row by its largest magnitude first, and multiplying the
product's row by it afterwards, leaves the product as it was; the kernel's scale then fits every row (per-token quantization of
arXiv 2206.01861). It costs two elementwise passes over the activation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from leptonsdk_onnxruntime.graph import add_initializer, insert

_SMALLEST = 1e-12  # a row of zeros stays one


def normalized_rows(graph: ir.Graph, source: ir.Value, before: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The activation [..., rows, channels] with every row's largest magnitude at 1, and those magnitudes [..., rows, 1]."""
    axes = add_initializer(graph, "last_axis", np.array([-1], np.int64))
    smallest = add_initializer(graph, "smallest_row", np.array(_SMALLEST, np.float32))
    [magnitudes] = insert(before, "Abs", [source])
    [largest] = insert(before, "ReduceMax", [magnitudes, axes], keepdims=1)
    [largest] = insert(before, "Max", [largest, smallest])
    [normalized] = insert(before, "Div", [source, largest])
    return normalized, largest
