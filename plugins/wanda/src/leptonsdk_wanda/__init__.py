"""LeptonSDK's pruning by weights and activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_wanda.compressor import Wanda, WandaConfig

LEPTON_HOOK_API = 1

__all__ = ["Wanda", "WandaConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [Wanda]
