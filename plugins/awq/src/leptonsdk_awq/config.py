"""What a user can choose."""

from __future__ import annotations

from pydantic import Field

from leptonsdk.quantization import QuantizerConfig


class AWQConfig(QuantizerConfig):
    """Config of AWQ."""

    calibration_tokens: int = Field(
        8_192, gt=0, description="Positions (tokens, patches, frames) to calibrate with, fewer if the data ends"
    )
    batch_size: int = Field(4, gt=0, description="Calibration examples per forward")
    grid: int = Field(
        10, ge=1, description="Exponents of the activations' size that are tried, from 1 / grid to 1, beside no scaling"
    )
    memory: float = Field(
        1.0, gt=0, description="GB for what is kept of layers' inputs at a time; less takes more passes over the data"
    )
