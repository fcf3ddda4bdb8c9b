"""For the tests of all plugins: tiny random models of many architectures, and Trainer runs on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.layers import linear_layers

_TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}


def _bert(layers: int) -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**_TEXT, num_hidden_layers=layers))


def _roberta(layers: int) -> Any:
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**_TEXT, num_hidden_layers=layers))


def _distilbert(layers: int) -> Any:
    config = transformers.DistilBertConfig(vocab_size=40, dim=32, n_layers=layers, n_heads=4, hidden_dim=64)
    return transformers.DistilBertForSequenceClassification(config)


def _vit(layers: int) -> Any:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
    )
    return transformers.ViTForImageClassification(config)


def _llama(layers: int) -> Any:
    config = transformers.LlamaConfig(
        **_TEXT, num_hidden_layers=layers, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config)


def _whisper(layers: int) -> Any:
    config = transformers.WhisperConfig(
        vocab_size=40,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=10,
        max_target_positions=16,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.model.decoder.embed_positions.weight.data.normal_()  # or one token follows for ever
    return model


def _t5(layers: int) -> Any:
    config = transformers.T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=layers, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


MODELS = {
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "vit": _vit,
    "llama": _llama,
    "whisper": _whisper,
    "t5": _t5,
}


def build(name: str, seed: int = 0, layers: int = 2) -> Any:
    """A tiny random model without dropout whose weights are large enough to matter."""
    torch.manual_seed(seed)
    model = MODELS[name](layers)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(std=module.in_features**-0.5)
        if isinstance(module, torch.nn.Conv1d):  # Whisper's: sounds are heard beside their positions
            module.weight.data.normal_(std=module.in_channels**-0.5)
    return model.eval()


def rows(name: str, count: int = 32) -> list[dict[str, Any]]:
    """Rows with labels for a model's Trainer."""
    generator = torch.Generator().manual_seed(1)
    found: list[dict[str, Any]] = []
    for _ in range(count):
        ids = torch.randint(3, 40, (8,), generator=generator)
        if name == "vit":
            pixels = torch.randn(3, 16, 16, generator=generator)
            found.append({"pixel_values": pixels, "labels": int(pixels.mean() > 0)})
        elif name == "whisper":
            found.append({"input_features": torch.randn(8, 20, generator=generator), "labels": ids})
        else:
            found.append({"input_ids": ids, "labels": ids if name in ("llama", "t5") else int(ids[0] % 2)})
    return found


def arguments(folder: Path, **more: Any) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return transformers.TrainingArguments(**{**options, **more})


def outputs(name: str, model: Any) -> torch.Tensor:
    """The logits of a few of its rows."""
    data = rows(name, 4)
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in data]) for key in data[0]}
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**batch).logits
    return logits


def with_input_scales(checkpoint: Checkpoint, batch: Mapping[str, torch.Tensor]) -> Checkpoint:
    """As training leaves it: beside integers, the range of what each linear layer reads, here that of a batch."""
    seen: dict[str, tuple[float, float]] = {}

    def observe(module_name: str) -> Any:
        return lambda module, inputs: seen.update({module_name: tuple(map(float, torch.aminmax(inputs[0])))})

    layers = linear_layers(checkpoint.model).keys() & checkpoint.quantized.keys()
    hooks = [checkpoint.model.get_submodule(n).register_forward_pre_hook(observe(n)) for n in layers]
    with torch.no_grad():
        checkpoint.model(**batch)
    for hook in hooks:
        hook.remove()
    tensors = dict(checkpoint.quantized)
    for layer, (low, high) in seen.items():
        scale = (max(high, 0) - min(low, 0)) / 255
        given = InputScale(scale, round(-128 - min(low, 0) / scale))
        tensors[layer] = dataclasses.replace(tensors[layer], input_scale=given)
    return checkpoint.replace(quantized=tensors)


@contextmanager
def rounding_inputs(checkpoint: Checkpoint) -> Iterator[Any]:
    """The checkpoint's model with the inputs of its layers rounded as their scales say."""

    def rounded(scale: InputScale) -> Any:
        return lambda module, inputs: (
            torch.fake_quantize_per_tensor_affine(inputs[0], scale.scale, scale.zero_point, -128, 127),
        )

    scales = checkpoint.input_scales.items()
    hooks = [checkpoint.model.get_submodule(n).register_forward_pre_hook(rounded(scale)) for n, scale in scales]
    with torch.no_grad():
        yield checkpoint.model
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The helpers of this file, for the tests."""
    return SimpleNamespace(
        build=build,
        rows=rows,
        arguments=arguments,
        outputs=outputs,
        names=tuple(MODELS),
        with_input_scales=with_input_scales,
        rounding_inputs=rounding_inputs,
    )
