"""Codebook schemes: weights become indices into a table of values that need not lie at equal steps. No torch here.

| codebook | values | scale |
|---|---|---|
| ``kmeans`` | fitted to each piece (SqueezeLLM, arXiv 2306.07629) | none |
| ``nf4`` | the 16 of NormalFloat4 (QLoRA, arXiv 2305.14314) for all pieces | the largest weight of a piece |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from leptonsdk.errors import UsageError, did_you_mean
from leptonsdk.quantization.scheme import PRESETS, Pieces, Scheme

# Where indices and codebooks stand in a model's folder, beside the floats made from them.
SIDECAR = "leptonsdk_quantized.safetensors"


class CodebookScheme(Pieces):
    """How weights become indices: ``num_bits`` per index, a table for each piece or one for all."""

    num_bits: int = Field(4, ge=2, le=8, description="Bits per index, 2 to 8; a table has 2^num_bits values")
    codebook: Literal["kmeans", "nf4"] = Field(description="Fitted by k-means, or the fixed NormalFloat4")

    @model_validator(mode="after")
    def _nf4_has_16_values(self) -> Self:
        if self.codebook == "nf4" and self.num_bits != 4:
            raise ValueError("nf4 has 4 bits")
        return self

    @property
    def name(self) -> str:
        """The preset's name if it is one, else a short description such as ``KMEANS4 group 64``."""
        for name, preset in CODEBOOK_PRESETS.items():
            if preset == self:
                return name
        piece = f"group {self.group_size}" if self.group_size else self.strategy
        return f"{'NF' if self.codebook == 'nf4' else 'KMEANS'}{self.num_bits} {piece}"


CODEBOOK_PRESETS: dict[str, CodebookScheme] = {
    "KMEANS4": CodebookScheme(num_bits=4, codebook="kmeans"),
    "KMEANS3": CodebookScheme(num_bits=3, codebook="kmeans"),
    "NF4": CodebookScheme(codebook="nf4", strategy="group", group_size=64),
}


def resolve_scheme(
    scheme: str | Mapping[str, Any] | Pieces | None = None,
    *,
    bit_width: int | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
) -> Scheme | CodebookScheme:
    """The scheme that a user means, of either kind. Arguments and errors as of `Scheme.resolve`."""
    if isinstance(scheme, str):
        name = scheme.upper()
        if name not in PRESETS and name not in CODEBOOK_PRESETS:
            raise UsageError(f"unknown scheme '{scheme}'", hint=did_you_mean(name, [*PRESETS, *CODEBOOK_PRESETS]))
        scheme = CODEBOOK_PRESETS.get(name, scheme)
    elif isinstance(scheme, Mapping) and "codebook" in scheme:
        try:
            scheme = CodebookScheme.model_validate(dict(scheme))
        except ValidationError as error:
            raise UsageError(f"no such scheme: {'; '.join(e['msg'] for e in error.errors())}") from error
    given = {"bit_width": bit_width, "group_size": group_size, "symmetric": symmetric}
    if isinstance(scheme, CodebookScheme):
        if extra := [key for key, value in given.items() if value is not None]:
            raise UsageError(f"a scheme is given, and {', '.join(extra)} besides", hint="give one or the other")
        return scheme
    return Scheme.resolve(scheme, bit_width=bit_width, group_size=group_size, symmetric=symmetric)  # type: ignore[arg-type]
