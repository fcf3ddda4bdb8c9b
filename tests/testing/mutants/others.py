"""Mutants of the tiny training compressor, backend and evaluator, each with one fault, under the check that is meant for it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import Field

from leptonsdk.errors import UsageError
from leptonsdk.hooks import Metric
from mutants.plugins import Classification, Folder, FolderConfig, MaskTraining, Running


class LosesItsLoss(MaskTraining):
    def loss(self, model: Any, inputs: Any, outputs: Any, loss: Any) -> Any:
        return loss + float("nan")


class CountsForItself(MaskTraining):
    """What it counts is not in the model, so that a resumed run has lost it."""

    count = 0

    def update(self, progress: float) -> None:
        super().update(progress)
        self.count += 1

    def finalize(self, model: Any, context: Any) -> Any:
        for layer in self.layers.values():
            layer.weight.data.mul_(1 + 1e-3 * self.count)
        return super().finalize(model, context)


class LeavesWrappers(MaskTraining):
    def prepare(self, model: Any, context: Any) -> None:
        import torch

        from leptonsdk.training import transform_weight

        super().prepare(model, context)
        transform_weight(next(iter(self.layers.values())), "left_over", torch.nn.Identity())


class LeavesMasksOut(MaskTraining):
    def update(self, progress: float) -> None:
        with contextlib.suppress(Exception):
            super().update(progress)


class ScalesOutputs(Folder):
    def write(self, checkpoint: Any, folder: Path) -> None:
        import copy

        if not checkpoint.quantized:
            checkpoint = checkpoint.replace(model=copy.deepcopy(checkpoint.model))
            checkpoint.model.classifier.weight.data.mul_(1.05)
        super().write(checkpoint, folder)


class OneRow(Folder):
    @classmethod
    def load(cls, artifact: Any, *, threads: int | None = None) -> Any:
        return OneRowRunning(artifact)


class OneRowRunning(Running):
    def __call__(self, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) != 1:
            raise ValueError("got invalid dimensions for input: input_ids, index 0, expected 1")
        return super().__call__(**inputs)


class OneLength(Folder):
    @classmethod
    def load(cls, artifact: Any, *, threads: int | None = None) -> Any:
        return OneLengthRunning(artifact)


class OneLengthRunning(Running):
    def __call__(self, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] != 12:
            raise ValueError("got invalid dimensions for input: input_ids, index 1, expected 12")
        return super().__call__(**inputs)


class Picky(Folder):
    @classmethod
    def load(cls, artifact: Any, *, threads: int | None = None) -> Any:
        return PickyRunning(artifact)


class PickyRunning(Running):
    def __call__(self, **inputs: Any) -> Any:
        if unknown := inputs.keys() - self.input_names:
            raise ValueError(f"unknown inputs {unknown}")
        return super().__call__(**inputs)


class ListsTooLittle(Folder):
    def entry(self) -> str:
        return "config.json"


class AloneIsOtherwise(Folder):
    run_alone = str(Folder.run_alone).replace(".logits.numpy()", ".logits.numpy() * 2")


class WritesFloats(Folder):
    def write(self, checkpoint: Any, folder: Path) -> None:
        super().write(checkpoint.replace(quantized={}), folder)


class WritesOtherIntegers(Folder):
    """The same numbers, as integers twice as large of half the scale."""

    def write(self, checkpoint: Any, folder: Path) -> None:
        from leptonsdk.quantization import QuantizedTensor, Scheme

        def doubled(tensor: QuantizedTensor) -> QuantizedTensor:
            if tensor.scheme.num_bits == 8:
                return tensor
            scheme = Scheme(**{**tensor.scheme.model_dump(), "num_bits": 8})
            return QuantizedTensor(tensor.integers * 2, tensor.scale / 2, None, scheme)

        quantized = {name: doubled(tensor) for name, tensor in checkpoint.quantized.items()}
        super().write(checkpoint.replace(quantized=quantized), folder)


class AnyPrecisionConfig(FolderConfig):
    precision: str = Field("auto", description="Anything")


class TakesAnyPrecision(Folder):
    config_class = AnyPrecisionConfig


class LooksAtNothing(Folder):
    def look(self, context: Any) -> None:
        for _ in context.batches(4) if context.batches else ():
            pass


class LooksAwayFromErrors(Folder):
    def look(self, context: Any) -> None:
        try:
            super().look(context)
        except UsageError:
            raise
        except Exception:
            return


class LoadsWhatItLoadedBefore(Folder):
    last: Any = None

    @classmethod
    def load(cls, artifact: Any, *, threads: int | None = None) -> Any:
        with contextlib.suppress(Exception):
            cls.last = super().load(artifact, threads=threads)
        return cls.last


class HoldsNaN(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        import numpy as np

        made = super().evaluate(runner, processor, dataset, settings)
        short = np.array([len(text) < 5 for text in dataset["text"]])
        return {**made, "margin": np.where(short, np.nan, made["margin"])}


class ColumnsOfColumns(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        made = super().evaluate(runner, processor, dataset, settings)
        return {**made, "margin": made["margin"][:, None]}


class SortsByLength(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        order = sorted(range(len(dataset)), key=lambda n: len(dataset[n]["text"]))
        return super().evaluate(runner, processor, dataset.select(order), settings)


class ScoresBatches(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        made = super().evaluate(runner, processor, dataset, settings)
        return {**made, "margin": made["margin"] / settings.batch_size}


class ScoresBySeed(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        import torch

        made = super().evaluate(runner, processor, dataset, settings)
        return {**made, "margin": made["margin"] + torch.initial_seed() % 1009}


class ScoresFailures(Classification):
    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        import numpy as np

        try:
            return super().evaluate(runner, processor, dataset, settings)
        except Exception:
            return {"correct": np.zeros(len(dataset), dtype=np.int64), "margin": np.zeros(len(dataset))}


class PromisesMore(Classification):
    metrics = (*Classification.metrics, Metric("confidence", ("confidence",)))


class NeedsMoreThanItSays(Classification):
    required = (frozenset({"text"}),)


TRAINING: dict[str, type[Any]] = {
    "errors-come-out": LeavesMasksOut,
    "training-finite": LosesItsLoss,
    "resumes": CountsForItself,
    "leaves-plain-modules": LeavesWrappers,
}
BACKENDS: dict[str, type[Any]] = {
    "agrees-with-torch": ScalesOutputs,
    "takes-any-batch": OneRow,
    "takes-any-length": OneLength,
    "answers-like-the-model": Picky,
    "lists-its-files": ListsTooLittle,
    "runs-alone": AloneIsOtherwise,
    "keeps-integers": WritesFloats,
    "refuses-unknown-precision": TakesAnyPrecision,
    "refuses-without-calibration": LooksAtNothing,
    "errors-come-out": LooksAwayFromErrors,
}
MORE: list[tuple[str, type[Any]]] = [
    ("keeps-integers", WritesOtherIntegers),
    ("errors-come-out", LoadsWhatItLoadedBefore),
]
EVALUATORS: dict[str, type[Any]] = {
    "scores-finite": HoldsNaN,
    "one-score-per-example": ColumnsOfColumns,
    "order-does-not-matter": SortsByLength,
    "batch-size-does-not-matter": ScoresBatches,
    "deterministic": ScoresBySeed,
    "makes-its-metrics": PromisesMore,
    "errors-come-out": ScoresFailures,
    "refuses-missing-columns": NeedsMoreThanItSays,
}
