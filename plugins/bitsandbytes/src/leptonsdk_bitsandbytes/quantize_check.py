"""That a quantized model which was saved and loaded is still the same."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor

from leptonsdk.errors import CheckpointError
from leptonsdk.hooks import StepContext

Inputs = dict[str, Tensor]
_ROWS, _LENGTH, _BATCHES = 2, 12, 2
_TOLERANCE = 1e-4  # relative; wrong scales cost 2e-3 and more
_HINT = "nothing was kept; please report the model's class and the versions of bitsandbytes and transformers"


def check_state(saved: Any, loaded: Any) -> None:
    """Raise a `CheckpointError` unless two models, neither of which has run, hold the same tensors bit for bit."""
    before, after = saved.state_dict(), loaded.state_dict()
    wrong = [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]
    if wrong:
        names = ", ".join(sorted(wrong)[:5])
        raise CheckpointError(f"{len(wrong)} tensors changed while they were saved: {names}", hint=_HINT)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def check_outputs(saved: Any, loaded: Any, context: StepContext) -> None:
    """Raise a `CheckpointError` unless two models answer the same, in finite numbers, to a few inputs."""
    for inputs in _batches(loaded, context):
        with torch.inference_mode():
            expected, found = saved(**inputs)[0].float(), loaded(**inputs)[0].float()
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError("the quantized model's outputs are not finite", hint="try another quant_type")
        error = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
        if error > _TOLERANCE:
            raise CheckpointError(f"the saved model's outputs differ by {error:.2g} (relative)", hint=_HINT)


def _batches(model: Any, context: StepContext) -> list[Inputs]:
    source = context.samples or context.batches
    batches: list[Any] = [] if source is None else list(itertools.islice(source(_ROWS), _BATCHES))
    known = set(inspect.signature(model.forward).parameters) - {"labels"}
    inputs = [{name: value for name, value in batch.items() if name in known} for batch in batches]
    inputs = inputs or made_up_inputs(model, context.seed)
    if getattr(model.config, "is_encoder_decoder", False):
        start = int(getattr(model.config, "decoder_start_token_id", None) or 0)
        for batch in inputs:
            rows = len(next(iter(batch.values())))
            batch.setdefault("decoder_input_ids", torch.full((rows, 1), start))
    return [{name: value.to(model.device) for name, value in batch.items()} for batch in inputs]


def made_up_inputs(model: Any, seed: int) -> list[Inputs]:
    """A batch of random tokens, pixels or spectrogram frames by the model's main input; nothing for other models."""
    generator, config, main = torch.Generator().manual_seed(seed), model.config, model.main_input_name
    if main == "input_ids":
        length = min(_LENGTH, int(getattr(config, "max_position_embeddings", None) or _LENGTH))
        vocabulary = int(config.get_text_config().vocab_size)
        return [{main: torch.randint(0, vocabulary, (_ROWS, length), generator=generator)}]
    if main == "pixel_values" and (size := getattr(config, "image_size", None)) is not None:
        height, width = (size, size) if isinstance(size, int) else size
        shape: tuple[int, ...] = (_ROWS, getattr(config, "num_channels", 3), height, width)
    elif main == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        shape = (_ROWS, config.num_mel_bins, 2 * config.max_source_positions)
    else:
        return []
    return [{main: torch.randn(shape, generator=generator).to(model.dtype)}]
