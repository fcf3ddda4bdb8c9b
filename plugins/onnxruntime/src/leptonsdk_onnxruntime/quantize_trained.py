"""Static quantization by what a checkpoint carries from quantization-aware training: its integers and scales of weights, bit for
bit, and its scales of activations in place of calibration.

`quantize_graph` takes integers and scales that stand in a graph under a weight's name already as they are. Weights that have
integers but no scale for their input, tables mostly, are packed (see `quantize_packed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import matches_any
from leptonsdk.quantization import QuantizedTensor
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig, why_not_int8
from leptonsdk_onnxruntime.graph import add_initializer, float_matrix, pack_siblings
from leptonsdk_onnxruntime.quantize_graph import QUANTIZED, SCALE, Linear, as_linear, quantize_graph
from leptonsdk_onnxruntime.quantize_packed import check_holds, check_same, lower
from leptonsdk_onnxruntime.quantize_report import described
from leptonsdk_onnxruntime.quantize_scales import Floats, Integers, activation_range_to_scale

_Own = tuple[Integers, Floats]  # of a weight's own shape; [out]


def check_multiplies(quantized: Mapping[str, AnyTensor], config: OnnxRuntimeConfig) -> None:
    """Check that ONNX Runtime's int8 kernels can multiply a checkpoint's trained integers as they are.

    Raises:
        UsageError: Names the layers that they cannot, and why; or those whose integers cannot be packed.
    """
    refused: dict[str, list[str]] = {}
    for name in _trained(quantized, config):
        scheme = quantized[name].scheme
        if (reason := why_not_int8(scheme, config.reduce_range)) is not None:
            refused.setdefault(f"{scheme.name}: {reason}", []).append(name)
    if refused:
        raise UsageError(
            "; ".join(f"{reason}: {', '.join(names)}" for reason, names in refused.items()),
            where="onnxruntime int8-static",
            hint="ask for packed, which keeps the integers and computes with float activations; or train with "
            f"`group_size: -1`, `symmetric: true`{' and `bit_width: 7`' if config.reduce_range else ''}",
        )
    check_holds(quantized)


def quantize_trained(
    models: Sequence[ir.Model],
    quantized: Mapping[str, AnyTensor],
    config: OnnxRuntimeConfig,
    table_of: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Quantize float graphs in place by what a checkpoint carries. Layers that were trained in float stay so.

    Args:
        models: Traced from the checkpoint's model, which computes with the numbers that the integers stand for.
        quantized: By module name; `check_multiplies` has passed them.
        config: Which modules stay in float.
        table_of: The name under which a module's integers stand where that is another's: of layers that share a table.

    Returns:
        What was done in each, for the artifact's details.

    Raises:
        ExportError: A module's weight is not in the graphs, or is another one there.
    """
    trained = _trained(quantized, config)
    kept = {n: t for n, t in quantized.items() if n not in trained and not matches_any(n, config.ignore)}
    sharing = (module for module, table in table_of.items() if table in kept)
    config = config.model_copy(update={"ignore": (*config.ignore, *kept, *sharing)})
    found: set[str] = set()
    done = [_quantize(model, trained, config, table_of, found) for model in models]
    if missing := sorted(trained.keys() - found):
        raise ExportError(
            f"{len(missing)} quantized weights are not in the traced graph: {', '.join(missing[:5])}",
            hint="ask for `precision: fp32` to export the numbers that they stand for",
        )
    if kept:
        packed = lower(models, kept, int8_activations=False, table_of=table_of)
        done = [
            {**ours, "packed": theirs["weights"], "kept_in_float": theirs["kept_in_float"]}
            for ours, theirs in zip(done, packed, strict=True)
        ]
    return done


def _trained(quantized: Mapping[str, AnyTensor], config: OnnxRuntimeConfig) -> dict[str, QuantizedTensor]:
    """The weights whose inputs have a scale, by module name, without the ignored ones."""
    return {
        name: tensor
        for name, tensor in quantized.items()
        if isinstance(tensor, QuantizedTensor)
        and tensor.input_scale is not None
        and not matches_any(name, config.ignore)
    }


def _quantize(
    model: ir.Model,
    trained: Mapping[str, QuantizedTensor],
    config: OnnxRuntimeConfig,
    table_of: Mapping[str, str],
    found: set[str],
) -> dict[str, Any]:
    """Quantize one graph; the modules whose weights stand in it are noted in ``found``."""

    def name_of(linear: Linear) -> str:
        return linear.module if linear.module in trained else table_of.get(linear.module, linear.module)

    linears = [linear for linear in map(as_linear, model.graph) if linear is not None]
    found |= trained.keys() & set(map(name_of, linears))
    others = sorted({linear.module for linear in linears if name_of(linear) not in trained})
    config = config.model_copy(update={"ignore": (*config.ignore, *others)})
    meant = [(linear, trained[name_of(linear)]) for linear in linears if name_of(linear) in trained]
    own = {str(linear.stored.name): _own(linear, name_of(linear), tensor) for linear, tensor in meant}
    ranges = _ranges(meant)  # before siblings are one product: each has a scale for what they all read
    for name, parts in pack_siblings(model, config.ignore).items():
        integers, scales = zip(*(own[part] for part in parts), strict=True)
        own[name] = np.concatenate(integers, axis=1), np.concatenate(scales)
    for name, (values, scale) in own.items():
        add_initializer(model.graph, f"{name}{QUANTIZED}", values)
        add_initializer(model.graph, f"{name}{SCALE}", scale)
    return described(quantize_graph(model, config, ranges), {"method": "trained"})


def _own(linear: Linear, name: str, tensor: QuantizedTensor) -> _Own:
    """A weight's integers as the graph has the weight, and its scales [out]."""
    stored = float_matrix(linear.stored)
    assert stored is not None
    check_same(name, stored if linear.transposed else stored.T, tensor)
    integers = tensor.integers.numpy()
    scale = np.broadcast_to(tensor.scale.float().numpy(), (len(integers), 1)).reshape(-1)
    return integers if linear.transposed else integers.T, scale


def _ranges(meant: Sequence[tuple[Linear, QuantizedTensor]]) -> dict[str, tuple[np.float32, np.uint8]]:
    """Scale and zero point of every activation that will be quantized, by value name.

    Where layers with scales of their own read one value, the range of all counts.
    """
    scales: dict[str, list[InputScale]] = {}
    for linear, tensor in meant:
        assert tensor.input_scale is not None
        scales.setdefault(str(linear.source.name), []).append(tensor.input_scale)
    ranges = {}
    for name, own in scales.items():
        if len(set(own)) == 1:
            ranges[name] = np.float32(own[0].scale), np.uint8(own[0].zero_point + 128)
        else:
            lows, highs = zip(*(scale.range for scale in own), strict=True)
            ranges[name] = activation_range_to_scale(min(lows), max(highs))
    return ranges
