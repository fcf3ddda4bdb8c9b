"""Opening what is to be evaluated, a checkpoint in torch or an artifact in its runtime, so that both look the same."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import Checkpoint, load_processor
from leptonsdk.checkpoint.pooling import POOLING_FILE, pooling_mode
from leptonsdk.errors import EvaluationError
from leptonsdk.hooks import Plugins, Runner, errors_named
from leptonsdk.quantization.library_layers import library_method


@dataclass(frozen=True)
class Subject:
    """A model ready to be run: its runner, processor, task, the options that evaluators read, and whose runner it is."""

    runner: Runner
    processor: Any
    task: str
    label: str
    options: Mapping[str, Any]
    backend: type[Any] | None = None


class TorchRunner:
    """Runs a checkpoint in torch. Inputs that its forward does not take are dropped."""

    def __init__(self, model: Any) -> None:
        self.model = model
        dtype = str(model.dtype).removeprefix("torch.")
        self.runtime = f"torch {torch.__version__} ({model.device.type}, {dtype})"
        parameters = inspect.signature(model.forward).parameters.values()
        self.input_names = frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        with torch.inference_mode():
            return self.model(**self._moved(inputs))

    def generate(self, *, max_new_tokens: int, **inputs: torch.Tensor) -> torch.Tensor:
        """Greedy generation, token ids ``[batch, longest]``, as the model's own ``generate`` gives them.

        Raises:
            EvaluationError: The model has none.
        """
        if not self.model.can_generate():
            raise EvaluationError("it cannot generate", where=type(self.model).__name__)
        with torch.inference_mode():
            ids: torch.Tensor = self.model.generate(
                **self._moved(inputs), max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
            )
        return ids

    def _moved(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in inputs.items() if name in self.input_names}


def open_subject(model: Checkpoint | Artifact, plugins: Plugins, *, threads: int | None = None) -> Subject:
    """A checkpoint or an artifact, ready to run. ``threads`` sizes the runtime's own pool (not torch's global one)."""
    if isinstance(model, Checkpoint):
        companions = model.companions
        label = "torch"
        if model.quantized:
            widths = sorted({tensor.scheme.num_bits for tensor in model.quantized.values()})
            label = f"torch W{'/'.join(map(str, widths))}A16"
        elif (method := library_method(model.model)) is not None:
            label = f"torch {method}"
        pooling = companions.get(POOLING_FILE)
        options = _options(model.model.config, model.task, pooling)
        return Subject(TorchRunner(model.model), model.processor, model.task, label, options)
    backend = plugins.get("backend", model.backend)
    pooling_file = model.folder / POOLING_FILE
    with errors_named(backend):
        runner = backend.load(model, threads=threads)
    return Subject(
        runner=runner,
        processor=load_processor(model.folder, model.task),
        task=model.task,
        label=f"{model.backend} {model.precision}",
        options=_options(
            AutoConfig.from_pretrained(model.folder),
            model.task,
            pooling_file.read_bytes() if pooling_file.is_file() else None,
        ),
        backend=backend,
    )


def _options(config: Any, task: str, pooling: bytes | None) -> dict[str, Any]:
    options: dict[str, Any] = {"label2id": dict(getattr(config, "label2id", None) or {})}
    if (positions := getattr(config, "max_position_embeddings", None)) is not None:
        options["max_positions"] = positions
    if getattr(config, "is_encoder_decoder", False):
        for name in ("decoder_start_token_id", "max_target_positions"):
            if (value := getattr(config, name, None)) is not None:
                options[name] = value
    own = (getattr(config, "task_specific_params", None) or {}).get(task) or {}
    if "prefix" in own:  # T5's: "summarize: "
        options["prefix"] = own["prefix"]
    if pooling is not None and (mode := pooling_mode(json.loads(pooling))) is not None:
        options["pooling"] = mode
    return options
