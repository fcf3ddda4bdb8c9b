"""Pearson's and Spearman's correlation of weighted examples, for many weightings at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leptonsdk.gating.columns import Column, FloatArray, Weighing, numeric, weighted_sums

# Below this share of the sum of squares, a variance is what rounding left of zero: the resample drew one value only.
_NO_VARIANCE = 1e-13


def pearson(columns: Sequence[Column]) -> Weighing:
    """Product-moment correlation (Pearson 1895).

    Args:
        columns: Two, [n] each.

    Returns:
        Counts [R, n] -> [R] in [-1, 1]; NaN where a column is constant among the drawn.

    Raises:
        EvaluationError: A column does not hold numbers.
    """
    x, y = (_scaled(numeric(column, "statistic pearson")) for column in columns)
    columns_of_moments = (x, y, x * x, y * y, x * y)

    def weigh(counts: FloatArray) -> FloatArray:
        total = counts.sum(axis=1)
        sum_x, sum_y, xx, yy, xy = (weighted_sums(counts, column) for column in columns_of_moments)
        variance_x, variance_y = xx - sum_x**2 / total, yy - sum_y**2 / total
        flat = (variance_x <= _NO_VARIANCE * xx) | (variance_y <= _NO_VARIANCE * yy)
        return _correlation(xy - sum_x * sum_y / total, variance_x, variance_y, flat)

    return weigh


def spearman(columns: Sequence[Column]) -> Weighing:
    """Rank correlation (Spearman 1904): Pearson's of the mid-ranks, ranked anew in every resample.

    Args:
        columns: Two, [n] each.

    Returns:
        Counts [R, n] -> [R] in [-1, 1]; NaN where a column is constant among the drawn.

    Raises:
        EvaluationError: A column does not hold numbers.
    """
    groups_x, groups_y = (_Groups.of(numeric(column, "statistic spearman")) for column in columns)

    def weigh(counts: FloatArray) -> FloatArray:
        x, y = groups_x.centred_ranks(counts), groups_y.centred_ranks(counts)
        weighted_x = counts * x
        variance_x, covariance = (np.einsum("rn,rn->r", weighted_x, other) for other in (x, y))
        variance_y = np.einsum("rn,rn->r", counts * y, y)
        return _correlation(covariance, variance_x, variance_y, (variance_x <= 0) | (variance_y <= 0))

    return weigh


@dataclass(frozen=True)
class _Groups:
    """A column's examples in groups of one value, in rising order of the values.

    Attributes:
        order: [n], the examples sorted by value.
        starts: [groups], where in ``order`` each group starts.
        group: [n], the group of each example.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    group: NDArray[np.intp]

    @classmethod
    def of(cls, column: FloatArray) -> _Groups:
        _, group = np.unique(column, return_inverse=True)
        order = np.argsort(group, kind="stable")
        return cls(order, np.flatnonzero(np.diff(group[order], prepend=-1)), group)

    def centred_ranks(self, counts: FloatArray) -> FloatArray:
        """Mid-ranks [R, n] of the examples among the drawn, minus their mean, (drawn + 1) / 2 whatever the ties.

        With c of a group drawn and C drawn up to and with the group, the group's ranks run from C - c + 1 to C.
        """
        drawn = np.add.reduceat(np.take(counts, self.order, axis=1), self.starts, axis=1)
        mid = np.cumsum(drawn, axis=1) - (drawn - 1) / 2
        ranks: FloatArray = np.take(mid - (counts.sum(axis=1, keepdims=True) + 1) / 2, self.group, axis=1)
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
