"""Computing only the position that a model's answer reads.

A classifier reads one position of the last block's output, the first (BERT, ViT) or the last. Keys and values of that block need
all positions; its queries, its output layer, its feed-forward network and everything after need that one. Where the graph
takes it at the end, it is taken before them instead: the same numbers, for a sixth less work in a model of six blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset14 as ops

_UNARY = (
    "Gelu",
    "Relu",
    "Tanh",
    "Sigmoid",
    "Swish",
    "Erf",
    "HSwish",
    "Convert",
    "Sqrt",
    "Abs",
    "Negative",
    "Clamp",
    "Elu",
)
_BINARY = ("Add", "Subtract", "Multiply", "Divide", "Power", "SquaredDifference", "Maximum", "Minimum")
_ENDS = (0, -1)  # positions that are the same in an axis of one, such as a mask's that all queries share


def narrow(graph: ov.Model) -> int:
    """Rewrite in place; how many products with a weight now see one position only.

    Args:
        graph: Of a model that is called once per answer, in floats or quantized. NNCF must have seen it before: it tells what it
            may round by patterns that are no longer there afterwards.
    """
    products = 0
    _drop_idle_reshapes(graph)
    for node in graph.get_ordered_ops():
        position = _position(node)
        if position is None:
            continue
        axes = _narrowable(graph, node)
        if not any(_is_product(inner) for inner in axes):
            continue
        for inner, along in axes.items():
            _take_early(inner, along, axes, position)
        products += sum(map(_is_product, axes))
        graph.validate_nodes_and_infer_types()
    return products


def _position(node: ov.Node) -> int | None:
    """The index where a node takes one position of a value [batch, length, size]."""
    if node.get_type_name() != "Gather" or node.input_value(0).get_partial_shape().rank != 3:
        return None
    index, axis = (_constant(node.input_value(port)) for port in (1, 2))
    if index is None or axis is None or index.size != 1 or int(axis) not in (1, -2) or int(index.item()) not in _ENDS:
        return None
    return int(index.item())


def _narrowable(graph: ov.Model, reader: ov.Node) -> dict[ov.Node, int]:
    """The nodes that need that position only, in topological order, with the axis of it in each one's output."""
    wanted = {_key(reader.input(0)): 1}  # inputs that need one position, with its axis
    found: dict[ov.Node, int] = {}
    order = graph.get_ordered_ops()
    for node in reversed(order[: _index(order, reader)]):
        if node.get_output_size() != 1 or any(value.get_partial_shape().rank.is_dynamic for value in _values(node)):
            continue
        readers = [_key(port) for port in node.output(0).get_target_inputs()]
        axes = {wanted.get(port) for port in readers}
        common = axes.pop() if len(axes) == 1 else None  # None: some reader needs all positions
        passed = _passes(node, common) if common is not None else None
        if common is not None and passed is not None:
            found[node] = common
            wanted |= {_key(node.input(port)): inner for port, inner in passed.items()}
    return dict(reversed(found.items()))


def _values(node: ov.Node) -> list[ov.Output]:
    """What a node makes, and what it reads."""
    return [node.output(0), *node.input_values()]


def _passes(node: ov.Node, axis: int) -> dict[int, int] | None:
    """The inputs of which a node needs one position to give that position, with their axes; None where it mixes positions."""
    kind, shape = node.get_type_name(), node.output(0).get_partial_shape()
    rank, last = len(shape), len(shape) - 1
    if kind in _UNARY or (kind == "MVN" and _constant(node.input_value(1)) is not None and _along_last(node, last)):
        return {0: axis} if axis != last or kind in _UNARY else None
    if kind == "FakeQuantize":
        ranges = [node.input_value(i).get_partial_shape() for i in range(1, 5)]
        return {0: axis} if all(_is_flat(of, axis - rank) for of in ranges) else None
    if kind in _BINARY:
        ports = [i for i in (0, 1) if not _is_fixed(node.input_value(i).get_node())]
        fits = all(len(node.input_value(i).get_partial_shape()) == rank for i in ports)
        flat = all(_is_flat(node.input_value(i).get_partial_shape(), axis - rank) for i in (0, 1) if i not in ports)
        return dict.fromkeys(ports, axis) if ports and fits and flat else None
    if kind == "MatMul":
        plain = _is_product(node) and not node.get_attributes()["transpose_a"]
        return {0: axis} if plain and axis < last else None
    if kind == "Transpose":
        order = _constant(node.input_value(1))
        return {0: int(order[axis])} if order is not None else None
    if kind == "Reshape":
        return {0: axis} if _keeps(node, axis) else None
    if kind == "ScaledDotProductAttention" and axis == rank - 2 and not node.get_attributes()["causal"]:
        return {0: axis, **({3: axis} if _masked(node, axis) else {})}
    return None


def _take_early(node: ov.Node, axis: int, axes: dict[ov.Node, int], position: int) -> None:
    """Give a node one position of each input that is not narrow itself."""
    for port, inner in (_passes(node, axis) or {}).items():
        source = node.input_value(port)
        if source.get_node() not in axes and source.get_partial_shape()[inner] != 1:
            stop = position + 1 if position == 0 else np.iinfo(np.int64).max
            bounds = [np.array([value], np.int64) for value in (position, stop, 1, inner)]
            node.input(port).replace_source_output(ops.slice(source, *bounds).output(0))
    if node.get_type_name() == "Reshape":
        sizes = _static(node.output(0).get_partial_shape(), 2) or []
        node.input(1).replace_source_output(ops.constant(np.array([-1, 1, *sizes], np.int64)).output(0))


def _drop_idle_reshapes(graph: ov.Model) -> None:
    """Take away each `Reshape` that gives a value the shape that it has; tracing leaves one behind an attention."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Reshape" or (target := _constant(node.input_value(1))) is None:
            continue
        before = node.input_value(0).get_partial_shape()
        if before.rank.is_dynamic:
            continue
        copies = [int(to) == 0 and node.get_attributes()["special_zero"] for to in target]
        same = len(before) == len(target) and all(
            copied or dim == int(to) for copied, dim, to in zip(copies, before, target, strict=True) if int(to) != -1
        )
        if same:  # all but one size are what they were, so that one is too
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(node.input_value(0))


def _keeps(node: ov.Node, axis: int) -> bool:
    """Whether a `Reshape` splits or merges what comes after the first two axes, of which the second is the position's, or nothing."""
    before, after = node.input_value(0).get_partial_shape(), node.output(0).get_partial_shape()
    inner = [_static(shape, 2) for shape in (before, after)]
    if axis == 1:
        return None not in inner and int(np.prod(inner[0] or [1])) == int(np.prod(inner[1] or [1]))
    return False


def _static(shape: Any, start: int) -> list[int] | None:
    dims = list(shape)[start:]
    return [dim.get_length() for dim in dims] if all(dim.is_static for dim in dims) else None


def _is_product(node: ov.Node) -> bool:
    return node.get_type_name() == "MatMul" and _is_fixed(node.input_value(1).get_node())


def _along_last(node: ov.Node, last: int) -> bool:
    axes = _constant(node.input_value(1))
    return axes is not None and [int(a) for a in np.ravel(axes)] in ([-1], [last])


def _is_flat(shape: Any, axis: int) -> bool:
    """Whether a constant is the same at all positions: it has no such axis, or one of size 1."""
    return len(shape) < -axis or shape[axis] == 1


def _masked(node: ov.Node, axis: int) -> bool:
    return node.get_input_size() > 3 and len(node.input_value(3).get_partial_shape()) == axis + 2


def _constant(value: ov.Output) -> Any:
    """A constant's array, also behind a conversion; None where a value is computed."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _is_fixed(node: ov.Node, depth: int = 8) -> bool:
    """Whether a node follows from constants alone, as a weight that is stored in integers does."""
    if node.get_type_name() == "Constant":
        return True
    sources = [node.input_value(port).get_node() for port in range(node.get_input_size())]
    return depth > 0 and bool(sources) and all(_is_fixed(source, depth - 1) for source in sources)


def _key(port: Any) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _index(order: list[ov.Node], node: ov.Node) -> int:
    return next(i for i, other in enumerate(order) if other.get_friendly_name() == node.get_friendly_name())
