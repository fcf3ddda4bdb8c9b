"""The gate's conditions: two models' measurements and a limit in, a judged `ConditionResult` out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leptonsdk.errors import EvaluationError, ScoresError
from leptonsdk.gating.bootstrap import bootstrap, change, paired_bootstrap
from leptonsdk.gating.columns import Column, Columns, check_column, check_lengths
from leptonsdk.gating.intervals import Interval
from leptonsdk.gating.proportions import paired_proportions, paired_relative_proportions, proportion
from leptonsdk.gating.statistics import Statistic
from leptonsdk.gating.verdict import ConditionResult, judge_lower, judge_upper

_RATIOS = ("min_speedup", "min_reduction")
_ABSOLUTES = ("max_ms", "max_bytes")


def check_same_examples(baseline_ids: Sequence[str], candidate_ids: Sequence[str]) -> None:
    """Both models were evaluated on the same examples in the same order.

    Args:
        baseline_ids: Fingerprint of each example, [n].
        candidate_ids: The same for the candidate.

    Raises:
        EvaluationError: They were not; says how many examples differ, or that only their order does.
    """
    before, after = list(baseline_ids), list(candidate_ids)
    if before == after:
        return
    hint = "evaluate both models on the same dataset, split, revision and number of examples"
    missing, added = Counter(before) - Counter(after), Counter(after) - Counter(before)
    if not missing and not added:
        moved = sum(a != b for a, b in zip(before, after, strict=True))
        raise ScoresError(f"the same {len(before)} examples, but {moved} of them stand in another place", hint=hint)
    raise ScoresError(
        f"the examples differ: {missing.total()} of the baseline's {len(before)} are not among the candidate's, "
        f"{added.total()} of the candidate's {len(after)} are not among the baseline's",
        hint=hint,
    )


def metric_condition(
    name: str,
    baseline: Columns,
    candidate: Columns,
    columns: Sequence[str],
    statistic: Statistic,
    *,
    binary: bool,
    higher_is_better: bool,
    max_drop: float,
    relative: bool,
    confidence: float,
    resamples: int,
    seed: int,
    reference: bool = False,
    subject: str = "",
) -> ConditionResult:
    """Whether a metric got worse by at most ``max_drop``.

    The mean of a binary column has a score interval (Tango 1998; relative: Tang, Tang and Chan 2003; of a reference
    metric: Wilson 1927), everything else a bootstrap (`paired_bootstrap`).

    Args:
        name: The metric's.
        baseline: Columns [n] by name, row i for example i.
        candidate: The same for the same examples (see `check_same_examples`).
        columns: The names of those that the statistic takes, in its order.
        statistic: What to make of them.
        binary: The one column holds 0 and 1.
        higher_is_better: The metric's direction. The drop is baseline - candidate, or candidate - baseline.
        max_drop: The limit, in the metric's unit, or as a share of the baseline's value when ``relative``.
        relative: Divide the drop by abs(baseline).
        confidence: Two-sided, in (0, 1).
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        reference: The metric is a distance to the baseline, whose own value is 0; ``baseline`` is not read.
        subject: Which artifact or step is judged, for people.

    Raises:
        EvaluationError: A missing column, a value that is not finite, different lengths, fewer than two examples, or a
            statistic or change that is undefined for them.
    """
    where = f"metric {name}"
    if reference and (higher_is_better or relative):
        raise EvaluationError(
            "a distance to the baseline is lower-is-better and absolute: it is 0 at best", where=where
        )
    after = _take(candidate, columns, f"{where}, candidate")
    after_value = statistic.value(after)
    scored = binary and statistic.name == "mean"
    if reference:
        before_value = 0.0
        interval = (
            proportion(after[0], confidence)
            if scored
            else bootstrap(after, statistic, confidence=confidence, resamples=resamples, seed=seed)
        )
    else:
        before = _take(baseline, columns, f"{where}, baseline")
        check_lengths([*before, *after])
        before_value = statistic.value(before)
        if scored:
            score = paired_relative_proportions if relative else paired_proportions
            interval = score(before[0], after[0], confidence)
        else:
            interval = paired_bootstrap(
                before, after, statistic, relative=relative, confidence=confidence, resamples=resamples, seed=seed
            )
    signed = change(before_value, after_value, relative=relative)
    if higher_is_better:
        signed, interval = 0.0 - signed, interval.negated()
    detail: dict[str, Any] = {
        "examples": len(after[0]),
        "statistic": statistic.name,
        "relative": relative,
        "higher_is_better": higher_is_better,
    }
    if not scored:
        detail |= {"resamples": resamples, "seed": seed}
    verdict = judge_upper(interval, max_drop)
    return ConditionResult(
        name, before_value, after_value, signed, interval, max_drop, "max_drop", verdict, subject, detail
    )


def ratio_condition(
    metric: str,
    kind: str,
    baseline: float,
    candidate: float,
    interval: Interval,
    limit: float,
    *,
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
) -> ConditionResult:
    """Whether baseline / candidate is at least a limit: ``min_speedup`` of times, ``min_reduction`` of bytes.

    Args:
        metric: ``latency``, ``size`` or ``memory``.
        kind: ``min_speedup`` or ``min_reduction``.
        baseline: The baseline's value, above 0.
        candidate: The candidate's value, above 0, in the same unit.
        interval: Of baseline / candidate (`ratio_of_medians`, or `exact`).
        limit: The least ratio.
        subject: Which artifact or step is judged, for people.
        detail: More for the report.

    Raises:
        EvaluationError: Another kind, values that are not finite and above 0, or an interval that does not hold their
            ratio, which is then an interval of something else.
    """
    where = f"{metric} {kind}"
    if kind not in _RATIOS:
        raise EvaluationError(f"a ratio is limited by {' or '.join(_RATIOS)}", where=where)
    if not all(math.isfinite(value) and value > 0 for value in (baseline, candidate)):
        raise EvaluationError(f"no ratio of {baseline} and {candidate}: both must be above 0", where=where)
    ratio = baseline / candidate
    _check_held(ratio, interval, where)
    verdict = judge_lower(interval, limit)
    return ConditionResult(
        metric, baseline, candidate, ratio, interval, limit, kind, verdict, subject, dict(detail or {})
    )


def absolute_condition(
    metric: str,
    kind: str,
    candidate: float,
    interval: Interval,
    limit: float,
    *,
    baseline: float | None = None,
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
) -> ConditionResult:
    """Whether the candidate's own value is at most a limit: ``max_ms`` milliseconds, ``max_bytes`` bytes.

    Args:
        metric: ``latency``, ``size`` or ``memory``.
        kind: ``max_ms`` or ``max_bytes``.
        candidate: The candidate's value, in the kind's unit.
        interval: Of that value, in that unit (`median_of_turns`, or `exact`).
        limit: The greatest value, in that unit.
        baseline: The baseline's value, for the report.
        subject: Which artifact or step is judged, for people.
        detail: More for the report.

    Raises:
        EvaluationError: Another kind, a value that is not finite or below 0, or an interval that does not hold it (it
            is in another unit, say).
    """
    where = f"{metric} {kind}"
    if kind not in _ABSOLUTES:
        raise EvaluationError(f"a value is limited by {' or '.join(_ABSOLUTES)}", where=where)
    if not (math.isfinite(candidate) and candidate >= 0):
        raise EvaluationError(f"{candidate} cannot have been measured", where=where)
    _check_held(candidate, interval, where)
    verdict = judge_upper(interval, limit)
    return ConditionResult(
        metric, baseline, candidate, candidate, interval, limit, kind, verdict, subject, dict(detail or {})
    )


def _take(scores: Columns, names: Sequence[str], where: str) -> list[Column]:
    if not names:
        raise EvaluationError("a metric is made of at least one column", where=where)
    if missing := [name for name in names if name not in scores]:
        raise EvaluationError(
            f"no column {', '.join(map(repr, missing))}", where=where, hint=f"there are: {', '.join(sorted(scores))}"
        )
    taken = [check_column(scores[name], f"{where}, column '{name}'") for name in names]
    check_lengths(taken)
    return taken


def _check_held(value: float, interval: Interval, where: str) -> None:
    """A guard against a mix-up of units or models; the verdict itself tolerates nothing."""
    slack = 1e-9 * abs(value)
    if not interval.low - slack <= value <= interval.high + slack:
        raise EvaluationError(
            f"the value {value} is not in its interval [{interval.low}, {interval.high}]",
            where=where,
            hint="give both in the same unit",
        )
