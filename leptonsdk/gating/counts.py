"""Corpus metrics of counts: F1 of entities, BLEU, chrF. What an example adds to each count is a column of its own.

None of them is a mean over examples, but all are functions of sums over examples, so that a resample's value is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leptonsdk.gating.columns import Column, FloatArray, Weighing, numeric, weighted_sums

BLEU_ORDER = 4  # longest n-gram, in words
CHRF_ORDER = 6  # longest n-gram, in characters
_CHRF_FACTOR = 4.0  # beta squared, beta 2: recall weighs twice as much as precision


def share(columns: Sequence[Column]) -> Weighing:
    """sum(a) / sum(b), 0 where b sums to 0: the precision of a model that predicts nothing.

    Args:
        columns: Part and whole, [n] each.

    Returns:
        Counts [R, n] -> [R].
    """
    columns = [numeric(column, "statistic share") for column in columns]

    def weigh(counts: FloatArray) -> FloatArray:
        part, whole = (weighted_sums(counts, column) for column in columns)
        return _quotient(part, whole)

    return weigh


def f1_counts(columns: Sequence[Column]) -> Weighing:
    """F1 of found things, 2 right / (predicted + true); 0 when nothing is predicted or true (van Rijsbergen 1979).

    Args:
        columns: How many are right, predicted, and true in each example, [n] each.

    Returns:
        Counts [R, n] -> [R] in [0, 1].
    """
    columns = [numeric(column, "statistic f1_counts") for column in columns]

    def weigh(counts: FloatArray) -> FloatArray:
        right, predicted, true = (weighted_sums(counts, column) for column in columns)
        return _quotient(2 * right, predicted + true)

    return weigh


def bleu(columns: Sequence[Column]) -> Weighing:
    """Corpus BLEU of one reference each (Papineni et al. 2002), with sacrebleu's default smoothing, ``exp``.

    An order whose n-grams match nowhere counts as 1 / 2, 1 / 4, … matches, the first such order first; where there is no
    n-gram of an order at all, or no match of any, BLEU is 0.

    Args:
        columns: Matches of n-grams of 1 to 4 words, n-grams written of 1 to 4 words, words written, words of the
            reference, [n] each.

    Returns:
        Counts [R, n] -> [R] in [0, 100].
    """
    columns = [numeric(column, "statistic bleu") for column in columns]

    def weigh(counts: FloatArray) -> FloatArray:
        sums = np.stack([weighted_sums(counts, column) for column in columns], axis=1)
        right, total = sums[:, :BLEU_ORDER], sums[:, BLEU_ORDER : 2 * BLEU_ORDER]
        written, expected = sums[:, -2], sums[:, -1]
        matches = np.where(right > 0, right, 0.5 ** np.cumsum(right == 0, axis=1))
        defined = (total > 0).all(axis=1) & (right > 0).any(axis=1) & ((written > 0) | (expected == 0))
        logs = np.log(np.where(total > 0, matches / np.maximum(total, 1), 1.0)).mean(axis=1)
        brevity = np.minimum(0.0, 1 - expected / np.maximum(written, 1))
        return np.where(defined, 100 * np.exp(logs + brevity), 0.0)

    return weigh


def chrf(columns: Sequence[Column]) -> Weighing:
    """Corpus chrF2 (Popović 2015): F of the mean precision and the mean recall over the orders that both sides have.

    Args:
        columns: For each of 1 to 6 characters: n-grams written, n-grams of the reference, matches, [n] each.

    Returns:
        Counts [R, n] -> [R] in [0, 100].
    """
    columns = [numeric(column, "statistic chrf") for column in columns]

    def weigh(counts: FloatArray) -> FloatArray:
        sums = np.stack([weighted_sums(counts, column) for column in columns], axis=1)
        written, expected, right = (sums[:, start::3] for start in range(3))
        shared = (written > 0) & (expected > 0)
        orders = np.maximum(shared.sum(axis=1), 1)
        precision = (_quotient(right, written) * shared).sum(axis=1) / orders
        recall = (_quotient(right, expected) * shared).sum(axis=1) / orders
        return 100 * _quotient((1 + _CHRF_FACTOR) * precision * recall, _CHRF_FACTOR * precision + recall)

    return weigh


def _quotient(above: FloatArray, below: FloatArray) -> FloatArray:
    quotient: FloatArray = np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
    return quotient
