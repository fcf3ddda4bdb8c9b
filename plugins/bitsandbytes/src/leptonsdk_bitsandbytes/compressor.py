"""The compressor class and its config: light to import, the work stands in other modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from leptonsdk.hooks import Capabilities, PluginConfig, PostTrainingCompressor, StepContext

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

QuantType = Literal["nf4", "fp4", "int8"]


class BitsAndBytesCompressorConfig(PluginConfig):
    """What to quantize, and how. Blocks have 64 weights, which transformers leaves no choice of."""

    quant_type: QuantType = Field(
        "nf4", description="4-bit normal float (nf4) or float (fp4), a scale for 64 weights; or int8, LLM.int8()"
    )
    double_quantization: bool = Field(
        True, description="nf4 and fp4: keep the scales in 8 bits as well, which saves 0.37 bits per weight"
    )
    outlier_threshold: float = Field(
        6.0, ge=0, description="int8: inputs above this are multiplied in float16 instead; 0: none are"
    )
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="nf4 and fp4: what products are computed in; default: the model's own dtype"
    )
    targets: tuple[str, ...] = Field(
        ("Linear", "Conv1D"), description="Layers to quantize: a class, a module's name or the end of it, or re:REGEX"
    )
    ignore: tuple[str, ...] = Field(
        ("lm_head",), description="Layers to leave in float; those tied to an embedding always are"
    )

    @model_validator(mode="after")
    def _options_belong_to_the_type(self) -> Self:
        idle = ("double_quantization", "compute_dtype") if self.quant_type == "int8" else ("outlier_threshold",)
        if given := [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(f"{', '.join(given)} means nothing with quant_type '{self.quant_type}'")
        return self


class BitsAndBytesCompressor(PostTrainingCompressor[BitsAndBytesCompressorConfig]):
    """bitsandbytes through transformers' own ``BitsAndBytesConfig``: NF4 and FP4 (QLoRA, arXiv 2305.14314), LLM.int8()
    (arXiv 2208.07339)."""

    name: ClassVar[str] = "bitsandbytes"
    config_class: ClassVar[type[PluginConfig]] = BitsAndBytesCompressorConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes"}),
        calibration="never",
        preserves_zeros=True,
        preserves_shapes=True,
        quantizes=frozenset({"linear"}),
        schemes=("nf4", "fp4", "int8"),
        deterministic=True,
        devices=("cpu", "cuda"),
        formats=("bitsandbytes",),
        may_not_follow=frozenset({"quantizes"}),
    )

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """A checkpoint whose model was saved, loaded again and found to be the same.

        Raises:
            UsageError: The model is quantized already, or no layer is meant, or one that cannot be quantized.
            CheckpointError: The saved model is not what was quantized.
        """
        from leptonsdk_bitsandbytes.quantize import quantize

        return quantize(checkpoint, self.config, context)
