"""Small tools on `onnx_ir` graphs: constants, new nodes, and where a node comes from in the source model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from leptonsdk.exporting import matches_any

MICROSOFT = "com.microsoft"
NAMESPACE = "namespace"


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer, or None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def float_matrix(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The array of a two-dimensional float32 initializer, or None."""
    array = constant(value)
    return array if array is not None and array.ndim == 2 and array.dtype == np.float32 else None


def rank(value: ir.Value | None) -> int | None:
    """How many axes a value has, where tracing told."""
    return len(value.shape) if value is not None and value.shape is not None else None


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer; one of that name that is there already is taken to be the same."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.val(name, dtype=tensor.dtype, shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    *,
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> list[ir.Value]:
    """Insert a node before another one; its outputs."""
    node = ir.node(op_type, inputs, attributes=attributes, num_outputs=outputs, domain=domain)
    before.graph.insert_before(before, node)
    return list(node.outputs)


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, where it is of one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def replace_uses(node: ir.Node, value: ir.Value) -> None:
    """Let every user of the node's one output read ``value`` instead, which keeps its own name, and drop the node."""
    if node.outputs[0].is_graph_output():
        replace(node, value)
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], value)
    node.graph.remove(node, safe=True)


def replace(node: ir.Node, value: ir.Value) -> None:
    """Let every user of the node's one output read ``value`` instead, under that output's name, and drop the node."""
    old = node.outputs[0]
    if value.shape is None:
        value.shape = old.shape
    if value.type is None:
        value.type = old.type
    graph, name = node.graph, old.name
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name


def module_name(node: ir.Node) -> str:
    """The source model's module that a node was traced in (``bert.pooler.dense``), or an empty string."""
    parts = str(node.metadata_props.get(NAMESPACE, "")).split("/")
    names = [part.split(":", 1)[0].strip() for part in parts]
    # The last entry is the operation itself, the first one is the root, which has no name.
    return next((name for name in reversed(names[:-1]) if name), "")


def name_weights(model: ir.Model) -> None:
    """Give weights that tracing transposed or folded a name after their module, in place of ``val_69``."""
    graph = model.graph
    for node in graph:
        if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
            continue
        weight, module = node.inputs[1], module_name(node)
        if float_matrix(weight) is None or not module or not re.fullmatch(r"val_\d+", weight.name or ""):
            continue
        if (name := f"{module}.weight.transposed") not in graph.initializers:
            rename(graph, weight, name)


def rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Rename a value; an initializer keeps its place in the graph's table."""
    if value.is_initializer():
        tensor = value.const_value
        del graph.initializers[value.name]
        value.name = name
        if tensor is not None:
            tensor.name = name
        graph.initializers[name] = value
    else:
        value.name = name


def share_transposed(model: ir.Model) -> int:
    """Store a matrix once that stands in the graph a second time transposed (tied embeddings); how many were found.

    ONNX Runtime folds the `Transpose` away when it opens the model.
    """
    graph, shared = model.graph, 0
    tables = {
        id(n.inputs[0]): n.inputs[0] for n in graph if n.op_type == "Gather" and float_matrix(n.inputs[0]) is not None
    }
    for node in list(graph):
        weight = float_matrix(node.inputs[1]) if node.op_type == "MatMul" else None
        if weight is None:
            continue
        for table in tables.values():
            matrix = float_matrix(table)
            if matrix is not None and matrix.shape == weight.shape[::-1] and np.array_equal(matrix, weight.T):
                node.replace_input_with(1, insert(node, "Transpose", [table], perm=[1, 0])[0])
                shared += 1
                break
    RemoveUnusedNodesPass()(model)
    return shared


def pack_siblings(model: ir.Model, ignore: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Merge the `MatMul`s that read one input (query, key and value), with their biases, into one and split its output.

    Returns:
        The names of the weights that were put together, columns beside columns, by the new one's name.
    """
    graph, merged = model.graph, dict[str, list[str]]()
    by_input: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if (
            node.op_type == "MatMul"
            and float_matrix(node.inputs[1]) is not None
            and not matches_any(module_name(node), ignore)
        ):
            by_input.setdefault(node.inputs[0], []).append(node)
    for source, nodes in by_input.items():
        weights = [matrix for node in nodes if (matrix := float_matrix(node.inputs[1])) is not None]
        if len(nodes) < 2 or len({id(node.inputs[1]) for node in nodes}) != len(nodes):
            continue
        first = nodes[0]
        parts = [str(node.inputs[1].name) for node in nodes]
        name = "+".join(parts)
        merged[name] = parts
        packed = add_initializer(graph, name, np.concatenate(weights, axis=1))
        sizes = add_initializer(graph, f"{name}.sizes", np.array([w.shape[1] for w in weights], np.int64))
        [product] = insert(first, "MatMul", [source, packed])
        product.producer().metadata_props.update(first.metadata_props)
        adds = [bias_add(node, weight.shape[1]) for node, weight in zip(nodes, weights, strict=True)]
        if any(adds):
            known = [constant(add[1]) if add is not None else None for add in adds]
            biases = [np.zeros(w.shape[1], np.float32) if b is None else b for b, w in zip(known, weights, strict=True)]
            [product] = insert(first, "Add", [product, add_initializer(graph, f"{name}.bias", np.concatenate(biases))])
        outputs = insert(first, "Split", [product, sizes], outputs=len(nodes), axis=-1)
        for node, add, output in zip(nodes, adds, outputs, strict=True):
            replace(node if add is None else add[0], output)
    RemoveUnusedNodesPass()(model)
    return merged


def bias_add(product: ir.Node, columns: int) -> tuple[ir.Node, ir.Value] | None:
    """The `Add` of a constant vector that alone reads a product [..., columns], and the vector [columns]."""
    users = [user for user, _ in product.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add" or product.outputs[0].is_graph_output():
        return None
    vector = next((value for value in users[0].inputs if value is not product.outputs[0]), None)
    array = constant(vector)
    return (users[0], vector) if vector is not None and array is not None and array.shape == (columns,) else None


def tidy(model: ir.Model, dims: dict[str, str]) -> None:
    """Make a graph fit to be saved: readable axis names, no traces of the machine that made it, no stale shapes.

    Tracing leaves stack traces with file paths in the nodes' metadata, and shapes of intermediate values that no longer
    hold once weights are replaced; ONNX Runtime infers them itself.
    """
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, dims) for dim in value.shape])
    model.metadata_props.clear()
    model.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    kept = {*graph.inputs, *graph.outputs}
    for value in graph.initializers.values():
        value.metadata_props.clear()
    for index, node in enumerate(graph):
        node.metadata_props.clear()
        node.doc_string = None
        node.name = f"{node.op_type}_{index}"
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in kept:
                value.shape = value.type = None
    for value in kept:
        value.metadata_props.clear()


def _renamed(dim: Any, dims: dict[str, str]) -> Any:
    return ir.SymbolicDim(dims.get(str(dim), str(dim))) if isinstance(dim, ir.SymbolicDim) else dim
