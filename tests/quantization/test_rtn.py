import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor, Scheme, quantize, round_to_nearest, search_scales

schemes = st.builds(
    lambda bits, symmetric, strategy: Scheme(
        num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=8 if strategy == "group" else None
    ),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["tensor", "channel", "group"]),
)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(draw(st.integers(1, 6)), 8 * draw(st.integers(1, 4)), generator=generator)
    weight *= 10.0 ** draw(st.integers(-6, 3))
    if draw(st.booleans()):
        weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0
    if draw(st.booleans()):
        weight[0] = 0
    if draw(st.booleans()):
        weight += draw(st.sampled_from([1.0, -1.0])) * weight.abs().max()
    return weight


def error(weight: Tensor, tensor: QuantizedTensor, importance: Tensor | float = 1.0) -> float:
    return float(((tensor.dequantize(torch.float64) - weight.double()) ** 2 * importance).sum())


@settings(max_examples=80, deadline=None)
@given(weights(), schemes, st.sampled_from([None, True, False]), st.sampled_from([torch.float32, torch.float16]))
def test_the_search_is_never_worse_than_min_max(
    weight: Tensor, scheme: Scheme, negative: bool | None, dtype: torch.dtype
) -> None:
    weight = weight.to(dtype)
    plain = round_to_nearest(weight, scheme, observer="minmax", scale_dtype=torch.float32)
    found = round_to_nearest(weight, scheme, negative_scales=negative, scale_dtype=torch.float32)
    assert error(weight, found) <= error(weight, plain) * (1 + 1e-5) + 1e-30


@settings(max_examples=80, deadline=None)
@given(weights(), schemes, st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_zeros_stay_zero_and_integers_are_the_nearest(weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
    weight = weight.to(dtype)
    tensor = round_to_nearest(weight, scheme)
    assert tensor.scale.dtype == dtype
    assert bool(torch.isfinite(tensor.scale).all())
    assert not bool((tensor.scale == 0).any())
    restored = tensor.dequantize(torch.float32)
    assert bool((restored[weight == 0] == 0).all())
    if scheme.symmetric:
        assert bool((tensor.integers[weight == 0] == 0).all())
    # Within the range that the integers span, no weight is further away than half a step.
    scale = tensor.scale.float().repeat_interleave(weight.shape[1] // tensor.scale.shape[1], 1).expand_as(weight)
    zero = torch.zeros_like(tensor.scale) if tensor.zero_point is None else tensor.zero_point.float()
    zero = zero.float().repeat_interleave(weight.shape[1] // zero.shape[1], 1).expand_as(weight)
    place = weight.float() / scale + zero
    inside = (place >= scheme.minimum) & (place <= scheme.maximum)
    assert bool(((tensor.integers.float() - place).abs()[inside] <= 0.5 + 1e-3).all())


def naive(row: list[float], scheme: Scheme, scale: float, zero: int) -> float:
    """The squared error of one piece, in Python's own floats."""
    total = 0.0
    for value in row:
        q = min(max(round(value / scale + zero), scheme.minimum), scheme.maximum)
        total += ((q - zero) * scale - value) ** 2
    return total


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_naive_float64_search_finds_nothing_better(bits: int, symmetric: bool) -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    scheme = Scheme(num_bits=bits, symmetric=symmetric, strategy="group", group_size=16)
    scale, zero = search_scales(weight, scheme, negative_scales=False, steps=20)
    tensor = QuantizedTensor(quantize(weight, scale, zero, scheme), scale, zero, scheme)
    low = {2: 0.2, 3: 0.3, 4: 0.4, 8: 0.85}[bits]
    for i, row in enumerate(weight.reshape(-1, 16).tolist()):
        smallest, largest = min(*row, 0.0), max(*row, 0.0)
        errors = []
        if symmetric:
            top = max(largest, -smallest)
            steps = [top / scheme.maximum, top / (2**bits - 1) * 2, top / -scheme.minimum]
            ratio = -scheme.minimum / scheme.maximum
            steps += [(ratio - (ratio - low) * k / 19) * top / -scheme.minimum for k in range(20)]
            errors = [naive(row, scheme, step, 0) for step in steps]
        else:
            for k in range(20):
                factor = 1 - (1 - low) * k / 19
                step = factor * (largest - smallest) / (2**bits - 1)
                errors.append(naive(row, scheme, step, scheme.minimum - round(factor * smallest / step)))
        own = ((tensor.dequantize() - weight) ** 2).reshape(-1, 16)[i].sum()
        assert math.isclose(float(own), min(errors), rel_tol=1e-9)


def test_a_negative_scale_wins_a_level_for_the_larger_side() -> None:
    weight = torch.tensor([[8.0, -7.0, 3.0, 1.0]])
    scheme = Scheme(num_bits=4)
    tensor = round_to_nearest(weight, scheme)
    assert tensor.scale.item() == -1
    assert tensor.integers.tolist() == [[-8, 7, -3, -1]]
    assert torch.equal(tensor.dequantize(), weight)
    assert bool((search_scales(weight, scheme, negative_scales=False)[0] > 0).all())
    assert bool((search_scales(weight, Scheme(num_bits=8))[0] > 0).all())


def test_importance_moves_the_error_to_where_it_matters_less() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(16, 64, generator=generator), torch.rand(64, generator=generator) ** 8
    scheme = Scheme(num_bits=3)
    weighted = round_to_nearest(weight, scheme, weight_importance=importance)
    assert error(weight, weighted, importance) < error(weight, round_to_nearest(weight, scheme), importance)
    full = round_to_nearest(weight, scheme, weight_importance=importance.expand(16, 64))
    assert torch.equal(full.scale, weighted.scale)


def test_a_weight_of_zeros_is_safe() -> None:
    for symmetric in (True, False):
        tensor = round_to_nearest(torch.zeros(3, 16), Scheme(num_bits=4, symmetric=symmetric))
        assert torch.equal(tensor.dequantize(), torch.zeros(3, 16))
        assert bool((tensor.scale == 1).all())


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, scheme = torch.randn(33, 64), Scheme(num_bits=4, symmetric=False, strategy="group", group_size=16)
    whole = round_to_nearest(weight, scheme)
    monkeypatch.setattr("leptonsdk.quantization.rtn._CHUNK", 48)
    parts = round_to_nearest(weight, scheme)
    assert torch.equal(whole.integers, parts.integers)
    assert torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize(
    "weight, arguments, message",
    [
        (torch.tensor([[float("nan"), 1.0]]), {}, "NaN or infinite"),
        (torch.ones(2, 4), {"weight_importance": torch.ones(3)}, "importance must be"),
        (torch.ones(2, 4), {"weight_importance": -torch.ones(4)}, "not negative"),
    ],
)
def test_what_cannot_be_quantized_is_a_usage_error(weight: Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        round_to_nearest(weight, Scheme(num_bits=4), **arguments)


def test_groups_that_do_not_fit_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="does not divide"):
        round_to_nearest(torch.ones(2, 24), Scheme.preset("W4A16"))
