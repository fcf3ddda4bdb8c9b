"""Tiny random models, and a stand-in for the checkpoint that the core hands to a backend."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from leptonsdk_onnxruntime import OnnxRuntimeBackend

from leptonsdk.hooks import StepContext
from leptonsdk.testing.alone import run_artifact


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


def alone(artifact: Any, inputs: Mapping[str, Any], **more: Any) -> dict[str, torch.Tensor]:
    """What an artifact computes in a process with ONNX Runtime and NumPy, without leptonsdk and what it was made with.

    Models that generate do so greedily there: see ``alone_decoder.py`` and ``alone_seq2seq.py``.
    """
    cached = any(value["name"].startswith("past_key_values.") for value in artifact.details.get("inputs", ()))
    kind = "seq2seq" if "seq2seq" in artifact.details else "decoder" if cached else None
    program = OnnxRuntimeBackend.run_alone if kind is None else Path(__file__).with_name(f"alone_{kind}.py").read_text()
    given = {**inputs, **{name: torch.as_tensor(value) for name, value in more.items()}}
    without = ("torch", "transformers", "optimum", "onnx", "onnxscript")
    return run_artifact(artifact.folder / artifact.entry, program, given, "onnxruntime", without)


@dataclass
class Exports:
    """Exports each model in each precision once, when it is first asked for."""

    root: Path
    done: dict[tuple[str, str], Any]

    def __call__(self, name: str, precision: str = "fp32", **options: Any) -> Any:
        from leptonsdk_onnxruntime import OnnxRuntimeConfig

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
    own = {"models": MODELS, "batch": model_batch, "context": make_context, "alone": alone}
    return SimpleNamespace(**{**vars(tiny), **own})


class Traces:
    """Traces a model once, when it is first asked for: tracing is most of an export's time.

    Later models of its class and sizes get the same graph with their own weights. Where one that differs has no place of its
    own in it (equal tensors are merged), the model is traced itself.
    """

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def once(self, trace: Callable[..., Any]) -> Callable[..., Any]:
        def cached(model: Any, inputs: Any, opset: int) -> Any:
            state = {name: value.numpy() for name, value in model.state_dict().items()}
            key = (type(model).__name__, opset, *inputs, *((name, value.shape) for name, value in state.items()))
            if key not in self.kept:
                found = trace(model, inputs, opset)
                before = {name: value.copy() for name, value in state.items()}
                self.kept[key] = found, before, _places(_parts(found), before)
            found, before, places = self.kept[key]
            copies = tuple(dataclasses.replace(part, model=part.model.clone()) for part in _parts(found))
            if not _fill(copies, places, before, state):
                return trace(model, inputs, opset)
            return copies if isinstance(found, tuple) else copies[0]

        return cached


Places = dict[tuple[int, str], list[tuple[str, bool]]]
"""Part and initializer to the weights that stand there, and whether as their transpose."""


def _parts(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _places(parts: tuple[Any, ...], weights: Mapping[str, Any]) -> Places:
    places: Places = {}
    for index, part in enumerate(parts):
        for name, value in part.model.graph.initializers.items():
            array = value.const_value.numpy()
            same = [(weight, False) for weight, own in weights.items() if np.array_equal(own, array)]
            places[index, name] = same or [
                (weight, True) for weight, own in weights.items() if np.array_equal(own.T, array)
            ]
    return places


def _fill(parts: tuple[Any, ...], places: Places, before: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    """Put weights into their places; False where that cannot be done."""
    changed = {name for name, own in weights.items() if not np.array_equal(own, before[name])}
    for (index, name), owners in places.items():
        if changed.isdisjoint(owner for owner, _ in owners):
            continue
        first, *others = (weights[owner].T if turned else weights[owner] for owner, turned in owners)
        if not all(np.array_equal(first, other) for other in others):
            return False
        parts[index].model.graph.initializers[name].const_value = ir.tensor(np.array(first, order="C"), name=name)
    return changed <= {owner for owners in places.values() for owner, _ in owners}


_TRACES = Traces()


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    from leptonsdk_onnxruntime import export

    with pytest.MonkeyPatch.context() as patch:
        for name in ("trace", "trace_decoder", "trace_encoder_decoder"):
            patch.setattr(export, name, _TRACES.once(getattr(export, name)))
        yield


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"), {})
