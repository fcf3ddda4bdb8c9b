"""Tiny random models of many architectures, with inputs, made from configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
# Hidden size, width of all heads and neurons are one number: only their roles tell them apart.
DECODER = {
    **TEXT,
    "hidden_size": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 6,
    "eos_token_id": None,
}
WHISPER = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
T5 = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16}

# By name: the config's class, its values, the model's class.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("BertConfig", TEXT, "BertForSequenceClassification"),
    "roberta": ("RobertaConfig", TEXT, "RobertaForSequenceClassification"),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 64, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
        "DistilBertForSequenceClassification",
    ),
    "vit": ("ViTConfig", {**VIT, "patch_size": 4}, "ViTForImageClassification"),
    "llama": ("LlamaConfig", DECODER, "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", DECODER, "Qwen2ForCausalLM"),
    "whisper": ("WhisperConfig", WHISPER, "WhisperForConditionalGeneration"),
    "t5": ("T5Config", T5, "T5ForConditionalGeneration"),
    "t5-gated": ("T5Config", {**T5, "feed_forward_proj": "gated-gelu"}, "T5ForConditionalGeneration"),
    "modernbert": ("ModernBertConfig", {**TEXT, "pad_token_id": 0}, "ModernBertForSequenceClassification"),
    "dinov2": (
        "Dinov2Config",
        {**VIT, "patch_size": 4, "mlp_ratio": 2},
        "Dinov2ForImageClassification",
    ),
    "deberta": (
        "DebertaV2Config",
        {
            **TEXT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "share_att_key": True,
        },
        "DebertaV2ForSequenceClassification",
    ),
    "gemma2": ("Gemma2Config", DECODER, "Gemma2ForCausalLM"),
    "gemma3n": (
        "Gemma3nTextConfig",
        {
            **TEXT,
            "num_key_value_heads": 2,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 8,
            "head_dim": 8,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "num_kv_shared_layers": 0,
            "layer_types": ["full_attention"] * 3,
            "activation_sparsity_pattern": None,
            "eos_token_id": None,
            "bos_token_id": 1,
        },
        "Gemma3nForCausalLM",
    ),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "eos_token_id": None},
        "GPT2LMHeadModel",
    ),
}


def make_model(name: str, **changes: Any) -> Any:
    """A random model in eval mode whose units all count: its weights are larger than those of a new model."""
    config, values, model = MODELS[name]
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**{**values, **changes})).eval()
        with torch.no_grad():
            for parameter_name, parameter in made.named_parameters():
                if parameter.dim() == 2 and "embed" not in parameter_name:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
                elif parameter_name.endswith("bias"):
                    parameter.normal_(std=0.2)
    return made


def make_inputs(name: str) -> dict[str, Any]:
    """A batch of two."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 64, (2, 8), generator=generator)
    if name in ("vit", "dinov2"):
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    if name == "whisper":
        features = torch.randn(2, 8, 32, generator=generator)
        return {"input_features": features, "decoder_input_ids": tokens[:, :5]}
    if name.startswith("t5"):
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :5]}
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.fixture
def tiny() -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A tiny model by its name in `MODELS`, with config values changed, and its inputs."""
    return lambda name, **changes: (make_model(name, **changes), make_inputs(name))


@pytest.fixture
def mask() -> Callable[..., list[Any]]:
    """Zero what a unit's last layer reads of all parts but some; returns handles that undo it."""
    return _mask


def _mask(model: Any, unit: Any, keep: list[int]) -> list[Any]:
    from leptonsdk.structure import Attention

    if isinstance(unit, Attention):
        name, width = unit.output, unit.heads // unit.groups * unit.value_size
    else:
        name, width = unit.down, 1
    layer = model.get_submodule(name)
    total = unit.groups * width if isinstance(unit, Attention) else unit.neurons
    kept = torch.zeros(total, dtype=torch.bool)
    for part in keep:
        kept[part * width : (part + 1) * width] = True
    return [layer.register_forward_pre_hook(lambda _, args: (args[0] * kept.to(args[0].dtype), *args[1:]))]
