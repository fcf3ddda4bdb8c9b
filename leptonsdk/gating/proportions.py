"""Score intervals for proportions measured on the same examples.

Models that agree on every example leave a bootstrap nothing to resample: it would call a change of zero certain after ten
examples. A score interval inverts a test whose variance is estimated under each hypothesised change, so it stays honest
there, and near 0 and 1. All are found by bisection on the score statistic, which falls as the hypothesis rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from leptonsdk.errors import EvaluationError
from leptonsdk.gating.columns import Column, check_column, check_lengths, numeric
from leptonsdk.gating.intervals import Interval, check_confidence

_HALVINGS = 200


@dataclass(frozen=True)
class _Pairs:
    """How often both were right, the candidate only (gains), the baseline only (losses), of how many examples."""

    both: int
    gains: int
    losses: int
    size: int


def paired_proportions(baseline: Column, candidate: Column, confidence: float) -> Interval:
    """Interval of the change of a proportion, candidate minus baseline, by Tango's asymptotic score method.

    Tango (1998), Statistics in Medicine 17:891. Valid without any example on which the models disagree, and for few
    examples.

    Args:
        baseline: [n] of 0 and 1.
        candidate: [n] of 0 and 1, for the same examples.
        confidence: Two-sided, in (0, 1).

    Returns:
        Interval within [-1, 1] that holds the observed change; method ``tango``.

    Raises:
        EvaluationError: Fewer than two examples, different lengths, or values other than 0 and 1.
    """
    pairs, z = _pairs(baseline, candidate), _z(confidence)
    low = _tango_lower(pairs.gains, pairs.losses, pairs.size, z)
    high = 0.0 - _tango_lower(pairs.losses, pairs.gains, pairs.size, z)
    return Interval(low, high, confidence, "tango")


def paired_relative_proportions(baseline: Column, candidate: Column, confidence: float) -> Interval:
    """Interval of the relative change of a proportion, (candidate - baseline) / baseline, by the score method.

    Tang, Tang and Chan (2003), Statistics in Medicine 22:1217; the same statistic in Nam and Blackwelder (2002),
    Statistics in Medicine 21:689.

    Args:
        baseline: [n] of 0 and 1, at least one of them 1.
        candidate: [n] of 0 and 1, for the same examples.
        confidence: Two-sided, in (0, 1).

    Returns:
        Interval from -1 up that holds the observed relative change; method ``tang``.

    Raises:
        EvaluationError: Fewer than two examples, different lengths, values other than 0 and 1, or a baseline of zeros.
    """
    pairs, z = _pairs(baseline, candidate), _z(confidence)
    reference = pairs.both + pairs.losses
    if reference == 0:
        raise EvaluationError(
            "the baseline's proportion is 0: no change is relative to it", hint="use an absolute drop"
        )
    estimate = (pairs.both + pairs.gains) / reference
    low = _crossing(lambda ratio: _tang(pairs, ratio) > z, 0.0, estimate)
    ceiling = 2 * estimate + 1
    while _tang(pairs, ceiling) >= -z:
        ceiling *= 2
    high = _crossing(lambda ratio: _tang(pairs, ratio) >= -z, estimate, ceiling)
    return Interval(low - 1, high - 1, confidence, "tang")


def proportion(values: Column, confidence: float) -> Interval:
    """Interval of one proportion by Wilson's score method.

    Wilson (1927), Journal of the American Statistical Association 22:209.

    Args:
        values: [n] of 0 and 1.
        confidence: Two-sided, in (0, 1).

    Returns:
        Interval within [0, 1]; method ``wilson``.

    Raises:
        EvaluationError: Fewer than two examples, or values other than 0 and 1.
    """
    ones, z = _zeros_and_ones(values, "proportion"), _z(confidence)
    size, hits = len(ones), int(ones.sum())
    centre = (hits + z**2 / 2) / (size + z**2)
    reach = z * math.sqrt(hits * (size - hits) / size + z**2 / 4) / (size + z**2)
    # At 0 and at 1 the formula gives the end itself; rounding must not take it away.
    low = 0.0 if hits == 0 else centre - reach
    high = 1.0 if hits == size else centre + reach
    return Interval(low, high, confidence, "wilson")


def _tango_lower(gains: int, losses: int, size: int, z: float) -> float:
    estimate = (gains - losses) / size
    return _crossing(lambda change: _tango(gains, losses, size, change) > z, -1.0, estimate)


def _tango(gains: int, losses: int, size: int, change: float) -> float:
    """Score statistic for a hypothesised change; the nuisance, P(baseline only), is at its restricted maximum likelihood.

    Twice that probability plus change (1 - change) is the variance of one example's difference.
    """
    b = -gains - losses + (2 * size - gains + losses) * change
    c = -losses * change * (1 - change)
    nuisance = _larger_root(2 * size, b, c)
    variance = size * (2 * nuisance + change * (1 - change))
    return _standardised(gains - losses - size * change, variance)


def _tang(pairs: _Pairs, ratio: float) -> float:
    """Score statistic for a hypothesised ratio of candidate to baseline, as `_tango` for a change."""
    right = pairs.both + pairs.gains + pairs.losses
    b = (pairs.both + pairs.losses) * ratio**2 - (pairs.both + pairs.gains + 2 * pairs.losses)
    c = pairs.losses * (1 - ratio) * right / pairs.size
    nuisance = _larger_root(pairs.size * (1 + ratio), b, c)
    variance = pairs.size * (1 + ratio) * nuisance + right * (ratio - 1)
    return _standardised(pairs.both + pairs.gains - (pairs.both + pairs.losses) * ratio, variance)


def _larger_root(a: float, b: float, c: float) -> float:
    """Larger root of a x^2 + b x + c, a > 0, at least 0; in the form that does not cancel."""
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    if b <= 0:
        return (root - b) / (2 * a)
    return max(0.0, -2 * c / (root + b))


def _standardised(score: float, variance: float) -> float:
    if variance > 0:
        return score / math.sqrt(variance)
    return math.copysign(math.inf, score) if score else 0.0


def _crossing(before: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds from ``low`` on stops to hold, up to ``high``; the ends themselves are not asked."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if before(middle) else (low, middle)
    return low


def _pairs(baseline: Column, candidate: Column) -> _Pairs:
    first, second = _zeros_and_ones(baseline, "baseline"), _zeros_and_ones(candidate, "candidate")
    size = check_lengths([first, second])
    return _Pairs(int((first & second).sum()), int((~first & second).sum()), int((first & ~second).sum()), size)


def _zeros_and_ones(column: Column, where: str) -> NDArray[np.bool_]:
    values = numeric(check_column(column, where), where)
    if not np.isin(values, (0.0, 1.0)).all():
        odd = values[~np.isin(values, (0.0, 1.0))][0]
        raise EvaluationError(f"a proportion is made of 0 and 1, found {odd}", where=where)
    return np.equal(values, 1.0)


def _z(confidence: float) -> float:
    return -float(ndtri((1 - check_confidence(confidence)) / 2))
