"""Tiny random models of many architectures, batches for them, and a run of distillation by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation

from leptonsdk.hooks import StepContext

torch.set_num_threads(1)

_TEXT = {"vocab_size": 120, "num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": 0}
_SEQ2SEQ = {"vocab_size": 120, "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}


def _bert(head: str) -> Any:
    def make(layers: int, width: int, **more: Any) -> Any:
        config = transformers.BertConfig(**{**_TEXT, "num_hidden_layers": layers, "hidden_size": width, **more})
        return getattr(transformers, head)(config)

    return make


def _distilbert(layers: int, width: int, **more: Any) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=120, dim=width, n_layers=layers, n_heads=4, hidden_dim=48, pad_token_id=0, **more
    )
    return transformers.DistilBertForSequenceClassification(config)


def _llama(layers: int, width: int, **more: Any) -> Any:
    config = {**_TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, **more}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**config, "num_hidden_layers": layers, "hidden_size": width})
    )


def _vit(layers: int, width: int, **more: Any) -> Any:
    config = {"num_attention_heads": 4, "intermediate_size": 48, "image_size": 8, "patch_size": 4, "num_channels": 1}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**{**config, "num_hidden_layers": layers, "hidden_size": width, **more})
    )


def _t5(layers: int, width: int, **more: Any) -> Any:
    config = {**_SEQ2SEQ, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": layers, "d_model": width, **more}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**config))


def _whisper(layers: int, width: int, **more: Any) -> Any:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", 4), ("ffn_dim", 48))
    }
    config = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40, "bos_token_id": 1}
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            **{**_SEQ2SEQ, **config, **sides, "d_model": width, **more},
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )


def _wav2vec2(layers: int, width: int, **more: Any) -> Any:
    config = transformers.Wav2Vec2Config(
        vocab_size=30,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_stride=(4, 4),
        conv_kernel=(8, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        **more,
    )
    return transformers.Wav2Vec2ForCTC(config)


MODELS = {
    "classifier": _bert("BertForSequenceClassification"),
    "tagger": _bert("BertForTokenClassification"),
    "span": _bert("BertForQuestionAnswering"),
    "masked": _bert("BertForMaskedLM"),
    "encoder": _bert("BertModel"),
    "distilbert": _distilbert,
    "llama": _llama,
    "vit": _vit,
    "t5": _t5,
    "whisper": _whisper,
    "ctc": _wav2vec2,
}


def build(name: str, seed: int = 0, layers: int = 2, width: int = 32, **more: Any) -> Any:
    """A tiny random model whose weights are large enough for its outputs to differ from another's."""
    torch.manual_seed(seed)
    model = MODELS[name](layers, width, **more)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                module.weight.copy_(torch.randn_like(module.weight) * module.weight.shape[1] ** -0.5)
    return model


def batch(name: str, rows: int = 4, seed: int = 1, length: int = 12, labels: bool = True) -> dict[str, Any]:
    """A padded batch with labels."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(3 if high > 4 else 0, high, shape, generator=generator)

    if name == "vit":
        made: dict[str, Any] = {"pixel_values": torch.randn(rows, 1, 8, 8, generator=generator)}
        made["labels"] = numbers(2, rows)
    elif name in {"whisper", "ctc"}:
        shape, key = ((rows, 8, 40), "input_features") if name == "whisper" else ((rows, 400), "input_values")
        made = {key: torch.randn(*shape, generator=generator), "labels": numbers(30, rows, 6)}
        made["labels"][0, 4:] = -100
        if name == "ctc":
            made["attention_mask"] = torch.ones(rows, 400, dtype=torch.long)
            made["attention_mask"][0, 200:] = 0
    else:
        ids, mask = numbers(120, rows, length), torch.ones(rows, length, dtype=torch.long)
        for row in range(rows - 1):  # the last row has no padding
            mask[row, length // 2 + row :] = 0
        made = {"input_ids": ids * mask, "attention_mask": mask}
        if name in {"tagger", "masked", "llama"}:
            high = 2 if name == "tagger" else 120
            made["labels"] = numbers(high, rows, length).masked_fill(mask == 0, -100)
        elif name == "t5":
            made["labels"] = numbers(120, rows, 6)
            made["labels"][0, 4:] = -100
        elif name == "span":
            made |= {"start_positions": numbers(4, rows), "end_positions": numbers(4, rows)}
        elif name != "encoder":
            made["labels"] = numbers(2, rows)
    return made if labels else {key: value for key, value in made.items() if "label" not in key}


class ByHand:
    """Distillation as a Trainer drives it: prepare once, then a loss per batch."""

    def __init__(self, distillation: Distillation, student: Any, folder: Path) -> None:
        self.distillation, self.student = distillation, student
        self.context = StepContext(seed=0, folder=folder)
        distillation.prepare(student, self.context)

    def __call__(self, inputs: dict[str, Any]) -> torch.Tensor:
        outputs = self.student(**inputs, **self.distillation.model_inputs())
        return self.distillation.loss(self.student, inputs, outputs, outputs.get("loss"))

    def value(self, inputs: dict[str, Any]) -> float:
        return float(self(inputs).detach())

    def finalize(self) -> Any:
        return self.distillation.finalize(self.student, self.context)


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The helpers of this file, for the tests: `build`, `batch`, `ByHand`, `MODELS`."""
    return SimpleNamespace(build=build, batch=batch, ByHand=ByHand, MODELS=MODELS)


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """No test may find the threads, the default dtype or the grad mode changed."""
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    yield
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
