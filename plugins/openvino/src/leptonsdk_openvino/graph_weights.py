"""Counting the weights that stand in saved graphs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import openvino as ov

from leptonsdk.hooks import WeightProfile
from leptonsdk_openvino.graph import FLOATS, constants, readers
from leptonsdk_openvino.graph_integers import BITS, compressed, decode


def weight_profile(paths: Iterable[Path]) -> WeightProfile:
    """Weights, zeros and bits of graphs' constants. Those of arithmetic (shapes, axes, single numbers) are left out."""
    core, parts = ov.Core(), []
    for path in paths:
        graph = core.read_model(str(path))
        own: set[str] = set()
        for weight in compressed(graph):
            values = decode(weight.values)
            zero = 0 if weight.zero is None else decode(weight.zero)
            if weight.values.get_element_type() == ov.Type.nf4:
                zero = 7  # the index of 0 in its table
            parts.append((values.size, int(np.count_nonzero(values == zero)), _bits(weight.values)))
            for part in (weight.zero, weight.scale):
                if part is not None:
                    parts.append((0, 0, _bits(part)))
                    own.add(part.get_friendly_name())
        for constant in constants(graph):
            if constant.get_element_type() not in FLOATS or constant.get_friendly_name() in own:
                continue
            size = int(np.prod(constant.shape))
            if size <= 1:
                continue
            names = [f"{node.get_type_name()} {node.get_friendly_name()}" for node in readers(constant)]
            if any(word in name for name in names for word in ("FakeQuantize", "smooth_quant")):
                parts.append((0, 0, _bits(constant)))
            else:
                parts.append((size, size - int(np.count_nonzero(constant.data)), _bits(constant)))
    return WeightProfile(*(int(sum(column)) for column in zip(*parts, strict=True)))


def _bits(constant: ov.Node) -> int:
    size = int(np.prod(constant.shape))
    kind = constant.get_element_type()
    return int(size * BITS.get(kind.get_type_name(), kind.size * 8))
