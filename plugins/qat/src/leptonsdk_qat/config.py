"""What a user can choose."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leptonsdk.quantization import Scheme
from leptonsdk.quantization.compressor import QuantizerConfig

Scales = Literal["learned", "observed"]


class QuantizationAwareTrainingConfig(QuantizerConfig):
    """Config of quantization-aware training. Without a scheme: 8 bits, symmetric, one scale for each output channel."""

    weight_scales: Scales | None = Field(
        None,
        description="Scales of weights: learned with the weights, or the range of the weights as they are (observed). "
        "Default: observed for 8 and 7 bits, else learned",
    )
    activation_bits: Literal[8] | None = Field(
        8, description="Bits of the layers' inputs, with one scale and zero point each; null leaves them in float"
    )
    activation_ranges: Scales = Field(
        "learned",
        description="Ranges of inputs: learned, from what was observed before `start`; or a moving average (observed)",
    )
    start: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps before quantization begins; inputs are observed meanwhile"
    )
    freeze: float = Field(
        0.9, gt=0, le=1, description="Share of the steps from which on observed ranges of inputs stay as they are"
    )
    scale_learning_rate: float = Field(1e-3, gt=0, description="Of learned scales and ranges, in their logarithms")

    @model_validator(mode="after")
    def _freezes_after_the_start(self) -> Self:
        if self.freeze <= self.start:
            raise ValueError(f"freeze ({self.freeze}) must come after start ({self.start})")
        return self

    @property
    def has_scheme(self) -> bool:
        """Whether a scheme was asked for, in either way."""
        return self.scheme is not None or self.bit_width is not None

    def resolve(self) -> Scheme:
        return super().resolve() if self.has_scheme else Scheme.resolve(**{**self._short(), "bit_width": 8})

    def learns_weight_scales(self, scheme: Scheme) -> bool:
        """Whether the scales of weights of a scheme are learned."""
        return self.weight_scales == "learned" if self.weight_scales else scheme.num_bits < 7
