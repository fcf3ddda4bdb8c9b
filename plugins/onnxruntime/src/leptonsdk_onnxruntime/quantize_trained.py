"""Static quantization by the scales that a checkpoint carries from quantization-aware training, in place of calibration.

The weights of such a checkpoint are multiples of their channels' scales whose largest one is the largest integer, so that
`weight_scales` finds the trained integers again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from leptonsdk.quantization.activations import InputScale
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.quantize_graph import find_linears
from leptonsdk_onnxruntime.quantize_scales import activation_range_to_scale


def only(config: OnnxRuntimeConfig, model: ir.Model, trained: Mapping[str, InputScale]) -> OnnxRuntimeConfig:
    """The config with every other product of the float graph ignored: it was trained in float."""
    modules = {linear.module for linear in find_linears(model, config.ignore)}
    others = tuple(sorted(modules - trained.keys()))
    return config.model_copy(update={"ignore": (*config.ignore, *others)})


def trained_ranges(
    model: ir.Model, config: OnnxRuntimeConfig, trained: Mapping[str, InputScale]
) -> dict[str, tuple[np.float32, np.uint8]]:
    """Scale and zero point of every activation that will be quantized, by value name.

    Where layers with scales of their own read one value, the range of all counts.
    """
    ends: dict[str, list[InputScale]] = {}
    for linear in find_linears(model, config.ignore):
        ends.setdefault(str(linear.source.name), []).append(trained[linear.module])
    ranges = {}
    for name, scales in ends.items():
        if len(set(scales)) == 1:
            ranges[name] = np.float32(scales[0].scale), np.uint8(scales[0].zero_point + 128)
        else:
            lows, highs = zip(*(scale.range for scale in scales), strict=True)
            ranges[name] = activation_range_to_scale(min(lows), max(highs))
    return ranges
