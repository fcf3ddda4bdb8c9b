"""A quantized weight: integers, scales and zero points. The integers are the truth; floats are made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.scheme import Scheme


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight ``[out, in]`` as integers.

    Attributes:
        integers: int8 ``[out, in]``, signed: from ``-2^(b-1)`` to ``2^(b-1) - 1``.
        scale: Float ``[out, groups]`` (``[out, 1]`` by channel, ``[1, 1]`` by tensor), in the dtype that is saved.
            It may be negative: then the integers' longer side serves the weights' positive side.
        zero_point: int8 of the scale's shape and the integers' range, or None when the scheme is symmetric.
        scheme: What the above mean.
        input_scale: How the layer's input is quantized beside its weight; None: not, or anew for every input.

    Raises:
        UsageError: Shapes, dtypes or ranges do not belong together.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    scheme: Scheme
    input_scale: InputScale | None = None

    def __post_init__(self) -> None:
        if self.integers.dim() != 2 or self.integers.dtype != torch.int8:
            raise UsageError(f"integers must be int8 [out, in], not {describe(self.integers)}")
        shape = self.scheme.scale_shape(self.integers.shape)
        if tuple(self.scale.shape) != shape or not self.scale.is_floating_point():
            raise UsageError(f"the scale must be float {list(shape)}, not {describe(self.scale)}")
        if self.scheme.symmetric != (self.zero_point is None):
            raise UsageError("an asymmetric scheme has a zero point, and a symmetric one has none")
        for name, tensor in (("integers", self.integers), ("zero_point", self.zero_point)):
            if tensor is not None and tensor.numel():
                low, high = (int(x) for x in torch.aminmax(tensor))
                if low < self.scheme.minimum or high > self.scheme.maximum:
                    raise UsageError(f"{name} from {low} to {high} are no {self.scheme.num_bits}-bit integers")
        if self.zero_point is not None and (
            tuple(self.zero_point.shape) != shape or self.zero_point.dtype != torch.int8
        ):
            raise UsageError(f"the zero point must be int8 {list(shape)}, not {describe(self.zero_point)}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.integers.shape[0], self.integers.shape[1]

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk per weight, with its share of scales and zero points."""
        per_scale = 8 * self.scale.element_size()
        if self.zero_point is not None:
            per_scale += self.scheme.num_bits
        return self.scheme.num_bits + per_scale * self.scale.numel() / max(self.integers.numel(), 1)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight ``[out, in]`` as floats, bit for bit what compressed-tensors makes of it on loading.

        It computes ``(integers - zero_point) * scale`` in the scale's dtype, and casts the result.

        Args:
            dtype: Of the result; default: the scale's own.
        """
        own = self.scale.dtype
        rows, columns = self.shape
        pieces = self.integers.to(own).reshape(rows, -1, self.scheme.group_size or columns)
        if self.zero_point is not None:
            pieces = pieces - self.zero_point.to(own).unsqueeze(-1)
        return (pieces * self.scale.unsqueeze(-1)).reshape(rows, columns).to(dtype or own)

    def cast(self, dtype: torch.dtype) -> QuantizedTensor:
        """The same integers with scales of another float dtype (the weight changes by their rounding)."""
        return self if self.scale.dtype == dtype else replace(self, scale=self.scale.to(dtype))

    def to(self, device: torch.device | str) -> QuantizedTensor:
        """The same on another device."""
        zero_point = None if self.zero_point is None else self.zero_point.to(device)
        return replace(self, integers=self.integers.to(device), scale=self.scale.to(device), zero_point=zero_point)


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
