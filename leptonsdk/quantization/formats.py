"""Quantized models on disk: compressed-tensors' ``pack-quantized``, which plain ``from_pretrained`` loads.

The format is described by compressed-tensors (``QuantizationConfig``, ``PackedQuantizationCompressor``); transformers,
vLLM and llm-compressor read and write it. Where layers' inputs are quantized too, it is ``int-quantized``
(``IntQuantizationCompressor``); transformers then computes with the quantized weights and float inputs, vLLM with integers.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import compressed_tensors
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk.quantization.activations import SECTION
from leptonsdk.quantization.formats_names import agrees
from leptonsdk.quantization.layers import is_packable, linear_layers, table_of, tied_layers, weight_of
from leptonsdk.quantization.scheme import Scheme, match_pattern
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk.quantization.tensor_packing import (
    PACKED,
    PLAIN,
    fits_laid_out,
    fits_packed,
    lay_out,
    pack,
    take_in,
    unpack,
)

METHOD = "compressed-tensors"
FORMAT, WITH_INPUTS = "pack-quantized", "int-quantized"


def is_compressed(folder_or_config: Any) -> bool:
    """Whether a model folder, a transformers config or a config's mapping says compressed-tensors."""
    return quantization_section(folder_or_config).get("quant_method") == METHOD


def quantization_section(folder_or_config: Any) -> dict[str, Any]:
    """The ``quantization_config`` of a model folder or a config; empty when there is none."""
    config = folder_or_config
    if isinstance(config, str | Path):
        path = Path(config) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    section = config.get("quantization_config") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping):
        section = getattr(config, "quantization_config", None)
    if section is not None and not isinstance(section, Mapping):
        section = section.to_dict()
    return dict(section or {})


def quantization_config(model: nn.Module, quantized: Mapping[str, QuantizedTensor]) -> dict[str, Any]:
    """The ``quantization_config`` for config.json.

    One scheme targets ``Linear``; several name their layers. ``ignore`` names every linear layer that is not quantized.

    With one scheme, ``dequantize`` asks transformers to make floats while it loads. Otherwise it would leave that to
    the whole model's first forward, with which it cannot load packed zero points, T5's layers are missed when it sets
    up weights, and ``generate`` fails where it calls an encoder first. With several schemes it must not be asked: it
    would take the first for all layers.
    """
    groups: dict[tuple[Scheme, bool], list[str]] = {}
    for name, tensor in quantized.items():
        groups.setdefault((tensor.scheme, tensor.input_scale is not None), []).append(name)
    form = format_of(quantized)
    return {
        "quant_method": METHOD,
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{i}": {
                "targets": ["Linear"] if len(groups) == 1 else names,
                "weights": scheme.to_weights(),
                "input_activations": dict(SECTION) if with_input else None,
                "output_activations": None,
                "format": form,
            }
            for i, ((scheme, with_input), names) in enumerate(groups.items())
        },
        "ignore": [n for n, layer in linear_layers(model).items() if n not in quantized and is_packable(layer)],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "version": compressed_tensors.__version__,
        "dequantize": len({scheme for scheme, _ in groups}) == 1,
    }


def format_of(quantized: Mapping[str, QuantizedTensor]) -> str:
    """The format that has a place for all of it."""
    return WITH_INPUTS if any(tensor.input_scale is not None for tensor in quantized.values()) else FORMAT


def save_compressed(
    model: Any,
    quantized: Mapping[str, QuantizedTensor],
    folder: str | Path,
    *,
    save_dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> dict[str, QuantizedTensor]:
    """Write a transformers folder in pack-quantized format, or in int-quantized where inputs are quantized too.

    Args:
        model: A `transformers.PreTrainedModel` in float, whose quantized weights are the dequantized ones.
        quantized: Integers by module name; at least one.
        folder: Made if need be.
        save_dtype: Of scales and all other floats; default: what each one has. Weights that the architecture keeps
            in fp32 (``_keep_in_fp32_modules``) keep their dtype.
        max_shard_size: As of ``save_pretrained``.

    Returns:
        What stands on disk: the same integers, with scales in the saved dtype. A reload in any dtype computes with
        ``.dequantize(dtype)`` of these, bit for bit. (With several schemes this holds for a reload in the saved dtype;
        in another, transformers casts the scales before it multiplies.)

    Raises:
        CheckpointError: A layer is missing, tied, no nn.Linear (for others see `save_sidecar`), or its weight is no longer
            what the integers say; a float does not fit into ``save_dtype``; the bits cannot be stored; several schemes
            are there, and transformers could not load them.
    """
    check_layers(model, quantized)
    check_packable(model, quantized)
    check_schemes(model, quantized)
    dtype_of = saved_dtypes(model, quantized, save_dtype)
    stored = {name: tensor.cast(dtype_of[name] or tensor.scale.dtype) for name, tensor in quantized.items()}
    packed = to_disk(stored)
    section = quantization_config(model, quantized)
    write_folder(model, packed, section, folder, dtype_of, save_dtype=save_dtype, max_shard_size=max_shard_size)
    return stored


def to_disk(quantized: Mapping[str, QuantizedTensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer in `format_of` all of them."""
    write = pack if format_of(quantized) == FORMAT else lay_out
    return {name: write(tensor) for name, tensor in quantized.items()}


def saved_dtypes(model: Any, quantized: Iterable[str], save_dtype: torch.dtype | None) -> dict[str, torch.dtype | None]:
    """The dtype that each tensor of the state and each quantized layer is saved in; None: the one it has."""
    kept = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if save_dtype == torch.float16:  # bfloat16 has fp32's range, and transformers keeps only the strict ones then
        kept += tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    return {
        name: None if save_dtype is None or any(part in name.split(".") for part in kept) else save_dtype
        for name in (*model.state_dict(), *quantized)
    }


def write_folder(
    model: Any,
    packed: Mapping[str, Mapping[str, Tensor]],
    section: Mapping[str, Any] | None,
    folder: str | Path,
    dtype_of: Mapping[str, torch.dtype | None],
    *,
    save_dtype: torch.dtype | None,
    max_shard_size: int | str,
) -> None:
    """Write a transformers folder whose quantized layers are ``packed`` (tensors by name, by layer), as ``section`` says."""
    state = _cast_state(model, packed, dtype_of)
    for name, tensors in packed.items():
        state.update({f"{name}.{key}": value for key, value in tensors.items()})
    for name, table in table_of(model).items():  # so that ties are seen when saving
        if table in packed:
            state[f"{name}.weight"] = state[f"{table}.weight"]
    folder, own = Path(folder), model.config.dtype
    try:
        model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
    finally:
        model.config.dtype = own
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if save_dtype is not None:
        rename_dtype(config, dtype_name(model.dtype), dtype_name(save_dtype))
    if section is not None:
        config["quantization_config"] = dict(section)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_schemes(model: Any, quantized: Mapping[str, QuantizedTensor]) -> None:
    """Check that transformers can load the schemes of all layers together, in this architecture."""
    if converts_weights(model):
        raise CheckpointError(
            f"transformers cannot load packed layers of {type(model).__name__}, whose weights it merges or splits",
            hint="save the checkpoint: floats, with the integers in a file beside them",
        )
    if len(schemes := {tensor.scheme for tensor in quantized.values()}) > 1:
        # See `quantization_config`: these need transformers' `dequantize`, which knows one scheme only.
        packed_zeros = any(not scheme.symmetric and scheme.strategy != "tensor" for scheme in schemes)
        if packed_zeros or getattr(model.config, "is_encoder_decoder", False):
            kind = "zero points" if packed_zeros else "an encoder and a decoder"
            raise CheckpointError(
                f"transformers cannot load several schemes ({', '.join(s.name for s in schemes)}) with {kind}",
                hint="use one scheme for all layers, or, in other models, symmetric ones",
            )


def converts_weights(model: Any) -> bool:
    """Whether transformers merges or splits weights of the architecture as it loads it (Mixtral's experts, DINOv2).

    Beside packed layers it then takes these weights for packed as well: those in float are lost, or nothing is loaded.
    """
    conversions = [c for c in get_model_conversion_mapping(model) if isinstance(c, WeightConverter)]
    return any(all(source.endswith(".weight") for source in one.source_patterns) for one in conversions)


def check_layers(model: Any, quantized: Mapping[str, AnyTensor]) -> None:
    """Check that every quantized layer is there, can be stored, and still has the weight that its integers say."""
    if not quantized:
        raise CheckpointError("no layer is quantized", hint="save it with save_pretrained")
    if getattr(model, "hf_quantizer", None) is not None:
        raise CheckpointError("the model holds transformers' own quantized layers", hint="load it with load_compressed")
    linear, tied, tables = linear_layers(model), tied_layers(model), table_of(model)
    modules = dict(model.named_modules())
    for name in quantized:
        if name not in linear and name not in tables:
            module = modules.get(name)
            what = "there is no such module" if module is None else f"a {type(module).__name__} cannot be stored"
            raise CheckpointError(
                f"{what}: quantized formats store linear layers and embeddings", where=f"layer '{name}'"
            )
        if name in tied or tables.get(name, name) != name:
            raise CheckpointError(
                "its weight is an embedding too, under whose name its integers stand", where=f"layer '{name}'"
            )
    stale = [name for name, tensor in quantized.items() if not agrees(weight_of(modules[name]), tensor)]
    if stale:
        raise CheckpointError(
            f"the weights are not what their integers say: {', '.join(stale)}",
            hint="something changed them after quantization; quantize last",
        )


def check_packable(model: Any, quantized: Iterable[str]) -> None:
    """Check that all layers are of the kind that the packed formats have a place for."""
    modules = dict(model.named_modules())
    if others := [name for name in quantized if not is_packable(modules[name])]:
        kinds = " and ".join(sorted({type(modules[name]).__name__ for name in others}))
        raise CheckpointError(
            f"packed formats have no place for {kinds}: {', '.join(others)}",
            hint="save as compressed-tensors: floats, with the integers in a file beside them",
        )


def _cast_state(model: Any, quantized: Container[str], dtype_of: Mapping[str, torch.dtype | None]) -> dict[str, Tensor]:
    """The state without quantized weights, cast; tensors that were one stay one, so that ties are seen when saving."""
    state: dict[str, Tensor] = {}
    cast: dict[tuple[Any, ...], Tensor] = {}
    tables = table_of(model)
    for name, tensor in model.state_dict().items():
        if name.endswith(".weight") and tables.get(layer := name.removesuffix(".weight"), layer) in quantized:
            continue
        dtype = dtype_of[name]
        if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
            state[name] = tensor
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), dtype) if tensor.numel() else (name,)
        if key not in cast:
            cast[key] = tensor.to(dtype)
            if bool(torch.isfinite(tensor).all()) and not bool(torch.isfinite(cast[key]).all()):
                raise CheckpointError(
                    f"it has values too large for {dtype_name(dtype)}", where=f"weight '{name}'", hint="use bfloat16"
                )
        state[name] = cast[key]
    return state


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rename_dtype(config: dict[str, Any], old: str, new: str) -> None:
    """Set the config's dtype, and that of the configs in it which had the old one."""
    config["dtype"] = new
    for value in config.values():
        if isinstance(value, dict) and value.get("dtype") == old:
            rename_dtype(value, old, new)


class Loaded(NamedTuple):
    """A state dict in floats, and the integers behind the quantized weights by module name."""

    state_dict: dict[str, Tensor]
    quantized: dict[str, QuantizedTensor]


def load_compressed(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a pack-quantized or int-quantized folder, ours or another's, without building the model.

    Args:
        folder: With config.json and safetensors files. Names are those on disk, which may differ from a model's:
            have transformers load the state dict, then call `integers_by_module`.
        dtype: Of the float weights that are made from integers; other tensors keep theirs.

    Raises:
        CheckpointError: Another format, inputs quantized in another way than `InputScale` says, a layout that is not
            understood, or missing tensors.
    """
    folder = Path(folder)
    section = quantization_section(folder)
    groups = _read_groups(section, folder.name)
    state = read_safetensors(folder)
    quantized: dict[str, QuantizedTensor] = {}
    packed = section.get("format") != WITH_INPUTS
    keys, required = (PACKED, PACKED[:3]) if packed else (PLAIN, PLAIN[:2])
    mark = ".weight_packed" if packed else ".weight_scale"
    fits, read = (fits_packed, unpack) if packed else (fits_laid_out, take_in)
    for name in [key.removesuffix(mark) for key in state if key.endswith(mark)]:
        where = f"{folder.name}, layer '{name}'"
        stored = {key: state.pop(f"{name}.{key}") for key in keys if f"{name}.{key}" in state}
        if missing := [key for key in required if key not in stored]:
            raise CheckpointError(f"{', '.join(missing)} missing", where=where)
        if f"{name}.weight_g_idx" in state:
            raise CheckpointError("columns are in activation order (g_idx), which no reader supports now", where=where)
        scheme = next((s for s in _schemes_for(name, groups) if fits(stored, s)), None)
        if scheme is None:
            shapes = {key: list(value.shape) for key, value in stored.items()}
            raise CheckpointError(f"no config group has tensors of these shapes: {shapes}", where=where)
        quantized[name] = read(stored, scheme)
        state[f"{name}.weight"] = quantized[name].dequantize(dtype)
    if not quantized:
        raise CheckpointError(f"it says {section.get('format')}, and has no such weight", where=folder.name)
    return Loaded(state, quantized)


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: those that the index lists, or ``model.safetensors``."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    state: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"there is no {name}", where=folder.name)
        with safe_open(folder / name, framework="pt") as file:
            state.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    return state


def _read_groups(section: Mapping[str, Any], where: str) -> list[tuple[list[str], Scheme]]:
    if section.get("quant_method") != METHOD:
        raise CheckpointError(f"not a {METHOD} model", where=where)
    if section.get("kv_cache_scheme") or section.get("transform_config"):
        raise CheckpointError("a quantized key-value cache or transforms are not supported", where=where)
    groups: list[tuple[list[str], Scheme]] = []
    for label, group in (section.get("config_groups") or {}).items():
        place = f"{where}, config group '{label}'"
        if not isinstance(group, Mapping):
            groups.append((list(group), Scheme.preset(label)))
            continue
        form = group.get("format") or section.get("format")
        if form not in (FORMAT, WITH_INPUTS) or form != section.get("format"):
            raise CheckpointError(f"format '{form}' cannot be read, only {FORMAT} or {WITH_INPUTS}", where=place)
        inputs = group.get("input_activations") or {}
        fixed = all(inputs.get(key) == SECTION[key] for key in ("num_bits", "type", "strategy", "dynamic"))
        if group.get("output_activations") or (inputs and not (form == WITH_INPUTS and fixed)):
            raise CheckpointError("its activations are quantized in a way that is not supported", where=place)
        if not group.get("weights"):
            continue
        try:
            groups.append((list(group["targets"]), Scheme.from_weights(group["weights"])))
        except UsageError as error:
            raise CheckpointError(error.message, where=place, hint=error.hint) from error
    return groups


def _schemes_for(name: str, groups: list[tuple[list[str], Scheme]]) -> list[Scheme]:
    """The schemes a packed layer may have, best first: its name, then a pattern, then the classes (of which it has one)."""

    def rank(targets: list[str]) -> int:
        if any(target == name for target in targets):
            return 0
        return 1 if any(match_pattern(target, name, ()) for target in targets) else 2

    return [scheme for _, scheme in sorted(groups, key=lambda group: rank(group[0]))]
