"""Tiny random models whose channels differ in size, inputs for them, and a step's context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext


def model_of(tiny: Any, name: str) -> Any:
    """The same in every call. Norms have outliers, as trained ones do, so that there is something to scale."""
    if name == "gpt2":
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4, n_positions=32)
        model = transformers.GPT2LMHeadModel(config).eval()
    else:
        model = tiny.build(name, layers=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if weight is not None and weight.dim() == 1:
                weight.mul_(torch.exp(torch.randn(weight.shape, generator=generator)))
                if getattr(module, "bias", None) is not None:
                    module.bias.normal_(generator=generator)
    return model


def inputs(name: str, rows: int = 24, seed: int = 1, length: int = 12) -> dict[str, torch.Tensor]:
    """One batch; rows of texts are padded by one token more each, up to half of them."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, 40, (rows, length), generator=generator)
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 20, generator=generator), "decoder_input_ids": ids}
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % (length // 2) :] = 0
    found = {"input_ids": ids * mask, "attention_mask": mask}
    return {**found, "decoder_input_ids": ids} if name == "t5" else found


def context(folder: Path, batch: dict[str, torch.Tensor] | None) -> StepContext:
    """A step's context that gives the rows of a batch."""

    def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
        assert batch is not None
        for start in range(0, len(next(iter(batch.values()))), size):
            yield {name: value[start : start + size] for name, value in batch.items()}

    return StepContext(seed=0, folder=folder, batches=None if batch is None else batches)


@pytest.fixture(scope="session")
def make(tiny: Any) -> SimpleNamespace:
    """`checkpoint`, `inputs`, `context`."""

    def checkpoint(name: str) -> Checkpoint:
        return Checkpoint.of(model_of(tiny, name))

    return SimpleNamespace(checkpoint=checkpoint, inputs=inputs, context=context)
