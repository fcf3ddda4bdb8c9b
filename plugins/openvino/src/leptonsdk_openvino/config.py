"""What a user can choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from leptonsdk.hooks import PluginConfig
from leptonsdk.quantization import CodebookScheme, Scheme

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

Precision = Literal["auto", "fp32", "fp16", "int8", "int8-weights", "int4-weights", "packed"]
PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "int8", "int8-weights", "int4-weights", "packed")
InferencePrecision = Literal["f32", "bf16", "f16", "auto"]


class StaticShape(PluginConfig):
    """One shape of a model's inputs."""

    batch_size: int = Field(default=1, gt=0, description="Examples per call.")
    sequence_length: int | None = Field(default=None, gt=0, description="Tokens per example; only for text.")


class OpenVINOConfig(PluginConfig):
    """Config of the OpenVINO backend."""

    precision: Precision = Field(
        default="auto",
        description="fp32; fp16: weights stored in half; int8: weights and activations, calibrated (NNCF), or by the scales that a "
        "checkpoint carries (qat); int8-weights, int4-weights: weights only, needs no data (NNCF); packed: the integers that a "
        "quantized checkpoint carries; auto: packed where there are such integers, int8 where there are scales of activations too, "
        "else fp32.",
    )
    inference_precision: InferencePrecision = Field(
        default="f32",
        description="What floats are computed in. bf16 and f16 are faster where the CPU has them, and change the outputs; "
        "auto leaves it to OpenVINO, which takes bf16 on such CPUs without a word.",
    )
    dynamic_quantization: int = Field(
        default=0,
        ge=0,
        description="Quantize the inputs of products with weights-only integers to int8 as they come, in groups of that many "
        "channels (32, 64 …): faster, less exact. 0: inputs stay in float.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Modules that NNCF leaves in float: names, globs (`*.output.dense`) or `re:` patterns of the source "
        "model's module names.",
    )
    group_size: int = Field(
        default=64, ge=-1, description="int4-weights: weights in a row that share a scale; -1: a whole row."
    )
    calibration_samples: int = Field(default=300, ge=1, description="int8: examples to calibrate activations with.")
    calibration_batch_size: int = Field(default=1, ge=1, description="int8: examples per calibration batch.")
    preset: Literal["mixed", "performance"] = Field(
        default="mixed", description="int8: activations asymmetric (mixed) or symmetric (performance)."
    )
    smoothing: float = Field(
        default=0.95,
        ge=-1,
        le=1,
        description="int8: how much of an activation's outlier channels is moved into the weights (SmoothQuant's alpha); -1 "
        "turns it off.",
    )
    fast_bias_correction: bool = Field(
        default=True,
        description="int8: correct biases from statistics of each layer alone, or, slower, from the model's.",
    )
    static_shapes: tuple[StaticShape, ...] = Field(
        default=(),
        description="Shapes ({batch_size: 1, sequence_length: 32}) that a runner compiles a graph of its own for, when it first meets "
        "one: faster, most of all at batch 1, at the price of a second copy of the weights in memory. Other shapes run as ever. "
        "For models that answer in one call; not for generation.",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Greatest allowed difference to the source model. fp32 and packed: absolute (default 1e-3, relative where "
        "outputs are above 1); others: relative, root mean square (default 0.25).",
    )

    def resolved_precision(self, checkpoint: Checkpoint) -> str:
        """The precision that an artifact of this checkpoint states."""
        if self.precision != "auto":
            return self.precision
        if not checkpoint.quantized:
            return "fp32"
        trained = [checkpoint.quantized[name].scheme for name in checkpoint.input_scales]
        return "int8" if trained and not any(map(why_not_int8, trained)) else "packed"


def why_not_packed(scheme: Scheme | CodebookScheme) -> str | None:
    """Why OpenVINO cannot hold weights of a scheme as they are; None where it can."""
    if isinstance(scheme, CodebookScheme) and scheme.codebook != "nf4":
        return "of codebooks it has NormalFloat4 only"
    return None


def why_not_int8(scheme: Scheme | CodebookScheme) -> str | None:
    """Why OpenVINO cannot multiply weights of a scheme with 8-bit activations as integers; None where it can."""
    if not isinstance(scheme, Scheme) or not scheme.symmetric:
        return "its int8 kernels have no zero points of weights"
    return "its int8 kernels have one scale for each output channel" if scheme.group_size else None
