"""Checkpoint: a model in memory with its processing class, task and provenance.

Quantized weights stay quantized in it: the model computes with the dequantized numbers, and beside it stand the integers,
scales and zero points that they came from, so that a backend can lower the same integers and a save writes them. Layers that
transformers quantized itself (bitsandbytes) are kept as they are, see `leptonsdk.quantization.library_layers`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

from leptonsdk.artifact import sha256
from leptonsdk.errors import CheckpointError, UsageError, did_you_mean, first_line
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.formats import (
    dtype_name,
    load_compressed,
    quantization_section,
    rename_dtype,
    save_compressed,
)
from leptonsdk.quantization.formats_gptq import load_gptq, save_gptq
from leptonsdk.quantization.formats_names import integers_by_module
from leptonsdk.quantization.formats_sidecar import load_sidecar, needs_sidecar, save_sidecar
from leptonsdk.quantization.library_layers import (
    BITSANDBYTES,
    cast_floats,
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
from leptonsdk.references import Reference, locate_model, task_of_architecture
from leptonsdk.structure.shapes import FILE as SHAPES
from leptonsdk.structure.shapes import load_shapes, plain_class, record_shapes, resize, save_shapes, shaped_class

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
READERS = {"compressed-tensors": load_compressed, "gptq": load_gptq}
_VISION_TASKS = frozenset({"image-classification", "object-detection", "image-segmentation", "semantic-segmentation"})
_SPEECH_TASKS = frozenset({"audio-classification"})
_BOTH_TASKS = frozenset({"automatic-speech-recognition", "image-to-text"})


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
        return cls(model, processor, task or _task_of([name], name), Source("memory", name, None, ""))

    @property
    def input_scales(self) -> dict[str, InputScale]:
        """How the inputs of layers are quantized, by module name, where training (or another's file) fixed it."""
        found = {name: getattr(tensor, "input_scale", None) for name, tensor in self.quantized.items()}
        return {name: scale for name, scale in found.items() if scale is not None}

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
                transformers only with gptqmodel installed, and whose scales are rounded to fp16. Weights with codebooks and those
                of ``Conv1D`` (GPT-2), for which these have no place, are written as floats, so that the folder is no smaller, and
                what they were made from in a file beside them.
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
        source=Source(located.kind, located.name, revision or _commit(folder), _hash_weights(weights), stored),
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
    except (OSError, ValueError, KeyError) as error:
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


def model_class_for(task: str, config: Any = None) -> Any:
    """The Auto class that loads models of a task, as optimum's TasksManager has it.

    Speech recognition has two, for encoder-decoders and for CTC: the config tells which.
    """
    from optimum.exporters.tasks import TasksManager

    try:
        task = TasksManager.map_from_synonym(task)
        model_type = getattr(config, "model_type", None) if task == "automatic-speech-recognition" else None
        return TasksManager.get_model_class_for_task(task, model_type=model_type)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"unknown task '{task}'", hint=f"{first_line(error)}") from error


def infer_task(config: Any, name: str) -> str:
    """The task of a model's first architecture."""
    return _task_of(getattr(config, "architectures", None) or (), name)


def _task_of(architectures: Iterable[str], name: str) -> str:
    from optimum.exporters.tasks import TasksManager

    for architecture in architectures:
        cls = getattr(transformers, architecture, None)
        if cls is not None:
            try:
                return str(TasksManager.infer_task_from_model(cls))
            except (KeyError, ValueError):
                pass
        if (task := task_of_architecture(architecture)) is not None:
            return task
    raise CheckpointError("its task cannot be inferred", where=name, hint="give one: `model.task`, or --task")


def load_processor(folder: Path, task: str, **options: Any) -> Any:
    """The processing class of a task's models (tokenizer, image processor, feature extractor, or processor), or None."""
    loaders: tuple[Any, ...] = (AutoTokenizer, AutoProcessor)
    if task in _VISION_TASKS:
        loaders = (AutoImageProcessor,)
    elif task in _SPEECH_TASKS:
        loaders = (AutoFeatureExtractor,)
    elif task in _BOTH_TASKS:
        loaders = (AutoProcessor,)
    for loader in loaders:
        try:
            return loader.from_pretrained(folder, **options)
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return None


def download(name: str, revision: str | None) -> Path:
    """The snapshot of a Hub model: its safetensors, configs and tokenizer files, nothing pickled."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "1_Pooling/*"]
    unwanted = ["onnx/*", "openvino/*", "coreml/*", "*/*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"cannot be downloaded: {first_line(error)}",
            where=f"Hub model '{name}'",
            hint="check the name, your access and the network; a local folder works without one",
        ) from error


def _commit(folder: Path) -> str | None:
    """The commit of a Hub snapshot, whose folder is named after it."""
    return folder.name if folder.parent.name == "snapshots" else None


def _hash_weights(files: list[Path]) -> str:
    return hashlib.sha256("".join(f"{path.name}:{sha256(path)}\n" for path in files).encode()).hexdigest()
