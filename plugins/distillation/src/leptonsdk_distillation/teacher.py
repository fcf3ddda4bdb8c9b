"""The teacher: loaded, checked against the student, run without gradients, its classes in the student's order."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk_distillation.agreement import (
    check_tokenizers,
    find_tokenizer,
    label_order,
    shared_vocabulary,
    tokenizer_of,
)
from leptonsdk_distillation.config import DistillationConfig
from leptonsdk_distillation.items import Head

_NOT_FOR_THE_TEACHER = ("start_positions", "end_positions", "num_items_in_batch", "return_loss")


class Teacher:
    """A model that only speaks: in eval mode, without gradients, on the student's device, no part of the student.

    Attributes:
        model: The teacher's model.
        order: The teacher's class for each of the student's, or None where the order is the same.
        size: How many logits are compared, or None for all.
    """

    def __init__(self, model: nn.Module, order: list[int] | None, size: int | None) -> None:
        self.model = model
        self.order, self.size = order, size
        self._names = _argument_names(model)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any], device: torch.device, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs for a batch, without labels, unless the decoder's inputs are made of these.

        Args:
            inputs: The student's batch. What the teacher's forward does not name is left out.
            device: Where the student's outputs are; the teacher moves there once.
            wanted: ``output_hidden_states`` and the like.
        """
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        self.model.eval()
        outputs = self.model(**self.inputs(inputs), **wanted)
        if not isinstance(outputs, Mapping):
            raise UsageError(
                "the teacher's outputs have no names", where="distillation", hint="give a transformers model"
            )
        return outputs

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a batch that the teacher reads."""
        config: Any = getattr(self.model, "config", None)
        decoder_inputs = ("decoder_input_ids", "decoder_inputs_embeds")
        from_labels = bool(getattr(config, "is_encoder_decoder", False)) and not any(
            n in inputs for n in decoder_inputs
        )
        return {
            name: value
            for name, value in inputs.items()
            if (self._names is None or name in self._names)
            and name not in _NOT_FOR_THE_TEACHER
            and ("label" not in name or (from_labels and name == "labels"))
        }

    def aligned(self, logits: Tensor) -> Tensor:
        """Logits ``[..., classes]`` in the student's order."""
        if self.order is not None:
            return logits[..., self.order]
        return logits if self.size is None else logits[..., : self.size]

    def fingerprint(self, **more: Any) -> str:
        """A hash of its weights, its config, what it is aligned to, and more that what is made with it depends on."""
        digest = hashlib.sha256(type(self.model).__name__.encode())
        config: Any = getattr(self.model, "config", None)
        described = config.to_dict() if hasattr(config, "to_dict") else {}
        for name in ("_name_or_path", "transformers_version"):
            described.pop(name, None)
        digest.update(json.dumps([described, self.order, self.size, more], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's content, whatever its dtype."""
    content: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return content


def find_teacher(config: DistillationConfig, given: Any, student: nn.Module, head: Head, base: Path) -> Teacher:
    """The teacher that was given, or that the config names, checked against the student.

    Args:
        config: Distillation's.
        given: A model or a checkpoint, or None.
        student: The model in training, unwrapped.
        head: The student's.
        base: Where a relative folder starts.

    Raises:
        UsageError: There is none, or it does not fit.
        CheckpointError: It cannot be loaded.
    """
    processor: Any = None
    if given is None:
        given = _load(config, student, base)
    model = given
    if not isinstance(model, nn.Module):
        if not isinstance(getattr(given, "model", None), nn.Module):
            raise UsageError(f"a {type(given).__name__} is no teacher", where="distillation", hint="give a model")
        model, processor = given.model, given.processor
    if model is student:
        model = copy.deepcopy(model)  # the student as it is now, which training will not move
    tokenizer = tokenizer_of(processor) or find_tokenizer(model, config.trust_remote_code)
    ours = None if tokenizer is None else find_tokenizer(student, config.trust_remote_code)
    same_tokenizer = check_tokenizers(ours, tokenizer)
    order = size = None
    if head.names != "none" and Head.of(model).names != head.names:
        raise UsageError(
            f"the teacher, a {type(model).__name__}, does not do what the student, a {type(student).__name__}, does",
            where="distillation",
        )
    if head.names == "labels":
        order = label_order(student.config, model.config)
    elif head.names == "vocabulary":
        size = shared_vocabulary(student.config, model.config, same_tokenizer)
    model.eval()
    return Teacher(model, order, size)


def _load(config: DistillationConfig, student: nn.Module, base: Path) -> Any:
    """The checkpoint that the config names, for the student's task."""
    from leptonsdk import load_model
    from leptonsdk.checkpoint import infer_task

    if config.teacher is None:
        raise UsageError("no teacher is given", where="distillation", hint="name a folder or a Hub id as `teacher`")
    name = type(student).__name__
    try:
        task = infer_task(SimpleNamespace(architectures=[name]), name)
    except CheckpointError:  # a class of the user's own: the teacher's config tells
        task = None
    like = next(student.parameters())
    folder = base / config.teacher
    return load_model(
        folder if folder.is_dir() else config.teacher,
        task=task,
        dtype=like.dtype,
        device=str(like.device),
        trust_remote_code=config.trust_remote_code,
    )


def _argument_names(model: nn.Module) -> frozenset[str] | None:
    """What a model's forward names; None where it takes anything (a wrapper)."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return frozenset(p.name for p in parameters if p.kind not in kinds) or None
