"""Quantized models on disk in the ``gptq`` format of AutoGPTQ and GPTQModel, which many runtimes read.

Plain ``from_pretrained`` loads it where optimum and gptqmodel are installed; the default, pack-quantized, asks for less.
transformers leaves to optimum which layers are quantized: those whose names begin with ``block_name_to_quantize`` and end in
one of ``modules_in_block_to_quantize``. GPTQModel and vLLM read ``dynamic``, where ``-:REGEX`` names layers that are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leptonsdk.errors import CheckpointError
from leptonsdk.quantization.formats import (
    Loaded,
    check_layers,
    check_packable,
    quantization_section,
    read_safetensors,
    saved_dtypes,
    write_folder,
)
from leptonsdk.quantization.layers import linear_layers
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.quantization.tensor_gptq import STORED, pack_gptq, to_fp16, unpack_gptq

METHOD = "gptq"
# A layer's name up to the last number in it; without the number, what the names of all blocks begin with.
_NUMBERED = re.compile(r"(.*\.)\d+\.")
# Zero points minus one, and as they are.
FORMATS = ("gptq", "gptq_v2")


def save_gptq(
    model: Any,
    quantized: Mapping[str, QuantizedTensor],
    folder: str | Path,
    *,
    save_dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> dict[str, QuantizedTensor]:
    """Write a transformers folder in ``gptq`` format (version 1, without activation order).

    Args:
        model: A text model in float, whose quantized weights are the dequantized ones.
        quantized: Integers by module name, of one scheme.
        folder: Made if need be.
        save_dtype: Of the floats that are not quantized; default: what each one has. Scales are fp16 always.
        max_shard_size: As of ``save_pretrained``.

    Returns:
        What stands on disk: the same integers, with fp16 scales.

    Raises:
        CheckpointError: The format has no place for the model or a layer of it; as `save_compressed` otherwise.
    """
    check_layers(model, quantized)
    check_packable(model, quantized)
    section = gptq_section(model, quantized)
    packed, stored = {}, {}
    for name, tensor in quantized.items():
        try:
            packed[name], stored[name] = pack_gptq(tensor), to_fp16(tensor)
        except CheckpointError as error:
            raise CheckpointError(error.message, where=f"layer '{name}'", hint=error.hint) from error
    dtype_of = saved_dtypes(model, (), save_dtype)
    write_folder(model, packed, section, folder, dtype_of, save_dtype=save_dtype, max_shard_size=max_shard_size)
    return stored


def gptq_section(model: Any, quantized: Mapping[str, QuantizedTensor]) -> dict[str, Any]:
    """The ``quantization_config`` for config.json; `CheckpointError` for a model that readers would not load right."""
    what = f"and {type(model).__name__} reads {model.main_input_name}" if model.main_input_name != "input_ids" else ""
    if getattr(model.config, "is_encoder_decoder", False):
        what = f"without a decoder of their own, and {type(model).__name__} has one"  # T5 looks for the weights
    if what:
        raise CheckpointError(
            f"transformers loads the gptq format for text models only, {what}", hint="save as compressed-tensors"
        )
    schemes = {tensor.scheme for tensor in quantized.values()}
    if len(schemes) > 1:
        raise CheckpointError(
            f"the gptq format of transformers has one scheme for all layers, not {', '.join(s.name for s in schemes)}",
            hint="use one scheme, or save as compressed-tensors",
        )
    (scheme,) = schemes
    blocks = tuple({found[1] for name in quantized if (found := _NUMBERED.match(name))})
    floats = [name for name in linear_layers(model) if name.startswith(blocks) and name not in quantized]
    # On CPUs, GPTQModel (7.7) takes a kernel for 4 bits which drops zero points and fails on rows of most lengths.
    wrong_kernel = scheme.num_bits == 4 and not (scheme.symmetric and scheme.group_size)
    return {
        **({"backend": "torch"} if wrong_kernel else {}),
        **({"dynamic": {f"-:^{re.escape(name)}$": {} for name in floats}} if floats else {}),
        "quant_method": METHOD,
        "checkpoint_format": FORMATS[0],
        "bits": scheme.num_bits,
        "group_size": scheme.group_size or -1,
        "sym": scheme.symmetric,
        "desc_act": False,
        "lm_head": "lm_head" in quantized,
        "block_name_to_quantize": "",  # a name would hold for one class only: AutoModel has no "model." before it
        "modules_in_block_to_quantize": [_ends_of_names(model, quantized)],
        "meta": {"quantizer": [f"leptonsdk:{version('leptonsdk')}"]},
    }


def _ends_of_names(model: Any, quantized: Mapping[str, QuantizedTensor]) -> list[str]:
    """Ends of names that mean the quantized layers and no others: short ones, else names below the base model's."""
    replaced = {
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear or isinstance(module, nn.Conv2d | Conv1D)
    }
    if strange := sorted(set(quantized) - replaced):
        raise CheckpointError(
            f"optimum would not find these layers, whose class is not nn.Linear: {', '.join(strange)}"
        )
    below_base = {name.removeprefix(f"{model.base_model_prefix}.") for name in quantized}
    short = {_NUMBERED.sub("", name) for name in below_base}
    for ends in (short, below_base, set(quantized)):
        if {name for name in replaced if name.endswith(tuple(ends))} == set(quantized):
            return sorted(ends)
    raise CheckpointError(
        "the names of the quantized layers do not set them apart from the others, as the gptq format needs it",
        hint="save as compressed-tensors",
    )


def load_gptq(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a folder in ``gptq`` or ``gptq_v2`` format, ours or another's, without building the model.

    Args and names as of `load_compressed`. The weights are those of GPTQModel's torch kernel: ``scales * (q - zero)`` in
    the scales' own dtype, then cast.

    Raises:
        CheckpointError: Another format, columns in activation order, or tensors that do not belong together.
    """
    folder = Path(folder)
    section = quantization_section(folder)
    form = section.get("checkpoint_format") or section.get("format") or FORMATS[0]
    if section.get("quant_method") != METHOD or form not in FORMATS:
        raise CheckpointError(
            f"quant_method '{section.get('quant_method')}' in format '{form}' cannot be read as gptq", where=folder.name
        )
    size = section.get("group_size", -1)
    state = read_safetensors(folder)
    quantized: dict[str, QuantizedTensor] = {}
    for name in [key.removesuffix(".qweight") for key in state if key.endswith(".qweight")]:
        stored = {key: state.pop(f"{name}.{key}") for key in STORED if f"{name}.{key}" in state}
        try:
            quantized[name] = unpack_gptq(stored, size, minus_one=form == FORMATS[0])
        except CheckpointError as error:
            raise CheckpointError(error.message, where=f"{folder.name}, layer '{name}'", hint=error.hint) from error
        state[f"{name}.weight"] = quantized[name].dequantize(dtype)
    if not quantized:
        raise CheckpointError("it says gptq, and has no packed weight", where=folder.name)
    return Loaded(state, quantized)
