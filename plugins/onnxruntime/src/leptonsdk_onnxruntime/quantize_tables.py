"""Word embeddings in 4 bits: rows are looked up packed, two entries in a byte, and unpacked after it.

Each block of a row has a scale of its own, the one of least squared error, stored as fp16: 4.5 bits for each entry in blocks of
32. Scales may be negative, so that the side with the larger entry gets the longer side of the integers, -8 of -8..7.

The numbers are those of ONNX Runtime's own `GatherBlockQuantized` with fp32 scales, bit for bit; its kernel for the CPU takes six to
ten times as long (onnxruntime 1.32), a fifth of a small encoder's whole time.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from leptonsdk.errors import UsageError
from leptonsdk.quantization import Scheme, round_to_nearest
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import add_initializer, insert, producer, replace
from leptonsdk_onnxruntime.quantize_scales import Floats

INT4 = ".int4"
_TOKENS = ("input_ids", "decoder_input_ids")
_SAME_VALUES = ("Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten")


def reads_tokens(node: ir.Node) -> bool:
    """Whether a `Gather` looks tokens up, rather than positions or segments, whose tables are small and read by every token."""
    source = node.inputs[1]
    while (before := producer(source, *_SAME_VALUES)) is not None:
        source = before.inputs[0]
    return source is not None and source.name in _TOKENS


def gather_4_bits(node: ir.Node, table: Floats, config: OnnxRuntimeConfig, suffixes: tuple[str, str]) -> None:
    """Look tokens up in a packed table [rows, columns / 2] with scales [rows, columns / block], in place of a `Gather`.

    Raises:
        UsageError: The table's columns do not divide into blocks.
    """
    graph, value, size = node.graph, node.inputs[0], config.embedding_block_size
    assert value is not None
    names = [f"{value.name}{INT4}{suffix}" for suffix in suffixes]  # an int8 copy may stand beside it
    if names[0] not in graph.initializers:
        if table.shape[1] % size:
            fitting = [block for block in (128, 64, 32, 16) if table.shape[1] % block == 0]
            hint = f"`embedding_block_size: {fitting[0]}` does" if fitting else "use `embeddings: int8`"
            raise UsageError(
                f"its {table.shape[1]} columns do not divide into blocks of {size}", where=str(value.name), hint=hint
            )
        scheme = Scheme.resolve(None, bit_width=4, group_size=size)
        found = round_to_nearest(
            torch.from_numpy(np.array(table)), scheme, scale_dtype=torch.float16, observer=config.weight_scales
        )
        add_initializer(graph, names[0], pack_4_bits(found.integers.numpy()))
        add_initializer(graph, names[1], found.scale.numpy())
    packed, scale = (graph.initializers[name] for name in names)
    replace(node, _unpack(node, packed, scale, size))


def pack_4_bits(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Integers from -8 to 7 ``[rows, columns]`` plus 8, two in a byte ``[rows, columns / 2]``: column i low, i + columns / 2 high."""
    low, high = np.split((integers + 8).astype(np.uint8), 2, axis=1)
    packed: NDArray[np.uint8] = np.bitwise_or(low, high << np.uint8(4), dtype=np.uint8)
    return packed


def unpack_4_bits(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `pack_4_bits`."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int8) - 8


def _unpack(node: ir.Node, table: ir.Value, scale: ir.Value, size: int) -> ir.Value:
    """The nodes that look up and unpack, before the `Gather` that they replace."""
    graph, ids = node.graph, node.inputs[1]
    assert graph is not None
    assert ids is not None
    axes = 2 if ids.shape is None else len(ids.shape)

    def constant(name: str, *values: float, dtype: type) -> ir.Value:
        return add_initializer(graph, f"{table.name}.{name}", np.array(values, dtype))

    [bytes_] = insert(node, "Gather", [table, ids], axis=0)
    [low] = insert(node, "BitwiseAnd", [bytes_, constant("mask", 15, dtype=np.uint8)])
    [high] = insert(node, "BitShift", [bytes_, constant("shift", 4, dtype=np.uint8)], direction="RIGHT")
    [both] = insert(node, "Concat", [low, high], axis=-1)
    [floats] = insert(node, "Cast", [both], to=ir.DataType.FLOAT)
    [steps] = insert(node, "Sub", [floats, constant("middle", 8, dtype=np.float32)])
    blocks = constant(f"blocks_{axes}", *([0] * axes), -1, size, dtype=np.int64)
    [pieces] = insert(node, "Reshape", [steps, blocks])
    [wide] = insert(node, "Cast", [scale], to=ir.DataType.FLOAT)  # once, when a session starts
    [scales] = insert(node, "Gather", [wide, ids], axis=0)
    [factors] = insert(node, "Unsqueeze", [scales, constant("last", -1, dtype=np.int64)])
    [rows] = insert(node, "Mul", [pieces, factors])
    return insert(node, "Reshape", [rows, constant(f"rows_{axes}", *([0] * axes), -1, dtype=np.int64)])[0]
