"""Tiny models with random weights, made from configs; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from leptonsdk_bitsandbytes import BitsAndBytesCompressor, BitsAndBytesCompressorConfig

from leptonsdk import Checkpoint
from leptonsdk.api import as_checkpoint
from leptonsdk.hooks import StepContext

TASKS = {
    "llama": "text-generation",
    "gpt2": "text-generation",
    "bert": "text-classification",
    "vit": "image-classification",
    "t5": "text2text-generation",
    "whisper": "automatic-speech-recognition",
}
_SIZES = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _model(name: str, **options: Any) -> Any:
    if name == "llama":
        tied = {"tie_word_embeddings": True, "initializer_range": 0.2, **options}
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**_SIZES, **_TOKENS, intermediate_size=128, **tied)
        )
    if name == "gpt2":
        sizes = {"vocab_size": 160, "n_embd": 64, "n_layer": 2, "n_head": 4}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **_TOKENS, **options))
    if name == "bert":
        config = transformers.BertConfig(**_SIZES, intermediate_size=128, num_labels=3, **options)
        return transformers.BertForSequenceClassification(config)
    if name == "vit":
        sizes = {**_SIZES, "intermediate_size": 128, "image_size": 16, "patch_size": 4, **options}
        del sizes["vocab_size"]
        return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    if name == "t5":
        sizes = {"vocab_size": 160, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, **options}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    parts = {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in _WHISPER.items()}
    config = transformers.WhisperConfig(
        vocab_size=160,
        d_model=64,
        num_mel_bins=20,
        max_source_positions=32,
        max_target_positions=32,
        decoder_start_token_id=1,
        **parts,
        **_TOKENS,
        **options,
    )
    return transformers.WhisperForConditionalGeneration(config)


_WHISPER = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}


def make_inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 160, (2, 9), generator=generator)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    if name == "whisper":
        return {"input_features": torch.randn(2, 20, 64, generator=generator), "decoder_input_ids": tokens}
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if name == "t5" else {})


@dataclass
class Tiny:
    """Makes checkpoints of tiny models, inputs for them, and compresses them."""

    folder: Path

    def checkpoint(self, name: str, **options: Any) -> Checkpoint:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return as_checkpoint(_model(name, **options).eval(), TASKS[name])

    def compress(self, source: Checkpoint | str, **config: Any) -> Checkpoint:
        source = self.checkpoint(source) if isinstance(source, str) else source
        context = StepContext(seed=0, folder=self.folder / "scratch")
        return BitsAndBytesCompressor(BitsAndBytesCompressorConfig(**config)).compress(source, context)

    @staticmethod
    def logits(model: Any, name: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**make_inputs(name)).logits


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="session")
def inputs() -> Callable[[str], dict[str, torch.Tensor]]:
    return make_inputs


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
