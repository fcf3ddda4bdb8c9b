"""LeptonSDK: make a Hugging Face model smaller and faster, and prove what it cost.

Public names are imported on first use: ``import leptonsdk`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonsdk.api import (
        GateResult,
        compress,
        distill_model,
        evaluate,
        export,
        gate,
        load_model,
        plan,
        prune_model,
        push_to_hub,
        quantize_model,
        reproduce,
        save_model,
        verify,
    )
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.data import DataSpec
    from leptonsdk.errors import LeptonError, RecipeError
    from leptonsdk.evaluation.scores import Scores
    from leptonsdk.hooks import hookimpl
    from leptonsdk.quantization.scheme import Scheme
    from leptonsdk.recipe import Recipe

__version__ = "0.1.0"

_PLACES = {
    "Artifact": "leptonsdk.artifact",
    "Checkpoint": "leptonsdk.checkpoint",
    "DataSpec": "leptonsdk.data",
    "GateResult": "leptonsdk.api",
    "LeptonError": "leptonsdk.errors",
    "Recipe": "leptonsdk.recipe",
    "RecipeError": "leptonsdk.errors",
    "Scheme": "leptonsdk.quantization.scheme",
    "Scores": "leptonsdk.evaluation.scores",
    "compress": "leptonsdk.api",
    "distill_model": "leptonsdk.api",
    "evaluate": "leptonsdk.api",
    "export": "leptonsdk.api",
    "gate": "leptonsdk.api",
    "hookimpl": "leptonsdk.hooks",
    "load_model": "leptonsdk.api",
    "plan": "leptonsdk.api",
    "prune_model": "leptonsdk.api",
    "push_to_hub": "leptonsdk.api",
    "quantize_model": "leptonsdk.api",
    "reproduce": "leptonsdk.api",
    "save_model": "leptonsdk.api",
    "verify": "leptonsdk.api",
}

__all__ = [
    "Artifact",
    "Checkpoint",
    "DataSpec",
    "GateResult",
    "LeptonError",
    "Recipe",
    "RecipeError",
    "Scheme",
    "Scores",
    "__version__",
    "compress",
    "distill_model",
    "evaluate",
    "export",
    "gate",
    "hookimpl",
    "load_model",
    "plan",
    "prune_model",
    "push_to_hub",
    "quantize_model",
    "reproduce",
    "save_model",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'leptonsdk' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
