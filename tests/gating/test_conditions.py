"""Conditions: from two models' columns to a judged result."""

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest

from leptonsdk.errors import EvaluationError
from leptonsdk.gating import (
    ConditionResult,
    Interval,
    absolute_condition,
    check_same_examples,
    exact,
    get_statistic,
    metric_condition,
    paired_proportions,
    ratio_condition,
    ratio_of_medians,
)

RNG = np.random.default_rng(0)
RIGHT = (RNG.random(2000) < 0.9).astype(np.int64)
# 20 of the 2,000 answers that were right are wrong now, 10 that were wrong are right.
WORSE = RIGHT.copy()
WORSE[np.flatnonzero(RIGHT == 1)[:20]] = 0
WORSE[np.flatnonzero(RIGHT == 0)[:10]] = 1
LOSS = RNG.gamma(20, 5, 500)
TOKENS = RNG.integers(20, 60, 500)


def accuracy(candidate: np.ndarray = WORSE, baseline: np.ndarray = RIGHT, **options: object) -> ConditionResult:
    chosen = {
        "binary": True,
        "higher_is_better": True,
        "max_drop": 0.02,
        "relative": False,
        "confidence": 0.95,
        "resamples": 400,
        "seed": 0,
    } | options
    before, after = {"correct": baseline}, {"correct": candidate}
    return metric_condition("accuracy", before, after, ["correct"], get_statistic("mean"), **chosen)  # type: ignore[arg-type]


def perplexity(candidate: np.ndarray, **options: object) -> ConditionResult:
    chosen = {
        "binary": False,
        "higher_is_better": False,
        "max_drop": 0.05,
        "relative": True,
        "confidence": 0.95,
        "resamples": 400,
        "seed": 0,
    } | options
    before, after = {"nll": LOSS, "tokens": TOKENS}, {"nll": candidate, "tokens": TOKENS}
    names, statistic = ["nll", "tokens"], get_statistic("exp_ratio")
    return metric_condition("perplexity", before, after, names, statistic, **chosen)  # type: ignore[arg-type]


def test_accuracy_has_tangos_interval_turned_into_a_drop() -> None:
    result = accuracy()
    assert result.interval == paired_proportions(RIGHT, WORSE, 0.95).negated()
    assert result.drop == pytest.approx(10 / 2000)
    assert result.drop in result.interval
    assert (result.kind, result.verdict, result.interval.method) == ("max_drop", "pass", "tango")


@pytest.mark.parametrize(("limit", "verdict"), [(0.02, "pass"), (0.004, "inconclusive"), (-0.01, "fail")])
def test_the_limit_decides(limit: float, verdict: str) -> None:
    assert accuracy(max_drop=limit).verdict == verdict


def test_a_gain_is_a_negative_drop() -> None:
    result = accuracy(baseline=WORSE, candidate=RIGHT)
    assert result.drop == pytest.approx(-10 / 2000)
    assert result.interval.low < result.drop < result.interval.high


def test_few_examples_prove_little_even_when_the_models_agree() -> None:
    same = np.array([1, 1, 1, 0, 1] * 4)
    assert accuracy(baseline=same, candidate=same, max_drop=0.01).verdict == "inconclusive"
    assert accuracy(baseline=same, candidate=same, max_drop=0.01, relative=True).verdict == "inconclusive"
    many = np.tile(same, 50)
    assert accuracy(baseline=many, candidate=many, max_drop=0.01).verdict == "pass"


def test_a_relative_drop_of_a_proportion() -> None:
    result = accuracy(relative=True)
    assert result.drop == pytest.approx(10 / RIGHT.sum())
    assert result.interval.method == "tang"
    assert result.drop in result.interval


def test_a_higher_perplexity_is_a_drop() -> None:
    result = perplexity(LOSS * 1.01)
    assert result.candidate > result.baseline
    assert result.drop == pytest.approx(result.candidate / result.baseline - 1)
    assert 0 < result.interval.low <= result.drop <= result.interval.high
    assert result.verdict == "pass"
    assert perplexity(LOSS * 1.1).verdict == "fail"
    assert perplexity(LOSS / 1.1).drop < 0


def test_a_mean_that_is_not_binary_is_bootstrapped() -> None:
    scores = RNG.random(300)
    result = accuracy(baseline=scores, candidate=scores - RNG.random(300) / 100, binary=False)
    assert result.interval.method == "bca"
    assert result.detail["resamples"] == 400


def test_a_column_that_claims_to_be_binary_is_checked() -> None:
    with pytest.raises(EvaluationError, match="made of 0 and 1"):
        accuracy(candidate=WORSE * 0.5)


@pytest.mark.parametrize("side", ["baseline", "candidate"])
@pytest.mark.parametrize("hole", [math.nan, math.inf])
def test_a_hole_anywhere_stops_the_gate(side: str, hole: float) -> None:
    broken = RIGHT.astype(float)
    broken[7] = hole
    with pytest.raises(EvaluationError, match=f"metric accuracy, {side}, column 'correct': 1 of 2000 .* example 7"):
        accuracy(**{side: broken})  # type: ignore[arg-type]


def test_a_missing_column_stops_the_gate() -> None:
    scores: Mapping[str, np.ndarray] = {"correct": RIGHT}
    with pytest.raises(EvaluationError, match=r"candidate: no column 'correct' \(there are: exact"):
        metric_condition(
            "accuracy",
            scores,
            {"exact": WORSE},
            ["correct"],
            get_statistic("mean"),
            binary=True,
            higher_is_better=True,
            max_drop=0.01,
            relative=False,
            confidence=0.95,
            resamples=400,
            seed=0,
        )


def test_different_lengths_stop_the_gate() -> None:
    with pytest.raises(EvaluationError, match="different lengths: 1999, 2000"):
        accuracy(candidate=WORSE[:-1])


def test_a_distance_to_the_baseline_needs_no_baseline() -> None:
    distances = RNG.exponential(0.01, 500)
    options = {"binary": False, "higher_is_better": False, "reference": True}
    result = accuracy(candidate=distances, baseline=np.array([]), **options)
    assert (result.baseline, result.drop) == (0.0, pytest.approx(distances.mean()))
    assert result.verdict == "pass"


def test_a_rate_of_disagreement_keeps_doubt_when_none_was_seen() -> None:
    options = {"binary": True, "higher_is_better": False, "reference": True, "max_drop": 0.01}
    result = accuracy(candidate=np.zeros(100), **options)
    assert (result.interval.low, result.interval.method, result.verdict) == (0.0, "wilson", "inconclusive")


@pytest.mark.parametrize("options", [{"higher_is_better": True}, {"higher_is_better": False, "relative": True}])
def test_a_distance_is_lower_is_better_and_absolute(options: dict[str, bool]) -> None:
    with pytest.raises(EvaluationError, match="lower-is-better and absolute"):
        accuracy(reference=True, **options)


def test_speedup() -> None:
    before, after = RNG.normal(0.040, 0.001, 20), RNG.normal(0.0095, 0.0003, 20)
    interval = ratio_of_medians(before, after, 0.95, 400, seed=0)
    result = ratio_condition("latency", "min_speedup", float(np.median(before)), float(np.median(after)), interval, 4.0)
    assert (result.verdict, result.drop in interval) == ("pass", True)
    assert ratio_condition("latency", "min_speedup", result.baseline, result.candidate, interval, 4.5).verdict == "fail"


def test_reduction_is_exact() -> None:
    verdicts = [
        ratio_condition("size", "min_reduction", 600, candidate, exact(600 / candidate), 6.0).verdict
        for candidate in (99, 100, 101)
    ]
    assert verdicts == ["pass", "pass", "fail"]


def test_absolute_limits() -> None:
    milliseconds = Interval(9.0, 10.0, 0.95, "percentile")
    assert absolute_condition("latency", "max_ms", 9.5, milliseconds, 10.0, baseline=40.0).verdict == "pass"
    assert absolute_condition("latency", "max_ms", 9.5, milliseconds, 9.7).verdict == "inconclusive"
    assert absolute_condition("size", "max_bytes", 1025, exact(1025), 1024).verdict == "fail"


def test_an_interval_in_another_unit_is_noticed() -> None:
    with pytest.raises(EvaluationError, match="not in its interval"):
        absolute_condition("latency", "max_ms", 9.5, Interval(0.009, 0.010, 0.95, "percentile"), 1.0)
    with pytest.raises(EvaluationError, match="not in its interval"):
        ratio_condition("latency", "min_speedup", 0.040, 0.010, Interval(0.2, 0.3, 0.95, "percentile"), 0.1)


@pytest.mark.parametrize(("baseline", "candidate"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_ratio_of_nothing_is_refused(baseline: float, candidate: float) -> None:
    with pytest.raises(EvaluationError, match="must be above 0"):
        ratio_condition("size", "min_reduction", baseline, candidate, exact(1.0), 2.0)


def test_kinds_are_not_mixed_up() -> None:
    with pytest.raises(EvaluationError, match="min_speedup or min_reduction"):
        ratio_condition("size", "max_bytes", 2.0, 1.0, exact(2.0), 2.0)
    with pytest.raises(EvaluationError, match="max_ms or max_bytes"):
        absolute_condition("size", "min_reduction", 2.0, exact(2.0), 2.0)


def test_results_are_json() -> None:
    for result in (accuracy(), perplexity(LOSS * 1.01, subject="onnxruntime int8")):
        assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == result.as_dict()


def test_same_examples_in_the_same_order_are_the_same() -> None:
    check_same_examples(["a", "b", "b"], ("a", "b", "b"))


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (["a", "c", "b"], "the same 3 examples, but 2 of them stand in another place"),
        (["a", "b", "d"], "1 of the baseline's 3 .*, 1 of the candidate's 3"),
        (["a", "b"], "1 of the baseline's 3 .*, 0 of the candidate's 2"),
        (["a", "b", "c", "c"], "0 of the baseline's 3 .*, 1 of the candidate's 4"),
    ],
)
def test_other_examples_are_not_compared(candidate: list[str], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        check_same_examples(["a", "b", "c"], candidate)
