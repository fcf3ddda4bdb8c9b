"""Compression inside a training run: the Trainer mixin, and weights and inputs that are transformed on their way into a layer."""

from leptonsdk.training.trainer import CompressionTrainer, CompressionTrainerMixin
from leptonsdk.training.weights import fold, transform_input, transform_weight

__all__ = ["CompressionTrainer", "CompressionTrainerMixin", "fold", "transform_input", "transform_weight"]
