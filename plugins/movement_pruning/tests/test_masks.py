"""Masks and thresholds on small weights, against what the papers say."""

from __future__ import annotations

import pytest
import torch
from leptonsdk_movement_pruning.masks import Mask, threshold_for
from leptonsdk_movement_pruning.schedule import cubic


def test_the_gradient_of_a_score_is_that_of_its_weights() -> None:
    """dL/dS = dL/dW' * W (arXiv 2005.07683, equation 4), summed over a block (arXiv 2109.04838), masked or not."""
    torch.manual_seed(0)
    weight, factor = torch.randn(4, 6), torch.randn(4, 6)
    mask = Mask((4, 6), (2, 3), learnt=True, transposed=False)
    with torch.no_grad():
        mask.scores.copy_(torch.tensor([[1.0, -1.0], [2.0, -2.0]]))
        mask.cut(mask.current(weight), torch.tensor(0.0))
    pruned = mask(weight)
    assert torch.equal(pruned[:, :3], weight[:, :3])
    assert not pruned[:, 3:].any()
    (pruned * factor).sum().backward()
    expected = (weight * factor).reshape(2, 2, 2, 3).sum((1, 3))
    assert torch.allclose(mask.scores.grad, expected)


def test_a_transposed_weight_is_masked_by_its_own_columns() -> None:
    weight = torch.randn(3, 8)
    mask = Mask((8, 3), (8, 1), learnt=True, transposed=True)
    with torch.no_grad():
        mask.scores.copy_(torch.tensor([[1.0, -1.0, 1.0]]))
        mask.cut(mask.current(weight), torch.tensor(0.0))
    assert mask(weight)[1].abs().sum() == 0
    assert torch.equal(mask(weight)[0], weight[0])


def test_magnitude_scores_are_the_mean_size_of_a_cell() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.1, 0.2], [2.0, 2.0, -0.1, 0.0]])
    mask = Mask((2, 4), (2, 2), learnt=False, transposed=False)
    assert torch.allclose(mask.current(weight), torch.tensor([[2.0, 0.1]]))
    mask.cut(mask.current(weight), torch.tensor(1.0))
    assert mask.sparsity == 0.5
    assert torch.equal(mask(weight)[:, 2:], torch.zeros(2, 2))
    assert not list(mask.parameters())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_threshold_masks_its_share(share: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(1000)
    assert int((scores < threshold_for(scores, share)).sum()) == round(1000 * share)
    many = torch.randn(500_000)
    assert float((many < threshold_for(many, share, exact=False)).float().mean()) == pytest.approx(share, abs=0.01)


def test_equal_scores_are_not_all_masked() -> None:
    scores = torch.zeros(10)
    assert int((scores >= threshold_for(scores, 0.9)).sum()) == 10


def test_the_schedule_is_cubic_between_warmup_and_cooldown() -> None:
    assert cubic(0.05, 0.9, 0.1, 0.3) == 0
    assert cubic(0.1, 0.9, 0.1, 0.3) == 0
    assert cubic(0.4, 0.9, 0.1, 0.3) == pytest.approx(0.9 * (1 - 0.5**3))
    assert cubic(0.7, 0.9, 0.1, 0.3) == pytest.approx(0.9)
    assert cubic(1.0, 0.9, 0.1, 0.3) == pytest.approx(0.9)
