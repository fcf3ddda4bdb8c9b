"""Calibration data as a model's forward takes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from leptonsdk.hooks import StepContext

Inputs = Mapping[str, Any]
_DECODED = 64  # tokens that an encoder-decoder writes for itself where the calibration data has only its inputs


def calibration_inputs(model: Any, context: StepContext, batch_size: int) -> Iterator[Inputs]:
    """Batches as the model's forward takes them, on its device, without labels and caches.

    An encoder-decoder whose data has no text to decode gets what it writes itself, greedily.

    Raises:
        UsageError: There is no calibration data.
    """
    parameters = inspect.signature(model.forward).parameters
    extra = {"use_cache": False} if "use_cache" in parameters else {}
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    for batch in context.calibration(batch_size):
        inputs = {n: v.to(model.device) for n, v in batch.items() if n in parameters and n != "labels"}
        inputs = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in inputs.items()}
        if decodes and "decoder_input_ids" not in inputs:
            labels = batch.get("labels")
            if labels is not None and hasattr(model, "prepare_decoder_input_ids_from_labels"):
                inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels.to(model.device))
            else:
                limit = getattr(model.config, "max_target_positions", None) or 2 * _DECODED
                tokens = min(_DECODED, limit // 2)
                inputs["decoder_input_ids"] = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        yield {**inputs, **extra}


def attended(inputs: Inputs, x: Tensor) -> Tensor | None:
    """The mask ``[batch, length]`` of the inputs that belongs to a layer's input ``[batch, length, in]``, if any."""
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = inputs.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape == x.shape[:-1]:
            return None if bool(mask.all()) else mask.bool()
    return None


def row_count(inputs: Inputs) -> int:
    """Rows of a batch."""
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor))
