"""Tiny random models of eight architectures with their processors, made in memory: nothing is downloaded.

Hidden size 32, two layers, a vocabulary of 64, no dropout. Linear weights are large enough that outputs depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from leptonsdk.checkpoint import Checkpoint, Source, model_class_for
from leptonsdk.testing import models_processors as processors

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER, LENGTH, IMAGE, FRAMES = 64, 32, 2, 4, 64, 64, 16, 100
LABELS = ("negative", "positive")

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": LENGTH,
}
_LABELLED: dict[str, Any] = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {name: i for i, name in enumerate(LABELS)},
}
_ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def _bert() -> Any:
    return transformers.BertConfig(
        **_TEXT, **_LABELLED, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0
    )


def _distilbert() -> Any:
    return transformers.DistilBertConfig(
        **_LABELLED,
        vocab_size=VOCABULARY,
        dim=HIDDEN,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=INNER,
        max_position_embeddings=LENGTH,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    )


def _gpt2() -> Any:
    return transformers.GPT2Config(
        **_ENDS,
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=INNER,
        n_positions=LENGTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _llama() -> Any:
    """Grouped-query attention and tied embeddings."""
    return transformers.LlamaConfig(**_TEXT, **_ENDS, num_key_value_heads=2, tie_word_embeddings=True)


def _t5() -> Any:
    return transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=INNER,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )


def _vit() -> Any:
    return transformers.ViTConfig(
        **_LABELLED,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        image_size=IMAGE,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _whisper() -> Any:
    sides = {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": INNER}
    return transformers.WhisperConfig(
        **{f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in sides.items()},
        **_ENDS,
        vocab_size=VOCABULARY,
        num_mel_bins=8,
        d_model=HIDDEN,
        max_source_positions=FRAMES // 2,
        max_target_positions=LENGTH // 2,
        decoder_start_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        dropout=0.0,
    )


def _convnext() -> Any:
    return transformers.ConvNextConfig(
        **_LABELLED, hidden_sizes=[16, HIDDEN], depths=[1, 1], num_stages=2, patch_size=4, image_size=IMAGE
    )


# Name -> config, task, processor.
_MODELS: dict[str, tuple[Callable[[], Any], str, Callable[[], Any]]] = {
    "bert": (_bert, "text-classification", processors.tokenizer),
    "distilbert": (_distilbert, "text-classification", processors.tokenizer),
    "gpt2": (_gpt2, "text-generation", processors.plain_tokenizer),
    "llama": (_llama, "text-generation", processors.plain_tokenizer),
    "t5": (_t5, "text2text-generation", processors.tokenizer),
    "vit": (_vit, "image-classification", processors.image_processor),
    "whisper": (_whisper, "automatic-speech-recognition", processors.speech_processor),
    "convnext": (_convnext, "image-classification", processors.image_processor),
}
ARCHITECTURES = tuple(_MODELS)


def tiny_checkpoint(name: str, *, task: str | None = None, **config: Any) -> Checkpoint:
    """A fresh checkpoint of an architecture, the same every time.

    Args:
        name: One of `ARCHITECTURES`.
        task: Another task than the architecture's usual one.
        config: Fields of its config to set otherwise.
    """
    made = _made(name, task) if not config else _make(name, task, config)
    return made.replace(model=copy.deepcopy(made.model), processor=copy.deepcopy(made.processor))


@cache
def _made(name: str, task: str | None) -> Checkpoint:
    return _make(name, task, {})


def _make(name: str, task: str | None, fields: Mapping[str, Any]) -> Checkpoint:
    config_of, usual, processor = _MODELS[name]
    config, task = config_of(), task or usual
    for key, value in fields.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class_for(task, config).from_config(config)
        for module in model.modules():
            if isinstance(module, (nn.Linear, Conv1D)) and module is not model.get_output_embeddings():
                inputs = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
                module.weight.data.normal_(std=inputs**-0.5)
    model.config.architectures = [type(model).__name__]
    return Checkpoint(model.eval(), processor(), task, Source("memory", f"tiny-{name}", None, ""))


def tiny_inputs(checkpoint: Checkpoint, rows: int = 4, *, length: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a tiny model, without labels: tokens that its vocabulary has, some of them padding; images; frames of sound.

    The last row is padded to two thirds, where there is a mask and more than one row.
    """
    config, main = checkpoint.model.config, checkpoint.model.main_input_name
    generator = torch.Generator().manual_seed(seed)
    if main == "pixel_values":
        return {main: torch.randn(rows, 3, IMAGE, IMAGE, generator=generator)}
    size = int(config.get_text_config().vocab_size)
    # The last words of the vocabulary never come: a compressor that drops what no data has finds something.
    known = min(size, VOCABULARY - processors.RARE)
    ids = torch.randint(processors.SPECIAL, known, (rows, length), generator=generator)
    if main == "input_features":
        sound = torch.randn(rows, 8, FRAMES, generator=generator)
        return {main: sound, "decoder_input_ids": ids[:, : length // 2]}
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[-1, length * 2 // 3 :] = 0
    inputs = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, : length // 2].flip(0)
    return inputs


def tiny_batches(checkpoint: Checkpoint, rows: int = 16) -> Callable[[int], Iterator[Mapping[str, Tensor]]]:
    """Calibration data of a tiny model: a function from a batch size to batches."""

    def make(batch_size: int) -> Iterator[Mapping[str, Tensor]]:
        inputs = tiny_inputs(checkpoint, rows, seed=1)
        for start in range(0, rows, batch_size):
            yield {name: value[start : start + batch_size] for name, value in inputs.items()}

    return make


def tiny_rows(checkpoint: Checkpoint, count: int = 16) -> list[dict[str, Any]]:
    """Rows with labels, for a Trainer: the next tokens, or one of two classes."""
    inputs = tiny_inputs(checkpoint, count, seed=2)
    decoder = inputs.pop("decoder_input_ids", None)
    if decoder is not None:
        labels = decoder
    elif checkpoint.task == "text-generation":
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    else:
        labels = (inputs[checkpoint.model.main_input_name].flatten(1).float().mean(1) > 0).long()
        labels[::2] = 1 - labels[::2]
    return [{**{name: value[i] for name, value in inputs.items()}, "labels": labels[i]} for i in range(count)]
