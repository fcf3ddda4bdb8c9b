"""Classification of a text or a pair of texts, of images and of recordings: one label of several per example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.batching import batches, tokenize
from leptonsdk.evaluation.recordings import features
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

METRICS = (
    Metric("accuracy", ("correct",), binary=True, description="Share of examples whose top label is right."),
    Metric("f1", ("prediction", "label"), statistic="f1_macro", description="F1, averaged over the labels."),
    Metric("matthews", ("prediction", "label"), statistic="matthews", description="Matthews correlation."),
    Metric("log_loss", ("log_loss",), higher_is_better=False, description="Mean negative log likelihood of the label."),
)


class _Classification(Evaluator):
    options: ClassVar[frozenset[str] | None] = frozenset()
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        labels = label_ids(rows, settings.options.get("label2id", {}))
        return {**self.encode(processor, rows, settings), "labels": labels}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import torch
        from torch.nn import functional

        labels = label_ids(dataset, settings.options.get("label2id", {}))
        logits = []
        for _, rows in batches(dataset, settings, self.name):
            outputs = runner(**self.encode(processor, rows, settings))
            logits.append(outputs.logits.float())
        scores = torch.cat(logits)
        if scores.shape[1] <= labels.max():
            raise EvaluationError(
                f"a label is {int(labels.max())}, the model has {scores.shape[1]} classes", where=self.name
            )
        prediction = scores.argmax(dim=1)
        return {
            "correct": (prediction == labels).long().numpy(),
            "prediction": prediction.numpy(),
            "label": labels.numpy(),
            "log_loss": functional.cross_entropy(scores, labels, reduction="none").double().numpy(),
        }


class TextClassification(_Classification):
    """Accuracy, F1, Matthews correlation and log loss of a classifier of texts or text pairs."""

    name = "text-classification"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": ("sentence", "review", "content", "sentence1", "premise", "question", "question1"),
        "text_pair": ("sentence2", "hypothesis", "question2"),
        "label": ("labels", "target"),
    }
    required = (frozenset({"text", "label"}),)
    length_input = "input_ids"

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        return tokenize(processor, rows["text"], settings, rows.get("text_pair"))


class ImageClassification(_Classification):
    """Accuracy, F1, Matthews correlation and log loss of an image classifier."""

    name = "image-classification"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"image": ("img", "pixel_values"), "label": ("labels", "target")}
    required = (frozenset({"image", "label"}),)

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        if processor is None:
            raise DataError("the model has no image processor", hint="its folder lacks preprocessor_config.json")
        return dict(processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt"))


class AudioClassification(_Classification):
    """Accuracy, F1, Matthews correlation and log loss of a classifier of recordings (wav files)."""

    name = "audio-classification"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "audio": ("path", "file"),
        "label": ("labels", "target", "intent_class", "genre"),
    }
    required = (frozenset({"audio", "label"}),)
    files = frozenset({"audio"})

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        extractor = getattr(processor, "feature_extractor", processor)
        if extractor is None:
            raise DataError("the model has no feature extractor", hint="its folder lacks preprocessor_config.json")
        return features(extractor, rows["audio"], self.name)[0]


def label_ids(dataset: Dataset | Mapping[str, Sequence[Any]], label2id: Mapping[str, int]) -> Tensor:
    """Labels as the model's class numbers ``[n]``; names are translated by the model's ``label2id``."""
    import numpy as np
    import torch

    values = dataset["label"]
    if isinstance(values[0], str):
        names = {**label2id, **{name.lower(): number for name, number in label2id.items()}}
        unknown = sorted({value for value in values if value not in names and value.lower() not in names})
        if unknown and all(value.lstrip("-").isdigit() for value in unknown):
            return torch.from_numpy(np.array([int(value) for value in values], dtype=np.int64))
        if unknown:
            raise DataError(f"labels unknown to the model: {', '.join(unknown[:5])}", hint=f"it knows {list(label2id)}")
        return torch.tensor([names.get(value, names.get(value.lower(), -1)) for value in values])
    labels = torch.as_tensor(np.array(values, dtype=np.int64))
    if int(labels.min()) < 0:
        raise DataError("a label is negative", hint="the split is unlabelled: take another")
    return labels
