"""One harness for every model: the same examples through a torch model or through an artifact in its runtime."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data.loading import Data, fingerprint_rows
from leptonsdk.errors import DataError, ScoresError, UsageError, did_you_mean
from leptonsdk.evaluation.scores import Scores, library_metric
from leptonsdk.evaluation.subjects import Subject, open_subject
from leptonsdk.hooks import LIBRARY, EvaluationSettings, Evaluator, Metric, Plugins, errors_named
from leptonsdk.hooks.evaluators import unknown_options

if TYPE_CHECKING:
    from torch import Tensor


def evaluate(
    model: Checkpoint | Artifact | Subject,
    data: Data,
    plugins: Plugins,
    *,
    metrics: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    baseline: Checkpoint | Artifact | None = None,
    threads: int | None = None,
) -> Scores:
    """Score a model on a dataset, example by example.

    Args:
        model: A checkpoint (run in torch), an artifact (run in its runtime), or either one opened.
        data: Rows mapped to the task's roles.
        plugins: Where tasks and backends come from.
        metrics: Names to keep; ``evaluate:NAME_OR_PATH`` adds one of the evaluate library. Default: all of the task.
        settings: Batch size, longest input, progress.
        baseline: For metrics that are a distance to it, such as ``kl``; without it they are left out. The model itself
            may be it.
        threads: Of the runtime's own pool.

    Raises:
        EvaluationError: A score is not finite, or a metric is not to be had from this data.
        UsageError: The task has no such option.
    """
    subject = model if isinstance(model, Subject) else open_subject(model, plugins, threads=threads)
    evaluator = plugins.get("evaluator", subject.task)()
    _check_options(evaluator, settings)
    settings = subject_settings(subject, settings)
    made = [column for metric in evaluator.metrics for column in metric.columns]
    chosen_metrics(evaluator, dict.fromkeys(made), [name for name in metrics or () if not name.startswith(LIBRARY)])
    if baseline is not None:
        reference = subject.runner if baseline is model else open_subject(baseline, plugins).runner
        settings = dataclasses.replace(settings, reference=reference)
    at_work = (type(evaluator), *(() if subject.backend is None else (subject.backend,)))
    with errors_named(*at_work):
        examples = evaluator.examples(data.rows, subject.processor, settings)
        ids = data.ids if examples is data.rows else fingerprint_rows(examples)
        start = time.perf_counter()
        columns = dict(evaluator.evaluate(subject.runner, subject.processor, examples, settings))
    return Scores(
        task=subject.task,
        ids=ids,
        columns=columns,
        metrics=chosen_metrics(evaluator, columns, metrics),
        model=subject.label,
        runtime=subject.runner.runtime,
        data=data.label,
        seconds=time.perf_counter() - start,
    )


def _check_options(evaluator: Evaluator, settings: EvaluationSettings | None) -> None:
    for name in () if settings is None else unknown_options(type(evaluator), settings.options):
        hint = did_you_mean(name, evaluator.options or ())
        raise UsageError(f"there is no option '{name}'", where=evaluator.name, hint=hint)


def subject_settings(subject: Subject, settings: EvaluationSettings | None) -> EvaluationSettings:
    """The settings with the subject's own options under the asked ones."""
    settings = settings or EvaluationSettings()
    return dataclasses.replace(settings, options={**subject.options, **settings.options})


def chosen_metrics(evaluator: Evaluator, columns: Mapping[str, Any], names: Sequence[str] | None) -> tuple[Metric, ...]:
    """The metrics that these columns make, restricted to the asked ones. One that is asked for and cannot be: an error."""
    offered = {metric.name: metric for metric in evaluator.metrics if set(metric.columns) <= columns.keys()}
    if names is None:
        return tuple(offered.values())
    chosen = []
    for name in names:
        metric = library_metric(name) if name.startswith(LIBRARY) else offered.get(name)
        if metric is None or not set(metric.columns) <= columns.keys():
            raise ScoresError(
                f"the metric '{name}' cannot be computed from this data",
                where=evaluator.name,
                hint=f"can: {list(offered)}",
            )
        chosen.append(metric)
    return tuple(chosen)


def input_batches(
    subject: Subject, data: Data, plugins: Plugins, *, settings: EvaluationSettings, limit: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Batches of model inputs from a dataset, in order: what calibration and parity checks feed.

    Raises:
        DataError: It lacks a column that the inputs are made of.
    """
    evaluator = plugins.get("evaluator", subject.task)()
    settings = subject_settings(subject, settings)
    with errors_named(type(evaluator)), _missing_columns(evaluator, data):
        examples = evaluator.examples(data.rows, subject.processor, settings)
    total = len(examples) if limit is None else min(limit, len(examples))
    for start in range(0, total, settings.batch_size):
        rows = examples[start : min(start + settings.batch_size, total)]
        with errors_named(type(evaluator)), _missing_columns(evaluator, data):
            inputs = evaluator.encode(subject.processor, rows, settings)
        yield inputs


@contextmanager
def _missing_columns(evaluator: Evaluator, data: Data) -> Iterator[None]:
    """A role that is looked up, and that the data lacks, is a `DataError`."""
    try:
        yield
    except KeyError as error:
        if error.args[0] not in evaluator.columns.keys() - set(data.rows.column_names):
            raise
        message = f"it has no '{error.args[0]}', which inputs are made of"
        raise DataError(message, where=f"data '{data.label}' for {evaluator.name}") from error
