"""Weights that no common format stores, on disk: plain floats, and beside them what they were made from.

Codebooks have no format at all, the packed formats have no place for ``Conv1D`` (GPT-2), transformers loads a packed
embedding only where every layer has its scheme, which is rare, and no packed layer beside weights that it merges or splits as it
loads them (mixtures of experts, DINOv2). The folder is a plain model: its
safetensors hold the dequantized weights, and any loader reads them. Another file, ``leptonsdk_quantized.safetensors``, holds
for each such layer ``indices`` (int32, packed along the rows as compressed-tensors packs integers), ``codebook`` and, for
NF4, ``scale``; or the tensors of ``pack-quantized``. Its header says under ``leptonsdk`` (JSON) which scheme and shape each
layer has, and how its input is quantized where it is. Other layers with integers stand packed in the model's own file, as ever.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leptonsdk.errors import CheckpointError, UsageError, first_line
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.formats import (
    check_layers,
    check_schemes,
    converts_weights,
    dtype_name,
    quantization_config,
    saved_dtypes,
    to_disk,
    write_folder,
)
from leptonsdk.quantization.formats_names import integers_by_module
from leptonsdk.quantization.layers import is_conv1d, is_packable
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.scheme_codebooks import SIDECAR, CodebookScheme
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor, CodebookTensor
from leptonsdk.quantization.tensor_packing import PACKED, pack, pack_integers, unpack

_HEADER, _VERSION = "leptonsdk", 1


def save_sidecar(
    model: Any,
    quantized: Mapping[str, AnyTensor],
    folder: str | Path,
    *,
    save_dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> dict[str, AnyTensor]:
    """Write a transformers folder in floats with their codebooks or integers beside them; layers that can be are packed.

    Args, errors and what comes back as of `save_compressed`. The weights on disk are ``.dequantize()`` of what comes back,
    bit for bit: in ``save_dtype``, codebooks and scales are rounded to it first.
    """
    check_layers(model, quantized)
    modules = dict(model.named_modules())
    packs = not converts_weights(model)
    dtype_of = saved_dtypes(model, quantized, save_dtype)
    stored: dict[str, AnyTensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    sidecar: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    uniform: dict[str, QuantizedTensor] = {}
    for name, tensor in quantized.items():
        if isinstance(tensor, QuantizedTensor):
            stored[name] = tensor = tensor.cast(dtype_of[name] or tensor.scale.dtype)
            if packs and is_packable(modules[name]):
                uniform[name] = tensor
                continue
            beside = pack(tensor)
        else:
            stored[name] = tensor = tensor.cast(dtype_of[name] or tensor.codebook.dtype)
            beside = _pack(tensor)
        weight = tensor.dequantize().cpu()
        if not bool(torch.isfinite(weight).all()):
            dtype = dtype_name(weight.dtype)
            raise CheckpointError(f"it has values too large for {dtype}", where=f"layer '{name}'", hint="use bfloat16")
        packed[name] = {"weight": weight.t().contiguous() if is_conv1d(modules[name]) else weight}
        sidecar |= {f"{name}.{key}": value for key, value in beside.items()}
        layers[name] = {"scheme": tensor.scheme.model_dump(mode="json"), "shape": list(tensor.shape)}
        if isinstance(tensor, QuantizedTensor) and tensor.input_scale is not None:
            layers[name]["input_scale"] = dataclasses.asdict(tensor.input_scale)
    section = None
    if uniform:
        check_schemes(model, uniform)
        packed |= to_disk(uniform)
        section = quantization_config(model, uniform)
    write_folder(model, packed, section, folder, dtype_of, save_dtype=save_dtype, max_shard_size=max_shard_size)
    header = {_HEADER: json.dumps({"version": _VERSION, "layers": layers}, sort_keys=True)}
    save_file(sidecar, Path(folder) / SIDECAR, metadata={"format": "pt", **header})
    return stored


def needs_sidecar(model: Any, quantized: Mapping[str, AnyTensor]) -> bool:
    """Whether some layers cannot be packed: they have codebooks, are embeddings or ``Conv1D``, or none of the model can."""
    if converts_weights(model):
        return bool(quantized)
    modules = dict(model.named_modules())
    return any(isinstance(t, CodebookTensor) or not is_packable(modules[name]) for name, t in quantized.items())


def load_sidecar(folder: str | Path, model: Any) -> dict[str, AnyTensor]:
    """Codebooks and integers by module name, read from a folder and compared with the weights of the model loaded from it.

    Returns:
        Nothing when the folder has no such file.

    Raises:
        CheckpointError: The file is damaged or of a later version, or the model's weights are not what it says.
    """
    path = Path(folder) / SIDECAR
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  safe_open is no mapping
            header = json.loads((file.metadata() or {})[_HEADER])
        if header["version"] != _VERSION:
            raise CheckpointError(f"its version is {header['version']}, and {_VERSION} is known", where=SIDECAR)
        found = {name: _unpack(name, state, layer) for name, layer in header["layers"].items()}
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, ValidationError, UsageError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it cannot be read: {first_line(error)}", where=SIDECAR) from error
    try:
        return integers_by_module(model, found)
    except CheckpointError as error:
        raise CheckpointError(
            error.message,
            where=SIDECAR,
            hint="if the weights were changed on purpose, delete this file: they are whole",
        ) from error


def _pack(tensor: CodebookTensor) -> dict[str, Tensor]:
    bits = tensor.scheme.num_bits
    signed = (tensor.indices.cpu().to(torch.int16) - (1 << (bits - 1))).to(torch.int8)
    stored = {"indices": pack_integers(signed, bits, 1), "codebook": tensor.codebook.cpu().contiguous()}
    return stored if tensor.scale is None else {**stored, "scale": tensor.scale.cpu().contiguous()}


def _unpack(name: str, state: Mapping[str, Tensor], layer: Mapping[str, Any]) -> AnyTensor:
    if "codebook" not in layer["scheme"]:
        stored = {key: state[f"{name}.{key}"] for key in PACKED if f"{name}.{key}" in state}
        tensor = unpack(stored, Scheme.model_validate(layer["scheme"]))
        given = layer.get("input_scale")
        return tensor if given is None else dataclasses.replace(tensor, input_scale=InputScale(**given))
    scheme, shape = CodebookScheme.model_validate(layer["scheme"]), torch.Size(layer["shape"])
    signed = unpack_from_int32(state[f"{name}.indices"], scheme.num_bits, shape)
    indices = (signed.to(torch.int16) + (1 << (scheme.num_bits - 1))).to(torch.uint8)
    return CodebookTensor(indices.contiguous(), state[f"{name}.codebook"], state.get(f"{name}.scale"), scheme)
