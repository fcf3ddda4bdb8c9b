"""Checkpoint: a model in memory with its processing class, task and provenance.

Quantized weights stay quantized in it: the model computes with the dequantized numbers, and beside it stand the integers,
scales and zero points that they came from, so that a backend can lower the same integers and a save writes them. Layers that
transformers quantized itself (bitsandbytes) are kept as they are, see `leptonsdk.quantization.library_layers`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from leptonsdk.checkpoint.tasks import task_of
from leptonsdk.errors import CheckpointError, UsageError, did_you_mean
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.formats import (
    dtype_name,
    rename_dtype,
    save_compressed,
)
from leptonsdk.quantization.formats_gptq import save_gptq
from leptonsdk.quantization.formats_sidecar import needs_sidecar, save_sidecar
from leptonsdk.quantization.layers import weight_of
from leptonsdk.quantization.library_layers import (
    BITSANDBYTES,
    dequantized,
    keep_state,
    layer_tensors,
    library_method,
    saved_state,
    saving,
)
from leptonsdk.quantization.scheme_codebooks import SIDECAR
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk.structure.shapes import plain_class, record_shapes, save_shapes, shaped_class

# Small files beside a model that belong to it: how sentence-transformers pools, and under which terms it may be used.
COMPANIONS = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
)
# Formats of quantized weights, by their ``quant_method``.
WRITERS = {"compressed-tensors": save_compressed, "gptq": save_gptq}


@dataclass(frozen=True)
class Source:
    """Where a model came from. ``weights`` is one SHA-256 over its weight files; no local path stands here.

    ``dtype`` is what its weights have on disk, where its config says so.
    """

    kind: str
    name: str
    revision: str | None
    weights: str
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to be compressed, exported or evaluated.

    Attributes:
        model: In eval mode.
        processor: Tokenizer, image processor, feature extractor, or all in one; None when the folder has none.
        task: The Hub's task name.
        source: Provenance.
        quantized: Integers, or indices into codebooks, by module name, for the weights that are quantized.
        companions: Small files that travel along, by relative path.
    """

    model: transformers.PreTrainedModel
    processor: Any
    task: str
    source: Source
    quantized: Mapping[str, AnyTensor] = field(default_factory=dict)
    companions: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keep_state(self.model)

    @classmethod
    def of(cls, model: transformers.PreTrainedModel, *, task: str | None = None, processor: Any = None) -> Checkpoint:
        """A model that was made in memory; its task is its architecture's."""
        name = type(model).__name__
        return cls(model, processor, task or task_of([name], name), Source("memory", name, None, ""))

    @property
    def input_scales(self) -> dict[str, InputScale]:
        """How the inputs of layers are quantized, by module name, where training (or another's file) fixed it."""
        found = {name: getattr(tensor, "input_scale", None) for name, tensor in self.quantized.items()}
        return {name: scale for name, scale in found.items() if scale is not None}

    @property
    def scale_dtype(self) -> torch.dtype:
        """What scales of its quantized weights are stored in, like its other floats: half precision where the source is."""
        stored = self.source.dtype
        dtype: torch.dtype = stored if stored in (torch.float16, torch.bfloat16) else self.model.dtype
        return dtype

    def with_integers(
        self, tensors: Mapping[str, AnyTensor], model: transformers.PreTrainedModel | None = None
    ) -> Checkpoint:
        """A copy in which some weights are quantized, beside those that were: what a compressor of weights gives back.

        Args:
            tensors: By module name; they are kept on the CPU.
            model: Computes with them from now on, changed in place, where the compressor made a copy of its own; default: a
                copy of this one's.
        """
        model = copy.deepcopy(self.model) if model is None else model
        modules, stored = dict(model.named_modules()), dict(self.quantized)
        with torch.no_grad():
            for name, tensor in tensors.items():
                weight = weight_of(modules[name])
                stored[name] = tensor.to("cpu")
                weight.copy_(stored[name].dequantize(weight.dtype))
        return self.replace(model=model, quantized=stored)

    def dequantized(self) -> Checkpoint:
        """The same in floats where transformers quantized layers itself, which no runtime but torch reads; else itself."""
        if library_method(self.model) is None:
            return self
        model_class = shaped_class(type(self.model), record_shapes(self.model))
        return self.replace(model=plain_class(dequantized(self.model, model_class)))

    def replace(self, **changes: Any) -> Checkpoint:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None, format: str = "compressed-tensors") -> Path:
        """Write a Hugging Face folder that plain ``from_pretrained`` loads.

        Of a model with heads or neurons removed whose config cannot say its shapes, they stand in a file beside the weights,
        and only `load_checkpoint` loads the folder.

        Args:
            folder: Made if need be.
            dtype: Of the weights that are not quantized; default: what they had at their source where that loses
                nothing (fp16 weights that were widened and left as they were), else the model's own.
            format: Of the weights that are quantized: ``compressed-tensors``, or ``gptq``, which more runtimes read, but
                transformers only with gptqmodel installed, and whose scales are rounded to fp16. Weights with codebooks, of
                embeddings, of ``Conv1D`` (GPT-2), and of architectures whose weights transformers merges or splits as it loads
                them (mixtures of experts, DINOv2), for which these have no place, are written as floats, so that the folder is
                no smaller, and what they were made from in a file beside them.
        """
        if format not in WRITERS:
            raise UsageError(f"unknown format '{format}'", hint=did_you_mean(format, WRITERS))
        folder = Path(folder)
        dtype = dtype or self._lossless_dtype()
        if dtype is not None and library_method(self.model) not in (None, BITSANDBYTES):
            raise CheckpointError("its quantized layers cannot be cast", where=str(library_method(self.model)))
        if folder.is_file():
            raise CheckpointError("there is a file of that name", where=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        own = {key: getattr(self.model.config, key, None) for key in ("dtype", "architectures")}
        uniform = {name: tensor for name, tensor in self.quantized.items() if isinstance(tensor, QuantizedTensor)}
        (folder / SIDECAR).unlink(missing_ok=True)
        if format == "compressed-tensors" and needs_sidecar(self.model, self.quantized):
            save_sidecar(self.model, self.quantized, folder, save_dtype=dtype)
        elif len(uniform) < len(self.quantized):
            raise CheckpointError(f"the {format} format has no place for codebooks", hint="use a uniform scheme")
        elif uniform or format != "compressed-tensors":
            WRITERS[format](self.model, uniform, folder, save_dtype=dtype)
        elif dtype is None or dtype == self.model.dtype:
            self.model.save_pretrained(folder)
        else:
            state = saved_state(self.model)
            fixed = layer_tensors(state)
            state = {name: tensor if name in fixed else _cast(tensor, dtype) for name, tensor in state.items()}
            with saving(self.model, state):
                self.model.save_pretrained(folder, state_dict=state)
            path = folder / "config.json"  # save_pretrained writes the model's own dtype there
            config = json.loads(path.read_text(encoding="utf-8"))
            rename_dtype(config, dtype_name(self.model.dtype), dtype_name(dtype))
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for key, value in own.items():  # save_pretrained sets them
            setattr(self.model.config, key, value)
        save_shapes(self.model, folder)
        self.save_processor(folder)
        return folder

    def _lossless_dtype(self) -> torch.dtype | None:
        narrow = self.source.dtype
        if narrow not in (torch.float16, torch.bfloat16) or narrow == self.model.dtype:
            return None
        if library_method(self.model) not in (None, BITSANDBYTES):
            return None
        state = dict(self.model.named_parameters())
        if library_method(self.model) is not None:
            state = saved_state(self.model)
        packed = layer_tensors(state) | {f"{name}.weight" for name in self.quantized}
        kept = (tensor for name, tensor in state.items() if name not in packed and tensor.is_floating_point())
        return narrow if all(torch.equal(p.to(narrow).to(p.dtype), p) for p in kept) else None

    def save_processor(self, folder: str | Path) -> None:
        """Write the tokenizer or processor, and the companion files, into a folder."""
        folder = Path(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        for name, content in self.companions.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
