"""Compression inside a training run: the Trainer mixin, and weights and inputs that are transformed on their way into a layer."""

from leptonsdk.training.sharding import whole
from leptonsdk.training.trainer import CompressionTrainer, CompressionTrainerMixin
from leptonsdk.training.weights import fold, reaching, transform_input, transform_weight

__all__ = [
    "CompressionTrainer",
    "CompressionTrainerMixin",
    "fold",
    "reaching",
    "transform_input",
    "transform_weight",
    "whole",
]
