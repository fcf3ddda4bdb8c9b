"""Compressing a converted program's weights with coremltools' own optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import coremltools.optimize.coreml as cto
import numpy as np
from torch import nn

from leptonsdk.errors import ExportError
from leptonsdk.exporting import quiet
from leptonsdk.quantization import class_names, matches
from leptonsdk_coreml.config import CoreMLConfig

# Smaller weights cost more in scales and tables than they save.
_SMALLEST = 512
_TABLES = ("gather", "gather_along_axis", "gather_nd")
_PRODUCTS = ("linear", "matmul", "conv", "einsum")


def compress(program: Any, model: nn.Module, precision: str, config: CoreMLConfig) -> tuple[Any, dict[str, Any]]:
    """A program with compressed weights, and what was done.

    Args:
        program: An `MLModel` in fp16.
        model: The source, whose modules ``ignore`` names.
        precision: ``int8``, ``int4`` or ``palettized``.
        config: Bits, groups and blocks, embeddings, ``ignore``.

    Raises:
        ExportError: Nothing could be compressed.
    """
    optimize = cto.palettize_weights if precision == "palettized" else cto.linear_quantize_weights
    modules = dict(model.named_modules())
    names = module_names(model)
    options = cto.OptimizationConfig(global_config=None)
    compressed, kept = [], []
    with quiet():
        for constant, weight in cto.get_weights_metadata(program, weight_threshold=_SMALLEST).items():
            uses = {child.op_type for child in weight.child_ops}
            if weight.val.ndim < 2 or weight.val.dtype.kind != "f" or not uses & {*_TABLES, *_PRODUCTS}:
                continue
            module = names.get(key(weight.val), constant)
            classes = class_names(modules[module]) if module in modules else ()
            table = not uses & set(_PRODUCTS)
            ignored = (table and config.embeddings == "float") or matches(module, classes, config.ignore)
            if ignored or (precision == "int4" and weight.val.shape[1] % config.block_size):
                kept.append(module)
            else:
                compressed.append(module)
                options.set_op_name(constant, _how(precision, config, weight.val.shape))
        if not compressed:
            raise ExportError(
                "nothing was compressed",
                where=f"coreml {precision}",
                hint="`ignore` names every weight, or none is large enough or has whole blocks",
            )
        return optimize(program, options), {"compressed": compressed, "kept_in_float": kept}


def key(weight: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """What a weight is found by: its shape, and its numbers in fp16."""
    return weight.shape, np.ascontiguousarray(weight, dtype=np.float16).tobytes()


def module_names(model: nn.Module) -> Mapping[tuple[tuple[int, ...], bytes], str]:
    """The module of each weight, by `key`, also for its transpose (`Conv1D` has ``[in, out]``)."""
    found: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() >= 2 and weight.numel() >= _SMALLEST:
            array = weight.detach().float().numpy()
            found.setdefault(key(array), name)
            if array.ndim == 2:
                found.setdefault(key(array.T), name)
    return found


def _how(precision: str, config: CoreMLConfig, shape: tuple[int, ...]) -> Any:
    """coremltools' config for a weight. One whose channels groups do not fill (a vocabulary's) gets a single table."""
    if precision == "palettized":
        grouped = config.group_size is not None and shape[0] % config.group_size == 0
        return cto.OpPalettizerConfig(
            mode="kmeans",
            nbits=config.bits,
            granularity="per_grouped_channel" if grouped else "per_tensor",
            group_size=config.group_size if grouped else 0,
            weight_threshold=_SMALLEST - 1,
        )
    by_block = precision == "int4"
    return cto.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype="int4" if by_block else "int8",
        granularity="per_block" if by_block else "per_channel",
        block_size=config.block_size if by_block else 0,
        weight_threshold=_SMALLEST - 1,
    )


def describe(precision: str, config: CoreMLConfig) -> str:
    """How the weights are stored, for people."""
    if precision == "int8":
        return "int8, symmetric, one scale per output channel (embeddings: per row)"
    if precision == "int4":
        return f"int4, symmetric, one fp16 scale per {config.block_size} weights"
    shared = (
        f"{config.group_size} output channels where these fill it, else per weight" if config.group_size else "weight"
    )
    return f"{config.bits}-bit indices into a k-means table per {shared}"
