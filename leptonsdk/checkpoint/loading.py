"""Load checkpoints: from the Hub, folders and installed packages, quantized or not."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig

from leptonsdk.artifact import sha256
from leptonsdk.checkpoint.hub import commit_of, download
from leptonsdk.checkpoint.model import COMPANIONS, Checkpoint, Source
from leptonsdk.checkpoint.tasks import infer_task, load_processor, model_class_for
from leptonsdk.errors import CheckpointError, first_line
from leptonsdk.quantization.formats import load_compressed, quantization_section
from leptonsdk.quantization.formats_gptq import load_gptq
from leptonsdk.quantization.formats_names import integers_by_module
from leptonsdk.quantization.formats_sidecar import load_sidecar
from leptonsdk.quantization.library_layers import BITSANDBYTES, cast_floats
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk.references import Reference, locate_model
from leptonsdk.structure.shapes import FILE as SHAPES
from leptonsdk.structure.shapes import load_shapes, plain_class, record_shapes, resize, shaped_class

# Readers of quantized weights, by their ``quant_method``.
READERS = {"compressed-tensors": load_compressed, "gptq": load_gptq}


def load_checkpoint(
    reference: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    trust_remote_code: bool = False,
    base: Path | None = None,
) -> Checkpoint:
    """Load a model with its processor from the Hub, a folder, or an installed package's folder.

    Args:
        reference: Hub id, path, or ``package://name/sub``.
        task: The Hub's task name; inferred from the architecture (optimum's TasksManager) when None.
        revision: Of a Hub id.
        dtype: What to compute in. fp16 weights on disk are widened to fp32 by default, the CPU's own precision.
        device: Torch device.
        trust_remote_code: Run code that the model's folder holds; off unless you turn it on.
        base: Where relative paths start.

    Raises:
        CheckpointError: The model is missing, has no safetensors weights, or does not do the task.
    """
    if not isinstance(reference, (str, Path)):
        raise CheckpointError(f"a {type(reference).__name__} is no model's name or folder")
    located = locate_model(str(reference), base)
    folder = located.folder if located.folder is not None else download(located.name, revision)
    options = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"its config cannot be read: {first_line(error)}", where=located.name) from error
    task = task or infer_task(config, located.name)
    stored = getattr(config, "dtype", None)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            "it has no safetensors weights", where=located.name, hint="pickled weights are never read: convert them"
        )
    model, quantized = _load_model(folder, config, task, dtype, device, options, located)
    cast_floats(model, dtype)
    model.to(torch.device(device)).eval()
    return Checkpoint(
        model=model,
        processor=load_processor(folder, task, **options),
        task=task,
        source=Source(located.kind, located.name, revision or commit_of(folder), _hash_weights(weights), stored),
        quantized=quantized,
        companions={name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()},
    )


def _load_model(
    folder: Path,
    config: Any,
    task: str,
    dtype: torch.dtype,
    device: str,
    options: Mapping[str, Any],
    located: Reference,
) -> tuple[Any, Mapping[str, AnyTensor]]:
    auto_class = model_class_for(task, config)
    quantized: Mapping[str, AnyTensor] = {}
    section = quantization_section(config)
    shapes = load_shapes(folder)
    try:
        if shapes:
            auto_class = shaped_class(_class_of(auto_class, config, options), shapes)
        if (method := section.get("quant_method")) in READERS:
            # The integers are read as they are: transformers would keep them in layers of its own.
            state, integers = READERS[method](folder, dtype=dtype)
            del config.quantization_config
            model_class = auto_class if shapes else type(auto_class.from_config(config, **options))
            model, report = model_class.from_pretrained(
                None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
            )
            quantized = integers_by_module(model, integers)
            if model.can_generate() and (folder / "generation_config.json").is_file():
                model.generation_config = GenerationConfig.from_pretrained(folder)  # not read with a state dict
        else:
            if section:
                options = {**options, "device_map": {"": torch.device(device)}}  # where its layers are put together
            model, report = auto_class.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"its weights lack {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
                where=f"{located.name} as {task}",
                hint="the head would be random: fine-tune it first, or name the task that it was trained for",
            )
    except ImportError as error:
        if not section:
            raise
        method = section.get("quant_method")
        hint = f"pip install leptonsdk-{BITSANDBYTES}" if method == BITSANDBYTES else None
        message = f"it is quantized with {method}, which cannot be used here: {first_line(error)}"
        raise CheckpointError(message, where=located.name, hint=hint) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot be loaded for {task}: {first_line(error)}", where=located.name) from error
    except RuntimeError as error:
        if not shapes:
            raise
        message = f"the shapes in {SHAPES} are not those of the weights: {first_line(error)}"
        raise CheckpointError(message, where=located.name) from error
    model = plain_class(model)
    return model, {**quantized, **load_sidecar(folder, model)}


def load_like(model: Any, folder: str | Path, **options: Any) -> Any:
    """``from_pretrained`` of a model's own class, also where heads or neurons were removed from it."""
    model_class = shaped_class(type(model), record_shapes(model))
    return plain_class(model_class.from_pretrained(folder, **options))


def _class_of(auto_class: Any, config: Any, options: Mapping[str, Any]) -> Any:
    """The model class that an Auto class builds from a config."""
    with torch.device("meta"):
        return type(auto_class.from_config(copy.deepcopy(config), **options))


def load_skeleton(model: Reference, task: str | None) -> transformers.PreTrainedModel:
    """A local model's modules and shapes, on the meta device, from its config (and recorded shapes) alone.

    Raises:
        CheckpointError: It cannot be built: the config is not understood, or needs code from the folder.
    """
    if model.folder is None:
        raise CheckpointError("its config is not here", where=model.name)
    try:
        config = AutoConfig.from_pretrained(model.folder)
        with torch.device("meta"):
            auto_class = model_class_for(task or infer_task(config, model.name), config)
            built: transformers.PreTrainedModel = auto_class.from_config(config)
            if shapes := load_shapes(model.folder):
                resize(built, shapes)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"cannot be built: {first_line(error)}", where=model.name) from error
    return built


def _hash_weights(files: list[Path]) -> str:
    return hashlib.sha256("".join(f"{path.name}:{sha256(path)}\n" for path in files).encode()).hexdigest()
