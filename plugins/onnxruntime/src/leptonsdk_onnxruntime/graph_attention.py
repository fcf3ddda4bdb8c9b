"""Attention as ONNX's own operator (opset 23), without the detours that tracing leaves around it.

Tracing writes `Attention` over [batch, heads, length, size], and with it the transposes to and from that layout, copies of
grouped keys and values, a mask gathered cell by cell, and a `Where` for rows that may attend to nothing. The operator itself takes
[batch, length, heads * size] and grouped heads. What remains is standard ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from leptonsdk_onnxruntime.graph import add_initializer, constant, insert, producer, rank, replace, replace_uses

_SWAP = (0, 2, 1, 3)  # [batch, length, heads, size] and [batch, heads, length, size], one into the other


def simplify_attention(model: ir.Model, dims: Mapping[str, str]) -> int:
    """Rewrite in place; how many attentions now take their heads merged, [batch, length, heads * size].

    Args:
        model: A traced graph, with its shapes.
        dims: What tracing's symbols stand for: two symbols with one name are one size.

    A query row that may attend to nothing (all its keys are masked) gives the mean of the values; torch gives zeros. No attended
    position ever reads such a row.
    """
    _simplify_masks(model.graph, dims)
    _stretch_rotations(model.graph)
    merged = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx"):
            continue
        _drop_empty_rows(node)
        for position in (1, 2):
            node.replace_input_with(position, _ungrouped(node.inputs[position]))
        if len(node.inputs) > 3 and _masks_nothing(node.inputs[3]):
            node.replace_input_with(3, None)
        merged += _merge_heads(node)
    RemoveUnusedNodesPass()(model)
    return merged


def _simplify_masks(graph: ir.Graph, dims: Mapping[str, str]) -> None:
    for node in list(graph):
        if node.op_type == "GatherND" and (mask := _looked_up_cell_by_cell(node, dims)) is not None:
            axes = add_initializer(graph, "mask_axes", np.array([1, 2], np.int64))
            replace(node, insert(node, "Unsqueeze", [mask, axes])[0])
        elif node.op_type == "And":
            for whole, other in (node.inputs, node.inputs[::-1]):
                # The same shape: ONNX Runtime does not stretch a mask along the queries, so this `And` may have to.
                if _always_true(whole) and other is not None and _same_shape(other, node.outputs[0]):
                    replace_uses(node, other)
                    break


def _stretch_rotations(graph: ir.Graph) -> None:
    """Give `RotaryEmbedding` its angles for every row: tracing leaves those that all rows share (ModernBERT's) at one, which
    ONNX Runtime refuses.
    """
    stretched: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type != "RotaryEmbedding" or node.domain not in ("", "ai.onnx"):
            continue
        for position, angles in enumerate(node.inputs[1:3], start=1):
            wave = producer(angles, "Cos", "Sin")  # tracing tells the shape of what goes into it
            shape = wave.inputs[0].shape if wave is not None and wave.inputs[0] is not None else None
            if angles is None or shape is None or len(shape) != 3 or shape[0] != 1:
                continue
            if angles not in stretched:
                [rows] = insert(node, "Shape", [node.inputs[0]], start=0, end=1)
                ones = add_initializer(graph, "angles_ones", np.array([1, 1], np.int64))
                [stretched[angles]] = insert(node, "Expand", [angles, insert(node, "Concat", [rows, ones], axis=0)[0]])
            node.replace_input_with(position, stretched[angles])


def _looked_up_cell_by_cell(node: ir.Node, dims: Mapping[str, str]) -> ir.Value | None:
    """The mask [batch, keys] where a `GatherND` reads all of it in order, as [batch, 1, 1, keys]."""
    mask, indices = node.inputs
    if mask is None or mask.shape is None or len(mask.shape) != 2 or node.attributes.get_int("batch_dims", 0):
        return None
    concat = producer(indices, "Concat")
    if concat is None or len(concat.inputs) != 2:
        return None
    for axis, kept, part in zip((0, 3), mask.shape, concat.inputs, strict=True):
        counts = _input_of(_input_of(part, "Unsqueeze"), "Expand")
        if not _counts_along(counts, axis, kept, dims):
            return None
    return mask if rank(node.outputs[0]) == 4 else None


def _input_of(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """The first input of the node that makes a value, where it is of that type."""
    node = producer(value, op_type)
    return node.inputs[0] if node is not None else None


def _counts_along(value: ir.Value | None, axis: int, length: object, dims: Mapping[str, str]) -> bool:
    """Whether a value of rank 4 is 0, 1, 2 … along one axis of that length, and of length 1 along the others."""
    if value is None or value.shape is None or len(value.shape) != 4 or not _from_range(value):
        return False
    expected = [str(length) if at == axis else "1" for at in range(4)]
    return all(dims.get(str(a), str(a)) == dims.get(b, b) for a, b in zip(value.shape, expected, strict=True))


def _from_range(value: ir.Value | None) -> bool:
    """Whether a value is 0, 1, 2 …, perhaps with axes added."""
    while (step := producer(value, "Unsqueeze")) is not None:
        value = step.inputs[0]
    counted = producer(value, "Range")
    if counted is None:
        return False
    start, step = constant(counted.inputs[0]), constant(counted.inputs[2])
    return start is not None and step is not None and int(start) == 0 and int(step) == 1


def _always_true(value: ir.Value | None) -> bool:
    array = constant(value)
    if array is not None:
        return array.dtype == np.bool_ and bool(array.all())
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type == "And":
        return all(map(_always_true, node.inputs))
    if node.op_type in ("Expand", "Unsqueeze", "Reshape"):
        return _always_true(node.inputs[0])
    if node.op_type == "GreaterOrEqual":
        limit = constant(node.inputs[1])
        return limit is not None and not limit.any() and _from_range(node.inputs[0])
    return False


def _masks_nothing(mask: ir.Value | None) -> bool:
    """Whether an additive mask is ``(not allowed) * c`` with all allowed."""
    return _always_true(_input_of(_input_of(_input_of(mask, "Mul"), "Cast"), "Not"))


def _drop_empty_rows(node: ir.Node) -> None:
    where = _only_user(node.outputs[0], "Where")
    if where is None or where.inputs[2] is not node.outputs[0]:
        return
    zeros, less = constant(where.inputs[1]), producer(where.inputs[0], "Less")
    if zeros is not None and not zeros.any() and less is not None and producer(less.inputs[0], "ReduceSum"):
        replace_uses(where, node.outputs[0])


def _ungrouped(value: ir.Value | None) -> ir.Value | None:
    """Keys or values before each head was copied for the queries that share it: [batch, groups, length, size]."""
    unsqueeze = producer(_input_of(_input_of(value, "Reshape"), "Expand"), "Unsqueeze")
    if unsqueeze is None or rank(value) != 4:
        return value
    axes, grouped = constant(unsqueeze.inputs[1]), unsqueeze.inputs[0]
    return grouped if axes is not None and axes.tolist() == [2] and rank(grouped) == 4 else value


def _merge_heads(node: ir.Node) -> bool:
    """Give an attention its queries, keys and values before their heads were split, and take its output likewise."""
    parts = [_before_split(value) for value in node.inputs[:3]]
    swap = _only_user(node.outputs[0], "Transpose")
    merge = _only_user(swap.outputs[0], "Reshape") if swap is not None and _swaps(swap) else None
    if merge is None or rank(merge.outputs[0]) != 3 or None in parts or len(node.outputs) > 1:
        return False
    queries, keys = (_heads(value) for value in node.inputs[:2])
    if queries is None or keys is None or any(value is not None for value in node.inputs[4:]):
        return False
    if node.outputs[0].shape is None or merge.outputs[0].shape[2] != queries * node.outputs[0].shape[3]:
        return False
    for position, value in enumerate(parts):
        node.replace_input_with(position, value)
    node.attributes["q_num_heads"] = ir.AttrInt64("q_num_heads", queries)
    node.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", keys)
    node.outputs[0].shape, node.outputs[0].type = merge.outputs[0].shape, merge.outputs[0].type
    replace_uses(merge, node.outputs[0])
    return True


def _before_split(value: ir.Value | None) -> ir.Value | None:
    """[batch, length, heads * size], where a value [batch, heads, length, size] was made of it."""
    swap = producer(value, "Transpose")
    whole = _input_of(swap.inputs[0], "Reshape") if swap is not None and _swaps(swap) else None
    return whole if rank(whole) == 3 else None


def _swaps(transpose: ir.Node) -> bool:
    return tuple(transpose.attributes.get_ints("perm", ())) == _SWAP


def _heads(value: ir.Value | None) -> int | None:
    heads = value.shape[1] if value is not None and value.shape is not None and len(value.shape) == 4 else None
    return heads if isinstance(heads, int) else None


def _only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    users = [user for user, _ in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output() else None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and list(map(str, a.shape)) == list(map(str, b.shape))
