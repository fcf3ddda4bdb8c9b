"""Bootstrap intervals: the same examples, drawn again for both models.

Two models that answer the same examples err on many of the same ones. Drawing examples, not scores of each model, keeps
that, and the interval of the change is the narrower for it (Efron and Tibshirani 1993, chapter 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from leptonsdk.errors import EvaluationError
from leptonsdk.gating.columns import Column, FloatArray, IntArray, check_column, check_lengths, check_pair, numeric
from leptonsdk.gating.intervals import Interval, check_confidence
from leptonsdk.gating.statistics import Statistic

DEFAULT_RESAMPLES = 10_000

# Counts held at once, of 8 bytes each; a statistic makes a handful of arrays of that size.
_CHUNK = 2**18
# Examples are left out in at most that many groups. The acceleration is then known to about 0.4 / groups.
_JACKKNIFE_GROUPS = 1000
# More resamples than this share without a value: the data, not chance, leave the statistic undefined.
_UNDEFINED = 0.1
_ROUNDING = 1e-12


def paired_bootstrap(
    baseline: Sequence[Column],
    candidate: Sequence[Column],
    statistic: Statistic,
    *,
    relative: bool,
    confidence: float,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int,
) -> Interval:
    """Interval of the signed change of a statistic from baseline to candidate.

    BCa (Efron 1987, Journal of the American Statistical Association 82:171), with the acceleration from a jackknife;
    percentile where the statistic is not vectorised or BCa is undefined (the change is the same in every example). An
    interval that the method places beside the observed change is widened to hold it.

    Args:
        baseline: Columns [n] or [n, ...] in the statistic's order.
        candidate: The same columns for the same examples.
        statistic: What to make of them.
        relative: Take (candidate - baseline) / abs(baseline), else candidate - baseline.
        confidence: Two-sided, in (0, 1).
        resamples: Resamples; needs at least one per tail.
        seed: Of a generator of its own; numpy's global state is not touched.

    Returns:
        The interval; [0, 0] by method ``identical`` when the columns are equal in every example, which says nothing
        about examples unlike these (see `paired_proportions`, which does, for proportions).

    Raises:
        EvaluationError: Fewer than two examples, different lengths, a value that is not finite, too few resamples, a
            change relative to 0, or a statistic that is undefined for these examples or for many resamples of them.
    """
    first, second = check_pair(baseline, candidate)
    estimate = change(statistic.value(first), statistic.value(second), relative=relative)
    if all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
        _check_resamples(resamples, confidence)
        return Interval(0.0, 0.0, confidence, "identical")

    baseline_of, candidate_of = statistic.prepared(first), statistic.prepared(second)

    def resampled(counts: IntArray) -> FloatArray:
        before, after = baseline_of(counts), candidate_of(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            difference: FloatArray = after - before
            return difference / np.abs(before) if relative else difference

    return _bootstrap(resampled, estimate, len(first[0]), statistic.vectorised, confidence, resamples, seed)


def bootstrap(
    columns: Sequence[Column],
    statistic: Statistic,
    *,
    confidence: float,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int,
) -> Interval:
    """Interval of a statistic's own value, as `paired_bootstrap` makes that of its change.

    Raises:
        EvaluationError: As `paired_bootstrap`.
    """
    checked = [check_column(column, f"column {i}") for i, column in enumerate(columns)]
    if not checked:
        raise EvaluationError("no columns, no value")
    size = check_lengths(checked)
    estimate = statistic.value(checked)
    return _bootstrap(
        statistic.prepared(checked),
        estimate,
        size,
        statistic.vectorised,
        confidence,
        resamples,
        seed,
    )


def ratio_of_medians(
    baseline: Column, candidate: Column, confidence: float, resamples: int = DEFAULT_RESAMPLES, *, seed: int
) -> Interval:
    """Interval of median(baseline) / median(candidate), a speedup, by the percentile bootstrap of turns.

    Turn t measured both models one after the other, so what slowed the machine then slowed both: turns are drawn, not
    times. Few turns give intervals that are too short, whatever their confidence says (three cover about 75 %); take
    at least seven.

    Args:
        baseline: [turns], median seconds (or any other time) of each turn.
        candidate: [turns], the same unit.
        confidence: Two-sided, in (0, 1).
        resamples: Resamples; needs at least one per tail.
        seed: Of a generator of its own.

    Raises:
        EvaluationError: Fewer than two turns, different lengths, times that are not finite and above 0.
    """
    before, after = _times(baseline, "baseline"), _times(candidate, "candidate")
    check_lengths([before, after])
    estimate = float(np.median(before) / np.median(after))

    def drawn(index: IntArray) -> FloatArray:
        return np.asarray(np.median(before[index], axis=1) / np.median(after[index], axis=1))

    return _percentile_of_turns(drawn, estimate, len(before), confidence, resamples, seed)


def median_of_turns(values: Column, confidence: float, resamples: int = DEFAULT_RESAMPLES, *, seed: int) -> Interval:
    """Interval of the median of turns, in the values' unit, by the percentile bootstrap; see `ratio_of_medians`.

    Raises:
        EvaluationError: Fewer than two turns, or values that are not finite and above 0.
    """
    times = _times(values, "turns")
    return _percentile_of_turns(
        lambda index: np.asarray(np.median(times[index], axis=1)),
        float(np.median(times)),
        len(times),
        confidence,
        resamples,
        seed,
    )


def change(baseline: float, candidate: float, *, relative: bool) -> float:
    """candidate - baseline, or that over abs(baseline).

    Raises:
        EvaluationError: The change is relative and the baseline 0.
    """
    if not relative:
        return candidate - baseline
    if baseline == 0:
        raise EvaluationError("the baseline's value is 0: no change is relative to it", hint="use an absolute drop")
    return (candidate - baseline) / abs(baseline)


def _bootstrap(
    value: Callable[[IntArray], FloatArray],
    estimate: float,
    size: int,
    jackknife: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """``value`` takes counts [R, size] and gives [R]."""
    _check_resamples(resamples, confidence)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // size)
    parts = [value(_counts(rng, min(chunk, resamples - done), size)) for done in range(0, resamples, chunk)]
    draws = _defined(np.concatenate(parts), size)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = _bca_levels(draws, estimate, _jackknife(value, size), tails) if jackknife else None
    method = "percentile" if levels is None else "bca"
    return _holding(estimate, np.quantile(draws, tails if levels is None else levels), confidence, method)


def _bca_levels(draws: FloatArray, estimate: float, left_out: FloatArray, tails: FloatArray) -> FloatArray | None:
    """The quantiles to read off instead of the tails (Efron 1987, equation 3.9), or None where they are undefined."""
    scale = max(abs(estimate), float(np.abs(draws).max()))
    near = _ROUNDING * scale
    # Resamples with the very value of the estimate count half on each side: there are many when scores are discrete.
    below = ((draws < estimate - near).mean() + (draws <= estimate + near).mean()) / 2
    deviations = left_out.mean() - left_out
    if not 0 < below < 1 or not np.isfinite(deviations).all() or np.abs(deviations).max() <= near:
        return None
    deviations = deviations / np.abs(deviations).max()
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    bias = ndtri(below)
    shifted = bias + ndtri(tails)
    stretch = 1 - acceleration * shifted
    if (stretch <= 0).any():
        return None
    return np.asarray(ndtr(bias + shifted / stretch), dtype=np.float64)


def _jackknife(value: Callable[[IntArray], FloatArray], size: int) -> FloatArray:
    """The value without each example, or without each of 1,000 groups of examples when there are more of them."""
    groups = min(size, _JACKKNIFE_GROUPS)
    group = np.arange(size) % groups
    chunk = max(1, _CHUNK // size)
    starts = range(0, groups, chunk)
    rows = (np.arange(start, min(start + chunk, groups)) for start in starts)
    return np.concatenate([value((row[:, None] != group[None, :]).astype(np.int64)) for row in rows])


def _counts(rng: np.random.Generator, resamples: int, size: int) -> IntArray:
    """How often each example is drawn when ``size`` are drawn with replacement: [resamples, size]."""
    drawn = rng.integers(0, size, size=(resamples, size))
    drawn += np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.int64, copy=False)


def _percentile_of_turns(
    drawn: Callable[[IntArray], FloatArray], estimate: float, size: int, confidence: float, resamples: int, seed: int
) -> Interval:
    _check_resamples(resamples, confidence)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // size)
    draws = np.concatenate(
        [drawn(rng.integers(0, size, size=(min(chunk, resamples - done), size))) for done in range(0, resamples, chunk)]
    )
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    return _holding(estimate, np.quantile(draws, tails), confidence, "percentile")


def _holding(estimate: float, ends: FloatArray, confidence: float, method: str) -> Interval:
    low, high = (float(end) for end in ends)
    return Interval(min(low, estimate), max(high, estimate), confidence, method)


def _defined(draws: FloatArray, size: int) -> FloatArray:
    defined = draws[np.isfinite(draws)]
    if len(defined) < (1 - _UNDEFINED) * len(draws):
        raise EvaluationError(
            f"the statistic is undefined in {len(draws) - len(defined)} of {len(draws)} resamples of {size} examples",
            hint="evaluate more examples, or examples that differ more",
        )
    return defined


def _check_resamples(resamples: int, confidence: float) -> None:
    fewest = int(np.ceil(2 / (1 - check_confidence(confidence)) - 1e-9))
    if resamples < fewest:
        raise EvaluationError(f"{resamples} resamples cannot carry a confidence of {confidence}: take {fewest} or more")


def _times(column: Column, where: str) -> FloatArray:
    values = numeric(check_column(column, where), where)
    if not (values > 0).all():
        raise EvaluationError(f"a measured time is above 0, found {values.min()}", where=where)
    return values
