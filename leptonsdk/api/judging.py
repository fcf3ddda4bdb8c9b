"""Score models and artifacts, and judge what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from leptonsdk.api.common import installed_plugins, wrong
from leptonsdk.api.models import as_subject
from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.hooks import EvaluationSettings, Plugins
from leptonsdk.hooks.classes import Progress, no_progress
from leptonsdk.pipeline.fingerprints import available_threads

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.evaluation.scores import Scores
    from leptonsdk.gating import ConditionResult, Verdict


def evaluate(
    model: Checkpoint | Artifact | str | Path,
    data: Any,
    *,
    task: str | None = None,
    metrics: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
    baseline: Checkpoint | Artifact | str | Path | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
) -> Scores:
    """Score a model, or an exported artifact in its runtime, example by example.

    Args:
        model: A checkpoint, an artifact, or the folder or reference of either.
        data: A name or path, a `DataSpec`, a dataset, or rows.
        task: When ``model`` is a reference.
        metrics: To keep; ``evaluate:NAME_OR_PATH`` adds one of the evaluate library. Default: all of the task.
        columns: Role to column.
        limit: Use this many rows, drawn with the seed.
        batch_size: Examples per forward.
        max_length: Longest input in tokens.
        options: Of the task, such as ``{"pooling": "cls"}``.
        baseline: For metrics that are a distance to it (``kl``): a checkpoint, an artifact, or a reference.
        seed: Of the drawing.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
    """
    from leptonsdk.data.loading import to_data
    from leptonsdk.evaluation.harness import evaluate as score

    plugins = plugins or installed_plugins()
    subject = as_subject(model, task)
    evaluator = plugins.get("evaluator", subject.task)
    return score(
        subject,
        to_data(data, evaluator, plugins, columns=columns, limit=limit, seed=seed),
        plugins,
        metrics=metrics,
        settings=EvaluationSettings(
            batch_size=batch_size, max_length=max_length, options=dict(options or {}), progress=progress
        ),
        baseline=None if baseline is None else as_subject(baseline, task),
        threads=available_threads(),
    )


@dataclass(frozen=True)
class GateResult:
    """A verdict (``pass``, ``fail``, ``inconclusive``) and the conditions that it rests on."""

    verdict: Verdict
    conditions: tuple[ConditionResult, ...]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive."""
        from leptonsdk.gating import EXIT_CODES

        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "conditions": [condition.as_dict() for condition in self.conditions]}


def gate(baseline: Scores, candidate: Scores, conditions: Mapping[str, Any], *, seed: int = 0) -> GateResult:
    """Judge whether a candidate lost too much, paired example by example.

    Args:
        baseline: Scores of the source model.
        candidate: Scores of the compressed one, on the same examples.
        conditions: Metric to condition: ``{"accuracy": {"max_drop": 0.01, "confidence": 0.95}}``.
        seed: Of the bootstrap.

    Raises:
        UsageError: A condition that is not valid.
        EvaluationError: The examples differ, or a metric is missing.
    """
    from leptonsdk.gating import overall
    from leptonsdk.pipeline.judging import judge_metrics
    from leptonsdk.recipe.schema import MetricCondition

    try:
        parsed = {name: MetricCondition.model_validate(condition) for name, condition in conditions.items()}
    except ValidationError as error:
        raise UsageError(wrong(error), where="gate") from error
    results = judge_metrics(baseline, candidate, parsed, seed=seed, subject=candidate.model)
    return GateResult(overall(result.verdict for result in results), tuple(results))
