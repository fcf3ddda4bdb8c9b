"""Pearson's and Spearman's correlation of weighted examples, for many weightings at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leptonsdk.gate.columns import Column, FloatArray, numeric, weighted_sums

# Below this share of the sum of squares, a variance is what rounding left of zero: the resample drew one value only.
_NO_VARIANCE = 1e-13


def pearson(columns: Sequence[Column], counts: FloatArray) -> FloatArray:
    """Product-moment correlation (Pearson 1895).

    Args:
        columns: Two, [n] each.
        counts: [R, n], how often each example was drawn.

    Returns:
        [R] in [-1, 1]; NaN where a column is constant among the drawn.

    Raises:
        EvaluationError: A column does not hold numbers.
    """
    x, y = (_scaled(numeric(column, "statistic pearson")) for column in columns)
    total = counts.sum(axis=1)
    sum_x, sum_y, xx, yy, xy = (weighted_sums(counts, column) for column in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = xx - sum_x**2 / total, yy - sum_y**2 / total
    flat = (variance_x <= _NO_VARIANCE * xx) | (variance_y <= _NO_VARIANCE * yy)
    return _correlation(xy - sum_x * sum_y / total, variance_x, variance_y, flat)


def spearman(columns: Sequence[Column], counts: FloatArray) -> FloatArray:
    """Rank correlation (Spearman 1904): Pearson's of the mid-ranks, ranked anew in every resample.

    Args:
        columns: Two, [n] each.
        counts: [R, n], how often each example was drawn.

    Returns:
        [R] in [-1, 1]; NaN where a column is constant among the drawn.

    Raises:
        EvaluationError: A column does not hold numbers.
    """
    x, y = (_centred_ranks(numeric(column, "statistic spearman"), counts) for column in columns)
    weighted_x = counts * x
    variance_x, covariance = (np.einsum("rn,rn->r", weighted_x, other) for other in (x, y))
    variance_y = np.einsum("rn,rn->r", counts * y, y)
    return _correlation(covariance, variance_x, variance_y, (variance_x <= 0) | (variance_y <= 0))


def _centred_ranks(column: FloatArray, counts: FloatArray) -> FloatArray:
    """Mid-ranks [R, n] of the examples among the drawn, minus their mean, which is (drawn + 1) / 2 whatever the ties.

    The examples of one value form a group; with c of them drawn and C drawn up to and with the group, the group's ranks
    run from C - c + 1 to C.
    """
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)
    mid = np.cumsum(drawn, axis=1) - (drawn - 1) / 2
    group = np.empty(len(column), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(column))))
    ranks: FloatArray = (mid - (counts.sum(axis=1, keepdims=True) + 1) / 2)[:, group]
    return ranks


def _scaled(column: FloatArray) -> FloatArray:
    """Shifted and scaled into [-1, 1], so that squares neither overflow nor cancel; the correlation stays."""
    largest = np.abs(column).max(initial=0.0) or 1.0
    centred = column / largest
    centred = centred - centred.mean()
    scaled: FloatArray = centred / (np.abs(centred).max(initial=0.0) or 1.0)
    return scaled


def _correlation(covariance: FloatArray, x: FloatArray, y: FloatArray, flat: NDArray[np.bool_]) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        values = covariance / (np.sqrt(x) * np.sqrt(y))
    return np.where(flat, np.nan, np.clip(values, -1.0, 1.0))
