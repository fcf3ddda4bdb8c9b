"""Tiny random models, and a stand-in for the checkpoint that the core hands to a backend."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.hooks import StepContext

torch.set_num_threads(2)


@dataclass(frozen=True)
class TinyCheckpoint:
    model: Any
    task: str
    processor: Any = None
    input_scales: Mapping[str, Any] = field(default_factory=dict)
    quantized: Mapping[str, Any] = field(default_factory=dict)

    def save_processor(self, folder: Path) -> None:
        (Path(folder) / "tokenizer.json").write_text("{}", encoding="utf-8")


def bert() -> TinyCheckpoint:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, num_labels=3
    )
    return TinyCheckpoint(transformers.BertForSequenceClassification(config).eval(), "text-classification")


def modernbert() -> TinyCheckpoint:
    """An encoder with rotary positions, and local attention in every other layer."""
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=200,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        local_attention=4,
        global_attn_every_n_layers=2,
        pad_token_id=0,
    )
    return TinyCheckpoint(transformers.ModernBertForSequenceClassification(config).eval(), "text-classification")


def vit() -> TinyCheckpoint:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=16, patch_size=4
    )
    return TinyCheckpoint(transformers.ViTForImageClassification(config).eval(), "image-classification")


def llama() -> TinyCheckpoint:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return TinyCheckpoint(transformers.LlamaForCausalLM(config).eval(), "text-generation")


def gpt2() -> TinyCheckpoint:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=160,
        n_embd=64,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return TinyCheckpoint(transformers.GPT2LMHeadModel(config).eval(), "text-generation")


MODELS: dict[str, Callable[[], TinyCheckpoint]] = {
    "bert": bert,
    "modernbert": modernbert,
    "vit": vit,
    "llama": llama,
    "gpt2": gpt2,
}


def text_batch(
    rows: int, length: int, seed: int, *, pad_left: bool = False, token_types: bool = True
) -> dict[str, Any]:
    """Random tokens; each row after the first is one token shorter than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 160, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        padded = min(row, length - 1)
        mask[row, slice(0, padded) if pad_left else slice(length - padded, length)] = 0
    ids[mask == 0] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    return {**batch, "token_type_ids": torch.zeros_like(ids)} if token_types else batch


def model_batch(name: str, rows: int, length: int = 10, seed: int = 0) -> dict[str, Any]:
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))}
    decoder = name in ("llama", "gpt2")
    return text_batch(rows, length, seed, pad_left=decoder, token_types=name == "bert")


def make_context(name: str, folder: Path, *, data: bool = True) -> StepContext:
    def batches(size: int) -> Iterator[dict[str, Any]]:
        for seed in range(3):
            yield model_batch(name, size, seed=seed)

    folder.mkdir(parents=True, exist_ok=True)
    return StepContext(
        seed=0, folder=folder, batches=batches if data else None, samples=batches if data else None, threads=2
    )


@dataclass
class Exports:
    """Exports each model in each precision once, when it is first asked for."""

    root: Path
    done: dict[tuple[str, str], Any]

    def __call__(self, name: str, precision: str = "fp32", **options: Any) -> Any:
        from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig

        key = (name, precision + repr(sorted(options.items())))
        if key not in self.done:
            folder = self.root / uuid.uuid4().hex
            folder.mkdir()
            context = make_context(name, folder.with_suffix(".scratch"))
            backend = OnnxRuntimeBackend(OnnxRuntimeConfig(precision=precision, **options))
            self.done[key] = backend.export(MODELS[name](), folder, context)
        return self.done[key]


@pytest.fixture(scope="session")
def tiny(tiny: SimpleNamespace) -> SimpleNamespace:
    """The models' makers, batches for them, and a step context, beside what all plugins test with."""
    return SimpleNamespace(**{**vars(tiny), "models": MODELS, "batch": model_batch, "context": make_context})


_TRACES: dict[tuple[str, int], Any] = {}


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Trace each tiny model once: tracing is most of an export's time, and its result is the same for every precision.

    Only in these modules: other tests of the same process have models of the same classes.
    """
    from leptonsdk_onnxruntime import export

    def once(trace: Callable[..., Any]) -> Callable[..., Any]:
        def cached(model: Any, inputs: Any, opset: int) -> Any:
            key = (type(model).__name__, opset)
            if key not in _TRACES:
                _TRACES[key] = trace(model, inputs, opset)
            return dataclasses.replace(_TRACES[key], model=_TRACES[key].model.clone())

        return cached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", once(export.trace))
        patch.setattr(export, "trace_decoder", once(export.trace_decoder))
        yield


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"), {})
