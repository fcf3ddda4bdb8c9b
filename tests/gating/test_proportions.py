"""Score intervals of proportions: published numbers, the limits of their range, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leptonsdk.errors import EvaluationError
from leptonsdk.gating import Interval, paired_proportions, paired_relative_proportions, proportion


def pair(both: int, gains: int, losses: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and candidate with that many examples of each kind."""
    sizes = [both, gains, losses, neither]
    return np.repeat([1, 0, 1, 0], sizes), np.repeat([1, 1, 0, 0], sizes)


# (both, gains, losses, neither), confidence, published low, high
TANGO = {
    "Tango 1998, first example": ((4, 9, 3, 16), 0.95, -0.027, 0.390),
    "Tango 1998, contact lenses (Miyanaga 1994)": ((43, 0, 1, 0), 0.90, -0.096, 0.037),
    "Agresti and Min 2005": ((53, 16, 8, 9), 0.95, -0.020, 0.207),
    "Fagerland, Lydersen and Laake 2014 (Bentur 2009)": ((1, 1, 7, 12), 0.95, -0.517, -0.026),
    "Fagerland, Lydersen and Laake 2017 (Cavo 2012)": ((59, 6, 16, 80), 0.95, -0.1240, -0.0054),
    "R package PropCIs, scoreci.mp(25, 28, 618)": ((300, 28, 25, 265), 0.90, -0.0148, 0.0247),
}
TANG = {
    "Fagerland, Lydersen and Laake 2014 (Bentur 2009)": ((1, 1, 7, 12), 0.95, 0.065, 0.907),
    "Fagerland, Lydersen and Laake 2017 (Cavo 2012)": ((59, 6, 16, 80), 0.95, 0.7476, 0.9876),
    "Tang, Tang and Chan 2003, contact lenses": ((43, 0, 1, 0), 0.90, 0.904, 1.039),
    "Tang, Tang and Chan 2003, second example": ((446, 5, 16, 690), 0.90, 0.958, 0.992),
}


def digits(number: float) -> float:
    return 0.5001 * 10 ** -len(f"{number}".split(".")[1].ljust(3, "0"))


@pytest.mark.parametrize(("cells", "confidence", "low", "high"), TANGO.values(), ids=TANGO)
def test_tango_as_published(cells: tuple[int, int, int, int], confidence: float, low: float, high: float) -> None:
    interval = paired_proportions(*pair(*cells), confidence)
    assert interval.low == pytest.approx(low, abs=digits(low))
    assert interval.high == pytest.approx(high, abs=digits(high))


@pytest.mark.parametrize(("cells", "confidence", "low", "high"), TANG.values(), ids=TANG)
def test_tang_as_published(cells: tuple[int, int, int, int], confidence: float, low: float, high: float) -> None:
    interval = paired_relative_proportions(*pair(*cells), confidence)
    assert 1 + interval.low == pytest.approx(low, abs=digits(low))
    assert 1 + interval.high == pytest.approx(high, abs=digits(high))


@pytest.mark.parametrize("size", [2, 10, 50, 1000])
def test_models_that_never_disagree_still_leave_doubt(size: int) -> None:
    # Without discordant pairs Tango's equation solves to z^2 / (n + z^2), on both sides.
    z2 = stats.norm.ppf(0.975) ** 2
    interval = paired_proportions(*pair(size - 1, 0, 0, 1), 0.95)
    assert interval.high == pytest.approx(z2 / (size + z2), rel=1e-12)
    assert interval.low == -interval.high


def test_models_that_never_disagree_leave_doubt_about_the_relative_change_too() -> None:
    z2, right = stats.norm.ppf(0.975) ** 2, 40
    interval = paired_relative_proportions(*pair(right, 0, 0, 10), 0.95)
    assert 1 + interval.low == pytest.approx(right / (right + z2), rel=1e-12)
    assert 1 + interval.high == pytest.approx((right + z2) / right, rel=1e-12)


def test_a_model_that_loses_everything() -> None:
    interval = paired_proportions(*pair(0, 0, 20, 0), 0.95)
    assert interval.low == -1.0
    # The models disagree everywhere, so the change is 2 P(gain) - 1 and the score interval of P(gain) is Wilson's.
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson").low
    assert interval.high == pytest.approx(1 - 2 * wilson, rel=1e-9)
    assert paired_relative_proportions(*pair(0, 0, 20, 0), 0.95).low == -1.0


cells = st.tuples(*[st.integers(0, 30)] * 4).filter(lambda table: sum(table) >= 2)
confidences = st.floats(0.5, 0.999)


@settings(deadline=None)
@given(cells, confidences)
def test_tango_holds_the_estimate_stays_in_range_and_turns_with_the_models(
    table: tuple[int, int, int, int], confidence: float
) -> None:
    baseline, candidate = pair(*table)
    interval = paired_proportions(baseline, candidate, confidence)
    assert (table[1] - table[2]) / sum(table) in interval
    assert -1 <= interval.low <= interval.high <= 1
    turned = paired_proportions(candidate, baseline, confidence)
    assert (turned.low, turned.high) == (-interval.high, -interval.low)
    # Losing everything is the one certain change in range: -1 cannot be undercut.
    assert interval.low < interval.high


@settings(deadline=None)
@given(cells, confidences, st.integers(0, 2**32 - 1))
def test_tango_does_not_depend_on_the_order_of_examples(
    table: tuple[int, int, int, int], confidence: float, seed: int
) -> None:
    baseline, candidate = pair(*table)
    order = np.random.default_rng(seed).permutation(len(baseline))
    shuffled = paired_proportions(baseline[order], candidate[order], confidence)
    assert shuffled == paired_proportions(baseline, candidate, confidence)


@settings(deadline=None)
@given(cells, st.floats(0.5, 0.99))
def test_more_confidence_takes_a_wider_interval(table: tuple[int, int, int, int], confidence: float) -> None:
    narrow = paired_proportions(*pair(*table), confidence)
    wide = paired_proportions(*pair(*table), (1 + confidence) / 2)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@settings(deadline=None)
@given(cells.filter(lambda table: table[0] + table[2] > 0), confidences)
def test_tang_holds_the_estimate_and_turns_with_the_models(table: tuple[int, int, int, int], confidence: float) -> None:
    baseline, candidate = pair(*table)
    interval = paired_relative_proportions(baseline, candidate, confidence)
    assert (table[0] + table[1]) / (table[0] + table[2]) - 1 in interval
    if interval.low > -0.999 and candidate.any():
        turned = paired_relative_proportions(candidate, baseline, confidence)
        assert 1 + turned.high == pytest.approx(1 / (1 + interval.low), rel=1e-6)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(2, 50), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(hits: int, size: int, confidence: float) -> None:
    hits = min(hits, size)
    expected = stats.binomtest(hits, size).proportion_ci(confidence, method="wilson")
    interval = proportion(np.repeat([1, 0], [hits, size - hits]), confidence)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def coverage(size: int, probabilities: tuple[float, float, float, float], confidence: float) -> float:
    """Exact coverage of Tango's interval, over all tables of (gains, losses) that have a probability to speak of."""
    _, gain, loss, _ = probabilities
    truth, total = gain - loss, 0.0
    for gains in range(size + 1):
        for losses in range(size + 1 - gains):
            probability = stats.multinomial.pmf(
                [gains, losses, size - gains - losses], size, [gain, loss, 1 - gain - loss]
            )
            if probability > 1e-7:
                interval = paired_proportions(*pair(0, gains, losses, size - gains - losses), confidence)
                total += probability * (truth in interval)
    return total


@pytest.mark.parametrize(
    ("size", "probabilities"),
    [
        (20, (0.6, 0.1, 0.2, 0.1)),
        (100, (0.85, 0.01, 0.03, 0.11)),
        (150, (0.6, 0.1, 0.1, 0.2)),
    ],
)
def test_tango_covers_the_truth_as_often_as_it_says(
    size: int, probabilities: tuple[float, float, float, float]
) -> None:
    assert 0.93 <= coverage(size, probabilities, 0.95) <= 0.97


@pytest.mark.parametrize(
    ("size", "probabilities"),
    [(40, (0.8, 0.02, 0.05, 0.13)), (60, (0.9, 0.0, 0.02, 0.08)), (10, (0.9, 0.0, 0.01, 0.09))],
)
def test_tango_is_careful_when_the_models_rarely_disagree(
    size: int, probabilities: tuple[float, float, float, float]
) -> None:
    assert coverage(size, probabilities, 0.95) >= 0.95


def test_relative_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    probabilities = np.array([0.80, 0.03, 0.06, 0.11])
    truth = (0.80 + 0.03) / (0.80 + 0.06) - 1
    tables = rng.multinomial(80, probabilities, size=1500)
    covered = np.mean([truth in paired_relative_proportions(*pair(*table), 0.95) for table in tables])
    assert 0.935 <= covered <= 0.975


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([0, 1, 2], [0, 1, 1], "made of 0 and 1, found 2"),
        ([0, 1, 0.5], [0, 1, 1], "made of 0 and 1, found 0.5"),
        ([0, 1, math.nan], [0, 1, 1], "1 of 3 examples have no finite value"),
        ([0, 1, math.inf], [0, 1, 1], "1 of 3 examples have no finite value"),
        ([0, 1], [0, 1, 1], "different lengths: 2, 3"),
        ([1], [1], "fewer than 2"),
        ([], [], "fewer than 2"),
        (["a", "b"], [0, 1], "one number per example"),
    ],
)
def test_what_is_no_pair_of_proportions_is_refused(baseline: list, candidate: list, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        paired_proportions(np.array(baseline), np.array(candidate), 0.95)


def test_a_relative_change_from_nothing_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no change is relative to it"):
        paired_relative_proportions(*pair(0, 5, 0, 5), 0.95)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.1, math.nan])
def test_a_confidence_is_between_zero_and_one(confidence: float) -> None:
    with pytest.raises(EvaluationError, match="not between 0 and 1"):
        paired_proportions(*pair(3, 1, 1, 3), confidence)


def test_nearly_certain_intervals_still_end() -> None:
    interval = paired_relative_proportions(*pair(3, 1, 1, 3), 1 - 1e-15)
    assert isinstance(interval, Interval)
    assert math.isfinite(interval.high)


def test_booleans_count_as_zero_and_one() -> None:
    baseline, candidate = pair(5, 1, 2, 3)
    assert paired_proportions(baseline == 1, candidate == 1, 0.9) == paired_proportions(baseline, candidate, 0.9)
