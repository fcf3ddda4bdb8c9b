"""What a user can choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from leptonsdk.hooks import PluginConfig
from leptonsdk.quantization import CodebookScheme, Scheme

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

Precision = Literal["auto", "fp32", "packed", "int8", "int8-dynamic", "int8-static"]
PRECISIONS: tuple[str, ...] = ("fp32", "packed", "int8", "int8-dynamic", "int8-static")
Embeddings = Literal["float", "int8", "int4"]
BlockSize = Literal[16, 32, 64, 128]
ActivationScales = Literal["auto", "tensor", "row", "block"]
DEFAULT_INT8 = "int8-dynamic"


class OnnxRuntimeConfig(PluginConfig):
    """Config of the ONNX Runtime backend."""

    precision: Precision = Field(
        default="auto",
        description="fp32; packed: the integers that the checkpoint carries, as they are, activations in float; int8-dynamic: int8 weights, activations quantized as they come, needs no data; int8-static: "
        "activation ranges fixed from calibration data, or weights and ranges as the checkpoint carries them (qat); int8: the better "
        "default of the two (int8-dynamic); auto: packed where the model carries integers, int8-static where it carries scales of "
        "activations too and integers that int8 kernels have, fp32 elsewhere.",
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
        "saturate otherwise. A checkpoint's own integers must have no more.",
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

    packed_activations: Literal["float", "int8"] = Field(
        default="float",
        description="packed: activations in float, or each row of them rounded to 8 bits block by block, which is faster.",
    )

    def resolved_precision(self, checkpoint: Checkpoint) -> str:
        """The precision that an artifact of this checkpoint states."""
        if self.precision != "auto":
            return DEFAULT_INT8 if self.precision == "int8" else self.precision
        if not checkpoint.quantized:
            return "fp32"
        trained = [checkpoint.quantized[name].scheme for name in checkpoint.input_scales]
        multiplied = trained and not any(why_not_int8(scheme, self.reduce_range) for scheme in trained)
        return "int8-static" if multiplied else "packed"


def why_not_packed(scheme: Scheme | CodebookScheme) -> str | None:
    """Why ONNX Runtime cannot hold weights of a scheme as they are; None where it can."""
    if not isinstance(scheme, Scheme):
        return "it has no operator for codebooks, only for uniform integers"
    if scheme.group_size is not None and scheme.group_size % 16:
        return f"its kernel has blocks of 16, 32, 64, 128 or 256, which do not make groups of {scheme.group_size}"
    return None


def why_not_int8(scheme: Scheme | CodebookScheme, reduce_range: bool) -> str | None:
    """Why ONNX Runtime cannot multiply weights of a scheme with 8-bit activations as integers; None where it can."""
    if not isinstance(scheme, Scheme) or not scheme.symmetric:
        return "its int8 kernels have no zero points of weights"
    if scheme.group_size:
        return "its int8 kernels have one scale for each output channel"
    return "`reduce_range` leaves weights 7 bits" if reduce_range and scheme.num_bits > 7 else None
