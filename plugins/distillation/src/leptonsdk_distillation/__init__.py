"""LeptonSDK's distillation, and students cut from their teachers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from leptonsdk.hooks import Compressor, hookimpl
from leptonsdk_distillation.compressor import Distillation
from leptonsdk_distillation.config import DistillationConfig

if TYPE_CHECKING:
    from leptonsdk_distillation.students import make_student

LEPTON_HOOK_API = 1

__all__ = ["Distillation", "DistillationConfig", "lepton_compressors", "make_student"]


@hookimpl
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    return [Distillation]


def __getattr__(name: str) -> Any:
    if name == "make_student":  # it imports torch, which a plan does without
        from leptonsdk_distillation.students import make_student

        return make_student
    raise AttributeError(f"module 'leptonsdk_distillation' has no attribute '{name}'")
