"""Int8 in blocks: `MatMulNBits`, where weights and activations have a scale for each block of input channels.

Language models have activations with a few enormous values, which one scale for a whole tensor cannot hold. This kernel quantizes
each row of the activation block by block as it comes. It is slower than the integer product at large batches, and much closer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import MICROSOFT, add_initializer, float_matrix, insert, replace
from leptonsdk_onnxruntime.quantize_scales import Floats, quantize_weight, weight_scales

ZERO = 128  # what the kernel takes as 0 in unsigned 8 bits
_BLOCKS = (128, 64, 32, 16)
_INT8_ACTIVATIONS = 4  # the kernel's `accuracy_level`


def block_size(channels: int) -> int | None:
    """The largest block that divides the input channels, or None."""
    return next((size for size in _BLOCKS if channels % size == 0), None)


def quantize_blocks(
    weight: Floats, size: int, *, method: str = "mse", bits: int = 8
) -> tuple[NDArray[np.uint8], Floats]:
    """Weight [out, in] as integers around 128, [out, in / size, size], and scales [out, in / size]."""
    rows, channels = weight.shape
    blocks = weight.reshape(-1, size)
    scale = weight_scales(blocks, 0, method="mse" if method == "mse" else "minmax", bits=bits)
    integers = (quantize_weight(blocks, scale, bits=bits).astype(np.int16) + ZERO).astype(np.uint8)
    return integers.reshape(rows, channels // size, size), scale.reshape(rows, channels // size)


def stored_blocks(
    graph: ir.Graph, value: ir.Value, out_first: bool, config: OnnxRuntimeConfig, suffixes: tuple[str, str]
) -> tuple[ir.Value, ir.Value, int]:
    """The integers and scales of a matrix (stored [out, in] where ``out_first``), made once, and the block size."""
    integers_name, scale_name = f"{value.name}{suffixes[0]}", f"{value.name}{suffixes[1]}"
    weight = float_matrix(value)
    assert weight is not None
    weight = weight if out_first else weight.T
    size = block_size(weight.shape[1])
    assert size is not None
    if integers_name not in graph.initializers:
        bits = 7 if config.reduce_range else 8
        integers, scale = quantize_blocks(np.ascontiguousarray(weight), size, method=config.weight_scales, bits=bits)
        add_initializer(graph, integers_name, integers)
        add_initializer(graph, scale_name, scale)
    return graph.initializers[integers_name], graph.initializers[scale_name], size


def block_product(node: ir.Node, integers: ir.Value, scale: ir.Value, size: int) -> ir.Value:
    """The node's first input times the weight in blocks."""
    assert integers.shape is not None
    rows, count, _ = (int(dim) for dim in integers.shape)
    return insert(
        node,
        "MatMulNBits",
        [node.inputs[0], integers, scale],
        domain=MICROSOFT,
        K=count * size,
        N=rows,
        bits=8,
        block_size=size,
        accuracy_level=_INT8_ACTIVATIONS,
    )[0]


def gather_blocks(node: ir.Node, integers: ir.Value, scale: ir.Value) -> None:
    """Look rows up in a table that is stored in blocks, in place of a `Gather`."""
    graph, indices = node.graph, node.inputs[1]
    [rows] = insert(node, "Gather", [integers, indices], axis=0)
    [rows] = insert(node, "Cast", [rows], to=ir.DataType.FLOAT)
    [rows] = insert(node, "Sub", [rows, add_initializer(graph, "block_zero", np.array(ZERO, np.float32))])
    [scales] = insert(node, "Gather", [scale, indices], axis=0)
    [scales] = insert(node, "Unsqueeze", [scales, add_initializer(graph, "last_axis", np.array([-1], np.int64))])
    [rows] = insert(node, "Mul", [rows, scales])
    shape = add_initializer(graph, "rows_of_blocks", np.array([0, 0, -1], np.int64))
    replace(node, insert(node, "Reshape", [rows, shape])[0])
