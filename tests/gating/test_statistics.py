"""A statistic of counts is the statistic of the repeated examples, as scipy and scikit-learn compute it."""

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from scipy import stats
from sklearn import metrics

from leptonsdk.errors import EvaluationError
from leptonsdk.gating import get_statistic, statistic_from, statistic_names

NAIVE = {
    "mean": np.mean,
    "ratio": lambda a, b: a.sum() / b.sum(),
    "exp_ratio": lambda a, b: np.exp(a.sum() / b.sum()),
    "pearson": lambda a, b: stats.pearsonr(a, b).statistic,
    "spearman": lambda a, b: stats.spearmanr(a, b).statistic,
    "f1_binary": lambda p, t: metrics.f1_score(t, p, zero_division=0),
    "f1_macro": lambda p, t: metrics.f1_score(t, p, average="macro", zero_division=0),
    "matthews": lambda p, t: metrics.matthews_corrcoef(t, p),
    "share": lambda a, b: a.sum() / b.sum() if b.sum() else 0.0,
    "f1_counts": lambda right, p, t: 2 * right.sum() / (p.sum() + t.sum()) if p.sum() + t.sum() else 0.0,
    "bleu": lambda *c: BLEU.compute_bleu([*sums(c[:4])], [*sums(c[4:8])], *sums(c[8:]), smooth_method="exp").score,
    "chrf": lambda *c: CHRF()._compute_f_score(sums(c)),
}
COUNTS = {"share": 2, "f1_counts": 3, "bleu": 10, "chrf": 18}  # statistics of counts, and how many they take


def sums(columns: Sequence[np.ndarray]) -> list[int]:
    return [int(column.sum()) for column in columns]


def draw_columns(name: str, rng: np.random.Generator, size: int) -> list[np.ndarray]:
    if name in COUNTS:  # often 0, so that there are resamples with nothing in them
        return [rng.integers(0, 4, size) * rng.integers(0, 2, size) * rng.integers(0, 2) for _ in range(COUNTS[name])]
    if name in ("f1_macro", "matthews"):
        return [rng.integers(0, 4, size), rng.integers(0, 4, size)]
    if name == "f1_binary":
        return [rng.integers(0, 2, size), rng.integers(0, 2, size)]
    if name == "mean":
        return [rng.normal(size=size)]
    # Rounded, so that there are ties; shifted, so that the sums below ratios are not near 0.
    return [rng.normal(size=size).round(1) + 3, rng.normal(size=size).round(1) + 5]


def draw_counts(rng: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples)


@pytest.mark.parametrize("name", NAIVE)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 40))
def test_resampled_equals_the_naive_value_of_repeated_examples(name: str, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    columns, counts = draw_columns(name, rng, size), draw_counts(rng, 4, size)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = [NAIVE[name](*(np.repeat(column, row) for column in columns)) for row in counts]
    np.testing.assert_allclose(get_statistic(name).resampled(columns, counts), expected, rtol=1e-9, atol=1e-9)


def test_every_name_is_checked_above() -> None:
    assert set(statistic_names()) == set(NAIVE)


@pytest.mark.parametrize("name", NAIVE)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_examples_does_not_matter(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns, order = draw_columns(name, rng, 30), rng.permutation(30)
    statistic = get_statistic(name)
    assert statistic.value([column[order] for column in columns]) == pytest.approx(statistic.value(columns), abs=1e-12)


@pytest.mark.parametrize("name", NAIVE)
def test_value_is_the_resample_that_draws_each_example_once(name: str) -> None:
    columns = draw_columns(name, np.random.default_rng(3), 50)
    statistic = get_statistic(name)
    assert statistic.value(columns) == statistic.resampled(columns, np.ones((1, 50), dtype=np.int64))[0]


@pytest.mark.parametrize("name", ["f1_macro", "matthews"])
def test_labels_may_be_strings(name: str) -> None:
    words = np.array(["cat", "dog", "owl"])
    prediction, label = np.array([0, 1, 2, 1, 0]), np.array([0, 1, 1, 1, 2])
    statistic = get_statistic(name)
    assert statistic.value([words[prediction], words[label]]) == statistic.value([prediction, label])


def test_strings_are_not_compared_with_numbers() -> None:
    with pytest.raises(EvaluationError, match="predictions are int64"):
        get_statistic("f1_macro").value([np.array([0, 1]), np.array(["0", "1"])])


def test_f1_binary_refuses_a_third_label() -> None:
    with pytest.raises(EvaluationError, match="0 and 1 only"):
        get_statistic("f1_binary").value([np.array([0, 2]), np.array([0, 1])])


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_a_correlation_with_a_constant_is_an_error_not_a_number(name: str, constant: float) -> None:
    with pytest.raises(EvaluationError, match="constant"):
        get_statistic(name).value([np.full(7, constant), np.arange(7.0)])


def test_pearson_survives_a_far_origin_and_huge_values() -> None:
    x, y = np.array([1.0, 2.0, 4.0, 3.0]), np.array([2.0, 1.0, 5.0, 4.0])
    expected = stats.pearsonr(x, y).statistic
    assert get_statistic("pearson").value([x + 1e9, y]) == pytest.approx(expected, abs=1e-6)
    assert get_statistic("pearson").value([x * 1e200, y]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["ratio", "exp_ratio"])
def test_a_ratio_over_a_zero_sum_is_an_error(name: str) -> None:
    with pytest.raises(EvaluationError, match="zero"):
        get_statistic(name).value([np.ones(3), np.zeros(3)])


def test_an_infinite_perplexity_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="inf"):
        get_statistic("exp_ratio").value([np.full(3, 1e4), np.ones(3)])


def test_any_callable_becomes_a_statistic_and_sees_repeated_rows() -> None:
    statistic = statistic_from(lambda scores, sizes: float((scores[:, 0] * sizes).sum()), "weighted")
    scores, sizes = np.array([[1.0, 9.0], [10.0, 9.0], [100.0, 9.0]]), np.array([1, 1, 2])
    assert statistic.value([scores, sizes]) == 211.0
    assert statistic.resampled([scores, sizes], np.array([[3, 0, 0], [0, 1, 2]])).tolist() == [3.0, 410.0]
    assert not statistic.vectorised


def test_a_callable_that_fails_is_named() -> None:
    def broken(column: np.ndarray) -> float:
        raise ValueError("no reference")

    with pytest.raises(EvaluationError, match="statistic bleu: failed: no reference"):
        statistic_from(broken, "bleu").value([np.ones(3)])


def test_a_mistyped_name_is_corrected() -> None:
    with pytest.raises(EvaluationError, match="Did you mean 'spearman'"):
        get_statistic("speerman")


def test_the_wrong_number_of_columns_is_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"takes 2 column\(s\), got 1"):
        get_statistic("ratio").value([np.ones(3)])


def test_counts_that_do_not_fit_the_examples_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="do not fit 3 examples"):
        get_statistic("mean").resampled([np.ones(3)], np.ones((2, 4), dtype=np.int64))
