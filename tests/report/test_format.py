"""Numbers as people read them: sensible digits, and never on the wrong side of a limit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonsdk.report import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [(90_868_376, "90.9 MB"), (1_234, "1.23 kB"), (999, "999 B"), (2_500_000_000, "2.5 GB"), (None, "-"), (0, "0 B")],
)
def test_size_is_decimal(value: int | None, text: str) -> None:
    assert fmt.size(value).replace("2.50", "2.5") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.4217, "3.42 ms"), (148.26, "148 ms"), (0.0123, "0.012 ms"), (12_345.0, "12.3 s"), (math.nan, "-")],
)
def test_duration(value: float, text: str) -> None:
    assert fmt.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "0.4 s"), (59.6, "60 s"), (200.0, "3 min 20 s"), (7_300.0, "2 h 1 min"), (None, "-")]
)
def test_seconds(value: float | None, text: str) -> None:
    assert fmt.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.931234, "0.9312"), (23.4512, "23.451"), (0.0031234, "0.00312"), (0.0, "0"), (1.5e-8, "1.50e-08"), (None, "-")],
)
def test_metric_keeps_significant_digits(value: float | None, text: str) -> None:
    assert fmt.metric(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (90.0, 23.0, "3.9x smaller"),
        (23.0, 90.0, "3.9x larger"),
        (90.0, 90.0, "as before"),
        (90.0, 89.9, "about as before"),
        (90.0, None, None),
        (0.0, 3.0, None),
    ],
)
def test_compared_names_the_direction(before: float, after: float | None, text: str | None) -> None:
    assert fmt.compared(before, after, "smaller", "larger") == text


def test_a_small_change_is_not_shown_as_zero() -> None:
    assert fmt.change(-0.000012, 0.9312) == "-0.00001"
    assert fmt.change(-0.0019, 0.9312) == "-0.0019"
    assert fmt.change(2.2e-16, 0.9312) == "0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mrr@10", "MRR@10"),
        ("log_loss", "log loss"),
        ("kl", "KL"),
        ("accuracy", "accuracy"),
        ("evaluate:metrics/wer/", "WER (evaluate)"),
    ],
)
def test_metric_names(name: str, text: str) -> None:
    assert fmt.metric_name(name) == text


def test_measured_shows_as_many_decimals_as_the_interval_needs() -> None:
    shown = fmt.measured(-0.00191, -0.00577, 0.00121, -0.02, sign=True)
    assert shown == ("-0.0019", "[-0.0058, +0.0012]", "-0.02")
    assert fmt.measured(2.8934, 2.8391, 2.9541, 2.0, fmt.TIMES) == ("2.89x", "[2.84, 2.95]", "2x")
    assert fmt.measured(-0.0021, -0.006, 0.0012, -0.02, fmt.PERCENT, sign=True)[0] == "-0.21%"
    assert fmt.measured(3.954, 3.954, 3.954, 3.5, fmt.TIMES) == ("4.0x", "", "3.5x")


def test_measured_never_rounds_onto_the_limit() -> None:
    assert fmt.measured(3.9997, 3.9997, 3.9997, 4.0, fmt.TIMES)[0] == "3.9997x"
    assert fmt.measured(0.01, 0.005, 0.020004, 0.02)[1] == "[0.005000, 0.020004]"


@given(
    st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=3, max_size=3).map(sorted),
    st.integers(-5000, 5000).map(lambda n: n / 1000),
    st.sampled_from([fmt.PLAIN, fmt.TIMES, fmt.PERCENT]),
)
def test_what_is_shown_stands_where_the_numbers_stand(numbers: list[float], limit: float, scale: fmt.Scale) -> None:
    low, value, high = numbers
    shown_value, interval, shown_limit = fmt.measured(value, low, high, limit, scale)
    bound = float(shown_limit.removesuffix(scale.suffix))
    shown = [float(shown_value.removesuffix(scale.suffix))]
    shown += [float(end) for end in interval.strip("[]").split(", ")] if interval else []
    for true, read in zip([value, low, high], shown, strict=False):
        if abs(true - limit) > 1e-9 * max(1.0, abs(limit)):
            assert (read > bound) == (true > limit)
            assert (read < bound) == (true < limit)
