"""Statistics: per-example columns in, one number out, for the examples themselves or for many resamples at once.

A resample is told by how often it drew each example, ``counts`` [R, n], so that the value of R resamples is a matrix
product for sums and their ratios, and a few of them for correlations and F1. What is counted twice weighs twice: the
value is that of ``np.repeat(column, counts[r])``, which is how the tests check it against scipy and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from leptonsdk.errors import EvaluationError, LeptonError, did_you_mean
from leptonsdk.gating.classification import f1_binary, f1_macro, matthews
from leptonsdk.gating.columns import Column, FloatArray, IntArray, Weighing, check_lengths, numeric, weighted_sums
from leptonsdk.gating.correlation import pearson, spearman
from leptonsdk.gating.counts import BLEU_ORDER, CHRF_ORDER, bleu, chrf, f1_counts, share

Kernel = Callable[[Sequence[Column]], Weighing]


class Statistic(Protocol):
    """A number made of per-example columns.

    Attributes:
        name: As `get_statistic` knows it, or the wrapped callable's.
        vectorised: Many resamples cost little, so that a jackknife can be afforded.
    """

    @property
    def name(self) -> str: ...

    @property
    def vectorised(self) -> bool: ...

    def value(self, columns: Sequence[Column]) -> float:
        """The number for the examples as they are.

        Raises:
            EvaluationError: The wrong columns for it, or a value that is not finite (a correlation with a constant).
        """
        ...

    def resampled(self, columns: Sequence[Column], counts: IntArray) -> FloatArray:
        """The number for each of R resamples: ``counts`` [R, n] -> [R].

        NaN or an infinity stands for a resample in which the number is undefined.
        """
        ...

    def prepared(self, columns: Sequence[Column]) -> Callable[[IntArray], FloatArray]:
        """``resampled`` of these columns, with what does not depend on the counts (sorting) done once."""
        ...


@dataclass(frozen=True)
class _Weighted:
    """A statistic whose kernel takes the counts as weights."""

    name: str
    arity: int
    kernel: Kernel
    vectorised: bool = True

    def value(self, columns: Sequence[Column]) -> float:
        size = self._check(columns)
        return _finite(float(self.kernel(columns)(np.ones((1, size)))[0]), self.name)

    def resampled(self, columns: Sequence[Column], counts: IntArray) -> FloatArray:
        return self.prepared(columns)(counts)

    def prepared(self, columns: Sequence[Column]) -> Callable[[IntArray], FloatArray]:
        size = self._check(columns)
        weigh = self.kernel(columns)

        def resampled(counts: IntArray) -> FloatArray:
            _check_counts(counts, size)
            return weigh(counts.astype(np.float64))

        return resampled

    def _check(self, columns: Sequence[Column]) -> int:
        if len(columns) != self.arity:
            raise EvaluationError(f"takes {self.arity} column(s), got {len(columns)}", where=f"statistic {self.name}")
        return check_lengths(columns)


@dataclass(frozen=True)
class _Called:
    """A statistic that calls a function once per resample, on the examples that were drawn."""

    name: str
    function: Callable[..., float]
    vectorised: bool = False

    def value(self, columns: Sequence[Column]) -> float:
        check_lengths(columns)
        return _finite(self._call(columns), self.name)

    def resampled(self, columns: Sequence[Column], counts: IntArray) -> FloatArray:
        _check_counts(counts, check_lengths(columns))
        draws = ([np.repeat(column, row, axis=0) for column in columns] for row in counts)
        return np.array([self._call(draw) for draw in draws], dtype=np.float64)

    def prepared(self, columns: Sequence[Column]) -> Callable[[IntArray], FloatArray]:
        return lambda counts: self.resampled(columns, counts)

    def _call(self, columns: Sequence[Column]) -> float:
        try:
            return float(self.function(*columns))
        except LeptonError:
            raise
        except Exception as error:
            raise EvaluationError(f"failed: {error}", where=f"statistic {self.name}") from error


def _mean(columns: Sequence[Column]) -> Weighing:
    column = numeric(columns[0], "statistic mean")

    def weigh(counts: FloatArray) -> FloatArray:
        mean: FloatArray = weighted_sums(counts, column) / counts.sum(axis=1)
        return mean

    return weigh


def _ratio(columns: Sequence[Column]) -> Weighing:
    above, below = (numeric(column, "statistic ratio") for column in columns)

    def weigh(counts: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient: FloatArray = weighted_sums(counts, above) / weighted_sums(counts, below)
        return quotient

    return weigh


def _exp_ratio(columns: Sequence[Column]) -> Weighing:
    ratio = _ratio(columns)

    def weigh(counts: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            exponential: FloatArray = np.exp(ratio(counts))
        return exponential

    return weigh


_STATISTICS: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        _Weighted("mean", 1, _mean),
        _Weighted("ratio", 2, _ratio),
        _Weighted("exp_ratio", 2, _exp_ratio),
        _Weighted("pearson", 2, pearson),
        _Weighted("spearman", 2, spearman),
        _Weighted("f1_binary", 2, f1_binary),
        _Weighted("f1_macro", 2, f1_macro),
        _Weighted("matthews", 2, matthews),
        _Weighted("share", 2, share),
        _Weighted("f1_counts", 3, f1_counts),
        _Weighted("bleu", 2 * BLEU_ORDER + 2, bleu),
        _Weighted("chrf", 3 * CHRF_ORDER, chrf),
    )
}


def get_statistic(name: str) -> Statistic:
    """The statistic of a name.

    - ``mean`` of one column;
    - ``ratio`` sum(a) / sum(b), and ``exp_ratio`` exp of it (perplexity, of summed negative log likelihoods in nats
      and token counts);
    - ``pearson`` and ``spearman`` correlation (Spearman 1904; mid-ranks for ties) of two columns;
    - ``f1_binary`` (positive label 1), ``f1_macro`` (van Rijsbergen 1979) and ``matthews`` (Matthews 1975; Gorodkin
      2004 for more than two labels) of the columns prediction and label;
    - ``share``, ``f1_counts``, ``bleu`` and ``chrf`` of each example's counts, see `leptonsdk.gating.counts`.

    Raises:
        EvaluationError: No statistic has that name.
    """
    if (statistic := _STATISTICS.get(name)) is None:
        raise EvaluationError(f"no statistic is named '{name}'", hint=did_you_mean(name, _STATISTICS))
    return statistic


def statistic_names() -> tuple[str, ...]:
    """The names that `get_statistic` knows."""
    return tuple(_STATISTICS)


def statistic_from(function: Callable[..., float], name: str) -> Statistic:
    """Any function of per-example columns as a statistic.

    Args:
        function: Called with the columns, each [m, ...], as positional arguments; returns a number. A resample holds
            the same example several times, one after the other. It is called once per resample.
        name: What to call it in reports and errors.
    """
    return _Called(name, function)


def _finite(value: float, name: str) -> float:
    if not np.isfinite(value):
        raise EvaluationError(
            f"is {value} for these examples",
            where=f"statistic {name}",
            hint="a column is constant, a sum is zero, or a number is too large",
        )
    return value


def _check_counts(counts: IntArray, size: int) -> None:
    if counts.ndim != 2 or counts.shape[1] != size:
        raise EvaluationError(f"counts of shape {counts.shape} do not fit {size} examples: [resamples, examples]")
