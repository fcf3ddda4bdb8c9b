"""The classes a plugin implements for data and scores: evaluators, their metrics, datasets. As light to import as `classes`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.hooks.classes import Progress, Runner, no_progress

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

MODEL_OPTIONS = frozenset(
    {"decoder_start_token_id", "label2id", "max_positions", "max_target_positions", "pooling", "prefix"}
)
"""Options (`EvaluationSettings.options`) that a model's own files give; a user may give others."""

LIBRARY = "evaluate:"
"""How a metric of the evaluate library is named: ``evaluate:NAME_OR_PATH``."""


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
    """How to evaluate.

    Attributes:
        batch_size: Examples per forward.
        max_length: Longest input in tokens; None: the model's own limit.
        reference: The baseline's runner, for metrics that are a distance to it; the very runner where that is evaluated.
        progress: Shown to people.
        options: What belongs to the model or the task, such as ``{"pooling": "mean"}``.
    """

    batch_size: int = 32
    max_length: int | None = None
    reference: Runner | None = None
    progress: Progress = no_progress
    options: Mapping[str, Any] = field(default_factory=dict)


class Evaluator(ABC):
    """A task: which columns it reads, which metrics it offers, how a model's outputs become per-example scores.

    Attributes:
        name: The task's name on the Hub; ``HUB-TASK/NAME`` for one of your own that is about the same models
            (``feature-extraction/alignment``).
        columns: Each role, and the column names that are taken for it when the user maps none.
        required: Alternatives: the roles of at least one of these sets must be there.
        metrics: What it offers. A metric counts where `evaluate` made its columns.
        files: Roles that are audio files: text in them is a path, and `encode` gets ``{"path", "bytes"}``, undecoded.
        length_input: The model input whose second axis is the sequence length, or None where there is none to choose.
        options: Names in `EvaluationSettings.options` that it reads, beside those that a model brings (`MODEL_OPTIONS`): others are
            refused. None: it takes any.
        example_options: Options (`EvaluationSettings.options`) that the conformance kit tries it with.
        example_rows: Values by role, for the kit, of as many rows; default: made up, by the roles' names.
    """

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, Sequence[str]]]
    required: ClassVar[tuple[frozenset[str], ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    files: ClassVar[frozenset[str]] = frozenset()
    length_input: ClassVar[str | None] = None
    options: ClassVar[frozenset[str] | None] = None
    example_options: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    example_rows: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        """The rows as the examples that are scored; a language model's text is cut into windows here, say."""
        return rows

    @abstractmethod
    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        """Model inputs for some rows (role -> values), labels left out: what calibration, parity and timing feed."""

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        """Model inputs for some rows with ``labels``; without them where the task has none, and only a teacher can teach it."""
        return self.encode(processor, rows, settings)

    def lengths(self, processor: Any, dataset: Dataset, settings: EvaluationSettings) -> list[int]:
        """Each example's length along ``length_input``, so that a training can batch like with like."""
        if self.length_input is None:
            return [1] * len(dataset)
        inputs = (self.encode(processor, dataset[i : i + 1], settings) for i in range(len(dataset)))
        return [encoded[self.length_input].shape[1] for encoded in inputs]

    @abstractmethod
    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        """Per-example columns, each of length ``len(dataset)`` (the examples), row i for example i."""


def unknown_options(evaluator: type[Evaluator], given: Iterable[str]) -> list[str]:
    """Those of the given names that mean nothing to an evaluator."""
    return [] if evaluator.options is None else sorted(set(given) - evaluator.options - MODEL_OPTIONS)


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
