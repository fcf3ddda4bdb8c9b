"""Per-example columns, and what must hold before any statistic is taken of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonsdk.errors import EvaluationError

Column: TypeAlias = NDArray[Any]
Columns: TypeAlias = Mapping[str, NDArray[Any]]
FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
# Counts [R, n] as float64 -> values [R], of columns that were looked at beforehand (sorted, say).
Weighing: TypeAlias = Callable[[FloatArray], FloatArray]

FEWEST = 2


def check_column(column: Column, where: str) -> Column:
    """One column with at least two examples and no hole in it.

    Args:
        column: [n] or [n, ...], row i for example i; numbers, booleans or labels.
        where: What to call it in an error.

    Returns:
        The column as an array.

    Raises:
        EvaluationError: It has no example axis, fewer than two examples, or a NaN, an infinity or a None.
    """
    array = np.asarray(column)
    if array.ndim == 0:
        raise EvaluationError("a column is an array with one row per example, not a single value", where=where)
    if len(array) < FEWEST:
        raise EvaluationError(f"{len(array)} example(s): nothing can be said of fewer than {FEWEST}", where=where)
    if array.dtype.kind in "fc":
        holes = ~np.isfinite(array)
    elif array.dtype.kind == "O":
        holes = np.array([_is_hole(entry) for entry in array.ravel()]).reshape(array.shape)
    else:
        return array
    rows = np.flatnonzero(holes.reshape(len(array), -1).any(axis=1))
    if len(rows):
        raise EvaluationError(
            f"{len(rows)} of {len(array)} examples have no finite value, the first is example {rows[0]}",
            where=where,
            hint="a model that answers NaN or infinity is broken; it is not an average of the others",
        )
    return array


def check_pair(baseline: Sequence[Column], candidate: Sequence[Column]) -> tuple[list[Column], list[Column]]:
    """The same columns of two models on the same examples, all of one length.

    Raises:
        EvaluationError: No columns, not equally many, of different lengths, or one that `check_column` refuses.
    """
    if not len(baseline) or len(baseline) != len(candidate):
        raise EvaluationError(f"the baseline has {len(baseline)} column(s), the candidate {len(candidate)}")
    first = [check_column(column, f"baseline column {i}") for i, column in enumerate(baseline)]
    second = [check_column(column, f"candidate column {i}") for i, column in enumerate(candidate)]
    check_lengths([*first, *second])
    return first, second


def check_lengths(columns: Sequence[Column]) -> int:
    """The one length that all columns share.

    Raises:
        EvaluationError: They have different lengths.
    """
    lengths = sorted({len(column) for column in columns})
    if len(lengths) != 1:
        raise EvaluationError(
            f"columns of different lengths: {', '.join(map(str, lengths))}",
            hint="baseline and candidate must be evaluated on the same examples",
        )
    return lengths[0]


def numeric(column: Column, where: str) -> FloatArray:
    """A column [n] of numbers as float64.

    Raises:
        EvaluationError: It is not one-dimensional, or not made of numbers.
    """
    array = np.asarray(column)
    if array.ndim != 1 or array.dtype.kind not in "biufO":
        raise EvaluationError(f"needs one number per example, got {array.dtype} of shape {array.shape}", where=where)
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError("needs one number per example", where=where) from error


def weighted_sums(counts: FloatArray, column: FloatArray) -> FloatArray:
    """Sum of a column [n] under each weighting: [R, n] -> [R].

    Not ``counts @ column``: that goes to BLAS, whose threads make the last bits depend on the machine.
    """
    sums: FloatArray = np.einsum("rn,n->r", counts, column)
    return sums


def _is_hole(entry: object) -> bool:
    if entry is None:
        return True
    return isinstance(entry, (float, np.floating)) and not np.isfinite(entry)
