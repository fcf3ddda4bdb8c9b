"""Compressed weights in a graph: finding them, and reading integers, zero points and scales back out of a saved one.

They stand as ``Constant -> Convert [-> Subtract zero point] -> Multiply scale [-> Reshape]``, the pattern that OpenVINO's plugins
run from the integers; NNCF writes it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from leptonsdk_openvino.graph import constants, consumers, module_of

BITS = {"u2": 2, "u4": 4, "i4": 4, "nf4": 4, "u8": 8, "i8": 8}


@dataclass(frozen=True)
class Compressed:
    """The nodes of a compressed weight.

    Attributes:
        values: Constant: integers, or indices of NormalFloat4; ``[out, in]``, or ``[out, groups, size]``.
        zero: Constant or None.
        scale: Constant.
        result: The last node, which makes floats.
    """

    values: ov.Node
    zero: ov.Node | None
    scale: ov.Node
    result: ov.Node


def compressed(graph: ov.Model) -> Iterator[Compressed]:
    """All compressed weights."""
    for constant in constants(graph):
        if constant.get_element_type().get_type_name() not in BITS:
            continue
        for convert in consumers(constant):
            node, zero = convert, None
            if convert.get_type_name() != "Convert":
                continue
            following = consumers(node)
            if len(following) == 1 and following[0].get_type_name() == "Subtract":
                [node] = following
                if node.input_value(0).get_node() != convert:
                    continue  # this is a zero point itself
                zero = _constant(node.input_value(1).get_node())
                following = consumers(node)
            if len(following) != 1 or following[0].get_type_name() != "Multiply":
                continue
            scale = _constant(following[0].input_value(1).get_node())
            if scale is not None:
                yield Compressed(constant, zero, scale, following[0])


def _constant(node: ov.Node) -> ov.Node | None:
    """The constant behind a node, through conversions."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


@dataclass(frozen=True)
class StoredWeight:
    """What stands in a saved graph for a weight ``[out, in]``, in the signed terms of a `QuantizedTensor`.

    Attributes:
        kind: OpenVINO's type of the values (``i4``, ``u4`` …).
        integers: int8 ``[out, in]``; of NormalFloat4 the indices into its table.
        scale: float32 ``[out, groups]``, or what it is broadcast from.
        zero_point: int8 of the same kind, or None.
    """

    kind: str
    integers: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8] | None


def stored_weights(paths: Iterable[Path]) -> dict[str, StoredWeight]:
    """The compressed weights of saved graphs, by the name of the parameter that each was made from."""
    core, found = ov.Core(), {}
    for path in paths:
        for weight in compressed(core.read_model(str(path))):
            found[str(weight.values.get_friendly_name())] = _read(weight)
    return found


def stored_ranges(paths: Iterable[Path]) -> dict[str, tuple[np.float32, np.float32]]:
    """The ranges over which saved graphs round the inputs of products to 8 bits, by the module of each product."""
    core, found = ov.Core(), {}
    for path in paths:
        for node in core.read_model(str(path)).get_ordered_ops():
            if node.get_type_name() == "FakeQuantize":
                ends = [_constant(node.input_value(port).get_node()) for port in (1, 2)]
                low, high = (np.float32(end.get_data(dtype=np.float32)) for end in ends if end is not None)
                found.update({module_of(reader): (low, high) for reader in _products(node)})
    return found


def _products(node: ov.Node) -> Iterator[ov.Node]:
    """What reads a node, also through a `Slice`, which takes the one position that a product needs."""
    for reader in consumers(node):
        yield from _products(reader) if reader.get_type_name() == "Slice" else (reader,)


def _read(weight: Compressed) -> StoredWeight:
    kind = weight.values.get_element_type().get_type_name()
    shape = list(weight.values.shape)
    rows = shape[0]
    middle = 1 << (BITS[kind] - 1) if kind.startswith("u") else 0
    integers = decode(weight.values).reshape(rows, -1) - middle
    scale = np.array(weight.scale.get_data(dtype=np.float32))
    zero = None
    if weight.zero is not None:
        shifted = decode(weight.zero) - middle
        zero = shifted.reshape(shifted.shape[0] if shifted.ndim else 1, -1).astype(np.int8)
    return StoredWeight(kind, integers.astype(np.int8), scale.reshape(scale.shape[0] if scale.ndim else 1, -1), zero)


def decode(constant: ov.Node) -> NDArray[np.int16]:
    """A constant's integers, unpacked: from the lowest bits of each byte on."""
    kind = constant.get_element_type().get_type_name()
    data: Any = constant.data
    bits = BITS[kind]
    if bits < 8:
        packed = np.asarray(data).view(np.uint8).reshape(-1, 1)
        values = (packed >> np.arange(0, 8, bits, dtype=np.uint8)) & ((1 << bits) - 1)
        flat = values.reshape(-1)[: int(np.prod(constant.shape))].astype(np.int16)
        if kind == "i4":
            flat = np.where(flat > 7, flat - 16, flat)
        return flat.reshape(list(constant.shape)).astype(np.int16)
    return np.asarray(data).astype(np.int16)
