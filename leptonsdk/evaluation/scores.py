"""Scores: one row per example, for one model in one runtime, with the examples' fingerprints. Kept as parquet."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leptonsdk.errors import EvaluationError, ScoresError, did_you_mean, first_line
from leptonsdk.gating import Statistic, get_statistic, statistic_from
from leptonsdk.hooks import LIBRARY, Metric

_METADATA = b"leptonsdk"


@dataclass(frozen=True)
class Scores:
    """Per-example scores.

    Attributes:
        task: The task that was scored.
        ids: One fingerprint per example.
        columns: Per-example values, each ``[n]``.
        metrics: The metrics that the columns make.
        model: How people call the model (``torch``, ``onnxruntime int8-dynamic``).
        runtime: What computed: package, version, device, precision.
        data: How people call the data.
        seconds: How long it took.
    """

    task: str
    ids: tuple[str, ...]
    columns: Mapping[str, NDArray[Any]]
    metrics: tuple[Metric, ...]
    model: str = ""
    runtime: str = ""
    data: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != len(self.ids):
                raise EvaluationError(f"column '{name}' has {len(column)} rows for {len(self.ids)} examples")
            if np.issubdtype(column.dtype, np.floating) and not np.isfinite(column).all():
                bad = int((~np.isfinite(column)).sum())
                raise EvaluationError(
                    f"{bad} of {len(column)} examples have a '{name}' that is not finite", where=self.model or self.task
                )

    def metric(self, name: str) -> Metric:
        """A metric of these scores by name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise ScoresError(
            f"no metric '{name}' in the scores of {self.model or self.task}",
            hint=did_you_mean(name, [metric.name for metric in self.metrics]),
        )

    def value(self, name: str) -> float:
        """The metric over all examples."""
        metric = self.metric(name)
        return float(statistic_of(metric).value([self.columns[column] for column in metric.columns]))

    def values(self) -> dict[str, float]:
        """Every metric."""
        return {metric.name: self.value(metric.name) for metric in self.metrics}

    def save(self, path: str | Path) -> None:
        """Write parquet: column ``example`` and one column per score; the rest in the file's metadata. Folders are made."""
        described = {
            "task": self.task,
            "metrics": [dataclasses.asdict(metric) for metric in self.metrics],
            "model": self.model,
            "runtime": self.runtime,
            "data": self.data,
            "seconds": self.seconds,
        }
        table = pa.table({"example": list(self.ids), **{name: pa.array(c) for name, c in self.columns.items()}})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(described)}), path)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ScoresError(f"cannot be read: {error}", where=str(path)) from error
        metadata = (table.schema.metadata or {}).get(_METADATA)
        if metadata is None:
            raise ScoresError("these are not scores of leptonsdk", where=str(path))
        described = json.loads(metadata)
        metrics = tuple(Metric(**{**m, "columns": tuple(m["columns"])}) for m in described.pop("metrics"))
        columns = {name: table[name].to_numpy() for name in table.column_names if name != "example"}
        return cls(ids=tuple(table["example"].to_pylist()), columns=columns, metrics=metrics, **described)


def statistic_of(metric: Metric) -> Statistic:
    """How a metric's columns become its value."""
    if metric.statistic.startswith(LIBRARY):
        return statistic_from(library_statistic(metric.statistic.removeprefix(LIBRARY)), metric.name)
    return get_statistic(metric.statistic)


def library_metric(name: str) -> Metric:
    """A metric of the evaluate library over predictions and labels, by ``evaluate:NAME_OR_PATH``.

    Higher is taken as better; a gate condition can say otherwise.
    """
    return Metric(name, ("prediction", "label"), statistic=name, description=f"{name.removeprefix(LIBRARY)} (evaluate)")


def library_statistic(name: str) -> Callable[..., float]:
    """The value of a metric of the evaluate library, as a function of predictions and references."""
    import evaluate

    try:
        module = evaluate.load(name)
    except Exception as error:
        raise EvaluationError(
            f"the evaluate library cannot load '{name}': {first_line(error)}",
            hint="its named metrics come from the Hub; a local path works without a network",
        ) from error

    def value(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        result = module.compute(predictions=predictions.tolist(), references=references.tolist())
        if len(result) != 1:
            raise EvaluationError(f"'{name}' gives several values: {', '.join(result)}")
        return float(next(iter(result.values())))

    return value
