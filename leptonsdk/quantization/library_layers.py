"""Models whose quantized layers are a library's own, put there by transformers (its ``hf_quantizer``): bitsandbytes.

On CPUs with AVX512-BF16 the first forward of bitsandbytes' 4-bit layers repacks their weights in place and rounds their
scales to bfloat16, and reading the state dict afterwards undoes that only in part: without double quantization the
scales stay transposed, with it they are quantized a second time. Both the saved model and the one in memory are wrong
from then on, without a message. So the state of such a model is kept from before its first forward, and nothing else is
ever written.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BITSANDBYTES = "bitsandbytes"
_PART = re.compile(r"\.(weight(\..+|_format)?|SCB)$")


def library_method(model: Any) -> str | None:
    """The ``quant_method`` of transformers' own quantized layers, None for a model without them."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return None
    method = quantizer.quantization_config.quant_method
    return str(getattr(method, "value", method))


def refuse_library_layers(model: Any) -> None:
    """Raise a `UsageError` for a model with transformers' own quantized layers, which nothing can quantize further."""
    if (method := library_method(model)) is not None:
        raise UsageError(
            f"its layers are quantized already, by {method}",
            where=type(model).__name__,
            hint="start from a float model",
        )


def keep_state(model: Any) -> None:
    """Have a bitsandbytes model save the state it has now, whatever a forward does to its layers later.

    The tensors are shared with the model until a forward replaces them, so they cost memory only then.

    Raises:
        CheckpointError: The model has run already.
    """
    if library_method(model) != BITSANDBYTES or "get_state_dict_and_metadata" in vars(model.hf_quantizer):
        return
    for name, parameter in model.named_parameters():
        if hasattr(getattr(parameter, "quant_state", None), "packing_format_for_cpu"):  # since the first repacking
            raise CheckpointError(
                "the model has run on the CPU, where bitsandbytes changes its weights",
                where=f"weight '{name}'",
                hint="load it again and make a checkpoint of it first",
            )
    if (conversions := getattr(model, "_weight_conversions", None)) is not None:
        # A loaded model could not be saved: transformers reverses what it did to the tensors on disk, and has no
        # reverse for putting quantized weights together. The state holds their parts anyway.
        model._weight_conversions = [c for c in conversions if not _puts_together(c)]
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_ONCE)  # added once
    state = model.state_dict()
    model.hf_quantizer.get_state_dict_and_metadata = lambda _: (dict(state), {})


def _puts_together(conversion: Any) -> bool:
    return any(hasattr(operation, "hf_quantizer") for operation in getattr(conversion, "operations", ()))


def cast_floats(model: Any, dtype: torch.dtype) -> None:
    """Cast a loaded bitsandbytes model's floats, but for quantized weights and what the architecture keeps in float32.

    transformers leaves every tensor named ``weight`` of such a model in its dtype on disk, whatever it is asked for.
    """
    if library_method(model) != BITSANDBYTES:
        return
    wide = {*(getattr(model, "_keep_in_fp32_modules", None) or ())} if dtype.itemsize < 4 else set()
    for name, parameter in model.named_parameters():
        quantized = hasattr(parameter, "quant_state") or hasattr(parameter, "SCB")
        if parameter.is_floating_point() and not quantized and not wide & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)


class _Once(logging.Filter):
    """Lets each message through once: bitsandbytes says in every layer of every forward that it casts to float16."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.msg not in self.seen
        self.seen.add(record.msg)
        return new


_ONCE = _Once()


def saved_state(model: Any) -> dict[str, Tensor]:
    """What ``save_pretrained`` writes: the kept state, or the model's own."""
    quantizer = getattr(model, "hf_quantizer", None)
    state = None if quantizer is None else quantizer.get_state_dict_and_metadata(model)[0]
    return dict(model.state_dict()) if state is None else state


@contextmanager
def saving(model: Any, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Have ``save_pretrained`` write a state: for models with a quantizer it ignores its argument ``state_dict``."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        yield
        return
    kept = quantizer.get_state_dict_and_metadata
    quantizer.get_state_dict_and_metadata = lambda _: (dict(state), {})
    try:
        yield
    finally:
        quantizer.get_state_dict_and_metadata = kept


def layer_tensors(names: Iterable[str]) -> frozenset[str]:
    """Those names in a state that make up bitsandbytes' quantized weights (``weight``, ``weight.absmax``, ``SCB`` …).

    A bias is none of them.
    """
    owners = {name: _PART.sub("", name) for name in names}
    layers = {owner for name, owner in owners.items() if name.endswith(".SCB") or ".weight.quant_state." in name}
    return frozenset(name for name, owner in owners.items() if owner != name and owner in layers)


def dequantized(model: Any, model_class: Any = None) -> Any:
    """A float model that computes with the numbers that the quantized weights stand for, in the model's dtype.

    It is made from the kept state, since a forward may have repacked the model's layers.

    Args:
        model: With transformers' own quantized layers.
        model_class: What builds the float model, where that is not the model's own class.

    Raises:
        UsageError: transformers cannot dequantize this method.
    """
    import torch

    config = copy.deepcopy(model.config)
    config.quantization_config = config.quantization_config.to_dict()
    fresh = (model_class or type(model)).from_pretrained(
        None,
        config=config,
        state_dict=saved_state(model),
        dtype=model.dtype,
        device_map={"": torch.device(model.device)},
    )
    try:
        fresh = fresh.dequantize(model.dtype)
    except NotImplementedError as error:
        raise UsageError(
            f"layers that {library_method(model)} quantized cannot become floats again", hint="start from a float model"
        ) from error
    if model.can_generate():
        fresh.generation_config = model.generation_config
    return fresh.eval()
