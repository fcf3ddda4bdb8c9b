"""The terms as functions of tensors, against computations by hand and against their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leptonsdk_distillation.layers import layer_pairs, pooled
from leptonsdk_distillation.terms import (
    TopK,
    attention_divergence,
    binary_divergence,
    cosine_distance,
    divergence,
    squared_error,
    top_k,
)

from leptonsdk.errors import UsageError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_the_one_computed_by_hand() -> None:
    """Teacher probabilities 0.8 and 0.2, student's 0.5 and 0.5, at temperature 2: logits twice the log-odds."""
    teacher = torch.tensor([[2 * math.log(4.0), 0.0]])
    by_hand = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert float(divergence(torch.zeros(1, 2), teacher, 2.0)) == pytest.approx(4 * by_hand)
    both = torch.cat([teacher, torch.zeros(1, 2)])  # a second item with nothing to learn halves the mean
    assert float(divergence(torch.zeros(2, 2), both, 2.0)) == pytest.approx(2 * by_hand)


def test_yes_or_no_classes_diverge_each_on_its_own() -> None:
    teacher = torch.tensor([[math.log(4.0), 0.0]])  # sigmoids 0.8 and 0.5
    by_hand = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert float(binary_divergence(torch.zeros(1, 2), teacher)) == pytest.approx(by_hand / 2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 15), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_buckets_give_a_lower_bound_that_grows_to_the_whole(seed: int, k: int, temperature: float) -> None:
    student, teacher = random(5, 16, seed=seed), random(5, 16, seed=seed + 1)
    whole = divergence(student, teacher, temperature)
    kept = divergence(student, top_k(teacher, k, temperature), temperature)
    assert -1e-5 <= float(kept) <= float(whole) + 1e-5
    if k == 15:  # the rest is one class
        torch.testing.assert_close(kept, whole)


def test_the_largest_classes_hold_most_of_a_peaked_distribution() -> None:
    student, teacher = 4 * random(50, 1000), 4 * random(50, 1000, seed=1)
    whole, kept = divergence(student, teacher), divergence(student, top_k(teacher, 64, 1.0))
    assert 0.9 < float(kept / whole) <= 1
    part: TopK = top_k(teacher, 64, 1.0)[torch.arange(50) < 20]
    assert part.log_probs.shape == (20, 65)
    torch.testing.assert_close(part.log_probs.exp().sum(-1), torch.ones(20))


def test_gradients_of_the_buckets_are_finite_and_pull_towards_the_teacher() -> None:
    teacher = random(3, 8) * 5
    student = torch.zeros(3, 8, requires_grad=True)
    divergence(student, top_k(teacher, 3, 1.0)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad.gather(1, teacher.argmax(1, keepdim=True)) < 0).all()


def test_other_terms_by_hand() -> None:
    assert float(squared_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))) == 5
    ours, theirs = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert float(cosine_distance(ours, theirs)) == pytest.approx(0.5)
    even, sharp = torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[[0.8, 0.2]]]])
    by_hand = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    queries = torch.ones(1, 1, dtype=torch.bool)
    assert float(attention_divergence(even, sharp, queries)) == pytest.approx(by_hand), (
        "two heads meet one by their mean"
    )
    assert float(attention_divergence(even, sharp, ~queries)) == 0


def test_a_batch_in_which_nothing_counts_costs_nothing() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    for term in (divergence, binary_divergence, squared_error, cosine_distance):
        assert float(term(nothing, torch.zeros(0, 4)).detach()) == 0


def test_layer_maps() -> None:
    assert layer_pairs("uniform", 3, 12) == [(0, 0), (1, 4), (2, 8), (3, 12)]
    assert layer_pairs("last", 3, 12) == [(0, 0), (1, 10), (2, 11), (3, 12)]
    assert layer_pairs(((1, 2), (3, 12)), 3, 12) == [(1, 2), (3, 12)]
    with pytest.raises(UsageError, match="pairs 4 with 1, the student has layers 0 to 3"):
        layer_pairs(((4, 1),), 3, 12)


def test_pooling_leaves_padding_out() -> None:
    state = torch.arange(12.0).reshape(2, 3, 2)
    attended = torch.tensor([[True, True, False], [True, True, True]])
    assert pooled(state, attended, "mean").tolist() == [[1, 2], [8, 9]]
    assert pooled(state, attended, "cls").tolist() == [[0, 1], [6, 7]]
    assert pooled(state, attended, "last").tolist() == [[2, 3], [10, 11]]
    assert pooled(state, attended, "tokens").shape == (5, 2)
