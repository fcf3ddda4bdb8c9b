"""Verdicts round nothing, tolerate nothing, and never come from nothing."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonsdk.errors import EvaluationError
from leptonsdk.gating import EXIT_CODES, ConditionResult, Interval, exact, judge_lower, judge_upper, overall

finite = st.floats(-1e9, 1e9)
intervals = st.tuples(finite, finite).map(lambda ends: Interval(min(ends), max(ends), 0.95, "bca"))
RANK_UPPER = {"fail": 0, "inconclusive": 1, "pass": 2}


def test_a_floor_is_not_rounded_to() -> None:
    assert judge_lower(exact(0.945), 0.95) == "fail"
    assert judge_lower(exact(math.nextafter(0.95, 0)), 0.95) == "fail"
    assert judge_lower(Interval(0.9499999, 0.96, 0.95, "bca"), 0.95) == "inconclusive"


def test_the_limit_itself_passes() -> None:
    assert judge_upper(exact(0.3), 0.3) == "pass"
    assert judge_lower(exact(0.3), 0.3) == "pass"
    assert judge_upper(Interval(0.1, 0.3, 0.95, "bca"), 0.3) == "pass"


def test_the_noise_of_floats_is_not_tolerated() -> None:
    assert judge_upper(exact(0.1 + 0.2), 0.3) == "fail"
    assert judge_lower(exact(0.3), 0.1 + 0.2) == "fail"


def test_an_interval_that_touches_the_limit_from_the_wrong_side_is_inconclusive() -> None:
    assert judge_upper(Interval(0.3, 0.4, 0.95, "bca"), 0.3) == "inconclusive"
    assert judge_lower(Interval(0.2, 0.3, 0.95, "bca"), 0.3) == "inconclusive"


@given(intervals, finite, finite)
def test_a_laxer_limit_never_judges_worse(interval: Interval, one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    assert RANK_UPPER[judge_upper(interval, strict)] <= RANK_UPPER[judge_upper(interval, lax)]
    assert RANK_UPPER[judge_lower(interval, lax)] <= RANK_UPPER[judge_lower(interval, strict)]


@given(intervals, finite)
def test_lower_is_the_mirror_of_upper(interval: Interval, limit: float) -> None:
    assert judge_lower(interval, limit) == judge_upper(interval.negated(), -limit)


@given(intervals, finite, st.floats(0, 1e6))
def test_doubt_can_only_take_a_verdict_away(interval: Interval, limit: float, doubt: float) -> None:
    wider = Interval(interval.low - doubt, interval.high + doubt, 0.95, "bca")
    assert judge_upper(wider, limit) in (judge_upper(interval, limit), "inconclusive")


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf])
def test_a_limit_is_finite(limit: float) -> None:
    with pytest.raises(EvaluationError, match="limits nothing"):
        judge_upper(exact(1.0), limit)
    with pytest.raises(EvaluationError, match="limits nothing"):
        judge_lower(exact(1.0), limit)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
        (["pass"], "pass"),
    ],
)
def test_the_worst_condition_decides(verdicts: list, expected: str) -> None:
    assert overall(verdicts) == expected
    assert overall(reversed(verdicts)) == expected


def test_a_gate_without_conditions_proves_nothing() -> None:
    with pytest.raises(EvaluationError, match="proves nothing"):
        overall([])


def test_a_verdict_of_another_name_is_not_a_pass() -> None:
    with pytest.raises(EvaluationError, match="no verdict is called passed"):
        overall(["pass", "passed"])  # type: ignore[list-item]


def test_exit_codes() -> None:
    assert EXIT_CODES == {"pass": 0, "fail": 1, "inconclusive": 3}


def test_a_result_is_json() -> None:
    detail = {"examples": np.int64(872), "relative": np.bool_(False), "turns": np.array([1.5, 2.5]), "also": (1, None)}
    result = ConditionResult(
        "accuracy",
        0.9,
        0.89,
        0.01,
        Interval(0.0, 0.02, 0.95, "tango"),
        0.01,
        "max_drop",
        "inconclusive",
        "int8",
        detail,
    )
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == {
        "subject": "int8",
        "metric": "accuracy",
        "kind": "max_drop",
        "baseline": 0.9,
        "candidate": 0.89,
        "drop": 0.01,
        "interval": [0.0, 0.02],
        "confidence": 0.95,
        "method": "tango",
        "limit": 0.01,
        "verdict": "inconclusive",
        "detail": {"examples": 872, "relative": False, "turns": [1.5, 2.5], "also": [1, None]},
    }
