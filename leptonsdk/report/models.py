"""``run.json`` as typed rows: models, their latencies, metrics. What a run did not measure is None here, never an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal

from leptonsdk.report import format as fmt

Role = Literal["baseline", "step", "artifact"]
COSTS: Final = ("latency", "size", "memory")  # conditions of these names are no metrics

_ABSOLUTE: Final = re.compile(r"(?:~?/|[A-Za-z]:[\\/])\S.*")


@dataclass(frozen=True)
class MetricInfo:
    """What a reader must know of a metric."""

    name: str
    higher_is_better: bool
    reference: bool
    description: str

    @property
    def label(self) -> str:
        return fmt.metric_name(self.name)

    @property
    def better(self) -> str:
        """The direction, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def judged(self, change: float | None) -> str:
        """A change in one word: ``better``, ``worse``, ``same``."""
        if change is None or not fmt.known(change):
            return ""
        if abs(change) < fmt.NOISE:
            return "same"
        return "better" if (change > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call at one shape: median, quartiles, the median of each turn."""

    batch_size: int | None
    sequence_length: int | None
    median: float
    low: float
    high: float
    turns: tuple[float, ...]

    @property
    def setting(self) -> tuple[int | None, int | None]:
        return self.batch_size, self.sequence_length


@dataclass(frozen=True)
class Model:
    """One model of the run: the baseline, what a step made, or an exported artifact."""

    name: str
    role: Role
    values: Mapping[str, float]
    timings: tuple[Timing, ...]
    bytes: int | None
    parameters: int | None
    sparsity: float | None
    bits_per_weight: float | None
    memory: int | None
    label: str
    runtime: str
    seconds: float | None
    entry: Mapping[str, Any]

    def value(self, metric: MetricInfo) -> float | None:
        """The metric; a distance to the baseline is 0 for the baseline itself."""
        if self.role == "baseline" and metric.reference:
            return 0.0
        value = self.values.get(metric.name)
        return value if fmt.known(value) else None

    def timing(self, setting: tuple[int | None, int | None]) -> Timing | None:
        return next((timing for timing in self.timings if timing.setting == setting), None)


@dataclass(frozen=True)
class Models:
    """All models of a run, and what to show of them."""

    baseline: Model
    steps: tuple[Model, ...]
    artifacts: tuple[Model, ...]
    metrics: tuple[MetricInfo, ...]

    @property
    def all(self) -> tuple[Model, ...]:
        return (self.baseline, *self.steps, *self.artifacts)

    @property
    def candidates(self) -> tuple[Model, ...]:
        """What the gate judges: the artifacts, or the last step where nothing is exported."""
        return self.artifacts or self.steps[-1:]

    @property
    def settings(self) -> tuple[tuple[int | None, int | None], ...]:
        """Every shape that was timed, in the run's order."""
        return tuple(dict.fromkeys(timing.setting for model in self.all for timing in model.timings))

    def metric(self, name: str) -> MetricInfo:
        """A metric by name; one that the run does not describe is taken as higher-is-better."""
        return next((m for m in self.metrics if m.name == name), MetricInfo(name, True, False, ""))


def read_models(state: Mapping[str, Any]) -> Models:
    """The models in ``run.json``."""
    baseline = _model(state.get("baseline") or {}, "baseline")
    steps = tuple(_model(entry, "step") for entry in state.get("steps") or ())
    artifacts = tuple(_model(entry, "artifact") for entry in state.get("artifacts") or ())
    models = (baseline, *steps, *artifacts)
    return Models(baseline, steps, artifacts, _metrics(state, models))


def primary_metrics(state: Mapping[str, Any], models: Models) -> list[MetricInfo]:
    """The metrics that the gate names, or the first that was measured; never none where there is one."""
    named = [c["metric"] for c in state.get("conditions") or () if c["metric"] not in COSTS]
    names = list(dict.fromkeys(named)) or [m.name for m in models.metrics[:1]]
    return [models.metric(name) for name in names]


def public(value: Any) -> Any:
    """JSON data with absolute paths shortened to their last part: a page travels further than its machine."""
    if isinstance(value, Mapping):
        return {str(key): public(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        path = PurePosixPath(value) if value[0] in "/~" else PureWindowsPath(value)
        return path.name or value
    return value


def _metrics(state: Mapping[str, Any], models: Sequence[Model]) -> tuple[MetricInfo, ...]:
    """Those with a value somewhere, in the task's order; the gate's word on a direction counts."""
    described = {entry["name"]: entry for entry in state.get("metrics") or ()}
    directions = {
        c["metric"]: c["detail"]["higher_is_better"]
        for c in state.get("conditions") or ()
        if "higher_is_better" in (c.get("detail") or {})
    }
    valued = {name for model in models for name in model.values}
    names = [name for name in described if name in valued]
    names += [name for model in models for name in model.values if name not in described]
    found = []
    for name in dict.fromkeys(names):
        entry = described.get(name, {})
        higher = directions.get(name, entry.get("higher_is_better", True))
        found.append(
            MetricInfo(name, bool(higher), bool(entry.get("reference", False)), str(entry.get("description") or ""))
        )
    return tuple(found)


def _model(entry: Mapping[str, Any], role: Role) -> Model:
    return Model(
        name=str(entry.get("name") or role),
        role=role,
        values=entry.get("values") or {},
        timings=tuple(_timing(one) for one in entry.get("latency") or ()),
        bytes=entry.get("bytes"),
        parameters=entry.get("parameters"),
        sparsity=entry.get("sparsity"),
        bits_per_weight=entry.get("bits_per_weight"),
        memory=entry.get("memory_bytes"),
        label=str(entry.get("model") or ""),
        runtime=str(entry.get("runtime") or ""),
        seconds=entry.get("seconds"),
        entry=entry,
    )


def _timing(entry: Mapping[str, Any]) -> Timing:
    median = float(entry["median_ms"])
    low, high = entry.get("quartiles_ms") or (median, median)
    turns = tuple(float(ms) for ms in entry.get("turns_ms") or ())
    return Timing(entry.get("batch_size"), entry.get("sequence_length"), median, float(low), float(high), turns)
