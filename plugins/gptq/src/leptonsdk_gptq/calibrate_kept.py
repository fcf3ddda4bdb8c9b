"""What is solved already, on disk in the step's scratch folder, so that interrupted work can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from leptonsdk.quantization import QuantizedTensor, Scheme, weight_of
from leptonsdk_gptq.config import GPTQConfig


def fingerprint(config: GPTQConfig, layers: Mapping[str, nn.Module], first: Mapping[str, Any]) -> str:
    """A hash of what the solutions depend on: config (tuning comes after them), weights, and the first calibration batch."""
    tokens, correction = config.resolved_tokens, config.resolved_correction
    own = config.model_dump_json(exclude={"preset", "tuning_epochs", "targets", "ignore"})
    digest = hashlib.sha256(f"{own} {tokens} {correction}".encode())
    for name, module in layers.items():
        weight = weight_of(module).detach()
        digest.update(
            f"{name} {tuple(weight.shape)} {float(weight.double().sum())} {float(weight.double().norm())}".encode()
        )
    for name, value in first.items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


class Kept:
    """Solved groups in a folder, one safetensors file each. Those of another fingerprint are thrown away."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder / "gptq", key
        self._folder.mkdir(parents=True, exist_ok=True)
        self.tensors: dict[str, QuantizedTensor] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            found = self._read(path)
            if found is None:
                path.unlink()
            else:
                self.tensors.update(found)

    def add(self, position: int, tensors: Mapping[str, QuantizedTensor]) -> None:
        """Keep a group's solution: written aside, then renamed."""
        stored: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            stored[f"{name}.integers"], stored[f"{name}.scale"] = tensor.integers.cpu(), tensor.scale.cpu()
            if tensor.zero_point is not None:
                stored[f"{name}.zero_point"] = tensor.zero_point.cpu()
        schemes = {name: tensor.scheme.model_dump(mode="json") for name, tensor in tensors.items()}
        path = self._folder / f"{position:05d}.safetensors"
        aside = path.with_suffix(".new")
        save_file(stored, aside, {"key": self._key, "schemes": json.dumps(schemes)})
        aside.replace(path)

    def _read(self, path: Path) -> dict[str, QuantizedTensor] | None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return None
                stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        return {
            name: QuantizedTensor(
                stored[f"{name}.integers"],
                stored[f"{name}.scale"],
                stored.get(f"{name}.zero_point"),
                Scheme.model_validate(scheme),
            )
            for name, scheme in json.loads(metadata["schemes"]).items()
        }
