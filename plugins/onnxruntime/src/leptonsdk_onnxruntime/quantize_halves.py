"""Long vectors of a quantized graph (biases, scales, gains) in half: beside integers they are what is left to save.

A `Cast` gives them back in float32; ONNX Runtime computes it once, when it opens the model.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from leptonsdk_onnxruntime.graph import constant, insert
from leptonsdk_onnxruntime.quantize_scales import Floats

_LONG = 64  # elements; below that the `Cast` is larger than what it saves


def short_scale(scale: Floats) -> Floats:
    """Scales rounded to what fp16 can say, still as float32; as they are where it can't (to one part in a thousand)."""
    rounded = _half(scale).astype(np.float32)
    return rounded if np.allclose(rounded, scale, rtol=1e-3, atol=0) else scale


def store_in_half(model: ir.Model, exact: str) -> int:
    """Store float32 vectors in fp16, in place, where that says them to one part in a thousand; how many.

    Args:
        model: Quantized graph.
        exact: Ending of the names of those that must not change at all: scales, by which integers were rounded.
    """
    graph, stored = model.graph, 0
    for name, value in list(graph.initializers.items()):
        values = constant(value)
        if values is None or values.dtype != np.float32 or values.ndim != 1 or values.size < _LONG:
            continue
        half, allowed = _half(values), 0.0 if name.endswith(exact) else 1e-3
        close = np.allclose(half.astype(np.float32), values, rtol=allowed, atol=allowed * float(np.abs(values).mean()))
        if close and not value.is_graph_output():
            _store(graph, value, half)
            stored += 1
    return stored


def _store(graph: ir.Graph, value: ir.Value, half: NDArray[np.float16]) -> None:
    uses = list(value.uses())
    value.const_value, value.dtype = ir.tensor(half, name=value.name), ir.DataType.FLOAT16
    whole: ir.Value | None = None
    for user, index in uses:
        # A table's scales are looked up row by row: only those that are read are cast.
        if user.op_type == "Gather" and index == 0 and not user.outputs[0].is_graph_output():
            _cast_after(user)
            continue
        if whole is None:
            [whole] = insert(next(iter(graph)), "Cast", [value], to=ir.DataType.FLOAT)
        user.replace_input_with(index, whole)


def _half(values: Floats) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _cast_after(node: ir.Node) -> None:
    rows = node.outputs[0]
    rows.dtype = ir.DataType.FLOAT16
    users = list(rows.uses())
    cast = ir.node("Cast", [rows], attributes={"to": ir.DataType.FLOAT})
    node.graph.insert_after(node, cast)
    for user, index in users:
        user.replace_input_with(index, cast.outputs[0])
