"""F1 and Matthews' correlation of weighted predictions and labels, for many weightings at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from leptonsdk.errors import EvaluationError
from leptonsdk.gating.columns import Column, FloatArray, IntArray, Weighing, numeric, weighted_sums


def f1_binary(columns: Sequence[Column]) -> Weighing:
    """F1 of the label 1, 2 tp / (predicted + true); 0 when nothing is predicted or true.

    Args:
        columns: Prediction and label, [n] each, of 0 and 1.

    Returns:
        Counts [R, n] -> [R] in [0, 1].

    Raises:
        EvaluationError: There are other labels than 0 and 1.
    """
    prediction, label = (numeric(column, "statistic f1_binary") for column in columns)
    if not (np.isin(prediction, (0, 1)).all() and np.isin(label, (0, 1)).all()):
        raise EvaluationError("takes the labels 0 and 1 only", where="statistic f1_binary", hint="use f1_macro")
    right = prediction * label

    def weigh(counts: FloatArray) -> FloatArray:
        hits, predicted, true = (weighted_sums(counts, column) for column in (right, prediction, label))
        return _f1(hits, predicted + true)

    return weigh


def f1_macro(columns: Sequence[Column]) -> Weighing:
    """Mean F1 of the labels that occur among the drawn predictions or labels, each label weighing the same.

    Args:
        columns: Prediction and label, [n] each; numbers or strings.

    Returns:
        Counts [R, n] -> [R] in [0, 1].

    Raises:
        EvaluationError: Predictions and labels are not of one kind.
    """
    tally = _tally(columns, "statistic f1_macro")

    def weigh(counts: FloatArray) -> FloatArray:
        hits, predicted, true = tally(counts)
        sizes = predicted + true
        mean: FloatArray = _f1(hits, sizes).sum(axis=1) / (sizes > 0).sum(axis=1)
        return mean

    return weigh


def matthews(columns: Sequence[Column]) -> Weighing:
    """Matthews' correlation coefficient (1975), in Gorodkin's form (2004) for any number of labels.

    Args:
        columns: Prediction and label, [n] each; numbers or strings.

    Returns:
        Counts [R, n] -> [R] in [-1, 1]; 0 where predictions or labels are constant among the drawn.

    Raises:
        EvaluationError: Predictions and labels are not of one kind.
    """
    tally = _tally(columns, "statistic matthews")

    def weigh(counts: FloatArray) -> FloatArray:
        hits, predicted, true = tally(counts)
        total = counts.sum(axis=1)
        covariance = hits.sum(axis=1) * total - (predicted * true).sum(axis=1)
        spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
        coefficient: FloatArray = np.divide(
            covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0
        )
        return coefficient

    return weigh


def _f1(hits: FloatArray, sizes: FloatArray) -> FloatArray:
    return np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0)


def _tally(columns: Sequence[Column], where: str) -> Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]:
    """Counts [R, n] -> right predictions, predictions and labels per label, [R, labels] each.

    Examples of one (prediction, label) are added up first: that passes over the counts once, however many labels.
    """
    prediction, label = _codes(columns, where)
    labels = int(max(prediction.max(), label.max())) + 1
    cell = prediction * labels + label
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    predicted, true = cells // labels, cells % labels
    by_prediction, by_label = _membership(predicted, labels), _membership(true, labels)
    right = predicted == true

    def tally(counts: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        drawn = np.add.reduceat(np.take(counts, order, axis=1), starts, axis=1)
        return (by_label @ (drawn * right).T).T, (by_prediction @ drawn.T).T, (by_label @ drawn.T).T

    return tally


def _membership(codes: IntArray, labels: int) -> Any:
    """[labels, cells] of 0 and 1: which cells have a code. Sparse, since a cell has one code of many."""
    return sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(labels, len(codes)))


def _codes(columns: Sequence[Column], where: str) -> tuple[IntArray, IntArray]:
    prediction, label = (np.asarray(column) for column in columns)
    textual = [column.dtype.kind in "US" for column in (prediction, label)]
    if prediction.ndim != 1 or label.ndim != 1:
        raise EvaluationError("needs one prediction and one label per example", where=where)
    if textual[0] != textual[1] and "O" not in (prediction.dtype.kind, label.dtype.kind):
        raise EvaluationError(f"predictions are {prediction.dtype}, labels {label.dtype}", where=where)
    try:
        _, codes = np.unique(np.concatenate([prediction, label]), return_inverse=True)
    except TypeError as error:
        raise EvaluationError("predictions and labels are of kinds that do not compare", where=where) from error
    codes = codes.astype(np.int64)
    return codes[: len(prediction)], codes[len(prediction) :]
