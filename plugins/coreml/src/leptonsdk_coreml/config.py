"""What a user can choose."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leptonsdk.hooks import PluginConfig
from leptonsdk.quantization import CodebookScheme, Scheme

Precision = Literal["auto", "fp32", "fp16", "int8", "int4", "palettized", "packed"]
PRECISIONS: tuple[str, ...] = ("auto", "fp32", "fp16", "int8", "int4", "palettized", "packed")
Target = Literal["iOS16", "iOS17", "iOS18", "iOS26"]
# Blocks of weights with their own scale or table came with iOS 18.
_WITHOUT_BLOCKS = ("iOS16", "iOS17")


# What indices into a table may have.
_TABLE_BITS = (1, 2, 3, 4, 6, 8)


def no_place(scheme: Scheme | CodebookScheme) -> str | None:
    """Why an ML program cannot hold weights of a scheme as they are; None where it can."""
    if isinstance(scheme, CodebookScheme) and scheme.num_bits not in _TABLE_BITS:
        return f"its tables have 2^n values with n of {', '.join(map(str, _TABLE_BITS))}"
    return None


class CoreMLConfig(PluginConfig):
    """Config of the Core ML backend."""

    precision: Precision = Field(
        default="auto",
        description="fp32; fp16 (Core ML's own default); int8: fp16 with int8 weights, one scale per output channel; int4: fp16 "
        "with int4 weights, one scale per block; palettized: fp16 with weights as indices into tables made by k-means; packed: "
        "the integers or codebooks that the checkpoint carries; auto: packed where it carries some, else fp16.",
    )
    minimum_deployment_target: Target = Field(
        default="iOS18",
        description="The oldest system that runs it (macOS versions of the same year included). int4, packed and tables for "
        "groups of channels need iOS18.",
    )
    bits: Literal[1, 2, 3, 4, 6, 8] = Field(
        default=4, description="Bits per weight (palettized); a table has 2^bits values."
    )
    group_size: int | None = Field(
        default=16,
        ge=1,
        description="Output channels that share a table (palettized); null: all of a weight.",
    )
    block_size: Literal[16, 32, 64, 128] = Field(
        default=32, description="Weights of a channel that share a scale (int4)."
    )
    embeddings: Literal["compressed", "float"] = Field(
        default="compressed",
        description="Embedding tables as the other weights, or in float. A table that the output layer shares is one of the "
        "other weights.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Modules whose weights stay in float (int8, int4, palettized): names, ends of names, classes or `re:` "
        "patterns of the source model's modules.",
    )
    compute_precision: Literal["auto", "fp16", "fp32"] = Field(
        default="auto",
        description="What packed programs compute in. auto: fp16 where the checkpoint's scales and codebooks are fp16 numbers, "
        "else fp32, so that nothing is rounded; fp16 rounds them.",
    )
    max_batch_size: int = Field(default=64, ge=1, description="Largest batch that the program accepts.")
    max_length: int | None = Field(
        default=None, ge=1, description="Longest sequence that it accepts; default: the model's own limit, else 512."
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Greatest allowed difference to the source model. fp32: absolute (default 1e-3, relative where outputs "
        "are above 1); else relative, root mean square (default 0.05 for fp16 and packed, 0.25 for int8, 0.5 for int4 and "
        "palettized).",
    )

    @model_validator(mode="after")
    def _target_has_what_it_takes(self) -> Self:
        if self.minimum_deployment_target in _WITHOUT_BLOCKS:
            if self.precision in ("int4", "packed"):
                raise ValueError(f"precision {self.precision} needs minimum_deployment_target iOS18")
            if self.precision == "palettized" and self.group_size is not None:
                raise ValueError(
                    "tables for groups of channels need minimum_deployment_target iOS18; or set group_size: null"
                )
        return self
