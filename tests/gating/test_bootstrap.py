"""Bootstrap intervals: coverage, symmetry, degenerate data, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leptonsdk.errors import EvaluationError
from leptonsdk.gating import (
    Interval,
    bootstrap,
    exact,
    get_statistic,
    median_of_turns,
    paired_bootstrap,
    ratio_of_medians,
    statistic_from,
)

MEAN = get_statistic("mean")


def interval_of(baseline: np.ndarray, candidate: np.ndarray, **options: object) -> Interval:
    settings_ = {"relative": False, "confidence": 0.95, "resamples": 500, "seed": 0} | options
    return paired_bootstrap([np.asarray(baseline)], [np.asarray(candidate)], MEAN, **settings_)  # type: ignore[arg-type]


def pairs(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    baseline = rng.normal(5, 1, size)
    return baseline, baseline - 0.1 + rng.exponential(0.3, size)


def test_bca_equals_scipy() -> None:
    baseline, candidate = pairs(0)
    expected = stats.bootstrap(
        (baseline, candidate),
        lambda b, c, axis: c.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    interval = interval_of(baseline, candidate, resamples=20_000)
    assert interval.method == "bca"
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_pairing_makes_the_interval_narrow() -> None:
    baseline, candidate = pairs(1, 200)
    paired, unpaired = interval_of(baseline, candidate), interval_of(baseline, np.roll(candidate, 1))
    assert (paired.high - paired.low) < (unpaired.high - unpaired.low) / 2


@pytest.mark.parametrize("relative", [False, True])
def test_bootstrap_covers_the_truth_as_often_as_it_says(relative: bool) -> None:
    truth = 0.2 / 5 if relative else 0.2
    held = [truth in interval_of(*pairs(seed, 60), relative=relative, resamples=1000, seed=seed) for seed in range(500)]
    assert 0.91 <= np.mean(held) <= 0.98


def test_perplexity_interval_covers_the_truth() -> None:
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(20, 200, 80)
        rate = rng.gamma(20, 0.1, 80)
        before, after = tokens * rate, tokens * (rate + rng.normal(0.05, 0.1, 80))
        interval = paired_bootstrap(
            [before, tokens],
            [after, tokens],
            get_statistic("exp_ratio"),
            relative=True,
            confidence=0.9,
            resamples=500,
            seed=seed,
        )
        held += math.expm1(0.05) in interval
    assert 0.85 <= held / 300 <= 0.95


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_the_interval_holds_the_estimate_and_turns_with_the_models(
    scores: list[tuple[float, float]], seed: int, confidence: float
) -> None:
    baseline, candidate = np.array(scores).T
    options = {"seed": seed, "confidence": confidence, "resamples": 100}
    interval = interval_of(baseline, candidate, **options)
    estimate = MEAN.value([candidate]) - MEAN.value([baseline])
    assert estimate in interval
    turned = interval_of(candidate, baseline, **options)
    slack = 1e-9 * (1 + np.abs(scores).max())
    assert (turned.low, turned.high) == pytest.approx((-interval.high, -interval.low), abs=slack)


@pytest.mark.parametrize("name", ["mean", "ratio", "pearson", "spearman", "f1_binary", "f1_macro", "matthews"])
def test_every_statistic_has_an_interval_that_holds_its_change(name: str) -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 120)
    before, after = (np.where(rng.random(120) < share, label, 1 - label) for share in (0.9, 0.8))
    baseline, candidate = ([before], [after]) if name == "mean" else ([before, label], [after, label])
    statistic = get_statistic(name)
    interval = paired_bootstrap(baseline, candidate, statistic, relative=False, confidence=0.95, resamples=400, seed=0)
    assert interval.method == "bca"
    assert statistic.value(candidate) - statistic.value(baseline) in interval
    assert 0 < interval.high - interval.low < 0.5


@pytest.mark.parametrize("relative", [False, True])
def test_identical_columns_have_not_changed(relative: bool) -> None:
    scores = pairs(2)[0]
    assert interval_of(scores, scores.copy(), relative=relative) == Interval(0.0, 0.0, 0.95, "identical")


def test_the_same_change_everywhere_falls_back_to_percentiles() -> None:
    scores = np.arange(20.0)
    interval = interval_of(scores, scores - 0.25)
    assert interval.method == "percentile"
    assert (interval.low, interval.high) == pytest.approx((-0.25, -0.25), abs=1e-12)


def test_a_callable_has_percentiles_that_agree_with_the_vectorised_ones() -> None:
    baseline, candidate = pairs(3, 80)
    options = {"relative": False, "confidence": 0.95, "resamples": 1000, "seed": 4}
    called = paired_bootstrap([baseline], [candidate], statistic_from(np.mean, "mine"), **options)
    known = interval_of(baseline, candidate, **options)
    assert called.method == "percentile"
    assert (called.low, called.high) == pytest.approx((known.low, known.high), abs=0.02)


def test_the_seed_decides_and_the_global_state_is_left_alone() -> None:
    baseline, candidate = pairs(4)
    np.random.seed(123)
    before = np.random.get_state()[1].copy()
    first, again, other = (interval_of(baseline, candidate, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert (np.random.get_state()[1] == before).all()


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, candidate = pairs(5)
    whole = interval_of(baseline, candidate)
    monkeypatch.setitem(paired_bootstrap.__globals__, "_CHUNK", 7 * len(baseline))
    assert interval_of(baseline, candidate) == whole


def test_leaving_out_groups_gives_nearly_the_interval_of_leaving_out_one(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, candidate = pairs(6, 400)
    single = interval_of(baseline, candidate, resamples=2000)
    monkeypatch.setitem(paired_bootstrap.__globals__, "_JACKKNIFE_GROUPS", 150)
    grouped = interval_of(baseline, candidate, resamples=2000)
    assert grouped.method == "bca"
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high), abs=0.003)


def test_many_examples_fit_in_little_memory() -> None:
    baseline, candidate = pairs(7, 100_000)
    interval = interval_of(baseline, candidate, resamples=60)
    assert 0.19 < interval.low < interval.high < 0.21


def test_a_lower_ratio_of_sums_is_seen_through_a_zero_baseline_in_resamples() -> None:
    hits, tries = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])
    with pytest.raises(EvaluationError, match="undefined in"):
        paired_bootstrap(
            [hits, tries],
            [hits / 2, tries],
            get_statistic("ratio"),
            relative=False,
            confidence=0.9,
            resamples=200,
            seed=0,
        )


def test_one_model_alone() -> None:
    distances = np.random.default_rng(8).exponential(0.2, 300)
    interval = bootstrap([distances], MEAN, confidence=0.95, resamples=2000, seed=0)
    assert interval.method == "bca"
    assert distances.mean() in interval
    reach = 1.96 * distances.std() / math.sqrt(300)
    assert interval.high - interval.low == pytest.approx(2 * reach, rel=0.1)


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        (
            [1.0, math.nan],
            [1.0, 2.0],
            "baseline column 0: 1 of 2 examples have no finite value, the first is example 1",
        ),
        ([1.0, 2.0], [math.inf, 2.0], "candidate column 0: 1 of 2 examples"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "different lengths: 2, 3"),
        ([1.0], [2.0], "fewer than 2"),
        ([], [], "fewer than 2"),
        (["a", "b"], ["a", "c"], "one number per example"),
        ([1.0, None], [1.0, 2.0], "1 of 2 examples have no finite value"),
    ],
)
def test_what_cannot_be_compared_is_refused(baseline: list, candidate: list, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        interval_of(np.array(baseline), np.array(candidate))


def test_a_change_relative_to_zero_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no change is relative to it"):
        interval_of(np.array([-1.0, 1.0]), np.array([1.0, 2.0]), relative=True)


def test_a_relative_change_of_a_negative_baseline_keeps_its_sign() -> None:
    interval = interval_of(np.array([-1.0, -3.0, -2.0]), np.array([-2.0, -4.0, -3.5]), relative=True)
    assert interval.high < 0


def test_too_few_resamples_for_the_confidence_are_refused() -> None:
    with pytest.raises(EvaluationError, match="take 200 or more"):
        interval_of(*pairs(0), resamples=199, confidence=0.99)


def turns(seed: int, count: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    load = rng.gamma(30, 1 / 30, count)
    return 0.040 * load * rng.gamma(400, 1 / 400, count), 0.010 * load * rng.gamma(400, 1 / 400, count)


def test_speedup_interval_covers_the_truth() -> None:
    held = np.mean([4.0 in ratio_of_medians(*turns(seed), 0.95, 500, seed=seed) for seed in range(300)])
    assert held >= 0.92


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_speedup_interval_holds_the_estimate_and_knows_no_unit(seed: int, count: int) -> None:
    baseline, candidate = turns(seed, count)
    interval = ratio_of_medians(baseline, candidate, 0.9, 100, seed=seed)
    assert np.median(baseline) / np.median(candidate) in interval
    scaled = ratio_of_medians(1000 * baseline, 1000 * candidate, 0.9, 100, seed=seed)
    assert (scaled.low, scaled.high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_a_model_is_as_fast_as_itself() -> None:
    times = turns(0)[0]
    interval = ratio_of_medians(times, times, 0.95, 100, seed=0)
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_median_of_turns_lies_among_the_turns() -> None:
    times = turns(1)[0]
    interval = median_of_turns(times, 0.95, 1000, seed=0)
    assert times.min() <= interval.low <= np.median(times) <= interval.high <= times.max()


@pytest.mark.parametrize("wrong", [[0.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [1.0], [1.0, 2.0, 3.0]])
def test_what_is_no_measured_time_is_refused(wrong: list[float]) -> None:
    with pytest.raises(EvaluationError):
        ratio_of_medians(np.array(wrong), np.array([1.0, 2.0]), 0.95, seed=0)


def test_what_is_counted_has_no_spread() -> None:
    assert exact(4096) == Interval(4096.0, 4096.0, 1.0, "exact")
    assert exact(4096).negated() == Interval(-4096.0, -4096.0, 1.0, "exact")


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_an_interval_has_two_finite_ends_in_order(low: float, high: float) -> None:
    with pytest.raises(EvaluationError, match="is no interval"):
        Interval(low, high, 0.95, "exact")


def test_no_change_has_no_sign() -> None:
    assert str(Interval(0.0, 0.0, 0.95, "identical").negated().low) == "0.0"
