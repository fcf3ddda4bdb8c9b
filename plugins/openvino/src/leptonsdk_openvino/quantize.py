"""NNCF's post-training quantization: weights and activations with calibration data, or weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import openvino as ov

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import complete_inputs, matches_any, model_inputs
from leptonsdk.hooks import StepContext
from leptonsdk_openvino.config import OpenVINOConfig
from leptonsdk_openvino.graph import module_of, weighted_nodes
from leptonsdk_openvino.graph_integers import compressed
from leptonsdk_openvino.runner import BEAM
from leptonsdk_openvino.silence import converting


def quantize(
    graphs: Mapping[str, ov.Model], precision: str, config: OpenVINOConfig, model: Any, context: StepContext
) -> tuple[dict[str, ov.Model], dict[str, Any]]:
    """Quantized graphs, and what was done, for the artifact's details.

    Of an encoder-decoder, ``int8`` quantizes the encoder's activations; the decoder gets int8 weights only.

    Raises:
        ExportError: There was nothing to quantize.
        UsageError: The calibration data holds no example.
    """
    done: dict[str, ov.Model] = {}
    report: dict[str, Any] = {}
    for name, graph in graphs.items():
        calibrated = precision == "int8" and not done  # the encoder comes first
        kept = [
            node.get_friendly_name() for node in weighted_nodes(graph) if matches_any(module_of(node), config.ignore)
        ]
        if calibrated:
            feeds = list(_feeds(graph, model, config, context))
            done[name] = _post_training(graph, config, feeds, kept)
            method: dict[str, Any] = {"method": "nncf.quantize", "samples": sum(_rows(feed) for feed in feeds)}
        else:
            done[name] = _weights_only(graph, precision, config, kept)
            method = {"method": "nncf.compress_weights", "precision": precision.replace("int8-weights", "int8")}
        constants = list(compressed(done[name]))
        if not constants:
            raise ExportError(
                "nothing was quantized", where=name, hint="`ignore` names every weight, or the model has none"
            )
        report[name] = {**method, "weights": len(constants), "kept_in_float": sorted(kept)}
    return done, report


def _post_training(graph: ov.Model, config: OpenVINOConfig, feeds: list[dict[str, Any]], kept: list[str]) -> ov.Model:
    with converting():
        import nncf

        alpha = nncf.AdvancedSmoothQuantParameters(matmul=config.smoothing, convolution=-1)
        return nncf.quantize(
            graph,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset(config.preset),
            subset_size=len(feeds),
            fast_bias_correction=config.fast_bias_correction,
            ignored_scope=nncf.IgnoredScope(names=kept),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alpha),
        )


def _weights_only(graph: ov.Model, precision: str, config: OpenVINOConfig, kept: list[str]) -> ov.Model:
    with converting():
        import nncf

        int4 = precision == "int4-weights"
        return nncf.compress_weights(
            graph,
            mode=nncf.CompressWeightsMode.INT4_ASYM if int4 else nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(names=kept),
            **({"group_size": config.group_size} if int4 else {}),
        )


def _feeds(graph: ov.Model, model: Any, config: OpenVINOConfig, context: StepContext) -> Iterator[dict[str, Any]]:
    names = {port.get_any_name() for port in graph.inputs} - {BEAM}
    left = config.calibration_samples
    for batch in context.calibration(config.calibration_batch_size):
        if left <= 0:
            return
        inputs = {name: value[:left] for name, value in model_inputs(model, batch).items()}
        feed = {name: np.ascontiguousarray(value) for name, value in complete_inputs(inputs, names).items()}
        if any(BEAM in port.get_names() for port in graph.inputs):
            feed[BEAM] = np.arange(_rows(feed), dtype=np.int32)
        left -= _rows(feed)
        context.progress(config.calibration_samples - left, config.calibration_samples, "calibrating")
        yield feed
    if left == config.calibration_samples:
        raise UsageError("the calibration data holds no example", hint="check `data.calibration`")


def _rows(feed: Mapping[str, Any]) -> int:
    return int(next(iter(feed.values())).shape[0])
