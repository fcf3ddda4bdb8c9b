"""The door for plugins: what they implement, and the manager that finds them."""

from leptonsdk.hooks.capabilities import Capabilities, Effect, Need
from leptonsdk.hooks.cards import ModelCard
from leptonsdk.hooks.classes import (
    Backend,
    Compressor,
    PluginConfig,
    PostTrainingCompressor,
    Runner,
    StepContext,
    StoredIntegers,
    TrainingCompressor,
    WeightProfile,
)
from leptonsdk.hooks.evaluators import LIBRARY, MODEL_OPTIONS, DatasetProvider, EvaluationSettings, Evaluator, Metric
from leptonsdk.hooks.manager import PluginRecord, Plugins, load_plugins
from leptonsdk.hooks.naming import errors_named
from leptonsdk.hooks.specs import GROUP, HOOK_API, hookimpl

__all__ = [
    "GROUP",
    "HOOK_API",
    "LIBRARY",
    "MODEL_OPTIONS",
    "Backend",
    "Capabilities",
    "Compressor",
    "DatasetProvider",
    "Effect",
    "EvaluationSettings",
    "Evaluator",
    "Metric",
    "ModelCard",
    "Need",
    "PluginConfig",
    "PluginRecord",
    "Plugins",
    "PostTrainingCompressor",
    "Runner",
    "StepContext",
    "StoredIntegers",
    "TrainingCompressor",
    "WeightProfile",
    "errors_named",
    "hookimpl",
    "load_plugins",
]
