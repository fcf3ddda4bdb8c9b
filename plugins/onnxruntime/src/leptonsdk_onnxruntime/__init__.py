"""LeptonSDK's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leptonsdk.hooks import Backend, ModelCard, hookimpl
from leptonsdk_onnxruntime.backend import OnnxRuntimeBackend
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig

LEPTON_HOOK_API = 1

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeConfig", "lepton_backends", "lepton_model_card"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [OnnxRuntimeBackend]


@hookimpl
def lepton_model_card(card: ModelCard, run: Mapping[str, Any]) -> None:
    from leptonsdk_onnxruntime.card import add_to_card

    for artifact in run["artifacts"]:
        if artifact["backend"] == "onnxruntime":
            add_to_card(card, artifact)
