"""What a package holds, read back from its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from leptonsdk.artifact import Artifact
from leptonsdk.errors import CheckpointError
from leptonsdk.exporting import quiet
from leptonsdk.hooks import StoredIntegers, WeightProfile
from leptonsdk_coreml.runner_reference import constant, read_program


@dataclass(frozen=True)
class PackedWeight:
    """A weight as the package has it, ``[out, in]`` or ``[in, out]``.

    Attributes:
        integers: Signed integers, or indices into the codebook, of the weight's shape.
        scale: One for each block (the shape tells which), or None.
        zero_point: Of the scale's shape, or None.
        codebook: ``[blocks of rows, blocks of columns, values]``, or None.
    """

    integers: np.ndarray
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    codebook: np.ndarray | None


def packed_weights(artifact: Artifact) -> dict[str, PackedWeight]:
    """The integers and codebooks of a ``packed`` artifact, by module name of its source."""
    places = artifact.details.get("packed")
    if places is None:
        raise CheckpointError("nothing is packed in it", where=str(artifact.folder))
    made = {op.outputs[0].name: op for op in _operations(artifact.folder / artifact.entry)}
    return {module: _read(made[name]) for module, name in places.items()}


def stored_integers(artifact: Artifact) -> dict[str, StoredIntegers]:
    """The integers of a ``packed`` artifact as a checkpoint has them, [out, in]; weights with codebooks are left out."""
    found = {}
    for name, weight in packed_weights(artifact).items():
        if weight.scale is None or weight.codebook is not None:
            continue
        arrays = [weight.integers, weight.scale] + ([] if weight.zero_point is None else [weight.zero_point])
        if weight.scale.shape[0] != weight.integers.shape[0]:  # a scale covers one channel, and many inputs: [in, out]
            arrays = [array.T for array in arrays]
        found[name] = StoredIntegers(arrays[0], arrays[1].astype(np.float32), *arrays[2:])
    return found


def _read(op: Any) -> PackedWeight:
    if op.op_type == "constexpr_lut_to_dense":
        return PackedWeight(op.indices.val, None, None, op.lut.val[..., 0])
    offset = None if op.offset is None else op.offset.val
    table = op.data.op if op.data.op.op_type == "constexpr_lut_to_dense" else None
    if table is None:
        return PackedWeight(op.data.val, op.scale.val, offset, None)
    if table.lut.val.dtype.kind == "f":
        return PackedWeight(table.indices.val, op.scale.val, offset, table.lut.val[..., 0])
    return PackedWeight(table.materialized_val_inference(), op.scale.val, offset, None)


def weight_profile(path: Path) -> WeightProfile:
    """Weights, zeros and bits. Numbers that belong to the graph's arithmetic (shapes, axes, single floats) are left out."""
    parameters = zeros = bits = 0
    for op in _operations(path):
        var = op.outputs[0]
        feeds = [child.op_type.startswith("constexpr_") for child in var.child_ops]
        if op.op_type == "const":
            value = var.val
            if isinstance(value, np.ndarray) and value.size > 1 and (any(feeds) or value.dtype.kind == "f"):
                bits += value.size * var.dtype.get_bitwidth()
            else:
                continue
        if any(feeds):
            continue
        held = constant(var)
        if held is not None:
            parameters += held.size
            zeros += held.size - int(np.count_nonzero(held))
    return WeightProfile(parameters, zeros, bits)


def _operations(path: Path) -> list[Any]:
    """A saved program's constants and what decompresses them."""
    with quiet():
        program = read_program(ct.models.MLModel(str(path), skip_model_load=True))
    return [
        op
        for op in program.functions["main"].operations
        if op.op_type == "const" or op.op_type.startswith("constexpr_")
    ]
