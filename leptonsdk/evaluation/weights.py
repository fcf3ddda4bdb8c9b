"""What a checkpoint folder's safetensors hold: parameters, zeros, bits per weight, read from the files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from leptonsdk.hooks import WeightProfile

# Tensors that describe packed weights rather than being weights (compressed-tensors' names).
_ABOUT_WEIGHTS = (".weight_scale", ".weight_zero_point", ".weight_g_idx")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder."""
    return sorted(folder.glob("*.safetensors"))


def profile_safetensors(folder: Path) -> WeightProfile:
    """Count what stands in the files. A packed weight's parameters are those of its ``weight_shape``."""
    parameters = zeros = bits = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is no mapping
                if name.endswith(".weight_shape"):
                    parameters += int(file.get_tensor(name).prod())
                    continue
                tensor = file.get_tensor(name)
                bits += tensor.numel() * tensor.element_size() * 8
                if name.endswith((*_ABOUT_WEIGHTS, ".weight_packed")) or not tensor.is_floating_point():
                    continue
                parameters += tensor.numel()
                zeros += tensor.numel() - int(torch.count_nonzero(tensor))
    return WeightProfile(parameters, zeros, bits)
