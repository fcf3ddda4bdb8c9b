"""What a checkpoint folder's safetensors hold: parameters, zeros, bits per weight, read from the files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from leptonsdk.hooks import WeightProfile
from leptonsdk.quantization.scheme_codebooks import SIDECAR

# Tensors that describe packed weights rather than being weights (compressed-tensors' names, and gptq's).
_ABOUT_WEIGHTS = (".weight_scale", ".weight_zero_point", ".weight_g_idx", ".qweight", ".qzeros", ".scales", ".g_idx")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder that a loader reads; codebooks stand beside the floats made from them."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name != SIDECAR)


def profile_safetensors(folder: Path) -> WeightProfile:
    """Count what stands in the files. A packed weight's parameters are those of its ``weight_shape``, or gptq's indices."""
    parameters = zeros = bits = 0
    sizes: dict[str, int] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is no mapping
                if name.endswith(".weight_shape"):
                    parameters += int(file.get_tensor(name).prod())
                    continue
                tensor = file.get_tensor(name)
                bits += tensor.numel() * tensor.element_size() * 8
                if name.endswith((".qweight", ".g_idx")):  # int32 [words, out] and [in], maybe in two files
                    layer = name.rpartition(".")[0]
                    sizes[layer] = sizes.get(layer, 1) * tensor.shape[-1]
                if name.endswith((*_ABOUT_WEIGHTS, ".weight_packed")) or not tensor.is_floating_point():
                    continue
                parameters += tensor.numel()
                zeros += tensor.numel() - int(torch.count_nonzero(tensor))
    return WeightProfile(parameters + sum(sizes.values()), zeros, bits)
