"""Fake quantizers: what they compute is what their integers say, and their gradients are those of the papers."""

from __future__ import annotations

import pytest
import torch
from leptonsdk_qat.quantizers import InputQuantizer, WeightQuantizer

from leptonsdk.errors import UsageError
from leptonsdk.quantization import Scheme, round_to_nearest

SCHEMES = [
    Scheme.resolve(bit_width=8),
    Scheme.resolve(bit_width=3, group_size=8),
    Scheme.resolve(bit_width=4, group_size=8, symmetric=False),
    Scheme(num_bits=8, strategy="tensor", group_size=None, symmetric=True),
]


def weight(rows: int = 6, columns: int = 16) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_the_weight_in_training_is_what_the_integers_stand_for(scheme: Scheme, learned: bool, transposed: bool) -> None:
    stored = weight().t().contiguous() if transposed else weight()
    quantizer = WeightQuantizer(stored, scheme, learned=learned, transposed=transposed)
    assert quantizer(stored) is stored  # until it is told to act
    quantizer.active = True
    dense = quantizer.quantize(stored).dequantize()
    assert torch.allclose(quantizer(stored), dense.t() if transposed else dense, atol=1e-6)
    assert quantizer.quantize(stored).scheme == scheme
    assert not torch.equal(quantizer(stored), stored)


def test_learned_scales_have_the_gradient_of_the_paper() -> None:
    scheme = Scheme.resolve(bit_width=3, group_size=-1)
    quantizer = WeightQuantizer(weight(1, 64), scheme, learned=True, transposed=False)
    quantizer.active = True
    w = weight(1, 64).requires_grad_()
    quantizer(w).sum().backward()
    steps = w.detach() / quantizer.log_scale.detach().exp()
    inside = (steps > scheme.minimum) & (steps < scheme.maximum)
    by_scale = torch.where(inside, steps.round() - steps, steps.clamp(scheme.minimum, scheme.maximum)).sum()
    # By the scale's logarithm, and damped by 1 / sqrt(N Q).
    expected = by_scale * quantizer.log_scale.detach().exp() / (64 * scheme.maximum) ** 0.5
    assert torch.allclose(quantizer.log_scale.grad, expected, rtol=1e-4)
    assert torch.equal(w.grad, inside.float())


def test_it_goes_on_from_integers_with_negative_scales() -> None:
    before = round_to_nearest(weight(), Scheme.resolve(bit_width=4, group_size=8))
    assert bool((before.scale < 0).any())
    dense = before.dequantize()
    quantizer = WeightQuantizer(dense, before.scheme, learned=True, transposed=False, start=before)
    after = quantizer.quantize(dense)
    assert torch.equal(after.integers, before.integers)
    assert torch.allclose(after.scale, before.scale)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_scales_go_along_with_what_is_removed(axis: int, scheme: Scheme) -> None:
    quantizer = WeightQuantizer(weight(), scheme, learned=True, transposed=False)
    keep = torch.tensor([0, 2, 5]) if axis == 0 else torch.arange(8, 16)
    before = quantizer.quantize(weight()).dequantize().index_select(axis, keep)
    quantizer.select(axis, keep)
    after = quantizer.quantize(weight().index_select(axis, keep)).dequantize()
    assert torch.allclose(before, after)
    if scheme.group_size and axis == 1:
        with pytest.raises(UsageError, match=r"do not divide the 3 inputs.*round_to"):
            quantizer.select(1, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("learned", [True, False])
def test_inputs_are_rounded_as_their_scale_says(learned: bool) -> None:
    quantizer = InputQuantizer(learned=learned, device=torch.device("cpu")).train()
    x = torch.linspace(-1, 3, 101)
    quantizer.active = True
    assert quantizer(x) is x  # nothing was seen yet
    assert quantizer.input_scale() is None
    quantizer.step()
    scale = quantizer.input_scale()
    assert scale is not None
    assert scale.range == pytest.approx((-1, 3), abs=0.02)
    integers = ((x / scale.scale).round() + scale.zero_point).clamp(-128, 127)
    assert torch.allclose(quantizer(x), (integers - scale.zero_point) * scale.scale, atol=1e-6)
    assert float(quantizer(torch.zeros(1)).detach()) == 0


def test_the_ends_of_a_range_learn_from_what_is_clipped() -> None:
    quantizer = InputQuantizer(learned=True, device=torch.device("cpu")).train()
    quantizer(torch.tensor([-1.0, 3.0]))
    quantizer.step()
    quantizer.active, quantizer.observing = True, False
    quantizer(torch.tensor([-2.0, 10.0])).sum().backward()
    damped = (2 * 127) ** -0.5
    assert float(quantizer.log_high.grad) == pytest.approx(3 * damped, rel=0.02)
    assert float(quantizer.log_low.grad) == pytest.approx(-1 * damped, rel=0.05)


def test_observed_ranges_are_a_moving_average_over_steps() -> None:
    quantizer = InputQuantizer(learned=False, device=torch.device("cpu")).train()
    for values in ([-1.0, 1.0], [0.0, 2.0]):  # two batches of one step
        quantizer(torch.tensor(values))
    quantizer.step()
    assert (float(quantizer.low), float(quantizer.high)) == (-1, 2)
    quantizer.step()  # nothing came
    quantizer.eval()(torch.tensor([50.0]))
    quantizer.train()(torch.tensor([4.0]))
    quantizer.step()
    assert float(quantizer.high) == pytest.approx(2 + 0.05 * 2)
