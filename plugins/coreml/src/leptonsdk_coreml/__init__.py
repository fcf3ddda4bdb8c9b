"""LeptonSDK's Core ML backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leptonsdk.hooks import Backend, ModelCard, hookimpl
from leptonsdk_coreml.backend import CoreMLBackend
from leptonsdk_coreml.config import CoreMLConfig

LEPTON_HOOK_API = 1

__all__ = ["CoreMLBackend", "CoreMLConfig", "lepton_backends", "lepton_model_card"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [CoreMLBackend]


@hookimpl
def lepton_model_card(card: ModelCard, run: Mapping[str, Any]) -> None:
    from leptonsdk_coreml.card import add_to_card

    for artifact in run["artifacts"]:
        if artifact["backend"] == "coreml":
            add_to_card(card, artifact)
