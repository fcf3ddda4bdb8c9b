"""LeptonSDK's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Backend, hookimpl
from leptonsdk_onnxruntime.backend import OnnxRuntimeBackend
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig

LEPTON_HOOK_API = 1

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeConfig", "lepton_backends"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [OnnxRuntimeBackend]
