"""What a user can choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leptonsdk.hooks import PluginConfig

Precision = Literal["fp32", "int8", "int8-dynamic", "int8-static"]
PRECISIONS: tuple[str, ...] = ("fp32", "int8", "int8-dynamic", "int8-static")


class ExecuTorchConfig(PluginConfig):
    """Config of the ExecuTorch backend."""

    precision: Precision = Field(
        default="fp32",
        description="fp32; int8-dynamic: int8 weights by channel, linear layers' inputs quantized as they come, needs no data; "
        "int8-static: their ranges fixed from calibration data; int8: the better default of the two (int8-dynamic).",
    )
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows of one call: memory is planned for that many, and larger batches are run in parts. Default: 8; 1 for "
        "language models.",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Longest text in tokens that it takes: memory is planned for that. Default: the model's own limit, 512 at most.",
    )
    calibration_samples: int = Field(default=128, ge=1, description="int8-static: examples to calibrate with.")
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Greatest allowed difference to the source model. fp32: absolute (default 1e-3, relative where outputs are above "
        "1); others: relative, root mean square (default 0.25).",
    )

    @property
    def resolved_precision(self) -> str:
        """The precision that an artifact states."""
        return "int8-dynamic" if self.precision == "int8" else self.precision
