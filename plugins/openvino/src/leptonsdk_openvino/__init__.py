"""LeptonSDK's OpenVINO backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leptonsdk.hooks import Backend, ModelCard, hookimpl
from leptonsdk_openvino.backend import OpenVINOBackend
from leptonsdk_openvino.config import OpenVINOConfig

LEPTON_HOOK_API = 1

__all__ = ["OpenVINOBackend", "OpenVINOConfig", "lepton_backends", "lepton_model_card"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [OpenVINOBackend]


@hookimpl
def lepton_model_card(card: ModelCard, run: Mapping[str, Any]) -> None:
    from leptonsdk_openvino.card import add_to_card

    for artifact in run["artifacts"]:
        if artifact["backend"] == "openvino":
            add_to_card(card, artifact)
