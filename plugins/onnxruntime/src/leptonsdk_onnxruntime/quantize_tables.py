"""Word embeddings in 4 bits: `GatherBlockQuantized`, which looks rows up in a packed table.

Each block of a row has a scale of its own, the one of least squared error, stored as fp16: 4.5 bits for each entry in blocks of
32. Scales may be negative, so that the side with the larger entry gets the longer side of the integers, -8 of -8..7.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from leptonsdk.errors import UsageError
from leptonsdk.quantization import Scheme, round_to_nearest
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import MICROSOFT, add_initializer, insert, producer, replace
from leptonsdk_onnxruntime.quantize_scales import Floats

_TOKENS = ("input_ids", "decoder_input_ids")
_SAME_VALUES = ("Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten")


def reads_tokens(node: ir.Node) -> bool:
    """Whether a `Gather` looks tokens up, rather than positions or segments, whose tables are small and read by every token."""
    source = node.inputs[1]
    while (before := producer(source, *_SAME_VALUES)) is not None:
        source = before.inputs[0]
    return source is not None and source.name in _TOKENS


def gather_4_bits(node: ir.Node, table: Floats, config: OnnxRuntimeConfig, suffixes: tuple[str, str]) -> None:
    """Look tokens up in a table [rows, columns] of int4 with scales [rows, columns / block], in place of a `Gather`.

    Raises:
        UsageError: The table's columns do not divide into blocks.
    """
    graph, value, size = node.graph, node.inputs[0], config.embedding_block_size
    assert value is not None
    names = [f"{value.name}.int4{suffix}" for suffix in suffixes]  # an int8 copy may stand beside it
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
        add_initializer(graph, names[0], found.integers.numpy().astype(ml_dtypes.int4))
        add_initializer(graph, names[1], found.scale.numpy())
    integers, scale = (graph.initializers[name] for name in names)
    [rows] = insert(
        node,
        "GatherBlockQuantized",
        [integers, node.inputs[1], scale],
        domain=MICROSOFT,
        block_size=size,
        gather_axis=0,
        quantize_axis=1,
    )
    replace(node, insert(node, "Cast", [rows], to=ir.DataType.FLOAT)[0])
