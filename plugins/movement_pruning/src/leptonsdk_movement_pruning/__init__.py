"""LeptonSDK's pruning while training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_movement_pruning.compressor import MovementPruning
from leptonsdk_movement_pruning.config import MovementPruningConfig

LEPTON_HOOK_API = 1

__all__ = ["MovementPruning", "MovementPruningConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [MovementPruning]
