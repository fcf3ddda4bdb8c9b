"""LeptonSDK's quantization-aware training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_qat.compressor import QuantizationAwareTraining
from leptonsdk_qat.config import QuantizationAwareTrainingConfig

LEPTON_HOOK_API = 1

__all__ = ["QuantizationAwareTraining", "QuantizationAwareTrainingConfig", "lepton_compressors"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [QuantizationAwareTraining]
