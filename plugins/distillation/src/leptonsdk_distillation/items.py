"""What a model's outputs are a mean over: its items, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Compared = Literal["classes", "binary", "numbers"]
IGNORED = -100

_VOCABULARY = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForSpeechSeq2Seq", "ForCTC")
_LABELS = ("Classification", "ForSemanticSegmentation")


@dataclass(frozen=True)
class Head:
    """What is known of a model's outputs from its class and config.

    Attributes:
        compared: How two logits are: as distributions over classes, as a yes or no each (multi-label), as numbers (regression).
        names: What the classes are: the config's labels, a vocabulary, or nothing with a name (a span's positions, choices).
        shifted: Position i predicts the label at i + 1 (a decoder without encoder).
        frames: Positions are frames, which labels do not speak of (CTC).
        two_stacks: It has an encoder and a decoder.
    """

    compared: Compared
    names: Literal["labels", "vocabulary", "none"]
    shifted: bool
    frames: bool
    two_stacks: bool

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        name = type(model).__name__
        config: Any = getattr(model, "config", None)
        two_stacks = bool(getattr(config, "is_encoder_decoder", False))
        names: Literal["labels", "vocabulary", "none"] = "none"
        if name.endswith(_VOCABULARY):
            names = "vocabulary"
        elif name.endswith(_LABELS):
            names = "labels"
        problem = getattr(config, "problem_type", None)
        compared: Compared = "classes"
        if names == "labels" and (problem == "regression" or (problem is None and config.num_labels == 1)):
            compared = "numbers"
        elif names == "labels" and problem == "multi_label_classification":
            compared = "binary"
        frames = name.endswith("ForCTC")
        shifted = names == "vocabulary" and not two_stacks and not frames and not name.endswith("ForMaskedLM")
        return cls(compared, names, shifted, frames, two_stacks)


def logits_of(outputs: Mapping[str, Any]) -> Tensor | None:
    """Logits with the classes last: ``[rows, classes]`` or ``[rows, positions, classes]``; None where there are none.

    Start and end of a span are two "classes" of each position, ``[rows, positions, 2]``: see `flat_spans`. The classes of an
    image's pixels, ``[rows, classes, height, width]``, move to the end.
    """
    if (start := outputs.get("start_logits")) is not None:
        return torch.stack([start, outputs["end_logits"]], dim=-1)
    logits = outputs.get("logits")
    if not isinstance(logits, Tensor):
        return None
    return logits.movedim(1, -1).flatten(1, -2) if logits.ndim == 4 else logits


def is_span(outputs: Mapping[str, Any]) -> bool:
    return outputs.get("start_logits") is not None


def flat_spans(logits: Tensor, attended: Tensor) -> Tensor:
    """Start and end logits ``[rows, positions, 2]`` as items over positions, ``[2 * rows, positions]``; padding has none."""
    masked = logits.float().masked_fill(~attended.unsqueeze(-1), torch.finfo(torch.float32).min)
    return masked.transpose(1, 2).flatten(0, 1)


def attended_positions(model: nn.Module, inputs: Mapping[str, Any], like: Tensor, *, decoder: bool = False) -> Tensor:
    """Which positions of ``like`` ``[rows, positions, ...]`` are not padding, ``[rows, positions]``.

    Args:
        model: The model, unwrapped: a speech encoder knows how many frames its samples make.
        inputs: The batch.
        like: Logits or states.
        decoder: Positions are a decoder's: its own mask counts, else the labels up to the last real one.
    """
    rows, positions = like.shape[:2]
    everything = torch.ones(rows, positions, dtype=torch.bool, device=like.device)
    if decoder:
        mask, labels = inputs.get("decoder_attention_mask"), inputs.get("labels")
        if mask is None and isinstance(labels, Tensor) and labels.shape == everything.shape:
            mask = (labels != IGNORED).int().flip(1).cummax(1).values.flip(1)
    else:
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] != positions:
            frames = getattr(model, "_get_feature_vector_attention_mask", None)
            mask = None if frames is None else frames(positions, mask)
    if not isinstance(mask, Tensor) or mask.shape != everything.shape:
        return everything
    return mask.to(like.device).bool()


def counted_positions(head: Head, inputs: Mapping[str, Any], attended: Tensor) -> Tensor:
    """Which positions' logits count: those whose label is not -100 and that are attended; all attended ones without labels.

    Args:
        head: Of the student.
        inputs: The batch.
        attended: ``[rows, positions]``.
    """
    labels = inputs.get("labels")
    if head.frames or not isinstance(labels, Tensor) or labels.shape != attended.shape:
        return attended
    counted = (labels.to(attended.device) != IGNORED) & attended
    if head.shifted:
        counted = torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], dim=1) & attended
    return counted
