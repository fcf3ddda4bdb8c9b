"""int8 by the scales that a checkpoint carries from quantization-aware training, in place of NNCF's calibration.

A trained layer's input passes a `FakeQuantize` over its trained range, and its weight stands as the trained integers, of 8 bits
with a scale for each output channel: the form that NNCF's graphs have, which OpenVINO's CPU plugin turns into integer products.
(It multiplies in float where weights have zero points or groups, or stand in 4 bits.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset14 as ops
import torch

from leptonsdk.errors import UsageError
from leptonsdk.exporting import matches_any
from leptonsdk.quantization import QuantizedTensor, Scheme, round_to_nearest
from leptonsdk.quantization.activations import HIGHEST, LOWEST, InputScale
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk_openvino.config import OpenVINOConfig, why_not_int8
from leptonsdk_openvino.graph import FLOATS, constants, module_of, readers
from leptonsdk_openvino.graph_packed import check_holds, compressed_weight, lower

_FEWEST_ROWS = 16  # a table of token types saves nothing, and every token shares its error


def check_multiplies(quantized: Mapping[str, AnyTensor]) -> None:
    """Raise a `UsageError` that names the layers whose trained integers OpenVINO's int8 kernels cannot multiply."""
    check_holds(quantized)
    reasons: dict[str, list[str]] = {}
    for name in _input_scales(quantized):
        if (reason := why_not_int8(quantized[name].scheme)) is not None:
            reasons.setdefault(f"{quantized[name].scheme.name}: {reason}", []).append(name)
    if reasons:
        raise UsageError(
            "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items()),
            where="openvino int8",
            hint="ask for packed, which keeps the integers and computes with float activations; or train with "
            "`group_size: -1` and `symmetric: true`",
        )


def quantize_trained(
    graphs: Iterable[ov.Model], quantized: Mapping[str, AnyTensor], config: OpenVINOConfig
) -> dict[str, Any]:
    """Quantize float graphs in place by what a checkpoint carries. Layers that were trained in float stay so.

    Embedding tables that carry no integers are rounded to 8 bits row by row.

    Args:
        graphs: Traced from the checkpoint's model, which computes with the numbers that the integers stand for.
        quantized: By module name.
        config: Which modules stay in float.

    Returns:
        What was done, for the artifact's details.

    Raises:
        ExportError: A module's weight is not in the graphs, or is another one there.
    """
    graphs = list(graphs)
    quantized = {name: tensor for name, tensor in quantized.items() if not matches_any(name, config.ignore)}
    scales = _input_scales(quantized)
    report = lower(graphs, quantized, in_bytes=scales)
    rounded = sum(_round_inputs(graph, scales) for graph in graphs)
    tables = sum(_round_tables(graph, config) for graph in graphs)
    for graph in graphs:
        graph.validate_nodes_and_infer_types()
    activations = f"int8, {rounded} trained ranges"
    return {"method": "trained", **report, "embeddings_rounded": tables, "activations": activations}


def _input_scales(quantized: Mapping[str, AnyTensor]) -> dict[str, InputScale]:
    return {
        name: tensor.input_scale
        for name, tensor in quantized.items()
        if isinstance(tensor, QuantizedTensor) and tensor.input_scale is not None
    }


def _round_inputs(graph: ov.Model, scales: Mapping[str, InputScale]) -> int:
    """Put a `FakeQuantize` before each product that has a trained range, one for those that share both; how many."""
    made: dict[tuple[str, int, InputScale], ov.Node] = {}
    for product in graph.get_ordered_ops():
        scale = scales.get(module_of(product)) if product.get_type_name() == "MatMul" else None
        if scale is None:
            continue
        source = product.input_value(0)
        key = (source.get_node().get_friendly_name(), source.get_index(), scale)
        if key not in made:
            low, high = (np.array(end, np.float32) for end in scale.range)
            made[key] = ops.fake_quantize(source, low, high, low, high, HIGHEST - LOWEST + 1)
        product.input(0).replace_source_output(made[key].output(0))
    return len(made)


def _round_tables(graph: ov.Model, config: OpenVINOConfig) -> int:
    """Round the float tables that only lookups read, row by row; how many."""
    done = 0
    for constant in list(constants(graph)):
        nodes = readers(constant)
        if constant.get_element_type() not in FLOATS or len(constant.shape) != 2 or constant.shape[0] < _FEWEST_ROWS:
            continue
        if not nodes or any(not _is_lookup(node) or matches_any(module_of(node), config.ignore) for node in nodes):
            continue
        tensor = round_to_nearest(torch.from_numpy(np.array(constant.data)).float(), Scheme.preset("W8A16"))
        weight, _ = compressed_weight(tensor, str(constant.get_friendly_name()))
        constant.output(0).replace(weight.output(0))
        done += 1
    return done


def _is_lookup(node: ov.Node) -> bool:
    """Whether a node looks rows up by indices that vary."""
    return bool(node.get_type_name() == "Gather" and node.input_value(1).get_node().get_type_name() != "Constant")
