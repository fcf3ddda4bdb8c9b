"""The classes a plugin implements: compressors, backends, evaluators and datasets.

This module imports nothing heavy, and a plugin's module that defines such a class should not either: ``lepton plan`` loads
it to read its config. Import torch and the like inside the methods that need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from leptonsdk.errors import UsageError
from leptonsdk.hooks.capabilities import Capabilities

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint

Batch = Mapping[str, "Tensor"]
Progress = Callable[[int, int, str], None]


class PluginConfig(BaseModel):
    """Base of every plugin's config: unknown keys are errors, and every field carries a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ConfigT = TypeVar("ConfigT", bound=PluginConfig)


def no_progress(done: int, total: int, what: str) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class StepContext:
    """What a step may use besides the checkpoint.

    Attributes:
        seed: The run's seed. Make a generator from it; never set a global one.
        folder: A scratch folder of this step, kept until the step is finished, so that interrupted work can go on.
        batches: Makes batches of the model's inputs from the recipe's calibration data, or None when there are none.
        samples: The same from a few rows of the evaluation data, for parity checks; never used to fit anything.
        progress: Call it as ``progress(done, total, what)``.
        device: Where to compute (a torch device string).
        threads: CPU threads to use in a runtime's own pool.
    """

    seed: int
    folder: Path
    batches: Callable[[int], Iterator[Batch]] | None = None
    samples: Callable[[int], Iterator[Batch]] | None = None
    progress: Progress = no_progress
    device: str = "cpu"
    threads: int = 1

    def calibration(self, batch_size: int) -> Iterator[Batch]:
        """Calibration batches as model inputs; a `UsageError` says how to give some when there are none."""
        if self.batches is None:
            raise UsageError("calibration data is needed, and none is given", hint="add `data.calibration` to the recipe")
        return self.batches(batch_size)


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training run stands: ``fraction`` runs from 0 to 1 over all optimizer steps."""

    step: int
    total_steps: int

    @property
    def fraction(self) -> float:
        return self.step / self.total_steps if self.total_steps else 1.0


class Compressor(ABC, Generic[ConfigT]):
    """Base of every compressor: a name, a config class, declared capabilities."""

    name: ClassVar[str]
    config_class: ClassVar[type[PluginConfig]]
    capabilities: ClassVar[Capabilities]

    def __init__(self, config: ConfigT) -> None:
        self.config = config


class PostTrainingCompressor(Compressor[ConfigT]):
    """Takes a checkpoint, gives back a smaller one. The one it was given stays as it was."""

    @abstractmethod
    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The compressed checkpoint."""


class TrainingCompressor(Compressor[ConfigT]):
    """Acts inside a Trainer run, together with others."""

    @abstractmethod
    def prepare(self, model: nn.Module, context: StepContext) -> None:
        """Attach masks, fake quantizers, a teacher."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Extra optimizer groups, such as mask scores with a learning rate of their own."""
        return []

    def loss(self, model: nn.Module, inputs: Batch, outputs: Any, loss: Tensor) -> Tensor:
        """The loss with this compressor's term in it."""
        return loss

    def update(self, progress: TrainingProgress) -> None:
        """Move schedules; called before every optimizer step."""
        return None

    @abstractmethod
    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Fold, remove, shrink: plain modules are left."""


@runtime_checkable
class Runner(Protocol):
    """A model ready to run: called with the source model's inputs, it returns an object with the same output names.

    ``runtime`` names what computes (package, version, device, precision); ``input_names`` are the inputs it reads.
    """

    runtime: str
    input_names: frozenset[str]

    def __call__(self, **inputs: Tensor) -> Any: ...


class Backend(ABC, Generic[ConfigT]):
    """Exports checkpoints to a runtime and loads what it exported.

    ``config_class`` must have a field ``precision``; `precisions` names its valid values.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[PluginConfig]]
    precisions: ClassVar[tuple[str, ...]]

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def needs_calibration(self) -> bool:
        """Whether an export with this config reads calibration data."""
        return False

    def version(self) -> str:
        """The runtime's version, part of every step key."""
        return ""

    @abstractmethod
    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        """Write the artifact into ``folder`` (exists, empty) and describe it. Parity with the source is checked here."""

    @classmethod
    @abstractmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open the artifact in its own runtime."""


@dataclass(frozen=True)
class Metric:
    """A number made of per-example columns.

    Attributes:
        name: As a recipe names it (``accuracy``, ``mrr@10``).
        columns: The per-example columns it is made of, in the order that the statistic takes them.
        statistic: How: ``mean``, ``ratio`` (sum over sum), ``exp_ratio``, or another name that the gate knows, or
            ``evaluate:NAME_OR_PATH`` for a metric of the evaluate library.
        higher_is_better: The direction.
        binary: The one column holds 0 and 1, so that a score interval for paired proportions applies.
        reference: The value is a distance to the baseline itself (the baseline's own value is 0 by definition).
        description: One line for people.
    """

    name: str
    columns: tuple[str, ...]
    statistic: str = "mean"
    higher_is_better: bool = True
    binary: bool = False
    reference: bool = False
    description: str = ""


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate: examples per forward, longest input (tokens), the baseline for distances to it, progress."""

    batch_size: int = 32
    max_length: int | None = None
    reference: Runner | None = None
    progress: Progress = no_progress
    options: Mapping[str, Any] = field(default_factory=dict)


class Evaluator(ABC):
    """A task: which columns it reads, which metrics it offers, how a model's outputs become per-example scores.

    ``columns`` maps each role to the column names that are taken for it when the user maps none;
    ``optional_columns`` names roles that may be missing.
    """

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, Sequence[str]]]
    optional_columns: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def encode(self, checkpoint_processor: Any, rows: Mapping[str, Sequence[Any]], max_length: int | None) -> Batch:
        """Model inputs for some rows (role -> values); labels are left out."""

    @abstractmethod
    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        """Per-example columns, each of length ``len(dataset)``, row i for example i."""


class DatasetProvider(ABC):
    """A dataset under a short name that needs no download (it is made from an installed package, say)."""

    name: ClassVar[str]
    description: ClassVar[str] = ""

    @abstractmethod
    def load(self, split: str | None) -> Dataset:
        """The rows."""

    @abstractmethod
    def version(self) -> str:
        """What the rows depend on, such as a package's version."""
