"""F1 and Matthews' correlation of weighted predictions and labels, for many weightings at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from leptonsdk.errors import EvaluationError
from leptonsdk.gate.columns import Column, FloatArray, IntArray, numeric, weighted_sums


def f1_binary(columns: Sequence[Column], counts: FloatArray) -> FloatArray:
    """F1 of the label 1, 2 tp / (predicted + true); 0 when nothing is predicted or true.

    Args:
        columns: Prediction and label, [n] each, of 0 and 1.
        counts: [R, n], how often each example was drawn.

    Returns:
        [R] in [0, 1].

    Raises:
        EvaluationError: There are other labels than 0 and 1.
    """
    prediction, label = (numeric(column, "statistic f1_binary") for column in columns)
    if not (np.isin(prediction, (0, 1)).all() and np.isin(label, (0, 1)).all()):
        raise EvaluationError("takes the labels 0 and 1 only", where="statistic f1_binary", hint="use f1_macro")
    hits, predicted, true = (weighted_sums(counts, column) for column in (prediction * label, prediction, label))
    f1: FloatArray = _f1(hits, predicted + true)
    return f1


def f1_macro(columns: Sequence[Column], counts: FloatArray) -> FloatArray:
    """Mean F1 of the labels that occur among the drawn predictions or labels, each label weighing the same.

    Args:
        columns: Prediction and label, [n] each; numbers or strings.
        counts: [R, n], how often each example was drawn.

    Returns:
        [R] in [0, 1].

    Raises:
        EvaluationError: Predictions and labels are not of one kind.
    """
    hits, predicted, true = _per_label(columns, counts, "statistic f1_macro")
    sizes = predicted + true
    f1 = _f1(hits, sizes)
    mean: FloatArray = f1.sum(axis=1) / (sizes > 0).sum(axis=1)
    return mean


def matthews(columns: Sequence[Column], counts: FloatArray) -> FloatArray:
    """Matthews' correlation coefficient (1975), in Gorodkin's form (2004) for any number of labels.

    Args:
        columns: Prediction and label, [n] each; numbers or strings.
        counts: [R, n], how often each example was drawn.

    Returns:
        [R] in [-1, 1]; 0 where predictions or labels are constant among the drawn.

    Raises:
        EvaluationError: Predictions and labels are not of one kind.
    """
    hits, predicted, true = _per_label(columns, counts, "statistic matthews")
    total = counts.sum(axis=1)
    covariance = hits.sum(axis=1) * total - (predicted * true).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    coefficient: FloatArray = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)
    return coefficient


def _f1(hits: FloatArray, sizes: FloatArray) -> FloatArray:
    return np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0)


def _per_label(columns: Sequence[Column], counts: FloatArray, where: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Right predictions, predictions and labels per label, [R, labels] each."""
    prediction, label = _codes(columns, where)
    labels = int(max(prediction.max(), label.max())) + 1
    # Examples of one (prediction, label) are added up first: that passes over the counts once, however many labels.
    cell = prediction * labels + label
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)
    predicted, true = cells // labels, cells % labels
    right = predicted == true
    return (
        _per_code(drawn[:, right], true[right], labels),
        _per_code(drawn, predicted, labels),
        _per_code(drawn, true, labels),
    )


def _per_code(drawn: FloatArray, codes: IntArray, labels: int) -> FloatArray:
    """Sum over the cells of one code: [R, cells] -> [R, labels]. Sparse, since a cell has one code of many."""
    member = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(labels, len(codes)))
    return np.asarray((member @ drawn.T).T, dtype=np.float64)


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
