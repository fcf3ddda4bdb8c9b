"""Counting the weights that stand in an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from leptonsdk.hooks import StoredIntegers, WeightProfile
from leptonsdk_onnxruntime.quantize_blocks import ZERO
from leptonsdk_onnxruntime.quantize_graph import QUANTIZED, SCALE, ZERO_POINT
from leptonsdk_onnxruntime.quantize_packed import is_packed, unpacked
from leptonsdk_onnxruntime.quantize_tables import INT4, unpack_4_bits

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def weight_profile(paths: Sequence[Path]) -> WeightProfile:
    """Weights, zeros and bits of some graphs' initializers. Constants of their arithmetic (shapes, axes) are left out."""
    found = [_profile(ir.load(path).graph) for path in paths]
    return WeightProfile(*(sum(figures) for figures in zip(*found, strict=True)))


def stored_integers(paths: Sequence[Path]) -> dict[str, StoredIntegers]:
    """The packed weights of some graphs, by module name."""
    return {name: StoredIntegers(*found) for path in paths for name, found in unpacked(ir.load(path).graph).items()}


def _profile(graph: ir.Graph) -> tuple[int, int, int]:
    parameters = zeros = bits = 0
    for integers, _, zero_points in unpacked(graph).values():
        parameters, zeros = parameters + integers.size, zeros + _count_zeros(integers, zero_points)
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if name.endswith((SCALE, ZERO_POINT)) or is_packed(name):
            bits += tensor.nbytes * 8
        elif name.endswith(QUANTIZED) or (tensor.dtype in _FLOATS and tensor.size > 1):
            array = tensor.numpy()
            if name.endswith(f"{INT4}{QUANTIZED}"):
                array = unpack_4_bits(array)
            parameters += array.size
            zero = ZERO if array.dtype == np.uint8 else 0
            zeros += int(np.count_nonzero(array == zero))
            bits += tensor.nbytes * 8
    return parameters, zeros, bits


def _count_zeros(integers: NDArray[np.int8], zero_points: NDArray[np.int8] | None) -> int:
    if zero_points is None:
        return int(np.count_nonzero(integers == 0))
    width = -(-integers.shape[1] // zero_points.shape[1])
    return int(np.count_nonzero(integers == np.repeat(zero_points, width, axis=1)[:, : integers.shape[1]]))
