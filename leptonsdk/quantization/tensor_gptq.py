"""A quantized tensor as the tensors of the ``gptq`` format, and back.

Under a layer's name stand ``qweight`` (int32 ``[in * bits / 32, out]``), ``qzeros`` (int32 ``[groups, out * bits / 32]``),
``scales`` (fp16 ``[groups, out]``) and ``g_idx`` (int32 ``[in]``, the group of each input), and a weight is
``scales * (q - zero)`` with unsigned integers. Integers lie side by side from the lowest bit on; of 3 bits, 32 fill three
words. The layout is AutoGPTQ's (``QuantLinear.pack``), which GPTQModel, vLLM and others read. Two things are particular:

- Zero points are stored minus one. A zero point of 0 would borrow from its neighbour when readers add the one again, so a
  piece that has one is mirrored: ``scale * (q - 0)`` is ``-scale * (q' - m)`` with ``q' = m - q`` and ``m = 2^bits - 1``.
- Scales are fp16, and may be negative: readers multiply with them and ask nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from torch import Tensor

from leptonsdk.errors import CheckpointError
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.quantization.tensor_packing import pack_integers

BITS = (2, 3, 4, 8)
STORED = ("qweight", "qzeros", "scales", "g_idx")


def multiple_of(num_bits: int) -> int:
    """What a layer's inputs and outputs must be a multiple of, so that integers fill whole words."""
    return 32 if num_bits == 3 else 32 // num_bits


def to_fp16(tensor: QuantizedTensor) -> QuantizedTensor:
    """The same integers with scales as the format stores them; `CheckpointError` where fp16 cannot hold one."""
    half = tensor.cast(torch.float16)
    if not bool(torch.isfinite(half.scale).all()) or bool(((half.scale == 0) & (tensor.scale != 0)).any()):
        raise CheckpointError("scales do not fit into fp16, which is what the gptq format stores")
    return half


def pack_gptq(tensor: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors to store, by their name under the layer's.

    Raises:
        CheckpointError: The format has no place for these bits, strategy or sizes, or fp16 none for a scale.
    """
    scheme, (rows, columns) = tensor.scheme, tensor.shape
    if scheme.num_bits not in BITS or scheme.strategy == "tensor":
        raise CheckpointError(
            f"the gptq format cannot store {scheme.name}", hint="it stores 2, 3, 4 or 8 bits, by group or by channel"
        )
    if rows % (unit := multiple_of(scheme.num_bits)) or columns % unit:
        raise CheckpointError(
            f"the gptq format stores {scheme.num_bits}-bit weights whose sizes are multiples of {unit}, not [{rows}, {columns}]",
            hint="leave the layer in float, or save as compressed-tensors",
        )
    tensor = _mirror(to_fp16(tensor).to("cpu"), scheme.minimum)
    zeros = torch.zeros(tensor.scale.shape, dtype=torch.int8) if tensor.zero_point is None else tensor.zero_point
    return {
        "qweight": pack_integers(tensor.integers.t(), scheme.num_bits, 0),
        "qzeros": pack_integers(zeros.t() - 1, scheme.num_bits, 1),
        "scales": tensor.scale.t().contiguous(),
        "g_idx": _groups(columns, columns // tensor.scale.shape[1]),
    }


def unpack_gptq(stored: Mapping[str, Tensor], group_size: int, *, minus_one: bool = True) -> QuantizedTensor:
    """The integers, scales and zero points of one layer; the inverse of `pack_gptq`.

    Bits and sizes are read from the shapes. A layer whose zero points are all in the middle is symmetric.

    Args:
        stored: ``qweight``, ``qzeros``, ``scales`` and, where it is there, ``g_idx``.
        group_size: As the model's config has it; -1: a whole row.
        minus_one: Zero points are stored minus one (``gptq``), or as they are (``gptq_v2``).

    Raises:
        CheckpointError: Columns in activation order, other words than int32, a zero point whose neighbour a reader
            would damage, or shapes that do not belong together.
    """
    qweight, qzeros, scales, g_idx = (stored.get(name) for name in STORED)
    if qweight is None or qzeros is None or scales is None or g_idx is None:
        missing = [name for name in STORED if name not in stored]
        raise CheckpointError(f"{', '.join(missing)} missing")
    columns, (groups, rows) = g_idx.numel(), scales.shape
    bits, rest = divmod(qweight.shape[0] * 32, columns)
    size = columns // groups
    shapes = (tuple(qweight.shape[1:]), tuple(qzeros.shape))
    if rest or bits not in BITS or columns % groups or shapes != ((rows,), (groups, rows * bits // 32)):
        found = {name: list(tensor.shape) for name, tensor in stored.items()}
        raise CheckpointError(f"no layer of the gptq format has tensors of these shapes: {found}")
    if qweight.dtype != torch.int32 or qzeros.dtype != torch.int32:
        raise CheckpointError(f"integers lie in words of {qweight.dtype}, and only int32 can be read")
    if not torch.equal(g_idx.to(torch.int32), _groups(columns, size)):
        raise CheckpointError(
            "columns are in activation order (desc_act, g_idx)", hint="only groups of neighbours can be read"
        )
    integers = unpack_from_int32(qweight, bits, torch.Size((columns, rows)), packed_dim=0).t().contiguous()
    zeros = unpack_from_int32(qzeros, bits, torch.Size((groups, rows)), packed_dim=1).t().to(torch.int16)
    zeros = zeros + 1 if minus_one else zeros
    if int(zeros.max()) >= 1 << (bits - 1):
        raise CheckpointError(f"it has zero points of {1 << bits}, which readers take for different numbers")
    symmetric = not bool(zeros.any())
    by_row = group_size == -1 and groups == 1
    scheme = Scheme(
        num_bits=bits,
        symmetric=symmetric,
        strategy="channel" if by_row else "group",
        group_size=None if by_row else size,
    )
    zero_point = None if symmetric else zeros.to(torch.int8).contiguous()
    tensor = QuantizedTensor(integers, scales.t().contiguous(), zero_point, scheme)
    return _mirror(tensor, scheme.maximum, negative=True)


def _groups(columns: int, size: int) -> Tensor:
    return torch.arange(columns, dtype=torch.int32) // size


def _mirror(tensor: QuantizedTensor, zero: int, *, negative: bool = False) -> QuantizedTensor:
    """The same weight with the pieces turned round that have this zero point (and a negative scale)."""
    if tensor.zero_point is None:
        return tensor
    turned = (tensor.zero_point == zero) & (tensor.scale < 0) if negative else tensor.zero_point == zero
    each = turned.repeat_interleave(tensor.shape[1] // turned.shape[1], 1)
    return QuantizedTensor(
        torch.where(each, -1 - tensor.integers, tensor.integers),
        torch.where(turned, -tensor.scale, tensor.scale),
        torch.where(turned, -1 - tensor.zero_point, tensor.zero_point),
        tensor.scheme,
    )
