"""LeptonSDK's AWQ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_awq.compressor import AWQ
from leptonsdk_awq.config import AWQConfig

LEPTON_HOOK_API = 1

__all__ = ["AWQ", "AWQConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [AWQ]
