"""Rewriting a float graph to int8: `MatMul` and `Gemm` with constant weights, and embedding tables.

Weights are symmetric int8 with one scale for each output channel, activations unsigned 8 bits with one scale for the whole
tensor: the combination that ONNX Runtime's CPU kernels are fastest at. Where that is too coarse, see `quantize_rows` and
`quantize_blocks`. The arithmetic is written out in standard operators;
ONNX Runtime fuses them when it opens the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from leptonsdk.exporting import matches_any
from leptonsdk_onnxruntime.config import ActivationScales, OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import (
    MICROSOFT,
    add_initializer,
    bias_add,
    constant,
    float_matrix,
    insert,
    module_name,
    replace,
)
from leptonsdk_onnxruntime.quantize_blocks import block_product, block_size, gather_blocks, stored_blocks
from leptonsdk_onnxruntime.quantize_halves import short_scale, store_in_half
from leptonsdk_onnxruntime.quantize_report import QuantizationReport
from leptonsdk_onnxruntime.quantize_rows import normalized_rows
from leptonsdk_onnxruntime.quantize_scales import Floats, quantize_weight, weight_scales
from leptonsdk_onnxruntime.quantize_tables import gather_4_bits, reads_tokens

QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"
_SMALLEST_WEIGHT = 512  # elements; below that int8 saves nothing and costs a kernel
_FEWEST_ROWS = 16  # a table of token types saves nothing either, and every token shares its error


@dataclass(frozen=True)
class Linear:
    """A `MatMul` or `Gemm` that can be quantized.

    Attributes:
        node: The node.
        source: Its activation.
        stored: The value that holds the weight, [in, out], or [out, in] where ``transposed``.
        transposed: The weight is stored [out, in].
        bias: A `Gemm`'s.
        module: The source model's module.
    """

    node: ir.Node
    source: ir.Value
    stored: ir.Value
    transposed: bool
    bias: ir.Value | None
    module: str

    @property
    def contracts(self) -> bool:
        """Whether it has more inputs than outputs: reducing rows costs little beside such a product, and an FFN's second
        one reads an activation function's output, where tokens differ the most."""
        assert self.stored.shape is not None
        rows, columns = (int(dim) for dim in self.stored.shape)
        return columns > rows if self.transposed else rows > columns


def find_linears(model: ir.Model, ignore: tuple[str, ...] = ()) -> list[Linear]:
    """Every `MatMul` and `Gemm` with a constant weight that is large enough and not ignored."""
    found = []
    for node in model.graph:
        linear = as_linear(node)
        if linear is not None and not matches_any(linear.module, ignore):
            weight = float_matrix(linear.stored)
            if weight is not None and weight.size >= _SMALLEST_WEIGHT and min(weight.shape) >= 8:
                found.append(linear)
    return found


def as_linear(node: ir.Node) -> Linear | None:
    """The node as a product with a constant weight, or None."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "MatMul":
        source, weight = node.inputs
        if float_matrix(weight) is not None:
            return Linear(node, source, weight, False, None, module_name(node))
        producer = weight.producer() if weight is not None else None
        if producer is not None and producer.op_type == "Transpose" and float_matrix(producer.inputs[0]) is not None:
            return Linear(node, source, producer.inputs[0], True, None, module_name(node))
    if node.op_type == "Gemm" and float_matrix(node.inputs[1]) is not None:
        attributes = node.attributes
        plain = attributes.get_int("transA", 0) == 0 and attributes.get_float("alpha", 1.0) == 1.0
        if plain and attributes.get_float("beta", 1.0) == 1.0:
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            transposed = attributes.get_int("transB", 0) == 1
            return Linear(node, node.inputs[0], node.inputs[1], transposed, bias, module_name(node))
    return None


def quantize_graph(
    model: ir.Model,
    config: OnnxRuntimeConfig,
    ranges: Mapping[str, tuple[np.float32, np.uint8]] | None = None,
    *,
    scales: ActivationScales = "tensor",
) -> QuantizationReport:
    """Quantize in place.

    Args:
        model: Float graph. Where a weight's integers and scales stand in it already, by the weight's name, they are taken.
        config: Which weights stay, and how scales are chosen.
        ranges: Scale and zero point of every quantized activation by value name (static), or None (dynamic).
        scales: Dynamic: what an activation's scale covers; ``auto`` is rows where a product contracts. Where
            channels do not divide into blocks, rows take their place.
    """
    report = QuantizationReport()
    in_blocks: set[str] = set()
    bits = 7 if config.reduce_range else 8
    linears = find_linears(model, config.ignore)
    chosen = {id(linear.node) for linear in linears}
    for node in model.graph:
        other = as_linear(node)
        if other is not None and id(node) not in chosen:
            report.kept.append(other.module or str(node.name))
    activations: dict[ir.Value, list[ir.Value]] = {}
    rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for linear in linears:
        if scales == "block" and (integers := _quantize_in_blocks(model.graph, linear, config)) is not None:
            in_blocks.add(integers)
            report.matmuls_in_blocks += 1
            continue
        if scales in ("row", "block") or (scales == "auto" and linear.contracts):
            _quantize_by_rows(model.graph, linear, config, bits, rows, activations)
            report.matmuls_by_rows += 1
            continue
        replace(
            linear.node,
            with_bias(linear, _integer_product(model.graph, linear, config, bits, ranges, activations)),
        )
        report.matmuls += 1
    if config.embeddings != "float":
        _quantize_embeddings(model, config, bits, in_blocks, report)
    if ranges is not None:
        _take_in_biases(model.graph)
    RemoveUnusedNodesPass()(model)
    store_in_half(model, exact=SCALE)
    if ranges is not None or in_blocks or report.embeddings_in_4_bits:
        model.opset_imports[MICROSOFT] = 1
    return report


def _stored_weight(
    graph: ir.Graph, value: ir.Value, axis: int, config: OnnxRuntimeConfig, bits: int
) -> tuple[ir.Value, ir.Value]:
    """The int8 copy of a matrix and its scales along ``axis`` [size of axis], made once however often it is used."""
    name = str(value.name)
    if f"{name}{QUANTIZED}" in graph.initializers:
        return graph.initializers[f"{name}{QUANTIZED}"], graph.initializers[f"{name}{SCALE}"]
    weight = float_matrix(value)
    assert weight is not None
    scale = short_scale(weight_scales(weight, axis, method=config.weight_scales, bits=bits))
    integers = quantize_weight(weight, scale, bits=bits)
    return (
        add_initializer(graph, f"{name}{QUANTIZED}", integers),
        add_initializer(graph, f"{name}{SCALE}", scale.reshape(-1)),
    )


def _integer_product(
    graph: ir.Graph,
    linear: Linear,
    config: OnnxRuntimeConfig,
    bits: int,
    ranges: Mapping[str, tuple[np.float32, np.uint8]] | None,
    activations: dict[ir.Value, list[ir.Value]],
) -> ir.Value:
    """The product without its bias."""
    node, axis = linear.node, 0 if linear.transposed else 1
    weight, weight_scale = _stored_weight(graph, linear.stored, axis, config, bits)
    if linear.transposed:
        weight = insert(node, "Transpose", [weight], perm=[1, 0])[0]
    source = node.inputs[0]  # not `linear.source`, which another rewrite may have replaced
    if source not in activations:
        activations[source] = _quantize_activation(graph, source, node, ranges)
    integers, scale, zero_point = activations[source]
    if ranges is None:
        [product] = insert(node, "MatMulInteger", [integers, weight, zero_point])
        [product] = insert(node, "Cast", [product], to=ir.DataType.FLOAT)
        [both] = insert(node, "Mul", [scale, weight_scale])
        [result] = insert(node, "Mul", [product, both])
    else:
        [result] = insert(
            node, "MatMulIntegerToFloat", [integers, weight, scale, weight_scale, zero_point], domain=MICROSOFT
        )
    return result


def _take_in_biases(graph: ir.Graph) -> None:
    """Let static products add their biases themselves; ONNX Runtime does it for the dynamic ones, but not for these."""
    for node in list(graph):
        if node.op_type != "MatMulIntegerToFloat":
            continue
        scale = constant(node.inputs[3])
        found = bias_add(node, scale.size) if scale is not None else None
        if found is not None:
            add, bias = found
            replace(add, insert(add, node.op_type, [*node.inputs, None, bias], domain=MICROSOFT)[0])
            graph.remove(node, safe=True)


def with_bias(linear: Linear, product: ir.Value) -> ir.Value:
    """The product, plus the bias where the node had one."""
    return product if linear.bias is None else insert(linear.node, "Add", [product, linear.bias])[0]


def _quantize_by_rows(
    graph: ir.Graph,
    linear: Linear,
    config: OnnxRuntimeConfig,
    bits: int,
    rows: dict[ir.Value, tuple[ir.Value, ir.Value]],
    activations: dict[ir.Value, list[ir.Value]],
) -> None:
    node, source = linear.node, linear.node.inputs[0]
    assert source is not None
    if source not in rows:
        rows[source] = normalized_rows(graph, source, node)
    normalized, largest = rows[source]
    node.replace_input_with(0, normalized)
    product = _integer_product(graph, linear, config, bits, None, activations)
    replace(node, with_bias(linear, insert(node, "Mul", [product, largest])[0]))


def _quantize_activation(
    graph: ir.Graph, source: ir.Value, before: ir.Node, ranges: Mapping[str, tuple[np.float32, np.uint8]] | None
) -> list[ir.Value]:
    """Integers, scale and zero point of an activation, computed where it is first read."""
    if ranges is None:
        return insert(before, "DynamicQuantizeLinear", [source], outputs=3)
    scale, zero_point = ranges[str(source.name)]
    scale_value = add_initializer(graph, f"{source.name}{SCALE}", np.array(scale, np.float32))
    zero_value = add_initializer(graph, f"{source.name}{ZERO_POINT}", np.array(zero_point, np.uint8))
    [integers] = insert(before, "QuantizeLinear", [source, scale_value, zero_value])
    return [integers, scale_value, zero_value]


def _quantize_embeddings(
    model: ir.Model, config: OnnxRuntimeConfig, bits: int, in_blocks: set[str], report: QuantizationReport
) -> None:
    """Tables that are looked up row by row: int8 rows, each with its own scale, or 4 bits in blocks."""
    graph = model.graph
    for node in list(graph):
        if (
            node.op_type != "Gather"
            or node.attributes.get_int("axis", 0) != 0
            or matches_any(module_name(node), config.ignore)
        ):
            continue
        table: Floats | None = float_matrix(node.inputs[0])
        if table is None or constant(node.inputs[1]) is not None or table.shape[0] < _FEWEST_ROWS:
            continue
        report.embeddings += 1
        if config.embeddings == "int4" and reads_tokens(node) and not _is_shared(graph, node.inputs[0]):
            gather_4_bits(node, table, config, (QUANTIZED, SCALE))
            report.embeddings_in_4_bits += 1
            continue
        if str(node.inputs[0].name) in in_blocks and _is_two_dimensional(node.inputs[1]):
            integers, scale, _ = stored_blocks(graph, node.inputs[0], True, config, (QUANTIZED, SCALE))
            gather_blocks(node, integers, scale)
            continue
        integers, scale = _stored_weight(graph, node.inputs[0], 0, config, bits)
        [rows] = insert(node, "Gather", [integers, node.inputs[1]], axis=0)
        [rows] = insert(node, "Cast", [rows], to=ir.DataType.FLOAT)
        [scales] = insert(node, "Gather", [scale, node.inputs[1]], axis=0)
        axes = add_initializer(graph, "last_axis", np.array([-1], np.int64))
        [scales] = insert(node, "Unsqueeze", [scales, axes])
        replace(node, insert(node, "Mul", [rows, scales])[0])


def _is_shared(graph: ir.Graph, table: ir.Value) -> bool:
    """Whether an output layer reads the table too, as integers already or in float: 4 bits would be a second copy."""
    users = {user for user, _ in table.uses() if user.op_type != "Gather"}
    return f"{table.name}{QUANTIZED}" in graph.initializers or any(list(out.uses()) for u in users for out in u.outputs)


def _is_two_dimensional(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 2


def _quantize_in_blocks(graph: ir.Graph, linear: Linear, config: OnnxRuntimeConfig) -> str | None:
    """Replace a product by one in blocks; the weight's name, or None where its channels do not divide into blocks."""
    assert linear.stored.shape is not None
    if block_size(int(linear.stored.shape[1 if linear.transposed else 0])) is None:
        return None
    weight = stored_blocks(graph, linear.stored, linear.transposed, config, (QUANTIZED, SCALE))
    replace(linear.node, with_bias(linear, block_product(linear.node, *weight)))
    return str(linear.stored.name)
