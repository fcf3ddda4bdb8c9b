"""LeptonSDK's ExecuTorch backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Backend, hookimpl
from leptonsdk_executorch.backend import ExecuTorchBackend
from leptonsdk_executorch.config import ExecuTorchConfig

LEPTON_HOOK_API = 1

__all__ = ["ExecuTorchBackend", "ExecuTorchConfig", "lepton_backends"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [ExecuTorchBackend]
