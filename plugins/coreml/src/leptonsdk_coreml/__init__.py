"""LeptonSDK's Core ML backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Backend, hookimpl
from leptonsdk_coreml.backend import CoreMLBackend
from leptonsdk_coreml.config import CoreMLConfig

LEPTON_HOOK_API = 1

__all__ = ["CoreMLBackend", "CoreMLConfig", "lepton_backends"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [CoreMLBackend]
