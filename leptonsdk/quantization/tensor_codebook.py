"""A weight as indices into codebooks; floats are made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization.scheme_codebooks import CodebookScheme
from leptonsdk.quantization.tensor import QuantizedTensor, describe


@dataclass(frozen=True, eq=False)
class CodebookTensor:
    """A weight ``[out, in]`` as indices.

    Attributes:
        indices: uint8 ``[out, in]``, each below ``2^num_bits``.
        codebook: Float ``[pieces, 2^num_bits]``, row by row, or ``[1, 2^num_bits]`` for all pieces; ascending. Its dtype is
            the one that is saved.
        scale: Float of the codebook's dtype, ``[out, groups]`` (see `Pieces.scale_shape`), or None.
        scheme: What the above mean.

    Raises:
        UsageError: Shapes, dtypes or ranges do not belong together.
    """

    indices: Tensor
    codebook: Tensor
    scale: Tensor | None
    scheme: CodebookScheme

    def __post_init__(self) -> None:
        if self.indices.dim() != 2 or self.indices.dtype != torch.uint8:
            raise UsageError(f"indices must be uint8 [out, in], not {describe(self.indices)}")
        values, shape = 1 << self.scheme.num_bits, self.scheme.scale_shape(self.indices.shape)
        if self.indices.numel() and int(self.indices.max()) >= values:
            raise UsageError(f"indices up to {int(self.indices.max())} are no {self.scheme.num_bits}-bit integers")
        pieces = 1 if self.scheme.codebook == "nf4" else shape[0] * shape[1]
        if tuple(self.codebook.shape) != (pieces, values) or not self.codebook.is_floating_point():
            raise UsageError(f"the codebook must be float {[pieces, values]}, not {describe(self.codebook)}")
        if (self.scheme.codebook == "nf4") != (self.scale is not None):
            raise UsageError("nf4 has a scale, and k-means has none")
        if self.scale is not None and (tuple(self.scale.shape), self.scale.dtype) != (shape, self.codebook.dtype):
            raise UsageError(f"the scale must be {self.codebook.dtype} {list(shape)}, not {describe(self.scale)}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.indices.shape[0], self.indices.shape[1]

    @property
    def bits_per_weight(self) -> float:
        """Bits in the sidecar per weight, with its share of codebooks and scales."""
        shared = self.codebook.numel() + (0 if self.scale is None else self.scale.numel())
        return self.scheme.num_bits + 8 * self.codebook.element_size() * shared / max(self.indices.numel(), 1)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight ``[out, in]``: the codebook's values, times the scale where there is one, in their own dtype, cast.

        Args:
            dtype: Of the result; default: the codebook's own.
        """
        rows, pieces = self.shape[0], self.scheme.scale_shape(self.indices.shape)
        index = self.indices.reshape(pieces[0] * pieces[1], -1).long()
        values = self.codebook[0][index] if len(self.codebook) == 1 else self.codebook.gather(1, index)
        if self.scale is not None:
            values = values * self.scale.reshape(-1, 1)
        return values.reshape(rows, -1).to(dtype or self.codebook.dtype)

    def cast(self, dtype: torch.dtype) -> CodebookTensor:
        """The same indices with codebooks and scales of another float dtype (the weight changes by their rounding)."""
        scale = None if self.scale is None else self.scale.to(dtype)
        return self if self.codebook.dtype == dtype else replace(self, codebook=self.codebook.to(dtype), scale=scale)

    def to(self, device: torch.device | str) -> CodebookTensor:
        """The same on another device."""
        scale = None if self.scale is None else self.scale.to(device)
        return replace(self, indices=self.indices.to(device), codebook=self.codebook.to(device), scale=scale)


AnyTensor = QuantizedTensor | CodebookTensor
AnyTensorT = TypeVar("AnyTensorT", QuantizedTensor, CodebookTensor, AnyTensor)
