"""From measurements to conditions: what the recipe's gate says, put to the gate's statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leptonsdk.errors import EvaluationError
from leptonsdk.evaluation.scores import Scores, library_metric, statistic_of
from leptonsdk.evaluation.timing import Latency, Measurement
from leptonsdk.gating import (
    DEFAULT_RESAMPLES,
    ConditionResult,
    absolute_condition,
    check_same_examples,
    exact,
    median_of_turns,
    metric_condition,
    ratio_condition,
    ratio_of_medians,
)
from leptonsdk.hooks import LIBRARY
from leptonsdk.recipe.schema import GateSpec, LatencyCondition, MemoryCondition, MetricCondition, SizeCondition

FP32_BYTES = 4
_SLOW_RESAMPLES = 1_000  # for a metric that only a library can compute, one resample at a time


@dataclass(frozen=True)
class Candidate:
    """Everything measured of one model that a gate can ask about. ``parameters`` are those of the source model."""

    subject: str
    scores: Scores
    bytes_on_disk: int
    measurement: Measurement | None = None
    parameters: int | None = None


def judge_metrics(
    baseline: Scores, candidate: Scores, conditions: Mapping[str, MetricCondition], *, seed: int, subject: str = ""
) -> list[ConditionResult]:
    """Judge conditions on metrics, paired example by example.

    Raises:
        EvaluationError: The examples differ, or a metric is missing.
    """
    check_same_examples(baseline.ids, candidate.ids)
    results = []
    for name, condition in conditions.items():
        metric = library_metric(name) if name.startswith(LIBRARY) else candidate.metric(name)
        statistic = statistic_of(metric)
        direction = condition.higher_is_better
        results.append(
            metric_condition(
                name,
                baseline.columns,
                candidate.columns,
                metric.columns,
                statistic,
                binary=metric.binary,
                higher_is_better=metric.higher_is_better if direction is None else direction,
                max_drop=condition.max_drop,
                relative=condition.relative,
                confidence=condition.confidence,
                resamples=DEFAULT_RESAMPLES if statistic.vectorised else _SLOW_RESAMPLES,
                seed=seed,
                reference=metric.reference,
                subject=subject,
            )
        )
    return results


def judge(baseline: Candidate, candidate: Candidate, gate: GateSpec, *, seed: int) -> list[ConditionResult]:
    """Every condition of a gate, for one candidate."""
    subject = candidate.subject
    results = judge_metrics(baseline.scores, candidate.scores, gate.metrics, seed=seed, subject=subject)
    for latency in gate.latency:
        results += _judge_latency(baseline, candidate, latency, seed)
    if gate.size is not None:
        before = baseline.bytes_on_disk
        if gate.size.baseline == "fp32":
            if baseline.parameters is None:
                raise EvaluationError("the baseline's parameters are not known", where="gate size")
            before = baseline.parameters * FP32_BYTES
        detail = {"baseline_is": gate.size.baseline}
        results += _judge_bytes("size", before, candidate.bytes_on_disk, gate.size, subject, detail)
    if gate.memory is not None:
        old, new = baseline.measurement, candidate.measurement
        if old is None or new is None:
            raise EvaluationError("it was not measured", where=f"gate memory of {subject}")
        results += _judge_bytes("memory", old.memory, new.memory, gate.memory, subject, {})
    return results


def _judge_latency(
    baseline: Candidate, candidate: Candidate, limit: LatencyCondition, seed: int
) -> list[ConditionResult]:
    before, after = _latency(baseline, limit), _latency(candidate, limit)
    old, new = np.asarray(before.turns), np.asarray(after.turns)
    detail = {"batch_size": limit.batch_size, "sequence_length": after.sequence_length, "turns": len(new)}
    results = []
    if limit.min_speedup is not None:
        interval = ratio_of_medians(old, new, limit.confidence, seed=seed)
        results.append(
            ratio_condition(
                "latency",
                "min_speedup",
                before.median * 1e3,
                after.median * 1e3,
                interval,
                limit.min_speedup,
                subject=candidate.subject,
                detail=detail,
            )
        )
    if limit.max_ms is not None:
        interval = median_of_turns(new * 1e3, limit.confidence, seed=seed)
        results.append(
            absolute_condition(
                "latency",
                "max_ms",
                after.median * 1e3,
                interval,
                limit.max_ms,
                baseline=before.median * 1e3,
                subject=candidate.subject,
                detail=detail,
            )
        )
    return results


def _latency(candidate: Candidate, limit: LatencyCondition) -> Latency:
    for latency in candidate.measurement.latencies if candidate.measurement else ():
        if latency.batch_size == limit.batch_size and limit.sequence_length in (None, latency.sequence_length):
            return latency
    raise EvaluationError(
        "it was not timed at the gate's batch size and length", where=f"latency of {candidate.subject}"
    )


def _judge_bytes(
    metric: str,
    before: int,
    after: int,
    limit: SizeCondition | MemoryCondition,
    subject: str,
    detail: Mapping[str, object],
) -> list[ConditionResult]:
    results = []
    if limit.min_reduction is not None:
        interval = exact(before / after) if after else exact(0.0)
        results.append(
            ratio_condition(
                metric,
                "min_reduction",
                before,
                after,
                interval,
                limit.min_reduction,
                subject=subject,
                detail=dict(detail),
            )
        )
    if limit.max_bytes is not None:
        results.append(
            absolute_condition(
                metric, "max_bytes", after, exact(after), limit.max_bytes, baseline=before, subject=subject
            )
        )
    return results
