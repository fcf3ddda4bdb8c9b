"""A quantized tensor as the tensors of compressed-tensors' formats, and back.

In ``pack-quantized`` there stand, under a layer's name, ``weight_packed`` (int32 ``[out, ceil(in * bits / 32)]``, integers shifted to unsigned and laid
side by side), ``weight_scale``, ``weight_shape`` (int64 ``[2]``) and, when asymmetric, ``weight_zero_point`` (packed
along the rows; by tensor it is a plain int8). compressed-tensors 0.20 stores 1 to 8 bits without gaps. Its forerunners
left gaps where the bits do not divide 32, so such files are not the same there; 2, 4 and 8 bits are alike everywhere.

In ``int-quantized``, the format of layers whose inputs are quantized too, stand ``weight`` (int8), ``weight_scale``,
``weight_zero_point`` (int8), ``input_scale`` and ``input_zero_point`` (int8, ``[1]``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from torch import Tensor

from leptonsdk.errors import CheckpointError
from leptonsdk.quantization.activations import InputScale
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.tensor import QuantizedTensor

PACKED = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
PLAIN = ("weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point")


def packed_width(count: int, num_bits: int) -> int:
    """int32 words for that many integers."""
    return -(-count * num_bits // 32)


def pack(tensor: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors to store, by their name under the layer's.

    Raises:
        CheckpointError: The installed compressed-tensors packs these bits with gaps.
    """
    bits, shape = tensor.scheme.num_bits, tensor.shape
    by_tensor = tensor.scheme.strategy == "tensor"
    stored = {
        "weight_packed": pack_integers(tensor.integers.cpu(), bits, 1),
        "weight_scale": tensor.scale.cpu().reshape(1) if by_tensor else tensor.scale.cpu().contiguous(),
        "weight_shape": torch.tensor(shape, dtype=torch.int64),
    }
    if tensor.zero_point is not None:
        zeros = tensor.zero_point.cpu()
        stored["weight_zero_point"] = zeros.reshape(1) if by_tensor else pack_integers(zeros, bits, 0)
    return stored


def pack_integers(integers: Tensor, bits: int, dimension: int) -> Tensor:
    """Signed integers as int32 words along a dimension, shifted to unsigned, from the lowest bit on, without gaps."""
    packed: Tensor = pack_to_int32(integers, bits, packed_dim=dimension)
    if packed.shape[dimension] != packed_width(integers.shape[dimension], bits):
        raise CheckpointError(
            f"the installed compressed-tensors cannot store {bits}-bit integers without gaps, only 2, 4 and 8 bits",
            hint="pip install -U 'compressed-tensors>=0.20'",
        )
    return packed


def fits_packed(stored: Mapping[str, Tensor], scheme: Scheme) -> bool:
    """Whether stored tensors have the shapes that a scheme gives them."""
    shape = [int(n) for n in stored["weight_shape"]]
    if len(shape) != 2 or not scheme.fits(shape[1]) or scheme.symmetric == ("weight_zero_point" in stored):
        return False
    scale = (1,) if scheme.strategy == "tensor" else scheme.scale_shape(shape)
    width = packed_width(shape[1], scheme.num_bits)
    return tuple(stored["weight_packed"].shape) == (shape[0], width) and tuple(stored["weight_scale"].shape) == scale


def unpack(stored: Mapping[str, Tensor], scheme: Scheme) -> QuantizedTensor:
    """The integers, scales and zero points of one layer; the inverse of `pack`."""
    shape = torch.Size(int(n) for n in stored["weight_shape"])
    scale_shape = scheme.scale_shape(shape)
    zeros = stored.get("weight_zero_point")
    if zeros is not None:
        if scheme.strategy != "tensor":
            zeros = unpack_from_int32(zeros, scheme.num_bits, torch.Size(scale_shape), packed_dim=0)
        zeros = zeros.to(torch.int8).reshape(scale_shape).contiguous()
    return QuantizedTensor(
        integers=unpack_from_int32(stored["weight_packed"], scheme.num_bits, shape).contiguous(),
        scale=stored["weight_scale"].reshape(scale_shape),
        zero_point=zeros,
        scheme=scheme,
    )


def lay_out(tensor: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors to store in ``int-quantized``, by their name under the layer's."""
    by_tensor = tensor.scheme.strategy == "tensor"
    stored = {"weight": tensor.integers.cpu().contiguous(), "weight_scale": tensor.scale.cpu().contiguous()}
    if tensor.zero_point is not None:
        stored["weight_zero_point"] = tensor.zero_point.cpu().contiguous()
    if by_tensor:
        stored.update({name: stored[name].reshape(1) for name in PLAIN[1:3] if name in stored})
    if tensor.input_scale is not None:
        stored["input_scale"] = torch.tensor([tensor.input_scale.scale], dtype=tensor.scale.dtype)
        stored["input_zero_point"] = torch.tensor([tensor.input_scale.zero_point], dtype=torch.int8)
    return stored


def fits_laid_out(stored: Mapping[str, Tensor], scheme: Scheme) -> bool:
    """Whether stored tensors have the shapes that a scheme gives them."""
    weight = stored["weight"]
    if weight.dim() != 2 or not scheme.fits(weight.shape[1]) or scheme.symmetric == ("weight_zero_point" in stored):
        return False
    scale = (1,) if scheme.strategy == "tensor" else scheme.scale_shape(weight.shape)
    return weight.dtype == torch.int8 and tuple(stored["weight_scale"].shape) == scale


def take_in(stored: Mapping[str, Tensor], scheme: Scheme) -> QuantizedTensor:
    """The inverse of `lay_out`. A symmetric input has no zero point on disk."""
    weight = stored["weight"]
    shape = scheme.scale_shape(weight.shape)
    zeros = stored.get("weight_zero_point")
    input_scale = None
    if "input_scale" in stored:
        zero_point = stored.get("input_zero_point")
        input_scale = InputScale(float(stored["input_scale"]), 0 if zero_point is None else int(zero_point))
    return QuantizedTensor(
        integers=weight,
        scale=stored["weight_scale"].reshape(shape),
        zero_point=None if zeros is None else zeros.reshape(shape),
        scheme=scheme,
        input_scale=input_scale,
    )
