"""A small batch that a model can run on, made from its config, for probing its structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leptonsdk.errors import UsageError

_BATCH, _LENGTH = 2, 8


def sample_inputs(model: Any) -> dict[str, Tensor]:
    """Random inputs of a model's forward ``[2, …]``: tokens, pixels or audio features, and a decoder's tokens.

    Raises:
        UsageError: Its main input is none of these.
    """
    config, main = model.config, model.main_input_name
    generator = torch.Generator().manual_seed(0)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    words = getattr(text, "vocab_size", None) or 2  # a model of images has none, and reads no ids
    ids = torch.randint(0, words, (_BATCH, _LENGTH), generator=generator)
    if main == "input_ids":
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    elif main == "pixel_values":
        size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
        inputs = {main: torch.randn(_BATCH, config.num_channels, *size, generator=generator)}
    elif main == "input_features" and hasattr(config, "max_source_positions"):
        # Whisper's encoder reads two frames for a position, and always all of them.
        frames = 2 * config.max_source_positions
        inputs = {main: torch.randn(_BATCH, config.num_mel_bins, frames, generator=generator)}
    elif main == "input_values":
        inputs = {main: torch.randn(_BATCH, 16_000, generator=generator)}
    else:
        raise UsageError(f"no inputs can be made for {type(model).__name__}, which reads {main}")
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
