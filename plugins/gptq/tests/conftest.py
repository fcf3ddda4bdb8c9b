"""Tiny random models of many architectures, and what a step needs to run on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.checkpoint import Checkpoint, Source
from leptonsdk.hooks import StepContext

torch.set_num_threads(2)

_TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def _llama() -> Any:
    config = transformers.LlamaConfig(
        **_TEXT, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    return transformers.LlamaForCausalLM(config), "text-generation"


def _bert() -> Any:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**_TEXT, num_labels=3)
    ), "text-classification"


def _gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return transformers.GPT2LMHeadModel(config), "text-generation"


def _vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=4
    )
    return transformers.ViTForImageClassification(config), "image-classification"


def _whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=120,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=40,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return transformers.WhisperForConditionalGeneration(config), "automatic-speech-recognition"


def _t5() -> Any:
    config = transformers.T5Config(
        vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, eos_token_id=2
    )
    return transformers.T5ForConditionalGeneration(config), "text2text-generation"


ARCHITECTURES = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "vit": _vit, "whisper": _whisper, "t5": _t5}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A checkpoint of a tiny random model whose weights are large enough to matter."""
    torch.manual_seed(seed)
    model, task = ARCHITECTURES[name]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                module.weight.copy_(torch.randn_like(module.weight) * module.weight.shape[1] ** -0.5)
    return Checkpoint(model.to(dtype).eval(), None, task, Source("memory", name, None, name))


def inputs(name: str, count: int = 12, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Real-shaped inputs, one row each; texts of uneven length are padded."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return [{"pixel_values": torch.randn(1, 3, 16, 16, generator=generator)} for _ in range(count)]
    rows: list[dict[str, torch.Tensor]] = []
    if name == "whisper":
        for _ in range(count):
            features = torch.randn(1, 8, 40, generator=generator)
            decoded = torch.randint(3, 120, (1, 16), generator=generator)
            rows.append({"input_features": features, "decoder_input_ids": decoded})
        return rows
    for _ in range(count):
        ids = torch.randint(3, 120, (1, 24), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, int(torch.randint(12, 25, (1,), generator=generator)) :] = 0
        rows.append({"input_ids": ids * mask, "attention_mask": mask})
        if name == "t5":
            rows[-1]["decoder_input_ids"] = torch.randint(3, 120, (1, 16), generator=generator)
    return rows


def context(folder: Path, rows: list[dict[str, torch.Tensor]] | None, **more: Any) -> StepContext:
    """A step's context that gives those rows in batches."""

    def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
        assert rows is not None
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield {name: torch.cat([row[name] for row in part]) for name in part[0]}

    return StepContext(seed=0, folder=folder, batches=None if rows is None else batches, **more)


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The helpers of this file, for the tests: `build`, `inputs`, `context`."""
    return SimpleNamespace(build=build, inputs=inputs, context=context)


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """No test may find the threads, the default dtype or the grad mode changed."""
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    yield
    assert torch.get_num_threads() == before[0]
    assert torch.get_default_dtype() == before[1]
    assert torch.is_grad_enabled() == before[2]
