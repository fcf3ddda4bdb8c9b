"""From what a caller gives (rows, a path, texts, or a model's own inputs) to batches of a model's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data.loading import to_data
from leptonsdk.evaluation.harness import input_batches
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.hooks import EvaluationSettings, Plugins

Batches = Callable[[int], Iterator[Mapping[str, Tensor]]]


def batches_of(
    checkpoint: Checkpoint,
    data: Any,
    columns: Mapping[str, str] | None,
    plugins: Plugins,
    limit: int | None = None,
    max_length: int | None = None,
) -> Batches | None:
    """A function from a batch size to batches; None without data.

    Args:
        checkpoint: Whose task and processor read the data.
        data: As `leptonsdk.evaluate` takes it, or a list of the model's own inputs (mappings of tensors), batched already:
            batches of more rows than are asked for are cut, smaller ones stay as they are, since padding may differ.
        columns: Role to column.
        plugins: For the task's evaluator.
        limit: Rows (of ready inputs: batches) at most.
        max_length: Longest input in tokens.
    """
    if data is None:
        return None
    if are_inputs(data):
        return lambda batch_size: (part for batch in data[:limit] for part in cut(batch, batch_size))
    rows = to_data(data, plugins.get("evaluator", checkpoint.task), plugins, columns=columns, scored=False)

    def make(batch_size: int) -> Iterator[Mapping[str, Tensor]]:
        settings = EvaluationSettings(batch_size=batch_size, max_length=max_length)
        return input_batches(open_subject(checkpoint, plugins), rows, plugins, settings=settings, limit=limit)

    return make


def are_inputs(data: Any) -> bool:
    """Whether data is a list of the model's own inputs, batched already."""
    first = data[0] if isinstance(data, Sequence) and not isinstance(data, str) and data else None
    return isinstance(first, Mapping) and any(isinstance(value, Tensor) for value in first.values())


def cut(batch: Mapping[str, Any], rows: int) -> Iterator[Mapping[str, Any]]:
    """A batch in parts of so many rows. One whose tensors do not share their first axis has no rows, and stays whole."""
    counts = {len(value) if value.dim() else 0 for value in batch.values() if isinstance(value, torch.Tensor)}
    if len(counts) != 1 or (count := counts.pop()) <= rows:
        yield batch
        return
    for start in range(0, count, rows):
        yield {k: v[start : start + rows] if isinstance(v, Tensor) else v for k, v in batch.items()}
