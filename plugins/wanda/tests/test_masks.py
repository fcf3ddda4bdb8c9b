"""Which weights go: against the paper's few lines in a loop, and what holds for any weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leptonsdk_wanda.masks import input_norms, keep, scores
from torch import Tensor


def problem(seed: int, rows: int = 6, columns: int = 16) -> tuple[Tensor, Tensor]:
    """A weight, and inputs of uneven size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight, torch.randn(40, columns, generator=generator) * torch.rand(columns, generator=generator) * 4


def naive(weight: Tensor, x: Tensor, size: int, removed: int) -> Tensor:
    """Algorithm 1 of arXiv 2306.11695, one weight at a time."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            found = [
                (abs(float(weight[row, j])) * float(x[:, j].double().square().sum().sqrt()), j)
                for j in range(start, start + size)
            ]
            for _, j in sorted(found)[:removed]:
                mask[row, j] = False
    return mask


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(16, 8), (16, 3), (4, 2), (8, 4), (4, 3)]))
def test_it_is_the_papers_algorithm(seed: int, group: tuple[int, int]) -> None:
    weight, x = problem(seed)
    mask = keep(scores(weight, input_norms(x.split(7))), *group)
    assert torch.equal(mask, naive(weight, x, *group))
    assert bool(((~mask).reshape(len(weight), -1, group[0]).sum(2) == group[1]).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.9))
def test_what_is_zero_goes_first(seed: int, share: float) -> None:
    weight, x = problem(seed)
    x[:, :4] = 0  # inputs of nought: their weights score nought without being it
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < share] = 0
    mask = keep(scores(weight, input_norms([x])), 16, 8)
    zeros = (weight == 0).sum(1)
    lost = (~mask & (weight != 0)).sum(1)
    assert torch.equal(lost, (8 - zeros).clamp(min=0))


def test_its_outputs_are_closer_than_magnitudes() -> None:
    """On rows of any seed, by the layer's output error, as the paper has it."""
    better = 0
    for seed in range(50):
        weight, x = problem(seed, rows=32, columns=64)
        errors = [
            float((x @ (weight * ~keep(found, 64, 32)).t()).square().sum())
            for found in (scores(weight, input_norms([x])), weight.abs())
        ]
        better += errors[0] < errors[1]
    assert better == 50


def test_rows_are_compared_by_themselves() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [100.0, 200.0, 300.0, 400.0]])
    mask = keep(scores(weight, torch.ones(4)), 4, 2)
    assert mask.tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    norms = input_norms([torch.full((1000, 2), 300.0, dtype=dtype)] * 2)
    torch.testing.assert_close(norms, torch.full((2,), 300.0 * 2000**0.5))
