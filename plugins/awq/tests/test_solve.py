"""The search on tensors: scales that lose nothing, and rounding that is never worse than to the nearest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leptonsdk_awq.solve import candidates, channel_scale, output_error, round_layer, solve

from leptonsdk.quantization import Scheme, round_to_nearest

SCHEMES = {
    "group": Scheme(num_bits=3, strategy="group", group_size=16),
    "asymmetric": Scheme(num_bits=4, strategy="group", group_size=16, symmetric=False),
    "channel": Scheme(num_bits=4),
    "tensor": Scheme(num_bits=4, strategy="tensor"),
}


def case(seed: int, outliers: bool = True) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Two layers, and inputs of which some channels are far larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(rows, 32, generator=generator) * 0.1 for rows in (24, 8)]
    x = torch.randn(200, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    if outliers:
        x[:, torch.randint(32, (3,), generator=generator)] *= 30
    return weights, x


def same(x: torch.Tensor) -> torch.Tensor:
    return x


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(SCHEMES)), outliers=st.booleans())
def test_no_layer_is_further_off_than_by_rounding_to_nearest(seed: int, name: str, outliers: bool) -> None:
    weights, x = case(seed, outliers)
    scheme, gram = SCHEMES[name], x.t() @ x / len(x)
    found = solve(weights, gram, scheme, candidates(x.abs().mean(0), weights, scheme, 4, same))
    for weight, tensor, (error, nearest) in zip(weights, found.tensors, found.errors, strict=True):
        plain = round_to_nearest(weight, scheme)
        own = ((tensor.dequantize() / found.scale - weight) @ x.t()).square().sum() / len(x)
        other = ((plain.dequantize() - weight) @ x.t()).square().sum() / len(x)
        assert own <= other * (1 + 1e-4)
        assert (error, nearest) == pytest.approx((float(own), float(other)), rel=1e-3)


def test_scales_help_where_channels_differ() -> None:
    """Large inputs meet small weights: unscaled, these are rounded away. No group takes this back, since a row is one."""
    generator = torch.Generator().manual_seed(0)
    size = torch.ones(32)
    size[::4] = 64
    weight = torch.randn(48, 32, generator=generator) / size
    x = torch.randn(400, 32, generator=generator) * size
    gram, scheme = x.t() @ x / len(x), SCHEMES["channel"]
    found = solve([weight], gram, scheme, candidates(x.abs().mean(0), [weight], scheme, 10, same))
    assert found.scale[::4].mean() > 8 * found.scale[1::4].mean()
    assert found.errors[0][0] < 0.1 * found.errors[0][1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.floats(0, 1), weighted=st.booleans())
def test_scales_are_powers_of_two_about_one(seed: int, exponent: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(32, generator=generator).pow(3) * 100
    size[5] = 0
    scale = channel_scale(size, exponent, torch.rand(32, generator=generator) if weighted else None)
    logs = torch.log2(scale)
    assert torch.equal(logs, logs.round())
    assert scale[5] == 1
    assert abs(float(logs.max() + logs.min())) <= 1
    if not weighted:
        order = size.argsort()
        assert bool((logs[order[order != 5]].diff() >= 0).all())


def test_channels_that_must_be_scaled_alike_are() -> None:
    weights, x = case(3)

    def in_pairs(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, 2).mean(1).repeat_interleave(2)

    scales = candidates(x.abs().mean(0), weights, SCHEMES["group"], 10, in_pairs)
    assert len(scales) > 3
    assert all(torch.equal(scale[::2], scale[1::2]) for scale in scales)
    assert len({tuple(scale.tolist()) for scale in scales}) == len(scales)


def test_a_row_divided_by_a_power_of_two_rounds_to_the_same_integers() -> None:
    weights, x = case(1)
    gram, one = x.t() @ x / len(x), torch.ones(32)
    by = torch.exp2(torch.randint(-3, 4, (24, 1), generator=torch.Generator().manual_seed(0)).float())
    whole, _ = round_layer(weights[0], gram, one, SCHEMES["group"], torch.float16)
    divided, _ = round_layer(weights[0] / by, gram, one, SCHEMES["group"], torch.float16)
    assert torch.equal(whole.integers, divided.integers)
    assert torch.equal(whole.scale / by.half(), divided.scale)


def test_output_error_is_that_of_the_outputs() -> None:
    weights, x = case(2)
    difference = weights[0] * 0.01
    torch.testing.assert_close(
        output_error(difference, x.t() @ x), (x @ difference.t()).square().sum(0), rtol=1e-3, atol=1e-6
    )
