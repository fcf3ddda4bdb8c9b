"""A checkpoint's own integers in the graph: `MatMulNBits` for products, packed rows for embeddings. Nothing is rounded anew.

Weights are laid out as `MatMulNBits` reads them, ``[out, blocks, bytes of a block]`` unsigned, two 4-bit integers in a byte with
the first one low. 2 and 3 bits go into 4, 5 to 7 into 8; the numbers stay what they are. A scale for a channel or a
tensor is written once for each block. Embeddings are looked up in the same layout by standard operators, so that a table that an
output layer shares stands in the file once, and because ONNX Runtime's `GatherBlockQuantized` is slow on the CPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.quantization import QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk_onnxruntime.config import why_not_packed
from leptonsdk_onnxruntime.graph import MICROSOFT, add_initializer, constant, float_matrix, insert, module_name, replace
from leptonsdk_onnxruntime.quantize_graph import QUANTIZED, SCALE, ZERO_POINT, as_linear, with_bias

PACKED = ".packed"
_BLOCKS = (256, 128, 64, 32, 16)
_NAME = re.compile(rf"((.*){re.escape(PACKED)}([48])){QUANTIZED}")


@dataclass(frozen=True)
class Packed:
    """Integers as `MatMulNBits` reads them.

    Attributes:
        integers: uint8 ``[out, blocks, bytes]``.
        scale: float32 ``[out, blocks]``.
        zero_point: uint8 ``[out, bytes of a row]``, packed as the integers are; None: the middle of the range.
        bits: 4 or 8.
        size: Of a block.
        columns: Inputs; the last block may be longer.
    """

    integers: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None
    bits: int
    size: int
    columns: int


def pack(tensor: QuantizedTensor) -> Packed:
    """A weight ``[out, in]`` in blocks."""
    rows, columns = tensor.shape
    bits = 4 if tensor.scheme.num_bits <= 4 else 8
    width = tensor.scheme.group_size or columns
    size = next((block for block in _BLOCKS if width % block == 0), 32)
    blocks = -(-columns // size)
    integers = np.zeros((rows, blocks * size), np.int16)
    integers[:, :columns] = tensor.integers.cpu().numpy()
    middle = 1 << (bits - 1)

    def spread(values: torch.Tensor) -> NDArray[np.float32]:
        per_row = np.broadcast_to(values.float().cpu().numpy(), (rows, values.shape[1]))
        return np.repeat(per_row, blocks // per_row.shape[1], axis=1)

    zeros = None
    if tensor.zero_point is not None:
        zeros = _nibbles((spread(tensor.zero_point) + middle).astype(np.uint8), bits)
    packed = _nibbles((integers + middle).astype(np.uint8).reshape(rows * blocks, size), bits)
    return Packed(packed.reshape(rows, blocks, -1), spread(tensor.scale), zeros, bits, size, columns)


def unpack(packed: Packed) -> tuple[NDArray[np.int8], NDArray[np.int8] | None]:
    """The signed integers ``[out, in]`` and zero points ``[out, blocks]``: the inverse of `pack`, scales aside."""
    rows, blocks, _ = packed.integers.shape
    middle = 1 << (packed.bits - 1)
    integers = _values(packed.integers, packed.bits).reshape(rows, -1)[:, : packed.columns].astype(np.int16) - middle
    zeros = None
    if packed.zero_point is not None:
        zeros = (_values(packed.zero_point, packed.bits)[:, :blocks].astype(np.int16) - middle).astype(np.int8)
    return integers.astype(np.int8), zeros


def lower(
    models: Sequence[ir.Model],
    quantized: Mapping[str, AnyTensor],
    *,
    int8_activations: bool,
    table_of: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Put a checkpoint's integers into float graphs, in place.

    Args:
        models: Traced from the checkpoint's model, which computes with the numbers that the integers stand for.
        quantized: By module name.
        table_of: The name under which a module's integers stand where that is another's: of layers that share a table.
        int8_activations: Let the kernel round each row of the input, block by block, to 8 bits: faster.

    Returns:
        What was done in each, for the artifact's details.

    Raises:
        ExportError: A module's weight is not in the graph, or is another one there.
    """
    done = [_lower(model, quantized, int8_activations, table_of) for model in models]
    if missing := sorted(quantized.keys() - {name for found, _ in done for name in found}):
        raise ExportError(
            f"{len(missing)} quantized weights are not in the traced graph: {', '.join(missing[:5])}",
            hint="ask for `precision: fp32` to export the numbers that they stand for",
        )
    return [
        {
            "weights": dict(Counter(quantized[name].scheme.name for name in sorted(found))),
            "kept_in_float": kept,
            "activations": "int8, one scale per row and block" if int8_activations else "float",
            "scales": "the checkpoint's own",
        }
        for found, kept in done
    ]


def _lower(
    model: ir.Model, quantized: Mapping[str, AnyTensor], int8_activations: bool, table_of: Mapping[str, str]
) -> tuple[set[str], list[str]]:
    """The modules whose integers are in the graph now, and those whose weights stay in float."""
    graph, weights = model.graph, _Weights(model.graph)
    found: set[str] = set()
    kept: list[str] = []
    for node in list(graph):
        linear = as_linear(node)
        if linear is None:
            continue
        name = table_of.get(linear.module, linear.module)
        tensor = quantized.get(name)
        if not isinstance(tensor, QuantizedTensor):
            kept.append(linear.module or str(node.name))
            continue
        stored = float_matrix(linear.stored)
        assert stored is not None
        check_same(name, stored if linear.transposed else stored.T, tensor)
        values = weights.stored(name, tensor)
        inputs = [node.inputs[0], values.integers, values.scale, values.zero_point]
        [product] = insert(
            node,
            "MatMulNBits",
            inputs if values.zero_point is not None else inputs[:3],
            domain=MICROSOFT,
            K=values.packed.columns,
            N=values.packed.integers.shape[0],
            bits=values.packed.bits,
            block_size=values.packed.size,
            accuracy_level=4 if int8_activations else 1,
        )
        replace(node, with_bias(linear, product))
        found.add(name)
    for node in list(graph):
        name = table_of.get(module_name(node), module_name(node))
        tensor = quantized.get(name) if node.op_type == "Gather" else None
        table = float_matrix(node.inputs[0]) if isinstance(tensor, QuantizedTensor) else None
        if table is None or node.attributes.get_int("axis", 0) != 0 or constant(node.inputs[1]) is not None:
            continue
        assert isinstance(tensor, QuantizedTensor)
        check_same(name, table, tensor)
        replace(node, _look_up(node, weights.stored(name, tensor)))
        found.add(name)
    RemoveUnusedNodesPass()(model)
    model.opset_imports[MICROSOFT] = 1
    return found, kept


def check_holds(quantized: Mapping[str, AnyTensor]) -> None:
    """Check that ONNX Runtime can hold a checkpoint's weights as they are.

    Raises:
        UsageError: There are none, or names the layers that it cannot hold, and why.
    """
    if not quantized:
        raise UsageError(
            "the model carries no integers",
            where="onnxruntime packed",
            hint="quantize it first (gptq, rtn, qat), or ask for int8",
        )
    refused: dict[str, list[str]] = {}
    for name, tensor in quantized.items():
        if (reason := why_not_packed(tensor.scheme)) is not None:
            refused.setdefault(reason, []).append(name)
    if refused:
        lines = [f"{reason}: {', '.join(names[:5])} ({len(names)} layers)" for reason, names in refused.items()]
        raise UsageError(
            "; ".join(lines), where="onnxruntime packed", hint="`precision: fp32` exports the numbers they stand for"
        )


def is_packed(name: str) -> bool:
    """Whether an initializer of this name holds packed integers."""
    return _NAME.fullmatch(name) is not None


def unpacked(graph: ir.Graph) -> dict[str, tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8] | None]]:
    """Integers ``[out, in]``, scales and zero points ``[out, blocks]`` of every packed weight of a graph, by module name."""
    columns = {
        str(node.inputs[1].name): node.attributes.get_int("K") for node in graph if node.op_type == "MatMulNBits"
    }
    found = {}
    for name, value in graph.initializers.items():
        if (match := _NAME.fullmatch(name)) is None:
            continue
        integers, scale = constant(value), constant(graph.initializers[f"{match[1]}{SCALE}"])
        assert integers is not None
        assert scale is not None
        bits = int(match[3])
        size = integers.shape[2] * 8 // bits
        width = columns.get(name) or integers.shape[1] * size
        zeros = constant(graph.initializers.get(f"{match[1]}{ZERO_POINT}"))
        signed, zero_points = unpack(Packed(integers, scale, zeros, bits, size, width))
        found[match[2]] = signed, scale, zero_points
    return found


@dataclass(frozen=True)
class _Stored:
    """A weight's initializers."""

    packed: Packed
    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None


class _Weights:
    """Initializers of packed weights; those of layers that share one (tied embeddings) are made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[str, _Stored] = {}

    def stored(self, module: str, tensor: QuantizedTensor) -> _Stored:
        if module not in self._made:
            packed = pack(tensor)
            name = f"{module}{PACKED}{packed.bits}"
            integers = add_initializer(self._graph, f"{name}{QUANTIZED}", packed.integers)
            scale = add_initializer(self._graph, f"{name}{SCALE}", packed.scale)
            zeros = packed.zero_point
            zero_point = None if zeros is None else add_initializer(self._graph, f"{name}{ZERO_POINT}", zeros)
            self._made[module] = _Stored(packed, integers, scale, zero_point)
        return self._made[module]


def _look_up(node: ir.Node, stored: _Stored) -> ir.Value:
    """The nodes that look rows up and unpack them, before the `Gather` that they replace."""
    graph, ids, packed = node.graph, node.inputs[1], stored.packed
    assert graph is not None
    assert ids is not None
    axes = 2 if ids.shape is None else len(ids.shape)
    name = str(stored.integers.name).removesuffix(QUANTIZED)

    def value(suffix: str, *values: float, dtype: type) -> ir.Value:
        return add_initializer(graph, f"{name}.{suffix}", np.array(values, dtype))

    last = value("last", -1, dtype=np.int64)

    def wide(what: ir.Value, width: int, suffix: str) -> ir.Value:
        """Bytes to float integers ``[..., blocks, width]``."""
        if packed.bits == 4:
            [low] = insert(node, "BitwiseAnd", [what, value("mask", 15, dtype=np.uint8)])
            [high] = insert(node, "BitShift", [what, value("shift", 4, dtype=np.uint8)], direction="RIGHT")
            pair = [insert(node, "Unsqueeze", [half, last])[0] for half in (low, high)]
            [what] = insert(node, "Concat", pair, axis=-1)
        [floats] = insert(node, "Cast", [what], to=ir.DataType.FLOAT)
        shape = value(f"{suffix}_{axes}", *([0] * axes), packed.integers.shape[1], width, dtype=np.int64)
        return insert(node, "Reshape", [floats, shape])[0]

    [rows] = insert(node, "Gather", [stored.integers, ids], axis=0)
    pieces = wide(rows, packed.size, "blocks")
    if stored.zero_point is None:
        zero = value("middle", 1 << (packed.bits - 1), dtype=np.float32)
    else:
        [zeros] = insert(node, "Gather", [stored.zero_point, ids], axis=0)
        zero = wide(zeros, 1, "zeros")
    [steps] = insert(node, "Sub", [pieces, zero])
    [scales] = insert(node, "Gather", [stored.scale, ids], axis=0)
    [factors] = insert(node, "Unsqueeze", [scales, last])
    [values] = insert(node, "Mul", [steps, factors])
    [flat] = insert(node, "Reshape", [values, value(f"rows_{axes}", *([0] * axes), -1, dtype=np.int64)])
    if packed.columns == packed.integers.shape[1] * packed.size:
        return flat
    ends = [value(n, v, dtype=np.int64) for n, v in (("start", 0), ("end", packed.columns))]
    return insert(node, "Slice", [flat, *ends, last])[0]


def _nibbles(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Unsigned integers ``[rows, n]`` in bytes: of 4 bits two in each, the first one low."""
    if bits == 8:
        return values
    padded = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    return padded[:, ::2] | (padded[:, 1::2] << np.uint8(4))


def _values(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `_nibbles`, along the last axis."""
    if bits == 8:
        return packed
    both: NDArray[np.uint8] = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)


def check_same(module: str, weight: NDArray[np.float32], tensor: QuantizedTensor) -> None:
    """Raise an `ExportError` unless a graph's weight ``[out, in]`` is what its integers stand for."""
    if weight.shape != tensor.shape or not np.allclose(weight, tensor.dequantize(torch.float32).numpy(), atol=1e-6):
        raise ExportError("the graph's weight is not what its integers stand for", where=module)
