"""LeptonSDK's OpenVINO backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Backend, hookimpl
from leptonsdk_openvino.backend import OpenVINOBackend
from leptonsdk_openvino.config import OpenVINOConfig

LEPTON_HOOK_API = 1

__all__ = ["OpenVINOBackend", "OpenVINOConfig", "lepton_backends"]


@hookimpl
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    return [OpenVINOBackend]
