"""Computing only the position that a model's answer reads.

A classifier reads one position of the last block's output, the first (BERT, ViT) or the last. Keys and values of that block need
all positions; its queries, its output layer, its feed-forward network and everything after need that one. Where the graph
takes it at the end, it is taken before them instead: the same numbers, for a sixth less work in a model of six blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from leptonsdk_onnxruntime.graph import add_initializer, constant, float_matrix, insert, rank

_UNARY = ("Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "Softplus", "HardSwish", "Sqrt", "Neg", "Abs", "Cast", "Identity")
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")
_NORMS = ("LayerNormalization", "RMSNormalization")
_AXIS, _RANK = 1, 3  # of [batch, length, size]
_ENDS = (0, -1)  # positions that are the same in an axis of one, such as a mask's that all queries share


def narrow(model: ir.Model) -> int:
    """Rewrite in place; how many products with a weight now see one position only.

    Args:
        model: A traced graph with its shapes, whose attentions have their heads merged.
    """
    products = 0
    for node in list(model.graph):
        position = _position(node)
        if position is None:
            continue
        chosen = _narrowable(model.graph, node)
        if not any(map(_is_product, chosen)):
            continue
        sliced: dict[ir.Value, ir.Value] = {}
        for inner in reversed(chosen):  # in the graph's order
            _take_early(inner, chosen, position, sliced)
        products += sum(map(_is_product, chosen))
    return products


def _position(node: ir.Node) -> int | None:
    """The index where a node takes one position of a value [batch, length, size]."""
    if node.op_type != "Gather" or rank(node.inputs[0]) != _RANK or node.attributes.get_int("axis", 0) != _AXIS:
        return None
    index = constant(node.inputs[1])
    return int(index.item()) if index is not None and index.size == 1 and int(index.item()) in _ENDS else None


def _narrowable(graph: ir.Graph, reader: ir.Node) -> Mapping[ir.Node, None]:
    """The nodes that need that position only, the last first."""
    wanted = {(reader, 0)}
    found: dict[ir.Node, None] = {}
    nodes = list(graph)
    for node in reversed(nodes[: nodes.index(reader)]):
        uses = [(use.node, use.idx) for output in node.outputs for use in output.uses()]
        if not uses or not wanted.issuperset(uses) or any(output.is_graph_output() for output in node.outputs):
            continue
        if (passed := _passes(node)) is not None:
            found[node] = None
            wanted |= {(node, port) for port in passed}
    return found


def _passes(node: ir.Node) -> list[int] | None:
    """The inputs of which a node needs one position to give that position; None where it mixes positions."""
    if node.domain not in ("", "ai.onnx") or rank(node.outputs[0]) != _RANK:
        return None
    if node.op_type in _UNARY:
        return [0]
    if node.op_type in _NORMS:
        return [0] if node.attributes.get_int("axis", -1) in (-1, _RANK - 1) and len(node.outputs) == 1 else None
    if node.op_type in _BINARY:
        ports = [port for port, value in enumerate(node.inputs) if constant(value) is None]
        flat = all(_is_flat(value) for port, value in enumerate(node.inputs) if port not in ports)
        return ports if flat and all(rank(node.inputs[port]) == _RANK for port in ports) else None
    if node.op_type == "MatMul":
        return [0] if _is_product(node) else None
    if node.op_type == "Attention" and len(node.outputs) == 1 and not node.attributes.get_int("is_causal", 0):
        cached = any(value is not None for value in node.inputs[4:])
        return [0] if not cached and rank(node.inputs[0]) == _RANK else None
    return None


def _take_early(node: ir.Node, chosen: Mapping[ir.Node, None], position: int, sliced: dict[ir.Value, ir.Value]) -> None:
    """Give a node one position of each input that is not narrow itself."""
    axes = dict.fromkeys(_passes(node) or (), _AXIS)
    mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
    if mask is not None and rank(mask) is not None:
        axes[3] = len(mask.shape or ()) - 2
    for port, axis in axes.items():
        value = node.inputs[port]
        assert value is not None
        if value.producer() in chosen or (value.shape is not None and value.shape[axis] == 1):
            continue
        if value not in sliced:
            stop = position + 1 if position == 0 else np.iinfo(np.int64).max
            bounds = (position, stop, axis)
            stored = [add_initializer(node.graph, f"bound_{b}", np.array([b], np.int64)) for b in bounds]
            [sliced[value]] = insert(node, "Slice", [value, *stored])
            sliced[value].shape, sliced[value].type = _one(value.shape, axis), value.type
        node.replace_input_with(port, sliced[value])
    node.outputs[0].shape = _one(node.outputs[0].shape, _AXIS)


def _one(shape: ir.Shape | None, axis: int) -> ir.Shape | None:
    return None if shape is None else ir.Shape([1 if at == axis else dim for at, dim in enumerate(shape)])


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and float_matrix(node.inputs[1]) is not None


def _is_flat(value: ir.Value | None) -> bool:
    """Whether a constant is the same at all positions: it has no such axis, or one of size 1."""
    shape = () if value is None or value.shape is None else tuple(value.shape)
    return len(shape) < _RANK - _AXIS or shape[_AXIS - _RANK] == 1
