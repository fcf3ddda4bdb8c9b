"""The classes a plugin implements for models: compressors and backends. Those for data and scores: `evaluators`.

This module imports nothing heavy, and a plugin's module that defines such a class should not either: ``lepton plan`` loads
it to read its config. Import torch and the like inside the methods that need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from leptonsdk.errors import UsageError
from leptonsdk.hooks.capabilities import Capabilities, Effect, Need

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization.scheme import Scheme
    from leptonsdk.quantization.scheme_codebooks import CodebookScheme
    from leptonsdk.quantization.tensor_codebook import AnyTensor

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
        quantized: In a training run: the integers behind the weights that it starts from, by module name.
        progress: Call it as ``progress(done, total, what)``.
        device: Where to compute (a torch device string).
        base: Where relative paths in a config start: the recipe's folder.
        threads: CPU threads to use in a runtime's own pool.
    """

    seed: int
    folder: Path
    batches: Callable[[int], Iterator[Batch]] | None = None
    samples: Callable[[int], Iterator[Batch]] | None = None
    quantized: Mapping[str, AnyTensor] = field(default_factory=dict)
    progress: Progress = no_progress
    device: str = "cpu"
    threads: int = 1
    base: Path = field(default_factory=Path)

    def calibration(self, batch_size: int) -> Iterator[Batch]:
        """Calibration batches as model inputs; a `UsageError` says how to give some when there are none."""
        if self.batches is None:
            raise UsageError(
                "calibration data is needed, and none is given", hint="add `data.calibration` to the recipe"
            )
        return self.batches(batch_size)


class Compressor(ABC, Generic[ConfigT]):
    """Base of every compressor: a name, a config class, declared capabilities, and ``examples``: configs that the conformance kit, the
    docs and ``lepton plugins check`` try it with, the shortest first, valid for the kit's tiny models."""

    name: ClassVar[str]
    config_class: ClassVar[type[PluginConfig]]
    capabilities: ClassVar[Capabilities]
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def scheme(self) -> Scheme | CodebookScheme | None:
        """How the weights that it leaves are quantized, where its config says so: backends tell by it what they can hold."""
        return None

    def effects(self) -> frozenset[Effect]:
        """What it leaves behind with this config: all that its capabilities say, or less."""
        return self.capabilities.effects

    def sparsity(self) -> float | None:
        """Share of zeros in the layers that it takes, where its config says so: by default in a field ``sparsity``."""
        share = getattr(self.config, "sparsity", None)
        return float(share) if isinstance(share, (int, float)) else None


class PostTrainingCompressor(Compressor[ConfigT]):
    """Takes a checkpoint, gives back a smaller one. The one it was given stays as it was."""

    def checks_model(self) -> bool:
        """Whether `check` has something to say with this config. Building a model's skeleton takes a plan some seconds."""
        return False

    def check(self, model: nn.Module, done: Collection[str]) -> Collection[str]:
        """Called when a plan is made, with the model on the meta device (shapes, no weights).

        Args:
            model: The source model.
            done: Names of the modules that earlier steps quantize.

        Returns:
            Names of the modules that this step quantizes: later ones leave them alone. None of a step that prunes.

        Raises:
            UsageError: This config cannot be applied to the model.
        """
        return ()

    @abstractmethod
    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The compressed checkpoint."""


class TrainingCompressor(Compressor[ConfigT]):
    """Acts inside a Trainer run, beside others, in the order in which they are given.

    `student` comes first, then `prepare`, once; then `parameter_groups`, before the optimizer is made; `update` at the start
    and after every optimizer step, and `loss` for every batch; `finalize` last. Whatever must survive an interruption is a
    parameter or a buffer of the model (`prepare` adds it), so that the Trainer's own checkpoints hold it and every process
    of a distributed run has the same; schedules follow from `update`'s progress alone.

    Sharded training (FSDP2) replaces parameters, by ones of which each process holds a part outside of the forward: keep
    modules instead of parameters, read them in `loss`, `update` and `logs` through `leptonsdk.training.whole`, on every process
    alike, and add none without dimensions. `finalize` has a whole model again.
    """

    def student(self, model: nn.Module) -> nn.Module:
        """The model to train in the place of the one that was given; called first, before there is a Trainer."""
        return model

    @abstractmethod
    def prepare(self, model: nn.Module, context: StepContext) -> None:
        """Attach what the training needs: masks, fake quantizers, a teacher. The model computes as before, or nearly."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups for parameters that `prepare` added, each with ``params``; the rest is the optimizer's default."""
        return []

    def model_inputs(self) -> Mapping[str, Any]:
        """More arguments for the model's forward in training, such as ``output_hidden_states``."""
        return {}

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, loss: Tensor) -> Tensor:
        """The loss with this one's part in it.

        Args:
            model: In training, wrapped as the Trainer has it.
            inputs: The batch, labels included.
            outputs: The model's.
            loss: So far, as a mean over the batch's items. What comes back is one too; the Trainer scales it for
                gradient accumulation and several processes.
        """
        return loss

    def update(self, progress: float) -> None:
        """Move schedules on; progress runs from 0 to 1 over the optimizer's steps."""

    def settled(self, progress: float) -> bool:
        """Whether the model is at its target by then. Checkpoints from before do not count as the best one."""
        return True

    def logs(self) -> Mapping[str, float]:
        """What to log since the last call: sparsity, parts of the loss."""
        return {}

    @abstractmethod
    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Fold, remove, shrink: plain modules are left. It may change the model in place."""

    def checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """After `finalize`: the finished model's checkpoint, with what does not stand in the model, such as integers."""
        return checkpoint


@runtime_checkable
class Runner(Protocol):
    """A model ready to run: called with the source model's inputs, it returns an object with the same output names.

    ``runtime`` names what computes (package, version, device, precision); ``input_names`` are the inputs it reads.
    """

    runtime: str
    input_names: frozenset[str]

    def __call__(self, **inputs: Tensor) -> Any: ...


@dataclass(frozen=True)
class StoredIntegers:
    """A quantized weight as an artifact's files hold it: ``(integers - zero_point) * scale``.

    Attributes:
        integers: Signed, int8, [out, in].
        scale: [out, groups].
        zero_point: Of the scale's shape; None where all are 0.
    """

    integers: NDArray[Any]
    scale: NDArray[Any]
    zero_point: NDArray[Any] | None = None


@dataclass(frozen=True)
class WeightProfile:
    """What stands in a model's weight files.

    Attributes:
        parameters: Weights, counted once where they are shared; scales and zero points are no weights.
        zeros: How many of them are exactly zero.
        bits: Bits that store them, scales and zero points included.
    """

    parameters: int
    zeros: int
    bits: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def bits_per_weight(self) -> float:
        return self.bits / self.parameters if self.parameters else 0.0


class Backend(ABC, Generic[ConfigT]):
    """Exports checkpoints to a runtime and loads what it exported.

    ``config_class`` must have a field ``precision``; `precisions` names its valid values. ``runtime_modules`` are what `load`
    imports: they are imported before memory is measured, so that a model's memory is not its runtime's. ``examples`` are as a
    compressor's. ``takes_input_scales``: where calibration data is required, the scales of inputs that a checkpoint carries from
    training do too. ``run_alone``: lines of Python that run an artifact without leptonsdk, by a function ``run(entry, inputs)`` from the path
    of its entry and arrays by name to arrays by name; None where only `load` can.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[PluginConfig]]
    precisions: ClassVar[tuple[str, ...]]
    runtime_modules: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    takes_input_scales: ClassVar[bool] = True
    run_alone: ClassVar[str | None] = None

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def calibration(self) -> Need:
        """Whether an export with this config reads calibration data: ``never``, ``optional`` or ``required``."""
        return "never"

    def keeps_integers(self) -> bool:
        """Whether an export with this config writes a checkpoint's integers as they are, not the numbers they stand for."""
        return False

    def cannot_hold(self, scheme: Scheme | CodebookScheme) -> str | None:
        """Why the runtime cannot hold weights of a scheme as they are; None where it can. Asked of one that keeps integers."""
        return None

    def cannot_multiply(self, scheme: Scheme | CodebookScheme) -> str | None:
        """Why an export with this config refuses weights of a scheme whose inputs have scales from training; None where it does not."""
        return None

    @classmethod
    def untimed(cls) -> str | None:
        """Why latency and memory of its runner say nothing on this system (an evaluation by reference, say); None where they
        do. What is untimed is not profiled, and a plan whose gate asks for its latency or memory has an error.
        """
        return None

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

    @classmethod
    def weights(cls, artifact: Artifact) -> WeightProfile | None:
        """What the artifact's files hold, read from them; None when the backend cannot tell."""
        return None

    @classmethod
    def integers(cls, artifact: Artifact) -> Mapping[str, StoredIntegers] | None:
        """The integers of a checkpoint that the artifact's files hold, read from them, by the source's module names; None when the
        backend cannot tell. Asked of artifacts of one that keeps integers.
        """
        return None
