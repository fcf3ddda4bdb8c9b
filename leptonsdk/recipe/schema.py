"""The recipe's schema, version 1. Unknown keys are errors; every field carries the description that the docs show."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from leptonsdk.data.spec import DataSpec

VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Strict):
    """The model to compress, which is also the baseline."""

    id: str = Field(description="Hub id, local folder, or `package://name/sub` for an installed package's folder.")
    task: str | None = Field(None, description="The Hub's task name; inferred from the architecture when left out.")
    revision: str | None = Field(None, description="Revision of a Hub model.")
    trust_remote_code: bool = Field(False, description="Run code that the model's repository holds.")


class DataSection(_Strict):
    """The data: what is evaluated on, and what calibration reads."""

    eval: DataSpec = Field(description="Rows to evaluate on. Nothing is ever fitted to them.")
    train: DataSpec | None = Field(None, description="Rows that training steps read.")
    calibration: DataSpec | None = Field(None, description="Rows that calibrated steps and exports read.")


class EvaluationSpec(_Strict):
    """How to evaluate."""

    metrics: list[str] | None = Field(
        None, description="Metrics to keep, `evaluate:NAME_OR_PATH` for others. Default: all."
    )
    batch_size: int = Field(32, gt=0, description="Examples per forward.")
    max_length: int | None = Field(None, gt=1, description="Longest input in tokens. Default: the model's limit.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the task, such as {pooling: cls}.")


class LatencySetting(_Strict):
    """A shape to time."""

    batch_size: int = Field(1, gt=0, description="Examples per call.")
    sequence_length: int | None = Field(
        None, gt=0, description="Tokens per example; only for text. Default: 128, fewer where the model takes fewer."
    )


class ProfileSpec(_Strict):
    """What to time, besides what the gate's conditions name."""

    latency: list[LatencySetting] = Field(default_factory=list, description="Shapes to time.")
    turns: int = Field(15, ge=5, description="How often each model is timed, by turns.")


class MetricCondition(_Strict):
    """How much of a metric may be lost."""

    max_drop: float = Field(ge=0, description="Largest loss that is accepted (for a lower-is-better metric: increase).")
    relative: bool = Field(False, description="As a share of the baseline's value instead of in its own unit.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the two-sided interval that must lie inside.")
    higher_is_better: bool | None = Field(None, description="Direction, for a metric that does not know its own.")


class LatencyCondition(LatencySetting):
    """How fast it must be."""

    min_speedup: float | None = Field(None, gt=0, description="Baseline's median over the artifact's, at least.")
    max_ms: float | None = Field(None, gt=0, description="Median milliseconds, at most.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the interval.")

    @model_validator(mode="after")
    def _one_limit(self) -> LatencyCondition:
        if self.min_speedup is None and self.max_ms is None:
            raise ValueError("give min_speedup or max_ms")
        return self


class _Bytes(_Strict):
    min_reduction: float | None = Field(None, gt=0, description="Baseline's bytes over the artifact's, at least.")
    max_bytes: int | None = Field(None, gt=0, description="Bytes, at most.")

    @model_validator(mode="after")
    def _one_limit(self) -> _Bytes:
        if self.min_reduction is None and self.max_bytes is None:
            raise ValueError("give min_reduction or max_bytes")
        return self


class SizeCondition(_Bytes):
    """How small its files must be."""

    baseline: Literal["source", "fp32"] = Field(
        "source",
        description="What `min_reduction` compares with: the source's files, or its parameters at 4 bytes each.",
    )


class MemoryCondition(_Bytes):
    """How little memory loading and running it may add to a process."""


class GateSpec(BaseModel):
    """The conditions. `latency`, `size` and `memory` are about cost; every other key names a metric."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, MetricCondition]

    latency: list[LatencyCondition] = Field(default_factory=list, description="One condition or a list.")
    size: SizeCondition | None = None
    memory: MemoryCondition | None = None

    @field_validator("latency", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _not_empty(self) -> GateSpec:
        if not (self.latency or self.size or self.memory or self.metrics):
            raise ValueError("a gate without conditions proves nothing: add one, or leave the gate out")
        return self

    @property
    def metrics(self) -> dict[str, MetricCondition]:
        """Conditions on metrics, by the metric's name."""
        return dict(self.__pydantic_extra__ or {})


def named_entries(value: Any) -> Any:
    """A bare name stands for a plugin with its defaults; each entry names one plugin."""
    if not isinstance(value, list):
        return value
    entries: list[Any] = []
    for entry in value:
        if isinstance(entry, str):
            entries.append({entry: {}})
        elif isinstance(entry, dict):
            entries.append({name: {} if config is None else config for name, config in entry.items()})
        else:
            entries.append(entry)
    return entries


class Recipe(_Strict):
    """What the user asks for."""

    version: Literal[1] = Field(description="Version of this schema.")
    model: ModelSpec
    data: DataSection
    steps: list[dict[str, dict[str, Any]]] = Field(
        default_factory=list, description="Compressors, in order; `train` is a training run with some."
    )
    export: list[dict[str, dict[str, Any]]] = Field(default_factory=list, description="Backends to export to.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    profile: ProfileSpec = Field(default_factory=ProfileSpec)
    gate: GateSpec | None = Field(None, description="Conditions that the result must meet.")
    target: str | list[str] | None = Field(
        None,
        description="Where it is to run: names that `lepton targets` lists, or YAML files of the same form. A plan warns of "
        "what is slow or unsupported there; of several targets, on all of them.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything that draws.")
    threads: int | None = Field(None, gt=0, description="CPU threads. Default: the cores that the process may use.")

    @field_validator("steps", "export", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_entries(value)
