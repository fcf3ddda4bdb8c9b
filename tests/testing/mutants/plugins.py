"""One correct tiny plugin of each kind. They import nothing heavy at module level, as a plugin should."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.hooks import (
    Backend,
    Capabilities,
    Evaluator,
    Metric,
    PluginConfig,
    PostTrainingCompressor,
    StoredIntegers,
    TrainingCompressor,
)
from leptonsdk.quantization import LayerQuantizer, QuantizerConfig, layers_to_quantize, matches, weight_of


def chosen(model: Any, config: Any) -> dict[str, Any]:
    """Linear layers that targets and ignore mean, but for those whose weight is an embedding's."""
    from leptonsdk.quantization import class_names, tied_layers
    from leptonsdk.quantization.layers import linear_layers

    tied = tied_layers(model)
    layers = {
        name: layer
        for name, layer in linear_layers(model).items()
        if name not in tied and matches(name, class_names(layer), config.targets, config.ignore)
    }
    if not layers:
        raise UsageError("no layer is meant", where="targets")
    return layers


class PrunerConfig(PluginConfig):
    sparsity: float = Field(0.5, ge=0, lt=1, description="Share of each row that becomes zero")
    targets: tuple[str, ...] = Field(("Linear", "Conv1D"), description="Layers to prune")
    ignore: tuple[str, ...] = Field(("lm_head",), description="Layers to leave")


class Pruner(PostTrainingCompressor[PrunerConfig]):
    """Sets to zero what is smallest by its size times its input's norm."""

    name: ClassVar[str] = "tiny-pruner"
    config_class: ClassVar[type[PluginConfig]] = PrunerConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"sparsifies"}),
        calibration="required",
        preserves_zeros=True,
        may_not_follow=frozenset({"quantizes"}),
    )

    def compress(self, checkpoint: Any, context: Any) -> Any:
        norms = self.norms(checkpoint.model, context)
        model = copy.deepcopy(checkpoint.model)
        for name, layer in chosen(model, self.config).items():
            self.prune(weight_of(layer).data, norms[name])
        self.finish(model, checkpoint, context)
        return checkpoint.replace(model=model)

    def norms(self, model: Any, context: Any) -> dict[str, Any]:
        import torch

        squares: dict[str, Any] = {}

        def watch(name: str) -> Any:
            def add(module: Any, inputs: Any) -> None:
                squares[name] = squares.get(name, 0) + inputs[0].detach().flatten(0, -2).pow(2).sum(0)

            return add

        handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in chosen(model, self.config).items()]
        try:
            with torch.no_grad():
                for batch in self.batches(context):
                    model(**batch)
        finally:
            for handle in handles:
                handle.remove()
        if not squares:
            self.nothing()
        return {name: value.sqrt() for name, value in squares.items()}

    def batches(self, context: Any) -> Any:
        return context.calibration(8)

    def nothing(self) -> None:
        raise UsageError("the calibration data has no rows", where=self.name)

    def prune(self, weight: Any, norms: Any) -> None:
        count = round(weight.shape[1] * self.share())
        smallest = self.score(weight, norms).topk(count, dim=1, largest=False).indices
        weight.scatter_(1, smallest, 0.0)

    def share(self) -> float:
        return self.config.sparsity

    def score(self, weight: Any, norms: Any) -> Any:
        return weight.abs() * norms

    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        """Nothing more; mutants do more."""


class Quantizer(LayerQuantizer[QuantizerConfig]):
    """Rounds to the nearest integers."""

    name: ClassVar[str] = "tiny-quantizer"
    config_class: ClassVar[type[PluginConfig]] = QuantizerConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes"}), preserves_zeros=True, formats=("compressed-tensors", "safetensors")
    )
    examples = ({"bit_width": 8},)

    def compress(self, checkpoint: Any, context: Any) -> Any:
        from leptonsdk.quantization import round_to_nearest

        model, quantized, config = copy.deepcopy(checkpoint.model), self.before(checkpoint), self.config
        for layer in layers_to_quantize(model, config.resolve(), config.targets, config.ignore, checkpoint.quantized):
            quantized[layer.name] = round_to_nearest(layer.weight.data, config.resolve())
            layer.weight.data.copy_(quantized[layer.name].dequantize(layer.weight.dtype))
        return checkpoint.replace(model=model, quantized=quantized)

    def before(self, checkpoint: Any) -> dict[str, Any]:
        return dict(checkpoint.quantized)


class MaskTraining(TrainingCompressor[PrunerConfig]):
    """Masks the smallest weights from the middle of the training on."""

    name: ClassVar[str] = "tiny-masks"
    config_class: ClassVar[type[PluginConfig]] = PrunerConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"sparsifies"}), preserves_zeros=True, may_not_follow=frozenset({"quantizes"})
    )

    def prepare(self, model: Any, context: Any) -> None:
        from leptonsdk.training import transform_weight
        from mutants.masks import Mask

        self.layers = chosen(model, self.config)
        self.masks = {
            name: Mask(layer.weight, weight_of(layer) is not layer.weight) for name, layer in self.layers.items()
        }
        for name, layer in self.layers.items():
            transform_weight(layer, "tiny_mask", self.masks[name])

    def update(self, progress: float) -> None:
        if progress >= 0.5:
            for name, layer in self.layers.items():
                self.masks[name].cut(layer.weight, self.config.sparsity)

    def finalize(self, model: Any, context: Any) -> Any:
        from leptonsdk.training import fold

        for layer in self.layers.values():
            fold(layer, "tiny_mask")
        return model


Precision = Literal["auto", "fp32", "packed", "calibrated"]


class FolderConfig(PluginConfig):
    precision: Precision = Field("auto", description="packed: a checkpoint's integers; calibrated: looks at data; auto")


class Folder(Backend[FolderConfig]):
    """A transformers folder, run by torch."""

    name: ClassVar[str] = "tiny-folder"
    config_class: ClassVar[type[PluginConfig]] = FolderConfig
    precisions: ClassVar[tuple[str, ...]] = ("auto", "fp32", "packed", "calibrated")
    examples = ({}, {"precision": "calibrated"})
    run_alone = """
import json, pathlib
import torch, transformers
def run(entry, inputs):
    folder = pathlib.Path(entry).parent
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    with torch.inference_mode():
        return {"logits": model(**{key: torch.as_tensor(value) for key, value in inputs.items()}).logits.numpy()}
"""

    def calibration(self) -> Any:
        return "required" if self.config.precision == "calibrated" else "never"

    def keeps_integers(self) -> bool:
        return self.config.precision in ("auto", "packed")

    def export(self, checkpoint: Any, folder: Path, context: Any) -> Artifact:
        if self.config.precision == "calibrated":
            self.look(context)
        self.write(checkpoint, folder)
        precision = "packed" if checkpoint.quantized else "fp32"
        return Artifact(folder, self.name, precision, checkpoint.task, self.entry(), (self.entry(),))

    def look(self, context: Any) -> None:
        for _ in context.calibration(4):
            pass

    def write(self, checkpoint: Any, folder: Path) -> None:
        checkpoint.save(folder)

    def entry(self) -> str:
        return "model.safetensors"

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Any:
        return Running(artifact)

    @classmethod
    def weights(cls, artifact: Artifact) -> Any:
        from leptonsdk.evaluation.weights import profile_safetensors

        return profile_safetensors(artifact.folder)

    @classmethod
    def integers(cls, artifact: Artifact) -> Any:
        from leptonsdk.api import load_model

        quantized = load_model(artifact.folder, task=artifact.task).quantized
        return {
            name: StoredIntegers(tensor.integers.numpy(), tensor.scale.float().numpy())
            for name, tensor in quantized.items()
        }


class Running:
    """A runner: drops inputs that the model does not take."""

    runtime = "torch"

    def __init__(self, artifact: Artifact) -> None:
        import inspect

        from leptonsdk.checkpoint import load_checkpoint

        self.model: Any = load_checkpoint(artifact.folder, task=artifact.task).model
        self.input_names = frozenset(inspect.signature(self.model.forward).parameters)

    def __call__(self, **inputs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(**{name: value for name, value in inputs.items() if name in self.input_names})


class Classification(Evaluator):
    """Whether the label is right, and by how much."""

    name = "tiny-classification"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"text": (), "label": ()}
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "label"}),)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", ("correct",), binary=True),
        Metric("margin", ("margin",)),
    )

    def encode(self, processor: Any, rows: Any, settings: Any) -> Any:
        return dict(processor(list(rows["text"]), padding=True, return_tensors="pt"))

    def evaluate(self, runner: Any, processor: Any, dataset: Any, settings: Any) -> Any:
        import numpy as np

        made = []
        for start in range(0, len(dataset), settings.batch_size):
            rows = dataset[start : start + settings.batch_size]
            logits = runner(**self.encode(processor, rows, settings)).logits.numpy().astype(np.float64)
            labels = np.array(rows["label"])
            made.append((logits.argmax(1) == labels, (logits[:, 1] - logits[:, 0]) * (2 * labels - 1)))
        correct, margin = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return {"correct": correct.astype(np.int64), "margin": margin}
