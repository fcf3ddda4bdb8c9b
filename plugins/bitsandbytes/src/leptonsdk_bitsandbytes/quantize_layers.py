"""Which layers bitsandbytes quantizes, and how transformers is told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import bitsandbytes
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from leptonsdk.errors import UsageError
from leptonsdk.quantization import class_names, matches, tied_layers
from leptonsdk_bitsandbytes.compressor import BitsAndBytesCompressorConfig

# Where a CPU has AVX512-BF16, bitsandbytes asserts these in the first forward of a 4-bit layer.
BLOCK, ROWS = 64, 32
# Classes with weights that a user may take for linear ones.
_OTHERS = frozenset({"Embedding", "Conv1d", "Conv2d", "Conv3d"})


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that transformers can replace: ``nn.Linear`` itself, no subclass, and its own ``Conv1D`` (GPT-2)."""
    return {n: m for n, m in model.named_modules() if type(m) is nn.Linear or isinstance(m, Conv1D)}


def quantized_layers(model: nn.Module) -> set[str]:
    """Names of a model's bitsandbytes layers."""
    classes = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return {name for name, module in model.named_modules() if isinstance(module, classes)}


def layers_to_quantize(model: Any, config: BitsAndBytesCompressorConfig) -> list[str]:
    """Names of the layers that the patterns mean, without those that must stay in float.

    Args:
        model: Any float model of transformers.
        config: Its ``targets`` and ``ignore``.

    Raises:
        UsageError: Nothing is left; or a target names a layer that cannot be quantized.
    """
    modules, kept = dict(model.named_modules()), _kept_in_float(model, config.quant_type)
    meant = [n for n, m in modules.items() if n and matches(n, class_names(m), config.targets, config.ignore)]
    named = [target for target in config.targets if not target.startswith("re:")]
    wrong = [f"{n} ({type(modules[n]).__name__})" for n in meant if class_names(modules[n]) & _OTHERS]
    wrong += [f"{n} ({kept[n]})" for n in meant if n in kept and matches(n, (), named)]
    if wrong:
        raise UsageError(
            f"these layers cannot be quantized: {', '.join(wrong)}", hint="narrow `targets`, or add them to `ignore`"
        )
    chosen = [name for name in meant if name in candidates(model) and name not in kept]
    if not chosen:
        reasons = "".join(f"; {name}: {kept[name]}" for name in meant if name in kept)
        raise UsageError(
            f"no layer is left to quantize by targets {list(config.targets)} and ignore {list(config.ignore)}{reasons}",
            where=type(model).__name__,
        )
    return chosen


def _kept_in_float(model: Any, quant_type: str) -> dict[str, str]:
    """Layers that stay in float whatever the patterns say, with the reason."""
    reasons: dict[str, str] = {}
    fp32, tied = list(getattr(model, "_keep_in_fp32_modules", None) or ()), tied_layers(model)
    for name, module in candidates(model).items():
        inputs, outputs = _size(module)
        if name in tied:
            reasons[name] = "its weight is an embedding too"
        elif fp32 and not should_convert_module(name, fp32):
            reasons[name] = f"{type(model).__name__} keeps it in float32"
        elif quant_type != "int8" and (inputs % BLOCK or outputs % ROWS):
            reasons[name] = f"{inputs} inputs and {outputs} outputs are no multiples of {BLOCK} and {ROWS}"
    return reasons


def _size(module: Any) -> tuple[int, int]:
    """Inputs and outputs. ``Conv1D`` has its weight as ``[in, out]``."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return module.in_features, module.out_features


def skip_patterns(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """``llm_int8_skip_modules`` for every layer but these.

    transformers takes an entry for a regular expression and for the end of a name: ``classifier`` also means
    ``pre_classifier``. An entry that would hit a layer to quantize is closed with ``$``, which no name ends with.
    """
    return [_exact(name, layers) for name in candidates(model) if name not in set(layers)]


def _exact(name: str, layers: Iterable[str]) -> str:
    plain = all(should_convert_module(layer, [name]) for layer in layers)
    return name if plain else f"{re.escape(name)}$"
