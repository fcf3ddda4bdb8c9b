"""LeptonSDK's GPTQ compressor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_gptq.compressor import GPTQ
from leptonsdk_gptq.config import GPTQConfig

LEPTON_HOOK_API = 1

__all__ = ["GPTQ", "GPTQConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [GPTQ]
