"""The solver against a naive float64 reference, against round-to-nearest, and on bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leptonsdk_gptq.solve import factorize, layer_error, solve
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization import Scheme, round_to_nearest, search_scales

SCHEMES = st.builds(
    lambda bits, symmetric, strategy: Scheme(
        num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=8 if strategy == "group" else None
    ),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["tensor", "channel", "group"]),
)


def problem(seed: int, rows: int = 6, columns: int = 24, positions: int = 60) -> tuple[Tensor, Tensor]:
    """A weight and correlated inputs of uneven size, float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(positions, columns, generator=generator, dtype=torch.float64) @ mixing
    return weight, inputs * torch.rand(columns, generator=generator, dtype=torch.float64).mul(3)


def reference(weight: Tensor, hessian: Tensor, scheme: Scheme, damping: float, ordered: bool) -> Tensor:
    """Optimal brain quantization as the paper's equations have it: the inverse is updated after every column."""
    diagonal = hessian.diagonal()
    scale, zero = search_scales(weight, scheme, weight_importance=diagonal)
    damped = hessian + damping * diagonal.mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    order = torch.argsort(diagonal, descending=True, stable=True).tolist() if ordered else list(range(len(hessian)))
    left = weight.clone()
    integers = torch.zeros_like(weight)
    remaining = list(order)
    for column in order:
        inverse = torch.linalg.inv(damped[remaining][:, remaining])
        group = column // (scheme.group_size or len(hessian))
        unit = scale[:, min(group, scale.shape[1] - 1)]
        shift = torch.zeros_like(unit) if zero is None else zero[:, min(group, zero.shape[1] - 1)].to(unit.dtype)
        value = ((left[:, column] / unit).add(shift)).round().clamp(scheme.minimum, scheme.maximum)
        integers[:, column] = value
        error = (left[:, column] - (value - shift) * unit) / inverse[0, 0]
        for position, other in enumerate(remaining):
            left[:, other] -= error * inverse[0, position]
        remaining = remaining[1:]
    return integers


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), SCHEMES, st.booleans())
def test_it_equals_the_papers_equations(seed: int, scheme: Scheme, ordered: bool) -> None:
    weight, inputs = problem(seed)
    hessian = inputs.t() @ inputs / len(inputs)
    found = solve(weight, hessian, scheme, activation_order=ordered)
    expected = reference(weight, hessian, scheme, 0.01, ordered)
    # Rows that took round-to-nearest, for which the reference is no reference, aside.
    same = (found.tensor.integers.double() == expected).double().mean(1)
    scale, _ = search_scales(weight, scheme, weight_importance=hessian.diagonal())
    own = (found.tensor.scale == scale).all(1).expand(len(weight))
    reference_error = layer_error(weight, _with(found.tensor, expected, scale, weight, hessian, scheme), hessian)
    assert bool((found.error <= reference_error * (1 + 1e-9)).all())
    worse = reference_error > found.error * (1 + 1e-9)
    assert bool((same[own & ~worse] == 1).all())


def _with(tensor: object, integers: Tensor, scale: Tensor, weight: Tensor, hessian: Tensor, scheme: Scheme) -> object:
    from leptonsdk.quantization import QuantizedTensor

    _, zero = search_scales(weight, scheme, weight_importance=hessian.diagonal())
    return QuantizedTensor(integers.to(torch.int8), scale, zero, scheme)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), SCHEMES, st.booleans(), st.integers(1, 40), st.floats(0, 0.7))
def test_it_never_loses_more_than_round_to_nearest(
    seed: int, scheme: Scheme, ordered: bool, positions: int, sparsity: float
) -> None:
    weight, inputs = problem(seed, positions=positions)
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < sparsity] = 0
    weight, inputs = weight.float(), inputs.float()
    hessian = inputs.t() @ inputs / len(inputs)
    found = solve(weight, hessian, scheme, activation_order=ordered)
    nearest = round_to_nearest(weight, scheme)
    bound = layer_error(weight, nearest, hessian)
    if scheme.strategy == "tensor":
        bound, loss = bound.sum(), found.error.sum()
    else:
        loss = found.error
    assert bool((loss <= bound * (1 + 1e-4) + 1e-9).all())
    assert bool((layer_error(weight, found.tensor, hessian) <= found.error * (1 + 1e-4) + 1e-9).all())
    assert bool((found.tensor.dequantize()[weight == 0] == 0).all())


def test_it_loses_far_less_where_inputs_are_correlated() -> None:
    weight, inputs = problem(3, rows=32, columns=64, positions=400)
    hessian = inputs.t() @ inputs / len(inputs)
    found = solve(weight, hessian, Scheme(num_bits=3, strategy="group", group_size=8))
    assert float(found.error.sum()) < 0.6 * float(found.nearest_error.sum())


def test_drift_is_made_good() -> None:
    """With the source's inputs known, the corrected weight gives the source's outputs from the inputs that are there."""
    weight, source = problem(5, rows=16, columns=24, positions=4000)
    generator = torch.Generator().manual_seed(9)
    drifted = source @ (torch.eye(24, dtype=torch.float64) + 0.15 * torch.randn(24, 24, generator=generator).double())
    hessian = drifted.t() @ drifted / len(source)
    drift = (source - drifted).t() @ drifted / len(source)
    scheme = Scheme(num_bits=8, strategy="channel")

    def output_error(correction: float) -> float:
        tensor = solve(weight, hessian, scheme, drift=drift, correction=correction).tensor
        return float((source @ weight.t() - drifted @ tensor.dequantize().double().t()).square().mean())

    assert output_error(1.0) < 0.05 * output_error(0.0)
    assert output_error(1.0) < output_error(0.5) < output_error(0.0)


def test_dead_and_repeated_inputs_are_no_trouble() -> None:
    weight, inputs = problem(7)
    inputs[:, 3] = 0
    inputs[:, 8] = inputs[:, 9]
    inputs = inputs[:5]  # and far fewer positions than inputs
    hessian = inputs.float().t() @ inputs.float() / len(inputs)
    found = solve(weight.float(), hessian, Scheme(num_bits=4, strategy="channel"), damping=0.0)
    assert bool(torch.isfinite(found.tensor.dequantize()).all())
    assert bool((found.error <= found.nearest_error * (1 + 1e-5)).all())


def test_a_layer_that_sees_nothing_is_rounded_to_nearest() -> None:
    weight, _ = problem(8)
    scheme = Scheme(num_bits=4, strategy="channel")
    found = solve(weight, torch.zeros(24, 24, dtype=torch.float64), scheme)
    assert torch.equal(found.tensor.integers, round_to_nearest(weight, scheme).integers)


def test_bad_input_is_named() -> None:
    weight, inputs = problem(9)
    scheme = Scheme(num_bits=4, strategy="channel")
    hessian = inputs.t() @ inputs
    with pytest.raises(UsageError, match=r"must be \[24, 24\]"):
        solve(weight, hessian[:5, :5], scheme)
    hessian[0, 0] = torch.nan
    with pytest.raises(UsageError, match="calibration inputs are not finite"):
        solve(weight, hessian, scheme)


def test_damping_grows_until_there_is_a_factor() -> None:
    indefinite = torch.eye(6) * 1e-3
    indefinite[0, 1] = indefinite[1, 0] = 1.0
    indefinite[0, 0] = indefinite[1, 1] = 0.5
    damped, factor = factorize(indefinite, 0.01)
    assert torch.allclose(factor @ factor.t(), damped, atol=1e-5)
