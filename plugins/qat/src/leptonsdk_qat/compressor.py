"""The ``qat`` compressor: light to import, its work stands in other modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.hooks import Capabilities, Effect, PluginConfig, StepContext, TrainingCompressor
from leptonsdk.quantization import PRESETS
from leptonsdk_qat.config import QuantizationAwareTrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization import Scheme
    from leptonsdk_qat.quantizing import Quantizing


class QuantizationAwareTraining(TrainingCompressor[QuantizationAwareTrainingConfig]):
    """Trains a model with the rounding that it will have: fake-quantized weights and inputs of its linear layers.

    Weights are symmetric integers by output channel and inputs 8 bits with one scale, as integer kernels want them
    (arXiv 1712.05877); gradients go straight through the rounding, and scales are learned (arXiv 1902.08153, 2004.09576) or
    observed. The finished checkpoint holds integers and input scales: a save writes them, and a static export uses them
    instead of calibrating anew.

    On a checkpoint that is quantized already (GPTQ, round-to-nearest) it goes on from its integers, in the schemes that they
    have: fine-tuning to recover.

    ::

        CompressionTrainer(model, args, …, compression=[QuantizationAwareTraining(start=0.2)])
    """

    name: ClassVar[str] = "qat"
    config_class: ClassVar[type[PluginConfig]] = QuantizationAwareTrainingConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes", "calibrates"}),
        preserves_zeros=True,
        preserves_shapes=True,
        quantizes=frozenset({"linear"}),
        schemes=tuple(PRESETS),
        deterministic=True,
        formats=("compressed-tensors", "gptq", "safetensors"),
    )

    def __init__(self, config: QuantizationAwareTrainingConfig | None = None, **fields: Any) -> None:
        super().__init__(QuantizationAwareTrainingConfig(**fields) if config is None else config)
        self._quantizing: Quantizing | None = None

    def scheme(self) -> Scheme:
        return self.config.resolve()

    def effects(self) -> frozenset[Effect]:
        return self.capabilities.effects - (frozenset({"calibrates"}) if self.config.activation_bits is None else set())

    @property
    def quantizing(self) -> Quantizing:
        """What `prepare` made."""
        assert self._quantizing is not None, "prepare comes first"
        return self._quantizing

    def prepare(self, model: nn.Module, context: StepContext) -> None:
        """Give every layer that is meant a fake quantizer for its weight, and one for what it reads.

        Raises:
            UsageError: No layer is meant, groups do not fit one, or weights have codebooks.
        """
        from leptonsdk_qat.quantizing import Quantizing

        self._quantizing = Quantizing(model, self.config, context.quantized)

    def parameter_groups(self) -> list[dict[str, Any]]:
        learned = self.quantizing.learned()
        return [{"params": learned, "lr": self.config.scale_learning_rate}] if learned else []

    def update(self, progress: float) -> None:
        self.quantizing.step(active=self.settled(progress), observing=self._observes(progress))

    def settled(self, progress: float) -> bool:
        return progress >= self.config.start

    def logs(self) -> Mapping[str, float]:
        return {"quantized": float(self.quantizing.active)}

    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        """The model with the quantized weights as floats, and without quantizers."""
        self.quantizing.finish(model)
        return model

    def checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """With the integers, and how each layer's input is quantized."""
        return checkpoint.replace(quantized={**checkpoint.quantized, **self.quantizing.quantized})

    def _observes(self, progress: float) -> bool:
        return progress < (self.config.freeze if self.config.activation_ranges == "observed" else self.config.start)
