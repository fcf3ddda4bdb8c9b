"""What a checkpoint folder's safetensors hold: parameters, zeros, bits per weight, read from the files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from leptonsdk.hooks import WeightProfile
from leptonsdk.quantization.library_layers import layer_tensors
from leptonsdk.quantization.scheme_codebooks import SIDECAR

# Tensors that describe packed weights rather than being weights (compressed-tensors' names, and gptq's).
_ABOUT_WEIGHTS = (".weight_scale", ".weight_zero_point", ".weight_g_idx", ".qweight", ".qzeros", ".scales", ".g_idx")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder that a loader reads; codebooks stand beside the floats made from them."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name != SIDECAR)


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def profile_safetensors(folder: Path) -> WeightProfile:
    """Count what stands in the files.

    A packed weight's parameters are those of its ``weight_shape``, or gptq's indices; bitsandbytes packs two into a byte, or
    one (int8).
    """
    parameters = zeros = bits = 0
    sizes: dict[str, int] = {}
    files = weight_files(folder)
    names = {name for path in files for name in _names(path)}
    layers = layer_tensors(names)
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is no mapping
                if name.endswith(".weight_shape"):
                    parameters += int(file.get_tensor(name).prod())
                    continue
                tensor = file.get_tensor(name)
                size = tensor.numel() * tensor.element_size()
                bits += 8 * size
                if name in layers:
                    if name.endswith(".weight"):
                        int8 = f"{name.removesuffix('.weight')}.SCB" in names
                        parameters += size if int8 else 2 * size
                        zeros += tensor.numel() - int(torch.count_nonzero(tensor)) if int8 else 0
                    continue
                if name.endswith((".qweight", ".g_idx")):  # int32 [words, out] and [in], maybe in two files
                    layer = name.rpartition(".")[0]
                    sizes[layer] = sizes.get(layer, 1) * tensor.shape[-1]
                if name.endswith((*_ABOUT_WEIGHTS, ".weight_packed")) or not tensor.is_floating_point():
                    continue
                parameters += tensor.numel()
                zeros += tensor.numel() - int(torch.count_nonzero(tensor))
    return WeightProfile(parameters + sum(sizes.values()), zeros, bits)
