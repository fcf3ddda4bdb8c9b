"""What a user can choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leptonsdk.hooks import PluginConfig

Precision = Literal["fp32", "int8", "int8-dynamic", "int8-static"]
PRECISIONS: tuple[str, ...] = ("fp32", "int8", "int8-dynamic", "int8-static")
Embeddings = Literal["float", "int8", "int4"]
BlockSize = Literal[16, 32, 64, 128]
ActivationScales = Literal["auto", "tensor", "row", "block"]
DEFAULT_INT8 = "int8-dynamic"


class OnnxRuntimeConfig(PluginConfig):
    """Config of the ONNX Runtime backend."""

    precision: Precision = Field(
        default="fp32",
        description="fp32; int8-dynamic: int8 weights, activations quantized as they come, needs no data; int8-static: "
        "activation ranges fixed from calibration data; int8: the better default of the two (int8-dynamic).",
    )
    opset: int = Field(
        default=23,
        ge=18,
        description="ONNX opset to write. From 23 on attention is one operator, which is faster and needs ONNX Runtime 1.23 or "
        "later; ask for 20 where the model must run on an older one.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Modules whose weights stay in float: names, globs (`*.output.dense`) or `re:` patterns of the source "
        "model's module names.",
    )
    embeddings: Embeddings = Field(
        default="int8",
        description="Embedding tables of the int8 precisions: int8, with one scale for each row; int4: word embeddings in 4 "
        "bits, with one scale for each block, other tables and those that the output layer shares as int8; or float.",
    )
    embedding_block_size: BlockSize = Field(
        default=32, description="Entries of a row of word embeddings that share a scale (embeddings: int4)."
    )
    weight_scales: Literal["mse", "minmax"] = Field(
        default="mse",
        description="How a weight channel's scale is chosen: the least squared error, or the largest magnitude.",
    )
    reduce_range: bool = Field(
        default=False,
        description="Use 7 of the 8 bits for weights: needed on x86 CPUs with AVX2 but without VNNI, whose int8 kernels "
        "saturate otherwise.",
    )
    activation_scales: ActivationScales = Field(
        default="auto",
        description="int8-dynamic: one scale for a whole activation (fastest), one for each row, that is each token, or one "
        "for each block of channels in each row (slowest); auto: blocks for language models with a cache, otherwise rows "
        "where a product has more inputs than outputs (an FFN's second), a tensor elsewhere.",
    )
    calibration_samples: int = Field(
        default=128, ge=1, description="Examples to calibrate activations with (int8-static)."
    )
    calibration_batch_size: int = Field(default=8, ge=1, description="Examples per calibration batch (int8-static).")
    calibration_method: Literal["mse", "percentile", "minmax"] = Field(
        default="mse",
        description="How an activation's range is chosen (int8-static): the least squared error over a histogram, a "
        "percentile of the values, or all of them.",
    )
    calibration_percentile: float = Field(
        default=99.99, gt=50, le=100, description="Share of values, in percent, that `percentile` keeps in range."
    )
    smoothing: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="How much of an activation's outlier channels is moved into the weights (int8-static); 0 turns it off.",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Greatest allowed difference to the source model. fp32: absolute (default 1e-3, relative where outputs "
        "are above 1); int8: relative, root mean square (default 0.25).",
    )

    @property
    def resolved_precision(self) -> str:
        """The precision that an artifact states: ``int8`` is an alias."""
        return DEFAULT_INT8 if self.precision == "int8" else self.precision
