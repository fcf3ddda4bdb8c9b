"""LeptonSDK's bitsandbytes compressor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_bitsandbytes.compressor import BitsAndBytesCompressor, BitsAndBytesCompressorConfig

LEPTON_HOOK_API = 1

__all__ = ["BitsAndBytesCompressor", "BitsAndBytesCompressorConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [BitsAndBytesCompressor]
