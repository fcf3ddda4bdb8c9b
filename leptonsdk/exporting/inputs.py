"""Inputs to trace and to compare with: real samples where there are some, plausible ones where there are none."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Mapping
from typing import Any

import torch

from leptonsdk.errors import ExportError
from leptonsdk.hooks import StepContext

Inputs = dict[str, torch.Tensor]
_LENGTH = 12


def model_inputs(model: Any, batch: Mapping[str, torch.Tensor]) -> Inputs:
    """A batch without what the model's forward does not take, and without labels."""
    known = set(inspect.signature(model.forward).parameters)
    return {name: value for name, value in batch.items() if name in known and name != "labels"}


def sample_batches(model: Any, context: StepContext, batch_size: int, count: int) -> list[Inputs]:
    """A few batches of real inputs, or one of made-up ones."""
    if context.samples is None:
        return [synthetic_inputs(model, batch_size, context.seed)]
    batches = [model_inputs(model, batch) for batch in itertools.islice(context.samples(batch_size), count)]
    return batches or [synthetic_inputs(model, batch_size, context.seed)]


def synthetic_inputs(model: Any, batch_size: int, seed: int) -> Inputs:
    """Plausible inputs made from a model's config: random tokens, the second row padded, or a random image.

    Raises:
        ExportError: The model's main input is neither text nor an image.
    """
    generator = torch.Generator().manual_seed(seed)
    config, main = model.config, str(getattr(model, "main_input_name", "input_ids"))
    known = set(inspect.signature(model.forward).parameters)
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        shape = (batch_size, int(getattr(config, "num_channels", 3)), int(height), int(width))
        return {main: torch.randn(shape, generator=generator)}
    if main != "input_ids":
        raise ExportError(
            f"no inputs can be made up for a model that reads '{main}'",
            hint="give evaluation data: samples come from it",
        )
    limit = getattr(config, "max_position_embeddings", None) or _LENGTH
    length = min(_LENGTH, int(limit))
    vocabulary = int(config.get_text_config().vocab_size)
    inputs = {"input_ids": torch.randint(0, vocabulary, (batch_size, length), generator=generator)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "token_type_ids" in known and int(getattr(config, "type_vocab_size", 0) or 0) > 0:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def tracing_inputs(batch: Mapping[str, torch.Tensor], *, pad_left: bool) -> Inputs:
    """Two rows of a batch, with padding in the mask.

    A batch of one is taken for a constant, and a mask of ones is folded away, so neither may be traced.
    """
    inputs = {name: torch.cat([value, value])[:2].clone() for name, value in batch.items()}
    mask = inputs.get("attention_mask")
    if mask is not None and mask.dim() == 2 and bool(mask.all()) and mask.shape[1] > 1:
        mask[1, 0 if pad_left else -1] = 0
    return inputs


def complete_inputs(inputs: Mapping[str, torch.Tensor], names: Collection[str]) -> Inputs:
    """Those inputs that a graph reads; where they are missing, a mask of ones, token types of 0, positions from 0 on.

    Positions count padding too, as a source model's do that is called without any; only its ``generate`` counts otherwise.

    Raises:
        TypeError: Another input is missing.
    """
    found = {name: value for name, value in inputs.items() if name in names and value is not None}
    ids = found.get("input_ids")
    for name in sorted(set(names) - found.keys(), key=lambda name: (name != "input_ids", name)):
        if ids is None or name not in ("attention_mask", "token_type_ids", "position_ids"):
            raise TypeError(f"the model needs the input '{name}'")
        if name == "position_ids":
            found[name] = torch.arange(ids.shape[1]).expand(ids.shape)
        else:
            found[name] = torch.full_like(ids, int(name == "attention_mask"))
    return found
