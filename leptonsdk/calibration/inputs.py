"""Calibration data as a model's forward takes it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from leptonsdk.hooks import StepContext

Inputs = Mapping[str, Any]
_DECODER_SHARE = 16  # of a budget, the part that a decoder must have seen, at least
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


def positions(x: Tensor, keep: Tensor | None) -> Tensor:
    """A layer's input ``[..., in]`` as ``[positions, in]``, those alone that a mask (of `attended`) keeps."""
    return x.reshape(-1, x.shape[-1]) if keep is None else x[keep]


def one_row(inputs: Inputs) -> Inputs:
    """The first row of a batch."""
    return {name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()}


@dataclass
class Budget:
    """Tells when enough calibration inputs have been read.

    An encoder-decoder must have seen a sixteenth as many positions in its decoder too: speech has hundreds of frames for each
    token, and a budget of frames alone would leave the decoder with a handful of inputs.

    Attributes:
        wanted: Positions of the first layer.
        seen: So far.
        decoded: Of the decoder; infinite where there is none.
    """

    wanted: int
    seen: int = 0
    decoded: float = 0.0

    def add(self, inputs: Inputs, positions: int) -> None:
        """Count a batch, of which the first layer read so many positions."""
        self.seen += positions
        mask, ids = inputs.get("decoder_attention_mask"), inputs.get("decoder_input_ids")
        if isinstance(mask, Tensor):
            self.decoded += float(mask.sum())
        else:
            self.decoded += ids.numel() if isinstance(ids, Tensor) else math.inf

    @property
    def met(self) -> bool:
        return self.seen >= self.wanted and self.decoded * _DECODER_SHARE >= self.wanted
