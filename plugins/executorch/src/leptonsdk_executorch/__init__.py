"""LeptonSDK's ExecuTorch backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leptonsdk.hooks import Backend, ModelCard, hookimpl
from leptonsdk_executorch.backend import ExecuTorchBackend
from leptonsdk_executorch.card import add_to_card
from leptonsdk_executorch.config import ExecuTorchConfig

LEPTON_HOOK_API = 1

__all__ = ["ExecuTorchBackend", "ExecuTorchConfig", "lepton_backends", "lepton_model_card"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [ExecuTorchBackend]


@hookimpl
def lepton_model_card(card: ModelCard, run: Mapping[str, Any]) -> None:
    for artifact in run["artifacts"]:
        if artifact["backend"] == ExecuTorchBackend.name:
            add_to_card(card, artifact)
