import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor, Scheme, round_to_nearest
from leptonsdk.quantization.tensor_packing import fits_packed, pack, unpack

SHAPES = [{"strategy": "tensor"}, {"strategy": "channel"}, {"strategy": "group", "group_size": 16}]


def make(scheme: Scheme, dtype: torch.dtype = torch.float32) -> QuantizedTensor:
    weight = torch.randn(10, 48, generator=torch.Generator().manual_seed(1))
    return round_to_nearest(weight.to(dtype), scheme)


@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_are_those_of_compressed_tensors(fields: dict, symmetric: bool, dtype: torch.dtype) -> None:
    for bits in (2, 4, 8):
        scheme = Scheme(num_bits=bits, symmetric=symmetric, **fields)
        tensor = make(scheme, dtype)
        args = QuantizationArgs(**scheme.to_weights())
        for wanted in (dtype, torch.float32, torch.float16):
            theirs = dequantize(tensor.integers, tensor.scale, tensor.zero_point, args).to(wanted)
            assert torch.equal(tensor.dequantize(wanted), theirs)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_packing_loses_nothing(bits: int, fields: dict, symmetric: bool) -> None:
    scheme = Scheme(num_bits=bits, symmetric=symmetric, **fields)
    tensor = make(scheme)
    stored = pack(tensor)
    assert fits_packed(stored, scheme)
    assert stored["weight_packed"].numel() * 32 <= 10 * (48 * bits + 31)
    again = unpack(stored, scheme)
    assert torch.equal(again.integers, tensor.integers)
    assert torch.equal(again.scale, tensor.scale)
    assert symmetric or torch.equal(again.zero_point, tensor.zero_point)


@pytest.mark.parametrize(
    "scheme, dtype, bits",
    [
        (Scheme(num_bits=8), torch.float32, 8 + 32 / 48),
        (Scheme(num_bits=4, strategy="group", group_size=16), torch.float16, 4 + 16 / 16),
        (Scheme(num_bits=4, strategy="group", group_size=16, symmetric=False), torch.float16, 4 + 20 / 16),
    ],
)
def test_bits_per_weight_count_scales_and_zero_points(scheme: Scheme, dtype: torch.dtype, bits: float) -> None:
    assert make(scheme, dtype).bits_per_weight == pytest.approx(bits)


def test_cast_keeps_the_integers() -> None:
    tensor = make(Scheme(num_bits=4))
    cast = tensor.cast(torch.float16)
    assert cast.scale.dtype == torch.float16
    assert cast.integers is tensor.integers
    assert tensor.cast(torch.float32) is tensor


@pytest.mark.parametrize(
    "change, message",
    [
        ({"integers": torch.zeros(2, 4)}, "must be int8"),
        ({"integers": torch.full((2, 4), 8, dtype=torch.int8)}, "no 4-bit integers"),
        ({"scale": torch.ones(2)}, "scale must be float"),
        ({"scale": torch.ones(2, 1, dtype=torch.int8)}, "scale must be float"),
        ({"zero_point": torch.zeros(2, 1, dtype=torch.int8)}, "symmetric one has none"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change: dict, message: str) -> None:
    parts = {"integers": torch.zeros(2, 4, dtype=torch.int8), "scale": torch.ones(2, 1), "zero_point": None}
    with pytest.raises(UsageError, match=message):
        QuantizedTensor(**{**parts, **change}, scheme=Scheme(num_bits=4))
