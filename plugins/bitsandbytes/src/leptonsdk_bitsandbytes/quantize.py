"""Quantization, from checkpoint to checkpoint: save floats, load them quantized, save, load again, compare."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from leptonsdk.checkpoint import load_like
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import refuse_library_layers
from leptonsdk_bitsandbytes.compressor import BitsAndBytesCompressorConfig
from leptonsdk_bitsandbytes.quantize_check import check_outputs, check_state
from leptonsdk_bitsandbytes.quantize_layers import layers_to_quantize, quantized_layers, skip_patterns

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

_STEPS = 4


def quantize(checkpoint: Checkpoint, config: BitsAndBytesCompressorConfig, context: StepContext) -> Checkpoint:
    """See `BitsAndBytesCompressor.compress`. Writes the model twice into the scratch folder, and removes both."""
    model = checkpoint.model
    refuse_library_layers(model)
    if checkpoint.quantized:
        raise UsageError(
            "its weights are quantized already", where=type(model).__name__, hint="start from a float model"
        )
    layers = layers_to_quantize(model, config)
    floats, packed = context.folder / "floats", context.folder / "quantized"
    try:
        context.progress(0, _STEPS, "saving floats")
        checkpoint.save(floats)
        context.progress(1, _STEPS, f"quantizing {len(layers)} layers")
        first = _load(model, floats, context.device, quantization_config=_library_config(model, layers, config))
        _check_layers(first, layers)
        context.progress(2, _STEPS, "saving")
        first.save_pretrained(packed)  # before any forward, which would change the weights
        context.progress(3, _STEPS, "comparing with what was saved")
        second = _load(model, packed, context.device)
        check_state(first, second)
        result = checkpoint.replace(model=second)  # keeps the state of this moment, whatever forwards do to it
        check_outputs(first, second, context)
    finally:
        shutil.rmtree(floats, ignore_errors=True)
        shutil.rmtree(packed, ignore_errors=True)
    context.progress(_STEPS, _STEPS, "done")
    return result


def _load(model: Any, folder: Path, device: str, **options: Any) -> Any:
    place = {"": torch.device(device)}
    loaded = load_like(model, folder, dtype=model.dtype, device_map=place, use_safetensors=True, **options)
    return loaded.eval()


def _library_config(model: Any, layers: Sequence[str], config: BitsAndBytesCompressorConfig) -> Any:
    skip = skip_patterns(model, layers)
    if config.quant_type == "int8":
        return transformers.BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=config.outlier_threshold, llm_int8_skip_modules=skip
        )
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quant_type,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=config.compute_dtype or model.dtype,
        llm_int8_skip_modules=skip,
    )


def _check_layers(model: Any, meant: Sequence[str]) -> None:
    """That transformers, which has exceptions of its own, quantized what was meant and nothing else."""
    found, wanted = quantized_layers(model), set(meant)
    if found != wanted:
        left, more = sorted(wanted - found), sorted(found - wanted)
        raise UsageError(
            f"transformers left these layers in float: {', '.join(left) or 'none'}; "
            f"and quantized these besides: {', '.join(more) or 'none'}",
            where=type(model).__name__,
            hint="add the first to `ignore`, or the second to `targets`",
        )
