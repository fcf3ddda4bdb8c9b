"""Reading and editing OpenVINO graphs: names of weights and ports, state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset14 as ops
import torch

FLOATS = (ov.Type.f32, ov.Type.f16, ov.Type.bf16)
AGAIN = "'"
_LONG = 256  # a shorter constant weighs less than the conversion's description
_WEIGHTED = ("MatMul", "Gather", "Convolution", "GroupConvolution")


def constants(graph: ov.Model) -> Iterator[ov.Node]:
    """All constants, in topological order."""
    return (node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant")


def consumers(node: ov.Node) -> list[ov.Node]:
    """The nodes that read a node's first output."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def name_weights(graph: ov.Model, model: Any) -> None:
    """Name constants after the source model's parameters, and products and lookups after its modules.

    A fresh graph's constants share memory with the model's parameters, so addresses tell which is which; transposed ones
    (of ``Conv1D``) are copies, found by their values. Of several names of a tied weight, a product gets a linear layer's, and a
    lookup an embedding's.
    """
    owners: dict[int, list[str]] = {}
    taken = {node.get_friendly_name() for node in graph.get_ops()}
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        owners.setdefault(parameter.data_ptr(), []).append(name)
    known: set[str] = set()
    copies = []
    for constant in constants(graph):
        if constant.get_element_type() not in FLOATS or not constant.get_byte_size():
            continue
        names = owners.get(constant.data.ctypes.data)
        if names is None:
            if len(constant.shape) == 2:
                copies.append(constant)
            continue
        known.update(names)
        _name(constant, names, modules, taken)
    left = {n: p.detach() for n, p in parameters.items() if n not in known and p.dim() == 2}
    for constant in copies:
        array = torch.from_numpy(np.array(constant.data))
        for name, value in left.items():
            if value.shape[::-1] == array.shape and torch.equal(value.t().to(array.dtype), array):
                _name(constant, [name], modules, taken)
                del left[name]
                break


def _name(constant: ov.Node, names: list[str], modules: Mapping[str, Any], taken: set[str]) -> None:
    constant.set_friendly_name(_unique(names[0], taken))
    owners = [name.rpartition(".")[0] for name in names]
    lookups = [owner for owner in owners if isinstance(modules.get(owner), torch.nn.Embedding)]
    for node in readers(constant):
        if node.get_type_name() in _WEIGHTED:
            kind = lookups if node.get_type_name() == "Gather" else [o for o in owners if o not in lookups]
            node.set_friendly_name(_unique((kind or owners)[0], taken))


def _unique(name: str, taken: set[str]) -> str:
    """Names must differ in a graph; a module that is called twice has two nodes."""
    while name in taken:
        name += AGAIN
    taken.add(name)
    return name


def module_of(node: ov.Node) -> str:
    """The module that a node was named after."""
    return str(node.get_friendly_name()).rstrip(AGAIN)


def weighted_nodes(graph: ov.Model) -> Iterator[ov.Node]:
    """Products, lookups and convolutions with a constant weight of some size."""
    seen = set()
    for constant in constants(graph):
        if constant.get_element_type() in FLOATS and len(constant.shape) > 1:
            for node in readers(constant):
                if node.get_type_name() in _WEIGHTED and node.get_friendly_name() not in seen:
                    seen.add(node.get_friendly_name())
                    yield node


def readers(constant: ov.Node) -> list[ov.Node]:
    """The nodes that read a constant, through conversions."""
    found = []
    for node in consumers(constant):
        found += readers(node) if node.get_type_name() == "Convert" else [node]
    return found


def store_in_half(graph: ov.Model) -> None:
    """Store long float constants (scales, biases) in fp16, converted back when the graph is compiled; those stay that fp16 cannot
    say to one part in a thousand. (``save_model(compress_to_fp16=True)`` leaves quantized graphs as they are.)
    """
    for constant in list(constants(graph)):
        if constant.get_element_type() != ov.Type.f32 or np.size(constant.data) < _LONG:
            continue
        values = np.array(constant.data)
        half = values.astype(np.float16)
        if np.allclose(half.astype(np.float32), values, rtol=1e-3, atol=1e-3 * float(np.abs(values).mean())):
            targets = constant.output(0).get_target_inputs()
            whole = ops.convert(ops.constant(half), ov.Type.f32)
            for target in targets:
                target.replace_source_output(whole.output(0))
    graph.validate_nodes_and_infer_types()


def rename_ports(graph: ov.Model, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs."""
    for port in (*graph.inputs, *graph.outputs):
        for old in port.get_names() & names.keys():
            port.get_tensor().set_names({names[old]})


def drop_output(graph: ov.Model, name: str) -> None:
    """Remove an output, if there is one of that name."""
    for result in graph.get_results():
        if name in result.output(0).get_names() or name in result.input_value(0).get_names():
            graph.remove_result(result)


def keep_in_state(graph: ov.Model, path: str) -> None:
    """Turn outputs that hold ``path`` in their names into state: computed when it has been reset, read from then on."""
    for result in graph.get_results():
        names = [name for name in result.input_value(0).get_names() if path in name]
        if not names:
            continue
        value = result.input_value(0)
        shape = value.get_partial_shape()
        targets = [port for port in value.get_target_inputs() if port.get_node().get_type_name() != "Result"]
        info = ov.op.util.VariableInfo()
        info.data_shape, info.data_type, info.variable_id = shape, value.get_element_type(), names[0]
        variable = ov.op.util.Variable(info)
        read = ops.read_value(value, variable)
        for port in targets:
            port.replace_source_output(read.output(0))
        assign = ops.assign(read, variable)
        graph.remove_result(result)
        graph.add_variables([variable])
        graph.add_sinks([assign])
    graph.validate_nodes_and_infer_types()
